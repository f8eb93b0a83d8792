"""Forgetting: a whole conversation leaves the log's bytes, the memory, and every place its rows went to."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlite_utils import Database

from edge_agent.decision_log import DecisionLog, open_for_writing
from edge_agent.errors import LogError
from edge_agent.log_forgetting import fold_back
from edge_agent.log_pruning import delete, give_pages_back
from edge_agent.log_reader import LogReader
from edge_agent.migrations import migrations
from edge_agent.sync_files import FileDestination
from edge_agent.sync_http import HttpDestination
from tests.log_rows import exchange, ids_of, numbered, objects, rate, write_log
from tests.misbehaving_station import TOKEN, misbehaving_station
from tests.sync_device import REPOSITORY, Device, device, environment
from tests.test_decision_log import exchange as chat
from tests.test_decision_log import full, open_log, wait_until

__all__ = ["device"]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[DecisionLog]:
    with open_log(tmp_path / "log.db") as log:
        yield log


def talk(log: DecisionLog, name: str, turns: int = 4, **query: Any) -> list[str]:
    """A conversation whose every text has the name in it; the ids of its exchanges."""
    texts: list[str] = []
    ids = []
    for turn in range(turns):
        texts.append(f"{name} question {turn}")
        asked = chat(*texts, answer=f"{name} answer {turn}", **query)
        log.append(asked)
        ids.append(asked.query.id)
        texts.append(f"{name} answer {turn}")
    return ids


def bytes_of(log: DecisionLog | Path) -> bytes:
    """All there is in the log's files."""
    path = log if isinstance(log, Path) else log.path
    return b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))


def left(log: DecisionLog) -> set[str]:
    return {row["id"] for row in LogReader(log.path).rows(limit=10_000)}


def tombstones(log: DecisionLog) -> list[tuple[str, int]]:
    with closing(LogReader(log.path).connect()) as connection:
        return [
            tuple(row) for row in connection.execute("SELECT exchange_id, exchange_seq FROM forgotten ORDER BY seq")
        ]


# What is one conversation


@pytest.mark.parametrize("turn", [0, 2, 5])
def test_any_exchange_of_a_conversation_takes_all_of_it_along(log: DecisionLog, turn: int) -> None:
    other, mine = talk(log, "other"), talk(log, "mine", 6)
    branch = chat("mine question 0", "mine answer 0", "mine, edited")
    log.append(branch)
    other += talk(log, "later")
    forgotten = log.forget(mine[turn])
    assert (forgotten.exchanges, forgotten.tombstones, forgotten.erased) == (7, 7, True)
    assert left(log) == set(other)


@pytest.mark.parametrize("turn", [0, 2, 3])
def test_a_conversation_that_went_on_after_a_restart_is_one(tmp_path: Path, turn: int) -> None:
    with open_log(tmp_path / "log.db") as log:
        ids = talk(log, "SECRET", turns=2)
        other = talk(log, "other")
    with open_log(tmp_path / "log.db") as log:
        texts = [f"SECRET {said} {number}" for number in range(2) for said in ("question", "answer")]
        for question in ("and?", "so?"):
            texts.append(question)
            asked = chat(*texts, answer="SECRET")
            log.append(asked)
            ids.append(asked.query.id)
            texts.append("SECRET")
        log.forget(ids[turn])
        assert left(log) == set(other) and b"SECRET" not in bytes_of(log)


def test_a_conversation_that_only_begins_with_the_same_question_is_another(log: DecisionLog) -> None:
    mine, yours = chat("hi", answer="hello"), chat("hi", answer="good day")
    log.append(mine)
    log.append(yours)
    log.forget(mine.query.id)
    assert left(log) == {yours.query.id}


def test_a_clients_conversation_id_names_one_too(log: DecisionLog) -> None:
    first, second = talk(log, "one", 2, conversation_id="c1"), talk(log, "two", 2, conversation_id="c1")
    other = talk(log, "other", conversation_id="c2")
    assert log.forget(conversation_id="c1").exchanges == len(first + second)
    assert left(log) == set(other)
    talk(log, "three", 1, conversation_id="c2")
    assert log.forget(other[0]).exchanges == 5  # by its id as well


def test_what_is_not_there_is_forgotten_without_ado(log: DecisionLog) -> None:
    talk(log, "other")
    assert log.forget(conversation_id="nothing").exchanges == 0
    assert len(left(log)) == 4 and tombstones(log) == []


def test_an_exchange_that_was_pruned_leaves_a_tombstone_all_the_same(log: DecisionLog) -> None:
    assert log.forget("01990000-0000-7000-8000-000000000000").tombstones == 1
    assert tombstones(log) == [("01990000-0000-7000-8000-000000000000", None)]


def test_a_private_exchange_leaves_no_tombstone(log: DecisionLog) -> None:
    (private,) = talk(log, "private", 1, private=True)
    forgotten = log.forget(private)
    assert (forgotten.exchanges, forgotten.tombstones, tombstones(log)) == (1, 0, [])


# Gone from the bytes


def test_no_byte_of_it_is_left_in_the_files(log: DecisionLog) -> None:
    talk(log, "other", 30)
    mine = talk(log, "NOBODYKNOWS" * 30, 30)
    talk(log, "another", 30)
    log.add_feedback(mine[0], "bad", "NOBODYKNOWS either")
    assert b"NOBODYKNOWS" in bytes_of(log)
    log.forget(mine[7])
    assert b"NOBODYKNOWS" not in bytes_of(log)
    assert b"other question 29" in bytes_of(log) and len(left(log)) == 60


def test_pruned_rows_leave_no_bytes_either(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    gone = write_log(path, [exchange("NOBODYKNOWS" * 30) for _ in range(50)])
    kept = write_log(path, [exchange("kept") for _ in range(5)])
    with closing(open_for_writing(path)) as connection:
        delete(connection, gone)
        give_pages_back(connection)
        fold_back(connection)
        assert b"NOBODYKNOWS" not in bytes_of(path)
    assert len(LogReader(path).rows()) == len(kept)


def test_a_reader_in_the_way_is_told_of_and_the_file_is_emptied_after_it(tmp_path: Path) -> None:
    with open_log(tmp_path / "log.db", retry_s=0.05) as log:
        log._connection.execute("PRAGMA busy_timeout = 100")
        (mine,) = talk(log, "NOBODYKNOWS", 1)
        with closing(LogReader(log.path).connect()) as reading:
            reading.execute("BEGIN")
            reading.execute("SELECT count(*) FROM exchanges").fetchone()
            assert not log.forget(mine).erased
            reading.rollback()
        wait_until(lambda: b"NOBODYKNOWS" not in bytes_of(log))


# Gone from memory


def test_rows_that_wait_for_the_disk_are_forgotten_too(tmp_path: Path) -> None:
    with open_log(tmp_path / "log.db", max_wait_ms=200.0, retry_s=0.05) as log:
        kept = talk(log, "kept", 1)
        full(log, True)
        mine = talk(log, "mine" * 5000, 2)
        other = talk(log, "other" * 5000, 1)
        log.add_feedback(mine[0], "good")
        assert log.unrecorded == 4
        assert log.forget(mine[1]).exchanges == 0
        full(log, False)
        wait_until(lambda: log.unrecorded == 0)
        assert left(log) == set(kept + other)


def test_a_disk_that_refuses_is_said_and_nothing_is_half_forgotten(log: DecisionLog) -> None:
    mine = talk(log, "mine", 3)
    log._connection.execute("PRAGMA busy_timeout = 50")
    with closing(sqlite3.connect(log.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(LogError, match="nothing is forgotten on the disk: database is locked; mend that and try"):
            log.forget(mine[1])
        other.execute("ROLLBACK")
    assert left(log) == set(mine) and log.forget(mine[1]).exchanges == 3


def test_what_goes_on_after_forgetting_begins_anew(log: DecisionLog) -> None:
    mine = talk(log, "mine", 2)
    log.forget(mine[0])
    texts = ("mine question 0", "mine answer 0", "mine question 1", "mine answer 1", "and now?")
    later = chat(*texts)
    log.append(later)
    row = LogReader(log.path).row(later.query.id)
    assert row["parent_id"] is None and len(json.loads(row["messages"])) == 5


# Through the daemon, and without one


Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def command(device: Device) -> Command:
    def run(*words: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edge_agent", "logs", *words]
        environ = environment(device, EDGE_AGENT_SOCKET_PATH=str(device.directory / "s.sock"), **environ)
        return subprocess.run(
            command, env=environ, cwd=REPOSITORY, input=stdin, capture_output=True, text=True, timeout=60
        )

    return run


def test_the_command_asks_and_forgets_under_the_daemons_lock(device: Device, command: Command) -> None:
    mine, other = exchange("NOBODYKNOWS", conversation_id="c1"), exchange("other")
    write_log(device.log, [mine, replace(mine, query=replace(mine.query, id="x" + mine.query.id[1:])), other])
    done = command("forget", mine.query.id[:23], stdin="n\n")
    assert (
        done.returncode == 1
        and "Forget 2 exchanges for good?" in done.stderr
        and b"NOBODYKNOWS" in bytes_of(device.log)
    )
    done = command("forget", mine.query.id[:23], stdin="y\n")
    assert done.returncode == 0 and done.stdout.startswith(
        "2 exchanges are forgotten; what has left before stays there"
    )
    assert b"NOBODYKNOWS" not in bytes_of(device.log) and len(LogReader(device.log).rows()) == 1


def test_the_command_forgets_by_conversation_and_as_json(device: Device, command: Command) -> None:
    write_log(device.log, [exchange(conversation_id="c1"), exchange(conversation_id="c2")])
    done = command("forget", "--conversation", "c1", "--yes", "--json")
    assert json.loads(done.stdout) == {"exchanges": 1, "tombstones": 1, "erased": True}


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--yes"], 2, "name one exchange of the conversation, or give --conversation CID"),
        (["0", "--conversation", "c"], 2, "name one exchange of the conversation, or give --conversation CID"),
        (["--conversation", "nothing", "--yes"], 1, "no exchange has the conversation id 'nothing'"),
        (["ffff", "--yes"], 1, "no exchange has the id 'ffff'"),
    ],
)
def test_the_command_says_what_it_needs(
    device: Device, command: Command, words: list[str], code: int, says: str
) -> None:
    write_log(device.log, [exchange()])
    done = command("forget", *words)
    assert done.returncode == code and says in done.stderr and len(LogReader(device.log).rows()) == 1


def test_a_log_that_somebody_writes_whom_nobody_can_ask_stays_as_it_is(device: Device, command: Command) -> None:
    (mine,) = write_log(device.log, [exchange()])
    with open_log(device.log):
        done = command("forget", mine, "--yes")
    assert done.returncode == 4 and "another daemon writes this log" in done.stderr
    assert len(LogReader(device.log).rows()) == 1


def test_a_running_daemon_forgets_what_it_wrote(start_daemon: Any) -> None:
    daemon = start_daemon()
    first = daemon.chat("NOBODYKNOWS", edge_agent={"conversation_id": "c1"}).json()["edge_agent"]["id"]
    daemon.chat("another one")
    words = [sys.executable, "-m", "edge_agent", "logs", "forget", first, "--yes", "--config", str(daemon.config_file)]
    done = subprocess.run(words, env=daemon.environ, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert b"NOBODYKNOWS" not in bytes_of(daemon.log_file) and len(daemon.log.rows()) == 1


@pytest.mark.parametrize(
    "body", [{}, {"id": 5}, {"id": "short"}, {"id": "%" * 36}, {"conversation_id": ""}, {"id": None}, {"all": True}]
)
def test_the_daemon_forgets_nothing_that_was_not_named(daemon: Any, body: dict[str, Any]) -> None:
    with daemon.http() as client:
        answer = client.post("/v1/forget", json=body)
    assert answer.status_code == 400 and "expected" in answer.json()["error"]["message"]


# Elsewhere


def test_the_next_sync_takes_it_out_of_the_objects(device: Device) -> None:
    before = write_log(device.log, numbered(100))
    mine = [exchange(f"NOBODYKNOWS {i}", "NOBODYKNOWS", conversation_id="c1") for i in range(3)]
    ids = write_log(device.log, mine)
    after = write_log(device.log, numbered(100, first=200))
    feedback = [rate(device.log, ids[0], "NOBODYKNOWS"), rate(device.log, after[0], "fine")]
    device.sync(max_rows=40)
    names = set(objects(device.there))
    untouched = {path: path.stat().st_mtime_ns for path in device.there.rglob("*-000000000001-*")}
    with open_log(device.log) as log:
        log.forget(ids[1])
    assert device.sync(max_rows=40).rows == {"exchanges": 0, "feedback": 0, "forgotten": 3}
    arrived = objects(device.there)
    assert "NOBODYKNOWS" not in json.dumps(arrived)
    assert ids_of(device.there) == before + after and ids_of(device.there, "feedback") == feedback[1:]
    assert sorted(ids_of(device.there, "forgotten")) == sorted(ids)
    assert {name for name in arrived if "forgotten" not in name} == names
    exchanges = [path for path in untouched if path.name.startswith("exchanges")]
    assert exchanges and all(path.stat().st_mtime_ns == untouched[path] for path in exchanges)


def test_it_leaves_the_objects_of_an_earlier_name_and_unfinished_ones_too(device: Device) -> None:
    (mine,) = write_log(device.log, [exchange("NOBODYKNOWS")])
    device.sync(device_id="old-name")
    (path,) = device.there.rglob("exchanges-*")
    path.with_name(path.name + ".part").write_bytes(b"NOBODYKNOWS")
    with open_log(device.log) as log:
        log.forget(mine)
    device.sync(device_id="new-name")
    assert ids_of(device.there) == [] and len(objects(device.there)) == 2  # and objects() fails for a .part


def test_what_was_pruned_here_is_found_there_by_its_id(device: Device) -> None:
    first, second = write_log(device.log, [exchange("NOBODYKNOWS"), exchange("other")])
    device.sync()
    with open_log(device.log) as log:
        log._connection.execute("DELETE FROM exchanges WHERE id = ?", [first])
        log._connection.commit()
        log.forget(first)
    device.sync()
    assert ids_of(device.there) == [second]


def test_what_was_forgotten_before_it_was_sent_never_leaves(device: Device) -> None:
    mine, other = write_log(device.log, [exchange("NOBODYKNOWS"), exchange("other")])
    with open_log(device.log) as log:
        log.forget(mine)
    device.sync()
    assert ids_of(device.there) == [other] and "NOBODYKNOWS" not in json.dumps(objects(device.there))


def test_it_leaves_objects_in_a_directory_with_an_odd_name_too(device: Device) -> None:
    ids = write_log(device.log, [exchange("NOBODYKNOWS")])
    odd = device.there / "Backup [2024] *"
    odd.mkdir()
    device.sync(destination=FileDestination(f"file://{odd}"))
    with open_log(device.log) as log:
        log.forget(ids[0])
    device.sync(destination=FileDestination(f"file://{odd}"))
    assert "NOBODYKNOWS" not in json.dumps(objects(odd))


def test_a_run_killed_while_it_forgets_is_finished_by_the_next(device: Device) -> None:
    ids = write_log(device.log, [exchange("NOBODYKNOWS", conversation_id="c1") for _ in range(5)])
    device.sync(max_rows=1)
    with open_log(device.log) as log:
        log.forget(ids[0])
    state = device.state.path.read_bytes()
    device.sync()
    device.state.path.write_bytes(state)  # as if it had ended before the acknowledgement
    device.sync()
    assert ids_of(device.there) == [] and sorted(ids_of(device.there, "forgotten")) == sorted(ids)


def test_a_receiver_is_told_which_exchanges_are_forgotten(device: Device) -> None:
    ids = write_log(device.log, numbered(4, private_every=3))
    with misbehaving_station() as station:
        device.sync(destination=HttpDestination(station.url, TOKEN))
        with open_log(device.log) as log:
            log.forget(ids[1])
        device.sync(destination=HttpDestination(station.url, TOKEN))
    (row,) = station.rows["forgotten"].values()
    assert (row["id"], row["exchange_id"], row["seq"]) == (ids[1], ids[1], 1)


# The schema


def test_an_older_log_gets_a_name_and_its_feedback_ids(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with closing(sqlite3.connect(path)) as connection:
        migrations.apply(Database(connection), stop_before="m003_streams")
        for rating in ("good", "bad"):
            connection.execute(
                f"INSERT INTO feedback (exchange_id, rating, created_utc) VALUES ('e', '{rating}', '2026')"
            )
        connection.commit()
    with open_log(path):
        pass
    with closing(LogReader(path).connect()) as connection:
        ids = {row[0] for row in connection.execute("SELECT id FROM feedback")}
    assert len(ids) == 2 and None not in ids
    log_id = LogReader(path).log_id()
    assert re.fullmatch(r"[0-9a-f]{32}", log_id) and LogReader(path).log_id() == log_id
    write_log(tmp_path / "other.db", [])
    assert LogReader(tmp_path / "other.db").log_id() != log_id
