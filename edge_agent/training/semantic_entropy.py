"""Semantic entropy: how many things a model means when it is asked the same question again. Pure numpy.

Kuhn, Gal, Farquhar, "Semantic Uncertainty" (2302.09664); Farquhar et al., Nature 630 (2024); the paper this project
follows, 2502.11021, uses Kuhn's estimator (its Eq. 1-2). All entropies are in nats. Knows no model: whether two answers
mean the same is asked of a function, how likely an answer was is a number.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Verdict = Literal["entailment", "neutral", "contradiction"]
Rule = Literal["strict", "non_strict", "no_contradiction", "either"]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SemanticCluster:
    """Answers that mean the same."""

    semantic_id: int
    """0 for the first meaning that came up, 1 for the next, ..."""
    members: tuple[int, ...]
    """Indices of the answers."""
    probability: float
    """Share of the answers (discrete estimate of the meaning's mass)."""


def equivalent(forward: Verdict, backward: Verdict, rule: Rule = "strict") -> bool:
    """Whether two answers mean the same, from what a entails of b and b of a.

    strict: both entail. non_strict: no contradiction, and not both neutral. no_contradiction and either are the rules
    of two published implementations, kept for comparison.
    """
    both = (forward, backward)
    if rule == "strict":
        return both == ("entailment", "entailment")
    if rule == "either":
        return "entailment" in both
    return "contradiction" not in both and (rule == "no_contradiction" or both != ("neutral", "neutral"))


def cluster(n_answers: int, same: Callable[[int, int], bool]) -> npt.NDArray[np.int64]:
    """Greedy clustering (2502.11021, section 2.1): an answer joins the first cluster whose first member it equals.

    :param same: whether answers i and j mean the same, asked for first members i only.
    :return: semantic ids, shape (n_answers,), numbered in order of appearance.
    """
    firsts: list[int] = []
    ids = np.empty(n_answers, dtype=np.int64)
    for i in range(n_answers):
        found = next((k for k, first in enumerate(firsts) if same(first, i)), len(firsts))
        if found == len(firsts):
            firsts.append(i)
        ids[i] = found
    return ids


def clusters(semantic_ids: Sequence[int]) -> list[SemanticCluster]:
    """The clusters behind semantic ids, in order of their ids."""
    members: dict[int, list[int]] = {}
    for i, semantic_id in enumerate(semantic_ids):
        members.setdefault(int(semantic_id), []).append(i)
    total = len(semantic_ids)
    return [SemanticCluster(k, tuple(m), len(m) / total) for k, m in sorted(members.items())]


def discrete_entropy(semantic_ids: Sequence[int]) -> float:
    """H = -sum_c (n_c/K) ln(n_c/K) (Farquhar 2024, the discrete estimator); 0 for one answer."""
    return shannon(counts(semantic_ids) / len(semantic_ids))


def miller_madow_entropy(semantic_ids: Sequence[int]) -> float:
    """The discrete entropy plus (|C| - 1) / (2K), which undoes most of its downward bias."""
    return discrete_entropy(semantic_ids) + (len(set(semantic_ids)) - 1) / (2 * len(semantic_ids))


def normalised_entropy(semantic_ids: Sequence[int]) -> float:
    """The discrete entropy over ln K, in [0, 1]; 0 for one answer."""
    return discrete_entropy(semantic_ids) / math.log(len(semantic_ids)) if len(semantic_ids) > 1 else 0.0


def entropy_variance(semantic_ids: Sequence[int]) -> float:
    """Plug-in variance of the discrete entropy: (sum_c p_c ln^2 p_c - H^2) / K. 0 when all counts are equal."""
    p = counts(semantic_ids) / len(semantic_ids)
    return max(0.0, float(np.sum(p * np.log(p) ** 2)) - shannon(p) ** 2) / len(semantic_ids)


def cluster_masses(semantic_ids: Sequence[int], log_likelihoods: Sequence[float]) -> Floats:
    """p_c proportional to sum_{k in c} exp(l_k), normalised over the clusters; shape (n_clusters,).

    :param log_likelihoods: l_k, length-normalised log-likelihood of each answer (mean per token).
    """
    ids, weights = np.asarray(semantic_ids), np.asarray(log_likelihoods, dtype=np.float64)
    weights = np.exp(weights - weights.max())
    masses = np.array([weights[ids == k].sum() for k in dict.fromkeys(ids.tolist())])
    return np.asarray(masses / masses.sum())


def likelihood_entropy(semantic_ids: Sequence[int], log_likelihoods: Sequence[float]) -> float:
    """Shannon entropy of the clusters' likelihood masses (Farquhar 2024, length-normalised)."""
    return shannon(cluster_masses(semantic_ids, log_likelihoods))


def kuhn_entropy(semantic_ids: Sequence[int], log_likelihoods: Sequence[float] | None = None) -> float:
    """SE = -(1/|C|) sum_c ln p_c (Kuhn 2023; 2502.11021 Eq. 2), with normalised masses.

    Every meaning weighs the same, however unlikely: (.9, .1) gives 1.204 where Shannon gives .325.
    """
    if log_likelihoods is None:
        masses = counts(semantic_ids) / len(semantic_ids)
    else:
        masses = cluster_masses(semantic_ids, log_likelihoods)
    return _positive(-float(np.mean(np.log(masses))))


def naive_entropy(log_likelihoods: Sequence[float]) -> float:
    """-(1/K) sum_k l_k: predictive entropy without meanings, from length-normalised log-likelihoods."""
    return -float(np.mean(log_likelihoods))


def snne(similarities: npt.ArrayLike, temperature: float = 1.0) -> float:
    """Semantic nearest-neighbour entropy: -(1/K) sum_i ln sum_j exp(f_ij / temperature), f_ii included.

    :param similarities: f, shape (K, K), such as ROUGE-L.
    """
    scaled = np.asarray(similarities, dtype=np.float64) / temperature
    most = scaled.max(axis=1, keepdims=True)
    return -float(np.mean(np.log(np.exp(scaled - most).sum(axis=1)) + most[:, 0]))


def degree_uncertainty(similarities: npt.ArrayLike) -> float:
    """U = (K^2 - sum_ij W_ij) / K^2: mean pairwise distance (Lin 2023), W symmetric with ones on its diagonal."""
    weights = np.asarray(similarities, dtype=np.float64)
    return float(1.0 - weights.sum() / weights.size)


def rouge_l(a: Sequence[str], b: Sequence[str]) -> float:
    """F1 of the longest common subsequence of two token lists; 1 for two empty ones."""
    if not a or not b:
        return float(not a and not b)
    row = [0] * (len(b) + 1)
    for token in a:
        previous = 0
        for j, other in enumerate(b, 1):
            previous, row[j] = row[j], previous + 1 if token == other else max(row[j], row[j - 1])
    return 2 * row[-1] / (len(a) + len(b))


def counts(semantic_ids: Sequence[int]) -> Floats:
    """Members of each cluster, shape (n_clusters,)."""
    return np.array(list(Counter(int(i) for i in semantic_ids).values()), dtype=np.float64)


def shannon(probabilities: npt.ArrayLike) -> float:
    """-sum p ln p in nats, +0.0 for a certain outcome; zeros count as nothing."""
    p = np.asarray(probabilities, dtype=np.float64)
    p = p[p > 0]
    return _positive(-float(np.sum(p * np.log(p))))


def _positive(value: float) -> float:
    """Rounding may leave -0.0 or a little less than nothing."""
    return max(value, 0.0) + 0.0
