"""Which rows may leave the log, and takes them out, oldest first, a chunk at a time. Opens nothing, knows no clock.

A row may go when the destination has it (with its feedback), or when it is private and goes nowhere. A row that was
not uploaded never goes by age, because a clock that jumps would delete it; the size cap may take it, but only when told
to. Works on a connection it is handed: the log's only writer hands its own.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

CHUNK_ROWS = 500
"""Looked at, and deleted at most, in one transaction: answers wait for it."""

Sent = Mapping[str, int]
"""Table -> seq up to which the destination has acknowledged."""


def nothing_sent(connection: sqlite3.Connection) -> Sent:
    """For a log without a destination."""
    return {}


@dataclass(frozen=True, slots=True)
class Retention:
    """What the settings say about old rows."""

    max_days: float = 90.0
    max_bytes: int = 256 << 20
    prune_unsent: bool = False
    """The size cap may take rows that were not uploaded."""
    sent: Callable[[sqlite3.Connection], Sent] = nothing_sent
    """What has been uploaded of the log behind a connection."""


@dataclass(slots=True)
class Pruner:
    """Walks through the log from its oldest row, and remembers how far there is nothing left to take."""

    retention: Retention
    _walked_seq: int = field(default=0, init=False)
    _sent: Sent = field(default_factory=dict, init=False)

    def prune_chunk(self, connection: sqlite3.Connection, oldest_utc: str) -> tuple[int, bool]:
        """Take out what may go of the next rows, and give the pages back.

        :param oldest_utc: rows created before are too old.
        :return: rows deleted, and whether there may be more to do at once.
        """
        sent = self.retention.sent(connection)
        if sent != self._sent:
            self._walked_seq, self._sent = 0, sent
        too_many = _rows_above(connection, self.retention.max_bytes)
        rows = connection.execute(
            "SELECT seq, id, created_utc, private FROM exchanges WHERE seq > ? ORDER BY seq LIMIT ?",
            [self._walked_seq, CHUNK_ROWS],
        ).fetchall()
        unwanted = [row for place, row in enumerate(rows) if place < too_many or row[2] < oldest_utc]
        if not unwanted:
            return 0, False
        self._walked_seq = unwanted[-1][0]
        leaving = list(self._removable(connection, unwanted, too_many > 0))
        if leaving:
            delete(connection, leaving)
            give_pages_back(connection)
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        return len(leaving), True

    def _removable(self, connection: sqlite3.Connection, rows: list[Any], too_large: bool) -> Iterator[str]:
        take_unsent = too_large and self.retention.prune_unsent
        up_to, rated = self._sent.get("exchanges", 0), _with_unsent_feedback(connection, self._sent)
        for seq, exchange_id, _, private in rows:
            if private or take_unsent or (seq <= up_to and exchange_id not in rated):
                yield exchange_id


def oldest_utc(now_s: float, max_days: float) -> str:
    """The time before which rows are too old, as the log writes times; `now_s` is in seconds since the epoch."""
    moment = datetime.fromtimestamp(now_s, timezone.utc) - timedelta(days=max_days)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def delete(connection: sqlite3.Connection, exchange_ids: list[str]) -> int:
    """Delete exchanges and what was said of them, in one transaction; the number of exchanges that were there."""
    keys = [[exchange_id] for exchange_id in exchange_ids]
    with connection:
        before = connection.total_changes
        connection.executemany("DELETE FROM exchanges WHERE id = ?", keys)
        deleted = connection.total_changes - before
        connection.executemany("DELETE FROM feedback WHERE exchange_id = ?", keys)
    return deleted


def give_pages_back(connection: sqlite3.Connection) -> None:
    """Cut the free pages off the end of the file; it is shorter once the write-ahead file is folded back."""
    connection.executescript("PRAGMA incremental_vacuum")  # execute() would step once: one page


def live_bytes(connection: sqlite3.Connection) -> int:
    """Bytes of the file that hold something; what is free in it is given back after every deletion."""
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _rows_above(connection: sqlite3.Connection, max_bytes: int) -> int:
    """About how many rows of the usual size are more than fit; 0 when all fit."""
    live = live_bytes(connection)
    if live <= max_bytes:
        return 0
    first, last = connection.execute("SELECT min(seq), max(seq) FROM exchanges").fetchone()
    return 0 if first is None else math.ceil((live - max_bytes) / live * (last - first + 1))


def forecast(connection: sqlite3.Connection, retention: Retention, oldest_utc: str) -> dict[str, Any]:
    """What pruning would remove now, and what keeps it from removing more: for `logs status`."""
    sent = retention.sent(connection)
    rows, old, old_kept, unsent, private = connection.execute(
        "SELECT count(*), total(old), total(old AND kept), total(kept), total(private) FROM (SELECT private,"
        " created_utc < :oldest AS old, NOT private AND (seq > :exchanges OR id IN"
        " (SELECT exchange_id FROM feedback WHERE seq > :feedback)) AS kept FROM exchanges)",
        {"oldest": oldest_utc, "exchanges": sent.get("exchanges", 0), "feedback": sent.get("feedback", 0)},
    ).fetchone()
    too_large = live_bytes(connection) > retention.max_bytes
    return {
        "max_days": retention.max_days,
        "max_bytes": retention.max_bytes,
        "would_remove": int(old - old_kept),
        "too_large": too_large,
        "removable": int(rows if too_large and retention.prune_unsent else rows - unsent),
        "kept_because": _kept_because(int(old_kept), int(unsent), too_large, retention.prune_unsent),
    }


def _kept_because(old: int, unsent: int, too_large: bool, prune_unsent: bool) -> str | None:
    if too_large and unsent and not prune_unsent:
        return f"{unsent} rows are not uploaded; sync them, or set log.prune_unsent: true to lose the oldest"
    return f"{old} rows are older than log.max_days, but not uploaded" if old else None


def _with_unsent_feedback(connection: sqlite3.Connection, sent: Sent) -> set[str]:
    rows = connection.execute("SELECT exchange_id FROM feedback WHERE seq > ?", [sent.get("feedback", 0)])
    return {row[0] for row in rows}
