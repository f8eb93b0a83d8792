"""A daemon that follows a script: real HTTP on a real Unix socket, so that a client meets any behaviour on demand.

The last user message chooses what happens (Handler._scripts); everything else is answered with `You said: ...`.
"""

from __future__ import annotations

import json
import socketserver
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

DECISION = {"route": "local", "reason": "below_threshold", "score": 0.12, "threshold": 0.42, "degraded": None}
INFO = DECISION | {"id": "0193a5b2-1c3d-7abc-8def-000000000001", "model": "tiny", "duration_ms": 1840.0}
STATUS = {"pid": 7, "local": {"model": "tiny", "busy": False, "waiting": 0}, "log": {"path": "/data/edge-agent.db"}}


class ScriptedDaemon:
    """Listens from `start` to `close`; `requests` holds (path, body) of everything that was asked."""

    def __init__(self, path: Path):
        self.path = path
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.client_left = threading.Event()
        """Set when an answer could not be sent because nobody read it any more."""

    def start(self) -> None:
        self.path.unlink(missing_ok=True)
        self._server = _Server(str(self.path), Handler)
        self._server.script = self
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        """Stops listening; the socket file stays, as after a crash."""
        self._server.shutdown()
        self._server.server_close()

    @property
    def chats(self) -> list[dict[str, Any]]:
        """The bodies of the chat requests."""
        return [body for path, body in self.requests if path == "/v1/chat/completions"]


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False
    script: ScriptedDaemon

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that leave early are what the tests are about."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.script.requests.append((self.path, {}))
        self._json(200, STATUS if self.path == "/v1/status" else {"status": "ok"})

    def do_POST(self) -> None:
        if int(self.headers["Content-Length"]) > 1_000_000:
            self.close_connection = True  # without having read the body
            return self._error(413, "request_too_large", "expected at most 1000000 bytes")
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.script.requests.append((self.path, body))
        if self.path == "/v1/feedback":
            return self._json(200, {"id": body["id"], "rating": body["rating"]})
        if self.path == "/v1/route":
            return self._json(200, DECISION | {"router_ms": 3.2, "prompt_tokens": 9, "n_ctx": 4096})
        try:
            self._answer(body["messages"][-1]["content"])
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
            self.server.script.client_left.set()

    def _answer(self, text: str) -> None:
        scripts: dict[str, Callable[[], None]] = {
            "busy": lambda: self._error(429, "busy", "4 requests wait already"),
            "too long": lambda: self._error(400, "context_exceeded", "the prompt has 9000 tokens, the context 4096"),
            "not json": lambda: self._send(500, "text/html", b"<h1>proxy</h1>"),
            "hang up": self._hang_up,
            "silence": lambda: self._events(self._wait_for_the_client_to_leave),
            "endless": lambda: self._events(self._tick),
            "cut": lambda: self._events(lambda: self._delta("half "), self._hang_up),
            "cut in a line": lambda: self._events(lambda: self._chunk(b'data: {"choices": [{"del'), self._hang_up),
            "late error": lambda: self._events(lambda: self._delta("half "), self._late_error),
            "pings": lambda: self._events(self._ping, lambda: self._delta("pong"), self._ping, self._end),
            "nothing": lambda: self._events(self._end),
            "escape": lambda: self._events(lambda: self._delta("red \x1b[31malert\x07"), self._end),
        }
        pieces = [lambda: self._delta("You said: "), lambda: self._delta(text), self._end]
        scripts.get(text, lambda: self._events(*pieces))()

    def _events(self, *steps: Callable[[], None]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("x-edge-agent-id", str(INFO["id"]))
        self.end_headers()
        for step in steps:
            step()
        if not self.close_connection:
            self.wfile.write(b"0\r\n\r\n")

    def _delta(self, text: str) -> None:
        self._event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})

    def _end(self) -> None:
        self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "edge_agent": INFO})
        self._event({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}})
        self._chunk(b"data: [DONE]\n\n")

    def _late_error(self) -> None:
        self._event(
            {"error": {"message": "the model broke", "type": "server_error", "code": "local_model_unavailable"}}
        )

    def _ping(self) -> None:
        self._chunk(b": ping\n\n")

    def _tick(self) -> None:
        while not self.server.script.client_left.wait(0.01):
            self._delta("tick ")

    def _wait_for_the_client_to_leave(self) -> None:
        self.rfile.read(1)

    def _hang_up(self) -> None:
        self.close_connection = True

    def _event(self, value: object) -> None:
        self._chunk(b"data: " + json.dumps(value).encode() + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _error(self, status: int, code: str, message: str) -> None:
        self._json(status, {"error": {"message": message, "type": "error", "param": None, "code": code}})

    def _json(self, status: int, value: object) -> None:
        self._send(status, "application/json", json.dumps(value).encode())

    def _send(self, status: int, kind: str, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
