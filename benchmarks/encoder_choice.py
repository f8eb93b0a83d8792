"""What an encoder is worth and what it costs: APGR of the recipe's head on its embeddings against latency and bytes.

Cross-validated on train and dev rows of the label sets (the test split is left alone): every question is scored by a
head that saw no question of its template. Writes docs/evaluation/encoders.{png,csv}.

    python -m benchmarks.encoder_choice ENCODER ... [--seeds 0 1 2]
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import numpy as np

from benchmarks.router_latency import TOKENS
from benchmarks.table import median, print_table
from edge_agent.router import Encoder
from edge_agent.router_card import ENCODER_MODEL
from edge_agent.training.evaluation import Outcomes, figures, interval, resample_weights
from edge_agent.training.router_export import load_encoder
from edge_agent.training.router_recipe import RECIPE, read_parts
from edge_agent.training.router_training import Part, out_of_fold
from edge_agent.training.training_rows import joined

ROUNDS = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoders", type=Path, nargs="+", help="directories; the label sets have their embeddings")
    parser.add_argument("--sets", type=Path, default=Path("label_sets"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("docs/evaluation"))
    chosen = parser.parse_args()
    rows = [measured(path, chosen.sets, chosen.seeds) for path in chosen.encoders]
    print_table("Encoders", list(rows[0]), [[str(value) for value in row.values()] for row in rows])
    with (chosen.output / "encoders.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    plot(rows, chosen.output / "encoders.png")


def measured(path: Path, sets: Path, seeds: list[int]) -> dict[str, object]:
    """A row of the table."""
    parts = read_parts(sets, RECIPE, path)
    areas = {part.name: [] for part in parts}
    for seed in seeds:
        for name, area in part_areas(parts, seed).items():
            areas[name].append(area)
    apgr = {name: np.mean(found, axis=0) for name, found in areas.items()}
    mean = np.mean(list(apgr.values()), axis=0)
    encoder = load_encoder(path)
    return {
        "encoder": path.name,
        "MB": round((path / ENCODER_MODEL).stat().st_size / 1e6, 1),
        **{f"ms, {n} tokens": round(latency_ms(encoder, n), 2) for n in TOKENS},
        **{name: f"{values[0]:.3f}" for name, values in apgr.items()},
        "mean APGR": f"{mean[0]:.4f}",
        "95 %": "{:.3f} to {:.3f}".format(*interval(mean[1:])),
    }


def part_areas(parts: list[Part], seed: int) -> dict[str, np.ndarray]:
    """APGR on the train and dev rows of each part, for every resample of its questions."""
    rows = joined([part.rows for part in parts])
    target = np.concatenate([part.rows.targets[part.target] for part in parts])
    weight = np.repeat([part.weight for part in parts], [len(part.rows) for part in parts])
    examples, index = rows.examples(target, rows.split != "test", weight)
    raw = np.full(len(rows), np.nan)
    raw[index] = out_of_fold(examples, "logreg", seed)
    found, start = dict[str, np.ndarray](), 0
    for part in parts:
        here = slice(start, start + len(part.rows))
        found[part.name], start = area(part, raw[here]), here.stop
    return found


def area(part: Part, raw: np.ndarray) -> np.ndarray:
    """A part that teaches difficulty is measured by it: the larger model against one that is always right."""
    rows = part.rows
    known = ~np.isnan(raw) & rows.graded
    weak, strong = (rows.strong, np.ones(len(rows))) if part.target == "difficulty" else (rows.weak, rows.strong)
    weights = resample_weights(int(known.sum()))
    return figures(raw[known], Outcomes(weak[known], strong[known]), weights, ["apgr"])["apgr"]


def latency_ms(encoder: Encoder, n_tokens: int) -> float:
    """Median time from a text to its features."""
    text = " ".join(["light"] * (n_tokens - 2))
    for _ in range(3):
        encoder.features(text)
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        encoder.features(text)
        times.append(1000 * (time.perf_counter() - start))
    return median(times)


def plot(rows: list[dict[str, object]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.5), layout="constrained")
    for axis, column in zip(figure.subplots(1, 2, sharey=True), (f"ms, {TOKENS[1]} tokens", "MB"), strict=True):
        for row in rows:
            x, y = float(str(row[column])), float(str(row["mean APGR"]))
            axis.plot(x, y, "o")
            axis.annotate(str(row["encoder"]).rpartition("-")[0], (x, y), textcoords="offset points", xytext=(5, 4))
        axis.set(xlabel=column, ylabel="mean APGR, cross-validated", xscale="log")
        axis.margins(0.2)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
