"""One label as a row, and labels as files: a written, versioned format. Clusters nothing.

`docs/retraining.md` describes the columns. A row of a public set has no text: (dataset, row, question_sha256) find it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from edge_agent.training import semantic_entropy as entropy
from edge_agent.training.grading import grade
from edge_agent.training.label_queries import LabelQuery
from edge_agent.training.labels import LabelRule, label, target
from edge_agent.training.meaning import Meanings
from edge_agent.training.questions import OWN, split_of
from edge_agent.training.sampling import Generation, Sample

FORMAT = "edge-agent-label@1"

_SIDE = {
    "model": pa.string(),
    "entropy": pa.float64(),
    "entropy_variance": pa.float64(),
    "entropy_miller_madow": pa.float64(),
    "entropy_likelihood": pa.float64(),
    "entropy_kuhn": pa.float64(),
    "n_sets": pa.int32(),
    "snne": pa.float64(),
    "distance": pa.float64(),
    "semantic_ids": pa.list_(pa.int32()),
    "log_likelihoods": pa.list_(pa.float32()),
    "n_tokens": pa.list_(pa.int32()),
    "n_truncated": pa.int32(),
    "greedy_log_likelihood": pa.float64(),
    "greedy_mean_entropy": pa.float64(),
    "greedy_max_entropy": pa.float64(),
    "greedy_n_tokens": pa.int32(),
    "correct": pa.bool_(),
    "correct_share": pa.float64(),
}
"""Columns there are twice: `<name>_local` and `<name>_cloud`."""

SCHEMA = pa.schema(
    {
        "format": pa.string(),
        "query_id": pa.string(),
        "dataset": pa.string(),
        "row": pa.string(),
        "question_sha256": pa.string(),
        "template": pa.string(),
        "split": pa.string(),
        "prompt_format": pa.string(),
        "text": pa.string(),
        "exchange_ids": pa.list_(pa.string()),
        "clustering": pa.string(),
        "rule": pa.string(),
        "strong_wins": pa.float64(),
        "strong_wins_soft": pa.float64(),
        "target": pa.float64(),
        "insufficient": pa.bool_(),
        **{f"{name}_{side}": kind for side in ("local", "cloud") for name, kind in _SIDE.items()},
    },
    metadata={"format": FORMAT},
)


def label_row(
    query: LabelQuery,
    local: Sample,
    cloud: Sample,
    meanings: tuple[Meanings, Meanings],
    *,
    clustering: str,
    rule: LabelRule = "z",
) -> dict[str, Any]:
    """The row of one query from both models' samples and the meanings of their drawn answers (local, cloud)."""
    insufficient = any(m.insufficient for m in meanings)
    preference = label(query.id, meanings[0].semantic_ids, meanings[1].semantic_ids, rule)
    sides = {
        f"{name}_{side}": value
        for side, sample, own in (("local", local, meanings[0]), ("cloud", cloud, meanings[1]))
        for name, value in _side(query, sample, own).items()
    }
    certain = preference.strong_wins_soft
    return {
        **_identity(query),
        "clustering": clustering,
        "rule": preference.source,
        "strong_wins": None if insufficient else preference.strong_wins,
        "strong_wins_soft": None if insufficient else certain,
        "target": target(0.5 if insufficient else certain, sides["correct_local"], sides["correct_cloud"]),
        "insufficient": insufficient,
        **sides,
    }


def _identity(query: LabelQuery) -> dict[str, Any]:
    """Which query it is; the text only where it is ours or the owner's."""
    question = query.question
    ours = question is None or question.dataset == OWN
    return {
        "format": FORMAT,
        "query_id": query.id,
        "dataset": question.dataset if question else "log",
        "row": str(question.row) if question else None,
        "question_sha256": question.sha256 if question else None,
        "template": question.template if question else None,
        "split": split_of(question) if question else None,
        "prompt_format": query.format,
        "text": query.text if ours else None,
        "exchange_ids": list(query.exchange_ids),
    }


def _side(query: LabelQuery, sample: Sample, meanings: Meanings) -> dict[str, Any]:
    """Everything that is known of one model's answers; the drawn ones unless a name says greedy."""
    greedy, *drawn = sample.generations
    ids, likelihoods = meanings.semantic_ids, [g.log_likelihood for g in drawn]
    known = not any(math.isnan(value) for value in likelihoods)
    similarity = _similarities([g.text for g in drawn])
    graded = [_graded(query, g) for g in drawn]
    settled = [right for right in graded if right is not None]
    return {
        "model": greedy.model,
        "entropy": entropy.discrete_entropy(ids),
        "entropy_variance": entropy.entropy_variance(ids),
        "entropy_miller_madow": entropy.miller_madow_entropy(ids),
        "entropy_likelihood": entropy.likelihood_entropy(ids, likelihoods) if known else None,
        "entropy_kuhn": entropy.kuhn_entropy(ids, likelihoods if known else None),
        "n_sets": len(set(ids)),
        "snne": entropy.snne(similarity),
        "distance": entropy.degree_uncertainty(similarity),
        "semantic_ids": [int(i) for i in ids],
        "log_likelihoods": likelihoods if known else None,
        "n_tokens": [g.n_tokens for g in drawn],
        "n_truncated": sum(g.finish_reason == "length" for g in sample.generations),
        "greedy_log_likelihood": None if math.isnan(greedy.log_likelihood) else greedy.log_likelihood,
        "greedy_mean_entropy": float(np.mean(sample.entropies)) if len(sample.entropies) else None,
        "greedy_max_entropy": float(np.max(sample.entropies)) if len(sample.entropies) else None,
        "greedy_n_tokens": greedy.n_tokens,
        "correct": _graded(query, greedy),
        "correct_share": sum(settled) / len(settled) if settled else None,
    }


def _graded(query: LabelQuery, generation: Generation) -> bool | None:
    """None without a question to grade by, and for an answer that was cut off."""
    if query.question is None:
        return None
    return grade(query.question, generation.text, truncated=generation.finish_reason == "length")


def _similarities(texts: Sequence[str]) -> list[list[float]]:
    """ROUGE-L of each pair, in words."""
    words = [text.casefold().split() for text in texts]
    return [[entropy.rouge_l(a, b) for b in words] for a in words]


def to_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows as a table of SCHEMA."""
    return pa.Table.from_pylist([dict(row) for row in rows], schema=SCHEMA)


def read_labels(path: Path) -> list[dict[str, Any]]:
    """The rows of a label file, or of all `*.parquet` in a folder.

    :raises ValueError: when a file holds something else, or a newer format.
    """
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise FileNotFoundError(
            f"{path}: expected label files (*.parquet), found none; make some with tools/relabel.py"
        )
    return [row for file in files for row in _read(file)]


def _read(path: Path) -> Iterator[dict[str, Any]]:
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: cannot be read as Parquet ({error}); was it copied whole?") from error
    found = (table.schema.metadata or {}).get(b"format", b"nothing").decode()
    if found != FORMAT:
        raise ValueError(f"{path}: expected labels of format {FORMAT}, found {found}; use the edge-agent that made it")
    yield from table.to_pylist()


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts and balance of labels, for people and for cards."""
    labelled = [row for row in rows if not row["insufficient"]]
    graded = [row for row in rows if row["correct_local"] is not None and row["correct_cloud"] is not None]
    wins = [row["strong_wins"] for row in labelled]
    return {
        "rows": len(rows),
        "insufficient": len(rows) - len(labelled),
        "strong": wins.count(1.0),
        "tie": wins.count(0.5),
        "weak": wins.count(0.0),
        "graded": len(graded),
        "both_right": sum(row["correct_local"] and row["correct_cloud"] for row in graded),
        "only_cloud_right": sum(not row["correct_local"] and row["correct_cloud"] for row in graded),
        "only_local_right": sum(row["correct_local"] and not row["correct_cloud"] for row in graded),
        "both_wrong": sum(not row["correct_local"] and not row["correct_cloud"] for row in graded),
        "entropy_local": _mean(row["entropy_local"] for row in labelled),
        "entropy_cloud": _mean(row["entropy_cloud"] for row in labelled),
    }


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return round(sum(found) / len(found), 4) if found else None
