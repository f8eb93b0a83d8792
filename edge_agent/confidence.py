"""Token-level uncertainty from logits. Knows numpy and nothing of models, sampling or routing."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.types import Uncertainty


class TokenUncertainty:
    """Entropy and log-probability of each generated token, as the model saw it (temperature 1, no truncation), in nats.

    For logits x with maximum m, e = exp(x - m) and S = sum(e):  log p_i = x_i - m - log S  and
    H = -sum(p log p) = log S - sum(e (x - m)) / S.  One pass over the vocabulary, in two buffers that are kept.
    """

    def __init__(self, n_vocab: int):
        self._shifted = np.empty(n_vocab, dtype=np.float32)
        self._exp = np.empty(n_vocab, dtype=np.float32)
        self.entropies: list[float] = []
        self.logprobs: list[float] = []

    def add(self, logits: npt.NDArray[Any], token: int) -> None:
        """Take in one step: logits of shape (n_vocab,) and the token that was drawn."""
        np.subtract(logits, logits.max(), out=self._shifted)
        np.exp(self._shifted, out=self._exp)
        total = float(self._exp.sum())
        log_total = float(np.log(total))
        self.entropies.append(max(0.0, log_total - float(self._exp @ self._shifted) / total))
        self.logprobs.append(float(self._shifted[token]) - log_total)

    def result(self) -> Uncertainty | None:
        """The answer's uncertainty; None before the first token."""
        if not self.entropies:
            return None
        return Uncertainty(
            mean_entropy=float(np.mean(self.entropies)),
            max_entropy=float(np.max(self.entropies)),
            mean_logprob=float(np.mean(self.logprobs)),
        )
