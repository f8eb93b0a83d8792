"""Learns a router's head from routing labels: features, logistic regression, calibration, threshold, figures.

score(x) = sigmoid(w x + b) estimates P(strong right and weak wrong | x), x = embedding and text features. The weights
minimise  sum_i v_i BCE(y_i, sigmoid(w x_i + b_source(i))) + l2/2 |w|^2  over soft targets y in [0, 1]. Each source has
an intercept of its own while w is learned: the sources' weak systems differ in strength, and without it w would learn
which source a question comes from. Calibration (Platt) then gives all questions one intercept and one scale.
Writes no bundle: see router_export.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm  # type: ignore[import-untyped]

from edge_agent import text_features
from edge_agent.router import Encoder
from edge_agent.training.evaluation import Floats, routing_figures
from edge_agent.training.label_sources import RoutingLabel, fold_of, split_of

Rows = Sequence[int] | npt.NDArray[np.intp]
FOLDS = 5
QUALITIES = ("weak", "strong", "cloud_wins")
L2_CHOICES = (300.0, 1000.0, 3000.0, 10000.0, 30000.0, 100000.0)
WORDS = -len(text_features.NAMES) + text_features.NAMES.index("words")
"""The column of the word count, the baseline every router has to beat."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a training run may choose."""

    seed: int = 0
    """Decides the splits."""
    cloud_share: float = 0.33
    """The threshold sends this share of the calibration questions to the cloud."""
    source_weight: dict[str, float] | None = None
    """Weight of a source's questions, where it is not 1."""

    def weights(self, labels: Sequence[RoutingLabel]) -> Floats:
        """One weight for each label."""
        return np.array([(self.source_weight or {}).get(label.source, 1.0) for label in labels])


@dataclass(frozen=True, slots=True)
class LogisticHead:
    """P(the cloud model does better) = sigmoid(features @ weight + bias)."""

    weight: Floats
    bias: float

    def logits(self, features: npt.NDArray[Any]) -> Floats:
        """Log-odds, one for each row."""
        return np.asarray(features, dtype=np.float64) @ self.weight + self.bias

    def scores(self, features: npt.NDArray[Any]) -> Floats:
        """Scores in (0, 1), one for each row."""
        return sigmoid(self.logits(features))


@dataclass(frozen=True, slots=True)
class TrainedHead:
    """A calibrated head with its threshold and how it came about."""

    head: LogisticHead
    threshold: float
    calibration: dict[str, Any]


@dataclass(frozen=True, slots=True)
class TrainedRouter:
    """A head and what its card says of it."""

    trained: TrainedHead
    metrics: dict[str, Any]
    """held_out: this head on questions it never saw; cross_validated: heads made the same way, on all questions."""
    trained_on: dict[str, Any]


def train_router(
    labels: Sequence[RoutingLabel],
    features: npt.NDArray[Any],
    settings: Settings = Settings(),
    *,
    systems: Mapping[str, object] | None = None,
) -> TrainedRouter:
    """Splits by question, trains, calibrates and measures.

    :param features: a row for each label, from `features_of`.
    :param systems: whose answers the labels compare; goes on the card.
    """
    splits: dict[str, list[int]] = {"train": [], "calibrate": [], "test": []}
    for i, label in enumerate(labels):
        splits[split_of(label, seed=settings.seed)].append(i)
    trained = train_head(labels, features, splits["train"], splits["calibrate"], settings)
    test = splits["test"]
    held_out = [labels[i] for i in test]
    metrics = {
        "held_out": _figures(held_out, features[test], trained.head.scores(features[test]), trained.threshold),
        "cross_validated": _figures(labels, features, cross_validated(labels, features, settings), trained.threshold),
    }
    counts = {name: dict(Counter(labels[i].source for i in rows)) for name, rows in splits.items()}
    trained_on = {"questions": counts, "seed": settings.seed, "weights": settings.source_weight, **(systems or {})}
    return TrainedRouter(trained, metrics, trained_on)


def cross_validated(labels: Sequence[RoutingLabel], features: npt.NDArray[Any], settings: Settings) -> Floats:
    """Scores of all questions, each by a head trained and calibrated on other folds than its own."""
    fold = np.array([fold_of(label, folds=FOLDS, seed=settings.seed) for label in labels])
    scores = np.zeros(len(labels))
    for k in range(FOLDS):
        calibrate = (k + 1) % FOLDS
        train, held = (np.flatnonzero(part) for part in ((fold != k) & (fold != calibrate), fold == calibrate))
        scores[fold == k] = train_head(labels, features, train, held, settings).head.scores(features[fold == k])
    return scores


def _figures(
    labels: Sequence[RoutingLabel], features: npt.NDArray[Any], score: Floats, threshold: float
) -> dict[str, Any]:
    """The figures over all questions and over each source's."""
    weak, strong, cloud_wins = (np.array([getattr(label, name) for label in labels]) for name in QUALITIES)
    sources = np.array([label.source for label in labels])
    parts = {"all": np.ones(len(labels), dtype=bool)} | {str(name): sources == name for name in np.unique(sources)}
    words = np.asarray(features[:, WORDS], dtype=np.float64)
    figures: dict[str, Any] = {}
    for name, p in parts.items():
        try:
            figures[name] = routing_figures(score[p], words[p], weak[p], strong[p], cloud_wins[p], threshold=threshold)
        except ValueError as error:  # a few questions of a source may by chance favour the weak model
            figures[name] = {"n": int(p.sum()), "unusable": str(error)}
    return figures


def sigmoid(logits: Floats) -> Floats:
    """1 / (1 + exp(-x)) without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * logits))


def features_of(
    encoder: Encoder, texts: Sequence[str], *, cache: Path | None = None, name: str = "encoder"
) -> npt.NDArray[np.float32]:
    """The features of texts, one at a time and unpadded as on the device; shape (texts, features).

    :param cache: directory that keeps them for the next run.
    :param name: tells encoders apart in the cache.
    """
    path = cache / f"features-{name}-v{text_features.VERSION}-{encoder.max_tokens}.npz" if cache else None
    known = _read_cache(path)
    keys = [hashlib.sha256(text.encode("utf-8", "replace")).hexdigest() for text in texts]
    missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
    for key, text in tqdm(missing.items(), desc="embedding", disable=None):
        known[key] = encoder.features(text)
    if path and missing:
        _write_cache(path, known)
    return np.stack([known[key] for key in keys])


def fit_logistic(features: Floats, targets: Floats, weights: Floats, *, l2: float, sources: Sequence[str]) -> Floats:
    """The weight vector of the module's formula, by Newton's method; features should be standardized."""
    names = sorted(set(sources))
    intercepts = np.array([[source == name for name in names] for source in sources], dtype=float)
    rows = np.hstack([features, intercepts])
    penalty = np.concatenate([np.full(features.shape[1], l2), np.full(len(names), 1e-9)])
    theta = np.zeros(rows.shape[1])
    for _ in range(50):
        p = sigmoid(rows @ theta)
        gradient = rows.T @ (weights * (p - targets)) + penalty * theta
        hessian = (rows.T * (weights * p * (1 - p))) @ rows + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient)
        theta -= step
        if np.abs(step).max() < 1e-8:
            break
    return theta[: features.shape[1]]


def platt(logits: Floats, targets: Floats, weights: Floats) -> tuple[float, float]:
    """(slope, offset) that make sigmoid(slope * logit + offset) calibrated; the slope is never negative."""
    scale = float(np.std(logits)) or 1.0
    rows = np.column_stack([logits / scale, np.ones(len(logits))])
    theta = np.zeros(2)
    for _ in range(50):
        p = sigmoid(rows @ theta)
        hessian = (rows.T * (weights * p * (1 - p))) @ rows + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, rows.T @ (weights * (p - targets)))
        theta -= step
        if np.abs(step).max() < 1e-10:
            break
    return max(float(theta[0]), 0.0) / scale, float(theta[1])


def log_loss(scores: Floats, targets: Floats, weights: Floats) -> float:
    """Mean cross-entropy in nats."""
    p = np.clip(scores, 1e-9, 1 - 1e-9)
    return float(-np.average(targets * np.log(p) + (1 - targets) * np.log(1 - p), weights=weights))


def train_head(
    labels: Sequence[RoutingLabel], features: npt.NDArray[Any], train: Rows, held: Rows, settings: Settings
) -> TrainedHead:
    """Fits on the `train` rows; the `held` rows choose l2, calibrate and set the threshold.

    Standardization and calibration are folded into the weights: the head works on plain features.
    """
    rows, targets = np.asarray(features, dtype=np.float64), np.array([label.cloud_wins for label in labels])
    weights = settings.weights(labels)
    mean, deviation = rows[train].mean(axis=0), rows[train].std(axis=0) + 1e-6
    standard = (rows - mean) / deviation
    sources = [labels[i].source for i in train]
    trials = []
    for l2 in L2_CHOICES:
        w = fit_logistic(standard[train], targets[train], weights[train], l2=l2, sources=sources)
        logits = standard[held] @ w
        slope, offset = platt(logits, targets[held], weights[held])
        loss = log_loss(sigmoid(slope * logits + offset), targets[held], weights[held])
        trials.append((loss, l2, slope, offset, w))
    loss, l2, slope, offset, w = min(trials, key=lambda trial: trial[0])
    weight = slope * w / deviation
    head = LogisticHead(weight, float(offset - mean @ weight))
    calibration = {"method": "platt", "slope": round(slope, 4), "offset": round(offset, 4), "l2": l2, "n": len(held)}
    calibration |= {"log_loss": round(loss, 4), "folded_into_head": True}
    return TrainedHead(head, _threshold(head.scores(rows[held]), weights[held], settings.cloud_share), calibration)


def _threshold(scores: Floats, weights: Floats, cloud_share: float) -> float:
    """The score that this weighted share of the questions reaches, rounded to four places."""
    order = np.argsort(-scores)
    reached = np.searchsorted(np.cumsum(weights[order]), cloud_share * weights.sum())
    return round(float(scores[order][min(reached, len(scores) - 1)]), 4)


def _read_cache(path: Path | None) -> dict[str, npt.NDArray[np.float32]]:
    if path is None or not path.is_file():
        return {}
    with np.load(path) as stored:
        return dict(zip(stored["keys"].tolist(), stored["features"], strict=True))


def _write_cache(path: Path, known: Mapping[str, npt.NDArray[np.float32]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}-{os.getpid()}")
    with beside.open("wb") as file:
        np.savez(file, keys=np.array(list(known)), features=np.stack(list(known.values())))
    beside.replace(path)
