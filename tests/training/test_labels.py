"""The label rules: worked examples, and how often two identical models are told apart by mistake."""

import numpy as np
import pytest

from edge_agent.training.labels import (
    bootstrap_variance,
    hard_label,
    label,
    normal_cdf,
    paper_label,
    symmetric_label,
    target,
    z_score,
)

ZIPF = (1 / np.arange(1, 51)) / (1 / np.arange(1, 51)).sum()


@pytest.mark.parametrize(
    ("strong", "weak", "expected"),
    [
        (0.5, 0.9, 1.0),
        (0.9, 0.85, 0.5),
        (0.9, 0.3, 0.0),
        (0.0, 0.0, 0.5),
        (0.0, 0.5, 1.0),
        (0.5, 0.0, 0.0),
        (1.0, 0.9, 0.5),  # floating point leaves the difference below tau, and the rule is strict
    ],
)
def test_e6_the_papers_rule(strong: float, weak: float, expected: float) -> None:
    assert paper_label(strong, weak) == expected


def test_e6_only_the_symmetric_rule_survives_a_swap() -> None:
    assert [paper_label(1.0, 0.62, tau=0.5), paper_label(0.62, 1.0, tau=0.5)] == [0.5, 1.0]
    assert [symmetric_label(1.0, 0.4, tau=0.5), symmetric_label(0.4, 1.0, tau=0.5)] == [0.0, 1.0]
    assert symmetric_label(0.0, 0.0) == 0.5


def non_ties(weak: object, strong: object, rounds: int = 400) -> tuple[float, float]:
    """Shares of queries on which the strong and the weak model win, with ten answers each."""
    rng = np.random.default_rng(0)
    p, q = np.asarray(weak), np.asarray(strong)
    found = [
        hard_label(z_score(rng.choice(len(p), 10, p=p).tolist(), rng.choice(len(q), 10, p=q).tolist()))
        for _ in range(rounds)
    ]
    return found.count(1.0) / rounds, found.count(0.0) / rounds


@pytest.mark.parametrize(
    "p", [[0.6, 0.3, 0.1], [1 / 3] * 3, [0.05] * 20, ZIPF], ids=["skewed", "flat 3", "flat 20", "zipf"]
)
def test_identical_models_are_mostly_a_tie(p: object) -> None:
    assert sum(non_ties(p, p)) <= 0.20


@pytest.mark.parametrize(
    ("strong", "weak", "power"),
    [([0.9, 0.1], [0.6, 0.3, 0.1], 0.45), ([0.8, 0.2], [0.4, 0.2, 0.2, 0.1, 0.1], 0.8), ([1.0], [0.5, 0.3, 0.2], 0.95)],
)
def test_a_clearly_more_certain_model_wins(strong: list[float], weak: list[float], power: float) -> None:
    wins, losses = non_ties(weak, strong)
    assert wins >= power and losses <= 0.01


def test_equal_counts_have_a_variance() -> None:
    assert bootstrap_variance([0, 0, 1, 1, 2, 2, 3, 3, 4, 4]) > 0.01
    assert bootstrap_variance([0] * 10) == 0
    assert abs(z_score([0, 0, 1, 1, 2, 2, 3, 3, 4, 4], list(range(10)))) < 6  # the plug-in variance alone gives 10


def test_swapping_the_models_mirrors_the_label() -> None:
    a, b = [0] * 9 + [1], [0, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    forth, back = label("q", a, b), label("q", b, a)
    assert forth.strong_wins == 1 - back.strong_wins
    assert forth.strong_wins_soft == pytest.approx(1 - back.strong_wins_soft)


def test_a_label_needs_two_answers_of_each_model() -> None:
    with pytest.raises(ValueError, match="at least two answers"):
        label("q", [0], [0, 1])


@pytest.mark.parametrize(
    ("certain", "local", "cloud", "expected"),
    [(1.0, None, True, 1.0), (1.0, False, True, 1.0), (0.5, True, False, 0.25), (0.5, True, True, 0.5)],
)
def test_targets_mix_certainty_and_correctness(
    certain: float, local: bool | None, cloud: bool | None, expected: float
) -> None:
    assert target(certain, local, cloud) == expected


def test_normal_cdf() -> None:
    assert normal_cdf(0) == 0.5 and normal_cdf(1.64) == pytest.approx(0.9495, abs=1e-4)
