"""Makes one HTTP request that its caller can leave at any moment. Does not know what is asked or answered."""

from __future__ import annotations

import functools
import queue
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.connection import HTTPConnection

from edge_agent.cloud_failure import MALFORMED_HEADERS, Failure, no_connection, of_exception

POLL_S = 0.1
"""How often a waiting caller looks whether it was cancelled."""
BLOCK_BYTES = 1 << 16
BLOCKS_AHEAD = 64
"""A slow caller is waited for after this many: together with BLOCK_BYTES this bounds the memory of a transfer."""
ANSWER_BYTES = 8 << 20
CONNECTIONS = 32
CONNECT_PATIENCE = 2
"""Name lookup, all addresses and TLS together may take so many connect timeouts: one dead address (IPv6) is normal."""


class Cancelled(Exception):
    """The caller's `cancelled` was set."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """In seconds: until connected, between bytes, for everything."""

    connect_s: float
    read_s: float
    total_s: float


@dataclass(frozen=True, slots=True)
class Head:
    status: int
    headers: Mapping[str, str]
    """Looked up without regard to case."""


class Key(AuthBase):
    """Puts the key on requests and takes it out of texts. Needed without a key, too: else .netrc would add its own."""

    def __init__(self, key: str | None):
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def hidden(self, text: str) -> str:
        """`text` without the key."""
        return text.replace(self._key, "[key]") if self._key else text


def new_session(key: Key, *, trust_env: bool) -> requests.Session:
    """A session for many threads that keeps connections and no cookies.

    :param trust_env: whether proxies and certificate bundles are taken from the environment.
    """
    session = requests.Session()
    session.auth, session.trust_env = key, trust_env
    session.headers.update({"User-Agent": "edge-agent", "Accept-Encoding": "identity"})
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    adapter = _Adapter(pool_maxsize=CONNECTIONS)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


class Transfer:
    """One request, made by a thread of its own.

    Name lookup, TLS and reads cannot be interrupted in Python. So the caller waits on a queue, sees at once that it is
    cancelled or out of time, and `close` cuts the socket, which ends the thread.
    """

    def __init__(
        self,
        session: requests.Session,
        method: str,
        url: str,
        *,
        body: bytes | None = None,
        timeouts: Timeouts,
        cancelled: threading.Event,
        clock: Callable[[], float] = time.monotonic,
        started: float | None = None,
    ):
        """:param started: `clock`'s time from which `timeouts.total_s` counts; None: now."""
        self._clock, self._cancelled, self._timeouts = clock, cancelled, timeouts
        self._began = clock()
        self._deadline = (self._began if started is None else started) + timeouts.total_s
        self._items: queue.Queue[Head | bytes | Exception] = queue.Queue(BLOCKS_AHEAD)
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._connected = self._closed = False
        request = functools.partial(session.request, method, url, data=body, headers=_headers(body))
        threading.Thread(target=self._run, args=(request,), name="cloud", daemon=True).start()

    def head(self) -> Head:
        """Waits for status and headers.

        :raises Failure: there are none, or not in time. :raises Cancelled: the caller does not want them any more.
        """
        head = self._next(self._deadline)
        assert isinstance(head, Head)
        return head

    def blocks(self, *, within_s: float | None = None) -> Iterator[bytes]:
        """The body as it arrives.

        :param within_s: seconds for the rest of the body, when shorter than what is left of the total.
        :raises Failure: it breaks off, is too long or too late. :raises Cancelled: as in `head`.
        """
        deadline = self._deadline if within_s is None else min(self._deadline, self._clock() + within_s)
        while block := self._next(deadline):
            assert isinstance(block, bytes)
            yield block

    def close(self) -> None:
        """Cuts the connection, whatever it is doing."""
        with self._lock:
            self._closed = True
            if self._socket is not None:
                with suppress(OSError):  # socket.socket's: an SSLSocket's own would take TLS from under the reader
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def attach(self, connected: socket.socket) -> None:
        """Called by the connection, in the transfer's thread, before it sends."""
        with self._lock:
            if self._closed:
                raise OSError("nobody waits for this request any more")
            self._socket, self._connected = connected, True

    def _next(self, deadline: float) -> Head | bytes:
        while True:
            self._check(deadline)
            try:
                item = self._items.get(timeout=POLL_S)
            except queue.Empty:
                continue
            if isinstance(item, Failure):
                raise item
            if isinstance(item, Exception):
                raise self._failure(item) from item
            return item

    def _check(self, deadline: float) -> None:
        if self._cancelled.is_set():
            raise Cancelled
        now = self._clock()
        if now >= deadline:
            raise Failure(f"no whole answer within {self._timeouts.total_s:g} s", unavailable=True, retry=False)
        if not self._connected and now >= self._began + CONNECT_PATIENCE * self._timeouts.connect_s:
            raise Failure(no_connection(CONNECT_PATIENCE * self._timeouts.connect_s), unavailable=True)

    def _failure(self, error: Exception) -> Failure:
        return of_exception(
            error,
            connected=self._connected,
            connect_timeout_s=self._timeouts.connect_s,
            read_timeout_s=self._timeouts.read_s,
        )

    def _run(self, request: Callable[..., requests.Response]) -> None:
        _running.transfer = self
        timeout = (self._timeouts.connect_s, self._timeouts.read_s)
        try:
            # No redirects: the key goes to the configured host alone.
            with request(stream=True, allow_redirects=False, timeout=timeout) as response:
                self._put(Head(response.status_code, response.headers))
                self._pump(response.raw)
            with self._lock:
                self._socket = None  # it is the pool's again, `close` must not cut it
            self._put(b"")
        except Exception as error:
            self._put(error)

    def _pump(self, raw: Any) -> None:
        if not re.fullmatch(r"\d+(, *\d+)*", raw.headers.get("Content-Length", "0").strip()):
            raise Failure(MALFORMED_HEADERS, unavailable=False)
        size = 0
        # read1, not iter_content: that waits for a full block when the body is not chunked, and for the whole of a
        # chunk, however large, when it is.
        while not self._over() and (block := raw.read1(BLOCK_BYTES, decode_content=True)):
            size += len(block)
            if size > ANSWER_BYTES:
                raise Failure(f"sent more than {ANSWER_BYTES >> 20} MiB", unavailable=False)
            self._put(block)

    def _put(self, item: Head | bytes | Exception) -> None:
        while not self._over():
            with suppress(queue.Full):
                return self._items.put(item, timeout=POLL_S)

    def _over(self) -> bool:
        """Whether nobody waits any more; also when a caller went away without `close`."""
        return self._closed or self._cancelled.is_set() or self._clock() >= self._deadline


_running = threading.local()
"""`transfer`: the one that this thread works for."""


def _headers(body: bytes | None) -> dict[str, str]:
    accept = {"Accept": "text/event-stream, application/json"}
    return accept if body is None else accept | {"Content-Type": "application/json"}


class _Adapter(HTTPAdapter):
    """Gives out connections that tell the transfer their socket: requests itself keeps it out of reach."""

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        pool.ConnectionCls = _attaching(pool.ConnectionCls)  # also a proxy's pool
        return pool


@functools.cache
def _attaching(base: type[HTTPConnection]) -> type[HTTPConnection]:
    if getattr(base, "attaches", False):
        return base

    class Attaching(base):  # type: ignore[misc, valid-type]
        attaches = True

        def send(self, data: Any) -> None:
            if self.sock is None:
                self.connect()
            if transfer := getattr(_running, "transfer", None):
                transfer.attach(self.sock)
            super().send(data)

    return Attaching
