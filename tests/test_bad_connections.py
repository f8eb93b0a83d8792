"""Connections that misbehave: silent, slow, gone, no HTTP at all, too large, or on TCP without the right."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.asking import ask, events, eventual_row, eventually, get, n_active
from tests.conftest import free_port
from tests.daemon_process import TOKEN, DaemonProcess, running_daemon

SILENT_S = 0.4
LONG = {"model": "local", "messages": [{"role": "user", "content": "tell me all"}]}


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory, tiny_gguf: Path, tiny_router: Path) -> Iterator[DaemonProcess]:
    """A daemon that waits 0.4 s for silent clients, and whose long answers take most of a second."""
    settings = {
        "server": {"silent_client_s": SILENT_S},
        "tcp": {"port": free_port()},
        "local": {"n_ctx": 2048, "max_tokens": 2000, "max_waiting": 64},
    }
    with running_daemon(tmp_path_factory.mktemp("strict"), tiny_gguf, tiny_router, settings) as running:
        yield running
        assert get(running, "/health") == {"status": "ok"} and "Traceback" not in running.output


def connected(daemon: DaemonProcess) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10)
    connection.connect(str(daemon.socket))
    return connection


def request(body: dict[str, Any] | bytes, *headers: str, path: str = "/v1/chat/completions") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: edge", f"Content-Length: {len(data)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def everything(connection: socket.socket) -> bytes:
    """What comes until the daemon closes the connection."""
    received = b""
    while part := connection.recv(65536):
        received += part
    return received


def until(connection: socket.socket, end: bytes) -> bytes:
    """What comes until `end` has come."""
    received = b""
    while end not in received:
        part = connection.recv(65536)
        assert part, f"closed before {end!r}"
        received += part
    return received


# Silent and slow


@pytest.mark.parametrize("said", [b"", b"POST /v1/chat/completions HTTP/1.1\r\nHost: edge\r\n"])
def test_a_client_that_says_nothing_is_closed(strict: DaemonProcess, said: bytes) -> None:
    started = time.monotonic()
    with connected(strict) as connection:
        connection.sendall(said)
        assert everything(connection) == b""
    assert SILENT_S <= time.monotonic() - started < 5


def test_half_a_second_request_is_closed_too(strict: DaemonProcess) -> None:
    with connected(strict) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: edge\r\n\r\n")
        assert until(connection, b'{"status":"ok"}').startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /health HTTP/1.1\r\n")
        assert everything(connection) == b""


def test_a_body_that_drips_in_is_a_timeout(strict: DaemonProcess) -> None:
    head, body = request(LONG).split(b"\r\n\r\n")
    with connected(strict) as connection:
        connection.sendall(head + b"\r\n\r\n")
        for byte in body[:-1]:
            connection.sendall(bytes([byte]))
            time.sleep(0.03)
            if byte == body[20]:
                break
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 408") and b"silent_client_s" in answer and b"request_timeout" in answer
    assert b"invalid_request_error" in answer


def test_a_client_that_waits_for_a_long_answer_is_not_silent(strict: DaemonProcess) -> None:
    with connected(strict) as connection:
        connection.sendall(request(LONG | {"stream": True}))
        started = time.monotonic()
        until(connection, b"data: [DONE]")
    assert time.monotonic() - started > SILENT_S


# Gone


def test_the_model_is_free_as_soon_as_its_client_left(strict: DaemonProcess) -> None:
    whole_s = ask(strict, max_tokens=2000).model_extra["edge_agent"]["duration_ms"] / 1000
    with strict.http() as client, client.stream("POST", "/v1/chat/completions", json=LONG | {"stream": True}) as answer:
        next(events(answer.iter_lines()))
    started = time.monotonic()
    ask(strict, "next", max_tokens=1)
    assert time.monotonic() - started < whole_s / 2
    row = eventual_row(strict, answer.headers["x-edge-agent-id"])
    assert (row["finish_reason"], row["error"]) == ("cancelled", None) and row["output_tokens"] < 1900


@pytest.mark.parametrize("stream", [True, False])
def test_however_soon_a_client_leaves_its_answer_ends(strict: DaemonProcess, stream: bool) -> None:
    last_seq = strict.log.status()["last_seq"] or 0
    for number in range(40):
        with connected(strict) as connection:
            connection.sendall(request(LONG | {"stream": stream}))
            time.sleep(number / 4000)
    eventually(lambda: n_active(strict) == 0)
    rows = [row for row in strict.log.rows(limit=100) if row["seq"] > last_seq]
    assert {row["finish_reason"] for row in rows} == {"cancelled"}
    assert max(row["output_tokens"] for row in rows) < 1900


def test_a_client_that_leaves_while_it_waits_takes_no_turn(strict: DaemonProcess) -> None:
    with connected(strict) as running, connected(strict) as waiting:
        running.sendall(request(LONG | {"stream": True}))
        running.recv(1)
        waiting.sendall(request(LONG))
        eventually(lambda: get(strict, "/v1/status")["local"]["waiting"] == 1)
        waiting.close()
        eventually(lambda: n_active(strict) == 1)
    eventually(lambda: n_active(strict) == 0)
    row = next(row for row in strict.log.rows(limit=2) if row["output_tokens"] == 0)
    assert row["finish_reason"] == "cancelled" and row["answer"] == ""


def test_a_client_that_leaves_in_its_body_leaves_no_trace(strict: DaemonProcess) -> None:
    eventually(lambda: n_active(strict) == 0)
    rows = strict.log.status()["rows"]
    with connected(strict) as connection:
        connection.sendall(request(LONG)[:-10])
    assert ask(strict, max_tokens=1).usage.completion_tokens == 1
    assert strict.log.status()["rows"] == rows + 1 and "Traceback" not in strict.output


# Too large, or no HTTP


def test_ten_megabytes_are_refused(strict: DaemonProcess) -> None:
    with strict.http() as client:
        answer = client.post("/v1/chat/completions", content=b" " * 10_000_000)
    assert answer.status_code == 413 and answer.json()["error"]["code"] == "request_too_large"
    assert "1048576 bytes (server.max_body_bytes)" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "sent",
    [
        request(b"", "X: y").replace(b"Content-Length: 0", b"Content-Length: 10000000"),
        request(b"", "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
        + b"200000\r\n"
        + b"x" * 1_100_000,
    ],
)
def test_a_body_that_is_too_large_is_not_waited_for(strict: DaemonProcess, sent: bytes) -> None:
    started = time.monotonic()
    with connected(strict) as connection:
        connection.sendall(sent)
        assert connection.recv(65536).startswith(b"HTTP/1.1 413")
    assert time.monotonic() - started < SILENT_S


GARBAGE = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"GET /he\x00alth HTTP/1.1\r\nHost: edge\r\n\r\n",
    b"GET /health HTTP/1.1\r\n\r\n",
    b"\xff" * 100_000,
    b"GET /health HTTP/1.1\r\nHost: edge\r\nX-Huge: " + b"x" * 1_000_000 + b"\r\n\r\n",
    b"GET /" + b"x" * 1_000_000 + b" HTTP/1.1\r\nHost: edge\r\n\r\n",
    b"POST /v1/route HTTP/1.1\r\nHost: edge\r\nContent-Length: -5\r\n\r\n",
    b"POST /v1/route HTTP/1.1\r\nHost: edge\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /v1/route HTTP/1.1\r\nHost: edge\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
]


@pytest.mark.parametrize("data", GARBAGE, ids=[re.sub(r"[^ -~]", "?", repr(data[:30])) for data in GARBAGE])
def test_what_is_no_http_is_refused_or_closed(strict: DaemonProcess, data: bytes) -> None:
    with connected(strict) as connection:
        try:
            connection.sendall(data)
            answer = everything(connection)
        except ConnectionError:
            answer = b""  # closed while we were sending
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400")
    assert get(strict, "/health") == {"status": "ok"}


def test_two_requests_at_once_get_two_answers(strict: DaemonProcess) -> None:
    with connected(strict) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: edge\r\n\r\n" * 2)
        assert everything(connection).count(b'{"status":"ok"}') == 2


# TCP


RIGHT = {"Authorization": f"Bearer {TOKEN}"}


@pytest.mark.parametrize(
    ("headers", "status_code"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": f"Bearer {TOKEN}x"}, 401),
        ({"Authorization": f"Basic {TOKEN}"}, 401),
        ({"Authorization": b"Bearer \xff\xfe"}, 401),
        (RIGHT | {"Host": "evil.example"}, 403),
        (RIGHT | {"Host": "localhost.evil.example:8642"}, 403),
        (RIGHT | {"Host": "127.0.0.1.evil.example"}, 403),
        (RIGHT | {"Host": ""}, 403),
        (RIGHT | {"Origin": "http://127.0.0.1"}, 403),
        (RIGHT | {"Origin": "null"}, 403),
        (RIGHT, 200),
        (RIGHT | {"Host": "localhost"}, 200),
        (RIGHT | {"Host": "[::1]:8642"}, 200),
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/v1/status", "/v1/chat/completions", "/v1/route", "/v1/feedback"])
def test_tcp_needs_the_token_a_loopback_name_and_no_browser(
    strict: DaemonProcess, path: str, headers: dict[str, Any], status_code: int
) -> None:
    method = "GET" if path in ("/v1/models", "/v1/status") else "POST"
    with httpx.Client(verify=False, trust_env=False) as client:
        answer = client.request(method, f"http://127.0.0.1:{strict.port}{path}", headers=headers)
    if status_code == 200 and method == "POST":
        status_code = 400  # it got as far as its empty body
    assert answer.status_code == status_code
    assert status_code in (200, 400) or answer.json()["error"]["type"] == "authentication_error"
    assert TOKEN not in answer.text


def test_the_unix_socket_needs_no_token_and_health_none_anywhere(strict: DaemonProcess) -> None:
    assert len(get(strict, "/v1/models")["data"]) == 3
    assert httpx.get(f"http://127.0.0.1:{strict.port}/health", trust_env=False).json() == {"status": "ok"}
