from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from edge_agent.cli import cli
from edge_agent.config import Config, load_config, log_path, socket_path
from edge_agent.errors import ConfigError, DaemonError, ModelError, SyncError
from edge_agent.notify import notify

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
SYSTEM_UNIT, USER_UNIT = DEPLOY / "edge-agent.service", DEPLOY / "user" / "edge-agent.service"
UNITS = pytest.mark.parametrize("unit", [SYSTEM_UNIT, USER_UNIT], ids=["system", "user"])
SYNC_UNIT, SYNC_TIMER = DEPLOY / "edge-agent-sync.service", DEPLOY / "edge-agent-sync.timer"
MOST_EXPOSURE = 2.0
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def directive(unit: Path, name: str) -> str:
    (value,) = re.findall(rf"(?m)^{name}=(.*)$", unit.read_text())
    return str(value)


def installed(unit: Path, directory: Path) -> Path:
    """A copy whose command exists on this machine, drop-ins included."""
    command = shlex.split(directive(unit, "ExecStart"))[0]
    copy = directory / unit.name
    copy.write_text(unit.read_text().replace(command, sys.executable))
    if (drop_ins := unit.with_name(f"{unit.name}.d")).is_dir():
        shutil.copytree(drop_ins, directory / drop_ins.name)
    return copy


@needs_systemd
@pytest.mark.parametrize("unit", [SYSTEM_UNIT, USER_UNIT, SYNC_UNIT, SYNC_TIMER], ids=lambda unit: unit.name)
def test_systemd_finds_nothing_to_complain_about(unit: Path, tmp_path: Path) -> None:
    manager = ["--user"] if unit == USER_UNIT else []
    copy = installed(SYNC_UNIT if unit == SYNC_TIMER else unit, tmp_path)
    if unit == SYNC_TIMER:
        copy = Path(shutil.copy(unit, tmp_path))
    command = ["systemd-analyze", *manager, "verify", "--man=no", str(copy)]
    environ = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    if "Failed to connect to bus" in done.stderr or "Failed to initialize manager" in done.stderr:
        pytest.skip(f"systemd-analyze cannot work here: {done.stderr.strip()}")
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("unit", [SYSTEM_UNIT, SYNC_UNIT], ids=["daemon", "sync"])
def test_the_service_is_hardened(unit: Path, tmp_path: Path) -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager"]
    done = subprocess.run([*command, str(installed(unit, tmp_path))], capture_output=True, text=True)
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    if exposure is None:
        pytest.skip(f"this systemd-analyze knows no offline mode: {done.stderr.strip()}")
    assert float(exposure[1]) <= MOST_EXPOSURE


@UNITS
def test_the_command_of_a_unit_is_one_of_ours(unit: Path) -> None:
    program, name, *arguments = shlex.split(directive(unit, "ExecStart"))
    assert Path(program).name == "edge-agent"
    command = cli.commands[name]
    assert command.make_context(name, arguments).params.keys() == {"config", "socket", "model"}


@UNITS
def test_a_unit_is_not_restarted_where_that_changes_nothing(unit: Path) -> None:
    codes = {int(code) for code in directive(unit, "RestartPreventExitStatus").split()}
    assert codes == {2, ConfigError.exit_code, ModelError.exit_code, DaemonError.exit_code}


def test_the_sync_unit_runs_one_of_our_commands_in_the_daemons_directories() -> None:
    program, *words = shlex.split(directive(SYNC_UNIT, "ExecStart"))
    assert program == shlex.split(directive(SYSTEM_UNIT, "ExecStart"))[0] and words == ["logs", "sync"]
    group = cli.commands["logs"]
    assert isinstance(group, click.Group) and group.commands["sync"].make_context("sync", []).params["dry_run"] is False
    for name in ("User", "Group", "StateDirectory", "StateDirectoryMode", "ConfigurationDirectory", "EnvironmentFile"):
        assert directive(SYNC_UNIT, name) == directive(SYSTEM_UNIT, name)


def test_a_device_that_is_offline_is_no_failed_unit() -> None:
    assert int(directive(SYNC_UNIT, "SuccessExitStatus")) == SyncError.exit_code
    assert directive(SYNC_UNIT, "Type") == "oneshot" and SYNC_TIMER.stem == SYNC_UNIT.stem


@UNITS
def test_a_unit_waits_longer_than_the_daemon_drains(unit: Path) -> None:
    assert int(directive(unit, "TimeoutStopSec")) > Config().server.drain_s
    assert directive(unit, "Type") == "notify"


def test_the_installed_settings_fit_the_directories_of_the_service() -> None:
    config = load_config(DEPLOY / "config.yaml", environ={})
    assert socket_path(config, {}).parent == Path("/run") / directive(SYSTEM_UNIT, "RuntimeDirectory")
    assert log_path(config, {}).parent == Path("/var/lib") / directive(SYSTEM_UNIT, "StateDirectory")
    assert config.socket.group == directive(SYSTEM_UNIT, "Group")


def test_the_example_environment_sets_what_the_settings_read() -> None:
    names = set(re.findall(r"(?m)^#?([A-Z_]+)=", (DEPLOY / "environment.example").read_text()))
    assert names == {Config().cloud.api_key_env, Config().tcp.token_env, Config().sync.token_env}


def test_directories_made_beforehand_are_those_of_the_service() -> None:
    lines = (DEPLOY / "tmpfiles.d" / "edge-agent.conf").read_text().splitlines()
    made = {Path(line.split()[1]): line.split()[2:] for line in lines if line.startswith("d ")}
    for base, name in (("/var/lib", "StateDirectory"), ("/var/cache", "CacheDirectory")):
        mode, user, group = made[Path(base) / directive(SYSTEM_UNIT, name)]
        assert mode == directive(SYSTEM_UNIT, f"{name}Mode")
        assert (user, group) == (directive(SYSTEM_UNIT, "User"), directive(SYSTEM_UNIT, "Group"))


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd-sysusers is not installed")
def test_systemd_can_make_the_user(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    command = ["systemd-sysusers", "--dry-run", f"--root={tmp_path}", "-"]
    line = (DEPLOY / "sysusers.d" / "edge-agent.conf").read_text()
    done = subprocess.run(command, input=line, capture_output=True, text=True)
    assert done.returncode == 0 and "edge-agent" in done.stdout + done.stderr


def test_commands_as_the_service_see_its_directories(tmp_path: Path) -> None:
    """runuser is replaced by what shows the command it was given; the rest of the script runs as it is."""
    shown = tmp_path / "runuser"
    shown.write_text('#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done; shift\nprintf "%s\\n" "$@"\n')
    shown.chmod(0o755)
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin", "EDGE_AGENT_SOCKET_PATH": "/elsewhere"}
    script = DEPLOY / "edge-agent-as-service"
    words = subprocess.run([script, "doctor", "a b"], env=environ, capture_output=True, text=True).stdout.splitlines()
    assert words[:2] == ["env", "-i"] and words[-3:] == ["/opt/edge-agent/venv/bin/edge-agent", "doctor", "a b"]
    assert {"STATE_DIRECTORY=/var/lib/edge-agent", "CACHE_DIRECTORY=/var/cache/edge-agent"} < set(words)


def test_the_instructions_name_files_that_exist() -> None:
    text = (DEPLOY.parent / "docs" / "install.md").read_text()
    named = set(re.findall(r"\bdeploy/[\w./-]+\w", text))
    assert named and [name for name in named if not (DEPLOY.parent / name).exists()] == []
    listed = re.findall(r"(?m)^\| `([^`]+)` \|", (DEPLOY / "README.md").read_text())
    files = {str(path.relative_to(DEPLOY)) for path in DEPLOY.rglob("*") if path.is_file()}
    assert set(listed) == files - {"README.md"}


class ServiceManager:
    """The receiving end of sd_notify: a real datagram socket."""

    def __init__(self, address: str):
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)

    def wait_for(self, state: str, timeout_s: float = 30.0) -> list[str]:
        """Everything that was told until `state` came, or until nothing more came in time."""
        lines: list[str] = []
        end = time.monotonic() + timeout_s
        while state not in lines and (left := end - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                lines += self._socket.recv(4096).decode().splitlines()
            except TimeoutError:
                break
        return lines

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    manager = ServiceManager(str(tmp_path / "notify"))
    yield manager
    manager.close()


def test_a_daemon_tells_systemd_when_it_is_ready_and_when_it_stops(start_daemon: Any, manager: ServiceManager) -> None:
    daemon = start_daemon(environ={"NOTIFY_SOCKET": manager.address})
    said = manager.wait_for("READY=1")
    assert said == ["READY=1", f"STATUS=serving on {daemon.socket}"]
    with daemon.http() as client:
        assert client.get("/health").json() == {"status": "ok"}
    assert daemon.stop(signal.SIGTERM) == 0
    assert manager.wait_for("STOPPING=1") == ["STOPPING=1"]  # and no WATCHDOG=1: nobody asked for it


def test_a_daemon_that_is_watched_says_that_it_lives(start_daemon: Any, manager: ServiceManager) -> None:
    started = time.monotonic()
    start_daemon(environ={"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "400000"})
    assert "READY=1" in manager.wait_for("READY=1")
    told = [line for _ in range(3) for line in manager.wait_for("WATCHDOG=1", 5)]
    assert told.count("WATCHDOG=1") == 3
    assert time.monotonic() - started > 2 * 0.2  # half of what systemd waits, not a flood


def test_a_daemon_watched_under_another_pid_says_nothing(start_daemon: Any, manager: ServiceManager) -> None:
    start_daemon(environ={"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"})
    manager.wait_for("READY=1")
    assert "WATCHDOG=1" not in manager.wait_for("WATCHDOG=1", 0.5)


def test_a_daemon_that_cannot_start_is_never_ready(start_daemon: Any, manager: ServiceManager, tmp_path: Path) -> None:
    (tmp_path / "cut.gguf").write_bytes(b"GGUF")
    with pytest.raises(AssertionError, match="exit code 3"):
        start_daemon(gguf=tmp_path / "cut.gguf", environ={"NOTIFY_SOCKET": manager.address})
    assert manager.wait_for("READY=1", 0.2) == []


def test_an_abstract_address_is_told_as_well() -> None:
    manager = ServiceManager(f"@edge-agent-test-{os.getpid()}")
    assert notify("READY=1", {"NOTIFY_SOCKET": manager.address})
    assert manager.wait_for("READY=1") == ["READY=1"]
    manager.close()
    assert not notify("READY=1", {"NOTIFY_SOCKET": manager.address})
    assert not notify("READY=1", {})
