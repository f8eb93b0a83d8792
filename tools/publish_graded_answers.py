"""Makes a label set of graded answers that others published: EVOUNA's verdicts and Home Assistant's evaluations.

The data folder holds entailment/answer_equivalence.jsonl and smart_home/commands.csv; no text of theirs is written.
"""

import argparse
import os
import sys
from pathlib import Path

from edge_agent.training import label_sources as sources
from edge_agent.training.graded_rows import graded_rows
from edge_agent.training.label_set import CARD, write_label_set
from edge_agent.training.router_export import load_encoder

SOURCES = {
    "evouna_nq": "EVOUNA, human verdicts on answers to Natural Questions, Apache-2.0",
    "evouna_tq": "EVOUNA, human verdicts on answers to TriviaQA, Apache-2.0",
    "smart_home": "Home Assistant's evaluations of models on commands, Apache-2.0",
}


def main() -> None:
    chosen = parse()
    embedders = {path.name: load_encoder(path).embed for path in chosen.encoder}
    trivia = sources.read_answer_equivalence(chosen.data / "entailment" / "answer_equivalence.jsonl")
    home = sources.read_smart_home(chosen.data / "smart_home" / "commands.csv")
    rows = graded_rows(trivia, embedders, *sources.ANSWER_PAIR)
    rows += graded_rows(home, embedders, " ".join(sources.HOME_WEAK), " ".join(sources.HOME_STRONG))
    systems = {"local": {"name": "the weak systems of the rows"}, "cloud": {"name": "the strong systems of the rows"}}
    directory = write_label_set(chosen.output, rows, {"models": systems, "sources": SOURCES})
    print(f"{directory}: {len(rows)} rows; see {directory / CARD}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(os.environ.get("EDGE_AGENT_DATA", "../shared/data"))
    parser.add_argument("output", type=Path, help="the directory of the set")
    parser.add_argument("--data", type=Path, default=data, help="data folder; default $EDGE_AGENT_DATA")
    parser.add_argument("--encoder", type=Path, nargs="+", required=True, help="directories of the encoders")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"publish_graded_answers: {error}")
