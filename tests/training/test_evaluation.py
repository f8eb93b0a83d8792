"""The metrics against examples worked by hand."""

import numpy as np
import pytest

from edge_agent.training.evaluation import apgr, apgr_metric, auroc, bootstrap, cpt, pgr_curve, random_band

FOUR = {"score": [0.1, 0.9, 0.8, 0.2], "weak": [1, 0, 0, 1], "strong": [1, 1, 1, 0]}
FIVE = {"score": [0.1, 0.3, 0.9, 0.4, 0.6], "weak": [1, 1, 0, 0, 0], "strong": [1, 1, 1, 1, 0]}
CONSTANT = {**FIVE, "score": [0.7] * 5}


def curve(case):
    return pgr_curve(*(np.array(case[name], dtype=float) for name in ("score", "weak", "strong")))


@pytest.mark.parametrize(
    ("case", "share", "pgr"),
    [
        (FOUR, [0, 0.25, 0.5, 0.75, 1], [0, 1, 2, 1, 1]),
        (FIVE, [0, 0.2, 0.4, 0.6, 0.8, 1], [0, 0.5, 0.5, 1, 1, 1]),
        (CONSTANT, [0, 1], [0, 1]),
    ],
)
def test_the_pgr_curve_has_a_point_for_every_attainable_cloud_share(case, share, pgr):
    found = curve(case)
    assert found.cloud_share == pytest.approx(share)
    assert found.pgr == pytest.approx(pgr)


@pytest.mark.parametrize(
    ("case", "area", "cpt50", "cpt80"), [(FOUR, 1.125, 12.5, 20), (FIVE, 0.7, 20, 52), (CONSTANT, 0.5, 50, 80)]
)
def test_apgr_is_the_trapezoid_area_and_cpt_the_first_crossing(case, area, cpt50, cpt80):
    found = curve(case)
    assert (apgr(found), cpt(found, 0.5), cpt(found, 0.8)) == pytest.approx((area, cpt50, cpt80))


def test_equally_good_models_have_no_pgr():
    found = curve({"score": [0.1, 0.2], "weak": [1, 0], "strong": [0, 1]})
    assert np.isnan(apgr(found))
    assert np.isnan(cpt(found, 0.5))


def test_a_worse_strong_model_is_refused():
    with pytest.raises(ValueError, match="expected the strong model to be better, found it worse by 0.5000"):
        curve({"score": [0.1, 0.2], "weak": [1, 1], "strong": [0, 1]})


@pytest.mark.parametrize(
    ("score", "target", "expected"),
    [
        ([0.9, 0.8, 0.3, 0.1], [1, 0, 1, 0], 0.75),
        ([0.5, 0.5, 0.5], [1, 0, 1], 0.5),
        ([0.9, 0.1], [1, 0], 1.0),
        ([0.9, 0.1], [0.75, 0.25], 0.75),
        ([0.9, 0.1], [1, 1], float("nan")),
    ],
)
def test_auroc(score, target, expected):
    assert auroc(np.array(score), np.array(target, dtype=float)) == pytest.approx(expected, nan_ok=True)


def test_a_bootstrap_interval_holds_the_figure_and_shrinks_with_more_questions():
    random = np.random.default_rng(1)
    widths = []
    for n in (100, 1600):
        weak, strong = random.integers(0, 2, n).astype(float), np.ones(n)
        score = random.random(n) - 0.5 * weak
        metric = apgr_metric(score, weak, strong)
        low, high = bootstrap(metric, n, resamples=200)
        assert low < metric(np.arange(n)) < high
        widths.append(high - low)
    assert widths[0] > 3 * widths[1]


def test_the_random_band_of_one_question_each_way_is_the_whole_range():
    weak, strong = np.array([0.0, 1.0]), np.array([1.0, 1.0])
    assert random_band(weak, strong, routers=100) == pytest.approx((0.25, 0.75))
