"""A receiver on a real loopback socket that keeps what it is sent, and misbehaves on purpose.

    with misbehaving_station("cut mid-body", 503) as station: ...

Each request gets the next mood; after the last one it behaves. A number is an HTTP status.
"""

from __future__ import annotations

import hashlib
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from edge_agent.log_batches import BatchHeader, contiguous_end, decode

TOKEN = "station-token"
Mood = str | int


class Station:
    """What has arrived, and how."""

    def __init__(self, moods: tuple[Mood, ...], max_body_bytes: int):
        self.moods, self.max_body_bytes = list(moods), max_body_bytes
        self.url = ""
        self.rows: dict[str, dict[str, dict[str, Any]]] = {"exchanges": {}, "feedback": {}, "forgotten": {}}
        self.repeats = 0
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.bodies: list[bytes] = []
        self.ranges: dict[str, list[tuple[int, int]]] = {}
        self.headers: list[BatchHeader] = []
        self.answer = threading.Event()
        """Until it is set, a late answer is not given."""
        self._lock = threading.Lock()

    @property
    def ids(self) -> list[str]:
        """Of the exchanges, in the order of their arrival."""
        return list(self.rows["exchanges"])

    def mood(self) -> Mood:
        with self._lock:
            return self.moods.pop(0) if self.moods else "well"

    def keep(self, body: bytes) -> int:
        """Insert or ignore; the last seq without a hole."""
        header, rows = decode(body)
        with self._lock:
            self.headers.append(header)
            self.ranges.setdefault(header.table, []).append((header.after_seq, header.last_seq))
            for row in rows:
                self.repeats += row["id"] in self.rows[header.table]
                self.rows[header.table].setdefault(row["id"], row)
            return contiguous_end(self.ranges[header.table])


@contextmanager
def misbehaving_station(
    *moods: Mood, max_body_bytes: int = 4 << 20, certificate: Path | None = None, port: int = 0
) -> Iterator[Station]:
    """Serves until the block ends. :param certificate: PEM with key; then https."""
    station = Station(moods, max_body_bytes)
    handler = type("Handler", (_Handler,), {"station": station})
    server = _Server(("127.0.0.1", port), handler)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    station.url = f"http{'s' if certificate else ''}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield station
    finally:
        station.answer.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hung up is what many tests are about."""


class _Handler(BaseHTTPRequestHandler):
    station: Station
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        station, mood = self.station, self.station.mood()
        station.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        size = int(self.headers["content-length"])
        if mood == "cut mid-body":
            self.rfile.read(size // 2)
            return self._cut()
        if size > station.max_body_bytes:
            return self._refuse(413)
        body = self.rfile.read(size)
        station.bodies.append(body)
        if isinstance(mood, int):
            return self._refuse(mood)
        if mood == "nonsense":
            return self._answer(200, {"hello": "I am another server"})
        assert hashlib.sha256(body).hexdigest() == self.headers["x-content-sha256"]
        last_seq = station.keep(body)
        if mood == "cut before the answer":
            return self._cut()
        if mood == "late":
            station.answer.wait(10)
        if mood == "cut in the answer":
            self.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{"last_')
            return self._cut()
        return self._answer(200, {"accepted": 0, "duplicates": 0, "rejected": 0, "last_seq": last_seq})

    def do_GET(self) -> None:
        asked = parse_qs(urlsplit(self.path).query)
        self.station.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        ranges = self.station.ranges.get(asked["table"][0], [])
        return self._answer(200, {"last_seq": contiguous_end(ranges)})

    def _refuse(self, status: int) -> None:
        code = {409: "device_conflict"}.get(status, "no")
        headers = {"Retry-After": "7"} if status == 503 else {}
        headers |= {"Location": "/elsewhere"} if status in (301, 307) else {}
        self._answer(status, {"error": {"message": f"no {status}", "code": code}}, **headers)
        self.close_connection = True

    def _answer(self, status: int, body: object, **headers: str) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(data)

    def _cut(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        """Nothing on standard error."""
