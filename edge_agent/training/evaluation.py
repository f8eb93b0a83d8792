"""How good a score routes: AUROC, the PGR curve, APGR, CPT, cost, their intervals. Pure numpy; knows no model, no file.

For question i, `weak[i]` and `strong[i]` are how well the local and the cloud model answered it, in [0, 1] or points.
Questions go to the cloud from the highest score down; after a share c of them, PGR(c) is the part of the gap in quality
between the two models that has been recovered (RouteLLM, arXiv 2406.18665). Questions of equal score go together, and
between such groups the curve is a straight line: what a random order within the group gives on average.

A resample of the questions is a row of weights, how often each question was drawn, so that a score is sorted once and
every figure of a thousand resamples is a sum along that order. Two scores on the same rows are compared in pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Weights = npt.NDArray[Any]
Metric = Callable[[npt.NDArray[np.intp]], float]
"""A figure of the questions with these indices."""

TINY = 1e-12
ROWS_AT_ONCE = 32
"""Resamples of 14,000 questions that fit a processor's cache together."""

FIGURES = ("cpt50", "cpt80", "apgr", "apgr_10", "auroc", "apgr_within", "auroc_within", "cost50", "cost80")


@dataclass(frozen=True, slots=True)
class PgrCurve:
    """The points (cloud_share, pgr) of a router, from (0, 0) to (1, 1); NaN where the models are equally good."""

    cloud_share: Floats
    pgr: Floats


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How both models did on some questions, and what each answer cost; all of shape (questions,)."""

    weak: Floats
    strong: Floats
    group: npt.NDArray[np.intp] | None = None
    """The data set or subject of each question, for figures within groups."""
    local_cost: Floats | None = None
    """Currency; cost figures are NaN without it."""
    cloud_cost: Floats | None = None

    @property
    def gain(self) -> Floats:
        """What the cloud adds, question by question; negative where the local model did better."""
        return self.strong - self.weak

    @property
    def unusable(self) -> str | None:
        """Why nothing can be recovered on these questions; None when something can."""
        gap = float(np.mean(self.gain)) if len(self.weak) else 0.0
        if gap > TINY:
            return None
        found = f"worse by {-gap:.4f} a question" if gap < -TINY else "just as good as the weak one"
        return f"expected the strong model to be better, found it {found}"


def pgr_curve(score: Floats, weak: Floats, strong: Floats) -> PgrCurve:
    """The performance gap recovered, at every cloud share the score can attain.

    :raises ValueError: when the strong model is worse than the weak one: the curve would be upside down.
    """
    outcomes = Outcomes(weak, strong)
    if np.sum(outcomes.gain) < -TINY:
        raise ValueError(str(outcomes.unusable))
    share, pgr = _curves(_Ranking.of(score), outcomes.gain, np.ones((1, len(score))))
    return PgrCurve(share[0], pgr[0])


def apgr(curve: PgrCurve) -> float:
    """The area under the PGR curve: 0.5 for a random router, more than 1 is possible."""
    return float(_areas(curve.cloud_share[None], curve.pgr[None])[0])


def apgr_10(curve: PgrCurve) -> float:
    """RouteLLM's formula: the mean of PGR at cloud shares of 10 %, 20 %, ... 100 %; 0.55 for a random router."""
    return float(_tenths(curve.cloud_share[None], curve.pgr[None])[0])


def cpt(curve: PgrCurve, target: float) -> float:
    """Call-performance threshold: the smallest cloud share, in percent, that recovers `target` of the gap; or NaN."""
    return 100 * float(_crossings(curve.cloud_share[None], curve.pgr[None], target)[0])


def why_no_cpt(curve: PgrCurve, target: float) -> str | None:
    """Why `cpt` is NaN, in words; None when it is a number."""
    if np.isnan(curve.pgr).any():
        return "both models are equally good: there is no gap to recover"
    best = float(curve.pgr.max())
    return None if best >= target - 1e-9 else f"at most {100 * best:.1f} % of the gap is recovered at any cloud share"


def auroc(score: Floats, target: Floats) -> float:
    """Area under the ROC curve; a target in [0, 1] counts as that much of a positive and the rest of a negative.

    0.5 for a constant score; NaN without both kinds.
    """
    return float(_aurocs(_Ranking.of(score), np.asarray(target, dtype=float), np.ones((1, len(score))))[0])


def random_apgr_sd(weak: Floats, strong: Floats) -> float:
    """The standard deviation of a random router's APGR, in closed form: sd(gain) / (gap sqrt(12 n))."""
    gain = strong - weak
    return float(np.std(gain) / (abs(np.mean(gain)) * np.sqrt(12 * len(gain))))


def resample_weights(n_questions: int, *, resamples: int = 1000, seed: int = 0) -> Weights:
    """Row 0 is every question once; each of the others says how often a question was drawn; (resamples + 1, n)."""
    random = np.random.default_rng(seed)
    weights = np.ones((resamples + 1, n_questions), dtype=np.uint16)
    for row in weights[1:]:
        row[:] = np.bincount(random.integers(0, n_questions, n_questions), minlength=n_questions)
    return weights


def figures(score: Floats, outcomes: Outcomes, weights: Weights, names: Sequence[str] = FIGURES) -> dict[str, Floats]:
    """Figures of a score for each row of weights, shape (rows,); NaN in a row in which there is nothing to recover.

    cpt50 and cpt80 in percent; cost50 and cost80: the mean cost of a question where that part of the gap is recovered;
    apgr_within and auroc_within: of a router that has to send the same share of every group to the cloud, so that
    telling the groups apart gains nothing.
    """
    ranking = _Ranking.of(score)
    within = [] if outcomes.group is None else _group_rankings(score, outcomes.group)
    chunks = [weights[start : start + ROWS_AT_ONCE].astype(float) for start in range(0, len(weights), ROWS_AT_ONCE)]
    parts = [_figures(ranking, within, outcomes, chunk, names) for chunk in chunks]
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def random_figures(
    outcomes: Outcomes, *, routers: int = 1000, seed: int = 0, names: Sequence[str] = FIGURES
) -> dict[str, Floats]:
    """The figures of random routers on these questions, shape (routers,)."""
    random, once = np.random.default_rng(seed), np.ones((1, len(outcomes.weak)))
    found = [figures(random.random(len(outcomes.weak)), outcomes, once, names) for _ in range(routers)]
    return {name: np.concatenate([one[name] for one in found]) for name in names}


def quality_curves(score: Floats, outcomes: Outcomes, weights: Weights, shares: Floats) -> Floats:
    """Mean quality when these shares of the questions go to the cloud, (rows, shares)."""
    ranking, curves = _Ranking.of(score), []
    for row in weights:
        weight = row[None].astype(float)
        share, gain = (_totals(ranking, values, weight)[0] for values in (np.ones(len(score)), outcomes.gain))
        local = np.sum(outcomes.weak * row)
        curves.append((local + np.interp(shares, share / share[-1], gain)) / share[-1])
    return np.array(curves)


def interval(values: Floats) -> tuple[float, float]:
    """The middle 95 % of the values; those that are NaN are left out."""
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def bootstrap(metric: Metric, n_questions: int, *, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of any metric over resampled questions; resamples where it has no value are left out."""
    random = np.random.default_rng(seed)
    return interval(np.array([metric(random.integers(0, n_questions, n_questions)) for _ in range(resamples)]))


def random_band(weak: Floats, strong: Floats, *, routers: int = 1000, seed: int = 0) -> tuple[float, float]:
    """Where the APGR of 95 % of all random routers lies on these questions."""
    return interval(random_figures(Outcomes(weak, strong), routers=routers, seed=seed, names=["apgr"])["apgr"])


def routing_figures(
    score: Floats, words: Floats, weak: Floats, strong: Floats, cloud_wins: Floats, *, threshold: float
) -> dict[str, Any]:
    """Everything a card says of a score on some questions, beside the word count and the random router.

    The baseline may use its better direction, more or fewer words, chosen in hindsight; the score may not.
    """
    n, curve, outcomes = len(score), pgr_curve(score, weak, strong), Outcomes(weak, strong)
    weights = resample_weights(n)
    area, more, fewer = (figures(s, outcomes, weights, ["apgr"])["apgr"] for s in (score, words, -words))
    area_auroc = _in_chunks(weights, lambda chunk: _aurocs(_Ranking.of(score), cloud_wins, chunk))
    over = area - (more if more[0] >= fewer[0] else fewer)
    to_cloud = score >= threshold
    gap = float(np.sum(outcomes.gain))
    return _rounded(
        {
            "n": n,
            "weak": np.mean(weak),
            "strong": np.mean(strong),
            "cloud_wins": np.mean(cloud_wins),
            "auroc": area_auroc[0],
            "auroc_95": interval(area_auroc[1:]),
            "apgr": area[0],
            "apgr_95": interval(area[1:]),
            "apgr_random_95": random_band(weak, strong),
            "cpt50": cpt(curve, 0.5),
            "cpt80": cpt(curve, 0.8),
            "apgr_more_words": more[0],
            "apgr_fewer_words": fewer[0],
            "auroc_more_words": auroc(words, cloud_wins),
            "apgr_over_words": over[0],
            "apgr_over_words_95": interval(over[1:]),
            "cloud_share_at_threshold": np.mean(to_cloud),
            "pgr_at_threshold": np.sum(outcomes.gain[to_cloud]) / gap if gap > TINY else float("nan"),
        }
    )


def _rounded(figures: dict[str, Any]) -> dict[str, Any]:
    """Plain numbers with four places, ready for JSON; None where there is no value."""

    def plain(value: Any) -> Any:
        if isinstance(value, tuple):
            return [plain(part) for part in value]
        return value if isinstance(value, int) else None if np.isnan(value) else round(float(value), 4)

    return {name: plain(value) for name, value in figures.items()}


@dataclass(frozen=True, slots=True)
class _Ranking:
    """Questions from the highest score down."""

    order: npt.NDArray[np.intp]
    ends: npt.NDArray[np.intp]
    """The last place of each group of equal scores."""

    @classmethod
    def of(cls, score: Floats, among: npt.NDArray[np.intp] | None = None) -> _Ranking:
        order = np.argsort(-score, kind="stable") if among is None else among[np.argsort(-score[among], kind="stable")]
        return cls(order, np.flatnonzero(np.append(np.diff(score[order]) != 0, True)))


def _group_rankings(score: Floats, group: npt.NDArray[np.intp]) -> list[_Ranking]:
    return [_Ranking.of(score, np.flatnonzero(group == name)) for name in np.unique(group)]


def _totals(ranking: _Ranking, values: Floats, weights: Floats) -> Floats:
    """Weighted sums from the top down to the end of each group, and a zero before; (rows, groups + 1)."""
    sums = np.cumsum(weights[:, ranking.order] * values[ranking.order], axis=1)[:, ranking.ends]
    return np.hstack([np.zeros((len(weights), 1)), sums])


def _curves(ranking: _Ranking, gain: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Cloud shares and PGR, each (rows, groups + 1); PGR is NaN in a row without a gap."""
    n, gained = _totals(ranking, np.ones(len(gain)), weights), _totals(ranking, gain, weights)
    gap = gained[:, -1:]
    return n / n[:, -1:], gained / np.where(gap > TINY, gap, np.nan)


def _areas(x: Floats, y: Floats) -> Floats:
    return np.asarray(np.sum(np.diff(x, axis=1) * (y[:, 1:] + y[:, :-1]) / 2, axis=1))


def _tenths(share: Floats, pgr: Floats) -> Floats:
    tenths = np.arange(1, 11) / 10
    return np.array([np.mean(np.interp(tenths, *row)) for row in zip(share, pgr, strict=True)])


def _crossings(x: Floats, y: Floats, target: float) -> Floats:
    """x where y first reaches the target, on straight lines between the points; NaN in a row where it never does."""
    reached = y >= target - 1e-9  # naive sums give .4999...
    rows, end = np.arange(len(y)), reached.argmax(axis=1)
    start = np.maximum(end - 1, 0)
    rise = y[rows, end] - y[rows, start]
    part = np.minimum((target - y[rows, start]) / np.where(rise > 0, rise, np.inf), 1.0)
    found = x[rows, start] + np.maximum(part, 0.0) * (x[rows, end] - x[rows, start])
    return np.where(reached.any(axis=1), found, np.nan)


def _roc_area(ranking: _Ranking, target: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Pairs of a positive and a negative in the right order, and all pairs; (rows,) each."""
    positive, negative = _totals(ranking, target, weights), _totals(ranking, 1 - target, weights)
    return _areas(negative, positive), positive[:, -1] * negative[:, -1]


def _aurocs(ranking: _Ranking, target: Floats, weights: Floats) -> Floats:
    area, pairs = _roc_area(ranking, target, weights)
    return area / np.where(pairs > TINY, pairs, np.nan)


def _apgr_within(within: Sequence[_Ranking], gain: Floats, weights: Floats) -> Floats:
    """The area under PGR when every group sends the same share to the cloud; (rows,)."""
    area, gap = np.zeros(len(weights)), np.zeros(len(weights))
    for ranking in within:
        n, gained = _totals(ranking, np.ones(len(gain)), weights), _totals(ranking, gain, weights)
        area += _areas(n / np.maximum(n[:, -1:], 1), gained)
        gap += gained[:, -1]
    return area / np.where(gap > TINY, gap, np.nan)


def _auroc_within(within: Sequence[_Ranking], target: Floats, weights: Floats) -> Floats:
    parts = [_roc_area(ranking, target, weights) for ranking in within]
    area, pairs = (np.sum([part[i] for part in parts], axis=0) for i in range(2))
    return np.asarray(area / np.where(pairs > TINY, pairs, np.nan))


def _figures(
    ranking: _Ranking, within: Sequence[_Ranking], outcomes: Outcomes, weights: Floats, names: Sequence[str]
) -> dict[str, Floats]:
    share, pgr = _curves(ranking, outcomes.gain, weights)
    cloud_better, nothing = (outcomes.gain > 0).astype(float), np.full(len(weights), np.nan)
    known: dict[str, Callable[[], Floats]] = {
        "cpt50": lambda: 100 * _crossings(share, pgr, 0.5),
        "cpt80": lambda: 100 * _crossings(share, pgr, 0.8),
        "apgr": lambda: _areas(share, pgr),
        "apgr_10": lambda: _tenths(share, pgr),
        "auroc": lambda: _aurocs(ranking, cloud_better, weights),
        "apgr_within": lambda: _apgr_within(within, outcomes.gain, weights) if within else nothing,
        "auroc_within": lambda: _auroc_within(within, cloud_better, weights) if within else nothing,
        "cost50": lambda: _costs(ranking, outcomes, weights, pgr, 0.5),
        "cost80": lambda: _costs(ranking, outcomes, weights, pgr, 0.8),
    }
    return {name: known[name]() for name in names}


def _costs(ranking: _Ranking, outcomes: Outcomes, weights: Floats, pgr: Floats, target: float) -> Floats:
    """The mean cost of a question where PGR first reaches the target; (rows,)."""
    if outcomes.local_cost is None or outcomes.cloud_cost is None:
        return np.full(len(weights), np.nan)
    extra = _totals(ranking, outcomes.cloud_cost - outcomes.local_cost, weights)
    total = (weights @ outcomes.local_cost)[:, None] + extra
    return _crossings(total / weights.sum(axis=1, keepdims=True), pgr, target)


def _in_chunks(weights: Weights, figure: Callable[[Floats], Floats]) -> Floats:
    chunks = range(0, len(weights), ROWS_AT_ONCE)
    return np.concatenate([figure(weights[i : i + ROWS_AT_ONCE].astype(float)) for i in chunks])
