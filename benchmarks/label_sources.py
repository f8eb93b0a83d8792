"""Which labels teach a router best: every source with every head, at equal data, cross-validated on train and dev.

Every question is scored by a head that saw no question of its template; the test split is left alone. Figures are means
over the seeds, which decide folds and random starts; intervals resample the questions, in pairs between rows.

    python -m benchmarks.label_sources [--encoder NAME] [--seeds 0 1 2 3 4]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from edge_agent.training.candidates import PAIR_SOURCES, PREFERENCE
from edge_agent.training.evaluation import Floats, Outcomes, figures, interval, random_band, resample_weights
from edge_agent.training.router_heads import HEADS
from edge_agent.training.router_training import WORDS, out_of_fold
from edge_agent.training.training_rows import TrainingRows, read_training_rows

RESAMPLES = 1000
BASE = "correctness"
"""The accuracy labels of the TO-Router: what the others are compared with."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=Path, default=Path("label_sets/qwen2.5-coder-0.5b-1.5b"))
    parser.add_argument("--preferences", type=Path, default=Path("label_sets/graded-answers"))
    parser.add_argument("--encoder", default="minilm-l2-dc4143f6")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    chosen = parser.parse_args()
    rows = read_training_rows(chosen.labels, chosen.encoder)
    known = rows.graded & (rows.split != "test")
    for source in PAIR_SOURCES:
        known &= ~np.isnan(rows.targets[source])
    outcomes = Outcomes(rows.weak[known], rows.strong[known])
    weights = resample_weights(int(known.sum()), resamples=RESAMPLES)
    print(f"{known.sum()} questions, random router {span(random_band(outcomes.weak, outcomes.strong))}")
    words = figures(rows.features[known, WORDS].astype(float), outcomes, weights, ["apgr"])["apgr"]
    print(f"| number of words | - | {words[0]:.3f} {span(interval(words[1:]))} | |")
    for head in HEADS:
        base = area(rows, known, BASE, head, chosen.seeds, outcomes, weights)
        for source in PAIR_SOURCES:
            found = area(rows, known, source, head, chosen.seeds, outcomes, weights)
            show(source, head, found, base)
        others = read_training_rows(chosen.preferences, chosen.encoder)
        found = transferred(others, rows, known, head, chosen.seeds, outcomes, weights)
        show(PREFERENCE, head, found, base)


def area(
    rows: TrainingRows, known: np.ndarray, source: str, head: str, seeds: list[int], outcomes: Outcomes, weights: Floats
) -> Floats:
    """APGR, mean over the seeds, for each resample."""
    examples, _ = rows.examples(source, known)
    areas = [figures(out_of_fold(examples, head, s), outcomes, weights, ["apgr"])["apgr"] for s in seeds]
    return np.mean(areas, axis=0)


def transferred(
    others: TrainingRows, rows: TrainingRows, known: np.ndarray, head: str, seeds: list[int], outcomes: Outcomes,
    weights: Floats,
) -> Floats:  # fmt: skip
    """The same for heads trained on as many questions of another set."""
    areas, n = [], int(known.sum() * 0.8)
    for seed in seeds:
        drawn = np.zeros(len(others), dtype=bool)
        drawn[np.random.default_rng(seed).permutation(np.flatnonzero(others.split == "train"))[:n]] = True
        examples, _ = others.examples("correctness, soft", drawn)
        raw = HEADS[head](examples, seed).raw(rows.features[known])
        areas.append(figures(raw, outcomes, weights, ["apgr"])["apgr"])
    return np.mean(areas, axis=0)


def show(source: str, head: str, found: Floats, base: Floats) -> None:
    over = found - base
    columns = [source, head, *(f"{x[0]:.3f} {span(interval(x[1:]))}" for x in (found, over))]
    print(f"| {' | '.join(columns)} |", flush=True)


def span(ends: tuple[float, float]) -> str:
    return f"[{ends[0]:.3f}, {ends[1]:.3f}]"


if __name__ == "__main__":
    main()
