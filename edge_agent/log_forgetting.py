"""Which rows are one conversation, and erases them so that their text is gone from the file. Opens nothing.

Works on the log's only read-write connection, which deletes with `secure_delete`: SQLite writes zeros over the rows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from edge_agent.log_pruning import give_pages_back
from edge_agent.types import utc_now

Link = tuple[str, "str | None", "str | None"]
"""id, parent_id, conversation_id of a row."""


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
    unwritten: Iterable[Link] = (),
) -> set[str]:
    """The ids of everything that hangs together with an exchange or a client's conversation id.

    Parents upwards, all that continue any of them, and all with the same conversation id; rows that were pruned are
    among them as far as a row names them. `exchange_id` itself is always in it.
    """
    ids, conversations = {exchange_id} - {None}, {conversation_id} - {None}
    size, order = -1, "DESC"  # down to the first question in one pass, up to the last answers in the next
    while size != len(ids):
        size, order = len(ids), "ASC" if order == "DESC" else "DESC"
        rows = connection.execute(f"SELECT id, parent_id, conversation_id FROM exchanges ORDER BY seq {order}")
        for found in (rows, unwritten):
            for id_, parent, conversation in found:
                if id_ in ids or parent in ids or conversation in conversations:
                    ids |= {id_, parent} - {None}
                    conversations |= {conversation} - {None}
    return {id_ for id_ in ids if id_}


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
