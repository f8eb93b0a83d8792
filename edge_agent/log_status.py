"""What `logs status` and the daemon know about the log as a whole: its size, what is uploaded, what may go. Reads only.

Joins the log, sync's positions and the settings; none of these three knows the others.
"""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any

from edge_agent.config_keys import Log, Sync
from edge_agent.log_pruning import Retention, forecast, nothing_sent, oldest_utc
from edge_agent.log_reader import LogReader
from edge_agent.sync_state import SyncState, acknowledged, destination_name


def retention_of(log: Log, sync: Sync, state: SyncState, device_id: str) -> Retention:
    """What the settings say about old rows. What counts as uploaded is what sync.destination has acknowledged."""
    sent = acknowledged(state, sync.destination, device_id) if sync.destination else nothing_sent
    return Retention(log.max_days, log.max_mb * 1_000_000, log.prune_unsent, sent)


def log_status(
    reader: LogReader, retention: Retention, state: SyncState, *, url: str | None, device_id: str
) -> dict[str, Any]:
    """What is held and why. :param url: sync.destination. :raises LogError: when there is no log to read."""
    facts = reader.status(retention.sent)
    log_id = reader.log_id()
    with closing(reader.connect()) as connection:
        sent = retention.sent(connection)
        pruning = forecast(connection, retention, oldest_utc(time.time(), retention.max_days))
    name = destination_name(url) if url else "none: upload is off (sync.destination)"
    known = state.facts(name) if url else {}
    return facts | {
        "log_id": log_id,
        "sync": {"destination": name, "device_id": device_id, "positions": dict(sent) if url else None, **known},
        "pruning": pruning,
    }
