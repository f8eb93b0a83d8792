"""Fine-tunes a sentence encoder to tell answers that mean the same, and writes router_models/entailment/<version>.

tools/train_entailment.py DIRECTORY   (config.json, model.safetensors, tokenizer.json of all-MiniLM-L6-v2)

The data folder holds entailment/nli.jsonl and entailment/answer_equivalence.jsonl. Needs the extra [finetune]; half an
hour on one core with bfloat16. Killed, it continues where it was. See docs/entailment.md.
"""

import argparse
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

from edge_agent.config import xdg_dir
from edge_agent.errors import EdgeAgentError
from edge_agent.training import entailment_pairs as data
from edge_agent.training import entailment_release as release
from edge_agent.training.entailment import EntailmentModel
from edge_agent.training.equivalences import EmbeddingEquivalence
from edge_agent.training.router_export import load_encoder


def main() -> None:
    chosen = parse()
    from edge_agent.training.entailment_training import Settings, train  # torch

    settings, folder = Settings(seed=chosen.seed), chosen.data / "entailment"
    answers, sentences = data.read_answers(folder / "answer_equivalence.jsonl"), data.read_nli(folder / "nli.jsonl")
    epochs = data.training_epochs(answers, sentences, epochs=settings.epochs, seed=settings.seed)
    chosen.work.mkdir(parents=True, exist_ok=True)
    weights = train(chosen.source, epochs, settings, checkpoint=chosen.work / "checkpoint.pt", n_threads=chosen.threads)
    int8, float32 = release.write_graphs(weights, chosen.source, chosen.work, max_tokens=settings.max_tokens)
    model, twin = EntailmentModel.load(int8, cache=chosen.work / "verdicts.sqlite"), EntailmentModel.load(float32)
    print("trained; measuring", flush=True)
    choice = release.choose(model, answers, EmbeddingEquivalence(load_encoder(chosen.encoder)))
    about = {
        **release.base(chosen.source, chosen.name),
        "settings": asdict(settings),
        **release.counts(epochs, answers),
        "parity": release.parity(model, twin, answers),
        "nli_accuracy": release.nli_accuracy(model, data.unseen_sentences(sentences)),
    }
    version = chosen.version or time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    path = release.write_release(int8, chosen.output / "entailment", version, choice, about)
    print(release.table(choice), path, "Next: remove the version it replaces", sep="\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    folder = Path(os.environ.get("EDGE_AGENT_DATA", "../shared/data"))
    encoder = next(iter(sorted(Path("router_models/encoders").glob("*/"))), Path("router_models/encoders"))
    add = parser.add_argument
    add("source", type=Path, help="sentence-transformers directory of a BERT")
    add("--name", default="all-MiniLM-L6-v2", help="its name, for the card")
    add("--data", type=Path, default=folder, help="data folder; default $EDGE_AGENT_DATA or ../shared/data")
    add("--output", type=Path, default=Path("router_models"), help="where entailment/<version>/ goes")
    add("--encoder", type=Path, default=encoder, help="the router's encoder, for comparison")
    add("--work", type=Path, default=xdg_dir("cache") / "entailment", help="checkpoints; default in the cache")
    add("--version", help="name of the model; default the time")
    add("--threads", type=int, default=os.cpu_count() or 1)
    add("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, EdgeAgentError) as error:
        sys.exit(f"train_entailment: {error}")
    except ModuleNotFoundError as error:
        sys.exit(f"train_entailment: {error}; install the extra: pip install 'edge-agent[training,finetune]'")
