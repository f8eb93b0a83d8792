"""Turns raw scores into probabilities and says how good they are as such. Pure numpy; trains no head, reads no file.

Platt: sigmoid(slope * raw + offset), raw any real number, best a logit. Isotonic: the non-decreasing fit by least
squares, kept as points; between two points it is a straight line, outside them constant, so

    y(x) = y_0 + sum_i (y_{i+1} - y_i) / (x_{i+1} - x_i) * clip(x - x_i, 0, x_{i+1} - x_i)

which any graph can compute. Fit on questions the head was not trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edge_agent.training.evaluation import Floats, auroc
from edge_agent.training.logistic import log_loss, platt, sigmoid

Method = Literal["platt", "isotonic"]
Bins = Literal["mass", "width"]

ISOTONIC_FROM = 1000
"""Labels from which isotonic is chosen: with fewer it follows the noise."""
CLIP = 1e-4
"""Probabilities stay this far from 0 and 1: no finite sample shows that an answer is never wrong."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """A map from raw scores to probabilities in [CLIP, 1 - CLIP]; never decreasing."""

    method: Method
    n: int
    """Labels it was fitted on."""
    slope: float = 0.0
    offset: float = 0.0
    """Of `platt`."""
    points: tuple[tuple[float, float], ...] = ()
    """Of `isotonic`: (raw score, probability), raw scores strictly increasing; linear between them."""

    def apply(self, raw_scores: Floats) -> Floats:
        """Probabilities of raw scores, the same shape."""
        if self.method == "platt":
            probabilities = sigmoid(self.slope * np.asarray(raw_scores, dtype=np.float64) + self.offset)
        else:
            x, y = np.array(self.points).T
            probabilities = np.interp(raw_scores, x, y)
        return np.clip(probabilities, CLIP, 1 - CLIP)

    def to_card(self) -> dict[str, Any]:
        """For `calibration` of a router's card."""
        card: dict[str, Any] = {"method": self.method, "n": self.n, "clip": [CLIP, 1 - CLIP]}
        if self.method == "platt":
            return card | {"slope": round(self.slope, 6), "offset": round(self.offset, 6)}
        return card | {"points": [[round(x, 6), round(y, 6)] for x, y in self.points], "between_points": "linear"}


@dataclass(frozen=True, slots=True)
class Reliability:
    """What was said and what came true, in bins of probability; bins without a question are left out."""

    mean_probability: Floats
    mean_target: Floats
    count: npt.NDArray[np.intp]


def fit_calibration(
    raw_scores: Floats, targets: Floats, weights: Floats | None = None, *, method: Method | None = None
) -> Calibration:
    """The map that fits targets in [0, 1] best; the number of labels chooses the method unless it is named.

    :raises ValueError: for NaN, for targets outside [0, 1], and when all are 0 or all are 1.
    """
    raw, targets = np.asarray(raw_scores, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    weights = np.ones(len(raw)) if weights is None else np.asarray(weights, dtype=np.float64)
    _check(raw, targets)
    if (method or ("platt" if len(raw) < ISOTONIC_FROM else "isotonic")) == "platt":
        slope, offset = platt(raw, targets, weights)
        return Calibration("platt", len(raw), slope, offset)
    return Calibration("isotonic", len(raw), points=_isotonic_points(raw, targets, weights))


def isotonic(targets: Floats, weights: Floats | None = None) -> Floats:
    """The non-decreasing values nearest to targets that are in the order of their scores, by least squares.

    Pool adjacent violators (Barlow et al. 1972): neighbours that fall become their mean until none does.
    """
    blocks: list[tuple[float, float, int]] = []  # (mean, weight, number of targets)
    ones = np.ones(len(targets)) if weights is None else weights
    for target, weight in zip(np.asarray(targets, dtype=float).tolist(), ones.tolist(), strict=True):
        block = (target, weight, 1)
        while blocks and blocks[-1][0] >= block[0]:
            mean, before, count = blocks.pop()
            total = before + block[1]
            block = ((mean * before + block[0] * block[1]) / total, total, count + block[2])
        blocks.append(block)
    return np.repeat([mean for mean, _, _ in blocks], [count for _, _, count in blocks])


def brier(probabilities: Floats, targets: Floats) -> float:
    """Mean squared difference; 0 is perfect, 0.25 is what always saying one half gives."""
    return float(np.mean((probabilities - targets) ** 2))


def reliability(probabilities: Floats, targets: Floats, *, bins: int = 15, by: Bins = "mass") -> Reliability:
    """Means of probability and target in bins of equal mass or equal width; equal probabilities share a bin."""
    edges = _bins_of_mass(probabilities, bins) if by == "mass" else np.floor(probabilities * bins)
    _, bin_of = np.unique(np.minimum(edges, bins - 1), return_inverse=True)
    count = np.bincount(bin_of)
    means = [np.bincount(bin_of, values) / count for values in (probabilities, targets)]
    return Reliability(means[0], means[1], count)


def ece(probabilities: Floats, targets: Floats, *, bins: int = 15, by: Bins = "mass") -> float:
    """Expected calibration error: mean distance of the two means of a bin, weighted by its questions."""
    curve = reliability(probabilities, targets, bins=bins, by=by)
    return float(np.average(np.abs(curve.mean_probability - curve.mean_target), weights=curve.count))


def calibration_figures(probabilities: Floats, targets: Floats) -> dict[str, float]:
    """What a card says of probabilities on questions that nothing was fitted on: n, nll (nats), brier, ece, auroc."""
    figures = {
        "nll": log_loss(probabilities, targets, np.ones(len(targets))),
        "brier": brier(probabilities, targets),
        "ece": ece(probabilities, targets),
        "auroc": auroc(probabilities, targets),
    }
    return {"n": len(targets)} | {name: round(value, 4) for name, value in figures.items()}


def _isotonic_points(raw: Floats, targets: Floats, weights: Floats) -> tuple[tuple[float, float], ...]:
    """Both ends of every level of the fit, so that the fitted values come out at every raw score it was fitted on."""
    x, group = np.unique(raw, return_inverse=True)
    weight = np.bincount(group, weights).astype(np.float64)
    y = np.clip(isotonic(np.bincount(group, weights * targets) / weight, weight), CLIP, 1 - CLIP)
    inside = np.zeros(len(y), dtype=bool)
    inside[1:-1] = (y[1:-1] == y[:-2]) & (y[1:-1] == y[2:])
    return _pairs(x[~inside].tolist(), y[~inside].tolist())


def _pairs(x: Sequence[float], y: Sequence[float]) -> tuple[tuple[float, float], ...]:
    return tuple(zip(x, y, strict=True))


def _bins_of_mass(probabilities: Floats, bins: int) -> Floats:
    """The bin of the middle of each group of equal values: no order of the rows changes it."""
    _, group, count = np.unique(probabilities, return_inverse=True, return_counts=True)
    middle = (np.cumsum(count) - count / 2) / len(probabilities)
    return np.floor(middle * bins)[group]


def _check(raw: Floats, targets: Floats) -> None:
    if len(raw) != len(targets) or not len(raw):
        raise ValueError(f"calibration: expected a target for each of {len(raw)} scores, found {len(targets)}")
    unusable = ~(np.isfinite(raw) & (targets >= 0) & (targets <= 1))  # NaN is neither
    if unusable.any():
        first = int(np.argmax(unusable))
        found = f"score {raw[first]} with target {targets[first]} in row {first}"
        raise ValueError(f"calibration: expected finite scores and targets in [0, 1], found {found}; leave it out")
    if targets.max() == 0 or targets.min() == 1:
        found = f"{len(targets)} targets that are all {targets[0]:g}"
        raise ValueError(f"calibration: expected both outcomes, found {found}; label more questions")
