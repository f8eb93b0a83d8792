"""The decision log on real SQLite files: what a row holds, what survives a bad disk, what a reader finds."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlite_utils import Database

from edge_agent.decision_log import _MOST_KEPT, DecisionLog, LogReader
from edge_agent.errors import DaemonError, LogError, RequestError
from edge_agent.migrations import migrations
from edge_agent.types import Completion, Decision, Exchange, Message, Options, Query, Uncertainty

DECISION = Decision("local", "below_threshold", score=0.25, threshold=0.5, router_version="tiny-1")


def exchange(*texts: str, answer: str = "hello", decision: Decision = DECISION, **query: Any) -> Exchange:
    """An exchange whose messages are the texts, user and assistant in turn."""
    roles = ("user", "assistant")
    messages = tuple(Message(roles[i % 2], text) for i, text in enumerate(texts or ("hi",)))
    completion = Completion(answer, "tiny", "stop", 7, 3, 12.5, 40.0, Uncertainty(1.0, 2.0, -0.5))
    return Exchange(Query(messages, **query), decision, completion, router_ms=1.5, duration_ms=50.0)


@contextmanager
def open_log(path: Path, **settings: Any) -> Iterator[DecisionLog]:
    log = DecisionLog(path, **({"max_wait_ms": 5000.0} | settings))
    try:
        yield log
    finally:
        log.close()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[DecisionLog]:
    with open_log(tmp_path / "log.db") as log:
        yield log


@pytest.fixture
def reader(log: DecisionLog) -> LogReader:
    return LogReader(log.path)


def full(log: DecisionLog, is_full: bool) -> None:
    """A disk with no room for another page of the file, or one with room again: SQLite's own SQLITE_FULL.

    Set by the writer's thread, between two batches: a connection that two threads use at once tells neither the truth.
    """
    done = threading.Event()

    def errand() -> None:
        pages = log._connection.execute("PRAGMA page_count").fetchone()[0] if is_full else 1 << 30
        log._connection.execute(f"PRAGMA max_page_count = {pages}").fetchone()
        done.set()

    with log._changed:
        log._errands.append(errand)
        log._changed.notify()
    assert done.wait(8)


def wait_until(holds: Any, seconds: float = 8.0) -> None:
    give_up = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up, "did not happen in time"
        time.sleep(0.01)


# Rows


def test_a_row_holds_the_whole_exchange(log: DecisionLog, reader: LogReader) -> None:
    options = Options(max_tokens=5, stop=("é",), response_format={"type": "json_object"})
    written = exchange("What is 2+2?", answer="4", options=options, wish="auto", conversation_id="c1")
    log.append(written)
    (row,) = reader.rows()
    assert (row["id"], row["created_utc"]) == (written.query.id, written.query.created_utc)
    assert (row["conversation_id"], row["wish"], row["private"], row["parent_id"]) == ("c1", "auto", False, None)
    assert (row["route"], row["reason"], row["score"], row["threshold"]) == ("local", "below_threshold", 0.25, 0.5)
    assert json.loads(row["messages"]) == [{"role": "user", "content": "What is 2+2?"}]
    assert json.loads(row["options"]) == options.to_openai()
    assert (row["answer"], row["model"], row["finish_reason"], row["error"]) == ("4", "tiny", "stop", None)
    assert (row["input_tokens"], row["output_tokens"], row["prompt_bytes"], row["answer_bytes"]) == (7, 3, 12, 1)
    assert (row["router_ms"], row["first_token_ms"], row["duration_ms"]) == (1.5, 12.5, 50.0)
    assert (row["mean_entropy"], row["max_entropy"], row["mean_logprob"]) == (1.0, 2.0, -0.5)


def test_a_failed_exchange_is_a_row_too(log: DecisionLog, reader: LogReader) -> None:
    failed = replace(exchange(decision=Decision(None, "context_exceeded")), completion=None, error="context_exceeded")
    log.append(failed)
    (row,) = reader.rows()
    assert (row["route"], row["reason"], row["error"]) == (None, "context_exceeded", "context_exceeded")
    assert (row["answer"], row["model"], row["mean_entropy"]) == (None, None, None)


def test_a_private_row_holds_no_text_and_nothing_made_from_it(tmp_path: Path) -> None:
    options = Options(stop=("secret",))
    secret = exchange("my secret", answer="kept secret", private=True, conversation_id="c1", options=options)
    with open_log(tmp_path / "log.db") as log:
        log.append(secret)
        log.append(exchange("my secret", "kept secret", "and more secret", private=True))
        row = LogReader(log.path).row(secret.query.id)
    kept = {"id", "created_utc", "wish", "private", "route", "reason", "router_version", "model", "finish_reason"}
    sizes = {"input_tokens", "output_tokens", "prompt_bytes", "answer_bytes"}
    times = {"router_ms", "first_token_ms", "duration_ms"}
    assert {name for name, value in row.items() if value not in (None, [])} == kept | sizes | times | {"seq"}
    assert b"secret" not in log.path.read_bytes()


def test_without_content_rows_keep_decisions_and_sizes_only(tmp_path: Path) -> None:
    with open_log(tmp_path / "log.db", content=False) as log:
        log.append(exchange("some text", answer="some answer", options=Options(stop=("some",))))
        (row,) = LogReader(log.path).rows()
    assert (row["messages"], row["answer"], row["options"]) == (None, None, None)
    assert (row["score"], row["prompt_bytes"], row["answer_bytes"]) == (0.25, 9, 11)


def test_the_same_exchange_twice_is_one_row(log: DecisionLog, reader: LogReader) -> None:
    once = exchange()
    log.append(once)
    log.append(once)
    assert len(reader.rows()) == 1


def test_exchanges_that_end_together_are_all_on_disk_when_append_returns(log: DecisionLog, reader: LogReader) -> None:
    missing: list[str] = []

    def append_many() -> None:
        for _ in range(20):
            mine = exchange()
            log.append(mine)
            if not any(row["id"] == mine.query.id for row in reader.rows(limit=200)):
                missing.append(mine.query.id)

    threads = [threading.Thread(target=append_many) for _ in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert missing == [] and log.unrecorded == 0
    assert [row["seq"] for row in reader.rows(limit=200)] == list(range(120, 0, -1))


@pytest.mark.parametrize("text", ["half \ud800 of a pair", "zero \x00 byte", "\U0001f600 日本"])
def test_odd_text_is_stored_and_stops_nothing(log: DecisionLog, reader: LogReader, text: str) -> None:
    tool = {"type": "function", "function": {"name": "f", "description": text}}
    log.append(exchange(text, answer=text, options=Options(tools=(tool,))))
    log.append(exchange("after"))
    assert len(reader.rows()) == 2 and log.unrecorded == 0
    assert reader.rows()[1]["answer"] == text.replace("\ud800", "?")


def test_a_row_sqlite_cannot_hold_is_dropped_and_counted_and_the_others_are_written(
    log: DecisionLog, reader: LogReader
) -> None:
    odd = exchange("odd")
    assert odd.completion
    log.append(replace(odd, completion=replace(odd.completion, input_tokens=10**30)))
    log.append(exchange("fine"))
    assert [json.loads(row["messages"])[0]["content"] for row in reader.rows()] == ["fine"]
    assert (log.dropped, log.unrecorded) == (1, 1)


# Conversations


def test_a_conversation_is_stored_once_and_rebuilt_exactly(log: DecisionLog, reader: LogReader) -> None:
    texts: list[str] = []
    requests = {}
    for turn in range(20):
        texts.append(f"question {turn} " + "q" * 1000)
        asked = exchange(*texts, answer=f"answer {turn} " + "a" * 1000)
        log.append(asked)
        requests[asked.query.id] = [m.to_openai() for m in asked.query.messages]
        texts.append(f"answer {turn} " + "a" * 1000)
    rows = reader.rows(limit=100)
    stored_bytes = sum(len(row["messages"]) + len(row["answer"]) for row in rows)
    assert stored_bytes < 20 * 2300
    assert {row["id"]: reader.conversation(row) for row in rows} == requests


def test_tool_calls_and_their_results_are_rebuilt_too(log: DecisionLog, reader: LogReader) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "lamp", "arguments": '{"on": true}'}}
    first = exchange("light!", answer="")
    assert first.completion
    log.append(replace(first, completion=replace(first.completion, tool_calls=(call,))))
    reordered = {"function": {"arguments": '{"on": true}', "name": "lamp"}, "type": "function", "id": "c"}
    messages = (
        *first.query.messages,
        Message("assistant", "", (reordered,)),
        Message("tool", "done", tool_call_id="c"),
    )
    second = replace(first, query=Query(messages))
    log.append(second)
    row = reader.row(second.query.id)
    assert row["parent_id"] == first.query.id
    assert json.loads(row["messages"]) == [messages[2].to_openai()]
    assert reader.conversation(row) == [m.to_openai() for m in messages]


def test_an_edited_history_an_error_or_a_private_turn_begins_anew(log: DecisionLog, reader: LogReader) -> None:
    log.append(exchange("a", answer="b"))
    log.append(replace(exchange("c", answer="d"), error="internal_error"))
    log.append(exchange("e", answer="f", private=True))
    for followed in (("a", "b, edited", "x"), ("c", "d", "x"), ("e", "f", "x")):
        later = exchange(*followed)
        log.append(later)
        row = reader.row(later.query.id)
        assert row["parent_id"] is None and len(json.loads(row["messages"])) == 3


def test_a_conversation_goes_on_after_a_restart(tmp_path: Path) -> None:
    with open_log(tmp_path / "log.db") as log:
        log.append(exchange("a", answer="b"))
    with open_log(tmp_path / "log.db") as log:
        later = exchange("a", "b", "c")
        log.append(later)
        reader = LogReader(log.path)
        assert reader.conversation(reader.row(later.query.id)) == [m.to_openai() for m in later.query.messages]


# Feedback


def test_feedback_stands_beside_its_answer(log: DecisionLog, reader: LogReader) -> None:
    asked = exchange()
    log.append(asked)
    log.add_feedback(asked.query.id, "bad", 'not "that" é')
    log.add_feedback(asked.query.id, "good")
    feedback = reader.row(asked.query.id)["feedback"]
    assert [(item["rating"], item["comment"]) for item in feedback] == [("bad", 'not "that" é'), ("good", None)]
    assert reader.status()["feedback"] == 2


def test_feedback_on_an_unknown_answer_is_the_clients_error(log: DecisionLog) -> None:
    with pytest.raises(RequestError, match="no exchange 'nothing' is in the log") as caught:
        log.add_feedback("nothing", "good")
    assert caught.value.status == 404


# Reading


@pytest.fixture
def filled(log: DecisionLog, reader: LogReader) -> LogReader:
    log.append(exchange('Say "100 %" in Übung_1', answer="a\\b"))
    log.append(exchange("something else", answer="Straße", decision=replace(DECISION, route="cloud")))
    log.append(exchange("newest", answer="role user content", created_utc="2030-01-01T00:00:00.000Z"))
    return reader


@pytest.mark.parametrize(
    ("filters", "seqs"),
    [
        ({}, [3, 2, 1]),
        ({"limit": 2}, [3, 2]),
        ({"route": "cloud"}, [2]),
        ({"route": "local"}, [3, 1]),
        ({"since_utc": "2029-12-31T23:59:59.999Z"}, [3]),
        ({"since_utc": "2030-01-01T00:00:00.001Z"}, []),
        ({"text": '"100 %"'}, [1]),
        ({"text": "übung_1"}, [1]),
        ({"text": "ÜBUNG"}, [1]),
        ({"text": "bung%1"}, []),
        ({"text": "STRASSE"}, [2]),
        ({"text": "a\\b"}, [1]),
        ({"text": "role"}, [3]),
        ({"text": "user"}, [3]),
        ({"text": "'; DROP TABLE exchanges; --"}, []),
        ({"text": "e", "route": "local", "since_utc": "2029"}, [3]),
    ],
)
def test_rows_are_found_by_route_time_and_text(filled: LogReader, filters: dict[str, Any], seqs: list[int]) -> None:
    assert [row["seq"] for row in filled.rows(**filters)] == seqs


def test_a_row_is_found_by_its_id_or_a_unique_beginning_or_end(filled: LogReader) -> None:
    ids = [row["id"] for row in filled.rows()]
    for wanted in ids:
        end = next(
            wanted[-n:]
            for n in range(1, 37)
            if sum(i.endswith(wanted[-n:]) or i.startswith(wanted[-n:]) for i in ids) == 1
        )
        assert filled.row(wanted)["id"] == filled.row(wanted.upper())["id"] == filled.row(end)["id"] == wanted
    with pytest.raises(LogError, match=f"several exchanges have the id '{ids[0][:4]}'; `edge-agent logs` lists them"):
        filled.row(ids[0][:4])
    for nothing in ("", "%", "_", "no such id", ids[0] + "0"):
        with pytest.raises(LogError, match="no exchange has the id"):
            filled.row(nothing)


def test_the_status_counts_rows_routes_and_bytes(log: DecisionLog, filled: LogReader) -> None:
    log.append(exchange(private=True, decision=Decision(None, "local_unavailable")))
    status = log.status()
    assert (status["rows"], status["private"], status["last_seq"], status["unsent"]) == (4, 1, 4, 3)
    assert status["routes"] == {"local": 2, "cloud": 1, "none": 1}
    assert status["last_utc"] == "2030-01-01T00:00:00.000Z"
    assert (status["unrecorded"], status["dropped"], status["last_error"]) == (0, 0, None)
    on_disk = [path for path in log.path.parent.iterdir() if path.name in ("log.db", "log.db-wal")]
    assert status["size_bytes"] == sum(path.stat().st_size for path in on_disk) > 10_000


def test_a_reader_of_no_log_says_how_one_comes_to_be(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="there is no decision log yet; it is made when `edge-agent serve` first starts"):
        LogReader(tmp_path / "none.db").rows()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"this is no database, but it is long enough to look like one" * 20])
def test_a_reader_of_something_else_names_it(tmp_path: Path, content: bytes) -> None:
    other = tmp_path / "other.db"
    other.write_bytes(content)
    with pytest.raises(LogError, match="other.db: cannot be read as a decision log: .*; check the file's owner"):
        LogReader(other).rows()


def test_a_reader_cannot_write(log: DecisionLog, reader: LogReader) -> None:
    with closing(reader.connect()) as connection, pytest.raises(sqlite3.OperationalError, match="readonly"):
        connection.execute("DELETE FROM exchanges")


# The file


def test_the_file_is_the_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with open_log(tmp_path / "new" / "log.db") as log:
            log.append(exchange())
            files = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()}
    finally:
        os.umask(before)
    assert files == {name: 0o600 for name in ("log.db", "log.db-wal", "log.db-shm", "log.db.lock")}
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_the_file_keeps_a_write_ahead_log_and_gives_pages_back_by_and_by(log: DecisionLog, reader: LogReader) -> None:
    with closing(reader.connect()) as connection:
        pragmas = {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "auto_vacuum")}
    assert pragmas == {"journal_mode": "wal", "auto_vacuum": 2}


def test_closing_writes_what_waits_and_folds_the_write_ahead_log_back(tmp_path: Path) -> None:
    with open_log(tmp_path / "log.db", max_wait_ms=0.0) as log:
        for _ in range(50):
            log.append(exchange())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.db", "log.db.lock"]
    assert LogReader(log.path).status()["rows"] == 50


@pytest.mark.parametrize("steps", [0, 1])
def test_an_older_file_is_brought_up_to_date_and_keeps_its_rows(tmp_path: Path, steps: int) -> None:
    path = tmp_path / "log.db"
    with closing(sqlite3.connect(path)) as connection:
        if steps:
            migrations.apply(Database(connection), stop_before="m002_feedback")
            old = "INSERT INTO exchanges (id, created_utc, wish, private, reason, prompt_bytes, answer_bytes)"
            connection.execute(f"{old} VALUES ('old', '2026-01-01T00:00:00.000Z', 'auto', 0, 'below_threshold', 1, 2)")
        connection.commit()
    path.touch()
    with open_log(path) as log:
        log.append(exchange())
        log.add_feedback(LogReader(path).rows()[0]["id"], "good")
        assert [row["seq"] for row in LogReader(path).rows()] == list(range(steps + 1, 0, -1))
    assert (LogReader(path).row("old")["prompt_bytes"] == 1) if steps else True


def test_a_damaged_file_is_named_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    path.write_bytes(b"not a database" * 100)
    for _ in range(2):  # the second time as well: the lock was given back
        with pytest.raises(
            LogError, match="log.db: cannot be opened as the decision log: file is not a database; check"
        ):
            DecisionLog(path)
    assert path.read_bytes() == b"not a database" * 100


@pytest.mark.parametrize("directory", ["file", "file/below", "/proc/edge-agent"])
def test_a_directory_that_cannot_be_made_is_one_clear_error(tmp_path: Path, directory: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        LogError, match="log.db: cannot be opened as the decision log: .*set another file with log.path"
    ):
        DecisionLog(tmp_path / directory / "log.db")


def test_a_second_writer_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with open_log(path), pytest.raises(DaemonError, match="another daemon writes this log; stop it or set") as caught:
        DecisionLog(path)
    assert (caught.value.code, caught.value.exit_code) == ("log_locked", 4)
    with open_log(path) as log:
        log.append(exchange())


# A disk that does not do as it is told


def test_an_answer_waits_no_longer_than_it_may_for_a_locked_file(tmp_path: Path) -> None:
    with (
        open_log(tmp_path / "log.db", max_wait_ms=100.0) as log,
        closing(sqlite3.connect(log.path, isolation_level=None)) as other,
    ):
        other.execute("BEGIN EXCLUSIVE")
        asked, started = exchange(), time.monotonic()
        log.append(asked)
        assert 0.09 < time.monotonic() - started < 1.0
        assert log.unrecorded == log.status()["unrecorded"] == 1
        log.add_feedback(asked.query.id, "good")  # known, although it is not on disk
        other.execute("ROLLBACK")
        wait_until(lambda: log.unrecorded == 0)
        assert len(LogReader(log.path).row(asked.query.id)["feedback"]) == 1


def test_rows_a_full_disk_refuses_are_kept_and_written_later_in_order(tmp_path: Path) -> None:
    with open_log(tmp_path / "log.db", max_wait_ms=200.0) as log:
        log.append(exchange("before"))
        full(log, True)
        for i in range(3):
            log.append(exchange(f"{i}" + "x" * 20_000))
        status = log.status()
        assert (status["rows"], status["unrecorded"], status["dropped"]) == (1, 3, 0)
        assert "full" in status["last_error"]
        full(log, False)
        log.append(exchange("after"))
        wait_until(lambda: log.unrecorded == 0)
        assert log.last_error is None
    questions = [json.loads(row["messages"])[0]["content"][:6] for row in reversed(LogReader(log.path).rows())]
    assert questions == ["before", "0xxxxx", "1xxxxx", "2xxxxx", "after"]


def test_kept_rows_are_tried_again_without_a_new_one(tmp_path: Path) -> None:
    with open_log(tmp_path / "log.db", max_wait_ms=200.0, retry_s=0.1) as log:
        full(log, True)
        log.append(exchange("x" * 20_000))
        full(log, False)
        wait_until(lambda: log.unrecorded == 0)
        assert len(LogReader(log.path).rows()) == 1


def test_rows_kept_in_memory_are_bounded_and_the_oldest_are_dropped_and_counted(tmp_path: Path) -> None:
    with open_log(tmp_path / "log.db", max_wait_ms=0.0) as log:
        full(log, True)
        for i in range(_MOST_KEPT + 5):
            log.append(exchange(f"{i} " + "x" * 5000))
        assert (log.dropped, log.unrecorded) == (5, _MOST_KEPT + 5)
        full(log, False)
    rows = LogReader(log.path).rows(limit=2 * _MOST_KEPT)
    assert len(rows) + log.dropped == _MOST_KEPT + 5 and log.dropped <= 5
    assert json.loads(rows[-1]["messages"])[0]["content"].split()[0] == str(log.dropped)


def test_rows_lost_at_the_end_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_log(tmp_path / "log.db", max_wait_ms=0.0) as log:
        full(log, True)
        log.append(exchange("secret " * 3000))
    assert "1 rows are lost: database or disk is full" in caplog.text
    assert "secret" not in caplog.text


def test_the_status_of_a_file_somebody_deleted_says_so(log: DecisionLog) -> None:
    log.path.unlink()
    assert "there is no decision log yet" in log.status()["last_error"]
