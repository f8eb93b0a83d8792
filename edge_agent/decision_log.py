"""The append-only log of exchanges in SQLite. Records, and takes out again what is too old or to be forgotten.

One writer thread owns the only read-write connection (SQLite before 3.51.3 can corrupt a WAL that two connections
write); readers open the file read-only. A row that cannot be written is kept in memory, counted, and tried again.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from sqlite_utils import Database

from edge_agent.errors import DaemonError, LogError, RequestError
from edge_agent.log_forgetting import Forgotten, conversation_of, erase, fold_back
from edge_agent.log_pruning import Pruner, Retention, nothing_sent, oldest_utc
from edge_agent.log_reader import LogReader
from edge_agent.log_rows import Row, conversation_keys, messages_json, to_row
from edge_agent.migrations import migrations
from edge_agent.types import Exchange, Message, new_id, utc_now

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
PRAGMA secure_delete = ON;  -- what is deleted is overwritten, not only unlinked
"""


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
    :param retention: which rows leave the log, at the start and every `prune_every_s`; None keeps all.
    :param clock: seconds since the epoch.
    :raises LogError: when the file cannot be opened. :raises DaemonError: when another daemon writes it.
    """

    def __init__(
        self,
        path: Path,
        *,
        content: bool = True,
        max_wait_ms: float = 100.0,
        retry_s: float = 5.0,
        retention: Retention | None = None,
        prune_every_s: float = 3600.0,
        clock: Callable[[], float] = time.time,
    ):
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
        self._errands: deque[Callable[[], None]] = deque()
        """What else the writer thread is to do with its connection."""
        self._pruner, self._prune_every_s, self._clock = Pruner(retention) if retention else None, prune_every_s, clock
        self._next_prune = time.monotonic()
        self._new = self._closing = self._erasing = False
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
        continues = row["messages"] is not None
        with self._changed:  # what is forgotten meanwhile is no longer a parent
            if continues:
                self._link_to_parent(exchange, row)
            item = self._put("exchanges", row)
        self._wait_for(item)
        if continues and not (item.dropped or item.refused):
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
        self._wait_for(self._put("feedback", {"id": new_id(), **row}))

    def forget(self, exchange_id: str | None = None, conversation_id: str | None = None) -> Forgotten:
        """Erase the conversation of an exchange, or a client's; what is kept in memory of it too.

        :raises LogError: when the disk refuses.
        """
        done: Future[Forgotten] = Future()

        def errand() -> None:
            try:
                done.set_result(self._forget(exchange_id, conversation_id))
            except (sqlite3.Error, LogError) as error:
                message = f"{self.path}: nothing is forgotten on the disk: {error}; mend that and try again"
                done.set_exception(LogError(message))

        with self._changed:
            self._errands.append(errand)
            self._changed.notify()
        return done.result()

    def status(self) -> Row:
        """Path, rows, bytes and what is not on disk."""
        own = {"unrecorded": self.unrecorded, "dropped": self.dropped, "last_error": self.last_error}
        try:
            return LogReader(self.path).status(self._pruner.retention.sent if self._pruner else nothing_sent) | own
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
        return item

    def _wait_for(self, item: _Unwritten) -> None:
        if not item.done.wait(self._max_wait_s):
            _LOGGER.warning("decision log: no row on disk after %.0f ms; the answer goes first", self._max_wait_s * 1e3)

    def _link_to_parent(self, exchange: Exchange, row: Row) -> None:
        """Store only the messages after the last answer we gave in this conversation: a long chat stays linear."""
        messages = exchange.query.messages
        keys = conversation_keys(messages)
        with self._changed:
            for end in range(len(messages), 0, -1):
                if messages[end - 1].role == "assistant" and keys[end - 1] in self._parents:
                    row["parent_id"], row["messages"] = self._parents[keys[end - 1]], messages_json(messages[end:])
                    break

    def _remember_as_parent(self, exchange: Exchange) -> None:
        """Only a row that is kept may be what later rows continue."""
        completion = exchange.completion
        if completion is None or exchange.error is not None:
            return
        answer = Message("assistant", completion.text, completion.tool_calls)
        with self._changed:
            self._parents[conversation_keys((*exchange.query.messages, answer))[-1]] = exchange.query.id
            while len(self._parents) > _MOST_PARENTS:
                self._parents.popitem(last=False)

    def _write(self) -> None:
        """Exchanges that end together share a commit; after a failure all are tried again, soon or with the next."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._new or self._errands or self._closing, self._patience_s())
                batch, closing, self._new = list(self._unwritten), self._closing, False
                errands = [self._errands.popleft() for _ in range(len(self._errands))]
            if batch:
                self._commit(batch)
            for errand in errands:
                errand()
            if closing:
                return
            if self._erasing:
                self._erasing = not fold_back(self._connection)
            if self._pruner and time.monotonic() >= self._next_prune:
                self._prune(self._pruner)

    def _patience_s(self) -> float | None:
        """How long the writer thread may sleep when nothing comes."""
        due = [self._retry_s] if self._unwritten or self._erasing else []
        if self._pruner:
            due.append(max(0.0, self._next_prune - time.monotonic()))
        return min(due, default=None)

    def _prune(self, pruner: Pruner) -> None:
        """One chunk at a time, so that rows that come meanwhile do not wait for all."""
        try:
            self._reopen_if_gone()
            removed, more = pruner.prune_chunk(self._connection, oldest_utc(self._clock(), pruner.retention.max_days))
        except (sqlite3.Error, LogError) as error:
            _LOGGER.warning("decision log %s: not pruned: %s", self.path, error)
            removed, more = 0, False
        if removed:
            _LOGGER.info("decision log: %d old rows are pruned", removed)
        if not more:
            self._next_prune = time.monotonic() + self._prune_every_s

    def _forget(self, exchange_id: str | None, conversation_id: str | None) -> Forgotten:
        with self._changed:
            kept = [item.row for item in self._unwritten if item.table == "exchanges"]
        self._reopen_if_gone()
        ids = conversation_of(self._connection, exchange_id, conversation_id, kept)
        self._purge(ids)
        forgotten = erase(self._connection, ids)
        self._erasing = not forgotten.erased
        return forgotten

    def _purge(self, ids: set[str]) -> None:
        """Take the exchanges, what continues them and what was said of them out of memory."""
        with self._changed:
            self._parents = OrderedDict((key, id) for key, id in self._parents.items() if id not in ids)
            for item in list(self._unwritten):
                if ids & {item.row.get(name) for name in ("id", "parent_id", "exchange_id")}:
                    self._unwritten.remove(item)
                    item.dropped = True
                    item.done.set()

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
        there = " WHERE EXISTS (SELECT 1 FROM exchanges WHERE id = ?)" if item.table == "feedback" else ""
        values = [v.encode("utf-8", "replace").decode() if isinstance(v, str) else v for v in item.row.values()]
        try:
            if there:  # feedback never outlives its exchange
                values.append(item.row["exchange_id"])
            self._connection.execute(f"INSERT OR IGNORE INTO {item.table} ({names}) SELECT {marks}{there}", values)
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


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None
