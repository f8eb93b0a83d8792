"""Thresholds on `score`: by share, money and quality, worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_agent.errors import ThresholdError
from edge_agent.policy import escalates
from edge_agent.thresholds import (
    Labelled,
    Traffic,
    by_cloud_share,
    by_money,
    by_quality,
    candidates,
    cloud_shares,
    outcomes,
    shown_beside,
)

TEN = np.arange(1, 11) / 10


def labelled(scores: Any, local: Any, cloud: Any) -> Labelled:
    return Labelled(*(np.asarray(values, dtype=float) for values in (scores, local, cloud)))


# Shares


@pytest.mark.parametrize(
    ("share", "threshold"), [(0.0, None), (0.1, 1.0), (0.2, 0.9), (0.25, 0.9), (0.5, 0.6), (1.0, 0.1)]
)
def test_the_smallest_threshold_that_sends_no_more_than_the_share(share: float, threshold: float | None) -> None:
    if threshold is None:
        with pytest.raises(ThresholdError, match="more questions have a score of 1"):
            by_cloud_share(TEN, share)
        return
    assert by_cloud_share(TEN, share) == threshold


def test_questions_of_one_score_go_together() -> None:
    scores = np.array([0.2, 0.2, 0.2, 0.7])
    assert by_cloud_share(scores, 0.5) == 0.7 and by_cloud_share(scores, 0.2) == 0.7001


@pytest.mark.parametrize("seed", range(3))
def test_the_shares_are_those_of_the_rule_that_decides(seed: int) -> None:
    scores = np.random.default_rng(seed).beta(1, 6, 200)
    thresholds = candidates(scores)
    by_rule = [np.mean([escalates(score, threshold) for score in scores]) for threshold in thresholds]
    assert cloud_shares(scores, thresholds) == pytest.approx(by_rule)
    assert by_rule[0] == 1 and by_rule[-1] == 0
    assert all(f"{threshold:.4f}" == f"{threshold:g}".ljust(6, "0")[:6] for threshold in thresholds if threshold >= 0.1)


# Money


def test_money_buys_the_questions_with_the_highest_scores() -> None:
    traffic = Traffic(TEN, np.full(10, 0.2), days=2.0)
    assert by_money(traffic, 0.3) == 0.8  # three of ten: 0.6 in two days
    assert by_money(traffic, 1.0) == 0.1
    assert by_money(Traffic(TEN[:9], np.full(9, 0.2), 2.0), 0.0) == 0.9001


def test_what_goes_to_the_cloud_anyway_is_paid_first() -> None:
    traffic = Traffic(TEN[:9], np.full(9, 0.2), days=1.0, fixed_cost=0.5)
    assert by_money(traffic, 0.9) == 0.8
    with pytest.raises(
        ThresholdError, match="costs only 0.4 a day: 0.5 a day is the least, 0.5 of it for questions no"
    ):
        by_money(traffic, 0.4)


def test_money_needs_prices() -> None:
    with pytest.raises(ThresholdError, match="needs the prices"):
        by_money(Traffic(TEN, None, 1.0), 1.0)


# Quality

FIVE = labelled([0.1, 0.3, 0.9, 0.4, 0.6], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0])
"""From the highest score down the gap closes by 0, .5, .5, 1, 1, 1."""


@pytest.mark.parametrize(("target", "threshold"), [(0.5, 0.9), (0.51, 0.4), (0.8, 0.4), (1.0, 0.4)])
def test_the_largest_threshold_that_recovers_the_gap(target: float, threshold: float) -> None:
    assert by_quality(FIVE, target, "pgr") == threshold


@pytest.mark.parametrize(("target", "threshold"), [(0.5, 0.9001), (0.75, 0.9), (0.76, 0.4)])
def test_quality_is_a_share_of_what_the_cloud_gives(target: float, threshold: float) -> None:
    assert by_quality(FIVE, target) == threshold  # local 2 of 5, cloud 4 of 5


def test_a_cloud_that_is_no_better_is_told() -> None:
    with pytest.raises(ThresholdError, match=r"the cloud model \(0.500\) is no better than the local one \(0.500\)"):
        by_quality(labelled([0.1, 0.2], [1, 0], [0, 1]), 0.9)


def test_a_quality_out_of_reach_is_told_with_the_best() -> None:
    with pytest.raises(ThresholdError, match="reaches a quality of 1.5: 1.000 is the most"):
        by_quality(FIVE, 1.5)


def test_outcomes_are_figures_with_intervals_around_them() -> None:
    draw = np.random.default_rng(0)
    scores = draw.random(400)
    local, cloud = draw.random(400) > scores, draw.random(400) > 0.1
    traffic = Traffic(scores, np.full(400, 0.01), days=4.0)
    low, none = outcomes([0.3, 0.9999], scores, traffic, labelled(scores, local, cloud))
    assert low.cloud_share == np.mean(scores >= 0.3) and low.cost_per_day == pytest.approx(low.cloud_share)
    assert low.quality_95 and low.quality and low.quality_95[0] < low.quality < low.quality_95[1]
    assert low.pgr_95 and low.pgr and low.pgr_95[0] < low.pgr < low.pgr_95[1]
    assert none.pgr == pytest.approx(0, abs=0.05) and none.quality == pytest.approx(
        local.mean() / cloud.mean(), abs=0.01
    )


def test_without_money_and_labels_only_shares_are_known() -> None:
    (only,) = outcomes([0.5], TEN, None, None)
    assert (only.cloud_share, only.cost_per_day, only.quality, only.quality_95, only.pgr) == (
        0.6,
        None,
        None,
        None,
        None,
    )


def test_a_gap_that_is_none_has_no_recovered_part() -> None:
    (only,) = outcomes([0.5], TEN, None, labelled(TEN, np.ones(10), np.ones(10)))
    assert (only.quality, only.pgr, only.pgr_95) == (1.0, None, None)


@pytest.mark.parametrize("n", [1, 3, 1000])
def test_the_table_has_the_chosen_threshold_and_some_on_both_sides(n: int) -> None:
    scores = np.random.default_rng(0).random(n)
    chosen = by_cloud_share(scores, 0.4)
    shown = shown_beside(chosen, scores)
    assert chosen in shown and shown == sorted(set(shown)) and len(shown) <= 16
    assert n < 1000 or shown[2] < chosen < shown[-3]
