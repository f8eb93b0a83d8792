"""Keeps samples on disk while they are made: a journal of one line a query, and Parquet parts. Asks no model.

A directory holds the samples of one model with one set of settings, described by its `settings.json`. A query is a line
in the journal the moment it is complete; when enough have come they become a part, written whole or not at all. Killed
at any point, what is lost is the queries under way.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from edge_agent.errors import EdgeAgentError
from edge_agent.files import write_file
from edge_agent.training.sampling import Generation, Sample

JOURNAL = "journal.jsonl"
ROWS_PER_PART = 256

_GENERATION = pa.struct(
    {
        "index": pa.int32(),
        "text": pa.string(),
        "log_likelihood": pa.float64(),
        "n_tokens": pa.int32(),
        "finish_reason": pa.string(),
    }
)
SCHEMA = pa.schema(
    {
        "query_id": pa.string(),
        "prompt_sha256": pa.string(),
        "exchange_ids": pa.list_(pa.string()),
        "model": pa.string(),
        "n_prompt_tokens": pa.int32(),
        "generations": pa.list_(_GENERATION),
        "logprobs": pa.binary(),
        "entropies": pa.binary(),
        "hidden_state": pa.binary(),
    }
)
"""`exchange_ids`: those of a log that asked it. The last three columns are float16, little-endian; empty where the
sampler cannot see them."""

_ARRAYS = ("logprobs", "entropies", "hidden_state")


class SampleStore:
    """:param describes: what the samples depend on besides the prompt: model, its file's SHA-256, sampling settings.

    :raises EdgeAgentError: when another process is writing it.
    """

    def __init__(self, root: Path, describes: Mapping[str, Any]):
        text = json.dumps(dict(describes), sort_keys=True, indent=1)
        digest = hashlib.sha256(text.encode()).hexdigest()
        self.directory = root / f"{str(describes['model']).replace('/', '-')}-{digest[:12]}"
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)  # as the inbox: it holds what people asked
        self._lock = _lock(self.directory)
        write_file(self.directory / "settings.json", text.encode())
        self._journal = self.directory / JOURNAL
        _cut_torn_line(self._journal)
        rows = list(self._rows())
        self._keys = {(row["query_id"], row["prompt_sha256"]) for row in rows}
        self._in_journal = sum(1 for _ in _journal_rows(self._journal))
        self._file = self._journal.open("a", encoding="utf-8")

    def __contains__(self, key: tuple[str, str]) -> bool:
        """Whether (query_id, prompt_sha256) is sampled: another wording of the prompt is another key."""
        return key in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, sample: Sample, prompt_sha256: str, exchange_ids: Sequence[str] = ()) -> None:
        """Keep the sample; it is safe from a kill when this returns."""
        row = to_row(sample, prompt_sha256) | {"exchange_ids": list(exchange_ids)}
        encoded = {k: base64.b64encode(v).decode() if k in _ARRAYS else v for k, v in row.items()}
        self._file.write(json.dumps(encoded, ensure_ascii=False) + "\n")
        self._file.flush()
        self._keys.add((sample.query_id, prompt_sha256))
        self._in_journal += 1
        if self._in_journal >= ROWS_PER_PART:
            self._make_part()

    def samples(self) -> Iterator[tuple[str, Sample]]:
        """(prompt_sha256, sample) of every query; a query that was kept twice comes once."""
        self._file.flush()
        seen = set()
        for row in self._rows():
            key = (row["query_id"], row["prompt_sha256"])
            if key not in seen:
                seen.add(key)
                yield row["prompt_sha256"], from_row(row)

    def close(self) -> None:
        """Let another process write."""
        self._file.close()
        os.close(self._lock)

    def _make_part(self) -> None:
        """A kill between the two steps leaves rows twice; `samples` gives them once."""
        number = 1 + max((int(p.stem.partition("-")[2]) for p in self.directory.glob("part-*.parquet")), default=0)
        table = pa.Table.from_pylist(list(_journal_rows(self._journal)), schema=SCHEMA)
        write_parquet(self.directory / f"part-{number:05d}.parquet", table)
        self._replace_journal("")
        self._in_journal = 0

    def _replace_journal(self, text: str) -> None:
        self._file.close()
        write_file(self._journal, text.encode())
        self._file = self._journal.open("a", encoding="utf-8")

    def _rows(self) -> Iterator[dict[str, Any]]:
        for path in sorted(self.directory.glob("part-*.parquet")):
            yield from _part(path).to_pylist()
        yield from _journal_rows(self._journal)


def forget_samples(directory: Path, exchange_ids: Collection[str]) -> int:
    """Remove the samples of these exchanges from one store's directory; how many there were.

    :raises EdgeAgentError: when a process is adding samples there, or a part cannot be read.
    """
    lock = _lock(directory)
    try:
        for path in directory.glob(".*-*"):  # what a kill left half written
            path.unlink()
        return _forget_in_journal(directory / JOURNAL, exchange_ids) + _forget_in_parts(directory, exchange_ids)
    finally:
        os.close(lock)


def _forget_in_parts(directory: Path, exchange_ids: Collection[str]) -> int:
    removed = 0
    for path in sorted(directory.glob("part-*.parquet")):
        table = _part(path)
        kept = [i for i, ids in enumerate(table["exchange_ids"].to_pylist()) if not {*(ids or ())} & {*exchange_ids}]
        if len(kept) < len(table):
            removed += len(table) - len(kept)
            write_parquet(path, table.take(kept))
    return removed


def _forget_in_journal(journal: Path, exchange_ids: Collection[str]) -> int:
    """A line that cannot be read goes, too: nobody knows whose it is."""
    lines = journal.read_bytes().splitlines(keepends=True) if journal.exists() else []
    rows = [_journal_row(line) for line in lines]
    kept = [row is not None and not {*row.get("exchange_ids", ())} & {*exchange_ids} for row in rows]
    if not all(kept):
        write_file(journal, b"".join(compress(lines, kept)))
    return sum(row is not None for row in rows) - sum(kept)


def to_row(sample: Sample, prompt_sha256: str) -> dict[str, Any]:
    """The sample as a row of SCHEMA."""
    generations = [
        {name: value for name, value in asdict(g).items() if name not in ("query_id", "model")}
        for g in sample.generations
    ]
    arrays = {name: getattr(sample, name).astype("<f2").tobytes() for name in _ARRAYS}
    return {
        "query_id": sample.query_id,
        "prompt_sha256": prompt_sha256,
        "exchange_ids": [],
        "model": sample.generations[0].model,
        "n_prompt_tokens": sample.n_prompt_tokens,
        "generations": generations,
        **arrays,
    }


def from_row(row: Mapping[str, Any]) -> Sample:
    """The sample of a row of SCHEMA."""
    arrays = {name: np.frombuffer(row[name], dtype="<f2") for name in _ARRAYS}
    generations = [Generation(row["query_id"], row["model"], **fields) for fields in row["generations"]]
    return Sample(row["query_id"], generations, n_prompt_tokens=row["n_prompt_tokens"], **arrays)


def write_parquet(path: Path, table: pa.Table) -> None:
    """The table, whole or not at all."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_file(path, sink.getvalue().to_pybytes())


def _part(path: Path) -> pa.Table:
    try:
        return pq.read_table(path, schema=SCHEMA)
    except (pa.ArrowException, OSError) as error:
        message = f"{path}: expected samples, found a damaged file; remove it, and its queries are sampled again"
        raise EdgeAgentError(f"{message} ({error})") from error


def _journal_rows(path: Path) -> Iterator[dict[str, Any]]:
    """A line that cannot be read costs its query: it is sampled again."""
    with suppress(FileNotFoundError), path.open("rb") as lines:
        for line in lines:
            row = _journal_row(line)
            if row is not None:
                yield {k: base64.b64decode(v) if k in _ARRAYS else v for k, v in row.items()}


def _journal_row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and row.keys() >= {*SCHEMA.names} - {"exchange_ids"} else None


def _cut_torn_line(path: Path) -> None:
    """A kill while a line was written leaves its beginning."""
    if not path.exists():
        return
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        write_file(path, data[: data.rfind(b"\n") + 1])


def _lock(directory: Path) -> int:
    handle = os.open(directory / "lock", os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise EdgeAgentError(f"{directory}: another process is adding samples there; wait for it to end") from error
    return handle
