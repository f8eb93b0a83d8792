"""A real `edge-agent serve` process for tests: real sockets, a real (tiny) GGUF, a real (tiny) int8 router."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from edge_agent.decision_log import LogReader

READY_S = 60.0
TOKEN = "test-token"


@dataclass
class DaemonProcess:
    """A running daemon and the ways to it."""

    process: subprocess.Popen[bytes]
    directory: Path
    config_file: Path
    environ: dict[str, str]
    port: int | None

    @property
    def socket(self) -> Path:
        return self.directory / "agent.sock"

    @property
    def log_file(self) -> Path:
        return self.directory / "log.db"

    @property
    def log(self) -> LogReader:
        return LogReader(self.log_file)

    @property
    def output(self) -> str:
        """What the daemon printed, both streams."""
        return (self.directory / "output.txt").read_text(errors="replace")

    def http(self, timeout: float = 30.0) -> httpx.Client:
        """An HTTP client on the Unix socket; paths such as /v1/models."""
        transport = httpx.HTTPTransport(uds=str(self.socket), verify=False)  # no certificates to load: 28 ms saved
        return httpx.Client(transport=transport, base_url="http://edge", timeout=timeout)

    def chat(self, text: str, **fields: Any) -> httpx.Response:
        """One chat completion of one user message."""
        body = {"model": "auto", "messages": [{"role": "user", "content": text}], "max_tokens": 8} | fields
        with self.http() as client:
            return client.post("/v1/chat/completions", json=body)

    def stop(self, number: int = signal.SIGTERM, timeout: float = 30.0) -> int:
        """Send a signal and wait for the end; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout)


def write_config(directory: Path, settings: Mapping[str, Mapping[str, Any]], gguf: Path, router: Path) -> Path:
    """A config file for a daemon that keeps everything in `directory`."""
    merged: dict[str, dict[str, Any]] = {
        "socket": {"path": str(directory / "agent.sock")},
        "log": {"path": str(directory / "log.db"), "max_wait_ms": 5000.0},
        "local": {"model": str(gguf), "n_ctx": 1024, "n_threads": 1, "max_tokens": 64, "temperature": 0.0},
        "router": {"path": str(router)},
        "cloud": {"connect_timeout_s": 1.0, "retries": 0},
    }
    for section, keys in settings.items():
        merged[section] = merged.get(section, {}) | dict(keys)
    path = directory / "config.yaml"
    path.write_text(yaml.safe_dump(merged))
    return path


def environment(directory: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """An environment in which nothing of the user's own edge-agent is found."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("EDGE_AGENT_", "XDG_", "NOTIFY_"))}
    own = {f"XDG_{kind}_HOME": str(directory / kind.lower()) for kind in ("CONFIG", "STATE", "CACHE")}
    return kept | own | {"EDGE_AGENT_TOKEN": TOKEN, "OMP_WAIT_POLICY": "passive"} | dict(extra or {})


def serve_command(config_file: Path) -> list[str]:
    return [sys.executable, "-m", "edge_agent", "serve", "--config", str(config_file)]


@contextmanager
def running_daemon(
    directory: Path,
    gguf: Path,
    router: Path,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Iterator[DaemonProcess]:
    """Start a daemon, wait until it is ready, stop it at the end."""
    directory.mkdir(parents=True, exist_ok=True)
    settings = settings or {}
    config_file = write_config(directory, settings, gguf, router)
    variables = environment(directory, environ)
    with (directory / "output.txt").open("wb") as output:
        process = subprocess.Popen(serve_command(config_file), env=variables, stdout=output, stderr=subprocess.STDOUT)
    daemon = DaemonProcess(process, directory, config_file, variables, settings.get("tcp", {}).get("port"))
    try:
        _wait_until_ready(daemon)
        yield daemon
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(daemon: DaemonProcess) -> None:
    give_up = time.monotonic() + READY_S
    while time.monotonic() < give_up and daemon.process.poll() is None:
        if "edge-agent is ready" in daemon.output:
            return
        time.sleep(0.05)
    raise AssertionError(f"the daemon did not start (exit code {daemon.process.poll()}):\n{daemon.output}")
