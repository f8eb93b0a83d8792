"""A label set as a router sees it: its scores beside how good both models' answers were. Chooses nothing."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from edge_agent import text_features
from edge_agent.router import RouterModel
from edge_agent.thresholds import Labelled
from edge_agent.training.label_set import read_label_set, router_features

Floats = npt.NDArray[np.float64]


def scored_labels(directory: Path, router: RouterModel, split: str) -> tuple[Labelled, str]:
    """(the questions for which both models' answers were graded, SHA-256 of the local model that gave them).

    :param split: train, dev or test; a guarantee needs one that the router never saw.
    :raises ValueError: when the set is damaged, has no such questions, or no embeddings of the router's encoder.
    """
    rows, card = read_label_set(directory)
    graded = [row for row in rows if row["correct_local"] is not None and row["correct_cloud"] is not None]
    chosen = [row for row in graded if row["split"] == split]
    if not chosen:
        found = f"{len(graded)} graded questions, none of the split {split}"
        raise ValueError(f"expected questions of the split {split} with graded answers, found {found}; name another")
    estimates = router.heads(_features(chosen, router))
    local, cloud = (np.array([row[name] for row in chosen], dtype=np.float64) for name in _CORRECT)
    labelled = Labelled(estimates["score"], local, cloud, estimates.get("acceptable"))
    return labelled, str(card["models"]["local"]["sha256"])


_CORRECT = ("correct_local", "correct_cloud")


def _features(rows: list[dict[str, object]], router: RouterModel) -> npt.NDArray[np.float32]:
    """The embedding, then the text features this router reads, in its order."""
    found = router_features(rows, PurePosixPath(router.card.encoder).name)
    dimension = found.shape[1] - len(text_features.NAMES)
    columns = [dimension + text_features.NAMES.index(name) for name in router.card.features]
    return found[:, [*range(dimension), *columns]]
