"""Worked examples of the estimators, to six digits, and what must hold of any set of answers."""

import math

import numpy as np
import pytest

from edge_agent.training.semantic_entropy import (
    cluster,
    cluster_masses,
    clusters,
    degree_uncertainty,
    discrete_entropy,
    entropy_variance,
    equivalent,
    kuhn_entropy,
    likelihood_entropy,
    miller_madow_entropy,
    naive_entropy,
    normalised_entropy,
    rouge_l,
    shannon,
    snne,
)

E1 = [0] * 6 + [1] * 3 + [2]


def close(value: float) -> object:
    return pytest.approx(value, abs=1e-6)


def test_e1_ten_answers_with_three_meanings() -> None:
    assert discrete_entropy(E1) == close(0.897946)
    assert normalised_entropy(E1) == close(0.389973)
    assert kuhn_entropy(E1) == close(1.339128)
    assert miller_madow_entropy(E1) == close(0.997946)
    assert math.sqrt(entropy_variance(E1)) == close(0.177571)


@pytest.mark.parametrize(
    ("ids", "discrete", "kuhn"),
    [([0] * 10, 0.0, 0.0), (list(range(10)), 2.302585, 2.302585), ([0] * 9 + [1], 0.325083, 1.203973)],
)
def test_e2_extremes(ids: list[int], discrete: float, kuhn: float) -> None:
    assert (discrete_entropy(ids), kuhn_entropy(ids)) == (close(discrete), close(kuhn))
    assert math.copysign(1, discrete_entropy(ids)) == 1


def test_e2_order_does_not_matter() -> None:
    shuffled = np.random.default_rng(0).permutation(E1).tolist()
    assert discrete_entropy(shuffled) == close(discrete_entropy(E1))
    assert kuhn_entropy([0] * 5 + [1] * 5) == close(0.693147)


def test_e3_likelihoods_weigh_the_meanings() -> None:
    ids, mean_logps = [0, 0, 1], [-0.2, -0.4, -1.0]
    assert cluster_masses(ids, mean_logps) == pytest.approx([0.801888, 0.198112], abs=1e-6)
    assert likelihood_entropy(ids, mean_logps) == close(0.497773)
    assert kuhn_entropy(ids, mean_logps) == close(0.919855)
    assert likelihood_entropy(ids, [-0.4, -0.4, -3.0]) == close(0.154382)
    assert discrete_entropy(ids) == close(0.636514)
    assert naive_entropy(mean_logps) == close(0.533333)


def test_e4_an_answer_joins_the_first_cluster_whose_first_member_it_equals() -> None:
    a_c_and_b_c = {(0, 2), (1, 2)}
    assert cluster(3, lambda i, j: (i, j) in a_c_and_b_c).tolist() == [0, 1, 0]
    a_b_and_b_c = {(0, 1), (1, 2)}
    assert cluster(3, lambda i, j: (i, j) in a_b_and_b_c).tolist() == [0, 0, 1]


def test_only_first_members_are_compared() -> None:
    asked: list[tuple[int, int]] = []
    cluster(6, lambda i, j: bool(asked.append((i, j))) or j % 2 == i % 2)
    assert {i for i, _ in asked} == {0, 1} and len(asked) == 5 + 2


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("strict", [True, False, False, False]),
        ("non_strict", [True, True, False, False]),
        ("no_contradiction", [True, True, True, False]),
        ("either", [True, True, False, True]),
    ],
)
def test_e5_entailment_rules(rule, expected) -> None:  # type: ignore[no-untyped-def]
    e, n, c = "entailment", "neutral", "contradiction"
    assert [equivalent(*pair, rule=rule) for pair in ((e, e), (e, n), (n, n), (e, c))] == expected  # type: ignore[arg-type]


def test_e14_rivals() -> None:
    assert snne([[1, 0.5], [0.5, 1]]) == close(-1.474077)
    assert snne([[1, 1], [1, 1]]) == close(-1.693147)
    assert degree_uncertainty([[1, 0.5], [0.5, 1]]) == close(0.25)


def test_rouge_l_is_the_longest_common_subsequence() -> None:
    assert rouge_l(["the", "cat", "sat"], ["the", "dog", "sat"]) == close(2 / 3)
    assert (rouge_l([], []), rouge_l(["a"], [])) == (1.0, 0.0)


def test_clusters_keep_every_answer_once() -> None:
    found = clusters([0, 1, 0, 2, 1])
    assert [c.members for c in found] == [(0, 2), (1, 4), (3,)]
    assert sum(c.probability for c in found) == close(1.0)


def test_entropy_stays_between_nothing_and_ln_k() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        k = int(rng.integers(1, 20))
        ids = rng.integers(0, k, k).tolist()
        assert -1e-12 <= discrete_entropy(ids) <= math.log(k) + 1e-12
        assert entropy_variance(ids) >= 0 and normalised_entropy(ids) <= 1 + 1e-12


def test_shannon_ignores_zeros() -> None:
    assert shannon([0.5, 0.5, 0.0]) == close(math.log(2))
