"""What the tests of the cloud model share: asking it, and failing to."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from edge_agent.cloud_model import CloudModel
from edge_agent.errors import CloudError
from edge_agent.types import Chunk, Completion, Message, Query
from tests.misbehaving_cloud import Behaviour, Cloud, misbehaving_cloud

KEY = "sk-very-secret"
HELLO = Query(messages=(Message("user", "Say hello."),))


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def cloud_model(base_url: str, **changes: Any) -> CloudModel:
    patient = {"connect_timeout_s": 5.0, "read_timeout_s": 5.0, "total_timeout_s": 10.0, "retries": 0}
    return CloudModel(base_url=base_url, model="big", **({"api_key": KEY} | patient | changes))


def ask(model: CloudModel, query: Query = HELLO, cancelled: threading.Event | None = None) -> tuple[str, Completion]:
    """The chunks' text, joined, and the Completion."""
    texts, chunks = [], model.generate(query, cancelled or threading.Event())
    while True:
        try:
            chunk = next(chunks)
        except StopIteration as end:
            return "".join(texts), end.value
        assert isinstance(chunk, Chunk)
        texts.append(chunk.text)


def failing(behaviour: Behaviour, *, tls: bool = False, **changes: Any) -> tuple[CloudError, Cloud, float]:
    """The error that asking ends in, the cloud that caused it, and the seconds it took."""
    with misbehaving_cloud(behaviour, tls=tls) as cloud:
        started = time.monotonic()
        with pytest.raises(CloudError) as caught:
            ask(cloud_model(cloud, **changes))
        return caught.value, cloud, time.monotonic() - started


def pauses_of(behaviour: Behaviour, **changes: Any) -> list[float]:
    """The pauses between the attempts, in seconds, none of them waited for."""
    pauses: list[float] = []
    failing(behaviour, sleep=lambda seconds, cancelled: pauses.append(seconds), **({"retries": 5} | changes))
    return pauses


def cloud_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "cloud"]


def wait_until(condition: Any, seconds: float = 2.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)
