"""The inbox: what devices sent, in SQLite on the workstation. Files, forgets and finds rows; opens no connection.

A rollback journal, not a WAL: `serve`, `import` and `forget` are processes of their own, and SQLite before 3.51.3 can
corrupt a WAL that two connections write. With synchronous=EXTRA a commit is on disk before it is acknowledged.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from edge_agent.errors import DeviceConflict, InboxError
from edge_agent.log_batches import BatchHeader, Row, contiguous_end
from edge_agent.training.inbox_migrations import migrations
from edge_agent.training.inbox_queries import InboxQuery, read_queries
from edge_agent.training.inbox_rows import Filed, filed_row, is_id
from edge_agent.types import utc_now

_LOGGER = logging.getLogger(__name__)
_WAIT_S = 30.0
"""For another process that writes the inbox."""

_PRAGMAS = """
PRAGMA journal_mode = DELETE;
PRAGMA synchronous = EXTRA;     -- FULL does not sync the directory: the journal could come back and undo a commit
PRAGMA secure_delete = ON;      -- what is forgotten is overwritten
PRAGMA temp_store = MEMORY;
"""

_INSERT = """
INSERT OR IGNORE INTO {table} ({names})
SELECT {marks} WHERE NOT EXISTS (SELECT 1 FROM forgotten WHERE exchange_id = :forgotten_as)
"""

_IDS = "SELECT seq, {column} FROM {table} WHERE device_id = ? AND log_id = ? AND seq > ? AND seq <= ?"

_CONVERSATION = """
WITH RECURSIVE
above(id) AS (SELECT ?1 UNION SELECT parent_id FROM exchanges JOIN above USING (id) WHERE parent_id IS NOT NULL),
whole(id) AS (SELECT id FROM above UNION SELECT exchanges.id FROM exchanges JOIN whole ON parent_id = whole.id)
SELECT id FROM whole
"""
"""The ids of an exchange's ancestors, and of all that descends from one of them. UNION ends circles."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of the rows of one batch."""

    accepted: int
    duplicates: int
    """Here already, or forgotten."""
    rejected: int
    """Filed under `rejected`: they are no rows of their table."""
    last_seq: int


class Inbox:
    """:param max_bytes: how large the file may grow; None: as large as the disk allows.

    :raises InboxError: when the file cannot be opened; a damaged one is named, not replaced.
    """

    def __init__(self, path: Path, *, max_bytes: int | None = None):
        self.path = path
        try:
            with _alone(path):
                self._connection = _open(path)
            if max_bytes is not None:
                page_bytes = self._connection.execute("PRAGMA page_size").fetchone()[0]
                self._connection.execute(f"PRAGMA max_page_count = {max(1, max_bytes // page_bytes)}")
            self._inode = path.stat().st_ino
        except (OSError, sqlite3.Error) as error:
            next_step = "check the directory and the file's owner, or choose another with --inbox"
            raise InboxError(f"{path}: cannot be opened as an inbox: {error}; {next_step}") from error

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._connection.close()

    def add(self, header: BatchHeader, rows: Sequence[Row], *, live: bool = True) -> Receipt:
        """File a batch, whole or not at all; on disk when it returns. A repeat has no effect.

        :param live: it comes from the device right now, so that a log which another one replaced is refused.
        :raises DeviceConflict: when another device has this id. :raises InboxError: when it cannot be written now.
        """
        try:
            with self.transaction() as connection:
                _see_log(connection, header, live)
                _check_same_device(connection, header, rows)
                return _file(connection, header, rows)
        except DeviceConflict as conflict:
            with self.transaction() as connection:
                _note_conflict(connection, header, conflict)
            raise

    def position(self, device_id: str, log_id: str, table: str) -> int:
        """The last seq up to which everything of a log's table was received; 0 when nothing was."""
        query = "SELECT after_seq, last_seq FROM ranges WHERE device_id = ? AND log_id = ? AND stream = ?"
        return contiguous_end([(after, last) for after, last in self.read(query, [device_id, log_id, table])])

    def row_id(self, device_id: str, log_id: str, table: str, seq: int) -> str | None:
        """The id of the row at one place of a log, by which a device sees that the log is its own; None without one."""
        query = _IDS.format(column=_id_column(table), table=table)
        found = self.read(query, [device_id, log_id, seq - 1, seq])
        return found[0][1] if found else None

    def has(self, header: BatchHeader) -> bool:
        """Whether a batch with exactly this range was filed."""
        query = (
            "SELECT 1 FROM ranges WHERE device_id = ? AND log_id = ? AND stream = ? AND after_seq = ? AND last_seq = ?"
        )
        return bool(self.read(query, [*_log_and_table(header), header.after_seq, header.last_seq]))

    def queries(self) -> Iterator[InboxQuery]:
        """Each exchange with text once, in the order of arrival, its conversation rebuilt."""
        return read_queries(self.read)

    def forget(self, exchange_id: str) -> tuple[str, ...]:
        """Delete the conversation of an exchange for good: all ids of it, which are refused from now on.

        An unknown id is refused from now on as well.
        """
        with self.transaction() as connection:
            ids = tuple(row[0] for row in connection.execute(_CONVERSATION, [exchange_id]))
            for forgotten in ids:
                _forget(connection, {"exchange_id": forgotten, "received_utc": utc_now()})
        return ids

    def forgotten_ids(self) -> set[str]:
        """The ids of all exchanges that were forgotten here or on their device."""
        return {row[0] for row in self.read("SELECT exchange_id FROM forgotten")}

    def status(self) -> dict[str, Any]:
        """Path, size in bytes, and how many rows of what there are."""
        tables = ("exchanges", "feedback", "forgotten", "rejected", "devices")
        counts = {table: self.read(f"SELECT count(*) FROM {table}")[0][0] for table in tables}
        without_text = self.read("SELECT count(*) FROM exchanges WHERE NOT has_text")[0][0]
        last = self.read("SELECT max(last_seen_utc) FROM logs")[0][0]
        own = {"path": str(self.path), "size_bytes": self.path.stat().st_size}
        return own | counts | {"without_text": without_text, "last_received_utc": last}

    def read(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """All rows of a query; no lock is held when it returns. :raises InboxError: when they cannot be read."""
        with self._named_errors():
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """What is written inside is on disk at the end, or none of it is. :raises InboxError: when it is none."""
        with self._named_errors():
            if not self.path.exists() or self.path.stat().st_ino != self._inode:
                gone = "was removed or replaced while it was in use; start `receive_logs.py serve` again"
                raise InboxError(f"{self.path}: the inbox {gone}")
            with self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            if "is full" in str(error):
                message = (
                    "the disk is full, or the inbox as large as --max-inbox-bytes allows; make room, nothing is lost"
                )
                raise InboxError(f"{self.path}: {message}", code="disk_full", status=507) from error
            if "locked" in str(error):
                message = f"another process has written it for {_WAIT_S:g} s; try again"
                raise InboxError(f"{self.path}: {message}", code="inbox_busy") from error
            raise InboxError(f"{self.path}: {error}; check the disk and the file's owner, nothing is lost") from error


def _file(connection: sqlite3.Connection, header: BatchHeader, rows: Sequence[Row]) -> Receipt:
    now, accepted, rejected = utc_now(), 0, 0
    for row in rows:
        filed = filed_row(header, row)
        if isinstance(filed, Filed):
            accepted += _insert(connection, header, filed, now)
        else:
            rejected += 1
            _reject(connection, header, row, reason=filed, now=now)
    connection.execute(
        "INSERT OR IGNORE INTO ranges VALUES (?, ?, ?, ?, ?, ?)",
        [*_log_and_table(header), header.after_seq, header.last_seq, now],
    )
    return Receipt(accepted, len(rows) - accepted - rejected, rejected, header.last_seq)


def _see_log(connection: sqlite3.Connection, header: BatchHeader, live: bool) -> None:
    """A log's first batch retires the device's other logs: an SD card was written anew, or there are two devices."""
    key, now = [header.device_id, header.log_id], utc_now()
    seen = connection.execute("SELECT retired_utc FROM logs WHERE device_id = ? AND log_id = ?", key).fetchone()
    if seen is not None and seen[0] is not None and live:
        raise DeviceConflict(
            f"device_id {header.device_id!r}: another log was begun under this id at {seen[0]}, and this one uploads as"
            " well: two devices have one id, or an old card is back; this one needs an id of its own (sync.device_id)"
            " and its token (receive_logs.py add-device)"
        )
    if seen is None and live:
        retired = connection.execute(
            "UPDATE logs SET retired_utc = ? WHERE device_id = ? AND retired_utc IS NULL", [now, header.device_id]
        ).rowcount
        if retired:
            _LOGGER.warning("%s: a new log %.8s replaces the one so far", header.device_id, header.log_id)
    connection.execute(
        "INSERT INTO logs (device_id, log_id, first_seen_utc, last_seen_utc) VALUES (?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET last_seen_utc = excluded.last_seen_utc",
        [*key, now, now],
    )


def _check_same_device(connection: sqlite3.Connection, header: BatchHeader, rows: Sequence[Row]) -> None:
    """Two rows at one place of one log: the card was copied, and both devices went on writing."""
    query = _IDS.format(column=_id_column(header.table), table=header.table)
    place = [header.device_id, header.log_id, header.after_seq, header.last_seq]
    stored = dict(connection.execute(query, place).fetchall())
    for row in rows:
        seq, row_id = row.get("seq"), row.get("id")
        if isinstance(seq, int) and is_id(row_id) and stored.get(seq, row_id) != row_id:
            raise DeviceConflict(
                f"device_id {header.device_id!r}: {header.table} has {stored[seq]} at seq {seq}, and now {row_id}:"
                " another device goes on with a copy of this log; it needs an id of its own (sync.device_id) and its"
                " token (receive_logs.py add-device)"
            )


def _note_conflict(connection: sqlite3.Connection, header: BatchHeader, conflict: DeviceConflict) -> None:
    connection.execute(
        "INSERT OR IGNORE INTO logs (device_id, log_id, first_seen_utc, last_seen_utc) VALUES (?1, ?2, ?3, ?3)",
        [header.device_id, header.log_id, utc_now()],
    )
    connection.execute(
        "UPDATE logs SET conflict_utc = ?, conflict = ? WHERE device_id = ? AND log_id = ?",
        [utc_now(), conflict.message, header.device_id, header.log_id],
    )


def _insert(connection: sqlite3.Connection, header: BatchHeader, filed: Filed, now: str) -> bool:
    """False when the row is here already, or forgotten."""
    values = {"device_id": header.device_id, "log_id": header.log_id, "received_utc": now} | filed.values
    if header.table == "forgotten":
        return _forget(connection, values)
    names, marks = ", ".join(values), ", ".join(f":{name}" for name in values)
    statement = _INSERT.format(table=header.table, names=names, marks=marks)
    return connection.execute(statement, values | {"forgotten_as": filed.exchange_id}).rowcount > 0


def _forget(connection: sqlite3.Connection, tombstone: Mapping[str, Any]) -> bool:
    """Whatever device it came from: a copied card has the same exchanges under another name. False for a repeat."""
    for table, column in (("exchanges", "id"), ("feedback", "exchange_id"), ("rejected", "exchange_id")):
        connection.execute(f"DELETE FROM {table} WHERE {column} = :exchange_id", tombstone)  # first: it may make room
    names, marks = ", ".join(tombstone), ", ".join(f":{name}" for name in tombstone)
    return connection.execute(f"INSERT OR IGNORE INTO forgotten ({names}) VALUES ({marks})", tombstone).rowcount > 0


def _reject(connection: sqlite3.Connection, header: BatchHeader, row: Row, *, reason: str, now: str) -> None:
    given = row.get("exchange_id" if header.table == "feedback" else "id")
    exchange_id = given if is_id(given) else None
    text = json.dumps(row)  # ASCII: SQLite cannot store half of a surrogate pair
    connection.execute(
        "INSERT OR IGNORE INTO rejected SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7"
        " WHERE NOT EXISTS (SELECT 1 FROM forgotten WHERE exchange_id = ?6)",
        [*_log_and_table(header), now, reason, exchange_id, text],
    )


def _id_column(table: str) -> str:
    return "exchange_id" if table == "forgotten" else "id"


def _log_and_table(header: BatchHeader) -> list[str]:
    return [header.device_id, header.log_id, header.table]


def _open(path: Path) -> sqlite3.Connection:
    path.touch(mode=0o600)  # SQLite would make it readable for everybody
    connection = sqlite3.connect(path, check_same_thread=False, timeout=_WAIT_S)
    connection.executescript(_PRAGMAS)
    migrations.apply(Database(connection))
    connection.commit()
    return connection


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Two processes that start at once would both make the tables."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
