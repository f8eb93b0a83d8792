"""A judge that is right, always the same, talks nonsense, or does not answer at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge_agent.errors import CloudRejected, CloudUnavailable, ConfigError
from edge_agent.training.judge import KeptReplies, Verdict
from edge_agent.training.judge_prompts import (
    Asking,
    Turns,
    Unreadable,
    ask_best,
    ask_grade,
    ask_pick,
    read_grade,
)
from edge_agent.training.judge_protocols import (
    Graded,
    grade,
)
from edge_agent.training.served_sampling import Price
from tests.misbehaving_cloud import Behaviour, in_turn, misbehaving_cloud, status
from tests.training.judging import TASK, answered, judge_at, many, saying

# grades


def test_both_turns_are_graded_and_the_second_is_shown_with_the_first() -> None:
    with misbehaving_cloud(saying(lambda text: "Good. [[9]]" if "answer_2" in text else "Poor. [[2]]")) as cloud:
        found = grade(judge_at(cloud), [answered("m", "four", "six")])
        asked = [request.json for request in cloud.requests]
    assert {what: verdict.value for what, verdict in found.items()} == {Graded(1, 1, "m"): 2, Graded(1, 2, "m"): 9}
    assert {body["temperature"] for body in asked} == {0.0}
    assert sorted("And 3 + 3?" in body["messages"][-1]["content"] for body in asked) == [False, True]
    assert all("four" in body["messages"][-1]["content"] for body in asked)


@pytest.mark.parametrize(("turn", "shown", "hidden"), [(1, ["four!"], ["six!"]), (2, ["four!", "six!"], [])])
def test_a_reference_is_shown_up_to_the_turn_that_is_judged(turn: int, shown: list[str], hidden: list[str]) -> None:
    asking = ask_grade(Turns(TASK.questions, ("four!", "six!")), ("4", "6"), turn)
    system, material = (message.content for message in asking.prompt.messages)
    assert "reference is right" in system
    assert all(text in material for text in shown) and not any(text in material for text in hidden)


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("It is fine. [[7]]", 7),
        ("[[ 8.5 ]]", 8.5),
        ("[[3]] because ... so [[3]]", 3),
        ("<think>Perhaps [[2]]?</think>No. [[9]]", 9),
        ("As asked, [[GRADE]]: [[10]]", 10),
    ],
)
def test_a_grade_is_read(reply: str, value: float) -> None:
    assert read_grade(reply) == value


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ("", "no verdict"),
        ("7", "no verdict"),
        ("Rating: 7/10", "no verdict"),
        ("[7]", "no verdict"),
        ("[[seven]]", "no verdict"),
        ("[[nan]]", "no verdict"),
        ("<think>[[7]]</think>", "no verdict"),
        ("[[7]] or rather [[8]]", "several verdicts"),
        ("[[0]]", "out of range"),
        ("[[11]]", "out of range"),
        ("[[-5]]", "out of range"),
        ("[[10.5]]", "out of range"),
    ],
)
def test_a_reply_without_one_clear_grade_is_refused(reply: str, kind: str) -> None:
    with pytest.raises(Unreadable) as refused:
        read_grade(reply)
    assert refused.value.kind == kind


@pytest.mark.parametrize(
    "asking",
    [
        ask_grade(TASK, ("4", "6"), 1),
        ask_pick(TASK, ("4", "6"), ("5", "6"), 2),
        ask_best("2 + 2?", "4", ["4", "5", "6"]),
    ],
)
def test_a_judge_who_repeats_what_it_was_told_has_said_nothing(asking: Asking[Any]) -> None:
    system = asking.prompt.messages[0].content
    for told in (system, asking.reminder, system.rpartition(": ")[2], asking.reminder.rpartition(": ")[2]):
        with pytest.raises(Unreadable):
            asking.read(told)


# what the judge does wrong


@pytest.mark.parametrize(
    ("server", "kind"),
    [
        (saying("What a lovely day."), "2 no verdict"),
        (saying(""), "2 no verdict"),
        (saying("[[3]] [[4]]"), "2 several verdicts"),
        (saying("[[12]]"), "2 out of range"),
        (saying("[[7]] and so on and", finish="length"), "2 cut off"),
    ],
)
def test_a_judge_who_answers_nonsense_is_refused_after_one_reminder_each(server: Behaviour, kind: str) -> None:
    with misbehaving_cloud(server) as cloud:
        with pytest.raises(CloudRejected, match=rf"2 of 2 verdicts are missing.*\({kind}\).*not usable as a judge"):
            grade(judge_at(cloud, concurrency=1), many(2))
        asked = [request.json["messages"][-1]["content"] for request in cloud.requests]
    reminded = [text for text in asked if text.endswith("End with your number from 1 to 10 in double square brackets.")]
    assert len(reminded) == 2 and len(set(asked)) == 4


def test_one_reminder_may_help() -> None:
    with misbehaving_cloud(saying(lambda text: "[[6]]" if "End with" in text else "Six.")) as cloud:
        found = grade(judge_at(cloud), many(3))
    assert [verdict.value for verdict in found.values()] == [6, 6, 6]


@pytest.mark.parametrize(("nonsense", "usable"), [(2, True), (3, False)])
def test_a_fifth_of_the_verdicts_may_be_unreadable_and_they_are_counted(nonsense: int, usable: bool) -> None:
    bad = {f"answer {i}\n" for i in range(nonsense)}
    with misbehaving_cloud(saying(lambda text: "?" if any(b in text for b in bad) else "[[5]]")) as cloud:
        if not usable:
            with pytest.raises(
                CloudRejected, match="3 of 10 verdicts are missing.*at most 20% of 10 may be"
            ) as refused:
                grade(judge_at(cloud), many(10))
            assert refused.value.code == "judge_not_usable"
            return
        found = list(grade(judge_at(cloud), many(10)).values())
    assert found == [Verdict(None, "no verdict")] * 2 + [Verdict(5.0)] * 8


def test_a_judge_who_cannot_become_usable_is_asked_no_further() -> None:
    with misbehaving_cloud(saying("?")) as cloud:
        with pytest.raises(CloudRejected, match="64 of 64 verdicts are missing"):
            grade(judge_at(cloud), many(200))
        asked = len({request.body for request in cloud.requests})
    assert asked <= 2 * 2 * 64  # with and without log-probabilities


def test_a_server_that_stumbles_is_asked_again() -> None:
    with misbehaving_cloud(in_turn(status(500), status(503), saying("[[4]]"))) as cloud:
        (verdict,) = grade(judge_at(cloud, concurrency=1), many(1)).values()
    assert verdict.value == 4


@pytest.mark.parametrize(
    ("server", "error", "message"),
    [
        (status(500), CloudUnavailable, "no answer after 6 attempts .HTTP 500"),
        (status(401, {"error": {"message": "bad key"}}), CloudRejected, "refuses judge: HTTP 401.*bad key"),
        (status(200, {"hello": 1}), CloudRejected, "expected a chat completion with choices"),
    ],
)
def test_a_server_that_does_not_judge_ends_it_with_a_sentence(
    server: Behaviour, error: type[Exception], message: str
) -> None:
    with misbehaving_cloud(server) as cloud, pytest.raises(error, match=message):
        grade(judge_at(cloud), many(2))


def test_what_the_cost_limit_leaves_out_is_not_guessed_and_asked_the_next_time(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    with misbehaving_cloud(saying("[[5]]")) as cloud:
        limited = judge_at(cloud, KeptReplies(path), price=Price(output=1e6), max_cost=1100, concurrency=1)
        with pytest.raises(CloudRejected, match="no answer.*raise the cost limit"):
            grade(limited, many(20))
        assert limited.cost <= 1100
        kept = len(KeptReplies(path))
        assert 0 < kept < 20
        before = len(cloud.requests)
        found = grade(judge_at(cloud, KeptReplies(path)), many(20))
        assert len(cloud.requests) - before == 20 - kept
    assert {verdict.value for verdict in found.values()} == {5}


# what is kept


def test_a_rerun_asks_nobody(tmp_path: Path) -> None:
    path = tmp_path / "new" / "replies.jsonl"
    with misbehaving_cloud(saying("[[5]]")) as cloud:
        first = grade(judge_at(cloud, KeptReplies(path)), many(5))
        asked = len(cloud.requests)
        assert grade(judge_at(cloud, KeptReplies(path)), many(5)) == first
        assert len(cloud.requests) == asked
    assert path.stat().st_mode & 0o777 == 0o600, "it holds what people asked"
    assert {json.loads(line)["reply"] for line in path.read_text().splitlines()} == {"[[5]]"}


def test_progress_counts_every_verdict_once_whether_asked_reminded_or_kept() -> None:
    kept, told = KeptReplies(), list[int]()
    with misbehaving_cloud(saying(lambda text: "[[6]]" if "End with" in text else "Six.")) as cloud:
        grade(judge_at(cloud, kept), many(2))
        grade(judge_at(cloud, kept), many(5), told.append)
    assert sum(told) == 5 and len(told) == 4, "three as they came, two that were kept"


def test_another_judge_or_another_answer_is_another_question(tmp_path: Path) -> None:
    kept = KeptReplies(tmp_path / "replies.jsonl")
    with misbehaving_cloud(saying("[[5]]")) as cloud, misbehaving_cloud(saying("[[6]]")) as other:
        grade(judge_at(cloud, kept), many(2))
        assert {v.value for v in grade(judge_at(other, kept), many(2)).values()} == {6}
        grade(judge_at(cloud, kept), many(3))
    assert len(kept) == 5


def test_a_line_half_written_costs_its_verdict_only(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    with misbehaving_cloud(saying("[[5]]")) as cloud:
        grade(judge_at(cloud, KeptReplies(path)), many(3))
        path.write_bytes(path.read_bytes()[:-20])
        kept = KeptReplies(path)
        assert len(kept) == 2
        grade(judge_at(cloud, kept), many(3))
    assert len(KeptReplies(path)) == 3


@pytest.mark.parametrize("line", ["hello", "{}", "[1]", '{"key": 1, "reply": "a"}', '"key"'])
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, line: str) -> None:
    path = tmp_path / "mine.txt"
    path.write_text(line + "\n")
    with pytest.raises(ConfigError, match="line 1: expected a judge's reply.*name another file"):
        KeptReplies(path)
    assert path.read_text() == line + "\n"
