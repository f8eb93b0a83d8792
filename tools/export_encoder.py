"""Writes an int8 ONNX encoder for routers from the sentence-transformers directory of all-MiniLM-L6-v2.

tools/export_encoder.py DIRECTORY                               whole
tools/export_encoder.py DIRECTORY --first 2                     the first layers alone, as they are
tools/export_encoder.py DIRECTORY --layers 0 4 5 --corpus DATA  some layers, linear maps in place of the others
tools/export_encoder.py DIRECTORY --static 256 --corpus DATA    a vector for each token, learned from the whole one

DIRECTORY has config.json, model.safetensors and tokenizer.json; DATA is the data folder of docs/routers.md.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from edge_agent.config import xdg_dir
from edge_agent.errors import RouterError
from edge_agent.files import sha256
from edge_agent.training.embeddings import features_of
from edge_agent.training.encoder_cut import cut_encoder
from edge_agent.training.encoder_export import (
    EncoderFiles,
    first_layers,
    read_bert,
    source_card,
    whole_encoder,
    write_encoder,
)
from edge_agent.training.static_encoder import StaticSettings, static_encoder
from edge_agent.training.text_corpus import read_texts

CUT_TEXTS, STATIC_TEXTS = 10_000, 60_000


def main() -> None:
    chosen = parse()
    name, files, facts = make(chosen)
    card = source_card(chosen.source) | facts
    directory = write_encoder(files, chosen.output / "encoders", chosen.name or name, card, twins=chosen.float32)
    print(directory, (directory / "encoder.json").read_text(), "Next: tools/train_router.py", sep="\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("source", type=Path, help="sentence-transformers directory of a BERT with mean pooling")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--first", type=int, metavar="N", help="keep the first N layers")
    kind.add_argument("--layers", type=int, nargs="+", metavar="N", help="keep these layers, counted from 0")
    kind.add_argument("--static", type=int, metavar="DIMENSION", help="token vectors of this length, and no layers")
    add("--corpus", type=Path, default=Path(os.environ.get("EDGE_AGENT_DATA", "../shared/data")), help="data folder")
    add(
        "--texts", type=int, help=f"read at most so many; default {CUT_TEXTS:,} for layers, {STATIC_TEXTS:,} for static"
    )
    add("--output", type=Path, default=Path("router_models"), help="where encoders/<name>-<sha8> goes")
    add("--float32", type=Path, metavar="DIRECTORY", help="write the float32 twin there too")
    add("--name", help="default all-MiniLM-L6-v2, minilm-l<layers>, minilm-l<layers>-repaired or static-<dimension>")
    return parser.parse_args()


def make(chosen: argparse.Namespace) -> tuple[str, EncoderFiles, dict[str, Any]]:
    """A name, the files, and what the card says of how they were made."""
    if chosen.layers:
        texts = read_texts(chosen.corpus, chosen.texts or CUT_TEXTS)
        facts = {"layers": chosen.layers, "texts": described(texts)}
        return f"minilm-l{len(chosen.layers)}-repaired", cut_encoder(chosen.source, chosen.layers, texts), facts
    if chosen.first:
        return f"minilm-l{chosen.first}", first_layers(chosen.source, chosen.first), {"first_layers": chosen.first}
    whole = whole_encoder(chosen.source)
    if not chosen.static:
        return "all-MiniLM-L6-v2", whole, {}
    texts = read_texts(chosen.corpus, chosen.texts or STATIC_TEXTS)
    settings = StaticSettings(dimension=chosen.static)
    encoder, name = whole.encoder(), f"teacher-{sha256(whole.model)[:8]}"
    targets = features_of(encoder, texts, cache=xdg_dir("cache"), name=name)[:, : encoder.dimension]
    words = read_bert(chosen.source)[0]["embeddings.word_embeddings.weight"]
    facts = {"teacher_sha256": sha256(whole.model), "texts": described(texts), "quantization": "int8 per token"}
    with tqdm(desc="fitting", disable=None) as bar:
        files = static_encoder(whole, texts, targets, words, settings, progress=to(bar))
    return f"static-{chosen.static}", files, facts


def described(texts: list[str]) -> dict[str, Any]:
    """Enough to tell whether two encoders learned from the same texts."""
    return {"n": len(texts), "sha256": sha256("\0".join(texts).encode())}


def to(bar: Any) -> Callable[[int, int], None]:
    """A bar as `progress` of a function."""

    def progress(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return progress


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, RouterError) as error:
        sys.exit(f"export_encoder: {error}")
