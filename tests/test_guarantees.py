"""Guarantees on local answers: by hand, by the printed digits, and held over a thousand resampled calibrations."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from edge_agent.errors import ThresholdError
from edge_agent.guarantees import (
    GRID,
    VALID_FOR,
    Guarantee,
    accepted_counts,
    clopper_pearson_upper,
    guarantee,
    marginal_threshold,
    min_accepted,
    min_labels,
    selective_threshold,
    shows,
    steps,
    void_reason,
)

FACTS = {name: f"{name}-1" for name in VALID_FOR}
ACCEPTABLE = np.array([0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3])
WRONG = np.array([0, 0, 1, 0, 0, 1, 0, 1, 1], dtype=bool)


def made(acceptable: Any, wrong: Any, alpha: float, delta: float | None, **more: Any) -> Guarantee:
    more = {"valid_for": FACTS, "date_utc": "2026-11-24T00:00:00.000Z"} | more
    return guarantee(np.asarray(acceptable, float), np.asarray(wrong, bool), alpha=alpha, delta=delta, **more)


# The bound


@pytest.mark.parametrize(
    ("k", "m", "delta", "upper"),
    [
        (0, 59, 0.05, 0.049508),
        (0, 58, 0.05, 0.050339),
        (1, 93, 0.05, 0.049994),
        (2, 124, 0.05, 0.049900),
        (5, 200, 0.10, 0.045879),
        (5, 200, 0.05, 0.051843),
        (7, 7, 0.05, 1.0),
        (0, 0, 0.05, 1.0),
    ],
)
def test_the_upper_bound_of_clopper_and_pearson(k: int, m: int, delta: float, upper: float) -> None:
    assert clopper_pearson_upper(k, m, delta) == pytest.approx(upper, abs=5e-7)


@pytest.mark.parametrize(("k", "m", "delta"), [(0, 59, 0.05), (3, 40, 0.1), (57, 900, 0.01), (4000, 9000, 0.05)])
def test_the_bound_is_where_so_few_errors_have_probability_delta(k: int, m: int, delta: float) -> None:
    upper = clopper_pearson_upper(k, m, delta)
    log_p, log_q = math.log(upper), math.log1p(-upper)
    logs = [math.lgamma(m + 1) - math.lgamma(i + 1) - math.lgamma(m - i + 1) + i * log_p + (m - i) * log_q
            for i in range(k + 1)]  # fmt: skip
    assert math.fsum(map(math.exp, logs)) == pytest.approx(delta, rel=1e-7)
    assert clopper_pearson_upper(0, m, delta) == pytest.approx(1 - delta ** (1 / m), abs=1e-9)


@pytest.mark.parametrize(("alpha", "delta", "needed"), [(0.05, 0.05, 59), (0.05, 0.10, 45), (0.10, 0.10, 22)])
def test_so_many_answers_without_an_error_are_just_enough(alpha: float, delta: float, needed: int) -> None:
    assert min_accepted(alpha, delta) == needed
    assert shows(0, needed, alpha, delta) and not shows(0, needed - 1, alpha, delta)


@pytest.mark.parametrize("k", [0, 1, 5, 20])
@pytest.mark.parametrize("m", [30, 93, 200, 400])
def test_the_quick_test_is_the_bound(k: int, m: int) -> None:
    assert shows(k, m, 0.05, 0.05) == (clopper_pearson_upper(k, m, 0.05) <= 0.05)


# Marginal


def test_conformal_risk_control_by_hand() -> None:
    found = made(ACCEPTABLE, WRONG, 0.2, None)
    assert (found.threshold, found.n_accepted, found.n_wrong, found.n) == (0.6, 5, 1, 9)
    assert (found.kind, found.delta, found.bound, found.coverage) == ("marginal", None, 0.2, 5 / 9)


def test_too_few_labels_for_conformal_risk_control_are_told_with_the_number_missing() -> None:
    assert marginal_threshold(ACCEPTABLE, WRONG, alpha=0.05) == math.inf and min_labels(0.05) == 19
    with pytest.raises(ThresholdError, match="9 labels cannot promise an error of 0.05; about 10 more") as raised:
        made(ACCEPTABLE, WRONG, 0.05, None)
    assert raised.value.labels_missing == 10


def test_sure_of_itself_and_wrong_nothing_can_be_promised() -> None:
    with pytest.raises(ThresholdError, match="20 of 40 answers are wrong and accepted even at 0.99") as raised:
        made(np.full(40, 0.995), np.arange(40) % 2, 0.1, None)
    assert raised.value.labels_missing is None


# Selective


def test_the_loosest_threshold_before_the_first_failure_is_taken() -> None:
    acceptable = np.repeat([0.95, 0.85, 0.75, 0.65], 100)
    wrong = np.zeros(400, dtype=bool)
    wrong[200:230] = True  # 30 of those at 0.75: it fails there, and 0.65 is not looked at although all are right
    found = made(acceptable, wrong, 0.1, 0.05)
    assert (found.threshold, found.n_accepted, found.n_wrong) == (0.75, 200, 0)
    assert found.bound == clopper_pearson_upper(0, 200, 0.05) and found.coverage == 0.5
    looked = steps(acceptable, wrong, alpha=0.1, delta=0.05)
    assert [step.threshold for step in looked] == [i / 100 for i in range(94, 73, -1)]
    assert [step.passed for step in looked] == [True] * 20 + [False] and looked[-1].n_wrong == 30


def test_thresholds_that_accept_too_few_are_skipped_and_not_failed() -> None:
    acceptable = np.concatenate([np.full(10, 0.98), np.full(90, 0.8)])
    wrong = np.arange(100) < 2  # both among the ten: a test of them alone would end it
    assert selective_threshold(acceptable, wrong, alpha=0.1, delta=0.05) == 0.5
    assert selective_threshold(acceptable, wrong, alpha=0.1, delta=0.05, fewest=101) == math.inf


@pytest.mark.parametrize(
    ("accepted", "wrong", "n", "missing", "why"),
    [
        (20, 0, 40, 18, "takes 29 accepted answers, found 20 of 40"),
        (0, 0, 0, 29, "takes 29 accepted answers, found 0 of 0"),
        (0, 0, 50, None, "found 0 of 50; more labels will not help"),
        (100, 20, 100, None, "20 of the 100 answers accepted at 0.89 are wrong: up to 0.277 where 0.1 was asked"),
        (100, 6, 200, 162, "6 of the 100 answers accepted at 0.89 are wrong: up to 0.115"),
    ],
)
def test_a_refusal_says_how_many_labels_are_missing(
    accepted: int, wrong: int, n: int, missing: int | None, why: str
) -> None:
    acceptable = np.where(np.arange(n) < accepted, 0.9, 0.2)
    with pytest.raises(ThresholdError, match=why) as raised:
        made(acceptable, np.arange(n) < wrong, 0.1, 0.05)
    assert raised.value.labels_missing == missing


def test_nobody_is_asked_for_a_thousand_million_labels() -> None:
    wrong = np.arange(200) % 5 == 0
    with pytest.raises(ThresholdError, match="more labels will not help") as raised:
        made(np.full(200, 0.995), wrong, 0.2 + 1e-9, 0.5)
    assert raised.value.labels_missing is None


def test_with_the_labels_that_were_missing_it_holds() -> None:
    n = 200 + 162
    acceptable = np.where(np.arange(n) % 2, 0.9, 0.2)
    wrong = np.isin(np.arange(n), np.arange(1, 2 * math.ceil(0.06 * n / 2), 2))
    assert made(acceptable, wrong, 0.1, 0.05).threshold < 0.9


@pytest.mark.parametrize(
    ("acceptable", "wrong", "alpha", "delta"),
    [([0.9, math.nan], [0, 1], 0.1, 0.1), ([0.9], [0, 1], 0.1, 0.1), ([0.9], [0], 0.0, 0.1), ([0.9], [0], 0.1, 1.0)],
)
def test_what_makes_no_sense_is_refused(acceptable: Any, wrong: Any, alpha: float, delta: float) -> None:
    with pytest.raises(ThresholdError, match="expected"):
        made(acceptable, wrong, alpha, delta)


# On the card


def test_a_guarantee_comes_back_from_its_card() -> None:
    found = made(ACCEPTABLE, WRONG, 0.2, None)
    entry = found.to_card()
    assert Guarantee.from_card(entry) == found
    assert set(entry) == {
        "head", "kind", "threshold", "alpha", "delta", "n", "n_accepted", "n_wrong", "bound", "coverage", "date_utc",
        "valid_for",
    }  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"head": "score"},
        {"kind": "certain"},
        {"threshold": "0.6"},
        {"alpha": math.nan},
        {"bound": 10**400},
        {"delta": True},
        {"n": -1},
        {"n_wrong": 1.5},
        {"date_utc": None},
        {"valid_for": {"head_sha256": "a"}},
    ],
)
def test_an_entry_that_is_none_is_refused_by_name(change: dict[str, Any]) -> None:
    entry = made(ACCEPTABLE, WRONG, 0.2, None).to_card() | change
    with pytest.raises(ThresholdError, match=f"guarantees: {next(iter(change))}: expected"):
        Guarantee.from_card(entry)


@pytest.mark.parametrize("name", VALID_FOR)
@pytest.mark.parametrize("found", ["another", None])
def test_a_guarantee_is_void_when_anything_it_is_about_changed(name: str, found: str | None) -> None:
    promise = made(ACCEPTABLE, WRONG, 0.2, None)
    assert void_reason(promise, FACTS) is None
    what = name.removesuffix("_sha256").replace("_", " ")
    reason = void_reason(promise, FACTS | {name: found})  # type: ignore[dict-item]
    assert reason and reason.startswith(f"the {what} changed") and (found or "unknown") in reason


# Over a thousand resampled calibrations

RESAMPLES, POPULATION = 1000, 50_000


def world() -> tuple[Any, Any]:
    """All questions there are: `acceptable` is calibrated, and wrong answers are known exactly."""
    draw = np.random.default_rng(0)
    acceptable = draw.beta(3.0, 1.3, POPULATION)
    return acceptable, draw.random(POPULATION) > acceptable


def calibrations(n: int) -> Iterator[tuple[Any, Any]]:
    """Labelled samples of the world."""
    (acceptable, wrong), draw = world(), np.random.default_rng(1)
    for _ in range(RESAMPLES):
        rows = draw.integers(0, POPULATION, n)
        yield acceptable[rows], wrong[rows]


def true_errors(thresholds: list[float]) -> Any:
    """P(wrong | accepted) in the whole world; 0 where nothing is accepted."""
    accepted, errors = accepted_counts(*world())
    risk = dict(zip(GRID, errors / accepted, strict=True)) | {math.inf: 0.0}
    return np.array([risk[threshold] for threshold in thresholds])


def tuned(acceptable: Any, wrong: Any, alpha: float) -> float:
    """What one would do without this room: the loosest threshold whose error on the labels is at most alpha."""
    accepted, errors = accepted_counts(acceptable, wrong)
    fits = np.flatnonzero((accepted > 0) & (errors <= alpha * accepted))
    return GRID[fits[0]] if len(fits) else math.inf


@pytest.mark.parametrize(("alpha", "delta"), [(0.1, 0.1), (0.1, 0.05)])
def test_the_selective_bound_holds_as_often_as_promised_and_a_tuned_threshold_does_not(
    alpha: float, delta: float
) -> None:
    samples = list(calibrations(300))
    promised = [selective_threshold(*sample, alpha=alpha, delta=delta) for sample in samples]
    violated = np.mean(true_errors(promised) > alpha)
    binomial_error = 2 * math.sqrt(delta * (1 - delta) / RESAMPLES)
    assert violated <= delta + binomial_error
    assert np.mean(np.isfinite(promised)) > 0.2  # it does promise something
    plain = np.mean(true_errors([tuned(*sample, alpha) for sample in samples]) > alpha)
    assert plain > 0.4 and plain > 4 * violated


def test_conformal_risk_control_holds_on_average_and_says_nothing_of_the_accepted() -> None:
    alpha, n = 0.1, 100
    accepted, errors = accepted_counts(*world())
    thresholds = [marginal_threshold(*sample, alpha=alpha) for sample in calibrations(n)]
    risk = dict(zip(GRID, errors / POPULATION, strict=True)) | {math.inf: 0.0}
    risks = np.array([risk[threshold] for threshold in thresholds])
    error = 2 * risks.std() / math.sqrt(RESAMPLES)
    assert alpha - 0.02 < risks.mean() <= alpha + error  # at most alpha, and not by much
    assert np.mean(true_errors(thresholds) > alpha) > 0.9
