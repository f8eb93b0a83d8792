"""Logistic regression and its parts, by Newton's method. Pure numpy; knows no text, no file and no router."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def sigmoid(logits: Floats) -> Floats:
    """1 / (1 + exp(-x)) without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * logits))


def log_loss(scores: Floats, targets: Floats, weights: Floats) -> float:
    """Weighted mean of -(y ln p + (1 - y) ln(1 - p)), in nats."""
    p = np.clip(scores, 1e-9, 1 - 1e-9)
    return float(-np.average(targets * np.log(p) + (1 - targets) * np.log(1 - p), weights=weights))


def fit_logistic(features: Floats, targets: Floats, weights: Floats, *, l2: float, sources: Sequence[str]) -> Floats:
    """The w that minimises sum_i v_i BCE(y_i, sigmoid(w x_i + b_source(i))) + l2/2 |w|^2, by Newton's method.

    Features should be standardized. Each source has an intercept of its own: sources differ in how often the cloud
    wins, and without it w would learn which source a question comes from.
    """
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
    centre, scale = float(np.average(logits, weights=weights)), float(np.std(logits)) or 1.0
    rows = np.column_stack([(logits - centre) / scale, np.ones(len(logits))])
    theta = np.zeros(2)
    for _ in range(50):
        p = sigmoid(rows @ theta)
        hessian = (rows.T * (weights * p * (1 - p))) @ rows + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, rows.T @ (weights * (p - targets)))
        theta -= step
        if np.abs(step).max() < 1e-10:
            break
    if theta[0] < 0:  # the best without a slope is the share of positives
        share = float(np.clip(np.average(targets, weights=weights), 1e-6, 1 - 1e-6))
        return 0.0, float(np.log(share / (1 - share)))
    slope = float(theta[0]) / scale
    return slope, float(theta[1]) - slope * centre
