"""The ASGI end of sync: batches in over HTTP, receipts out. Knows tokens, limits and time, nothing of a row.

Everything that takes time (unpacking, SQLite) happens in one thread: one writer, one unpacked batch in memory, and an
event loop that always answers.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edge_agent.errors import DeviceConflict, EdgeAgentError, RequestError
from edge_agent.listeners import peer_protocol
from edge_agent.log_batches import MAX_DECODED_BYTES, TABLES, decode
from edge_agent.notify import notify
from edge_agent.training.inbox import Inbox
from edge_agent.training.inbox_devices import Devices
from edge_agent.types import utc_now
from edge_agent.wire import render_error

_LOGGER = logging.getLogger(__name__)
_SILENT_CONNECTION_S = 60
"""For a connection without a request, and for the rest of a refused body: its sender should hear why."""
_DRAIN_S = 10
_RETRY_AFTER_S = {429: "1", 503: "5", 507: "60"}
_GONE = Response(status_code=499)

T = TypeVar("T")


class Receiver:
    """:param max_body_bytes: of a batch as it is sent. :param max_decoded_bytes: of a batch unpacked.
    :param max_active: uploads at a time; each holds its body in memory.
    :param on_forgotten: called when a device forgot exchanges.
    :param silent_client_s: how long an upload may pause. :param max_upload_s: how long it may take in all.
    :param on_start: called once requests are answered.
    """

    def __init__(
        self,
        inbox: Inbox,
        *,
        max_body_bytes: int = 4 << 20,
        max_decoded_bytes: int = MAX_DECODED_BYTES,
        max_active: int = 64,
        silent_client_s: float = 30.0,
        max_upload_s: float = 900.0,
        on_start: Callable[[], None] = lambda: None,
        on_forgotten: Callable[[], None] = lambda: None,
    ):
        self._inbox, self._devices = inbox, Devices(inbox)
        self._max_body_bytes, self._max_decoded_bytes, self._max_active = max_body_bytes, max_decoded_bytes, max_active
        self._silent_client_s, self._max_upload_s, self._on_start = silent_client_s, max_upload_s, on_start
        self._on_forgotten = on_forgotten
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inbox")
        self._active = 0
        self.app = Starlette(
            routes=[
                Route("/v1/batches", self._batches, methods=["POST"]),
                Route("/v1/position", self._position),
                Route("/health", self._health),
            ],
            exception_handlers={
                EdgeAgentError: _show_error,
                HTTPException: _show_http_error,
                ClientDisconnect: _show_nothing,
                Exception: _show_bug,
            },
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._on_start()
        yield
        self._thread.shutdown(wait=True)

    async def _batches(self, request: Request) -> Response:
        arrived_utc = utc_now()
        device_id = await self._device(request)
        _check_headers(request)
        await self._in_thread(
            self._devices.compare_clock, device_id, request.headers.get("x-edge-agent-sent-utc"), arrived_utc
        )
        if self._active >= self._max_active:
            message = f"busy: {self._max_active} uploads are running; try again in a moment"
            raise RequestError(message, status=429, code="busy")
        self._active += 1
        try:
            body = await self._body(request)
            receipt = await self._in_thread(self._file, device_id, body, request.headers.get("x-content-sha256", ""))
        finally:
            self._active -= 1
        return JSONResponse(receipt)

    async def _position(self, request: Request) -> Response:
        device_id = await self._device(request)
        log_id, table = (request.query_params.get(name, "") for name in ("log_id", "table"))
        if table not in TABLES:
            raise RequestError(f"table: expected one of {', '.join(TABLES)}, found {table[:40]!r}", param="table")
        last_seq = await self._in_thread(self._inbox.position, device_id, log_id, table)
        row_id = await self._in_thread(self._inbox.row_id, device_id, log_id, table, last_seq)
        return JSONResponse({"last_seq": last_seq, "id": row_id})

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _device(self, request: Request) -> str:
        """Who asks; found out before a byte of the body is read."""
        token = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        return await self._in_thread(self._devices.of_token, token)

    async def _body(self, request: Request) -> bytes:
        try:
            return await asyncio.wait_for(self._read(request), self._max_upload_s)
        except asyncio.TimeoutError as error:
            late = f"expected the next part within {self._silent_client_s:g} s, and all within {self._max_upload_s:g} s"
            raise RequestError(f"body: {late}; send it again", status=408, code="request_timeout") from error

    async def _read(self, request: Request) -> bytes:
        limit = self._max_body_bytes
        message = f"body: expected at most {limit} bytes (serve --max-body-bytes); send fewer rows"
        too_large = RequestError(message, status=413, code="request_too_large")
        if int(request.headers.get("content-length") or 0) > limit:
            raise too_large
        body, parts = bytearray(), request.stream()
        while part := await asyncio.wait_for(_next(parts), self._silent_client_s):
            body += part
            if len(body) > limit:
                raise too_large
        return bytes(body)

    def _file(self, device_id: str, body: bytes, sha256: str) -> dict[str, Any]:
        """In the inbox's thread: check, unpack, write; the receipt."""
        found = hashlib.sha256(body).hexdigest()
        if found != sha256.lower():
            raise RequestError(
                f"x-content-sha256: the header says {sha256[:64]!r}, the body has {found}; send it again",
                code="sha256_mismatch",
            )
        header, rows = decode(body, self._max_decoded_bytes)
        if header.device_id != device_id:
            raise RequestError(
                f"device_id: the token is for {device_id!r}, the batch for {header.device_id!r}; set sync.device_id to"
                f" the former, or get a token for the latter with `receive_logs.py add-device {header.device_id}`",
                status=403,
                code="other_device",
            )
        receipt = self._inbox.add(header, rows)
        if header.table == "forgotten":
            self._on_forgotten()
        span = f"{header.table} {header.after_seq + 1}-{header.last_seq}"
        facts = f"{receipt.accepted} new, {receipt.duplicates} known, {receipt.rejected} rejected"
        _LOGGER.log(logging.WARNING if receipt.rejected else logging.INFO, "%s: %s: %s", device_id, span, facts)
        return asdict(receipt)

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(function, *arguments))


def run(receiver: Receiver, listener: socket.socket, *, tls: tuple[Path, Path] | None) -> None:
    """Serve until SIGTERM or SIGINT; uploads that have begun get some seconds to end.

    :param tls: files of the certificate chain and its key; None: plain HTTP.
    """
    certificate, key = tls or (None, None)
    config = uvicorn.Config(
        receiver.app,
        http=peer_protocol(silent_client_s=_SILENT_CONNECTION_S, foreign_allowed=True),
        loop="asyncio",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        timeout_keep_alive=_SILENT_CONNECTION_S,
        timeout_graceful_shutdown=_DRAIN_S,
    )
    server = uvicorn.Server(config)

    def stop(*_: object) -> None:  # before uvicorn listens, and when it raises them again
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    server.run(sockets=[listener])
    notify("STOPPING=1")
    _LOGGER.info("stopped")


async def _next(parts: AsyncIterator[bytes]) -> bytes:
    """The next part that is not empty; b"" at the end."""
    async for part in parts:
        if part:
            return part
    return b""


def _check_headers(request: Request) -> None:
    expected = {"content-type": "application/x-ndjson", "content-encoding": "gzip"}
    for name, value in expected.items():
        found = request.headers.get(name, "").split(";")[0].strip().lower()
        if found != value:
            message = f"{name}: expected {value}, found {found[:60]!r}; is this a batch of edge-agent?"
            raise RequestError(message, status=415, code="unsupported_media_type")


async def _show_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, EdgeAgentError)
    peer = request.client.host if request.client else "?"
    level = logging.WARNING if isinstance(error, DeviceConflict) or error.status in (401, 403) else logging.INFO
    level = logging.ERROR if error.status >= 500 else level
    _LOGGER.log(level, "%s: refused with %d: %s", peer, error.status, error.message)
    headers = {"retry-after": _RETRY_AFTER_S[error.status]} if error.status in _RETRY_AFTER_S else {}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.status == 408:
        headers["connection"] = "close"  # the rest of the body is not waited for
    return JSONResponse(render_error(error), error.status, headers)


async def _show_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.scope['path'][:80]}: {error.detail}; see docs/receiving.md for what there is"
    code = "method_not_allowed" if error.status_code == 405 else "not_found"
    shown = EdgeAgentError(message, code=code, status=error.status_code)
    return JSONResponse(render_error(shown), error.status_code, error.headers)


async def _show_nothing(_: Request, error: Exception) -> Response:
    return _GONE


async def _show_bug(_: Request, error: Exception) -> Response:
    return JSONResponse(render_error(EdgeAgentError("internal error; the receiver's log has the details")), 500)
