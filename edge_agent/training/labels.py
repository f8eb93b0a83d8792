"""Two models' entropies and correctness to one label: should the cloud have been asked? Pure (2502.11021, section 2.2).

A preference label's `strong_wins` is 1 when the strong (cloud) model is the more certain one, 0 when the weak (local)
one is, 1/2 for a tie; soft labels lie between. Entropy is not correctness: both are kept, and mixed by `target`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edge_agent.training.semantic_entropy import discrete_entropy, entropy_variance

LabelRule = Literal["paper", "sym", "z"]
Z_THRESHOLD = 1.64
_RESAMPLES = 200


@dataclass(frozen=True, slots=True)
class PreferenceLabel:
    query_id: str
    entropy_local: float
    entropy_cloud: float
    """Discrete semantic entropies, nats."""
    strong_wins: float
    """Hard label: 1, 1/2 or 0."""
    strong_wins_soft: float
    """P(the strong model is the more certain one), in [0, 1]; equals the hard label for the rules without a z."""
    source: str
    """The rule that made it."""


def label(query_id: str, ids_local: Sequence[int], ids_cloud: Sequence[int], rule: LabelRule = "z") -> PreferenceLabel:
    """The label of one query from the semantic ids of both models' answers.

    :raises ValueError: when a model has fewer than two answers.
    """
    if min(len(ids_local), len(ids_cloud)) < 2:
        raise ValueError(f"query {query_id}: expected at least two answers of each model to compare their entropies")
    weak, strong = discrete_entropy(ids_local), discrete_entropy(ids_cloud)
    if rule == "z":
        z = z_score(ids_local, ids_cloud)
        hard, soft = hard_label(z), normal_cdf(z)
    else:
        hard = soft = paper_label(strong, weak) if rule == "paper" else symmetric_label(strong, weak)
    return PreferenceLabel(query_id, weak, strong, hard, soft, rule)


def paper_label(strong: float, weak: float, tau: float = 0.1) -> float:
    """Eq. 3-4: the less entropic model wins when |strong - weak| / strong > tau; what Eq. 3 leaves open is settled.

    Both 0 is a tie; strong 0 and weak above is a win of the strong model.
    """
    if strong == 0:
        return 0.5 if weak == 0 else 1.0
    return _winner(strong, weak, abs(strong - weak) / strong, tau)


def symmetric_label(strong: float, weak: float, tau: float = 0.1) -> float:
    """Eq. 3-4 with max(strong, weak) below the line: swapping the models swaps the label."""
    largest = max(strong, weak)
    return 0.5 if largest == 0 else _winner(strong, weak, abs(strong - weak) / largest, tau)


def z_score(ids_local: Sequence[int], ids_cloud: Sequence[int]) -> float:
    """(H_weak - H_strong) in standard errors: positive when the strong model is the more certain one.

    The variance of each entropy is the larger of the plug-in one and a bootstrap's, since the plug-in variance is 0
    whenever all counts are equal; (ln 2 / K)^2 stands for the resolution of K answers.
    """
    resolution = math.log(2) / min(len(ids_local), len(ids_cloud))
    variance = _variance(ids_local) + _variance(ids_cloud) + resolution**2
    return (discrete_entropy(ids_local) - discrete_entropy(ids_cloud)) / math.sqrt(variance)


def hard_label(z: float, threshold: float = Z_THRESHOLD) -> float:
    """1, 1/2 or 0: a winner only beyond `threshold` standard errors."""
    return 1.0 if z > threshold else 0.0 if z < -threshold else 0.5


def target(
    strong_wins: float, correct_local: bool | None, correct_cloud: bool | None, *, correctness_weight: float = 0.5
) -> float:
    """A training target from certainty and correctness: their weighted mean where both are known.

    Correctness alone is 1/2 + (cloud - local) / 2.
    """
    if correct_local is None or correct_cloud is None:
        return strong_wins
    correct = 0.5 + 0.5 * (int(correct_cloud) - int(correct_local))
    return (1 - correctness_weight) * strong_wins + correctness_weight * correct


def normal_cdf(z: float) -> float:
    """Phi(z)."""
    return 0.5 * math.erfc(-z / math.sqrt(2))


def _winner(strong: float, weak: float, difference: float, tau: float) -> float:
    if difference <= tau:
        return 0.5
    return 1.0 if strong < weak else 0.0


def _variance(semantic_ids: Sequence[int]) -> float:
    return max(entropy_variance(semantic_ids), bootstrap_variance(semantic_ids))


def bootstrap_variance(semantic_ids: Sequence[int]) -> float:
    """Variance of the discrete entropy over resamples of the answers; the same answers give the same number."""
    ids = np.unique(np.asarray(semantic_ids), return_inverse=True)[1]
    k = len(ids)
    drawn = np.random.default_rng(0).integers(0, k, (_RESAMPLES, k))
    shares = np.stack([(ids[drawn] == c).mean(axis=1) for c in range(ids.max() + 1)])
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return float((-(shares * logs).sum(axis=0)).var())
