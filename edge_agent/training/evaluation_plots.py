"""Draws the figures of docs/evaluation.md, each as PNG bytes and as the CSV behind it. Knows matplotlib.

Returned as {file name: bytes}; the caller writes them.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edge_agent.training.calibration import reliability
from edge_agent.training.evaluation import Floats, Outcomes, quality_curves, resample_weights
from edge_agent.training.evaluation_page import slug
from edge_agent.training.outcomes import OutcomeSet

SHARES = np.arange(101) / 100
COLOURS = ("tab:red", "tab:blue", "tab:orange", "tab:green", "tab:purple", "tab:brown")
BANDED = 2
"""Curves of a figure that get an interval: more of them hide each other."""
CURVE_RESAMPLES = 300

Files = dict[str, bytes]


def cost_quality(outcomes: OutcomeSet, scores: Mapping[str, Floats], *, oracle: str, seed: int = 0) -> Files:
    """Quality against cloud share for each score; the first ones with a 95 % band, the random router with its own.

    :param oracle: the name of the score that is drawn as the upper limit.
    """
    numbers = Outcomes(outcomes.weak, outcomes.strong)
    weights = resample_weights(len(outcomes.weak), resamples=CURVE_RESAMPLES, seed=seed)
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    rows: list[tuple[str, float, float, float, float]] = []
    colours = iter(COLOURS)
    for place, (name, score) in enumerate(scores.items()):
        banded = place < BANDED and name != oracle
        curves = quality_curves(score, numbers, weights if banded else weights[:1], SHARES)
        low, high = np.percentile(curves[1:], [2.5, 97.5], axis=0) if banded else (curves[0], curves[0])
        colour = "black" if name == oracle else next(colours, "tab:grey")
        axis.plot(100 * SHARES, curves[0], ":" if name == oracle else "-", label=name, linewidth=1.4, color=colour)
        if banded:
            axis.fill_between(100 * SHARES, low, high, color=colour, alpha=0.12, linewidth=0)
        rows += zip([name] * len(SHARES), SHARES, curves[0], low, high, strict=True)
    rows += _random_curve(axis, outcomes)
    axis.set(title=outcomes.name, xlabel="questions that go to the cloud, %", ylabel="mean quality")
    axis.legend(fontsize=7)
    name = f"curve-{slug(outcomes.name)}"
    return {f"{name}.png": _png(figure), f"{name}.csv": _csv("router,cloud_share,quality,low,high", rows)}


def _random_curve(axis: Axes, outcomes: OutcomeSet) -> list[tuple[str, float, float, float, float]]:
    """A straight line; at share c one random router is off by sd(gain) sqrt(c (1 - c) / n)."""
    gain = outcomes.strong - outcomes.weak
    middle = float(np.mean(outcomes.weak)) + SHARES * float(np.mean(gain))
    spread = 1.96 * float(np.std(gain)) * np.sqrt(SHARES * (1 - SHARES) / len(gain))
    axis.plot(100 * SHARES, middle, color="tab:grey", linestyle="--", linewidth=1, label="random")
    axis.fill_between(100 * SHARES, middle - spread, middle + spread, color="tab:grey", alpha=0.15, linewidth=0)
    return list(zip(["random"] * len(SHARES), SHARES, middle, middle - spread, middle + spread, strict=True))


def scores_by_outcome(outcomes: OutcomeSet, score: Floats, *, bins: int = 15) -> Files:
    """Reliability of a score as P(cloud does better), beside a histogram of it for each of the three outcomes."""
    gain = outcomes.strong - outcomes.weak
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    curve = reliability(score, (gain > 0).astype(float), bins=bins)
    left.plot([0, 1], [0, 1], color="tab:grey", linestyle="--", linewidth=1)
    left.plot(curve.mean_probability, curve.mean_target, marker="o", color="tab:red")
    left.set(title="reliability", xlabel="score", ylabel="share of questions the cloud does better on")
    kinds = {"cloud better": gain > 0, "equal": gain == 0, "local better": gain < 0}
    edges = np.linspace(min(0.0, float(score.min())), max(1.0, float(score.max())), 41)
    counts = {name: np.histogram(score[chosen], edges)[0] for name, chosen in kinds.items()}
    for (name, count), colour in zip(counts.items(), COLOURS, strict=False):
        right.stairs(count / max(count.sum(), 1), edges, label=f"{name} ({count.sum():,})", color=colour)
    right.set(title="scores by outcome", xlabel="score", ylabel="share of those questions")
    right.legend(fontsize=8)
    name = slug(outcomes.name)
    points = zip(curve.mean_probability, curve.mean_target, curve.count, strict=True)
    histogram = zip(edges[:-1], edges[1:], *counts.values(), strict=True)
    return {
        f"scores-{name}.png": _png(figure),
        f"reliability-{name}.csv": _csv("mean_score,share_cloud_better,questions", points),
        f"histogram-{name}.csv": _csv("from,to,cloud_better,equal,local_better", histogram),
    }


def quality_by_samples(sets: Sequence[Mapping[str, Any]]) -> Files:
    """APGR against the number of training samples, a panel for each set, a line for each label source and head.

    Nothing when no label source and head was trained on two numbers of samples.
    """
    rows = [
        (one["name"], row["label_source"], row["head"], row["n_train"], *row["figures"]["apgr"])
        for one in sets
        for row in one["rows"]
        if "head" in row and not row["is_shipped"]
    ]
    lines: dict[tuple[str, str, str], list[tuple[Any, ...]]] = defaultdict(list)
    for row in rows:
        lines[row[:3]].append(row[3:])
    lines = {key: sorted(points) for key, points in lines.items() if len({point[0] for point in points}) > 1}
    if not lines:
        return {}
    names = list(dict.fromkeys(name for name, _, _ in lines))
    figure = Figure(figsize=(4.6 * len(names), 4), layout="constrained")
    bands = {one["name"]: one["random"]["figures"]["apgr"] for one in sets if one["rows"]}
    for name, axis in zip(names, figure.subplots(1, len(names), squeeze=False)[0], strict=True):
        axis.axhspan(*bands[name][1:], color="tab:grey", alpha=0.2, linewidth=0, label="95 % of random routers")
        for (_, source, head), points in ((key, points) for key, points in lines.items() if key[0] == name):
            samples, apgr, low, high = np.array(points, dtype=float).T
            axis.errorbar(samples, apgr, [apgr - low, high - apgr], marker="o", capsize=2, label=f"{source}, {head}")
        axis.set(title=name, xlabel="training samples", ylabel="APGR")
        axis.legend(fontsize=6)
    header = "set,label_source,head,n_train,apgr,low,high"
    return {"samples.png": _png(figure), "samples.csv": _csv(header, rows)}


def _png(figure: Figure) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110, metadata={"Software": None})
    return data.getvalue()


def _csv(header: str, rows: Iterable[Sequence[Any]]) -> bytes:
    def cell(value: Any) -> str:
        if isinstance(value, float):  # numpy's too
            return f"{value:.6g}"
        return f'"{value}"' if "," in str(value) else str(value)

    return "\n".join([header, *(",".join(map(cell, row)) for row in rows)]).encode() + b"\n"
