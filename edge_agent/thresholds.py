"""Chooses thresholds on `score` by what they would have done: cloud share, money or quality. Pure; reads no file.

The rule is policy.escalates: a question goes to the cloud when score >= threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from edge_agent.errors import ThresholdError

Floats = npt.NDArray[np.float64]
Measure = Literal["quality", "pgr"]
Interval = tuple[float, float]
_Figures = tuple[float | None, Interval | None, float | None, Interval | None]

DECIMALS = 4
"""Thresholds have no more: what is printed is exactly what was measured."""
TINY = 1e-9
SHOWN_SHARES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Traffic:
    """Questions that a threshold decided about, and what each would cost in the cloud."""

    scores: Floats
    """(n,)"""
    costs: Floats | None
    """(n,), in the currency of the prices; None when no prices are known."""
    days: float
    """The time in which they came."""
    fixed_cost: float = 0.0
    """In the same time, of questions that go to the cloud whatever the threshold is."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """Questions with the quality of both models' answers, in [0, 1]."""

    scores: Floats
    local: Floats
    cloud: Floats
    acceptable: Floats | None = None
    """The router's second head; None when it has none."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a threshold would have done; None where nothing is known."""

    threshold: float
    cloud_share: float
    cost_per_day: float | None
    quality: float | None
    """Mean quality of the answers, as a share of what always asking the cloud gives."""
    quality_95: Interval | None
    pgr: float | None
    """Part of the gap in quality between the two models that is recovered."""
    pgr_95: Interval | None


def by_cloud_share(scores: Floats, share: float) -> float:
    """The smallest threshold that sends at most this share of the questions to the cloud.

    :raises ThresholdError: when none does, because more of them have a score of 1.
    """
    thresholds = candidates(scores)
    fits = np.flatnonzero(cloud_shares(scores, thresholds) <= share + TINY)
    if not len(fits):
        raise ThresholdError(f"no threshold sends only {share:g} to the cloud: more questions have a score of 1")
    return float(thresholds[fits[0]])


def by_money(traffic: Traffic, per_day: float) -> float:
    """The smallest threshold that costs at most so much a day.

    :raises ThresholdError: when what goes to the cloud anyway costs more.
    """
    thresholds = candidates(traffic.scores)
    costs = _costs_per_day(traffic, thresholds)
    fits = np.flatnonzero(costs <= per_day + TINY)
    if not len(fits):
        fixed = traffic.fixed_cost / traffic.days
        why = f"{costs[-1]:.4g} a day is the least, {fixed:.4g} of it for questions no threshold decides about"
        raise ThresholdError(f"no threshold costs only {per_day:g} a day: {why}; allow more money")
    return float(thresholds[fits[0]])


def by_quality(labelled: Labelled, target: float, measure: Measure = "quality") -> float:
    """The largest threshold, so the smallest cloud share, at which a measure reaches its target.

    :raises ThresholdError: when it never does, or when the cloud model is no better than the local one.
    """
    local, cloud = float(labelled.local.mean()), float(labelled.cloud.mean())
    if cloud <= local:
        why = f"the cloud model ({cloud:.3f}) is no better than the local one ({local:.3f}) on these labels"
        raise ThresholdError(f"no threshold can be chosen by quality: {why}; label more questions, or stay local")
    thresholds = candidates(labelled.scores)
    values = np.array([_measure(measure, *_means(labelled, threshold)) for threshold in thresholds])
    fits = np.flatnonzero(values >= target - TINY)
    if not len(fits):
        best = f"{values.max():.3f} is the most, at {thresholds[values.argmax()]:g}"
        raise ThresholdError(f"no threshold reaches a {measure} of {target:g}: {best}; ask for less")
    return float(thresholds[fits[-1]])


def outcomes(
    thresholds: Sequence[float], scores: Floats, traffic: Traffic | None, labelled: Labelled | None, *, seed: int = 0
) -> list[Outcome]:
    """What each threshold would have done: shares of `scores`, money of the traffic, quality on the labels."""
    shares = cloud_shares(scores, np.array(thresholds))
    costs: Sequence[float | None] = [None] * len(thresholds)
    if traffic and traffic.costs is not None:
        costs = _costs_per_day(traffic, np.array(thresholds)).tolist()
    qualities = _quality_figures(labelled, thresholds, seed) if labelled else [(None, None, None, None)] * len(shares)
    return [
        Outcome(threshold, share, cost, *figures)
        for threshold, share, cost, figures in zip(thresholds, shares.tolist(), costs, qualities, strict=True)
    ]


def shown_beside(chosen: float, scores: Floats) -> list[float]:
    """Thresholds worth a look, ascending: the chosen one, its neighbours, and some over the whole range."""
    thresholds = candidates(scores)
    at = int(np.searchsorted(thresholds, chosen))
    step = max(len(thresholds) // 50, 1)
    near = thresholds[np.clip([at - 2 * step, at - step, at + step, at + 2 * step], 0, len(thresholds) - 1)]
    shares = cloud_shares(scores, thresholds)
    spread = [thresholds[np.flatnonzero(shares <= share + TINY)[:1]] for share in SHOWN_SHARES]
    return sorted({chosen, *near.tolist(), *np.concatenate(spread).tolist()})


def candidates(scores: Floats) -> Floats:
    """Every threshold that makes a difference, ascending: the last one sends nothing to the cloud, if one can."""
    cells = np.unique(np.floor(np.asarray(scores, dtype=np.float64) * 10**DECIMALS + TINY))
    return np.asarray(np.minimum(np.append(cells, cells[-1] + 1) / 10**DECIMALS, 1.0))


def cloud_shares(scores: Floats, thresholds: Floats) -> Floats:
    """The share of the questions that reaches each threshold."""
    return np.asarray(1 - np.searchsorted(np.sort(scores), thresholds, side="left") / len(scores))


def _costs_per_day(traffic: Traffic, thresholds: Floats) -> Floats:
    if traffic.costs is None:
        raise ThresholdError("a threshold by money needs the prices of the cloud model; name them")
    order = np.argsort(traffic.scores, kind="stable")
    below = np.concatenate([[0.0], np.cumsum(traffic.costs[order])])
    reached = np.searchsorted(traffic.scores[order], thresholds, side="left")
    return np.asarray((traffic.fixed_cost + below[-1] - below[reached]) / traffic.days)


def _means(labelled: Labelled, threshold: float) -> tuple[Floats, Floats, Floats]:
    """Mean quality of the routed, the local and the cloud answers."""
    routed = np.where(labelled.scores >= threshold, labelled.cloud, labelled.local)
    return routed.mean(), labelled.local.mean(), labelled.cloud.mean()


def _measure(measure: Measure, routed: Floats, local: Floats, cloud: Floats) -> Floats:
    """NaN where the cloud model is not better (pgr) or never right (quality)."""
    part, whole = (routed, cloud) if measure == "quality" else (routed - local, cloud - local)
    return np.where(whole > TINY, part / np.where(whole > TINY, whole, 1.0), np.nan)


def _quality_figures(labelled: Labelled, thresholds: Sequence[float], seed: int) -> list[_Figures]:
    """Quality and PGR of each threshold, each with its 95 % bootstrap interval; all see the same resamples."""
    draw, n = np.random.default_rng(seed), len(labelled.scores)
    above = labelled.scores[:, None] >= np.array(thresholds)
    routed = np.where(above, labelled.cloud[:, None], labelled.local[:, None])
    columns = np.column_stack([routed, labelled.local, labelled.cloud])  # (n, thresholds + 2)
    counts = (np.bincount(draw.integers(0, n, n), minlength=n) for _ in range(RESAMPLES))
    means = np.array([columns.mean(axis=0), *(count @ columns / n for count in counts)])
    return [
        (*_figure("quality", means[:, [i, -2, -1]]), *_figure("pgr", means[:, [i, -2, -1]]))
        for i in range(len(thresholds))
    ]


def _figure(measure: Measure, means: Floats) -> tuple[float | None, Interval | None]:
    """A measure, from the first row, and its interval; resamples where it has no value are left out."""
    value, *resampled = _measure(measure, *means.T).tolist()
    known = [other for other in resampled if not np.isnan(other)]
    if np.isnan(value) or not known:
        return None, None
    low, high = np.percentile(known, [2.5, 97.5])
    return value, (float(low), float(high))
