"""The metrics against examples worked by hand."""

import numpy as np
import pytest

from edge_agent.training.evaluation import (
    FIGURES,
    Outcomes,
    apgr,
    apgr_10,
    auroc,
    bootstrap,
    cpt,
    figures,
    interval,
    pgr_curve,
    quality_curves,
    random_apgr_sd,
    random_band,
    random_figures,
    resample_weights,
    why_no_cpt,
)


def apgr_metric(score, weak, strong):
    """APGR of some of the questions, computed anew: what the weighted figures have to equal."""
    return lambda rows: apgr(pgr_curve(score[rows], weak[rows], strong[rows]))


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


@pytest.mark.parametrize(("case", "mean"), [(FOUR, 1.18), (FIVE, 0.75), (CONSTANT, 0.55)])
def test_the_ten_point_apgr_is_another_number_than_the_area(case, mean):
    found = curve(case)
    tenths = [np.interp(share, found.cloud_share, found.pgr) for share in np.arange(1, 11) / 10]
    assert apgr_10(found) == pytest.approx(np.mean(tenths)) == pytest.approx(mean)
    assert np.mean(found.pgr[1:]) == pytest.approx({4: 1.25, 5: 0.8, 1: 1.0}[len(found.pgr) - 1])


def test_quality_follows_the_cloud_share():
    outcomes = Outcomes(*(np.array(FOUR[name], dtype=float) for name in ("weak", "strong")))
    curves = quality_curves(np.array(FOUR["score"]), outcomes, np.ones((1, 4)), np.array([0, 0.25, 0.5, 0.75, 1]))
    assert curves[0] == pytest.approx([0.5, 0.75, 1, 0.75, 0.75])


@pytest.mark.parametrize(
    ("case", "target", "why"),
    [
        (FOUR, 0.8, None),
        (FIVE, 1.2, "at most 100.0 % of the gap is recovered"),
        ({"score": [0.1, 0.2], "weak": [1, 0], "strong": [0, 1]}, 0.5, "both models are equally good"),
    ],
)
def test_a_cpt_that_does_not_exist_has_a_reason(case, target, why):
    reason = why_no_cpt(curve(case), target)
    assert np.isnan(cpt(curve(case), target)) == (why is not None)
    assert reason is None if why is None else why in reason


def made_up(n=300, seed=3):
    """Outcomes of n questions in three groups, and a score with ties that knows a little."""
    random = np.random.default_rng(seed)
    weak, strong = (random.random(n) < 0.5).astype(float), (random.random(n) < 0.8).astype(float)
    score = np.round(random.random(n) + 0.4 * (strong - weak), 1)
    costs = random.random(n), 5 + random.random(n)
    return score, Outcomes(weak, strong, random.integers(0, 3, n), *costs)


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("apgr", lambda score, weak, strong: apgr(pgr_curve(score, weak, strong))),
        ("apgr_10", lambda score, weak, strong: apgr_10(pgr_curve(score, weak, strong))),
        ("cpt50", lambda score, weak, strong: cpt(pgr_curve(score, weak, strong), 0.5)),
        ("cpt80", lambda score, weak, strong: cpt(pgr_curve(score, weak, strong), 0.8)),
        ("auroc", lambda score, weak, strong: auroc(score, (strong > weak).astype(float))),
    ],
)
def test_a_weighted_figure_is_that_of_the_drawn_questions(name, of):
    score, outcomes = made_up()
    weights = resample_weights(len(score), resamples=40)
    drawn = [np.repeat(np.arange(len(score)), row) for row in weights]
    expected = [of(score[rows], outcomes.weak[rows], outcomes.strong[rows]) for rows in drawn]
    assert figures(score, outcomes, weights, [name])[name] == pytest.approx(expected)


def test_weights_draw_the_questions_the_bootstrap_draws():
    score, outcomes = made_up()
    found = figures(score, outcomes, resample_weights(300, resamples=50, seed=4), ["apgr"])["apgr"]
    metric = apgr_metric(score, outcomes.weak, outcomes.strong)
    assert interval(found[1:]) == pytest.approx(bootstrap(metric, 300, resamples=50, seed=4))


def test_a_score_that_only_knows_the_group_is_worth_nothing_within_groups():
    score, outcomes = made_up()
    found = figures(outcomes.group.astype(float), outcomes, np.ones((1, 300)))
    assert found["apgr_within"][0] == pytest.approx(0.5) == pytest.approx(found["auroc_within"][0])
    assert figures(score, outcomes, np.ones((1, 300)))["apgr_within"][0] > 0.55


def test_within_one_group_nothing_changes():
    score, outcomes = made_up()
    one = Outcomes(outcomes.weak, outcomes.strong, np.zeros(300, dtype=int))
    found = figures(score, one, resample_weights(300, resamples=9))
    assert found["apgr_within"] == pytest.approx(found["apgr"])
    assert found["auroc_within"] == pytest.approx(found["auroc"])


def test_cost_is_what_the_calls_up_to_the_crossing_cost():
    outcomes = Outcomes(
        *(np.array(FIVE[name], dtype=float) for name in ("weak", "strong")),
        local_cost=np.array([1.0, 1, 1, 1, 1]), cloud_cost=np.array([3.0, 3, 11, 21, 6]),
    )  # fmt: skip
    found = figures(np.array(FIVE["score"]), outcomes, np.ones((1, 5)))
    assert found["cost50"][0] == pytest.approx((5 + 10) / 5)  # q3 goes to the cloud
    assert found["cost80"][0] == pytest.approx((5 + 10 + 5 + 0.6 * 20) / 5)  # q3, q5 and 0.6 of q4


def test_figures_without_a_gap_a_group_or_a_price_are_nan():
    outcomes = Outcomes(np.array([1.0, 0]), np.array([0.0, 1]))
    assert "just as good" in outcomes.unusable
    found = figures(np.array([0.1, 0.2]), outcomes, np.ones((1, 2)))
    assert {name for name in FIGURES if not np.isnan(found[name][0])} == {"auroc"}


def test_random_routers_spread_as_the_closed_form_says():
    _, outcomes = made_up(1000)
    found = random_figures(outcomes, routers=300, names=["apgr", "cpt80"])
    assert np.std(found["apgr"]) == pytest.approx(random_apgr_sd(outcomes.weak, outcomes.strong), rel=0.15)
    assert np.mean(found["apgr"]) == pytest.approx(0.5, abs=0.01)
    assert np.mean(found["cpt80"]) == pytest.approx(80, abs=2)
