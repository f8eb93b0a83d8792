"""Draws tokens for many sequences at once from the logits of the whole vocabulary. Pure numpy; knows no model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

_BLOCK = 512
_UNLIKELY = 1e-4
"""Candidates for top-p are first looked for above this fraction of the largest probability."""


@dataclass(frozen=True, slots=True)
class Draws:
    """What was drawn in one step."""

    tokens: npt.NDArray[np.int64]
    """(n_draws,)"""
    logprobs: Floats
    """(n_draws,) of the drawn token at temperature 1 and top-p 1, in nats: the model's own, whatever was drawn from."""


def draw(
    logits: Floats,
    uniform: npt.NDArray[np.float64],
    *,
    rows: npt.NDArray[np.intp],
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> Draws:
    """One token for each number of `uniform`; several may be drawn from one row.

    :param logits: (n_rows, n_vocab); not changed.
    :param uniform: (n_draws,), in [0, 1); NaN takes the likeliest token.
    :param rows: (n_draws,) the row of the logits each is drawn from.
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    weights = np.exp(shifted)
    log_total = np.log(weights.sum(axis=1, dtype=np.float32))
    tokens = shifted.argmax(axis=1)[rows]
    warm = np.flatnonzero(~np.isnan(uniform))
    if len(warm):
        heated = weights if temperature == 1 else np.exp(shifted / np.float32(temperature))
        tokens[warm] = _sampled(heated, rows[warm], uniform[warm], top_p)
    return Draws(tokens, shifted[rows, tokens] - log_total[rows])


def entropies(logits: Floats) -> Floats:
    """Shannon entropy of each row's softmax, in nats: (n_rows, n_vocab) -> (n_rows,)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    weights = np.exp(shifted)
    total = weights.sum(axis=1)
    entropy: Floats = np.log(total) - np.einsum("rv,rv->r", weights, shifted) / total
    return np.maximum(entropy, 0.0)


def _sampled(
    weights: Floats, rows: npt.NDArray[np.intp], uniform: npt.NDArray[np.float64], top_p: float
) -> npt.NDArray[np.int64]:
    if top_p >= 1:
        return _inverse_cdf(weights, rows, uniform)
    return np.array([_nucleus(weights[row], u, top_p) for row, u in zip(rows, uniform, strict=True)])


def _inverse_cdf(
    weights: Floats, rows: npt.NDArray[np.intp], uniform: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """The token at which the cumulated weights reach a share of their sum: in two levels, for speed and precision."""
    starts = np.arange(0, weights.shape[1], _BLOCK)
    cumulated = np.cumsum(np.add.reduceat(weights, starts, axis=1), axis=1, dtype=np.float64)
    tokens = np.empty(len(rows), dtype=np.int64)
    for i, (row, target) in enumerate(zip(rows, uniform * cumulated[rows, -1], strict=True)):
        block = min(int(np.searchsorted(cumulated[row], target, side="right")), len(starts) - 1)
        inside = np.cumsum(weights[row, starts[block] : starts[block] + _BLOCK], dtype=np.float64)
        rest = target - (cumulated[row, block - 1] if block else 0.0)
        tokens[i] = starts[block] + min(int(np.searchsorted(inside, rest, side="right")), len(inside) - 1)
    return tokens


def _nucleus(weights: Floats, uniform: float, top_p: float) -> int:
    """A token of the smallest set of likeliest tokens holding `top_p` of the mass (nucleus sampling, Holtzman 2020)."""
    wanted = float(weights.sum(dtype=np.float64)) * top_p
    candidates = np.flatnonzero(weights >= _UNLIKELY * weights.max())
    if weights[candidates].sum(dtype=np.float64) < wanted:
        candidates = np.arange(len(weights))
    order = candidates[np.argsort(-weights[candidates], kind="stable")]
    cumulated = np.cumsum(weights[order], dtype=np.float64)
    last = int(np.searchsorted(cumulated, wanted))
    chosen = np.searchsorted(cumulated[: last + 1], uniform * cumulated[min(last, len(order) - 1)], side="right")
    return int(order[min(int(chosen), last, len(order) - 1)])
