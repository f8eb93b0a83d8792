"""The append-only log of exchanges in SQLite. Records and reads back; decides and prunes nothing.

One writer thread owns the only read-write connection (SQLite before 3.51.3 can corrupt a WAL that two connections
write); readers open the file read-only. A row that cannot be written is kept in memory, counted, and tried again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import sqlite3
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from edge_agent.errors import DaemonError, LogError, RequestError
from edge_agent.migrations import migrations
from edge_agent.types import Exchange, Message, utc_now

_LOGGER = logging.getLogger(__name__)
_MOST_KEPT = 1000
"""Rows kept in memory while the disk refuses them."""
_MOST_PARENTS = 256
_UNSTORABLE = (ValueError, OverflowError, sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError)
"""Errors of one row's values; the others are the disk's."""

_PRAGMAS = """
PRAGMA auto_vacuum = INCREMENTAL;  -- takes effect in an empty file only
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
PRAGMA journal_size_limit = 4194304;
PRAGMA temp_store = MEMORY;
"""
_FILTERS = {
    "route": "route = :route",
    "since_utc": "created_utc >= :since_utc",
    "text": "(contains(answer, :text) OR EXISTS (SELECT 1 FROM json_each(messages)"
    " WHERE contains(json_extract(value, '$.content'), :text)))",
}

Row = dict[str, Any]


@dataclass(slots=True, eq=False)
class _Unwritten:
    """A row on its way to the disk."""

    table: str
    row: Row
    done: threading.Event = field(default_factory=threading.Event)
    dropped: bool = False
    """Pushed out of the queue by newer ones."""
    refused: bool = False
    """SQLite cannot hold its values."""


class DecisionLog:
    """:param content: False keeps text out of every row.
    :param max_wait_ms: how long `append` waits for its row to be on disk.
    :param retry_s: how soon rows the disk refused are tried again when no new one comes.
    :raises LogError: when the file cannot be opened. :raises DaemonError: when another daemon writes it.
    """

    def __init__(self, path: Path, *, content: bool = True, max_wait_ms: float = 100.0, retry_s: float = 5.0):
        self.path = path
        self._content, self._max_wait_s, self._retry_s = content, max_wait_ms / 1000.0, retry_s
        self._lock_file = _lock(path)
        try:
            self._connection = open_for_writing(path)
        except LogError:
            os.close(self._lock_file)
            raise
        self._inode = _inode(path)
        self._parents: OrderedDict[bytes, str] = OrderedDict()
        self._changed = threading.Condition()
        self._unwritten: deque[_Unwritten] = deque()
        self._new = self._closing = False
        self.dropped = 0
        """Rows lost: memory for them ran out too, or SQLite cannot hold their values."""
        self.last_error: str | None = None
        self._thread = threading.Thread(target=self._write, name="log-writer", daemon=True)
        self._thread.start()

    @property
    def unrecorded(self) -> int:
        """Rows that are not on disk: on their way, kept for another try, or dropped."""
        with self._changed:
            return len(self._unwritten) + self.dropped

    def append(self, exchange: Exchange) -> None:
        """Record the exchange; returns once it is on disk, or after max_wait_ms. Never raises for the disk."""
        row = to_row(exchange, content=self._content)
        if row["messages"] is None:
            self._put("exchanges", row)
            return
        self._link_to_parent(exchange, row)
        item = self._put("exchanges", row)
        if not (item.dropped or item.refused):
            self._remember_as_parent(exchange)

    def add_feedback(self, exchange_id: str, rating: str, comment: str | None = None) -> None:
        """Record what a person said of an answer. :raises RequestError: when no exchange has this id."""
        private = self._private(exchange_id)
        if private is None:
            message = f"id: no exchange {exchange_id!r} is in the log; see `edge-agent logs`"
            raise RequestError(message, param="id", status=404, code="not_found")
        if comment is not None and (private or not self._content):
            message = (
                "comment: no text is kept of this exchange (private, or log.content: false); send the rating alone"
            )
            raise RequestError(message, param="comment")
        row = {"exchange_id": exchange_id, "rating": rating, "comment": comment, "created_utc": utc_now()}
        self._put("feedback", row)

    def status(self) -> Row:
        """Path, rows, bytes and what is not on disk."""
        own = {"unrecorded": self.unrecorded, "dropped": self.dropped, "last_error": self.last_error}
        try:
            return LogReader(self.path).status() | own
        except LogError as error:
            return own | {"path": str(self.path), "last_error": self.last_error or error.message}

    def close(self) -> None:
        """Write what is pending, fold the WAL back into the file and close it."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        if self._unwritten:
            _LOGGER.error("decision log %s: %d rows are lost: %s", self.path, len(self._unwritten), self.last_error)
        try:
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            _LOGGER.warning("decision log: checkpoint failed: %s", error)
        self._connection.close()
        os.close(self._lock_file)

    def _put(self, table: str, row: Row) -> _Unwritten:
        item = _Unwritten(table, row)
        with self._changed:
            if len(self._unwritten) >= _MOST_KEPT:
                oldest = self._unwritten.popleft()
                oldest.dropped = True
                self._parents = OrderedDict((k, i) for k, i in self._parents.items() if i != oldest.row.get("id"))
                self.dropped += 1
            self._unwritten.append(item)
            self._new = True
            self._changed.notify()
        if not item.done.wait(self._max_wait_s):
            _LOGGER.warning("decision log: no row on disk after %.0f ms; the answer goes first", self._max_wait_s * 1e3)
        return item

    def _link_to_parent(self, exchange: Exchange, row: Row) -> None:
        """Store only the messages after the last answer we gave in this conversation: a long chat stays linear."""
        messages = exchange.query.messages
        keys = _keys(messages)
        with self._changed:
            for end in range(len(messages), 0, -1):
                if messages[end - 1].role == "assistant" and keys[end - 1] in self._parents:
                    row["parent_id"], row["messages"] = self._parents[keys[end - 1]], _messages_json(messages[end:])
                    break

    def _remember_as_parent(self, exchange: Exchange) -> None:
        """Only a row that is kept may be what later rows continue."""
        completion = exchange.completion
        if completion is None or exchange.error is not None:
            return
        answer = Message("assistant", completion.text, completion.tool_calls)
        with self._changed:
            self._parents[_keys((*exchange.query.messages, answer))[-1]] = exchange.query.id
            while len(self._parents) > _MOST_PARENTS:
                self._parents.popitem(last=False)

    def _write(self) -> None:
        """Exchanges that end together share a commit; after a failure all are tried again, soon or with the next."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._new or self._closing, self._retry_s if self._unwritten else None)
                batch, closing, self._new = list(self._unwritten), self._closing, False
            if batch:
                self._commit(batch)
            if closing:
                return

    def _commit(self, batch: Sequence[_Unwritten]) -> None:
        refused = 0
        try:
            self._reopen_if_gone()
            with self._connection:
                for item in batch:
                    refused += not self._insert(item)
        except (sqlite3.Error, LogError) as error:
            if self.last_error != str(error):
                _LOGGER.error("decision log %s: %s; rows are kept in memory and tried again", self.path, error)
            self.last_error = str(error)
            return
        if self.last_error is not None:
            _LOGGER.warning("decision log: writing again; %d kept rows are on disk", len(batch) - refused)
        self.last_error = None
        with self._changed:
            for item in batch:
                item.done.set()
            while self._unwritten and self._unwritten[0].done.is_set():
                self._unwritten.popleft()
            self.dropped += refused - sum(item.dropped for item in batch)  # dropped while they were being written

    def _insert(self, item: _Unwritten) -> bool:
        """False for a row no retry can write: it must not keep the others from the disk."""
        names, marks = ", ".join(item.row), ", ".join("?" * len(item.row))
        values = [v.encode("utf-8", "replace").decode() if isinstance(v, str) else v for v in item.row.values()]
        try:
            self._connection.execute(f"INSERT OR IGNORE INTO {item.table} ({names}) VALUES ({marks})", values)
        except _UNSTORABLE as error:
            _LOGGER.error("decision log: a row of %s cannot be stored and is dropped: %s", item.table, error)
            item.refused = True
            return False
        return True

    def _reopen_if_gone(self) -> None:
        """Rows written to a file that somebody removed would be lost without a word."""
        if _inode(self.path) == self._inode:
            return
        _LOGGER.error("decision log %s was removed or replaced while it was written; a new one is begun", self.path)
        self._connection.close()
        self._connection = open_for_writing(self.path)
        self._inode = _inode(self.path)

    def _private(self, exchange_id: str) -> bool | None:
        """Whether an exchange is private; None when there is no such exchange."""
        with self._changed:
            for item in self._unwritten:
                if item.row.get("id") == exchange_id:
                    return bool(item.row["private"])
        with closing(LogReader(self.path).connect()) as connection:
            found = connection.execute("SELECT private FROM exchanges WHERE id = ?", [exchange_id]).fetchone()
        return None if found is None else bool(found[0])


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

    def status(self) -> Row:
        """Path, size on disk in bytes (WAL included), rows, and the time of the first and last one."""
        with self._named_errors(), closing(self.connect()) as connection:
            rows, private, first, last, top = connection.execute(
                "SELECT count(*), total(private), min(created_utc), max(created_utc), max(seq) FROM exchanges"
            ).fetchone()
            routes = connection.execute("SELECT coalesce(route, 'none'), count(*) FROM exchanges GROUP BY 1").fetchall()
            feedback = connection.execute("SELECT count(*) FROM feedback").fetchone()[0]
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
            "unsent": rows - int(private),  # private ones never leave; the others wait until there is a destination
        }


def to_row(exchange: Exchange, *, content: bool = True) -> Row:
    """An exchange as a row. A private one keeps id, times, route, reason and sizes: nothing made from its text."""
    query, decision, completion = exchange.query, exchange.decision, exchange.completion
    keep = content and not query.private
    uncertainty = completion.uncertainty if completion and not query.private else None
    answer = completion.text if completion else ""
    options = query.options.to_openai()
    return {
        "id": query.id,
        "created_utc": query.created_utc,
        "conversation_id": None if query.private else query.conversation_id,
        "parent_id": None,
        "wish": query.wish,
        "private": int(query.private),
        "route": decision.route,
        "reason": decision.reason,
        "score": None if query.private else decision.score,
        "threshold": None if query.private else decision.threshold,
        "router_version": decision.router_version,
        "degraded": decision.degraded,
        "messages": _messages_json(query.messages) if keep else None,
        "options": json.dumps(options, ensure_ascii=False) if keep and options else None,
        "answer": answer if keep and completion else None,
        "tool_calls": json.dumps(completion.tool_calls, ensure_ascii=False)
        if keep and completion and completion.tool_calls
        else None,
        "model": completion.model if completion else None,
        "finish_reason": completion.finish_reason if completion else None,
        "error": exchange.error,
        "input_tokens": completion.input_tokens if completion else None,
        "output_tokens": completion.output_tokens if completion else None,
        "prompt_bytes": sum(len(m.content.encode("utf-8", "replace")) for m in query.messages),
        "answer_bytes": len(answer.encode("utf-8", "replace")),
        "router_ms": exchange.router_ms,
        "first_token_ms": completion.first_token_ms if completion else None,
        "duration_ms": exchange.duration_ms,
        "mean_entropy": uncertainty.mean_entropy if uncertainty else None,
        "max_entropy": uncertainty.max_entropy if uncertainty else None,
        "mean_logprob": uncertainty.mean_logprob if uncertainty else None,
    }


def open_for_writing(path: Path) -> sqlite3.Connection:
    """The log with its schema up to date. :raises LogError: when that fails; a damaged file is named, not replaced."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)  # SQLite would make it readable for everybody
        connection = sqlite3.connect(path, check_same_thread=False, timeout=5.0)
        connection.executescript(_PRAGMAS)
        migrations.apply(Database(connection))
        connection.commit()
    except (OSError, sqlite3.Error) as error:
        raise _unopenable(path, error) from error
    return connection


def _lock(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path.with_name(path.name + ".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unopenable(path, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        message = f"{path}: another daemon writes this log; stop it or set another file with log.path"
        raise DaemonError(message, code="log_locked") from error
    return descriptor


def _unopenable(path: Path, error: Exception) -> LogError:
    next_step = "check the directory, or set another file with log.path"
    return LogError(f"{path}: cannot be opened as the decision log: {error}; {next_step}")


def _contains(text: str | None, part: str) -> bool:
    """Whether the text has the part, capitals or not; SQLite's own lower() knows ASCII only."""
    return text is not None and part.casefold() in text.casefold()


def _readable(row: sqlite3.Row) -> Row:
    return {**dict(row), "private": bool(row["private"])}


def _messages_json(messages: Sequence[Message]) -> str:
    return json.dumps([m.to_openai() for m in messages], ensure_ascii=False)


def _keys(messages: Sequence[Message]) -> list[bytes]:
    """A key for the messages up to and including each one, equal for equal messages; kept in memory only."""
    digest, keys = hashlib.sha256(), []
    for message in messages:
        digest.update(json.dumps(asdict(message), sort_keys=True).encode())
        keys.append(digest.digest())
    return keys


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None
