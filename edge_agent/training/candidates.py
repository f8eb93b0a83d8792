"""Every source of labels with every head, at equal data: what the shipped router is compared with. Writes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.training.logistic import Floats
from edge_agent.training.router_heads import HEADS, Head
from edge_agent.training.training_rows import TrainingRows, read_training_rows

PAIR_SOURCES = (
    "entropy, paper's rule",
    "entropy, z rule",
    "entropy, soft",
    "correctness",
    "correctness, soft",
    "entropy + correctness",
    "local wrong",
)
"""Of LABEL_SOURCES, those that are known for every row of a pair's label set."""
PREFERENCE = "preference"
"""Human verdicts on the answers of two other models, to other questions."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A head trained on one source of labels."""

    name: str
    label_source: str
    head: str
    n_train: int
    trained: Head

    def scores(self, features: npt.NDArray[Any]) -> Floats:
        """Raw scores: their order is what counts; (n, d) to (n,)."""
        return self.trained.raw(features)


def candidates(
    label_set: Path, encoder: str, *, preferences: Path | None = None, seed: int = 0, n_train: int | None = None
) -> list[Candidate]:
    """All of them, trained on the same rows of the train split: those that every source has a label for.

    :param preferences: a label set of another pair, of which as many rows are drawn.
    :param n_train: use only this many rows, drawn with the seed.
    """
    rows = read_training_rows(label_set, encoder)
    known = (rows.split == "train") & rows.graded
    for source in PAIR_SOURCES:
        known &= ~np.isnan(rows.targets[source])
    chosen = _drawn(known, n_train or int(known.sum()), seed)
    sets = [(source, rows, source, chosen) for source in PAIR_SOURCES]
    if preferences is not None:
        others = read_training_rows(preferences, encoder)
        sets += [(PREFERENCE, others, "correctness, soft", _drawn(others.split == "train", int(chosen.sum()), seed))]
    return [_trained(name, part, target, mask, head, seed) for name, part, target, mask in sets for head in HEADS]


def _trained(
    source: str, rows: TrainingRows, target: str, chosen: npt.NDArray[np.bool_], head: str, seed: int
) -> Candidate:
    examples, index = rows.examples(target, chosen)
    return Candidate(f"{source}, {head}", source, head, len(index), HEADS[head](examples, seed))


def _drawn(mask: npt.NDArray[np.bool_], n: int, seed: int) -> npt.NDArray[np.bool_]:
    """n of the rows of a mask, or all of them when there are fewer."""
    index = np.random.default_rng(seed).permutation(np.flatnonzero(mask))[:n]
    drawn = np.zeros(len(mask), dtype=bool)
    drawn[index] = True
    return drawn
