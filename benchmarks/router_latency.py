"""The router's int8 encoder against a float32 one of the same shape: time from text to score, and memory.

python -m benchmarks.router_latency [--rounds N]

The float32 twin has random weights: neither time nor memory depends on their values.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.table import median, print_table, ratio, spread
from edge_agent.router import Encoder, RouterModel, find_bundle
from edge_agent.router_card import ENCODER_MODEL, RouterCard
from edge_agent.training.encoder_export import graph_of

TOKENS = (16, 64, 128)
SHAPE = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 12}
VOCABULARY, POSITIONS = 30522, 512

MEMORY = """
import sys
from pathlib import Path
import numpy, onnxruntime, tokenizers
from edge_agent.router import Encoder

def anonymous_kb():
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1])

before = anonymous_kb()
encoder = Encoder(Path(sys.argv[1]), inputs=sys.argv[2].split(","), max_tokens=128)
for n in range(1, 201):
    encoder.embed("the " * n)
print((anonymous_kb() - before) / 1024)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    bundle = find_bundle(None, Path("no state directory")).resolve()
    router = RouterModel.load(bundle)
    with tempfile.TemporaryDirectory() as temporary:
        directories = {"int8": bundle / router.card.encoder, "float32": Path(temporary)}
        (directories["float32"] / ENCODER_MODEL).write_bytes(float32_twin())
        shutil.copy(bundle / router.card.tokenizer, temporary)
        latency(router, with_encoder(router, directories["float32"]), rounds)
        memory(directories, router.card)


def float32_twin() -> bytes:
    """A BERT of the shipped encoder's shape with random weights."""
    random, size, wide = np.random.default_rng(0), SHAPE["hidden_size"], SHAPE["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (VOCABULARY, size),
        "embeddings.position_embeddings.weight": (POSITIONS, size),
        "embeddings.token_type_embeddings.weight": (2, size),
    }
    norms = ["embeddings"]
    for layer in range(SHAPE["num_hidden_layers"]):
        name = f"encoder.layer.{layer}"
        square = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
        linears = {linear: (size, size) for linear in [*square, f"{name}.attention.output.dense"]}
        linears |= {f"{name}.intermediate.dense": (wide, size), f"{name}.output.dense": (size, wide)}
        shapes |= {f"{linear}.weight": shape for linear, shape in linears.items()}
        shapes |= {f"{linear}.bias": shape[:1] for linear, shape in linears.items()}
        norms += [f"{name}.attention.output", f"{name}.output"]
    shapes |= {f"{norm}.LayerNorm.{part}": (size,) for norm in norms for part in ("weight", "bias")}
    tensors = {name: random.normal(0, 0.05, shape).astype(np.float32) for name, shape in shapes.items()}
    return graph_of(tensors, {**SHAPE, "layer_norm_eps": 1e-12}, quantized=False)


def with_encoder(router: RouterModel, directory: Path) -> RouterModel:
    """The same router with another encoder."""
    encoder = Encoder(directory, inputs=router.card.encoder_inputs, max_tokens=router.card.max_tokens)
    return RouterModel(router.card, encoder, router._head, router.path)


def latency(int8: RouterModel, float32: RouterModel, rounds: int) -> None:
    rows = []
    for tokens in TOKENS:
        text = "the " * (tokens - 2)  # and [CLS] and [SEP]
        times: dict[str, list[float]] = {"int8": [], "float32": []}
        for _ in range(rounds + 3):
            for name, router in (("int8", int8), ("float32", float32)):
                start = time.perf_counter()
                router.score_text(text)
                times[name].append(1000 * (time.perf_counter() - start))
        ours, theirs = times["int8"][3:], times["float32"][3:]  # the first three warm up
        rows.append([str(tokens), spread(ours, " ms", 2), spread(theirs, " ms", 2), f"{ratio(ours, theirs):.2f}"])
    print_table("Text to score, one thread, batch 1", ["tokens", "int8", "float32", "int8 / float32"], rows)


def memory(directories: dict[str, Path], card: RouterCard) -> None:
    anonymous: dict[str, list[float]] = {name: [] for name in directories}
    for _ in range(3):
        for name, directory in directories.items():
            command = [sys.executable, "-c", MEMORY, str(directory), ",".join(card.encoder_inputs)]
            anonymous[name].append(float(subprocess.run(command, check=True, capture_output=True).stdout))
    sizes = {name: [(path / ENCODER_MODEL).stat().st_size / 2**20] for name, path in directories.items()}
    rows = []
    for what, found in (("file", sizes), ("RssAnon after 200 texts, tokenizer included", anonymous)):
        ours, theirs = median(found["int8"]), median(found["float32"])
        rows.append([what, f"{ours:.1f} MiB", f"{theirs:.1f} MiB", f"{ours / theirs:.2f}"])
    print_table("Encoder", ["", "int8", "float32", "int8 / float32"], rows)


if __name__ == "__main__":
    main()
