"""Finds what keeps edge-agent from working: looks at files, sockets and the board, loads no model, needs no daemon.

Gathers the facts; what they mean is in checks. Everything that may hang has a time limit, and heavy libraries are
imported by the one check that needs them.
"""

from __future__ import annotations

import errno
import getpass
import os
import platform
import shutil
import socket
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from edge_agent import __version__, checks
from edge_agent.board import Board, read_board
from edge_agent.checks import Check, Grade
from edge_agent.client import MAX_PATH_BYTES, Client
from edge_agent.config import Config, cloud_key, cloud_problem, find_socket, log_path, xdg_dir
from edge_agent.errors import EdgeAgentError, LogError, RouterError
from edge_agent.llama_probe import probe
from edge_agent.policy import REASONS

__all__ = ["Check", "Grade", "run"]

CLOUD_S, DAEMON_S = 5.0, 3.0
QUICK_CHECK_S = 3.0
"""A large log on a slow card is checked this long, as far as that goes."""
SHORTEST_TOKEN = 16

Result = TypeVar("Result")


def run(
    config: Config,
    *,
    environ: Mapping[str, str] | None = None,
    board: Board | None = None,
    now_s: float | None = None,
    cloud_s: float = CLOUD_S,
) -> list[Check]:
    """Every check, in the order of a start: settings, machine, models, router, log, sockets, cloud, running daemon.

    :param board: what the board tells about itself; None reads it.
    :param now_s: what the clock shows, in seconds since 1970; None reads it.
    :param cloud_s: longest wait for the cloud, names that do not resolve included.
    """
    environ = os.environ if environ is None else environ
    board = board or read_board(environ=environ)
    path = find_socket(config, environ)
    listening, socket_check = _socket(path, config.socket.group)
    status, problem = _status(path) if listening else ({}, None)
    log = _log_path(config, environ, status)
    now_s = time.time() if now_s is None else now_s
    steps: list[tuple[str, Callable[[], Iterable[Check]]]] = [
        ("config", lambda: [_config(config, environ)]),
        ("system", lambda: [checks.check_system(board, platform.python_version())]),
        ("model", partial(_model, config, environ, board, status)),
        ("router", partial(_routers, config, environ)),
        ("log", lambda: [_log(log)]),
        ("sqlite", lambda: [checks.check_sqlite(sqlite3.sqlite_version)]),
        ("disk", lambda: [_disk(log, daemon_writes=bool(status))]),
        ("clock", lambda: [checks.check_clock(now_s, _newest(log))]),
        ("board", partial(_board, board)),
        ("socket", lambda: [socket_check]),
        ("token", lambda: [_token(config, environ, status)]),
        ("cloud", lambda: [_cloud(config, environ, status, cloud_s)]),
        ("daemon", lambda: [problem] if problem else checks.check_status(status, __version__) if status else []),
    ]
    return [check for name, step in steps for check in _survived(name, step)]


def _survived(name: str, step: Callable[[], Iterable[Check]]) -> list[Check]:
    """The checks of a step; when the step itself fails, that is a finding too and the others still run."""
    try:
        return list(step())
    except Exception as error:
        fix = "run this as the daemon's user" if isinstance(error, PermissionError) else "report this as a bug"
        return [Check(name, "fail", f"could not be checked: {type(error).__name__}: {error}", fix)]


def _board(board: Board) -> Iterator[Check]:
    yield checks.check_temperature(board)
    yield checks.check_throttling(board)
    yield checks.check_swap(board)
    yield checks.check_flash(board)
    yield checks.check_cgroup(board)


def _config(config: Config, environ: Mapping[str, str]) -> Check:
    variables = sorted(name for name in environ if name.startswith("EDGE_AGENT_"))  # their values may be secret
    found = config.source or "no file, the defaults"
    return Check("config", "ok", f"{found}; variables: {', '.join(variables)}" if variables else found)


def _model(config: Config, environ: Mapping[str, str], board: Board, status: Mapping[str, Any]) -> Iterator[Check]:
    """engine, model, context, memory. What the running daemon holds need not be in this user's store."""
    loaded = bool(status) and not checks.part(status, "local").get("broken")
    path, model_check = _model_file(config, xdg_dir("cache", environ) / "models", loaded)
    llama = probe(path)
    yield checks.check_engine(llama, board.cpu_features)
    yield model_check
    if path is None:
        return
    context = checks.check_context(llama, config.local.n_ctx)
    if context:
        yield context
    cache_bytes = checks.kv_bytes(llama.model, config.local.n_ctx)
    yield checks.check_memory(board, path.stat().st_size, cache_bytes, loaded=loaded)


def _model_file(config: Config, store: Path, loaded: bool) -> tuple[Path | None, Check]:
    """The verified file, None when there is none, and the check. Hashes only what has changed since the last time."""
    from edge_agent import model_store

    try:
        path = model_store.resolve(config.local.model, store)
        model_store.verify(path, store)
    except EdgeAgentError as error:
        found, fix = _found_and_fix(error)
        if not loaded:
            return None, Check("model", "fail", found, fix)
        found = f"{found}; the running daemon has a model of its own"
        return None, Check("model", "warn", found, f"run this as the daemon's user, or {fix}")
    known = path.parent == store and any(path.name == entry.file for entry in model_store.load_catalogue().values())
    how = "the SHA-256 of the catalogue" if known else "whole by its header; no SHA-256 is known for it"
    return path, Check("model", "ok", f"{path}, {path.stat().st_size:,} bytes, {how}")


def _routers(config: Config, environ: Mapping[str, str]) -> Iterator[Check]:
    """The router, and the candidate if there is to be one."""
    from edge_agent.router_slots import load_active, load_shadow

    settings, state_dir, router = config.router, xdg_dir("state", environ), None
    try:
        started = time.perf_counter()
        router = load_active(settings, state_dir)
        load_s = time.perf_counter() - started
        threshold = router.threshold if settings.threshold is None else settings.threshold
        found = f"{router.version}, threshold {threshold:g}, {len(router.card.golden)} golden pairs pass"
        yield Check("router", "ok", f"{found}, loaded in {load_s:.1f} s")
    except RouterError as error:
        found, fix = _found_and_fix(error)
        yield Check("router", "fail", f"{found}; every question goes to {settings.on_error}", fix)
    if settings.shadow is not None:
        try:
            yield Check("shadow", "ok", f"{load_shadow(settings, state_dir, router).version} can watch")
        except RouterError as error:
            yield Check("shadow", "warn", *_found_and_fix(error))


def _log_path(config: Config, environ: Mapping[str, str], status: Mapping[str, Any]) -> Path:
    """The log that is written: a running daemon may have other directories than this shell."""
    named = checks.part(status, "log").get("path")
    return Path(named) if named else log_path(config, environ)


def _log(path: Path) -> Check:
    from edge_agent.log_reader import LogReader

    if not path.exists():
        return Check("log", "ok", f"{path}: none yet; the daemon's first start makes it")
    if not os.access(path, os.R_OK):
        fix = "run this as the daemon's user (a service: sudo edge-agent-as-service doctor)"
        return Check("log", "warn", f"{path} cannot be read by {getpass.getuser()}", fix)
    reader = LogReader(path)
    try:
        status = reader.status()
        with closing(reader.connect()) as connection:
            damage = _damage(connection)
    except (LogError, sqlite3.Error) as error:
        fix = "check the file's owner and mode; a damaged file can be moved away, the next start makes a new one"
        return Check("log", "fail", str(error).rpartition("; ")[0] or str(error), fix)
    found = f"{path}, {status['rows']:,} rows, {status['size_bytes']:,} bytes"
    if damage:
        fix = f"stop the daemon, rescue the rows with `sqlite3 {path} .recover`, and move the file away"
        return Check("log", "fail", f"{found}, damaged: {damage}", fix)
    return Check("log", "ok", found)


def _damage(connection: sqlite3.Connection) -> str | None:
    """What quick_check says; None when it finds nothing in the time it has."""
    end = time.monotonic() + QUICK_CHECK_S
    connection.set_progress_handler(lambda: time.monotonic() > end, 10_000)
    try:
        answer = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.OperationalError as error:
        if "interrupted" in str(error):
            return None
        raise
    return None if answer == "ok" else answer


def _newest(path: Path) -> str | None:
    from edge_agent.log_reader import LogReader

    with suppress(LogError, OSError, sqlite3.Error):
        newest: str | None = LogReader(path).status()["last_utc"]
        return newest
    return None


def _disk(log: Path, *, daemon_writes: bool) -> Check:
    directory = next(parent for parent in log.absolute().parents if parent.is_dir())
    read_only = bool(os.statvfs(directory).f_flag & os.ST_RDONLY)
    writable = daemon_writes or os.access(directory, os.W_OK)
    return checks.check_disk(str(directory), shutil.disk_usage(directory).free, read_only=read_only, writable=writable)


def _socket(path: Path, group: str | None) -> tuple[bool, Check]:
    """Whether something listens there, and the check."""
    start = "start a daemon with `edge-agent serve`"
    length = len(os.fsencode(path.absolute()))
    if length > MAX_PATH_BYTES:
        found = f"{path} has {length} bytes, a Unix socket may have {MAX_PATH_BYTES}"
        return False, Check("socket", "fail", found, "choose a shorter socket.path")
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False, Check("socket", "warn", f"no daemon listens on {path}", start)
    except OSError as error:
        return False, Check("socket", "fail", f"{path}: {error.strerror}", _join(group))
    if not stat.S_ISSOCK(mode):
        return False, Check("socket", "fail", f"{path} is not a socket", "move it away, or set another socket.path")
    return _connection(path, stat.S_IMODE(mode), group, start)


def _connection(path: Path, mode: int, group: str | None, start: str) -> tuple[bool, Check]:
    with socket.socket(socket.AF_UNIX) as probe_socket:
        probe_socket.settimeout(DAEMON_S)
        code = probe_socket.connect_ex(str(path))
    if code == errno.ECONNREFUSED:
        return False, Check("socket", "warn", f"{path} was left behind; the next start removes it", start)
    if code in (errno.EACCES, errno.EPERM):
        return False, Check("socket", "fail", f"{getpass.getuser()} may not connect to {path}", _join(group))
    if code:
        found = f"{path}: {os.strerror(code)}"
        return False, Check("socket", "fail", found, "restart the daemon; it may have too many connections")
    expected = 0o660 if group else 0o600
    if mode & ~expected:
        found = f"{path} has mode {mode:04o}, expected {expected:04o}: others may connect"
        return True, Check("socket", "warn", found, "restart the daemon, and let nothing else change its mode")
    return True, Check("socket", "ok", f"{path}, mode {mode:04o}")


def _join(group: str | None) -> str:
    user = getpass.getuser()
    if group:
        return f"join the group: sudo usermod -aG {group} {user}, then log in again"
    return "run this as the daemon's user, or name a group that may connect in socket.group"


def _status(path: Path) -> tuple[Mapping[str, Any], Check | None]:
    """What the daemon says of itself, nothing when it says nothing, and then why."""
    try:
        return Client(path, timeout_s=DAEMON_S).status(), None
    except EdgeAgentError as error:
        fix = "restart the daemon, or find out what listens there: ss -xlp"
        return {}, Check("daemon", "fail", _found_and_fix(error)[0], fix)


def _token(config: Config, environ: Mapping[str, str], status: Mapping[str, Any]) -> Check:
    name = config.tcp.token_env
    if config.tcp.port is None:
        return Check("token", "ok", "not needed: TCP is off")
    if status.get("tcp"):
        return Check("token", "ok", f"the daemon listens on {status['tcp']} and has one")
    fix = f"export {name}=$(openssl rand -hex 32), or put it in the service's /etc/edge-agent/environment"
    token = environ.get(name) or ""
    if not token:
        return Check("token", "fail", f"tcp.port is {config.tcp.port} and the variable {name} is not set", fix)
    if len(token) < SHORTEST_TOKEN:
        return Check("token", "warn", f"the token in {name} has {len(token)} characters, others may guess it", fix)
    return Check("token", "ok", f"in the variable {name}")


def _cloud(config: Config, environ: Mapping[str, str], status: Mapping[str, Any], within_s: float) -> Check:
    """Asks the cloud for its list of models, with the key; generates nothing."""
    problem, name = cloud_problem(config, environ), config.cloud.api_key_env
    if problem == "cloud_no_key":
        if checks.part(status, "cloud").get("usable"):
            return Check("cloud", "ok", f"not tried: the daemon has a key, this shell has none in {name}")
        fix = f"set {name} where the daemon starts (a service: /etc/edge-agent/environment) and restart it"
        return Check("cloud", "warn", f"local only: the variable {name} is not set", fix)
    if problem:
        return Check("cloud", "ok", f"local only: {REASONS[problem]}")
    return _ask_cloud(config, cloud_key(config, environ), within_s)


def _ask_cloud(config: Config, key: str | None, within_s: float) -> Check:
    from edge_agent.cloud_model import CloudModel

    cloud = config.cloud
    model = CloudModel(
        base_url=cloud.base_url or "",
        model=cloud.model or "",
        api_key=key,
        connect_timeout_s=min(cloud.connect_timeout_s, DAEMON_S),
    )
    with closing(model):
        answer = _within(within_s, model.check)
    if answer is None:
        fix = "check the network; until then the local model answers alone"
        return Check("cloud", "warn", f"{model.host} did not answer within {within_s:g} s", fix)
    return checks.check_cloud(answer, cloud.api_key_env)


def _within(seconds: float, call: Callable[[], Result]) -> Result | None:
    """The result, or None when it is not there in time; the call is left to itself."""
    results: list[Result] = []
    thread = threading.Thread(target=lambda: results.append(call()), daemon=True)
    thread.start()
    thread.join(seconds)
    return results[0] if results else None


def _found_and_fix(error: EdgeAgentError) -> tuple[str, str]:
    """Our errors end with what to do, behind the last semicolon."""
    found, _, fix = error.message.rpartition("; ")
    return (found, fix) if found else (error.message, "see docs/troubleshooting.md")
