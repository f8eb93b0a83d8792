"""How good a score routes: AUROC, the PGR curve, APGR, CPT and their intervals. Pure numpy; knows no model and no file.

For question i, `weak[i]` and `strong[i]` are how well the local and the cloud model answered it, in [0, 1] or points.
Questions go to the cloud from the highest score down; after a share c of them, PGR(c) is the part of the gap in quality
between the two models that has been recovered (RouteLLM, arXiv 2406.18665). Questions of equal score go together, and
between such groups the curve is a straight line: what a random order within the group gives on average.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Metric = Callable[[npt.NDArray[np.intp]], float]
"""A figure of the questions with these indices."""

TINY = 1e-12


@dataclass(frozen=True, slots=True)
class PgrCurve:
    """The points (cloud_share, pgr) of a router, from (0, 0) to (1, 1); NaN where the models are equally good."""

    cloud_share: Floats
    pgr: Floats


def pgr_curve(score: Floats, weak: Floats, strong: Floats) -> PgrCurve:
    """The performance gap recovered, at every cloud share the score can attain.

    :raises ValueError: when the strong model is worse than the weak one: the curve would be upside down.
    """
    order = np.argsort(-score, kind="stable")
    gain = np.concatenate([[0.0], np.cumsum((strong - weak)[order])])
    gap = gain[-1]
    if gap < -TINY:
        raise ValueError(
            f"expected the strong model to be better, found it worse by {-gap / len(score):.4f} a question"
        )
    last_of_group = np.append(np.diff(score[order]) != 0, True)
    ends = np.concatenate([[0], np.flatnonzero(last_of_group) + 1])
    pgr = gain[ends] / gap if gap > TINY else np.full(len(ends), np.nan)
    return PgrCurve(ends / len(score), pgr)


def apgr(curve: PgrCurve) -> float:
    """The area under the PGR curve: 0.5 for a random router, more than 1 is possible."""
    return float(np.sum(np.diff(curve.cloud_share) * (curve.pgr[1:] + curve.pgr[:-1]) / 2))


def cpt(curve: PgrCurve, target: float) -> float:
    """Call-performance threshold: the smallest cloud share, in percent, that recovers `target` of the gap; or NaN."""
    reached = np.flatnonzero(curve.pgr >= target - 1e-9)
    if not len(reached):
        return float("nan")
    end = reached[0]
    if end == 0:
        return 0.0
    share, pgr = curve.cloud_share[end - 1 : end + 1], curve.pgr[end - 1 : end + 1]
    part = min((target - pgr[0]) / (pgr[1] - pgr[0]), 1.0)
    return float(100 * (share[0] + part * (share[1] - share[0])))


def auroc(score: Floats, target: Floats) -> float:
    """Area under the ROC curve; a target in [0, 1] counts as that much of a positive and the rest of a negative.

    0.5 for a constant score; NaN without both kinds.
    """
    positives, negatives = float(np.sum(target)), float(np.sum(1 - target))
    if positives < TINY or negatives < TINY:
        return float("nan")
    _, group = np.unique(score, return_inverse=True)
    positive, negative = np.bincount(group, target), np.bincount(group, 1 - target)
    below = np.cumsum(negative) - negative
    return float(np.sum(positive * (below + negative / 2)) / (positives * negatives))


def bootstrap(metric: Metric, n_questions: int, *, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of a metric over resampled questions; resamples where it has no value are left out."""
    random = np.random.default_rng(seed)
    return _interval([metric(random.integers(0, n_questions, n_questions)) for _ in range(resamples)])


def random_band(weak: Floats, strong: Floats, *, routers: int = 1000, seed: int = 0) -> tuple[float, float]:
    """Where the APGR of 95 % of all random routers lies on these questions."""
    random = np.random.default_rng(seed)
    return _interval([apgr(pgr_curve(random.random(len(weak)), weak, strong)) for _ in range(routers)])


def apgr_metric(score: Floats, weak: Floats, strong: Floats) -> Metric:
    """APGR as a metric for `bootstrap`: NaN for a resample in which the strong model is not better."""

    def metric(rows: npt.NDArray[np.intp]) -> float:
        if np.sum(strong[rows] - weak[rows]) <= TINY:
            return float("nan")
        return apgr(pgr_curve(score[rows], weak[rows], strong[rows]))

    return metric


def routing_figures(
    score: Floats, words: Floats, weak: Floats, strong: Floats, cloud_wins: Floats, *, threshold: float
) -> dict[str, Any]:
    """Everything a card says of a score on some questions, beside the word count and the random router.

    The baseline may use its better direction, more or fewer words, chosen in hindsight; the score may not.
    """
    n, curve = len(score), pgr_curve(score, weak, strong)
    metric, baselines = apgr_metric(score, weak, strong), [apgr_metric(s, weak, strong) for s in (words, -words)]
    rows = np.arange(n)
    baseline = max(baselines, key=lambda words_metric: words_metric(rows))
    to_cloud = score >= threshold
    gap = float(np.sum(strong - weak))
    return _rounded(
        {
            "n": n,
            "weak": np.mean(weak),
            "strong": np.mean(strong),
            "cloud_wins": np.mean(cloud_wins),
            "auroc": auroc(score, cloud_wins),
            "auroc_95": bootstrap(lambda rows: auroc(score[rows], cloud_wins[rows]), n),
            "apgr": apgr(curve),
            "apgr_95": bootstrap(metric, n),
            "apgr_random_95": random_band(weak, strong),
            "cpt50": cpt(curve, 0.5),
            "cpt80": cpt(curve, 0.8),
            "apgr_more_words": baselines[0](rows),
            "apgr_fewer_words": baselines[1](rows),
            "auroc_more_words": auroc(words, cloud_wins),
            "apgr_over_words": metric(rows) - baseline(rows),
            "apgr_over_words_95": bootstrap(lambda rows: metric(rows) - baseline(rows), n),
            "cloud_share_at_threshold": np.mean(to_cloud),
            "pgr_at_threshold": np.sum((strong - weak)[to_cloud]) / gap if gap > TINY else float("nan"),
        }
    )


def _rounded(figures: dict[str, Any]) -> dict[str, Any]:
    """Plain numbers with four places, ready for JSON; None where there is no value."""

    def plain(value: Any) -> Any:
        if isinstance(value, tuple):
            return [plain(part) for part in value]
        return value if isinstance(value, int) else None if np.isnan(value) else round(float(value), 4)

    return {name: plain(value) for name, value in figures.items()}


def _interval(values: list[float]) -> tuple[float, float]:
    known = np.array(values)[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)
