"""Pruning of real log files: the oldest uploaded rows go, the file shrinks, and what was not uploaded stays."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from edge_agent.decision_log import DecisionLog
from edge_agent.log_pruning import Retention
from edge_agent.log_reader import LogReader
from edge_agent.log_status import log_status, retention_of
from edge_agent.sync_state import Position, SyncState
from tests.log_rows import exchange, numbered, rate, write_log
from tests.sync_device import Device, Run, device, run

__all__ = ["device", "run"]

DAY_S = 86_400.0
NEVER_S = 1e9


@contextmanager
def pruned(path: Path, *, days: float = 0.0, **retention: Any) -> Iterator[DecisionLog]:
    """A log whose clock is `days` ahead, after its first pruning."""
    sent = retention.pop("sent", {})
    log = DecisionLog(
        path,
        max_wait_ms=5000.0,
        retention=Retention(**retention, sent=sent if callable(sent) else lambda connection: sent),
        prune_every_s=NEVER_S,
        clock=lambda: time.time() + days * DAY_S,
    )
    with closing(log):
        wait_until(lambda: log._next_prune > time.monotonic() + 1)
        yield log


def wait_until(holds: Any, seconds: float = 8.0) -> None:
    give_up = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up, "did not happen in time"
        time.sleep(0.01)


def seqs(path: Path) -> list[int]:
    return [row["seq"] for row in reversed(LogReader(path).rows(limit=100_000))]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


# Age


def test_rows_that_are_old_and_uploaded_go_and_the_others_stay(path: Path) -> None:
    write_log(path, [exchange(created_utc="2020-01-01T00:00:00.000Z") for _ in range(1200)])
    write_log(path, [exchange() for _ in range(10)])
    with pruned(path, sent={"exchanges": 1100}):
        assert seqs(path) == list(range(1101, 1211))


def test_private_rows_go_by_age_although_they_are_never_uploaded(path: Path) -> None:
    write_log(path, [exchange(private=i % 2 == 0) for i in range(20)])
    with pruned(path, days=91):
        assert seqs(path) == list(range(2, 21, 2))


def test_what_is_young_stays_whatever_was_uploaded(path: Path) -> None:
    write_log(path, numbered(20))
    with pruned(path, days=89, sent={"exchanges": 20}):
        assert len(seqs(path)) == 20


@pytest.mark.parametrize("days", [1000.0, 20_000.0, -20_000.0])
@pytest.mark.parametrize("prune_unsent", [False, True])
def test_a_clock_that_jumps_deletes_nothing_that_was_not_uploaded(path: Path, days: float, prune_unsent: bool) -> None:
    ids = write_log(path, [exchange(created_utc="1970-01-01T00:00:05.000Z"), *[exchange() for _ in range(30)]])
    with pruned(path, days=days, sent={"exchanges": 12}, prune_unsent=prune_unsent):
        assert {row["id"] for row in LogReader(path).rows(limit=100)} >= set(ids[12:])


def test_rows_of_the_future_do_not_keep_older_ones(path: Path) -> None:
    """Written while the clock was wrong."""
    write_log(path, [exchange(created_utc="2199-01-01T00:00:00.000Z"), *[exchange() for _ in range(5)]])
    with pruned(path, days=91, sent={"exchanges": 6}):
        assert seqs(path) == [1]


# Feedback


def test_feedback_goes_with_its_exchange_and_keeps_it_until_it_is_uploaded(path: Path) -> None:
    ids = write_log(path, [exchange() for _ in range(6)])
    for id_ in ids[:4]:
        rate(path, id_)
    with pruned(path, days=91, sent={"exchanges": 6, "feedback": 2}):
        assert seqs(path) == [3, 4]
        assert [bool(LogReader(path).row(id_)["feedback"]) for id_ in ids[2:4]] == [True, True]
        assert LogReader(path).status()["feedback"] == 2


def test_feedback_is_not_kept_of_an_exchange_that_is_gone(path: Path) -> None:
    (gone,) = write_log(path, [exchange()])
    with pruned(path, days=91, sent={"exchanges": 1}) as log:
        log._wait_for(log._put("feedback", {"id": "f", "exchange_id": gone, "rating": "good", "created_utc": "2026"}))
        assert LogReader(path).status()["feedback"] == 0 and log.unrecorded == 0


# Size


def test_above_the_cap_the_oldest_uploaded_rows_go_and_the_file_really_shrinks(path: Path) -> None:
    write_log(path, [exchange(f"{i} " + "x" * 2000) for i in range(4000)])
    before = path.stat().st_size
    with pruned(path, max_bytes=4_000_000, sent={"exchanges": 4000}):
        left = seqs(path)
        assert left == list(range(4001 - len(left), 4001)) and 700 < len(left) < 1000
        wait_until(lambda: path.stat().st_size <= 4_000_000)
    assert before > 9_000_000 and path.stat().st_size <= 4_000_000


def test_above_the_cap_rows_that_were_not_uploaded_stay(path: Path) -> None:
    write_log(path, [exchange("x" * 2000) for _ in range(1500)])
    with pruned(path, max_bytes=500_000, sent={"exchanges": 300}):
        assert seqs(path) == list(range(301, 1501))


def test_above_the_cap_rows_that_were_not_uploaded_go_when_that_was_told(path: Path) -> None:
    write_log(path, [exchange("x" * 2000) for _ in range(1500)])
    with pruned(path, max_bytes=1_500_000, prune_unsent=True):
        left = seqs(path)
        assert left[-1] == 1500 and 200 < len(left) <= 366
    assert path.stat().st_size <= 1_500_000


def test_below_the_cap_nothing_goes(path: Path) -> None:
    write_log(path, [exchange("x" * 2000) for _ in range(100)])
    with pruned(path, max_bytes=10_000_000, sent={"exchanges": 100}, prune_unsent=True):
        assert len(seqs(path)) == 100


# When


def test_a_log_is_pruned_again_and_again_and_sees_what_was_uploaded_meanwhile(path: Path) -> None:
    write_log(path, [exchange() for _ in range(30)])
    sent: dict[str, int] = {}
    retention = Retention(sent=lambda connection: dict(sent))
    log = DecisionLog(path, retention=retention, prune_every_s=0.05, clock=lambda: time.time() + 91 * DAY_S)
    with closing(log):
        for up_to in (10, 25):
            sent["exchanges"] = up_to
            wait_until(lambda: seqs(path) == list(range(up_to + 1, 31)))  # noqa: B023
        log.append(exchange("meanwhile"))
        assert seqs(path)[-1] == 31


def test_answers_do_not_wait_while_a_large_log_is_pruned(path: Path) -> None:
    write_log(path, [exchange("x" * 500, created_utc="2020-01-01T00:00:00.000Z") for _ in range(6000)])
    retention = Retention(sent=lambda connection: {"exchanges": 6000})
    with closing(DecisionLog(path, max_wait_ms=5000.0, retention=retention, prune_every_s=NEVER_S)) as log:
        rows = []
        while log._next_prune < time.monotonic() + 1:
            log.append(exchange("now"))
            rows.append(LogReader(path).status()["rows"])
    assert len(rows) > 2 and rows[0] > 500  # written between two chunks, not after the last one


def test_a_log_without_retention_keeps_everything(path: Path) -> None:
    write_log(path, [exchange(created_utc="2020-01-01T00:00:00.000Z")])
    with closing(DecisionLog(path)) as log:
        log.append(exchange())
    assert seqs(path) == [1, 2]


def test_the_daemon_prunes_what_sync_has_uploaded(start_daemon: Any, tmp_path: Path) -> None:
    directory = tmp_path / "agent"
    directory.mkdir()
    log, url = directory / "log.db", (tmp_path / "there").as_uri()
    write_log(log, [exchange(created_utc="2020-01-01T00:00:00.000Z") for _ in range(5)])
    state = SyncState(directory / "state" / "edge-agent" / "sync-state.json")
    log_id, ids = LogReader(log).log_id(), [row["id"] for row in reversed(LogReader(log).rows())]
    state.move(url, "pi", log_id, "exchanges", Position(3, ids[2]))
    daemon = start_daemon(sync={"destination": url, "device_id": "pi"})
    wait_until(lambda: seqs(log) == [4, 5])
    with daemon.http() as client:
        status = client.get("/v1/status").json()["log"]
    assert (status["rows"], status["unsent"]) == (2, 2)


# What a person sees


def test_the_status_says_what_is_held_and_why(device: Device, run: Run) -> None:
    write_log(device.log, [exchange(created_utc="2020-01-01T00:00:00.000Z") for _ in range(4)])
    write_log(device.log, [exchange() for _ in range(2)] + [exchange(private=True)])
    log_id = LogReader(device.log).log_id()
    device.state.move(device.url, "pi", log_id, "exchanges", Position(1))
    device.state.note(device.url, last_error="2026 refused")
    retention = retention_of(*settings(device.url), device.state, "pi")
    status = log_status(LogReader(device.log), retention, device.state, url=device.url, device_id="pi")
    assert (status["rows"], status["unsent"], status["private"], status["log_id"]) == (7, 5, 1, log_id)
    assert status["sync"]["destination"] == device.url and status["sync"]["positions"]["exchanges"] == 1
    assert status["sync"]["last_error"] == "2026 refused"
    pruning = status["pruning"]
    assert (pruning["would_remove"], pruning["removable"], pruning["too_large"]) == (1, 2, False)
    assert pruning["kept_because"] == "3 rows are older than log.max_days, but not uploaded"


def test_the_status_of_a_log_that_is_too_large_says_what_keeps_it(device: Device) -> None:
    write_log(device.log, [exchange("x" * 2000) for _ in range(800)])
    retention = retention_of(*settings(None, max_mb=1), device.state, "pi")
    status = log_status(LogReader(device.log), retention, device.state, url=None, device_id="pi")
    assert status["pruning"]["kept_because"].startswith("800 rows are not uploaded; sync them, or set log.prune_unsent")
    assert status["sync"]["destination"].startswith("none: upload is off")


def test_the_command_shows_the_status(device: Device) -> None:
    import subprocess
    import sys

    from tests.sync_device import REPOSITORY, environment

    write_log(device.log, numbered(10))
    device.sync()
    environ = environment(device, EDGE_AGENT_SYNC_DESTINATION=device.url)
    command = [sys.executable, "-m", "edge_agent", "logs", "status"]
    shown = subprocess.run(command, env=environ, cwd=REPOSITORY, capture_output=True, text=True)
    assert shown.returncode == 0 and f"destination {device.url}" in shown.stdout and "removable 10" in shown.stdout
    as_json = subprocess.run([*command, "--json"], env=environ, cwd=REPOSITORY, capture_output=True, text=True)
    assert json.loads(as_json.stdout)["sync"]["positions"]["exchanges"] == 10


def settings(url: str | None, **log: Any) -> tuple[Any, Any]:
    from edge_agent.config_keys import Log, Sync

    return Log(**log), Sync(destination=url)
