"""Trains the heads of a router from label sets: targets, folds, calibration, threshold, figures. Writes no bundle.

`score`, P(the cloud model does better), learns from every part of a recipe; each part says which labels it gives.
It is trained on all rows but the test split and calibrated on folds: every row's raw score comes from a head that did
not see its group. `acceptable`, P(the local answer is good enough), is trained on train and calibrated on dev.
The test split is left alone: figures come from it, and guarantees (edge_agent/guarantees.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent import text_features
from edge_agent.training.calibration import Calibration, calibration_figures, fit_calibration
from edge_agent.training.evaluation import Floats, routing_figures
from edge_agent.training.router_heads import HEADS, Examples, Head, folds_of
from edge_agent.training.training_rows import LABEL_SOURCES, TrainingRows, joined

FOLDS = 5
WORDS = -len(text_features.NAMES) + text_features.NAMES.index("words")
"""The column of the word count, the baseline every router has to beat."""
Progress = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Part:
    """One label set of a recipe and what is learned from it."""

    name: str
    rows: TrainingRows
    target: str
    """One of LABEL_SOURCES."""
    weight: float = 1.0
    """Of a row, for `score`."""
    same_local_model: bool = False
    """Whether its local model is the first part's: only then it says what answers of the device are acceptable."""

    def __post_init__(self) -> None:
        if self.target not in LABEL_SOURCES:
            raise ValueError(f"target: expected one of {', '.join(LABEL_SOURCES)}, found {self.target!r}")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a training run may choose."""

    head: str = "logreg"
    """Of `score`; one of HEADS. `acceptable` is always a logistic regression."""
    cloud_share: float = 0.33
    """The threshold sends this share of the first part's questions to the cloud."""
    seed: int = 0
    """Of folds and of heads that start at random."""


@dataclass(frozen=True, slots=True)
class CalibratedHead:
    """A head and what makes its raw scores probabilities."""

    head: Head
    calibration: Calibration

    def probabilities(self, features: npt.NDArray[Any]) -> Floats:
        """(n,) in (0, 1)."""
        return self.calibration.apply(self.head.raw(features))


@dataclass(frozen=True, slots=True)
class TrainedRouter:
    """Heads, the threshold on `score`, and what the card says of them."""

    heads: dict[str, CalibratedHead]
    threshold: float
    calibration: dict[str, Any]
    metrics: dict[str, Any]
    trained_on: dict[str, Any]


def train_router(
    parts: Sequence[Part],
    settings: Settings = Settings(),
    facts: Mapping[str, Any] | None = None,
    progress: Progress = str,
) -> TrainedRouter:
    """Trains both heads on the parts of a recipe; the first part is the pair of models the device will have.

    :param facts: for the card's `trained_on`, besides what is known here.
    :raises ValueError: for too few rows, targets that are all the same or no numbers, or a first part that nobody
        graded; nothing is written in any case.
    """
    _check(parts, settings)
    rows, target, weight = _pooled(parts)
    first = np.arange(len(rows)) < len(parts[0].rows)
    progress(f"score: {settings.head} on {np.sum(rows.split != 'test')} rows of {len(parts)} label sets")
    score, raw = _fit_score(rows, target, weight, first, settings)
    threshold = _threshold(score.calibration.apply(raw[first & (rows.split != "test")]), settings.cloud_share)
    device = np.repeat([part.same_local_model or i == 0 for i, part in enumerate(parts)], [len(p.rows) for p in parts])
    progress("acceptable: logistic regression")
    heads = {"score": score, "acceptable": _fit_acceptable(rows, device, first, settings)}
    calibration = {name: head.calibration.to_card() for name, head in heads.items()}
    progress("figures on the test split")
    metrics: dict[str, Any] = {part.name: _held_out(part, score, threshold) for part in parts}
    test = first & rows.graded & (rows.split == "test")
    acceptable = heads["acceptable"].probabilities(rows.features[test])
    metrics["acceptable"] = calibration_figures(acceptable, rows.weak[test])
    return TrainedRouter(heads, threshold, calibration, metrics, _trained_on(parts, settings, rows) | dict(facts or {}))


def _check(parts: Sequence[Part], settings: Settings) -> None:
    if settings.head not in HEADS:
        raise ValueError(f"head: expected one of {', '.join(HEADS)}, found {settings.head!r}")
    if not parts:
        raise ValueError("labels: expected at least one label set, found none")
    rows = parts[0].rows
    if not rows.graded.any():
        raise ValueError(f"labels: {parts[0].name}: expected rows with graded answers of both models, found none")
    for split in ("dev", "test"):
        if not (rows.graded & (rows.split == split)).any():
            raise ValueError(
                f"labels: {parts[0].name}: expected graded rows of the split {split}, found none; label more"
            )


def _pooled(parts: Sequence[Part]) -> tuple[TrainingRows, Floats, Floats]:
    """All rows, what `score` learns from each (NaN: nothing), and how much it counts."""
    rows = joined([part.rows for part in parts])
    target = np.concatenate([part.rows.targets[part.target] for part in parts])
    return rows, target, np.repeat([part.weight for part in parts], [len(part.rows) for part in parts])


def _fit_score(
    rows: TrainingRows, target: Floats, weight: Floats, first: npt.NDArray[np.bool_], settings: Settings
) -> tuple[CalibratedHead, Floats]:
    """The head, and every row's raw score by a head that did not see it (of the test split: by the final one)."""
    examples, index = rows.examples(target, rows.split != "test", weight)
    raw = np.full(len(rows), np.nan)
    raw[index] = out_of_fold(examples, settings.head, settings.seed)
    head = HEADS[settings.head](examples, settings.seed)
    unseen = np.isnan(raw)
    raw[unseen] = head.raw(rows.features[unseen])
    fitted = first & rows.graded & (rows.split != "test")
    # never isotonic: its steps make unequal scores equal, which loses ranks, and int8 noise falls off them
    return CalibratedHead(head, fit_calibration(raw[fitted], rows.cloud_wins[fitted], method="platt")), raw


def out_of_fold(examples: Examples, head: str, seed: int, folds: int = FOLDS) -> Floats:
    """(n,) raw scores, each by a head trained on the other folds."""
    fold, raw = folds_of(examples.group, folds, seed), np.zeros(len(examples.target))
    for k in np.unique(fold):
        raw[fold == k] = HEADS[head](examples.rows(fold != k), seed).raw(examples.features[fold == k])
    return raw


def _fit_acceptable(
    rows: TrainingRows, device: npt.NDArray[np.bool_], first: npt.NDArray[np.bool_], settings: Settings
) -> CalibratedHead:
    examples, _ = rows.examples(rows.weak_share, device & (rows.split == "train"))
    head = HEADS["logreg"](examples, settings.seed)
    dev = first & rows.graded & (rows.split == "dev")
    return CalibratedHead(head, fit_calibration(head.raw(rows.features[dev]), rows.weak[dev]))


def _threshold(scores: Floats, cloud_share: float) -> float:
    """The score that this share of the questions reaches, rounded to four places."""
    descending = np.sort(scores)[::-1]
    return round(float(descending[min(int(cloud_share * len(scores)), len(scores) - 1)]), 4)


def _held_out(part: Part, score: CalibratedHead, threshold: float) -> dict[str, Any]:
    """Figures on the part's test questions: all, generated and public ones."""
    rows, figures = part.rows, dict[str, Any]()
    test = rows.graded & (rows.split == "test")
    for name, chosen in {"all": test, "own": test & rows.own, "public": test & ~rows.own}.items():
        if not chosen.any() or (name != "all" and chosen.sum() == test.sum()):
            continue
        probabilities = score.probabilities(rows.features[chosen])
        words, wins = rows.features[chosen, WORDS].astype(float), rows.cloud_wins[chosen]
        try:
            figures[name] = routing_figures(
                probabilities, words, rows.weak[chosen], rows.strong[chosen], wins, threshold=threshold
            )
        except ValueError as error:  # few questions may by chance favour the weak model
            figures[name] = {"n": int(chosen.sum()), "unusable": str(error)}
        if 0 < wins.sum() < len(wins):
            figures[name] |= {"calibration": calibration_figures(probabilities, wins)}
    return figures


def _trained_on(parts: Sequence[Part], settings: Settings, rows: TrainingRows) -> dict[str, Any]:
    described: list[Mapping[str, Any]] = [
        {
            "label_set": part.name,
            "target": part.target,
            "weight": part.weight,
            "rows": {split: int(np.sum(part.rows.split == split)) for split in ("train", "dev", "test")},
        }
        for part in parts
    ]
    return {
        "label_source": " + ".join(dict.fromkeys(part.target for part in parts)),
        "head": settings.head,
        "n_train": int(np.sum(rows.split != "test")),
        "parts": described,
        "cloud_share": settings.cloud_share,
        "seed": settings.seed,
    }
