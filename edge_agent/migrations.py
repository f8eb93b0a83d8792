"""The decision log's schema, one numbered step after another. A step that has shipped is never changed."""

from __future__ import annotations

import uuid

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

migrations = Migrations("edge_agent")


@migrations()
def m001_exchanges(db: Database) -> None:
    """One row per exchange; appended, never updated. Units and zones are in the names."""
    db.execute(
        """
        CREATE TABLE exchanges (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order of arrival; never used twice
            id TEXT NOT NULL UNIQUE,                -- UUIDv7
            created_utc TEXT NOT NULL,
            conversation_id TEXT,
            parent_id TEXT,          -- the exchange whose messages and answer come before `messages`
            wish TEXT NOT NULL,      -- what the client asked for: auto, local, cloud
            private INTEGER NOT NULL,
            route TEXT,              -- local, cloud; NULL when nobody answered
            reason TEXT NOT NULL,    -- one of policy.REASONS
            score REAL, threshold REAL, router_version TEXT, degraded TEXT,
            messages TEXT,           -- JSON; those after the parent's answer. NULL for private ones
            options TEXT,            -- JSON, as given by the client
            answer TEXT,
            tool_calls TEXT,         -- JSON
            model TEXT,
            finish_reason TEXT,
            error TEXT,              -- the error's code when there was no complete answer
            input_tokens INTEGER, output_tokens INTEGER,
            prompt_bytes INTEGER NOT NULL, answer_bytes INTEGER NOT NULL,
            router_ms REAL, first_token_ms REAL, duration_ms REAL,
            mean_entropy REAL, max_entropy REAL, mean_logprob REAL  -- nats, of the local answer's tokens
        )
        """
    )


@migrations()
def m002_feedback(db: Database) -> None:
    """What people said of answers: the only free correctness labels."""
    db.execute(
        """
        CREATE TABLE feedback (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            exchange_id TEXT NOT NULL,
            rating TEXT NOT NULL CHECK (rating IN ('good', 'bad')),
            comment TEXT,
            created_utc TEXT NOT NULL
        )
        """
    )


@migrations()
def m003_streams(db: Database) -> None:
    """What lets the log leave the device exactly once: the log's own name, an id for every feedback, tombstones."""
    db.execute("CREATE TABLE log_identity (log_id TEXT NOT NULL)")
    db.execute("INSERT INTO log_identity VALUES (?)", [uuid.uuid4().hex])
    db.execute("ALTER TABLE feedback ADD COLUMN id TEXT")
    for (seq,) in db.execute("SELECT seq FROM feedback").fetchall():
        db.execute("UPDATE feedback SET id = ? WHERE seq = ?", [str(uuid.uuid4()), seq])
    db.execute(
        """
        CREATE TABLE forgotten (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            exchange_id TEXT NOT NULL,   -- of an exchange that may have left the device before it was forgotten
            exchange_seq INTEGER,        -- where it was in `exchanges`; NULL when it had been pruned already
            created_utc TEXT NOT NULL
        )
        """
    )


@migrations()
def m004_shadow(db: Database) -> None:
    """The router's second head, and what a candidate would have said (it never decides)."""
    for column in ("acceptable REAL", "shadow_router_version TEXT", "shadow_score REAL", "shadow_threshold REAL"):
        db.execute(f"ALTER TABLE exchanges ADD COLUMN {column}")
