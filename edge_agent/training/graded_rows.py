"""Graded answers of other systems (label_sources) as rows of a label set: correctness, no samples and no entropies."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from edge_agent.training.label_rows import FORMAT
from edge_agent.training.label_set import SCHEMA, Embedders, router_inputs
from edge_agent.training.label_sources import RoutingLabel, split_of

SPLITS = {"train": "train", "calibrate": "dev", "test": "test"}


def graded_rows(labels: Sequence[RoutingLabel], embedders: Embedders, weak: str, strong: str) -> list[dict[str, Any]]:
    """One row for each label, without its text.

    :param weak: names of the weak systems, for the card's sake; likewise `strong`.
    """
    return [_row(label, weak, strong) | router_inputs(label.text, embedders) for label in labels]


def _row(label: RoutingLabel, weak: str, strong: str) -> dict[str, Any]:
    digest = hashlib.sha256(label.text.encode()).hexdigest()
    known: dict[str, Any] = {
        "format": FORMAT,
        "query_id": f"{label.source}-{digest[:16]}",
        "dataset": label.source,
        "question_sha256": digest,
        "template": f"{label.source}.{hashlib.sha256(label.key.encode()).hexdigest()[:16]}",
        "split": SPLITS[split_of(label)],
        "rule": "graded",
        "target": label.cloud_wins,
        "insufficient": True,
        "model_local": weak,
        "model_cloud": strong,
        "correct_local": label.weak >= 0.5,
        "correct_cloud": label.strong >= 0.5,
        "correct_share_local": label.weak,
        "correct_share_cloud": label.strong,
    }
    return {name: known.get(name) for name in SCHEMA.names}
