"""Probabilities out of raw scores: by hand, by the printed digits, and on labels whose truth is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from edge_agent.training.calibration import (
    CLIP,
    ISOTONIC_FROM,
    brier,
    calibration_figures,
    ece,
    fit_calibration,
    isotonic,
    reliability,
)
from edge_agent.training.logistic import sigmoid

P, Y = np.array([0.2, 0.4, 0.6, 0.9]), np.array([0.0, 1.0, 1.0, 1.0])


def drawn(n: int, seed: int = 0) -> tuple[Any, Any, Any]:
    """(raw scores that are logits of twice the confidence due, outcomes, the true probabilities)."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(0.3, 1.2, n)
    truth = sigmoid(logits)
    return 2 * logits, (draw.random(n) < truth).astype(float), truth


# By hand


@pytest.mark.parametrize(
    ("targets", "fitted"),
    [
        ([0, 1, 0, 1, 1], [0, 0.5, 0.5, 1, 1]),
        ([1, 0, 0, 1], [1 / 3, 1 / 3, 1 / 3, 1]),
        ([1, 1, 0], [2 / 3, 2 / 3, 2 / 3]),
        ([0.2], [0.2]),
    ],
)
def test_neighbours_that_fall_become_their_mean(targets: list[float], fitted: list[float]) -> None:
    assert isotonic(np.array(targets, dtype=float)) == pytest.approx(fitted)


def test_a_heavier_target_pulls_more() -> None:
    assert isotonic(np.array([1.0, 0.0]), np.array([3.0, 1.0])) == pytest.approx([0.75, 0.75])


def test_brier_and_calibration_error_by_hand() -> None:
    assert brier(P, Y) == pytest.approx(0.1425)
    assert ece(P, Y, bins=2, by="width") == pytest.approx(0.225)
    assert ece(P, Y, bins=2) == pytest.approx(0.225)
    assert ece(P, Y, bins=1) == pytest.approx(abs(0.525 - 0.75))


def test_the_bins_hold_equal_numbers_and_never_part_equal_probabilities() -> None:
    p = np.arange(150) / 150
    assert reliability(p, p).count.tolist() == [10] * 15
    tied = np.repeat([0.1, 0.5, 0.9], [1, 148, 1])
    assert reliability(tied, tied).count.tolist() == [1, 148, 1]
    mixed = np.random.default_rng(0).permutation(150)
    assert ece(tied[mixed], (mixed % 3 == 0) * 1.0) == ece(tied, (np.arange(150) % 3 == 0) * 1.0)


def test_a_probability_of_one_is_in_the_last_bin_of_equal_width() -> None:
    curve = reliability(np.array([0.05, 1.0, 0.95]), np.array([0.0, 1.0, 0.0]), bins=10, by="width")
    assert curve.count.tolist() == [1, 2] and curve.mean_target.tolist() == [0, 0.5]


# Fits


def test_the_number_of_labels_chooses_the_method() -> None:
    raw, outcomes, _ = drawn(ISOTONIC_FROM)
    assert fit_calibration(raw, outcomes).method == "isotonic"
    assert fit_calibration(raw[1:], outcomes[1:]).method == "platt"
    assert fit_calibration(raw[1:], outcomes[1:], method="isotonic").method == "isotonic"


@pytest.mark.parametrize("n", [900, 4000])
def test_twice_the_confidence_due_is_put_right(n: int) -> None:
    raw, outcomes, _ = drawn(n)
    fitted = fit_calibration(raw, outcomes)
    new_raw, new_outcomes, truth = drawn(4000, seed=1)
    before, after = sigmoid(new_raw), fitted.apply(new_raw)
    assert ece(after, new_outcomes) < 0.05 < ece(before, new_outcomes)
    assert brier(after, new_outcomes) < brier(before, new_outcomes)
    assert np.abs(after - truth).mean() < 0.03


def test_platt_halves_what_is_twice_too_large() -> None:
    raw, outcomes, _ = drawn(900)
    fitted = fit_calibration(raw, outcomes)
    assert fitted.slope == pytest.approx(0.5, abs=0.06) and fitted.offset == pytest.approx(0, abs=0.15)


def test_isotonic_gives_its_fitted_values_back_and_straight_lines_between() -> None:
    raw = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    fitted = fit_calibration(raw, np.array([0.0, 1.0, 0.0, 1.0, 1.0]), method="isotonic")
    assert fitted.apply(raw) == pytest.approx([CLIP, 0.5, 0.5, 1 - CLIP, 1 - CLIP])
    assert fitted.points == ((1, CLIP), (2, 0.5), (3, 0.5), (4, 1 - CLIP), (5, 1 - CLIP))
    assert fitted.apply(np.array([-9.0, 1.5, 2.5, 9.0])) == pytest.approx([CLIP, (0.5 + CLIP) / 2, 0.5, 1 - CLIP])


def test_the_points_are_enough_to_compute_it_elsewhere() -> None:
    """The module's formula, as a graph would compute it."""
    raw, outcomes, _ = drawn(2000)
    fitted = fit_calibration(raw, outcomes)
    x, y = np.array(fitted.points).T
    steps = np.clip(raw[:, None] - x[:-1], 0, np.diff(x))
    assert y[0] + steps @ (np.diff(y) / np.diff(x)) == pytest.approx(fitted.apply(raw), abs=1e-9)
    assert (np.diff(x) > 0).all() and (np.diff(y) >= 0).all() and len(x) < 150


def test_equal_raw_scores_have_one_probability() -> None:
    fitted = fit_calibration(np.array([1.0, 1.0, 2.0, 2.0]), np.array([0.0, 1.0, 1.0, 1.0]), method="isotonic")
    assert fitted.apply(np.array([1.0, 2.0])) == pytest.approx([0.5, 1 - CLIP])


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_nothing_is_certain_and_more_is_never_less(method: Any) -> None:
    raw, outcomes, _ = drawn(500)
    found = fit_calibration(raw, outcomes, method=method).apply(np.linspace(-1000, 1000, 500))
    assert found.min() == CLIP and found.max() == 1 - CLIP and (np.diff(found) >= 0).all()


def test_weights_count_as_so_many_rows() -> None:
    raw, outcomes, _ = drawn(300)
    weights = np.where(np.arange(300) < 100, 3.0, 1.0)
    repeated = np.repeat(np.arange(300), weights.astype(int))
    for method in ("platt", "isotonic"):
        weighted = fit_calibration(raw, outcomes, weights, method=method)  # type: ignore[arg-type]
        longer = fit_calibration(raw[repeated], outcomes[repeated], method=method)  # type: ignore[arg-type]
        assert weighted.apply(raw) == pytest.approx(longer.apply(raw), abs=1e-6)


# On the card


def test_the_card_says_what_the_map_is() -> None:
    raw, outcomes, _ = drawn(1200)
    platt = fit_calibration(raw, outcomes, method="platt").to_card()
    assert {"method", "n", "clip", "slope", "offset"} == set(platt) and platt["n"] == 1200
    points = fit_calibration(raw, outcomes).to_card()
    assert points["between_points"] == "linear" and len(points["points"]) > 2
    figures = calibration_figures(sigmoid(raw / 2), outcomes)
    assert set(figures) == {"n", "nll", "brier", "ece", "auroc"} and figures["auroc"] > 0.6


# What cannot be calibrated


@pytest.mark.parametrize(
    ("raw", "targets", "problem"),
    [
        ([], [], "expected a target for each of 0 scores"),
        ([0.1, 0.2], [1.0], "expected a target for each of 2 scores, found 1"),
        ([0.1, math.nan], [0.0, 1.0], "found score nan with target 1.0 in row 1"),
        ([0.1, 0.2], [0.0, math.nan], "found score 0.2 with target nan in row 1"),
        ([0.1, 0.2], [0.0, 1.5], "found score 0.2 with target 1.5 in row 1"),
        ([0.1, 0.2], [1.0, 1.0], "found 2 targets that are all 1; label more"),
        ([0.1, 0.2], [0.0, 0.0], "found 2 targets that are all 0; label more"),
    ],
)
def test_labels_that_say_nothing_are_refused(raw: Any, targets: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        fit_calibration(np.array(raw), np.array(targets))
