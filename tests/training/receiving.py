"""Rows and batches as devices send them, and a real `receive_logs.py serve` process that takes them."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from edge_agent.decision_log import to_row
from edge_agent.log_batches import BatchHeader, encode
from edge_agent.training.inbox import Inbox
from edge_agent.training.inbox_devices import Devices
from edge_agent.types import Completion, Decision, Exchange, Message, Query, utc_now

LOG = "a" * 32
OTHER_LOG = "b" * 32
TOOL = Path(__file__).parents[2] / "tools" / "receive_logs.py"
HEADERS = {"Content-Type": "application/x-ndjson", "Content-Encoding": "gzip"}


def exchange_row(seq: int, *, content: bool = True, text: str | None = None, **columns: Any) -> dict[str, Any]:
    """A row as the log of a device has it."""
    query = Query((Message("user", text or f"question {seq}"),), id=columns.pop("id", f"exchange-{seq}"))
    exchange = Exchange(query, Decision("local", "below_threshold"), Completion(f"answer {seq}", "tiny", "stop"))
    return {"seq": seq, **to_row(exchange, content=content), **columns}


def feedback_row(seq: int, exchange_id: str, rating: str = "good", **columns: Any) -> dict[str, Any]:
    own = {"seq": seq, "id": f"feedback-{seq}", "exchange_id": exchange_id, "rating": rating, "comment": None}
    return own | {"created_utc": utc_now()} | columns


def tombstone(seq: int, exchange_id: str) -> dict[str, Any]:
    return {"seq": seq, "id": exchange_id, "exchange_id": exchange_id, "created_utc": utc_now()}


def header(
    after_seq: int, last_seq: int, table: str = "exchanges", device: str = "kitchen", log_id: str = LOG
) -> BatchHeader:
    return BatchHeader(device, log_id, table, after_seq, last_seq)


def exchanges(after_seq: int, last_seq: int, **columns: Any) -> list[dict[str, Any]]:
    return [exchange_row(seq, **columns) for seq in range(after_seq + 1, last_seq + 1)]


def batch(after_seq: int = 0, last_seq: int = 3, **where: str) -> bytes:
    return encode(header(after_seq, last_seq, **where), exchanges(after_seq, last_seq))


def stored_ids(inbox: Inbox, table: str = "exchanges") -> list[str]:
    return [row[0] for row in inbox.read(f"SELECT id FROM {table} ORDER BY device_id, seq")]


@dataclass
class ReceiverProcess:
    process: subprocess.Popen[bytes]
    inbox_file: Path
    output: Path
    url: str = ""
    ca_file: str | bool = False

    @property
    def printed(self) -> str:
        return self.output.read_text()

    def token(self, device: str = "kitchen") -> str:
        return add_device(self.inbox_file, device)

    def send(self, body: bytes, token: str, *, session: Any = requests, **headers: str) -> requests.Response:
        """POST a batch, with headers as a device sends them; `x_content_sha256="..."` replaces one."""
        sha256 = hashlib.sha256(body).hexdigest()
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        own = {"authorization": f"Bearer {token}", "x-content-sha256": sha256, "x-edge-agent-sent-utc": utc_now()}
        own |= {name.lower(): value for name, value in HEADERS.items()} | given
        return session.post(f"{self.url}/v1/batches", data=body, headers=own, verify=self.ca_file, timeout=20)

    def position(self, token: str, log_id: str = LOG, table: str = "exchanges") -> requests.Response:
        where, headers = {"log_id": log_id, "table": table}, {"authorization": f"Bearer {token}"}
        return requests.get(f"{self.url}/v1/position", where, headers=headers, verify=self.ca_file, timeout=20)


def add_device(inbox_file: Path, device: str) -> str:
    inbox = Inbox(inbox_file)
    try:
        return Devices(inbox).add(device)
    finally:
        inbox.close()


@contextmanager
def running_receiver(
    inbox_file: Path, *options: str | Path, port: int = 0, ca_file: str | bool = False
) -> Iterator[ReceiverProcess]:
    """Start it, wait until it listens, stop it at the end."""
    output = inbox_file.with_name("receiver.txt")
    command = [sys.executable, TOOL, "serve", "--inbox", inbox_file, "--port", str(port), *options]
    with output.open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=_environ(inbox_file.parent))
    receiver = ReceiverProcess(process, inbox_file, output, ca_file=ca_file)
    try:
        receiver.url = _url(receiver)
        yield receiver
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(20)


def run_tool(*arguments: str | Path, expect: int = 0) -> str:
    """What a command of the tool prints, both streams."""
    command = [sys.executable, TOOL, *arguments]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, env=_environ(Path(os.devnull)))
    assert run.returncode == expect, run.stdout + run.stderr
    return run.stdout + run.stderr


def sync(receiver: ReceiverProcess, directory: Path, device: str, token: str, expect: int = 0) -> str:
    """Run tools/sync_logs.py for the log in a directory; what it printed."""
    settings = {"LOG_PATH": directory / "log.db", "SYNC_DESTINATION": receiver.url, "SYNC_DEVICE_ID": device}
    settings |= {"SYNC_TOKEN": token, "SYNC_CA_FILE": receiver.ca_file, "SYNC_GIVE_UP_S": "0"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("EDGE_AGENT_", "XDG_"))}
    own = {f"XDG_{kind}_HOME": str(directory / kind.lower()) for kind in ("CONFIG", "STATE", "CACHE")}
    environ = kept | own | {f"EDGE_AGENT_{name}": str(value) for name, value in settings.items()}
    command = [sys.executable, TOOL.with_name("sync_logs.py")]
    run = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert run.returncode == expect, run.stdout + run.stderr
    return run.stdout + run.stderr


def _environ(directory: Path) -> dict[str, str]:
    """Forgetting looks into samples: not into the user's own."""
    return os.environ | {"XDG_CACHE_HOME": str(directory / "cache")}


def _url(receiver: ReceiverProcess) -> str:
    give_up, before = time.monotonic() + 30, receiver.printed.count("receiving on")
    while time.monotonic() < give_up and receiver.process.poll() is None:
        found = re.findall(r"receiving on (\S+)", receiver.printed)
        if len(found) > before:
            return found[-1]
        time.sleep(0.02)
    raise AssertionError(f"the receiver did not start:\n{receiver.printed}")
