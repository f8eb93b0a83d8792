"""Label sets as arrays: what heads read, what each source of labels says, how the models really did. Trains nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.training.label_set import read_label_set, router_features
from edge_agent.training.labels import LabelRule, label
from edge_agent.training.logistic import Floats
from edge_agent.training.questions import OWN
from edge_agent.training.router_heads import Examples

Row = Mapping[str, Any]


def _entropy(rule: LabelRule) -> Callable[[Row], float | None]:
    def target(row: Row) -> float | None:
        if row["insufficient"]:
            return None
        return float(label(row["query_id"], row["semantic_ids_local"], row["semantic_ids_cloud"], rule).strong_wins)

    return target


def _soft_entropy(row: Row) -> float | None:
    return None if row["insufficient"] else row["strong_wins_soft"]


def _correct(row: Row) -> float | None:
    """1 where only the cloud model is right, 0 where only the local one is, 1/2 in between (near-greedy answers)."""
    if row["correct_local"] is None or row["correct_cloud"] is None:
        return None
    return 0.5 + 0.5 * (float(row["correct_cloud"]) - float(row["correct_local"]))


def _correct_shares(row: Row) -> float | None:
    """The same over all drawn answers: 1/2 + (share of the cloud's that are right - the local model's) / 2."""
    if row["correct_share_local"] is None or row["correct_share_cloud"] is None:
        return None
    return 0.5 + 0.5 * (float(row["correct_share_cloud"]) - float(row["correct_share_local"]))


def _combined(row: Row) -> float | None:
    """The mean of soft entropy and correctness shares, of those there are."""
    known = [value for value in (_soft_entropy(row), _correct_shares(row)) if value is not None]
    return sum(known) / len(known) if known else None


def _local_wrong(row: Row) -> float | None:
    """How often the local model is wrong, whatever the cloud model does: what escalation should not be trained on."""
    share = row["correct_share_local"]
    return None if share is None else 1 - float(share)


def _cloud_wrong(row: Row) -> float | None:
    """How often even the larger model is wrong: how hard a question is, for a cloud far beyond both."""
    share = row["correct_share_cloud"]
    return None if share is None else 1 - float(share)


LABEL_SOURCES: dict[str, Callable[[Row], float | None]] = {
    "entropy, paper's rule": _entropy("paper"),
    "entropy, z rule": _entropy("z"),
    "entropy, soft": _soft_entropy,
    "correctness": _correct,
    "correctness, soft": _correct_shares,
    "entropy + correctness": _combined,
    "local wrong": _local_wrong,
    "difficulty": _cloud_wrong,
}
"""Name -> the target in [0, 1] that a row gives for `score`; None: it gives none."""


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """The rows of label sets; every array has one entry a row."""

    features: npt.NDArray[np.float32]
    """(n, dimension + text features)."""
    dimension: int
    split: npt.NDArray[np.str_]
    """train, dev or test."""
    group: npt.NDArray[np.str_]
    """Rows of one group are never on two sides of a split."""
    source: npt.NDArray[np.str_]
    """The data set."""
    weak: Floats
    """Whether the local model's near-greedy answer is right, in [0, 1]; NaN when nobody knows."""
    strong: Floats
    weak_share: Floats
    """Share of the local model's drawn answers that is right; NaN when nobody knows."""
    strong_share: Floats
    targets: Mapping[str, Floats]
    """For each of LABEL_SOURCES; NaN where it says nothing."""

    def __len__(self) -> int:
        return len(self.split)

    @property
    def graded(self) -> npt.NDArray[np.bool_]:
        """Rows of which it is known how both models did."""
        return ~np.isnan(self.weak) & ~np.isnan(self.strong)

    @property
    def own(self) -> npt.NDArray[np.bool_]:
        """Rows of generated questions."""
        return np.asarray(self.source == OWN)

    @property
    def cloud_wins(self) -> Floats:
        """1 where the cloud model is right and the local one wrong."""
        return self.strong * (1 - self.weak)

    def examples(
        self, target: Floats | str, chosen: npt.NDArray[np.bool_], weight: Floats | None = None
    ) -> tuple[Examples, npt.NDArray[np.intp]]:
        """What to learn from, and which rows it is: the chosen ones that have a target.

        :raises ValueError: when there are fewer than MIN_EXAMPLES, or when all targets are the same.
        """
        y = self.targets[target] if isinstance(target, str) else target
        index = np.flatnonzero(chosen & ~np.isnan(y))
        if len(index) < MIN_EXAMPLES:
            raise ValueError(
                f"labels: expected at least {MIN_EXAMPLES} rows with a target, found {len(index)}; label more"
            )
        if np.ptp(y[index]) < 1e-9:
            raise ValueError(
                f"labels: expected different targets, found {len(index)} times {y[index[0]]:g}; label more"
            )
        v = np.ones(len(index)) if weight is None else weight[index]
        names = tuple(self.source[index].tolist()), tuple(self.group[index].tolist())
        return Examples(self.features[index], y[index], v, *names, self.dimension), index


MIN_EXAMPLES = 50
"""A head that is trained on fewer rows is noise."""


def read_training_rows(directory: Path, encoder: str) -> TrainingRows:
    """The rows of one label set. :raises ValueError: when it is not the set of its card, or lacks this encoder."""
    rows, _ = read_label_set(directory)
    return training_rows(rows, encoder)


def training_rows(rows: Sequence[Row], encoder: str) -> TrainingRows:
    """Label rows as arrays. :raises ValueError: for a target outside [0, 1] or without a number; names the row."""
    features = router_features(rows, encoder)
    if unknown := [row for row in rows if row["split"] not in ("train", "dev", "test")]:
        found = f"{unknown[0]['split']!r} in row {unknown[0]['query_id']}"
        raise ValueError(f"split: expected train, dev or test, found {found}; make the set again")
    targets = {name: _column(rows, name, source) for name, source in LABEL_SOURCES.items()}
    dimension = features.shape[1] - len(rows[0]["text_features"])
    group = [row["template"] or row["query_id"] for row in rows]
    weak, strong, weak_share, strong_share = (
        _column(rows, name, lambda row, name=name: row[name])  # type: ignore[misc]
        for name in ("correct_local", "correct_cloud", "correct_share_local", "correct_share_cloud")
    )
    split, source = np.array([row["split"] for row in rows]), np.array([row["dataset"] for row in rows])
    return TrainingRows(
        features, dimension, split, np.array(group), source, weak, strong, weak_share, strong_share, targets
    )


def joined(parts: Sequence[TrainingRows]) -> TrainingRows:
    """Several sets as one."""
    arrays = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in fields(TrainingRows)
        if field.name not in ("dimension", "targets")
    }
    targets = {name: np.concatenate([part.targets[name] for part in parts]) for name in LABEL_SOURCES}
    return TrainingRows(**arrays, dimension=parts[0].dimension, targets=targets)


def _column(rows: Sequence[Row], name: str, of: Callable[[Row], float | None]) -> Floats:
    values = np.full(len(rows), np.nan)
    for i, row in enumerate(rows):
        value = of(row)
        if value is not None:
            if not 0 <= float(value) <= 1:  # NaN too
                raise ValueError(f"labels: {name}: expected a number in [0, 1], found {value} in row {row['query_id']}")
            values[i] = float(value)
    return values
