"""Remembers what an entailment model said, in memory or in one small SQLite file. Knows no model."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from edge_agent.errors import ModelError

Triple = tuple[float, float, float]
"""Probabilities of entailment, neutral, contradiction."""

_MOST_VARIABLES = 500


class VerdictCache:
    """Probabilities by key. A file may be shared by runs, one after the other or at the same time."""

    def __init__(self, path: Path | None = None):
        """:raises ModelError: when the file is no such cache."""
        self._connection = sqlite3.connect(path or ":memory:", timeout=30)
        try:
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS verdicts"
                " (key BLOB PRIMARY KEY, entailment REAL, neutral REAL, contradiction REAL) WITHOUT ROWID"
            )
        except sqlite3.DatabaseError as error:
            raise ModelError(f"{path}: expected a cache of verdicts, found: {error}; remove it") from error

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Triple]:
        """What is known of these keys."""
        found: dict[bytes, Triple] = {}
        for start in range(0, len(keys), _MOST_VARIABLES):
            part = keys[start : start + _MOST_VARIABLES]
            marks = ",".join("?" * len(part))
            rows = self._connection.execute(f"SELECT * FROM verdicts WHERE key IN ({marks})", part)
            found.update((key, triple) for key, *triple in rows)
        return found

    def put(self, known: Mapping[bytes, Iterable[float]]) -> None:
        """Keeps these, in one transaction; a key that is there keeps its value."""
        with self._connection:
            self._connection.executemany(
                "INSERT OR IGNORE INTO verdicts VALUES (?, ?, ?, ?)", ((key, *triple) for key, triple in known.items())
            )

    def __len__(self) -> int:
        (n,) = self._connection.execute("SELECT count(*) FROM verdicts").fetchone()
        return int(n)
