"""Draws labels: both models' entropies, and who is the more certain one. Knows matplotlib."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure


def entropy_histograms(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A PNG of three panels: the entropies of the local and of the cloud model, in nats, and the soft labels."""
    labelled = [row for row in rows if not row["insufficient"]]
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, side in zip(axes, ("local", "cloud"), strict=False):
        for name, colour, chosen in _by_correctness(labelled, side):
            axis.hist([row[f"entropy_{side}"] for row in chosen], bins=24, range=(0, 2.4), alpha=0.6,
                      color=colour, label=f"{name} ({len(chosen)})")  # fmt: skip
        axis.set(title=f"{side} model", xlabel="semantic entropy, nats", ylabel="queries")
        if labelled:
            axis.legend(fontsize=8)
    axes[2].hist([row["strong_wins_soft"] for row in labelled], bins=20, range=(0, 1), color="tab:grey")
    axes[2].set(title="label", xlabel="P(cloud model is the more certain one)", ylabel="queries")
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    return png.getvalue()


def _by_correctness(rows: Sequence[Mapping[str, Any]], side: str) -> list[tuple[str, str, list[Mapping[str, Any]]]]:
    kinds = [("right", "tab:blue", True), ("wrong", "tab:red", False), ("not graded", "tab:grey", None)]
    found = [(name, colour, [row for row in rows if row[f"correct_{side}"] is value]) for name, colour, value in kinds]
    return [kind for kind in found if kind[2]]
