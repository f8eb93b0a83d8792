"""A label set of a few hundred made-up questions: the hard ones are mostly answered by the larger model alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edge_agent.router import Encoder
from edge_agent.training.label_rows import FORMAT
from edge_agent.training.label_set import SCHEMA, router_inputs, write_label_set
from edge_agent.training.labels import label

MODELS = {"local": {"name": "small", "sha256": "a" * 64}, "cloud": {"name": "large", "sha256": "b" * 64}}
SPLITS = ("train", "train", "train", "dev", "test")


def tiny_rows(encoder: Encoder, name: str, n: int = 300, *, share: float = 0.9, seed: int = 0) -> list[dict[str, Any]]:
    """Rows with one embedding; of the hard questions `share` are won by the larger model, of the others 1 - share.

    Ten questions are one template; templates, not questions, are spread over the splits.
    """
    random, rows = np.random.default_rng(seed), []
    for i in range(n):
        hard, template = i % 2 == 0, i // 10
        wins = bool(random.random() < (share if hard else 1 - share))
        text = f"{'hard' if hard else 'plain'} question {i}"
        ids_local, ids_cloud = (list(range(10)), [0] * 9 + [1]) if wins else ([0] * 9 + [1], [0] * 7 + [1, 2, 3])
        preference = label(str(i), ids_local, ids_cloud, "z")
        known = {
            "format": FORMAT, "query_id": f"q{i}", "dataset": "made_up", "question_sha256": "0" * 64,
            "template": f"t{template}", "split": SPLITS[template % 5], "rule": "z", "clustering": "value",
            "strong_wins": preference.strong_wins, "strong_wins_soft": preference.strong_wins_soft,
            "target": preference.strong_wins_soft, "insufficient": False, "semantic_ids_local": ids_local,
            "semantic_ids_cloud": ids_cloud, "entropy_local": 1.0, "entropy_cloud": 0.3,
            "correct_local": not wins, "correct_cloud": True, "correct_share_local": 0.1 if wins else 0.8,
            "correct_share_cloud": 0.7 if wins else 0.95, "greedy_log_likelihood_local": -1.0 if wins else -0.2,
        }  # fmt: skip
        inputs = router_inputs(text, {name: encoder.embed})
        rows.append({column: known.get(column) for column in SCHEMA.names} | inputs)
    return rows


def tiny_label_set(directory: Path, encoder: Encoder, name: str, n: int = 300, **chosen: Any) -> Path:
    """Writes the rows as a label set; returns its directory."""
    return write_label_set(directory, tiny_rows(encoder, name, n, **chosen), {"models": MODELS})
