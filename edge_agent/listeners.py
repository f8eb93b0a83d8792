"""The sockets the daemon listens on and who may talk over them. Knows nothing of requests."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import grp
import os
import socket
import stat
import struct
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

from edge_agent.errors import ConfigError, DaemonError

LONGEST_PATH = 107
"""Bytes of a Unix socket's path: sun_path holds 108 with its end."""
_BACKLOG = 128
_MOST_CONNECTIONS = 512


class UnixListener:
    """A listening Unix socket with mode 0600, or 0660 and a group. Never wider, not even for a moment.

    :raises ConfigError: when the path is too long, is not a socket, or the group is unknown.
    :raises DaemonError: when a daemon listens there already.
    """

    def __init__(self, path: Path, group: str | None = None):
        self.path = path.absolute()
        length = len(os.fsencode(self.path))
        if length > LONGEST_PATH:
            raise ConfigError(
                f"socket.path: expected at most {LONGEST_PATH} bytes, found {length} in {self.path}; choose another"
            )
        group_id = _group_id(group) if group else None
        with ExitStack() as undo:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._lock = _lock(self.path)
                undo.callback(os.close, self._lock)
                _remove_stale(self.path)
                self.socket = _bind(self.path, group_id)
            except OSError as error:
                raise ConfigError(
                    f"socket.path: cannot listen on {self.path}: {error}; choose another with --socket"
                ) from error
            undo.pop_all()
        self._inode = self.path.stat().st_ino

    def close(self) -> None:
        """Close the socket and remove its path, if it is still ours."""
        with suppress(OSError):
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()
        self.socket.close()
        os.close(self._lock)


def bind_tcp(host: str, port: int) -> socket.socket:
    """A listening loopback TCP socket. :raises ConfigError: when the address is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"tcp.port: cannot listen on {host}:{port}: {error}; choose another port") from error
    listener.listen(_BACKLOG)
    return listener


def peer_protocol(*, silent_client_s: float, foreign_allowed: bool) -> type[H11Protocol]:
    """uvicorn's HTTP/1.1 protocol that knows its peer: `state.peer` is `unix` or `tcp`.

    :param silent_client_s: a connection without a request for this long, at first or after an answer, is closed.
    :param foreign_allowed: whether users other than ours and root may talk over the Unix socket (a group was set).
    """
    allowed = None if foreign_allowed else frozenset({os.getuid(), 0})
    return type("PeerH11", (_PeerH11,), {"silent_client_s": silent_client_s, "allowed_uids": allowed})


class _PeerH11(H11Protocol):
    silent_client_s: float
    allowed_uids: frozenset[int] | None
    """Who may talk over the Unix socket; None: whoever its mode lets in."""
    _silence: asyncio.TimerHandle | None = None
    _open: ClassVar[set[int]] = set()
    """Connections, by id: beyond _MOST_CONNECTIONS a new one is closed before it costs more than its descriptor."""

    def connection_made(self, transport: Any) -> None:
        peer = transport.get_extra_info("socket")
        unix = peer is not None and peer.family == socket.AF_UNIX
        if unix and self.allowed_uids is not None and _uid(peer) not in self.allowed_uids:
            transport.abort()  # before a byte of HTTP is parsed
            return
        if len(self._open) >= _MOST_CONNECTIONS:
            transport.abort()
            return
        self._open.add(id(self))
        self.app_state = {**self.app_state, "peer": "unix" if unix else "tcp"}
        super().connection_made(transport)
        self._wait_for_request()

    def data_received(self, data: bytes) -> None:
        if self.transport is not None:
            super().data_received(data)

    def on_response_complete(self) -> None:
        self._wait_for_request()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._silence is None:
            return  # aborted in connection_made
        self._open.discard(id(self))
        self._silence.cancel()
        super().connection_lost(exc)

    def _wait_for_request(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
        self._silence = self.loop.call_later(self.silent_client_s, self._close_if_silent)

    def _close_if_silent(self) -> None:
        if self.cycle is None or self.cycle.response_complete:  # else an answer is on its way
            self.transport.close()


def _uid(peer: socket.socket) -> int:
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


def _group_id(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise ConfigError(
            f"socket.group: there is no group {group!r} here; create it (groupadd {group}) or name another"
        ) from error


def _lock(path: Path) -> int:
    """Held while we live, so that two starting daemons cannot both find the socket stale."""
    descriptor = os.open(
        path.with_name(path.name + ".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
    )
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise DaemonError(
            f"a daemon already listens on {path}; stop it or choose another socket with --socket"
        ) from error
    return descriptor


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(
            f"socket.path: {path} exists and is not a socket; move it away or choose another path with --socket"
        )
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2.0)
        code = probe.connect_ex(str(path))
    if code == errno.ECONNREFUSED:
        path.unlink()
    elif code != errno.ENOENT:
        raise DaemonError(f"a daemon already listens on {path}; stop it or choose another socket with --socket")


def _bind(path: Path, group_id: int | None) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177 if group_id is None else 0o117)
    try:
        listener.bind(str(path))
    finally:
        os.umask(mask)
    try:
        if group_id is not None:
            os.chown(path, -1, group_id)
    except OSError:
        path.unlink()
        raise
    listener.listen(_BACKLOG)
    return listener
