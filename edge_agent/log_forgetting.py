"""Which rows are one conversation, and erases them so that their text is gone from the file. Opens nothing.

Works on the log's only read-write connection, which deletes with `secure_delete`: SQLite writes zeros over the rows.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from edge_agent.log_pruning import give_pages_back
from edge_agent.types import Message, utc_now

Row = Mapping[str, Any]

_LINKS = "SELECT id, parent_id, conversation_id FROM exchanges ORDER BY seq"
_BEGINNINGS = "SELECT id, messages, answer, tool_calls FROM exchanges WHERE parent_id IS NULL AND messages IS NOT NULL"


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was forgotten."""

    exchanges: int
    """Rows that were in the log."""
    tombstones: int
    """Exchanges that may be elsewhere too; the next sync says there that they are forgotten."""
    erased: bool
    """No byte of them is left in the log's files; False while a reader holds the write-ahead file open."""


def conversation_of(
    connection: sqlite3.Connection,
    exchange_id: str | None,
    conversation_id: str | None,
    unwritten: Collection[Row] = (),
) -> set[str]:
    """The ids of everything that hangs together with an exchange or a client's conversation id.

    Parents upwards, all that continue any of them, all with the same conversation id, and rows without a parent that
    repeat the beginning: they were asked after a restart. Rows that were pruned are among them as far as a row names
    them. `exchange_id` itself is always in it.
    """

    ids, conversations = {exchange_id} - {None}, {conversation_id} - {None}
    size, order = -1, "DESC"  # down to the first question in one pass, up to the last answers in the next
    while size != len(ids):
        size, order = len(ids), "ASC" if order == "DESC" else "DESC"
        for row in chain(_rows(connection, f"{_LINKS} {order}"), unwritten):
            if row["id"] in ids or row["parent_id"] in ids or row["conversation_id"] in conversations:
                ids |= {row["id"], row["parent_id"]} - {None}
                conversations |= {row["conversation_id"]} - {None}
        if size == len(ids):
            ids |= _repeats(connection, unwritten, ids)
    return {id_ for id_ in ids if id_}


def _repeats(connection: sqlite3.Connection, unwritten: Collection[Row], ids: Collection[str | None]) -> set[str]:
    """Rows that hold the beginning of one of these conversations once more, or that one of these repeats."""
    begun = [row for row in unwritten if row["parent_id"] is None and row["messages"] is not None]
    known = [row for row in chain(_rows(connection, _BEGINNINGS), begun) if row["id"] in ids]
    beginnings = tuple(text for row in known if (text := _continued(row)))
    wholes = [row["messages"] for row in known]
    found = set()
    for row in chain(_rows(connection, _BEGINNINGS), begun):
        shared = any(whole.startswith(row["messages"][:-1]) for whole in wholes)
        text = _continued(row) if shared else None
        if row["messages"].startswith(beginnings) or (text and any(whole.startswith(text) for whole in wholes)):
            found.add(row["id"])
    return found


def _rows(connection: sqlite3.Connection, query: str) -> Iterator[Row]:
    cursor = connection.execute(query)
    names = [column[0] for column in cursor.description]
    return (dict(zip(names, row, strict=True)) for row in cursor)


def _continued(row: Row) -> str | None:
    """How the messages of a request begin that goes on after this row's answer, as the log holds them."""
    if row["answer"] is None:
        return None
    answer = Message("assistant", row["answer"], tuple(json.loads(row["tool_calls"] or "[]"))).to_openai()
    return f"{row['messages'][:-1]}, {json.dumps(answer, ensure_ascii=False)}"


def erase(connection: sqlite3.Connection, ids: set[str]) -> Forgotten:
    """Delete these exchanges and their feedback, and leave a tombstone for each that is not private."""
    with connection:
        deleted = tombstones = 0
        for id_ in sorted(ids):
            row = connection.execute("SELECT seq, private FROM exchanges WHERE id = ?", [id_]).fetchone()
            if row is None or not row[1]:
                tombstones += 1
                seq = row[0] if row else None
                connection.execute(
                    "INSERT INTO forgotten (exchange_id, exchange_seq, created_utc) VALUES (?, ?, ?)",
                    [id_, seq, utc_now()],
                )
            deleted += row is not None
            connection.execute("DELETE FROM exchanges WHERE id = ?", [id_])
            connection.execute("DELETE FROM feedback WHERE exchange_id = ?", [id_])
    give_pages_back(connection)
    return Forgotten(deleted, tombstones, fold_back(connection))


def fold_back(connection: sqlite3.Connection) -> bool:
    """Write the write-ahead file back and empty it; False when a reader is in the way."""
    return not connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
