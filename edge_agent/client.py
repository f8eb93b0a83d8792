"""Talks to the daemon: connects, asks, streams. Knows HTTP on a Unix socket and the wire's names; prints nothing.

Standard library only, so that `edge-agent ask` starts at once. Every call opens a connection of its own: a daemon
that was restarted between two calls is simply there again.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edge_agent.errors import DaemonError, EdgeAgentError

if TYPE_CHECKING:
    from edge_agent.types import Wish

MAX_PATH_BYTES = 107
"""AF_UNIX: 108 bytes with the closing zero."""

Message = Mapping[str, Any]
"""A message in OpenAI's chat format: {"role": ..., "content": ...}."""


@dataclass(frozen=True, slots=True)
class Started:
    """The daemon has begun to answer; what its headers already told."""

    id: str | None
    """The exchange's id: what feedback names."""


@dataclass(frozen=True, slots=True)
class Delta:
    """The next piece of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Final:
    """The answer is complete."""

    finish_reason: str | None
    edge_agent: dict[str, Any] = field(default_factory=dict)
    """id, route, score, threshold, reason, model, degraded, the times in ms and the uncertainty."""
    usage: dict[str, Any] | None = None
    """prompt_tokens, completion_tokens and total_tokens, when they are known."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    text: str
    finish_reason: str | None
    edge_agent: dict[str, Any]
    usage: dict[str, Any] | None


Event = Started | Delta | Final


class Client:
    """A client of the daemon on one Unix socket.

    Every method raises DaemonError when no daemon can be reached, EdgeAgentError with the daemon's own code when it
    refuses or fails, and EdgeAgentError with code `interrupted` when it goes away before it has finished.
    """

    def __init__(self, socket_path: str | os.PathLike[str], *, answer_timeout_s: float = 600, timeout_s: float = 30):
        """`answer_timeout_s` is the longest silence of an answer under way, `timeout_s` that of every other call."""
        self.socket_path = os.fspath(socket_path)
        self.answer_timeout_s = answer_timeout_s
        self.timeout_s = timeout_s

    def chat(
        self,
        messages: Sequence[Message],
        *,
        model: Wish = "auto",
        private: bool = False,
        conversation_id: str | None = None,
    ) -> Generator[Event, None, None]:
        """Streams one answer: Started, then Delta ..., then Final. The request leaves with the first `next`.

        Closing the generator closes the connection at once, and the daemon stops generating.
        """
        body = _chat_body(messages, model, private, conversation_id)
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        with self._exchange("POST", "/v1/chat/completions", body, self.answer_timeout_s) as response:
            yield Started(response.getheader("x-edge-agent-id"))
            yield from _events(response)

    def ask(
        self,
        messages: Sequence[Message],
        *,
        model: Wish = "auto",
        private: bool = False,
        conversation_id: str | None = None,
        on_text: Callable[[str], None] = lambda text: None,
    ) -> Answer:
        """One whole answer; `on_text` gets each piece of it as it comes."""
        text: list[str] = []
        with closing(self.chat(messages, model=model, private=private, conversation_id=conversation_id)) as events:
            for event in events:
                if isinstance(event, Delta):
                    text.append(event.text)
                    on_text(event.text)
                elif isinstance(event, Final):
                    return Answer("".join(text), event.finish_reason, event.edge_agent, event.usage)
        raise AssertionError("a stream ends with Final or an error")

    def route(
        self,
        messages: Sequence[Message],
        *,
        model: Wish = "auto",
        private: bool = False,
        conversation_id: str | None = None,
    ) -> dict[str, Any]:
        """What would be decided for these messages; nothing is generated."""
        return self._call("POST", "/v1/route", _chat_body(messages, model, private, conversation_id))

    def feedback(self, id: str, rating: str, comment: str | None = None) -> dict[str, Any]:
        """Rates an answer `good` or `bad`; `id` is `edge_agent.id` of that answer."""
        body = {"id": id, "rating": rating} | ({} if comment is None else {"comment": comment})
        return self._call("POST", "/v1/feedback", body)

    def forget(self, id: str | None, conversation_id: str | None = None) -> dict[str, Any]:
        """Erases the conversation of an exchange, or the one a client named so, from the daemon's log."""
        given = {"id": id, "conversation_id": conversation_id}
        return self._call("POST", "/v1/forget", {name: value for name, value in given.items() if value is not None})

    def status(self) -> dict[str, Any]:
        """What the running daemon says about itself."""
        return self._call("GET", "/v1/status")

    def health(self) -> dict[str, Any]:
        """{"status": "ok"} from a daemon that lives."""
        return self._call("GET", "/health")

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        with self._exchange(method, path, body, self.timeout_s) as response:
            return _object(response.read())

    @contextmanager
    def _exchange(
        self, method: str, path: str, body: Mapping[str, Any] | None, timeout_s: float
    ) -> Iterator[http.client.HTTPResponse]:
        """A successful response, read inside the `with`; afterwards its connection is closed, read or not."""
        connection = self._connect(timeout_s)
        response = None
        try:
            # A daemon that refuses an oversize body answers and closes before it has read everything.
            with suppress(BrokenPipeError, ConnectionResetError):
                data = None if body is None else json.dumps(body).encode()
                connection.request(method, path, data, {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status >= 400:
                raise _refusal(response.status, response.read())
            yield response
        except TimeoutError as error:
            raise _interrupted(f"the daemon said nothing for {timeout_s:g} s") from error
        except (OSError, http.client.IncompleteRead) as error:
            raise _interrupted("the daemon closed the connection before its answer was complete") from error
        except http.client.HTTPException as error:
            raise _not_ours(str(error)) from error
        finally:
            if response is not None:
                response.close()
            connection.close()

    def _connect(self, timeout_s: float) -> _UnixConnection:
        length = len(os.fsencode(self.socket_path))
        if length > MAX_PATH_BYTES:
            raise DaemonError(
                f"socket path {self.socket_path}: expected at most {MAX_PATH_BYTES} bytes, found {length}; "
                "name a shorter one with --socket"
            )
        connection = _UnixConnection(self.socket_path, timeout_s)
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            raise DaemonError(_why_no_connection(self.socket_path, error)) from error
        return connection


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket; the host is a name only."""

    def __init__(self, path: str, timeout_s: float):
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _chat_body(messages: Sequence[Message], model: Wish, private: bool, conversation_id: str | None) -> dict[str, Any]:
    body: dict[str, Any] = {"model": model, "messages": [dict(message) for message in messages]}
    if private:
        body["private"] = True
    if conversation_id is not None:
        body["edge_agent"] = {"conversation_id": conversation_id}
    return body


def _events(lines: Iterable[bytes]) -> Iterator[Event]:
    """The events of a chat stream; an end before `[DONE]` is an interruption."""
    finish_reason, usage = None, None
    info: dict[str, Any] = {}
    for line in lines:
        if not line.endswith(b"\n"):
            break
        if not line.startswith(b"data:"):
            continue  # the empty line after each event, or `: ping` while nothing happens
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            yield Final(finish_reason, info, usage)
            return
        chunk = _object(data)
        if chunk.get("error"):
            raise _error(chunk["error"])
        choice = (chunk.get("choices") or [{}])[0]
        if text := (choice.get("delta") or {}).get("content"):
            yield Delta(text)
        finish_reason = choice.get("finish_reason") or finish_reason
        info, usage = chunk.get("edge_agent") or info, chunk.get("usage") or usage
    raise _interrupted("the daemon closed the connection before its answer was complete")


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise _not_ours(data[:40]) from error
    if not isinstance(value, dict):
        raise _not_ours(data[:40])
    return value


def _refusal(status: int, data: bytes) -> EdgeAgentError:
    error = _object(data).get("error")
    return _error(error, status) if error else _not_ours(data[:40])


def _error(error: Any, status: int | None = None) -> EdgeAgentError:
    """The daemon's own error, as it sent it."""
    if not isinstance(error, dict):
        return EdgeAgentError(str(error), status=status)
    message, code = error.get("message") or "the daemon gave no reason", error.get("code") or error.get("type")
    return EdgeAgentError(message, code=code, status=status, param=error.get("param"))


def _not_ours(found: bytes | str) -> EdgeAgentError:
    return EdgeAgentError(
        f"expected a JSON object from the daemon, found {found!r}; is this the socket of `edge-agent serve`?",
        code="bad_response",
    )


def _interrupted(what: str) -> EdgeAgentError:
    return EdgeAgentError(f"{what}; ask again, or see `edge-agent status`", code="interrupted")


def _why_no_connection(path: str, error: OSError) -> str:
    start = "start one with `edge-agent serve`, or name its socket with --socket"
    if isinstance(error, FileNotFoundError):
        return f"no daemon at {path}: there is no such socket; {start}"
    if isinstance(error, ConnectionRefusedError):
        return f"no daemon at {path}: nobody listens there; {start}"
    if isinstance(error, PermissionError):
        return f"no permission to connect to {path}; run as the daemon's user, or as one of its socket.group"
    return f"cannot connect to {path}: {error.strerror or error}; {start}"
