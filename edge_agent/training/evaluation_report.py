"""Scores on outcome sets become numbers for a page: every router and every baseline, with intervals and differences.

All intervals are 95 %, from the same resamples for all rows of a set, so that differences are paired. Embeds no text,
trains nothing, draws nothing; what it returns is plain JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_agent.task_type import task_type
from edge_agent.text_features import excerpt
from edge_agent.training.calibration import brier, ece
from edge_agent.training.evaluation import (
    FIGURES,
    Floats,
    Outcomes,
    figures,
    interval,
    random_apgr_sd,
    random_figures,
    resample_weights,
)
from edge_agent.training.outcomes import OutcomeSet, Price

COSTS = ("cost50", "cost80")
QUESTIONS = 1000
"""Costs are in currency for this many questions."""

MORE_WORDS, FEWER_WORDS = "number of words, more first", "number of words, fewer first"
TASK_TYPE, NOT_TASK_TYPE = "task type: maths, code or reasoning first", "task type: those last"
SET_TASK_TYPE = "task type, as the set says"
LIKELIHOOD = "mean log-probability of the local answer"
ORACLE = "oracle"

BARS = {"words": (MORE_WORDS, FEWER_WORDS), "task type": (TASK_TYPE, NOT_TASK_TYPE)}
"""What every router has to beat: of the two directions of each, the one that is better in hindsight."""


@dataclass(frozen=True, slots=True)
class Router:
    """A router to evaluate, and what is known of how it was made."""

    name: str
    label_source: str
    head: str
    n_train: int
    sha256: str
    """evaluation_ledger.fingerprint"""
    is_shipped: bool = False
    is_partial: bool = False
    """Trained on some of the samples there are: for the figure of quality against samples, on unpublished sets only."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How the figures are made."""

    resamples: int = 1000
    seed: int = 0
    local: Price = Price(0.24, 0.24)
    """Of the published sets' weak model: Mixtral 8x7B, as in arXiv 2406.18665."""
    device: Price = Price(0.0, 0.0)
    """Of our own weak model, which runs on the device; electricity is not counted."""
    cloud: Price = Price(10.0, 30.0)
    """GPT-4 (1106-preview), US dollars."""


def baselines(outcomes: OutcomeSet) -> dict[str, Floats]:
    """Scores that need no training, by name; higher goes to the cloud first."""
    words = np.array([float(len(text.split())) for text in outcomes.texts])
    hard = np.array([float(task_type(excerpt(text)) != "other") for text in outcomes.texts])
    found = {
        ORACLE: outcomes.strong - outcomes.weak,
        MORE_WORDS: words,
        FEWER_WORDS: -words,
        TASK_TYPE: hard,
        NOT_TASK_TYPE: -hard,
    }
    if outcomes.hard is not None:
        found[SET_TASK_TYPE] = outcomes.hard.astype(float)
    if outcomes.log_likelihood is not None:
        found[LIKELIHOOD] = -outcomes.log_likelihood
    return found


def report(
    outcomes: OutcomeSet,
    scores: Sequence[tuple[Router, Floats]],
    settings: Settings = Settings(),
    *,
    progress: Callable[[str], object] = lambda name: None,
) -> dict[str, Any]:
    """Everything the page says of one set.

    :param scores: routers with their scores of the set's questions, higher goes to the cloud.
    :param progress: called with the name of each row before it is computed.
    """
    prices = (settings.local if outcomes.is_published else settings.device, settings.cloud)
    numbers = outcomes.outcomes(*prices)
    facts = _facts(outcomes, numbers) | {"prices": [[price.read, price.written] for price in prices]}
    if numbers.unusable:
        return facts | {"unusable": numbers.unusable, "random": {}, "rows": []}
    weights = resample_weights(len(outcomes.weak), resamples=settings.resamples, seed=settings.seed)
    all_scores = baselines(outcomes) | {router.name: score for router, score in scores}
    sampled: dict[str, dict[str, Floats]] = {}
    for name, score in all_scores.items():
        progress(name)
        sampled[name] = figures(score, numbers, weights)
    bars = {bar: _better(sampled, names) for bar, names in BARS.items()}
    made = {router.name: router for router, _ in scores}
    rows = [_row(name, sampled[name], {bar: sampled[of] for bar, of in bars.items()}, made) for name in all_scores]
    progress("random routers")
    return facts | {
        "unusable": None,
        "random": _random(numbers, outcomes, settings),
        "bars": bars,
        "rows": rows,
        "probabilities": {router.name: _probabilities(score, numbers) for router, score in scores if router.is_shipped},
    }


def _facts(outcomes: OutcomeSet, numbers: Outcomes) -> dict[str, Any]:
    gain = numbers.gain
    costs = [QUESTIONS * float(np.mean(c)) for c in (numbers.local_cost, numbers.cloud_cost) if c is not None]
    return {
        "name": outcomes.name,
        "is_published": outcomes.is_published,
        "n": len(gain),
        "models": list(outcomes.models),
        "weak": _plain(np.mean(outcomes.weak), 6),
        "strong": _plain(np.mean(outcomes.strong), 6),
        "strong_better": int((gain > 0).sum()),
        "equal": int((gain == 0).sum()),
        "weak_better": int((gain < 0).sum()),
        "cost_always_local": _plain(costs[0]),
        "cost_always_cloud": _plain(costs[1]),
        "tokens": outcomes.tokens_are,
        "origin": outcomes.origin,
        "left_out": dict(outcomes.left_out),
        "n_groups": len(set(outcomes.groups)),
    }


def _better(sampled: Mapping[str, Mapping[str, Floats]], names: Sequence[str]) -> str:
    return max(names, key=lambda name: float(sampled[name]["apgr"][0]))


def _row(
    name: str, values: Mapping[str, Floats], bars: Mapping[str, Mapping[str, Floats]], made: Mapping[str, Router]
) -> dict[str, Any]:
    router = made.get(name)
    row: dict[str, Any] = {"name": name, "figures": {figure: _summary(figure, values[figure]) for figure in FIGURES}}
    if router:
        kind = {"label_source": router.label_source, "head": router.head, "n_train": router.n_train}
        row |= kind | {"sha256": router.sha256, "is_shipped": router.is_shipped, "is_partial": router.is_partial}
    over = {bar: {f: _summary(f, values[f] - of[f]) for f in FIGURES} for bar, of in bars.items()}
    return row | {"over": over}


def _random(numbers: Outcomes, outcomes: OutcomeSet, settings: Settings) -> dict[str, Any]:
    """Mean, and where 95 % of random routers lie, by figure; and the closed form of APGR's standard deviation."""
    found = random_figures(numbers, routers=settings.resamples, seed=settings.seed)
    band = {name: _scaled(name, (float(np.mean(values)), *interval(values))) for name, values in found.items()}
    sd = {
        "apgr_sd": _plain(np.std(found["apgr"])),
        "apgr_sd_closed_form": _plain(random_apgr_sd(numbers.weak, numbers.strong)),
    }
    return {"figures": band, **sd}


def _probabilities(score: Floats, numbers: Outcomes) -> dict[str, float | None]:
    """How good a score is as the probability that the cloud does better."""
    if score.min() < 0 or score.max() > 1:
        return {"brier": None, "ece": None}
    target = (numbers.gain > 0).astype(float)
    return {"brier": _plain(brier(score, target)), "ece": _plain(ece(score, target)), "mean": _plain(np.mean(score))}


def _summary(name: str, values: Floats) -> list[float | None]:
    """[value, low, high] of a figure's values, the first of which is that of all questions."""
    return _scaled(name, (float(values[0]), *interval(values[1:])))


def _scaled(name: str, values: Sequence[float]) -> list[float | None]:
    return [_plain(value * QUESTIONS if name in COSTS else value) for value in values]


def _plain(value: Any, places: int = 4) -> float | None:
    return None if np.isnan(value) else round(float(value), places)
