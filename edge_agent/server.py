"""The ASGI app: HTTP in, HTTP out. Knows the wire and the agent's events; nothing of routing. The only async room.

Each exchange runs in a thread of a bounded pool and fills a queue; the response reads it, and sets `cancelled` the
moment its client is gone.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from functools import partial
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from edge_agent import wire, wire_request
from edge_agent.agent import Agent
from edge_agent.config import is_loopback
from edge_agent.errors import Busy, CloudRejected, EdgeAgentError, RequestError
from edge_agent.log_forgetting import Forgotten
from edge_agent.types import Chunk, Decision, Exchange, Query

_LOGGER = logging.getLogger(__name__)
_PING_S = 10.0
"""A comment this often keeps impatient clients and proxies alive while the model reads a long prompt."""
_GONE = Response(status_code=499)


class Log(Protocol):
    def add_feedback(self, exchange_id: str, rating: str, comment: str | None = None) -> None: ...

    def forget(self, exchange_id: str | None = None, conversation_id: str | None = None) -> Forgotten: ...


class Server:
    """:param status: what GET /v1/status answers.
    :param models: {value of `model`: who answers}.
    :param token: the bearer token for TCP; None refuses all TCP requests.
    :param on_start: called in the event loop once the app is ready.
    """

    def __init__(
        self,
        agent: Agent,
        log: Log,
        *,
        status: Callable[[], dict[str, Any]],
        models: dict[str, str],
        token: str | None = None,
        max_body_bytes: int = 1_048_576,
        max_messages: int = 256,
        max_active: int = 32,
        silent_client_s: float = 30.0,
        on_start: Callable[[], None] = lambda: None,
    ):
        self._agent, self._log, self._status, self._models, self._token = agent, log, status, models, token
        self._max_body_bytes, self._max_messages, self._max_active = max_body_bytes, max_messages, max_active
        self._silent_client_s, self._on_start = silent_client_s, on_start
        self._pool = ThreadPoolExecutor(max_active + 4, thread_name_prefix="exchange")
        self._active: set[_Running] = set()
        self.app = Starlette(
            routes=[
                Route("/v1/chat/completions", self._guarded(self._chat), methods=["POST"]),
                Route("/v1/route", self._guarded(self._route), methods=["POST"]),
                Route("/v1/feedback", self._guarded(self._feedback), methods=["POST"]),
                Route("/v1/forget", self._guarded(self._forget), methods=["POST"]),
                Route("/v1/models", self._guarded(self._list_models)),
                Route("/v1/status", self._guarded(self._show_status)),
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
        self.app.router.redirect_slashes = False

    def close(self) -> None:
        """Cancel what still runs and wait for its rows."""
        for running in list(self._active):
            running.cancelled.set()
        self._pool.shutdown(wait=True)

    def stop(self) -> None:
        """End what still runs with an error; called in the event loop when the daemon drains no longer."""
        for running in list(self._active):
            running.stop(EdgeAgentError("the daemon is stopping; ask again later", code="shutting_down", status=503))

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._on_start()
        yield

    def _guarded(self, handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            if request.state.peer != "unix":
                _check_tcp(request, self._token)
            return await handler(request)

        return guarded

    async def _chat(self, request: Request) -> Response:
        chat = wire_request.parse_chat(await self._body(request), max_messages=self._max_messages)
        if len(self._active) >= self._max_active:
            raise Busy(f"busy: {self._max_active} exchanges are running (server.max_active); try again in a moment")
        running = _Running(self._agent, chat.query, asyncio.get_running_loop())
        self._active.add(running)
        self._pool.submit(running.run, lambda: self._active.discard(running))
        gone = asyncio.create_task(_disconnected(request))
        try:
            decision = await running.unless(gone)
            if chat.stream and isinstance(decision, Decision):
                model = self._models["local"] if decision.route == "local" else None
                headers = wire.headers(chat.query, decision, model) | {"cache-control": "no-store"}
                return _EventStream(self._events(chat, running, decision), running, headers)
            return await _whole(running, gone)
        except BaseException:
            running.cancelled.set()
            raise
        finally:
            gone.cancel()

    async def _events(
        self, chat: wire_request.ChatRequest, running: _Running, decision: Decision
    ) -> AsyncIterator[bytes]:
        query, model = chat.query, self._models.get(decision.route or "", "")
        try:
            yield _event(wire.render_chunk(query, model, {"role": "assistant", "content": ""}))
            while not isinstance(item := await running.next(_PING_S), Exchange):
                if isinstance(item, Chunk):
                    yield _event(wire.render_chunk(query, model, {"content": item.text}))
                elif item is None:
                    yield b": ping\n\n"
            for chunk in wire.render_ending(item, chat.include_usage):
                yield _event(chunk)
            yield b"data: [DONE]\n\n"
        except EdgeAgentError as error:
            yield _event(wire.render_error(error))
        except Exception:
            _LOGGER.exception("exchange %s failed", query.id)
            yield _event(wire.render_error(_bug()))

    async def _route(self, request: Request) -> Response:
        query = wire_request.parse_chat(await self._body(request), max_messages=self._max_messages).query
        plan = await asyncio.get_running_loop().run_in_executor(self._pool, self._agent.plan, query)
        decision, facts = plan.decision, plan.facts
        body = {
            "route": decision.route,
            "score": wire.rounded(decision.score, 4),
            "threshold": decision.threshold,
            "reason": decision.reason,
            "degraded": decision.degraded,
            "router_version": decision.router_version,
            "router_ms": wire.rounded(plan.router_ms, 2),
            "prompt_tokens": facts.prompt_tokens,
            "n_ctx": facts.n_ctx,
            "private": query.private,
        }
        return _Json(body, headers=wire.headers(query, decision))

    async def _feedback(self, request: Request) -> Response:
        feedback = wire_request.parse_feedback(await self._body(request))
        await self._settled(feedback.exchange_id)
        record = partial(self._log.add_feedback, feedback.exchange_id, feedback.rating, feedback.comment)
        await asyncio.get_running_loop().run_in_executor(self._pool, record)
        return _Json({"id": feedback.exchange_id, "rating": feedback.rating})

    async def _forget(self, request: Request) -> Response:
        exchange_id, conversation_id = wire_request.parse_forget(await self._body(request))
        if exchange_id is not None:
            await self._settled(exchange_id)
        forget = partial(self._log.forget, exchange_id, conversation_id)
        return _Json(asdict(await asyncio.get_running_loop().run_in_executor(self._pool, forget)))

    async def _settled(self, exchange_id: str) -> None:
        """Wait for the row of an exchange that just ends: people rate an answer the moment they stopped it."""
        for _ in range(40):
            if all(running.exchange_id != exchange_id for running in self._active):
                return
            await asyncio.sleep(0.05)

    async def _list_models(self, request: Request) -> Response:
        return _Json(wire.render_models(self._models))

    async def _show_status(self, request: Request) -> Response:
        status = await asyncio.get_running_loop().run_in_executor(self._pool, self._status)
        return _Json(status | {"active": len(self._active)})

    async def _health(self, request: Request) -> Response:
        return _Json({"status": "ok"})

    async def _body(self, request: Request) -> bytes:
        try:
            return await asyncio.wait_for(_read(request, self._max_body_bytes), self._silent_client_s)
        except asyncio.TimeoutError as error:
            late = f"body: expected all of it within {self._silent_client_s:g} s (server.silent_client_s)"
            raise RequestError(late, status=408, code="request_timeout") from error


class _Running:
    """One exchange in its thread, and the queue it fills: Decision, Chunk ..., Exchange, or an exception."""

    def __init__(self, agent: Agent, query: Query, loop: asyncio.AbstractEventLoop):
        self._agent, self._query, self._loop = agent, query, loop
        self.exchange_id = query.id
        self._events: asyncio.Queue[Decision | Chunk | Exchange | Exception] = asyncio.Queue()
        self.cancelled = threading.Event()

    def run(self, done: Callable[[], None]) -> None:
        """Answer the query; called in a thread of the pool."""
        try:
            answer = self._agent.answer(self._query, self.cancelled)
            while True:
                self._tell(next(answer))
        except StopIteration as end:
            self._tell(end.value)
        except Exception as error:
            self._tell(error)
        finally:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(done)

    def stop(self, error: EdgeAgentError) -> None:
        """Cancel the exchange; its client hears `error`."""
        self._events.put_nowait(error)
        self.cancelled.set()

    async def next(self, timeout_s: float | None = None) -> Decision | Chunk | Exchange | None:
        """The next event, or None when none came in time. Raises what the exchange raised."""
        try:
            item = await asyncio.wait_for(self._events.get(), timeout_s)
        except asyncio.TimeoutError:
            return None
        if isinstance(item, Exception):
            raise item
        return item

    async def unless(self, gone: asyncio.Task[None]) -> Decision | Chunk | Exchange | None:
        """The next event, or None when the client left first."""
        event = asyncio.create_task(self.next())
        done, _ = await asyncio.wait({event, gone}, return_when=asyncio.FIRST_COMPLETED)
        if event in done:
            return await event
        event.cancel()
        return None

    def _tell(self, item: Decision | Chunk | Exchange | Exception) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._events.put_nowait, item)


class _EventStream(StreamingResponse):
    """The events of one exchange. It is cancelled when they end, also when its client left before the first."""

    def __init__(self, events: AsyncIterator[bytes], running: _Running, headers: dict[str, str]):
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._running = running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._running.cancelled.set()


async def _whole(running: _Running, gone: asyncio.Task[None]) -> Response:
    item: Any = True
    while item is not None and not isinstance(item, Exchange):
        item = await running.unless(gone)
    if item is None:
        running.cancelled.set()
        return _GONE
    model = item.completion.model if item.completion else None
    return _Json(wire.render_completion(item), headers=wire.headers(item.query, item.decision, model))


async def _read(request: Request, limit: int) -> bytes:
    too_large = RequestError(
        f"body: expected at most {limit} bytes (server.max_body_bytes); send less", status=413, code="request_too_large"
    )
    if int(request.headers.get("content-length") or 0) > limit:
        raise too_large
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise too_large
    return body


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _check_tcp(request: Request, token: str | None) -> None:
    """No browser page by a name it made resolve to loopback, and no process without the token."""
    if not is_loopback(request.headers.get("host", "")) or "origin" in request.headers:
        raise RequestError("host: expected a loopback name and no Origin header", status=403, code="forbidden")
    sent = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
    if token is None or not hmac.compare_digest(sent.encode(), token.encode()):
        raise RequestError(
            "authorization: expected `Bearer <token>` with the daemon's token (tcp.token_env)",
            status=401,
            code="invalid_api_key",
        )


class _Json(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return _encoded(content)


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + _encoded(data) + b"\n\n"


def _encoded(data: Any) -> bytes:
    """JSON in UTF-8; a cloud may send half of a surrogate pair, which becomes a question mark."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


async def _show_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, EdgeAgentError)
    headers = {"retry-after": "1"} if isinstance(error, Busy) else {}
    if error.status == 408:
        headers["connection"] = "close"  # the rest of the body is not waited for
    if isinstance(error, CloudRejected):
        headers["x-should-retry"] = "false"  # the openai SDK would ask again on any 5xx
    return _Json(wire.render_error(error), status_code=error.status, headers=headers)


async def _show_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.scope['path'][:80]}: {error.detail}; see docs/api.md for what there is"
    code = "method_not_allowed" if error.status_code == 405 else "not_found"
    shown = EdgeAgentError(message, code=code, status=error.status_code)
    return _Json(wire.render_error(shown), status_code=error.status_code, headers=error.headers)


async def _show_nothing(_: Request, error: Exception) -> Response:
    return _GONE


async def _show_bug(_: Request, error: Exception) -> Response:
    return _Json(wire.render_error(_bug()), status_code=500)


def _bug() -> EdgeAgentError:
    return EdgeAgentError("internal error; the daemon's log has the details")
