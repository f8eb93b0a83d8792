"""How far each destination has acknowledged, in a small file of sync's own. Sends nothing, and never writes the log.

A position is (destination, device_id, log_id, table) -> seq and id of the last row acknowledged. The file is replaced
whole, by rename; one that is lost or damaged costs nothing, because a destination is asked what it has.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.errors import SyncError
from edge_agent.log_batches import TABLES
from edge_agent.log_reader import had, log_id
from edge_agent.types import utc_now

FORMAT = "edge-agent-sync@1"
FILE_NAME = "sync-state.json"


@dataclass(frozen=True, slots=True)
class Position:
    """The last row of a table that a destination has acknowledged."""

    seq: int
    id: str | None = None
    """None when the destination was asked for its position: it knows the seq only."""


class SyncState:
    """The state file, read anew at every question: another process may have moved on."""

    def __init__(self, path: Path):
        self.path = path

    def position(self, destination: str, device_id: str, log_id: str, table: str) -> Position | None:
        """Where a stream stands; None when it is not known."""
        found = self._destination(destination).get("logs", {}).get(f"{device_id}/{log_id}", {}).get(table)
        return Position(found["seq"], found["id"]) if found else None

    def facts(self, destination: str) -> dict[str, Any]:
        """last_sent_utc, down_since_utc, last_error and unfinished of a destination; None where there is none."""
        known = self._destination(destination)
        return {name: known.get(name) for name in ("last_sent_utc", "down_since_utc", "last_error", "unfinished")}

    def move(self, destination: str, device_id: str, log_id: str, table: str, position: Position) -> None:
        """Remember an acknowledgement; it is on the disk when this returns."""
        state = self._read()
        entry = state["destinations"].setdefault(destination, {})
        streams = entry.setdefault("logs", {}).setdefault(f"{device_id}/{log_id}", {})
        streams[table] = {"seq": position.seq, "id": position.id}
        if position.id is not None:
            entry["last_sent_utc"] = utc_now()
        self._write(state)

    def note(self, destination: str, **facts: Any) -> None:
        """Set facts of a destination; None removes one."""
        state = self._read()
        entry = state["destinations"].setdefault(destination, {})
        changed = {name: value for name, value in facts.items() if entry.get(name) != value}
        if changed:
            entry.update(changed)
            self._write(state)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock that keeps a second sync out. :raises SyncError: when one is running, or none can be held."""
        name = self.path.with_name(self.path.name + ".lock")
        with self._named_errors():
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(name, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                message = f"another sync is running ({name} is locked); wait until it is done"
                raise SyncError(message, code="sync_running") from error
            yield
        finally:
            os.close(descriptor)

    def _destination(self, destination: str) -> dict[str, Any]:
        entry: dict[str, Any] = self._read()["destinations"].get(destination, {})
        return entry

    def _read(self) -> dict[str, Any]:
        with suppress(OSError, ValueError, RecursionError):
            state = json.loads(self.path.read_bytes())
            if _is_whole(state):
                return state  # type: ignore[no-any-return]
        return {"format": FORMAT, "destinations": {}}

    def _write(self, state: Mapping[str, Any]) -> None:
        beside = self.path.with_name(self.path.name + ".part")
        with self._named_errors():
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(beside, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(descriptor, "w", encoding="utf-8") as file:
                json.dump(state, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self.path)

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            message = f"{self.path}: sync cannot keep its positions there: {error.strerror}; nothing is lost"
            raise SyncError(f"{message}; make room, or check the directory", code="state_unwritable") from error


def _is_whole(state: Any) -> bool:
    """Whether all of it is as `move` and `note` write it: of a damaged file no part is believed."""
    try:
        logs = [log for entry in state["destinations"].values() for log in entry.get("logs", {}).values()]
        positions = [position for log in logs for position in log.values()]
        return state["format"] == FORMAT and all(
            type(p["seq"]) is int and p["seq"] >= 0 and isinstance(p["id"], str | None) for p in positions
        )
    except (AttributeError, LookupError, TypeError):
        return False


def destination_name(url: str) -> str:
    """A destination as it may be shown and kept: without a password. Two that differ in it only are one."""
    return re.sub(r"(://[^/@:]*):[^/]*@", r"\1@", url).rstrip("/")


def acknowledged(state: SyncState, url: str, device_id: str) -> Callable[[sqlite3.Connection], dict[str, int]]:
    """What has been uploaded of the log behind a connection, {table: seq}: for those who prune.

    A position that does not fit the log counts as nothing: an older copy of the log was restored, its rows are new.
    """

    def sent(connection: sqlite3.Connection) -> dict[str, int]:
        destination, log, found = destination_name(url), log_id(connection), {}
        for table in TABLES:
            position = state.position(destination, device_id, log, table)
            if position and had(connection, table, position.seq, position.id):
                found[table] = position.seq
        return found

    return sent
