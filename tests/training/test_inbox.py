"""The inbox: each row once, whole batches, what is forgotten stays away, conversations rebuilt."""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.errors import DeviceConflict, InboxError, RequestError
from edge_agent.training.inbox import Inbox, Receipt
from edge_agent.training.inbox_devices import Devices
from edge_agent.types import Message
from tests.training.receiving import (
    LOG,
    OTHER_LOG,
    exchange_row,
    exchanges,
    feedback_row,
    header,
    stored_ids,
    tombstone,
)


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[Inbox]:
    inbox = Inbox(tmp_path / "inbox.db")
    yield inbox
    inbox.close()


def warnings_of(inbox: Inbox) -> str:
    return "\n".join(warning for device in Devices(inbox).all() for warning in device.warnings)


def test_a_batch_that_comes_twice_is_filed_once(inbox: Inbox) -> None:
    assert inbox.add(header(0, 3), exchanges(0, 3)) == Receipt(accepted=3, duplicates=0, rejected=0, last_seq=3)
    assert inbox.add(header(0, 3), exchanges(0, 3)) == Receipt(accepted=0, duplicates=3, rejected=0, last_seq=3)
    assert stored_ids(inbox) == ["exchange-1", "exchange-2", "exchange-3"]


def test_a_batch_that_overlaps_another_adds_what_is_new(inbox: Inbox) -> None:
    inbox.add(header(0, 4), exchanges(0, 4))
    assert inbox.add(header(2, 6), exchanges(2, 6)).accepted == 2


def test_a_row_is_kept_as_it_came_with_columns_we_do_not_know(inbox: Inbox) -> None:
    row = exchange_row(1, text="Grüße, 世界", energy_joules=1.5)
    inbox.add(header(0, 1), [row])
    assert json.loads(inbox.read("SELECT row FROM exchanges")[0][0]) == row


def test_a_log_file_survives_being_closed_and_opened(inbox: Inbox) -> None:
    inbox.add(header(0, 3), exchanges(0, 3))
    inbox.close()
    assert stored_ids(Inbox(inbox.path)) == ["exchange-1", "exchange-2", "exchange-3"]


def test_the_position_is_the_end_of_what_came_without_a_gap(inbox: Inbox) -> None:
    assert inbox.position("kitchen", LOG, "exchanges") == 0
    inbox.add(header(6, 9), exchanges(6, 9))
    assert inbox.position("kitchen", LOG, "exchanges") == 0
    inbox.add(header(0, 6), exchanges(0, 4))  # 5 and 6 are private
    assert inbox.position("kitchen", LOG, "exchanges") == 9
    assert inbox.position("cellar", LOG, "exchanges") == inbox.position("kitchen", LOG, "feedback") == 0


# Two devices with one id


def test_a_device_set_up_anew_goes_on_and_is_pointed_out(inbox: Inbox, caplog: pytest.LogCaptureFixture) -> None:
    inbox.add(header(0, 2), exchanges(0, 2))
    new = [exchange_row(seq, id=f"new-{seq}") for seq in (1, 2)]
    assert inbox.add(header(0, 2, log_id=OTHER_LOG), new).accepted == 2
    assert "kitchen: a new log bbbbbbbb replaces the one so far" in caplog.text
    assert "log aaaaaaaa ended at" in warnings_of(inbox)


def test_a_device_whose_id_another_one_took_is_refused_and_told_what_to_do(inbox: Inbox) -> None:
    inbox.add(header(0, 1), exchanges(0, 1))
    inbox.add(header(0, 1, log_id=OTHER_LOG), [exchange_row(1, id="other")])
    with pytest.raises(DeviceConflict, match=r"'kitchen'.*two devices have one id.*needs an id of its own"):
        inbox.add(header(1, 2), exchanges(1, 2))
    assert stored_ids(inbox) == ["exchange-1", "other"]
    assert "log aaaaaaaa was refused at" in warnings_of(inbox)
    assert inbox.add(header(0, 2, device="cellar"), exchanges(0, 2)).accepted == 2


@pytest.mark.parametrize("table", ["exchanges", "feedback", "forgotten"])
def test_a_copied_card_is_found_by_other_rows_at_the_same_place(inbox: Inbox, table: str) -> None:
    def row(seq: int, name: str) -> dict[str, Any]:
        whole = {"exchanges": exchange_row(seq), "feedback": feedback_row(seq, "x"), "forgotten": tombstone(seq, "")}
        return whole[table] | {"id": name}

    inbox.add(header(0, 2, table), [row(1, "shared"), row(2, "first's")])
    with pytest.raises(DeviceConflict, match=f"{table} has first's at seq 2, and now second's.*needs an id of its own"):
        inbox.add(header(0, 3, table), [row(1, "shared"), row(2, "second's"), row(3, "second's too")])
    assert inbox.status()[table] == 2
    assert inbox.position("kitchen", LOG, table) == 2


def test_objects_of_an_old_log_are_no_conflict(inbox: Inbox) -> None:
    inbox.add(header(0, 1), exchanges(0, 1))
    inbox.add(header(0, 1, log_id=OTHER_LOG), [exchange_row(1, id="other")])
    assert inbox.add(header(1, 2), exchanges(1, 2), live=False).accepted == 1


# Rows that are none


@pytest.mark.parametrize(
    ("table", "row", "reason"),
    [
        ("exchanges", {"seq": 1}, "id: expected a text"),
        ("exchanges", exchange_row(1, id="") | {"id": 5}, "id: expected a text"),
        ("exchanges", exchange_row(1) | {"id": "half \ud800"}, "id: expected a text"),
        ("exchanges", {"id": "x"}, "seq: expected an integer within 1-1"),
        ("exchanges", exchange_row(1) | {"seq": "1"}, "seq: expected"),
        ("exchanges", exchange_row(1) | {"seq": True}, "seq: expected"),
        ("exchanges", exchange_row(1, messages="[{"), "messages: expected a JSON list"),
        ("exchanges", exchange_row(1, messages="[" * 100_000), "messages: expected a JSON list"),
        ("exchanges", exchange_row(1, messages=[{"role": "user", "content": "x"}]), "messages: expected a JSON list"),
        ("exchanges", exchange_row(1, messages='[{"role": "user"}]'), "messages: expected a JSON list"),
        ("exchanges", exchange_row(1, options="[]"), "options: expected a JSON object"),
        ("exchanges", exchange_row(1, tool_calls="{}"), "tool_calls: expected a JSON list"),
        ("feedback", feedback_row(1, "x") | {"exchange_id": None}, "exchange_id: expected a text"),
        ("feedback", feedback_row(1, "x") | {"rating": None}, "rating: expected a text"),
        ("forgotten", {"seq": 1, "exchange_id": "x"}, "id: expected a text"),
    ],
)
def test_a_row_that_cannot_be_filed_is_kept_apart_and_holds_up_nothing(
    inbox: Inbox, table: str, row: dict[str, Any], reason: str
) -> None:
    for _ in range(2):  # kept once
        assert inbox.add(header(0, 1, table), [row]).rejected == 1
    [(kept, why)] = inbox.read("SELECT row, reason FROM rejected")
    assert json.loads(kept) == row
    assert why.startswith(reason)
    assert inbox.position("kitchen", LOG, table) == 1
    assert "1 rows were rejected" in warnings_of(inbox)


# Forgetting


def test_what_a_device_forgot_is_gone_and_stays_gone(inbox: Inbox) -> None:
    inbox.add(header(0, 2), exchanges(0, 2))
    inbox.add(header(0, 1, "feedback"), [feedback_row(1, "exchange-1", comment="about it")])
    inbox.add(header(0, 1, "forgotten"), [tombstone(1, "exchange-1")])
    assert inbox.add(header(0, 2), exchanges(0, 2)).duplicates == 2
    assert inbox.add(header(0, 1, "feedback"), [feedback_row(1, "exchange-1", comment="about it")]).duplicates == 1
    assert (stored_ids(inbox), stored_ids(inbox, "feedback")) == (["exchange-2"], [])
    assert inbox.forgotten_ids() == {"exchange-1"}


def test_a_tombstone_may_come_before_its_row(inbox: Inbox) -> None:
    inbox.add(header(0, 1, "forgotten"), [tombstone(1, "exchange-1")])
    assert inbox.add(header(0, 1), exchanges(0, 1)) == Receipt(0, 1, 0, 1)


def test_forgetting_reaches_the_copy_under_another_name_and_the_rejected_row(inbox: Inbox) -> None:
    inbox.add(header(0, 1), exchanges(0, 1))
    inbox.add(header(0, 1, device="cellar"), exchanges(0, 1))
    inbox.add(header(0, 1, device="attic"), [exchange_row(1, messages="{}")])
    inbox.forget("exchange-1")
    inbox.add(header(0, 1, device="attic"), [exchange_row(1, messages="{}")])
    assert (inbox.status()["exchanges"], inbox.status()["rejected"]) == (0, 0)


def test_the_whole_conversation_is_forgotten_from_any_turn_of_it(inbox: Inbox) -> None:
    parents = {1: None, 2: 1, 3: 2, 4: 2, 5: None, 6: 5}  # 3 and 4 are two goes at the third turn
    rows = [exchange_row(seq, parent_id=parent and f"exchange-{parent}") for seq, parent in parents.items()]
    inbox.add(header(0, 6), rows)
    assert sorted(inbox.forget("exchange-3")) == [f"exchange-{n}" for n in (1, 2, 3, 4)]
    assert stored_ids(inbox) == ["exchange-5", "exchange-6"]
    assert inbox.add(header(0, 6), rows).accepted == 0


def test_forgetting_finds_the_other_turns_when_the_first_is_already_gone(inbox: Inbox) -> None:
    rows = [exchange_row(seq, parent_id="exchange-1") for seq in (2, 3)]
    inbox.add(header(0, 3), rows)
    assert sorted(inbox.forget("exchange-2")) == ["exchange-1", "exchange-2", "exchange-3"]


def test_forgotten_text_is_not_in_the_file_any_more(inbox: Inbox) -> None:
    inbox.add(header(0, 1), [exchange_row(1, text="the secret recipe")])
    assert b"the secret recipe" in inbox.path.read_bytes()
    inbox.forget("exchange-1")
    assert b"the secret recipe" not in inbox.path.read_bytes()


# A full disk, a lost file


def test_a_full_disk_refuses_the_whole_batch_until_there_is_room(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path / "inbox.db", max_bytes=200_000)
    inbox.add(header(0, 1), [exchange_row(1, text="x" * 50_000)])
    large = [exchange_row(seq, text="y" * 30_000) for seq in (2, 3)]
    with pytest.raises(InboxError, match="the disk is full.*make room, nothing is lost") as caught:
        inbox.add(header(1, 3), large)
    assert (caught.value.status, caught.value.code) == (507, "disk_full")
    assert (stored_ids(inbox), inbox.position("kitchen", LOG, "exchanges")) == (["exchange-1"], 1)
    inbox.forget("exchange-1")
    assert inbox.add(header(1, 3), large).accepted == 2


def test_an_inbox_that_was_removed_takes_nothing_more(inbox: Inbox) -> None:
    inbox.path.unlink()
    with pytest.raises(InboxError, match="was removed or replaced while it was in use"):
        inbox.add(header(0, 1), exchanges(0, 1))


def test_a_file_that_is_no_inbox_is_named_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "inbox.db"
    path.write_bytes(b"my diary, not a database" * 100)
    with pytest.raises(InboxError, match=r"inbox.db: cannot be opened as an inbox: .*choose another with --inbox"):
        Inbox(path)
    assert path.read_bytes() == b"my diary, not a database" * 100


def test_many_may_open_a_new_inbox_at_once_and_write_it(tmp_path: Path) -> None:
    failures: list[Exception] = []

    def write(number: int) -> None:
        try:
            inbox = Inbox(tmp_path / "inbox.db")
            inbox.add(header(0, 5, device=f"device-{number}"), exchanges(0, 5))
            inbox.close()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=[number]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert Inbox(tmp_path / "inbox.db").status()["exchanges"] == 30


def test_another_process_that_writes_for_long_is_named(inbox: Inbox) -> None:
    inbox.read("PRAGMA busy_timeout = 10")
    other = sqlite3.connect(inbox.path)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(InboxError, match="another process has written it") as caught:
        inbox.add(header(0, 1), exchanges(0, 1))
    assert (caught.value.status, caught.value.code) == (503, "inbox_busy")
    other.rollback()
    assert inbox.add(header(0, 1), exchanges(0, 1)).accepted == 1


# What the trainer reads


def test_a_query_has_its_whole_conversation_and_what_people_said(inbox: Inbox) -> None:
    first = exchange_row(1, text="Name a river.", answer="The Rhine.")
    second = exchange_row(2, text="How long is it?", parent_id="exchange-1", options='{"max_tokens": 64}')
    inbox.add(header(0, 2), [first, second])
    inbox.add(header(0, 2, "feedback"), [feedback_row(1, "exchange-2", "bad"), feedback_row(2, "exchange-2", "good")])
    query = list(inbox.queries())[1]
    assert [message.content for message in query.messages] == ["Name a river.", "The Rhine.", "How long is it?"]
    assert (query.id, query.device_id, query.complete) == ("exchange-2", "kitchen", True)
    assert (query.answer, query.route, query.model, query.options) == ("answer 2", "local", "tiny", {"max_tokens": 64})
    assert query.ratings == ("bad", "good")


def test_tool_calls_of_an_earlier_answer_come_back(inbox: Inbox) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "light", "arguments": "{}"}}
    result = json.dumps([{"role": "tool", "content": "on", "tool_call_id": "call_1"}])
    first = exchange_row(1, answer="", tool_calls=json.dumps([call]))
    inbox.add(header(0, 2), [first, exchange_row(2, messages=result, parent_id="exchange-1")])
    messages = list(inbox.queries())[1].messages
    assert messages[1:] == (Message("assistant", "", (call,)), Message("tool", "on", tool_call_id="call_1"))


def test_rows_without_text_are_left_out_and_counted(inbox: Inbox) -> None:
    inbox.add(header(0, 3), [*exchanges(0, 1), *exchanges(1, 3, content=False)])
    assert [query.id for query in inbox.queries()] == ["exchange-1"]
    assert inbox.status()["without_text"] == 2


def test_an_exchange_that_two_names_sent_is_one_query(inbox: Inbox) -> None:
    for device in ("kitchen", "cellar"):
        inbox.add(header(0, 2, device=device), exchanges(0, 2))
        inbox.add(header(0, 1, "feedback", device=device), [feedback_row(1, "exchange-1")])
    assert [(query.id, query.device_id) for query in inbox.queries()] == [
        ("exchange-1", "kitchen"),
        ("exchange-2", "kitchen"),
    ]
    assert next(inbox.queries()).ratings == ("good",)


@pytest.mark.parametrize("parent_id", ["exchange-2", "exchange-1", "not here"])
def test_a_conversation_with_a_missing_part_or_in_a_circle_ends_and_says_so(inbox: Inbox, parent_id: str) -> None:
    inbox.add(header(0, 2), [exchange_row(1, parent_id=parent_id), exchange_row(2, parent_id="exchange-1")])
    query = next(inbox.queries())
    assert not query.complete
    assert query.messages[-1].content == "question 1"


def test_a_parent_of_another_device_is_none(inbox: Inbox) -> None:
    inbox.add(header(0, 1, device="cellar"), exchanges(0, 1))
    inbox.add(header(1, 2), [exchange_row(2, parent_id="exchange-1")])
    assert [query.complete for query in inbox.queries()] == [True, False]


def test_reading_queries_does_not_keep_others_from_writing(inbox: Inbox) -> None:
    inbox.add(header(0, 2), exchanges(0, 2))
    reading = Inbox(inbox.path).queries()
    next(reading)
    inbox.read("PRAGMA busy_timeout = 0")
    inbox.add(header(2, 3), exchanges(2, 3))
    assert [query.id for query in reading] == ["exchange-2", "exchange-3"]


# Devices


def test_a_token_names_its_device_until_it_is_revoked(inbox: Inbox) -> None:
    devices = Devices(inbox)
    token = devices.add("kitchen")
    assert devices.of_token(token) == "kitchen"
    devices.revoke("kitchen")
    with pytest.raises(RequestError, match="the token of 'kitchen' was revoked at .*add-device kitchen") as caught:
        devices.of_token(token)
    assert caught.value.status == 401
    assert devices.of_token(devices.add("kitchen")) == "kitchen"
    with pytest.raises(RequestError, match="expected `Bearer <token>`"):
        devices.of_token(token)


@pytest.mark.parametrize(
    "token", ["", "kitchen", "kitchen.", "kitchen.wrong", "cellar.wrong", ".", "ü.\ud800", "a" * 9999]
)
def test_another_token_is_refused(inbox: Inbox, token: str) -> None:
    devices = Devices(inbox)
    devices.add("kitchen")
    with pytest.raises(RequestError) as caught:
        devices.of_token(token)
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")


def test_a_token_is_not_in_the_file(inbox: Inbox) -> None:
    token = Devices(inbox).add("kitchen")
    assert token.rpartition(".")[2].encode() not in inbox.path.read_bytes()


def test_a_device_has_one_token_and_a_name_that_can_be_part_of_a_path(inbox: Inbox) -> None:
    devices = Devices(inbox)
    devices.add("kitchen")
    with pytest.raises(RequestError, match="'kitchen' has a token, which cannot be shown again"):
        devices.add("kitchen")
    with pytest.raises(RequestError, match=r"expected 1 to 64 of a-z .* found '../cellar'"):
        devices.add("../cellar")
    with pytest.raises(RequestError, match="no device 'cellar' has a token"):
        devices.revoke("cellar")


@pytest.mark.parametrize(
    ("sent_utc", "warning"),
    [
        ("2026-05-01T12:04:59.000Z", None),
        ("2026-05-01T14:00:10.000+02:00", None),
        ("2026-05-01T12:12:00.000Z", "its clock is 12 min ahead of ours"),
        ("1970-01-01T00:00:07.000Z", "min behind ours"),
        ("2026-05-01T12:30:00", None),  # no zone: nothing can be said
        ("yesterday", None),
        (None, None),
    ],
)
def test_a_clock_that_is_far_off_is_warned_of_once(
    inbox: Inbox, caplog: pytest.LogCaptureFixture, sent_utc: str | None, warning: str | None
) -> None:
    devices = Devices(inbox)
    devices.add("kitchen")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            devices.compare_clock("kitchen", sent_utc, "2026-05-01T12:00:00.000Z")
    shown = "".join(device.warnings[0] for device in devices.all() if device.warnings)
    assert len(caplog.messages) == (1 if warning else 0)
    assert (warning or "") in shown and bool(shown) == bool(warning)


def test_the_table_has_what_each_device_sent(inbox: Inbox) -> None:
    Devices(inbox).add("attic")
    inbox.add(header(0, 3), exchanges(0, 3))
    inbox.add(header(0, 1, "feedback"), [feedback_row(1, "exchange-1")])
    attic, kitchen = Devices(inbox).all()
    assert (attic.device_id, attic.exchanges, attic.last_seen_utc) == ("attic", 0, None)
    assert (kitchen.exchanges, kitchen.feedback, kitchen.logs, kitchen.warnings) == (3, 1, 1, ())
    assert kitchen.last_seen_utc is not None
