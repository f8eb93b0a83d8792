"""A device with a log, a state file and a place for its rows, for the tests of sync."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_agent.log_reader import LogReader
from edge_agent.redaction import redactor
from edge_agent.sync import Patience, Sync
from edge_agent.sync_files import FileDestination
from edge_agent.sync_state import SyncState

REPOSITORY = Path(__file__).parent.parent
Run = Callable[..., "subprocess.CompletedProcess[str]"]


class Device:
    """A log, its state file, and a directory that takes its rows."""

    def __init__(self, directory: Path):
        self.directory, self.log = directory, directory / "log.db"
        self.state = SyncState(directory / "state" / "edge-agent" / "sync-state.json")
        self.there = directory / "there"
        self.there.mkdir()

    @property
    def url(self) -> str:
        return self.there.as_uri()

    def sync(self, **settings: Any) -> Any:
        """One run in this process."""
        destination = settings.pop("destination", None) or FileDestination(self.url)
        settings = {"device_id": "pi", "redact": redactor(()), "patience": Patience(0.0)} | settings
        return Sync(LogReader(self.log), destination, self.state, **settings).run()

    def position(self, table: str = "exchanges", destination: str | None = None, device_id: str = "pi") -> int:
        found = self.state.position(destination or self.url, device_id, LogReader(self.log).log_id(), table)
        return found.seq if found else 0


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


@pytest.fixture
def run(device: Device) -> Run:
    """Runs tools/sync_logs.py with this device's files."""

    def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "tools/sync_logs.py", *arguments]
        return subprocess.run(
            command, env=environment(device, **environ), cwd=REPOSITORY, capture_output=True, text=True, timeout=60
        )

    return run


def environment(device: Device, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("EDGE_AGENT_", "XDG_", "AWS_"))}
    own = {f"XDG_{kind}_HOME": str(device.directory / kind.lower()) for kind in ("CONFIG", "STATE", "CACHE")}
    log = {"EDGE_AGENT_LOG_PATH": str(device.log), "EDGE_AGENT_SYNC_DEVICE_ID": "pi", "EDGE_AGENT_SYNC_GIVE_UP_S": "0"}
    return kept | own | log | {"TZ": "UTC"} | more
