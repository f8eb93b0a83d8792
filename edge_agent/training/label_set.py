"""A label set that can be given away: labels with everything a head is trained on, and no text of public sets.

A directory holds `labels.parquet` and `card.json`. Rows of public questions are found again by (dataset, row,
question_sha256) in a folder that holds the set (question_sets.resolve); our own questions are there whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from edge_agent import text_features
from edge_agent.files import sha256, write_file
from edge_agent.training import label_rows
from edge_agent.training.label_queries import LabelQuery
from edge_agent.training.question_sets import load, resolve
from edge_agent.training.questions import OWN, Question
from edge_agent.training.sample_store import write_parquet
from edge_agent.training.sampling import Sample

LABELS, CARD = "labels.parquet", "card.json"

Floats = npt.NDArray[np.float32]

SCHEMA = pa.schema(
    [
        *label_rows.SCHEMA,
        pa.field("question", pa.string()),
        pa.field("answers_local", pa.list_(pa.string())),
        pa.field("answers_cloud", pa.list_(pa.string())),
        pa.field("text_features", pa.list_(pa.float32())),
        pa.field("hidden_state_local", pa.binary()),
        pa.field("hidden_state_local_scale", pa.float32()),
        pa.field("greedy_logprobs_local", pa.binary()),
        pa.field("greedy_entropies_local", pa.binary()),
    ],
    metadata=label_rows.SCHEMA.metadata,
)
"""Labels (label_rows.SCHEMA), and: the question as JSON and both models' answers, the near-greedy one first, for our
own questions only; the text features a router reads; the local model's hidden state at the prompt's last token, int8
with a scale; log-probabilities and entropies of the local near-greedy answer, float16. Besides, for each encoder of the
card, `embedding_<encoder>` and `embedding_<encoder>_scale`: its embedding of the question, int8."""

Embedders = Mapping[str, Callable[[str], Floats]]
"""Name of an encoder -> text to embedding."""


def quantized(values: Floats) -> tuple[bytes, float]:
    """A vector as int8 and the scale that undoes it: value = scale * int8, off by at most scale / 2."""
    scale = float(np.abs(values).max()) / 127 if len(values) else 0.0
    whole = np.round(values / scale) if scale else np.zeros_like(values)
    return whole.astype(np.int8).tobytes(), scale


def restored(data: bytes, scale: float) -> Floats:
    """The vector `quantized` made bytes of, float32."""
    return np.asarray(np.frombuffer(data, dtype=np.int8) * np.float32(scale))


def router_inputs(text: str, embedders: Embedders) -> dict[str, Any]:
    """The columns a head reads: text features and embeddings."""
    columns: dict[str, Any] = {"text_features": text_features.text_features(text).tolist()}
    for name, embed in embedders.items():
        columns[f"embedding_{name}"], columns[f"embedding_{name}_scale"] = quantized(embed(text))
    return columns


def router_features(rows: Sequence[Mapping[str, Any]], encoder: str) -> Floats:
    """(n, dimension + text features) as the device computes them, but for the embedding's int8 steps.

    :raises ValueError: when the set has no embeddings of this encoder.
    """
    column = f"embedding_{encoder}"
    if not rows or rows[0].get(column) is None:
        known = sorted(name[10:] for name in (rows[0] if rows else {}) if name.startswith("embedding_"))
        known = [name for name in known if not name.endswith("_scale")]
        raise ValueError(f"{column}: expected embeddings of {encoder}, found those of {', '.join(known) or 'none'}")
    embeddings = [restored(row[column] or b"", row[f"{column}_scale"] or 0.0) for row in rows]
    for row, embedding in zip(rows, embeddings, strict=True):
        features = row["text_features"] or []
        if len(embedding) != len(embeddings[0]) or not 1e-6 < np.linalg.norm(embedding) < np.inf:
            found = f"{len(embedding)} numbers of length {np.linalg.norm(embedding):g}"
            raise ValueError(
                f"{column}: expected a vector of {len(embeddings[0])}, found {found} in row {row['query_id']}"
            )
        if len(features) != len(text_features.NAMES) or not np.isfinite(features).all():
            wanted = f"{len(text_features.NAMES)} numbers"
            raise ValueError(f"text_features: expected {wanted}, found {features} in row {row['query_id']}")
    vectors = np.stack(embeddings)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.hstack([vectors, np.array([row["text_features"] for row in rows], dtype=np.float32)])


def with_inputs(
    label: Mapping[str, Any], query: LabelQuery, local: Sample, cloud: Sample, embedders: Embedders
) -> dict[str, Any]:
    """A label's row with what heads are trained on."""
    own = query.question is not None and query.question.dataset == OWN
    hidden, hidden_scale = quantized(local.hidden_state.astype(np.float32))
    return {
        **label,
        "question": json.dumps(query.question.to_row(), ensure_ascii=False) if own and query.question else None,
        "answers_local": [g.text for g in local.generations] if own else None,
        "answers_cloud": [g.text for g in cloud.generations] if own else None,
        **router_inputs(query.text, embedders),
        "hidden_state_local": hidden,
        "hidden_state_local_scale": hidden_scale,
        "greedy_logprobs_local": local.logprobs.astype("<f2").tobytes(),
        "greedy_entropies_local": local.entropies.astype("<f2").tobytes(),
    }


def _schema(rows: Sequence[Mapping[str, Any]]) -> tuple[pa.Schema, list[str]]:
    """SCHEMA with the embeddings of the rows, and whose they are."""
    names = [
        name[10:-6] for name in (rows[0] if rows else ()) if name.startswith("embedding_") and name[-6:] == "_scale"
    ]
    fields = [
        field
        for name in names
        for field in (pa.field(f"embedding_{name}", pa.binary()), pa.field(f"embedding_{name}_scale", pa.float32()))
    ]
    return pa.schema([*SCHEMA, *fields], metadata=SCHEMA.metadata), names


def write_label_set(directory: Path, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> Path:
    """Write the set and its card; returns the directory.

    :param facts: what the card says besides the counts: models, settings, encoder, sources.
    :raises ValueError: for a row of a person's log, or with the text of a public question: these are not given away.
    """
    if private := [row["query_id"] for row in rows if row["dataset"] != OWN and (row["text"] or row["question"])]:
        raise ValueError(
            f"{len(private)} rows have texts that are not ours to give away, first {private[0]}; publish labels of"
            " questions, not of a log"
        )
    if logged := [row["query_id"] for row in rows if row["dataset"] == "log"]:
        raise ValueError(f"{len(logged)} rows come from a log, first {logged[0]}; publish labels of questions")
    directory.mkdir(parents=True, exist_ok=True)
    schema, encoders = _schema(rows)
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    write_parquet(directory / LABELS, table)
    datasets = sorted({str(row["dataset"]) for row in rows})
    card = {
        "format": label_rows.FORMAT,
        **facts,
        "encoders": encoders,
        "text_features": {"version": text_features.VERSION, "names": list(text_features.NAMES)},
        "rows_by_dataset": {name: sum(row["dataset"] == name for row in rows) for name in datasets},
        "rows_by_split": {name: sum(row["split"] == name for row in rows) for name in ("train", "dev", "test")},
        "summary": label_rows.summary(rows),
        "files": {LABELS: sha256((directory / LABELS).read_bytes())},
    }
    write_file(directory / CARD, json.dumps(card, indent=1, ensure_ascii=False).encode() + b"\n")
    return directory


def read_label_set(directory: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(rows, card). :raises ValueError: when the labels are not the ones of the card, or for other features."""
    card = _read_card(directory / CARD)
    if sha256((directory / LABELS).read_bytes()) != card["files"].get(LABELS):
        raise ValueError(f"{directory / LABELS}: expected the file of the card, found another; get the set again")
    found, expected = card.get("text_features"), {"version": text_features.VERSION, "names": list(text_features.NAMES)}
    if found != expected:
        raise ValueError(f"{directory / CARD}: text_features: expected {expected}, found {found}; make the set again")
    return label_rows.read_labels(directory / LABELS), card


def _read_card(path: Path) -> dict[str, Any]:
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path}: expected the card of a label set, found no JSON ({error}); get the set again"
        ) from error
    if not isinstance(card, dict) or not all(isinstance(card.get(name, {}), dict) for name in ("files", "models")):
        raise ValueError(f"{path}: expected the card of a label set, found {str(card)[:60]}; get the set again")
    return {"files": {}, "models": {}} | card


def questions_of(rows: Sequence[Mapping[str, Any]], folder: Path | None) -> list[Question]:
    """The questions behind the rows, in their order: our own from the rows, public ones from the folder.

    :param folder: with the public sets; None when there are only our own.
    :raises LookupError: when a public question is not there; names how many and the first one.
    """
    public = [row for row in rows if row["dataset"] != OWN]
    if public and folder is None:
        raise LookupError(f"{len(public)} questions are of public sets; name the folder that holds them (--data)")
    references = [(row["dataset"], row["row"], row["question_sha256"]) for row in public]
    found = iter(resolve(references, load(folder)) if folder and public else [])
    return [Question.from_row(json.loads(row["question"])) if row["dataset"] == OWN else next(found) for row in rows]
