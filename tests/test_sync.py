"""Sync over real files and sockets: each row arrives once, whatever happens on the way, and nothing private does."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import time
import tracemalloc
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edge_agent.decision_log import open_for_writing
from edge_agent.errors import ConfigError, SyncError, SyncRefused
from edge_agent.log_batches import BatchHeader, encode, object_name
from edge_agent.log_reader import LogReader
from edge_agent.sync import Pace, open_destination
from edge_agent.sync_files import FileDestination
from edge_agent.sync_state import FORMAT, Position, acknowledged
from tests.log_rows import exchange, ids_of, numbered, objects, rate, write_log
from tests.misbehaving_station import TOKEN, misbehaving_station
from tests.sync_device import Device, Run, device, run

__all__ = ["device", "run"]


# Each row once


def test_every_row_that_may_leave_arrives_once_and_a_second_run_does_nothing(device: Device) -> None:
    ids = write_log(device.log, numbered(1300))
    feedback = rate(device.log, ids[3], "nice")
    sent = device.sync()
    assert (sent.rows, sent.batches) == ({"exchanges": len(ids), "feedback": 1, "forgotten": 0}, 4)
    assert ids_of(device.there) == ids and ids_of(device.there, "feedback") == [feedback]
    before = {path: path.stat().st_mtime_ns for path in device.there.rglob("*")}
    assert device.sync().batches == 0
    assert {path: path.stat().st_mtime_ns for path in device.there.rglob("*")} == before


def test_a_row_arrives_as_it_is_in_the_log(device: Device) -> None:
    (wanted,) = write_log(device.log, [exchange("größe 日本\n", "\u2028 é", conversation_id="c1")])
    device.sync()
    ((row,),) = objects(device.there).values()
    assert row == {k: v for k, v in LogReader(device.log).row(wanted).items() if k != "feedback"} | {"private": 0}


def test_nothing_private_is_in_any_byte_that_arrived(device: Device) -> None:
    private = [exchange(f"secret {i}", "secret answer", private=True, conversation_id="secret") for i in range(30)]
    write_log(device.log, [*numbered(50), *private])
    for one in private:
        rate(device.log, one.query.id)
    device.sync()
    arrived = json.dumps(objects(device.there))
    assert "question 1" in arrived
    assert "secret" not in arrived and not any(one.query.id in arrived for one in private)
    assert ids_of(device.there, "feedback") == []


def test_private_rows_alone_send_nothing_and_do_not_hold_up_later_ones(device: Device) -> None:
    write_log(device.log, [exchange(private=True) for _ in range(600)])
    assert device.sync().batches == 0 and list(device.there.iterdir()) == []
    ids = write_log(device.log, [exchange()])
    assert device.sync().rows["exchanges"] == 1 and ids_of(device.there) == ids


def test_killed_at_any_point_and_started_again_each_row_is_there_once(device: Device) -> None:
    """With batches of other bounds each time, as a receiver that refused some would make."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    ids: list[str] = []
    killed = 0
    for i in range(15):
        ids += write_log(device.log, numbered(1500, first=1500 * i))  # more than a run gets done before its kill
        process = multiprocessing.get_context("fork").Process(
            target=device.sync, kwargs={"max_rows": chance.randrange(20, 60)}
        )
        process.start()
        time.sleep(chance.uniform(0.0, 0.1))
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
    device.sync()
    assert killed > 3
    assert ids_of(device.there) == ids  # and no object that was begun and not finished


def test_a_lost_or_damaged_position_is_taken_from_what_is_there(device: Device) -> None:
    ids = write_log(device.log, numbered(120))
    device.sync(max_rows=50)
    device.state.path.write_text('{"format": "edge-agent-sync@1", "destinations": {"')
    ids += write_log(device.log, numbered(20, first=200))
    assert device.sync(max_rows=50).rows["exchanges"] == len(ids) - 102
    device.state.path.unlink()
    assert device.sync(max_rows=50).batches == 0
    assert ids_of(device.there) == ids and device.position() == 140


@pytest.mark.parametrize(
    "entry",
    [
        [],
        {"logs": 5},
        {"logs": {"pi/LOG": []}},
        {"logs": {"pi/LOG": {"exchanges": {"seq": -5, "id": None}}}},
        {"logs": {"pi/LOG": {"exchanges": {"seq": float("inf"), "id": None}}}},
        {"logs": {"pi/LOG": {"exchanges": "12"}}},
    ],
)
def test_a_state_file_that_is_json_and_makes_no_sense_is_a_lost_one(device: Device, entry: Any) -> None:
    ids = write_log(device.log, numbered(20))
    device.sync()
    state = json.dumps({"format": FORMAT, "destinations": {device.url: entry}})
    device.state.path.write_text(state.replace("LOG", LogReader(device.log).log_id()))
    assert device.position() == 0 and device.state.facts(device.url)["unfinished"] is None
    assert device.sync().batches == 0
    assert ids_of(device.there) == ids and device.position() == 20


@pytest.mark.parametrize("place", ["sync-state.json", ""])
def test_positions_that_cannot_be_kept_are_one_sentence_and_cost_nothing(device: Device, run: Run, place: str) -> None:
    ids = write_log(device.log, numbered(20))
    state = device.directory / "state" / "edge-agent"
    if place:
        (state / place).mkdir(parents=True)
    else:
        state.parent.mkdir()
        state.write_text("a file where a directory should be")
    done = run("--to", device.url)
    assert done.returncode == 75 and "sync cannot keep its positions there" in done.stderr
    assert done.stderr.count("\n") == 1
    shutil.rmtree(state) if place else state.unlink()
    assert run("--to", device.url).returncode == 0 and ids_of(device.there) == ids


def test_a_hole_among_the_objects_is_filled_after_the_position_is_lost(device: Device) -> None:
    ids = write_log(device.log, numbered(100))
    device.sync(max_rows=20)
    lost = sorted(device.there.rglob("exchanges-*"))[2]
    lost.unlink()
    device.state.path.unlink()
    device.sync(max_rows=20)
    assert lost.exists() and ids_of(device.there) == ids


def test_a_cut_object_is_written_anew(device: Device) -> None:
    ids = write_log(device.log, numbered(30))
    device.sync()
    (path,) = device.there.rglob("exchanges-*")
    path.write_bytes(path.read_bytes()[:-20])
    device.state.path.unlink()
    device.sync()
    assert ids_of(device.there) == ids


def test_one_sync_at_a_time(device: Device) -> None:
    write_log(device.log, numbered(3))
    with device.state.locked(), pytest.raises(SyncError, match="another sync is running .* wait until") as caught:
        device.sync()
    assert (caught.value.code, caught.value.exit_code) == ("sync_running", 75)
    assert device.sync().batches == 1


def test_two_destinations_have_two_positions(device: Device, tmp_path: Path) -> None:
    ids = write_log(device.log, numbered(10))
    device.sync()
    (tmp_path / "usb").mkdir()
    more = write_log(device.log, numbered(10, first=20))
    device.sync(destination=FileDestination((tmp_path / "usb").as_uri()))
    assert ids_of(device.there) == ids and ids_of(tmp_path / "usb") == ids + more


def test_rows_are_on_the_disk_before_they_leave(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a power cut could take a row back after it was sent, and give its seq to another one."""
    write_log(device.log, numbered(3))
    with closing(open_for_writing(device.log)):
        done: list[str] = []
        fsync = os.fsync
        monkeypatch.setattr(os, "fsync", lambda fd: (done.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd))[1])
        device.sync()
    names = [Path(path).name for path in done]
    sent = next(i for i, name in enumerate(names) if name.startswith("exchanges-"))
    assert {"log.db-wal", "log.db"} <= set(names[:sent])


@pytest.mark.parametrize("lose_state", [False, True])
def test_an_older_copy_of_the_log_is_noticed_and_nothing_of_it_is_lost(device: Device, lose_state: bool) -> None:
    write_log(device.log, numbered(10))
    shutil.copy(device.log, device.directory / "older.db")
    write_log(device.log, numbered(6, first=10))
    device.sync()
    shutil.copy(device.directory / "older.db", device.log)
    ids = write_log(device.log, numbered(8, first=100))
    sent = acknowledged(device.state, device.url, "pi")
    with closing(LogReader(device.log).connect()) as connection:
        assert "exchanges" not in sent(connection)  # so that nothing of it is pruned
    if lose_state:
        device.state.path.unlink()
    with pytest.raises(SyncRefused, match="exchanges 16 is not the row that was sent: .*; nothing is lost: set"):
        device.sync()
    device.sync(device_id="pi-again")
    assert set(ids) <= set(ids_of(device.there))


def test_two_devices_with_one_log_are_told_apart_by_the_rows(device: Device) -> None:
    write_log(device.log, [exchange() for _ in range(10)])
    log_id = LogReader(device.log).log_id()
    header = BatchHeader("pi", log_id, "exchanges", 0, 10)
    other = device.there / object_name(header)
    other.parent.mkdir(parents=True)
    other.write_bytes(encode(header, [{"seq": 10, "id": "another"}]))
    device.state.move(device.url, "pi", log_id, "exchanges", Position(0))
    with pytest.raises(
        SyncRefused, match="holds other rows: two devices with one log.*set another sync.device_id"
    ) as e:
        device.sync()
    assert e.value.code == "device_conflict" and device.position() == 0


def test_a_log_of_a_device_that_was_set_up_anew_begins_anew(device: Device) -> None:
    first = write_log(device.log, numbered(10))
    device.sync()
    device.log.unlink()
    second = write_log(device.log, numbered(6))
    device.sync()
    assert sorted(ids_of(device.there)) == sorted(first + second)


def test_a_log_of_an_older_version_says_what_to_do(device: Device) -> None:
    write_log(device.log, numbered(1))
    with closing(open_for_writing(device.log)) as connection:
        connection.execute("DROP TABLE log_identity")
    with pytest.raises(Exception, match="was written by an older version; start the daemon once"):
        device.sync()


# Bounds


def test_memory_does_not_grow_with_the_log(device: Device) -> None:
    peaks = []
    for count in (1000, 6000):
        write_log(device.log, (exchange(f"question {i}", "x" * 200) for i in range(count)))
        tracemalloc.start()
        device.sync(max_rows=100)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.3 + 100_000


def test_a_batch_is_bounded_in_rows_and_packed_bytes_and_a_large_row_goes_alone(device: Device) -> None:
    noise = [random.Random(i).randbytes(4000).hex() for i in range(40)]
    ids = write_log(device.log, [exchange(text) for text in noise] + [exchange("".join(noise))])
    device.sync(max_rows=30, max_bytes=60_000)
    paths = sorted(device.there.rglob("*.gz"))
    sizes = {len(rows): path.stat().st_size for path, rows in zip(paths, objects(device.there).values(), strict=True)}
    assert max(sizes) <= 30 and sizes.pop(1) > 60_000 and max(sizes.values()) <= 60_000
    assert ids_of(device.there) == ids


def test_rows_too_large_for_memory_together_are_read_a_few_at_a_time(device: Device) -> None:
    write_log(device.log, [exchange("x" * 1_000_000) for _ in range(10)])
    rows = LogReader(device.log).rows_to_send("exchanges", 0, 500, 4_000_000)
    assert len(rows) == 3


def test_the_byte_rate_is_kept_on_average() -> None:
    now, slept = [0.0], []
    pace = Pace(1000.0, clock=lambda: now[0], sleep=lambda s: (slept.append(s), now.__setitem__(0, now[0] + s))[0])
    for _ in range(10):
        pace(500)
    assert slept == [0.5] * 9
    now[0] += 100
    pace(500)
    assert len(slept) == 9  # nothing is saved up, and nothing is owed


@pytest.mark.parametrize("scheme", ["file", "http"])
def test_an_upload_takes_as_long_as_its_byte_rate_says(device: Device, scheme: str) -> None:
    write_log(device.log, [exchange(random.Random(i).randbytes(8000).hex()) for i in range(4)])
    with misbehaving_station() as station:
        url = device.url if scheme == "file" else station.url
        started = time.monotonic()
        to = open_destination(url, {"TOKEN": TOKEN}, token_env="TOKEN", max_kb_s=100.0)
        sent = device.sync(destination=to, max_rows=1)
    least = (sent.bytes - sent.bytes / sent.batches) / 100_000
    assert least > 0.2 and least < time.monotonic() - started < 3 * least + 1


# What a person or a timer sees


def test_without_a_destination_nothing_happens_and_that_is_said(device: Device, run: Run) -> None:
    write_log(device.log, numbered(3))
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("upload is off: set sync.destination, or name a place with --to; --dry-run shows")


def test_a_run_says_one_line_and_one_without_news_says_nothing(device: Device, run: Run) -> None:
    rate(device.log, write_log(device.log, numbered(600))[0])
    done = run("--to", device.url)
    assert done.returncode == 0 and done.stderr == ""
    assert re.fullmatch(rf"sent 514 exchanges, 1 feedback to {device.url} \(\d+ kB in 3 batches\)\n", done.stdout)
    done = run(EDGE_AGENT_SYNC_DESTINATION=device.url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert json.loads(run("--to", device.url, "--json").stdout)["batches"] == 0


def test_a_dry_run_shows_every_row_as_it_would_leave_and_sends_nothing(device: Device, run: Run) -> None:
    write_log(device.log, [exchange("mail me@example.org", "sure"), exchange("secret", private=True)])
    done = run("--dry-run", EDGE_AGENT_SYNC_DESTINATION=device.url, EDGE_AGENT_SYNC_REDACT="email")
    lines = done.stdout.splitlines()
    assert re.fullmatch(
        r'exchanges 1 [0-9a-f-]{13} \[\{"role": "user", "content": "mail \[EMAIL\]"\}\] \| sure', lines[0]
    )
    assert re.fullmatch(rf"would go: 1 exchanges, about \d+ kB, to {device.url}; nothing was sent", lines[1])
    assert len(lines) == 2 and list(device.there.iterdir()) == [] and not device.state.path.exists()
    assert json.loads(run("--dry-run", "--json").stdout.splitlines()[0])["answer"] == "sure"


def test_what_leaves_is_redacted_and_the_log_is_not(device: Device, run: Run) -> None:
    (wanted,) = write_log(device.log, [exchange("mail me@example.org or call +49 170 1234567", "code 4711")])
    rate(device.log, wanted, "ask you@example.org")
    run("--to", device.url, EDGE_AGENT_SYNC_REDACT=r"email phone code\s\d+")
    arrived = json.dumps(objects(device.there))
    assert "mail [EMAIL] or call [PHONE]" in arrived and '"[REDACTED]"' in arrived and "ask [EMAIL]" in arrived
    assert not any(text in arrived for text in ("example.org", "1234567", "4711"))
    assert "me@example.org" in str(LogReader(device.log).row(wanted)["messages"])


@pytest.mark.parametrize(
    ("url", "code", "says"),
    [
        (
            "/mnt/usb",
            78,
            "sync.destination: expected https://HOST:PORT, file:///DIRECTORY, s3://BUCKET/PATH ..., found",
        ),
        ("http://station:8700", 78, "http://station:8700 would send the token and the texts unencrypted"),
        ("https://127.0.0.1:1", 78, r"the variable EDGE_AGENT_SYNC_TOKEN \(sync.token_env\) is not set"),
        ("nosuch://x/y", 78, "sync.destination: nosuch://x/y: Protocol not known: nosuch"),
    ],
)
def test_a_wrong_destination_is_one_clear_line(device: Device, run: Run, url: str, code: int, says: str) -> None:
    write_log(device.log, numbered(1))
    done = run("--to", url)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)
    assert re.search(says, done.stderr)


def test_a_directory_that_is_not_there_is_not_made_and_is_asked_for_again_later(device: Device, run: Run) -> None:
    """A stick that is not plugged in must not become a directory on the card."""
    write_log(device.log, numbered(1))
    started = time.monotonic()
    done = run("--to", f"{device.url}/stick", "--give-up-s", "60", EDGE_AGENT_LOGGING_LEVEL="debug")
    assert done.returncode == 75 and done.stdout == "" and time.monotonic() - started < 20
    assert "there is no such directory; make it once, or plug in what it is on" in done.stderr
    assert list(device.there.iterdir()) == []


@pytest.mark.parametrize(("package", "scheme"), [("s3fs", "s3"), ("paramiko", "sftp"), ("fsspec", "file")])
def test_a_missing_package_is_named_with_what_brings_it(
    device: Device, monkeypatch: pytest.MonkeyPatch, package: str, scheme: str
) -> None:
    write_log(device.log, numbered(1))
    for name in [name for name in sys.modules if name.split(".")[0] == package] + [package]:
        monkeypatch.setitem(sys.modules, name, None)
    fix = {"s3": r"pip install 'edge-agent\[s3\]'", "sftp": r"pip install 'edge-agent\[sftp\]'"}
    with pytest.raises(
        ConfigError, match=rf"{scheme}:// needs a package that is not installed: .*{fix.get(scheme, '')}"
    ):
        device.sync(destination=open_destination(f"{scheme}://bucket/x", {}, token_env="T"))


def test_a_password_in_an_address_is_neither_kept_nor_shown(device: Device) -> None:
    assert FileDestination("memory://me:hunter2@host/x").name == "memory://me@host/x"
    assert FileDestination("memory://me:hunter@2@host/x").name == "memory://me@host/x"
