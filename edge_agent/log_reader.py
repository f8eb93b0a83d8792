"""Reads the decision log, also while a daemon writes it, over a read-only connection. Writes and decides nothing."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from edge_agent.errors import LogError
from edge_agent.log_forgetting import conversation_of
from edge_agent.types import Message

_FILTERS = {
    "route": "route = :route",
    "since_utc": "created_utc >= :since_utc",
    "text": "(contains(answer, :text) OR EXISTS (SELECT 1 FROM json_each(messages)"
    " WHERE contains(json_extract(value, '$.content'), :text)))",
}

_WITH_RATINGS = """
SELECT {columns}, rating FROM exchanges
LEFT JOIN (SELECT exchange_id, rating, max(seq) FROM feedback GROUP BY exchange_id) ON exchange_id = id
WHERE NOT private AND created_utc BETWEEN ? AND ? ORDER BY exchanges.seq
"""

_SENDABLE = {
    "exchanges": "SELECT * FROM exchanges WHERE seq > ? AND NOT private ORDER BY seq",
    "feedback": "SELECT feedback.* FROM feedback JOIN exchanges ON exchanges.id = exchange_id"
    " WHERE feedback.seq > ? AND NOT private ORDER BY feedback.seq",
    "forgotten": "SELECT *, exchange_id AS id FROM forgotten WHERE seq > ? ORDER BY seq",
}
"""What may leave the device of each table, after a seq: nothing private, and nothing that was said of it."""

Row = dict[str, Any]


class LogReader:
    """Reads a log, also while a daemon writes it, over a read-only connection."""

    def __init__(self, path: Path):
        self.path = path

    def connect(self) -> sqlite3.Connection:
        """A read-only connection. :raises LogError: when there is no log, or it cannot be read."""
        if not self.path.exists():
            message = "there is no decision log yet; it is made when `edge-agent serve` first starts"
            raise LogError(f"{self.path}: {message}")
        with self._named_errors():
            connection = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)
            connection.row_factory = sqlite3.Row
            connection.create_function("contains", 2, _contains, deterministic=True)
            connection.execute("SELECT 1 FROM exchanges LIMIT 1")
        return connection

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            next_step = "check the file's owner and mode, or move it away and start anew"
            raise LogError(f"{self.path}: cannot be read as a decision log: {error}; {next_step}") from error

    def rows(
        self, *, route: str | None = None, since_utc: str | None = None, text: str | None = None, limit: int = 20
    ) -> list[Row]:
        """The newest exchanges first, by route, earliest time (ISO 8601, UTC) and text in question or answer."""
        given = {"route": route, "since_utc": since_utc, "text": text}
        where = " AND ".join(["1", *(_FILTERS[name] for name, value in given.items() if value)])
        query = f"SELECT * FROM exchanges WHERE {where} ORDER BY seq DESC LIMIT :limit"
        with self._named_errors(), closing(self.connect()) as connection:
            return [_readable(row) for row in connection.execute(query, given | {"limit": limit})]

    def row(self, exchange_id: str) -> Row:
        """The exchange with this id or unique beginning or end of one, with its feedback under `feedback`.

        :raises LogError: when none or several match.
        """
        with self._named_errors(), closing(self.connect()) as connection:
            found = connection.execute(
                "SELECT * FROM exchanges WHERE length(?1)"
                " AND ?1 IN (substr(id, 1, length(?1)), substr(id, -length(?1))) LIMIT 2",
                [exchange_id.lower()],
            ).fetchall()
            if len(found) != 1:
                problem = "several exchanges have" if found else "no exchange has"
                raise LogError(f"{problem} the id {exchange_id!r}; `edge-agent logs` lists them")
            row = _readable(found[0])
            feedback = connection.execute(
                "SELECT rating, comment, created_utc FROM feedback WHERE exchange_id = ? ORDER BY seq", [row["id"]]
            )
            return row | {"feedback": [dict(item) for item in feedback]}

    def with_ratings(self, columns: Sequence[str], since_utc: str, until_utc: str) -> list[Row]:
        """These columns of all exchanges of a time that are not private, oldest first, with their last `rating`."""
        with self._named_errors(), closing(self.connect()) as connection:
            there = {row["name"] for row in connection.execute("PRAGMA table_info(exchanges)")}
            known = [name if name in there else f"NULL AS {name}" for name in columns]  # of an older version
            query = _WITH_RATINGS.format(columns=", ".join(known))
            return [dict(row) for row in connection.execute(query, [since_utc, until_utc])]

    def conversation(self, row: Row) -> list[Row]:
        """All messages of the request behind a row, those the parents hold included, as far as they are still there."""
        messages = json.loads(row["messages"] or "[]")
        with self._named_errors(), closing(self.connect()) as connection:
            while row["parent_id"]:
                found = connection.execute("SELECT * FROM exchanges WHERE id = ?", [row["parent_id"]]).fetchone()
                if found is None:
                    break
                row = dict(found)
                answer = Message("assistant", row["answer"] or "", tuple(json.loads(row["tool_calls"] or "[]")))
                messages = [*json.loads(row["messages"] or "[]"), answer.to_openai(), *messages]
        return messages  # type: ignore[no-any-return]

    def log_id(self) -> str:
        """What tells this log from all others, also from those of the same device. :raises LogError: without one."""
        with self._named_errors(), closing(self.connect()) as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'log_identity'").fetchone():
                message = "was written by an older version; start the daemon once, it brings the file up to date"
                raise LogError(f"{self.path}: {message}")
            return log_id(connection)

    def conversation_ids(self, exchange_id: str | None, conversation_id: str | None) -> set[str]:
        """The exchanges of a whole conversation, see log_forgetting.conversation_of."""
        with self._named_errors(), closing(self.connect()) as connection:
            return conversation_of(connection, exchange_id, conversation_id)

    def rows_to_send(self, table: str, after_seq: int, max_rows: int, max_bytes: int) -> list[Row]:
        """The next rows of a table that may leave the device: at most `max_rows`, and about `max_bytes` of text.

        They are sure to stay in the log: a power cut must not give the seq of a row that was sent to another one.
        """
        rows: list[Row] = []
        size = 0
        with self._named_errors(), closing(self.connect()) as connection:
            for row in connection.execute(f"{_SENDABLE[table]} LIMIT {max_rows}", [after_seq]):
                size += sum(len(value) for value in row if isinstance(value, str))
                if rows and size > max_bytes:
                    break
                rows.append(dict(row))
        if rows:
            self._settle()
        return rows

    def had(self, table: str, seq: int, id: str | None) -> bool:
        """Whether this row has this seq, or had it before it was pruned. Not so after an older copy was restored."""
        with self._named_errors(), closing(self.connect()) as connection:
            return had(connection, table, seq, id)

    def _settle(self) -> None:
        """See to it that what was read is on the disk; the writer itself syncs only when it checkpoints."""
        for path in (self.path.with_name(self.path.name + "-wal"), self.path):
            with suppress(FileNotFoundError):
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)

    def status(self, sent: Callable[[sqlite3.Connection], Mapping[str, int]] = lambda connection: {}) -> Row:
        """Path, size on disk in bytes (WAL included), rows, and the time of the first and last one.

        :param sent: what has been uploaded of the log behind a connection, {table: seq}.
        """
        with self._named_errors(), closing(self.connect()) as connection:
            rows, private, first, last, top = connection.execute(
                "SELECT count(*), total(private), min(created_utc), max(created_utc), max(seq) FROM exchanges"
            ).fetchone()
            routes = connection.execute("SELECT coalesce(route, 'none'), count(*) FROM exchanges GROUP BY 1").fetchall()
            feedback = connection.execute("SELECT count(*) FROM feedback").fetchone()[0]
            after = sent(connection).get("exchanges", 0)
            unsent = connection.execute("SELECT count(*) FROM exchanges WHERE seq > ? AND NOT private", [after])
            waiting = unsent.fetchone()[0]
        size = sum(p.stat().st_size for p in (self.path, self.path.with_name(self.path.name + "-wal")) if p.exists())
        return {
            "path": str(self.path),
            "size_bytes": size,
            "rows": rows,
            "first_utc": first,
            "last_utc": last,
            "last_seq": top,
            "routes": {route: count for route, count in routes},
            "feedback": feedback,
            "private": int(private),
            "unsent": waiting,  # private ones never leave
        }


def log_id(connection: sqlite3.Connection) -> str:
    """The name of the log behind a connection."""
    return str(connection.execute("SELECT log_id FROM log_identity").fetchone()[0])


def had(connection: sqlite3.Connection, table: str, seq: int, id: str | None) -> bool:
    """See LogReader.had. Without an id: whether the log ever came as far as seq."""
    name = "exchange_id" if table == "forgotten" else "id"
    found = connection.execute(f"SELECT {name} FROM {table} WHERE seq = ?", [seq]).fetchone()
    if found and id is not None:
        return bool(found[0] == id)
    last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", [table]).fetchone()
    return seq <= (last[0] if last else 0)


def _contains(text: str | None, part: str) -> bool:
    """Whether the text has the part, capitals or not; SQLite's own lower() knows ASCII only."""
    return text is not None and part.casefold() in text.casefold()


def _readable(row: sqlite3.Row) -> Row:
    return {**dict(row), "private": bool(row["private"])}
