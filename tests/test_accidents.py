"""What an owner or a stranger does to a running daemon, and what it does then."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from edge_agent.decision_log import DecisionLog, LogReader
from edge_agent.errors import RequestError
from edge_agent.types import Completion, Decision, Exchange, Message, Query
from tests.conftest import StartDaemon
from tests.daemon_process import DaemonProcess
from tests.misbehaving_cloud import hang_before_headers, misbehaving_cloud


def exchange(*texts: str, answer: str = "yes", private: bool = False, tokens: int = 1) -> Exchange:
    messages = [Message("assistant" if i % 2 else "user", text) for i, text in enumerate(texts)]
    completion = Completion(answer, "m", "stop", input_tokens=tokens)
    return Exchange(Query(tuple(messages), private=private), Decision("local", "asked_local"), completion)


def test_a_log_that_is_removed_is_begun_anew(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    daemon.chat("before")
    for file in daemon.directory.glob("log.db*"):
        if not file.name.endswith(".lock"):
            file.unlink()
    daemon.chat("after")
    assert [row["answer"] is not None for row in daemon.log.rows()] == [True]
    assert "removed or replaced" in daemon.output


def test_a_turn_never_continues_a_row_that_was_not_kept(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "log.db", max_wait_ms=5000)
    log.append(exchange("FIRST", tokens=2**70))  # SQLite cannot hold the number
    log.append(exchange("FIRST", "yes", "SECOND"))
    log.close()
    row = LogReader(tmp_path / "log.db").rows()[0]
    assert row["parent_id"] is None
    assert [m["content"] for m in json.loads(row["messages"])] == ["FIRST", "yes", "SECOND"]


@pytest.mark.parametrize(("private", "content"), [(True, True), (False, False)])
def test_no_comment_is_kept_where_no_text_is(tmp_path: Path, private: bool, content: bool) -> None:
    log = DecisionLog(tmp_path / "log.db", content=content, max_wait_ms=5000)
    told = exchange("a secret", private=private)
    log.append(told)
    with pytest.raises(RequestError, match="send the rating alone"):
        log.add_feedback(told.query.id, "bad", "it told my secret")
    log.add_feedback(told.query.id, "bad")
    assert log.status()["feedback"] == 1
    log.close()


def test_what_still_runs_when_draining_is_over_gets_a_clear_error(start_daemon: StartDaemon) -> None:
    with misbehaving_cloud(hang_before_headers) as cloud:
        settings = {"base_url": str(cloud), "model": "m", "api_key_env": None, "read_timeout_s": 60.0}
        daemon = start_daemon(cloud=settings, server={"drain_s": 1.0})
        answers: list[tuple[int, str]] = []
        asking = threading.Thread(target=lambda: answers.append(told_by(daemon)))
        asking.start()
        while not cloud.requests:
            time.sleep(0.02)
        assert daemon.stop(signal.SIGTERM, timeout=15) == 0
        asking.join()
    assert answers == [(503, "shutting_down")]
    assert len(daemon.log.rows()) == 1


def told_by(daemon: DaemonProcess) -> tuple[int, str]:
    response = daemon.chat("a hard one")
    return response.status_code, response.json()["error"]["code"]


def test_a_storm_of_reloads_is_a_few_and_the_daemon_still_stops(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    for _ in range(200):
        os.kill(daemon.process.pid, signal.SIGHUP)
        time.sleep(0.002)
    assert daemon.chat("an easy one").status_code == 200
    started = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - started < 5
    assert "loaded (before: tiny-1)" in daemon.output


def test_more_connections_than_are_of_use_are_closed(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    idle = []
    for _ in range(520):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(daemon.socket))
        idle.append(connection)
    time.sleep(0.5)
    assert len(os.listdir(f"/proc/{daemon.process.pid}/fd")) < 560
    assert daemon.output.count("\n") < 30
    for connection in idle:
        connection.close()
    time.sleep(0.5)
    assert daemon.chat("an easy one").status_code == 200


def test_a_path_that_is_nearly_right_is_not_found(start_daemon: StartDaemon) -> None:
    with start_daemon().http() as client:
        response = client.get("/v1/models/")
    assert response.status_code == 404 and response.json()["error"]["code"] == "not_found"
