"""Forgetting in samples and labels: what cannot be read is named, and keeps nothing else from being forgotten."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from edge_agent.errors import EdgeAgentError
from edge_agent.training.forgetting import forget, remember_output
from edge_agent.training.label_rows import read_labels, to_table
from edge_agent.training.relabel_job import LABELS
from edge_agent.training.sample_store import SampleStore
from edge_agent.training.sampling import Generation, Sample

NOTHING = np.empty(0, dtype=np.float16)


def labels(folder: Path) -> Path:
    """A label of each of two exchanges."""
    folder.mkdir()
    rows = [
        {"query_id": f"log-{name}", "exchange_ids": [name], "insufficient": True, "strong_wins": None}
        for name in ("mine", "yours")
    ]
    pq.write_table(to_table(rows), folder / LABELS)
    return folder


def test_a_damaged_file_keeps_nothing_else_from_being_forgotten(tmp_path: Path) -> None:
    samples = tmp_path / "samples"
    for name in ("one", "two"):
        store = SampleStore(samples, {"model": name})
        store.add(Sample("q", [Generation("q", name, 0, "SECRET")], NOTHING, NOTHING, NOTHING), "p", ["mine"])
        store.close()
        (store.directory / ("part-00001.parquet" if name == "one" else "other")).write_bytes(b"no part")
        remember_output(samples, labels(tmp_path / f"labels-{name}"))
    (tmp_path / "labels-one" / LABELS).write_bytes(b"no labels")
    with pytest.raises(EdgeAgentError, match=r"not all is forgotten: .*part-00001.*remove it.*labels-one") as caught:
        forget({"mine"}, samples)
    assert len(caught.value.message.split("; ")) >= 2
    assert [row["query_id"] for row in read_labels(tmp_path / "labels-two" / LABELS)] == ["log-yours"]
    assert [path for path in samples.rglob("*.jsonl") if "SECRET" in path.read_text()] == []


def test_labels_without_their_summary_and_half_written_ones_are_forgotten_too(tmp_path: Path) -> None:
    folder = labels(tmp_path / "labels")
    (folder / f".{LABELS}-x7k").write_bytes(b"SECRET")
    remember_output(tmp_path / "samples", folder)
    assert forget({"mine"}, tmp_path / "samples").labels == 1
    assert not (folder / f".{LABELS}-x7k").exists()
    assert [row["query_id"] for row in read_labels(folder / LABELS)] == ["log-yours"]
