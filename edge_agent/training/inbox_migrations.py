"""The inbox's schema, one numbered step after another. A step that has shipped is never changed."""

from __future__ import annotations

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

migrations = Migrations("edge_agent.inbox")


@migrations()
def m001_received(db: Database) -> None:
    """What devices sent. A row is kept as it came, as JSON, so that devices of different versions mix."""
    for statement in _M001:
        db.execute(statement)


_M001 = (
    """
    CREATE TABLE exchanges (
        device_id TEXT NOT NULL,
        id TEXT NOT NULL,
        log_id TEXT NOT NULL,
        seq INTEGER NOT NULL,
        received_utc TEXT NOT NULL,  -- our clock
        created_utc TEXT,            -- the device's
        parent_id TEXT,
        has_text INTEGER NOT NULL,   -- 0: a device with log.content: false
        row TEXT NOT NULL,
        PRIMARY KEY (device_id, id)
    )
    """,
    "CREATE INDEX exchanges_id ON exchanges (id)",
    "CREATE INDEX exchanges_seq ON exchanges (device_id, log_id, seq)",
    "CREATE INDEX exchanges_parent_id ON exchanges (parent_id) WHERE parent_id IS NOT NULL",
    """
    CREATE TABLE feedback (
        device_id TEXT NOT NULL,
        id TEXT NOT NULL,
        log_id TEXT NOT NULL,
        seq INTEGER NOT NULL,
        received_utc TEXT NOT NULL,
        created_utc TEXT,
        exchange_id TEXT NOT NULL,
        row TEXT NOT NULL,
        PRIMARY KEY (device_id, id)
    )
    """,
    "CREATE INDEX feedback_exchange_id ON feedback (exchange_id)",
    "CREATE INDEX feedback_seq ON feedback (device_id, log_id, seq)",
    """
    CREATE TABLE forgotten (         -- outlives the rows: they stay away when they are sent again
        exchange_id TEXT PRIMARY KEY,
        received_utc TEXT NOT NULL,
        device_id TEXT, log_id TEXT, seq INTEGER  -- NULL when it was forgotten here
    )
    """,
    """
    CREATE TABLE rejected (          -- rows of a good batch that cannot be filed; kept, looked at by people
        device_id TEXT NOT NULL,
        log_id TEXT NOT NULL,
        stream TEXT NOT NULL,
        received_utc TEXT NOT NULL,
        reason TEXT NOT NULL,
        exchange_id TEXT,            -- as far as the row tells
        row TEXT NOT NULL,
        UNIQUE (device_id, log_id, stream, row)
    )
    """,
    """
    CREATE TABLE ranges (            -- what was received: seqs (after_seq, last_seq]
        device_id TEXT NOT NULL,
        log_id TEXT NOT NULL,
        stream TEXT NOT NULL,        -- exchanges, feedback or forgotten
        after_seq INTEGER NOT NULL,
        last_seq INTEGER NOT NULL,
        received_utc TEXT NOT NULL,
        PRIMARY KEY (device_id, log_id, stream, after_seq, last_seq)
    )
    """,
    """
    CREATE TABLE logs (              -- the log files of a device, by their own random ids
        device_id TEXT NOT NULL,
        log_id TEXT NOT NULL,
        first_seen_utc TEXT NOT NULL,
        last_seen_utc TEXT NOT NULL,
        retired_utc TEXT,            -- when another log of the same device came
        conflict_utc TEXT,
        conflict TEXT,               -- why batches of this log were refused, last time
        PRIMARY KEY (device_id, log_id)
    )
    """,
    """
    CREATE TABLE devices (           -- who may upload
        device_id TEXT PRIMARY KEY,
        salt BLOB NOT NULL,
        token_sha256 BLOB NOT NULL,  -- of salt and token; the token itself is kept nowhere
        created_utc TEXT NOT NULL,
        revoked_utc TEXT,
        clock_offset_s REAL          -- the device's clock minus ours, at an upload
    )
    """,
)
