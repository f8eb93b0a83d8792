"""Queries and labels as Parquet files behind any fsspec URL: a folder that all machines see, or an object store.

A part of the labels names, in its metadata, what its rows were made from; so a run knows what is done, and labels that
were made otherwise never mix. Asks no model, knows no cluster.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]

from edge_agent.errors import EdgeAgentError
from edge_agent.files import write_file
from edge_agent.training.label_queries import LabelQuery
from edge_agent.training.label_rows import to_table
from edge_agent.training.relabelling import Row

QUERIES = pa.schema(
    {
        "query_id": pa.string(),
        "messages": pa.string(),
        "max_tokens": pa.int32(),
        "stop": pa.string(),
        "prompt_format": pa.string(),
        "question": pa.string(),
        "exchange_ids": pa.list_(pa.string()),
    }
)
"""Columns of the queries (LabelQuery.to_row)."""


def key(row: Mapping[str, Any], recipe: str) -> str:
    """Changes whenever the label of this query's row might."""
    text = json.dumps([recipe, *(row[name] for name in QUERIES.names)], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def put_queries(queries: Iterable[LabelQuery], url: str, rows_per_file: int = 10_000) -> None:
    """Write the queries to `url` as queries-00000.parquet, queries-00001.parquet, ..., instead of those there.

    :raises EdgeAgentError: when the place cannot be written.
    """
    rows = [query.to_row() for query in queries]
    with _named_errors(url, "written"):
        store, root = fsspec.core.url_to_fs(url)
        old = set(store.glob(f"{root}/queries-*.parquet"))
        for number, start in enumerate(range(0, len(rows), rows_per_file)):
            path = f"{root}/queries-{number:05d}.parquet"
            _put(store, path, pa.Table.from_pylist(rows[start : start + rows_per_file], schema=QUERIES))
            old.discard(path)
        for path in old:
            store.rm_file(path)


def read_queries(url: str) -> Iterator[Row]:
    """Rows of the queries at `url`: of the file it names, or of all `*.parquet` in it.

    :raises EdgeAgentError: when there is none, or a file holds something else.
    """
    with _named_errors(url, "read"):
        store, root = fsspec.core.url_to_fs(url)
        files = [root] if store.isfile(root) else sorted(store.glob(f"{root.rstrip('/')}/*.parquet"))
    if not files:
        raise EdgeAgentError(f"{url}: expected queries (*.parquet), found no such file; write them with put_queries")
    for path in files:
        with _named_errors(url, "read"):
            table = pq.ParquetFile(path, filesystem=store).read()
        if absent := set(QUERIES.names) - set(table.column_names):
            raise EdgeAgentError(
                f"{url}: {path.rpartition('/')[2]}: expected the columns of queries, found none named"
                f" {', '.join(sorted(absent))}; write queries with put_queries"
            )
        yield from table.select(QUERIES.names).to_pylist()


class LabelParts:
    """Labels as parts behind a URL: each is written whole or not at all, and none is written twice.

    :param recipe: of everything but the queries that labels depend on.
    """

    def __init__(self, url: str, recipe: str):
        self.url, self._recipe = url, recipe
        with _named_errors(url, "opened"):
            self._store, root = fsspec.core.url_to_fs(url)
        self._root = root.rstrip("/")

    def add(self, labels: Sequence[Row], keys: Sequence[str]) -> None:
        """Write one part; its name follows from its keys, so that doing it again changes nothing."""
        table = to_table(labels)
        metadata = {**table.schema.metadata, "recipe": self._recipe, "keys": " ".join(keys)}
        name = hashlib.sha256(" ".join(keys).encode()).hexdigest()[:24]
        with _named_errors(self.url, "written"):
            _put(self._store, f"{self._root}/part-{name}.parquet", table.replace_schema_metadata(metadata))

    def keys(self) -> dict[str, list[str]]:
        """Path of each part -> keys of its rows.

        :raises EdgeAgentError: when labels are there that were made otherwise.
        """
        found = {}
        for path in self._paths():
            with _named_errors(self.url, "read"):
                metadata = pq.read_schema(path, filesystem=self._store).metadata or {}
            if metadata.get(b"recipe", b"").decode() != self._recipe:
                raise EdgeAgentError(
                    f"{self.url}: expected labels of the same models, settings, clustering and rule, found others"
                    f" ({path.rpartition('/')[2]}); choose another target, or remove these"
                )
            found[path] = metadata[b"keys"].decode().split()
        return found

    def keep(self, wanted: Collection[str]) -> int:
        """Remove the rows of queries that changed or are gone, and second rows of one query; how many are left."""
        seen: set[str] = set()
        for path, keys in self.keys().items():
            kept = [i for i, own in enumerate(keys) if own in wanted and own not in seen]
            seen.update(keys[i] for i in kept)
            if len(kept) < len(keys):
                with _named_errors(self.url, "read"):
                    labels = self._read(path).take(pa.array(kept, pa.int64())).to_pylist()
                if labels:
                    self.add(labels, [keys[i] for i in kept])
                with _named_errors(self.url, "written"):
                    self._store.rm_file(path)
        return len(seen)

    def rows(self) -> Iterator[Row]:
        """All labels."""
        for path in self._paths():
            with _named_errors(self.url, "read"):
                table = self._read(path)
            yield from table.to_pylist()

    def _paths(self) -> list[str]:
        with _named_errors(self.url, "read"):
            self._store.invalidate_cache()  # others write here too
            return sorted(self._store.glob(f"{self._root}/part-*.parquet"))

    def _read(self, path: str) -> pa.Table:
        return pq.ParquetFile(path, filesystem=self._store).read()


def _put(store: Any, path: str, table: pa.Table) -> None:
    """The file, whole or not at all: an object store does that by itself."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    data = sink.getvalue().to_pybytes()
    if isinstance(store, LocalFileSystem):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_file(Path(path), data)
    else:
        store.pipe_file(path, data)


@contextmanager
def _named_errors(url: str, done: str) -> Iterator[None]:
    """The drivers' errors have no class in common."""
    try:
        yield
    except ImportError as error:
        raise EdgeAgentError(f"{url}: {error}; pip install 'edge-agent[s3]', or the package it names") from error
    except Exception as error:
        text = " ".join(str(error).split())[:300] or type(error).__name__
        raise EdgeAgentError(f"{url}: cannot be {done}: {text}; check the address and its access rights") from error
