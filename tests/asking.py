"""What the tests of the API ask a daemon with, over its Unix socket, and how they read what comes back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.daemon_process import DaemonProcess

LIGHT = {"type": "object", "properties": {"room": {"enum": ["hall", "bath"]}, "on": {"type": "boolean"}}}
LIGHT["required"] = ["room", "on"]
TOOLS = [
    {"type": "function", "function": {"name": name, "description": name, "parameters": LIGHT}}
    for name in ("set_light", "set_fan")
]


def ask(daemon: DaemonProcess, text: str = "hello", **fields: Any) -> ChatCompletion:
    """A whole answer, checked against the openai package's own types."""
    answer = daemon.chat(text, **fields)
    assert answer.status_code == 200, answer.text
    return ChatCompletion.model_validate(answer.json())


def text_of(daemon: DaemonProcess, text: str = "hello", **fields: Any) -> str:
    return ask(daemon, text, **fields).choices[0].message.content or ""


def events(lines: Iterator[str]) -> Iterator[str]:
    """The data of server-sent events; comments and the empty lines between events left out."""
    return (line.removeprefix("data: ") for line in lines if line.startswith("data: "))


def streamed(daemon: DaemonProcess, text: str = "hello", **fields: Any) -> list[ChatCompletionChunk]:
    """All chunks of a stream that ended as it should."""
    *chunks, done = events(iter(daemon.chat(text, stream=True, **fields).text.splitlines()))
    assert done == "[DONE]"
    return [ChatCompletionChunk.model_validate_json(chunk) for chunk in chunks]


def joined(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def n_rows(daemon: DaemonProcess) -> int:
    return int(daemon.log.status()["rows"])


def get(daemon: DaemonProcess, path: str) -> Any:
    with daemon.http() as client:
        return client.get(path).raise_for_status().json()


def post(daemon: DaemonProcess, path: str, body: Any) -> httpx.Response:
    with daemon.http() as client:
        return client.post(path, json=body)


def eventually(is_so: Callable[[], bool]) -> None:
    """Returns as soon as it is so; fails when it is not within ten seconds."""
    give_up = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < give_up, "it did not become so"
        time.sleep(0.01)


def n_active(daemon: DaemonProcess) -> int:
    """Exchanges that run; when there is none, every row is written."""
    return int(get(daemon, "/v1/status")["active"])


def eventual_row(daemon: DaemonProcess, exchange_id: str) -> dict[str, Any]:
    """The row of an exchange whose end its client did not see."""
    eventually(lambda: any(row["id"] == exchange_id for row in daemon.log.rows()))
    return daemon.log.row(exchange_id)
