"""The heads of a router behind one interface: features in, a raw score out, higher where the cloud model does better.

Similarity-weighted, k nearest neighbours, logistic regression, a small network, matrix factorisation (arXiv 2502.11021,
section 2.3; RouteLLM, arXiv 2406.18665). Targets are soft, in [0, 1]; every row has a weight. A raw score is made a
probability afterwards (calibration). Knows no text, no file and no ONNX.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edge_agent.training.logistic import Floats, fit_logistic, log_loss, sigmoid


@dataclass(frozen=True, slots=True)
class Examples:
    """What a head learns from."""

    features: npt.NDArray[Any]
    """(n, d): the L2-normalised embedding, then the text features."""
    target: Floats
    """(n,) in [0, 1]."""
    weight: Floats
    """(n,), positive."""
    source: tuple[str, ...]
    """(n,): where a row comes from; sources differ in level, and that is not to be learned."""
    group: tuple[str, ...]
    """(n,): rows of one group are never on two sides of a split."""
    dimension: int
    """Length of the embedding."""

    def rows(self, chosen: npt.NDArray[Any]) -> Examples:
        """Some of the rows, by index or mask."""
        index = np.arange(len(self.target))[chosen]
        parts = (self.features[index], self.target[index], self.weight[index])
        names = (tuple(self.source[i] for i in index), tuple(self.group[i] for i in index))
        return Examples(*parts, *names, self.dimension)


class Head(Protocol):
    """A trained head."""

    def raw(self, features: npt.NDArray[Any]) -> Floats:
        """(n, d) features to (n,) raw scores."""
        ...


# Closed forms


@dataclass(frozen=True, slots=True)
class LinearHead:
    """raw = features @ weight + bias; logistic regression and matrix factorisation end as one of these."""

    weight: Floats
    bias: float

    def raw(self, features: npt.NDArray[Any]) -> Floats:
        return np.asarray(features, dtype=np.float64) @ self.weight + self.bias


@dataclass(frozen=True, slots=True)
class SimilarityHead:
    """Similarity-weighted mean of the targets: sum w_i y_i / sum w_i, w_i = v_i gamma^cos (equations 5 to 8).

    With two models the weighted Bradley-Terry fit has this closed form.
    """

    embeddings: npt.NDArray[Any]
    """(n, dimension), L2-normalised."""
    target: Floats
    weight: Floats
    gamma: float

    def raw(self, features: npt.NDArray[Any]) -> Floats:
        similarity = np.asarray(features[:, : self.embeddings.shape[1]] @ self.embeddings.T, dtype=np.float64)
        weights = self.weight * np.exp(np.log(self.gamma) * (similarity - 1))
        return np.asarray(weights @ self.target / weights.sum(axis=1))


@dataclass(frozen=True, slots=True)
class NeighbourHead:
    """Mean target of the k most similar questions; ties are broken by how similar they are."""

    embeddings: npt.NDArray[Any]
    target: Floats
    k: int

    def raw(self, features: npt.NDArray[Any]) -> Floats:
        similarity = np.asarray(features[:, : self.embeddings.shape[1]] @ self.embeddings.T, dtype=np.float64)
        nearest = np.argsort(-similarity, axis=1, kind="stable")[:, : self.k]
        closeness = np.take_along_axis(similarity, nearest, axis=1).mean(axis=1)
        return np.asarray(self.target[nearest].mean(axis=1) + NEIGHBOUR_TIE * closeness)


NEIGHBOUR_TIE = 1e-4


@dataclass(frozen=True, slots=True)
class NetworkHead:
    """raw = relu(features @ w1 + b1) @ w2 + b2."""

    w1: Floats
    b1: Floats
    w2: Floats
    b2: float

    def raw(self, features: npt.NDArray[Any]) -> Floats:
        hidden = np.maximum(np.asarray(features, dtype=np.float64) @ self.w1 + self.b1, 0)
        return np.asarray(hidden @ self.w2 + self.b2)


def fit_similarity(examples: Examples, seed: int = 0, *, gamma: float = 10.0) -> SimilarityHead:
    """RouteLLM's weights, gamma = 10."""
    return SimilarityHead(_stored(examples), examples.target, examples.weight, gamma)


def fit_neighbours(examples: Examples, seed: int = 0, *, k: int = 50) -> NeighbourHead:
    """The paper's k is 1; ours is 50 (a winner of one neighbour is no score)."""
    return NeighbourHead(_stored(examples), examples.target, min(k, len(examples.target)))


L2_CHOICES = (30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0)
"""Tried by `fit_logreg` for a thousand rows; scaled with the total weight of the rows."""


def fit_logreg(examples: Examples, seed: int = 0) -> LinearHead:
    """Logistic regression; the penalty is the one of L2_CHOICES with the least cross-entropy on held-out groups."""
    mean, deviation = _standard(examples.features)
    standard = (examples.features - mean) / deviation
    folds = folds_of(examples.group, 4, seed)

    def loss(l2: float) -> float:
        logits = np.zeros(len(folds))
        for k in range(4):
            logits[folds == k] = standard[folds == k] @ _weights(examples, standard, folds != k, l2)
        return _centred_loss(logits, examples)

    l2 = min(L2_CHOICES, key=loss) if len(set(folds)) == 4 else L2_CHOICES[-1]
    w = _weights(examples, standard, np.ones(len(folds), dtype=bool), l2) / deviation
    return LinearHead(w, float(-mean @ w))


def _weights(examples: Examples, standard: Floats, chosen: npt.NDArray[np.bool_], l2: float) -> Floats:
    part = examples.rows(chosen)
    return fit_logistic(
        standard[chosen], part.target, part.weight, l2=l2 * part.weight.sum() / 1000, sources=part.source
    )


def _centred_loss(logits: Floats, examples: Examples) -> float:
    """Cross-entropy with the best intercept for each source: what is left is what the weights are for."""
    total, sources = 0.0, np.array(examples.source)
    for source in np.unique(sources):
        y, v = examples.target[sources == source], examples.weight[sources == source]
        total += float(v.sum()) * _best_intercept_loss(logits[sources == source], y, v)
    return total


def _best_intercept_loss(logits: Floats, targets: Floats, weights: Floats) -> float:
    offset = 0.0
    for _ in range(30):
        p = sigmoid(logits + offset)
        offset -= float(np.sum(weights * (p - targets)) / max(np.sum(weights * p * (1 - p)), 1e-9))
        offset = min(max(offset, -30.0), 30.0)
    return log_loss(sigmoid(logits + offset), targets, weights)


# By gradient


@dataclass(slots=True)
class Adam:
    """Adam with decoupled weight decay (Loshchilov & Hutter, 2019)."""

    rate: float
    decay: float
    _step: int = 0
    _first: list[Floats] = field(default_factory=list)
    _second: list[Floats] = field(default_factory=list)

    def update(self, parameters: list[Floats], gradients: list[Floats]) -> None:
        """One step; the parameters change in place."""
        if not self._first:
            self._first = [np.zeros_like(p) for p in parameters]
            self._second = [np.zeros_like(p) for p in parameters]
        self._step += 1
        for p, g, m, v in zip(parameters, gradients, self._first, self._second, strict=True):
            m += 0.1 * (g - m)
            v += 0.001 * (g * g - v)
            corrected = m / (1 - 0.9**self._step)
            p -= self.rate * (corrected / (np.sqrt(v / (1 - 0.999**self._step)) + 1e-8) + self.decay * p)


Network = Callable[[list[Floats], Floats, Floats], tuple[Floats, list[Floats]]]
"""(parameters, rows, gradient at the logits) -> (logits, gradients); the gradient may be empty: logits only."""


def fit_network(examples: Examples, seed: int = 0, *, width: int = 32, epochs: int = 200) -> NetworkHead:
    """Two layers (equation 10), Adam, stopped where the cross-entropy on held-out groups is least."""
    mean, deviation = _standard(examples.features)
    random = np.random.default_rng(seed)
    d = examples.features.shape[1]
    start = [
        random.normal(0, np.sqrt(1 / d), (d, width)),
        np.zeros(width),
        random.normal(0, np.sqrt(1 / width), width),
        np.zeros(1),
    ]

    def network(p: list[Floats], x: Floats, dz: Floats) -> tuple[Floats, list[Floats]]:
        hidden = np.maximum(x @ p[0] + p[1], 0)
        logits = hidden @ p[2] + p[3]
        if not len(dz):
            return logits, []
        dh = np.outer(dz, p[2]) * (hidden > 0)
        return logits, [x.T @ dh, dh.sum(axis=0), hidden.T @ dz, np.array([dz.sum()])]

    w1, b1, w2, b2 = _descend(network, start, examples, (examples.features - mean) / deviation, random, epochs)
    w1 = w1 / deviation[:, None]
    return NetworkHead(w1, b1 - mean @ w1, w2, float(b2[0]))


def fit_factors(examples: Examples, seed: int = 0, *, width: int = 128, epochs: int = 200) -> LinearHead:
    """Matrix factorisation (equation 9): score = v . (P embedding), v the difference of the two models' vectors.

    As in RouteLLM the embeddings get noise while training; with two models it is a logistic regression of low rank.
    """
    random = np.random.default_rng(seed)
    d = examples.dimension
    start = [random.normal(0, np.sqrt(1 / d), (d, width)), random.normal(0, np.sqrt(1 / width), width), np.zeros(1)]

    def network(p: list[Floats], x: Floats, dz: Floats) -> tuple[Floats, list[Floats]]:
        if len(dz):
            x = x + random.normal(0, FACTOR_NOISE / np.sqrt(d), x.shape)
        logits = x @ (p[0] @ p[1]) + p[2]
        if not len(dz):
            return logits, []
        through = x.T @ dz
        return logits, [np.outer(through, p[1]), p[0].T @ through, np.array([dz.sum()])]

    p, v, bias = _descend(network, start, examples, np.asarray(_embeddings(examples), float), random, epochs)
    weight = np.zeros(examples.features.shape[1])
    weight[:d] = p @ v
    return LinearHead(weight, float(bias[0]))


FACTOR_NOISE = 0.3
"""Length of the noise that `fit_factors` adds to an embedding of length 1."""


def _descend(
    network: Network, start: list[Floats], examples: Examples, x: Floats, random: np.random.Generator, epochs: int
) -> list[Floats]:
    """The parameters with the least cross-entropy on a fifth of the groups, among those after each epoch."""
    held = folds_of(examples.group, 5, int(random.integers(2**31))) == 0
    rows = np.flatnonzero(~held)
    y, v = examples.target, examples.weight / examples.weight.mean()
    parameters, best, least, since = start, [p.copy() for p in start], np.inf, 0
    optimizer = Adam(rate=1e-3, decay=1e-2)
    for _ in range(epochs):
        random.shuffle(rows)
        for batch in np.array_split(rows, max(len(rows) // 64, 1)):
            p = sigmoid(network(parameters, x[batch], np.empty(0))[0])
            gradients = network(parameters, x[batch], v[batch] * (p - y[batch]) / len(batch))[1]
            optimizer.update(parameters, gradients)
        loss = log_loss(sigmoid(network(parameters, x[held], np.empty(0))[0]), y[held], v[held])
        since += 1
        if loss < least:
            best, least, since = [p.copy() for p in parameters], loss, 0
        if since >= PATIENCE:
            break
    return best


PATIENCE = 20
"""Epochs without progress after which training ends."""


HEADS: dict[str, Callable[[Examples, int], Head]] = {
    "sw": fit_similarity,
    "knn": fit_neighbours,
    "logreg": fit_logreg,
    "mlp": fit_network,
    "mf": fit_factors,
}
"""Name of a head -> (examples, seed) -> the trained head."""


def folds_of(groups: tuple[str, ...], folds: int, seed: int) -> npt.NDArray[np.intp]:
    """(n,) the fold of each row; a group is in one fold, and folds are about equally large."""
    random = np.random.default_rng(seed)
    names, counts = np.unique(np.array(groups), return_counts=True)
    order = random.permutation(len(names))
    order = order[np.argsort(-counts[order], kind="stable")]
    sizes, fold = np.zeros(folds), dict[str, int]()
    for i in order:
        fold[str(names[i])] = int(np.argmin(sizes))
        sizes[fold[str(names[i])]] += counts[i]
    return np.array([fold[group] for group in groups])


def int8_step(values: npt.NDArray[Any]) -> float:
    """The step at which the largest value is 127 steps."""
    return float(np.abs(values).max()) / 127 or 1.0


def _stored(examples: Examples) -> npt.NDArray[Any]:
    """The embeddings as a head file keeps them, in int8 steps."""
    step = int8_step(_embeddings(examples))
    return np.asarray(np.round(_embeddings(examples) / step) * step, dtype=np.float32)


def _embeddings(examples: Examples) -> npt.NDArray[Any]:
    return examples.features[:, : examples.dimension]


def _standard(features: npt.NDArray[Any]) -> tuple[Floats, Floats]:
    rows = np.asarray(features, dtype=np.float64)
    return rows.mean(axis=0), rows.std(axis=0) + 1e-6
