"""An OpenAI-compatible endpoint on a real loopback socket that misbehaves on purpose.

    with misbehaving_cloud(cut_after_text) as cloud:
        CloudModel(base_url=cloud, ...)
        cloud.requests[0].headers["authorization"]

A behaviour is a function of the request and the wire; `in_turn` gives each request its own.
"""

from __future__ import annotations

import json
import socket
import socketserver
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Made by: openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 36500 -subj /CN=localhost
#   -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -addext basicConstraints=critical,CA:TRUE
#   -addext keyUsage=critical,digitalSignature,keyCertSign
# Signed by itself and trusted by nobody: it protects nothing.
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBqzCCAVGgAwIBAgIUVfIMA8zfzYSchIPGlppVonUamJAwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMzIwMzgzNVoYDzIxMjYxMDMw
MjAzODM1WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAS5iG07Z0QSyhWKx8QnWzWOVPlEWKqE+IT6CSU3eoB8459nZ5T0vkSP
QeWdyqmnjuk3sTZTSMmBpPGABsCIznj/o38wfTAdBgNVHQ4EFgQU/xgqLELHQ5q7
6ZfHxWpTg5R7o4gwHwYDVR0jBBgwFoAU/xgqLELHQ5q76ZfHxWpTg5R7o4gwGgYD
VR0RBBMwEYIJbG9jYWxob3N0hwR/AAABMA8GA1UdEwEB/wQFMAMBAf8wDgYDVR0P
AQH/BAQDAgKEMAoGCCqGSM49BAMCA0gAMEUCIQCh6M4mG77ZXzmMCaxoDqedhcw8
swEV7YU1cEiLYcWc8QIgTdcTElpU47+6j51fQELx8uqb/3dEMziE25MGRS9mgbo=
-----END CERTIFICATE-----
"""
PRIVATE_KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgCKI41H3GiQDBFZ5i
tkM5f8bvpiDum3FlHjE0FopZb/ShRANCAAS5iG07Z0QSyhWKx8QnWzWOVPlEWKqE
+IT6CSU3eoB8459nZ5T0vkSPQeWdyqmnjuk3sTZTSMmBpPGABsCIznj/
-----END PRIVATE KEY-----
"""


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes
    client: tuple[str, int]
    """Address and port: the same one means the same connection."""

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)


class Cloud(str):
    """The base URL, and what has happened there."""

    requests: list[Request]
    hung_up: threading.Event
    """Set when a client closed its connection while a behaviour was hanging or sending."""


class Wire:
    """The client's connection, for a behaviour to send what it likes."""

    def __init__(self, connection: socket.socket, hung_up: threading.Event):
        self._connection, self._hung_up = connection, hung_up

    def send(self, data: bytes) -> None:
        """Sends raw bytes."""
        try:
            self._connection.sendall(data)
        except OSError:
            self._hung_up.set()
            raise

    def head(self, status: int = 200, content_type: str = "text/event-stream", **headers: str) -> None:
        """Begins an answer; its body is chunked unless `Content_Length` says otherwise."""
        headers = {"Content_Type": content_type} | ({} if "Content_Length" in headers else CHUNKED) | headers
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        self.send(f"HTTP/1.1 {status} Whatever\r\n{lines}\r\n".encode())

    def chunk(self, data: bytes) -> None:
        """Sends one HTTP chunk."""
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def event(self, event: object) -> None:
        """Sends one server-sent event in a chunk of its own."""
        self.chunk(b"data: " + json.dumps(event).encode() + b"\n\n")

    def done(self) -> None:
        """Ends a streamed answer as OpenAI does."""
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")

    def whole(self, status: int, body: bytes, content_type: str = "application/json", **headers: str) -> None:
        """Sends an answer in one piece."""
        self.head(status, content_type, Content_Length=str(len(body)), **headers)
        self.send(body)

    def hang(self) -> None:
        """Says nothing until the client hangs up."""
        with suppress(OSError):
            while self._connection.recv(4096):
                pass
        self._hung_up.set()

    def cut(self) -> None:
        """Closes the connection here and now."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)


Behaviour = Callable[[Request, Wire], None]
CHUNKED = {"Transfer_Encoding": "chunked"}


@contextmanager
def misbehaving_cloud(behaviour: Behaviour, *, tls: bool = False) -> Iterator[Cloud]:
    """Serves `behaviour` on a free loopback port until the block ends; then every connection is closed."""
    with _Server(behaviour, tls=tls) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server.cloud
        finally:
            server.shutdown()
            server.cut_all()
            thread.join()


def piece(text: str | None = None, *, finish: str | None = None, **more: Any) -> dict[str, Any]:
    """One event of a streamed chat completion; `more` goes into the delta."""
    delta = ({} if text is None else {"content": text}) | more
    return {
        "id": "c1",
        "object": "chat.completion.chunk",
        "model": "big-1",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }


def answering(*texts: str, finish: str = "stop", pause_s: float = 0.0) -> Behaviour:
    """Behaves well: streams `texts`, then usage when it was asked for."""

    def behave(request: Request, wire: Wire) -> None:
        wire.head()
        wire.event(piece(role="assistant"))
        for text in texts:
            wire.event(piece(text))
            time.sleep(pause_s)
        wire.event(piece(finish=finish))
        if (request.json.get("stream_options") or {}).get("include_usage"):
            wire.event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": len(texts)}})
        wire.done()

    return behave


def events(*sent: object) -> Behaviour:
    """Streams these events, then [DONE]."""

    def behave(request: Request, wire: Wire) -> None:
        wire.head()
        for event in sent:
            wire.event(event)
        wire.done()

    return behave


def raw(*blocks: bytes, content_type: str = "text/event-stream") -> Behaviour:
    """Sends a 200 with these blocks as its body, which ends with the connection."""

    def behave(request: Request, wire: Wire) -> None:
        wire.send(f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nConnection: close\r\n\r\n".encode())
        for block in blocks:
            wire.send(block)
            time.sleep(0.005)
        wire.cut()

    return behave


def status(code: int, body: object = None, content_type: str = "application/json", **headers: str) -> Behaviour:
    """Answers with an HTTP status; `body` is JSON unless it is bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body or {"error": {"message": "no"}}).encode()
    return lambda request, wire: wire.whole(code, data, content_type, **headers)


def in_turn(*behaviours: Behaviour) -> Behaviour:
    """Gives each request the next behaviour; the last one stays."""
    left = list(behaviours)

    def behave(request: Request, wire: Wire) -> None:
        (left.pop(0) if len(left) > 1 else left[0])(request, wire)

    return behave


def hang_before_headers(request: Request, wire: Wire) -> None:
    wire.hang()


def hang_after_headers(request: Request, wire: Wire) -> None:
    wire.head()
    wire.hang()


def hang_after_text(request: Request, wire: Wire) -> None:
    wire.head()
    wire.event(piece("Hel"))
    wire.hang()


def hang_in_error_body(request: Request, wire: Wire) -> None:
    wire.head(500, "application/json")
    wire.hang()


def drip(request: Request, wire: Wire) -> None:
    """One byte at a time, for ever."""
    wire.head()
    with suppress(OSError):
        while True:
            wire.chunk(b":")
            time.sleep(0.05)


def endless(request: Request, wire: Wire) -> None:
    """Text without an end, as fast as it goes."""
    wire.head()
    with suppress(OSError):
        while True:
            wire.event(piece("la" * 10_000))


def endless_line(request: Request, wire: Wire) -> None:
    wire.head()
    with suppress(OSError):
        while True:
            wire.chunk(b"data: " + b"x" * 50_000)


def one_huge_chunk(request: Request, wire: Wire) -> None:
    """A JSON body of a gigabyte, in a single HTTP chunk."""
    wire.head(200, "application/json")
    with suppress(OSError):
        wire.send(b"40000000\r\n")
        for _ in range(1 << 10):
            wire.send(b"{" + b"\n" * ((1 << 20) - 1))


def cut_before_headers(request: Request, wire: Wire) -> None:
    wire.cut()


def cut_before_text(request: Request, wire: Wire) -> None:
    wire.head()
    wire.event(piece(role="assistant"))
    wire.send(b"ff\r\ndata: {")
    wire.cut()


def cut_after_text(request: Request, wire: Wire) -> None:
    wire.head()
    wire.event(piece("Hel"))
    wire.send(b"ff\r\ndata: {")
    wire.cut()


def redirect_to(url: str) -> Behaviour:
    return lambda request, wire: wire.whole(307, b"", Location=url)


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
    request_queue_size = 64

    def __init__(self, behaviour: Behaviour, *, tls: bool):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behaviour = behaviour
        self.open: set[socket.socket] = set()
        if tls:
            self.socket = _server_context().wrap_socket(self.socket, server_side=True)
        self.cloud = Cloud(f"http{'s' if tls else ''}://127.0.0.1:{self.server_address[1]}/v1")
        self.cloud.requests, self.cloud.hung_up = [], threading.Event()

    def cut_all(self) -> None:
        for connection in list(self.open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hung up is what many tests are about."""


class _Handler(socketserver.StreamRequestHandler):
    server: _Server
    disable_nagle_algorithm = True  # else each small piece waits 40 ms for the one before to be acknowledged

    def handle(self) -> None:
        self.server.open.add(self.request)
        try:
            while request := self._read():
                self.server.cloud.requests.append(request)
                self.server.behaviour(request, Wire(self.request, self.server.cloud.hung_up))
        finally:
            self.server.open.discard(self.request)

    def _read(self) -> Request | None:
        words = self.rfile.readline().decode("latin-1").split()
        if len(words) != 3:
            return None
        headers = {}
        while line := self.rfile.readline().decode("latin-1").strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        body = self.rfile.read(int(headers.get("content-length", 0)))
        return Request(words[0], words[1], headers, body, self.client_address)


def _server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "both.pem"
        file.write_text(CERTIFICATE + PRIVATE_KEY)
        context.load_cert_chain(file)
    return context
