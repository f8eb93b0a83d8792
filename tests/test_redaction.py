"""Redaction: what the rules find is in no text that leaves; what they do not find stays as it is."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from edge_agent.errors import ConfigError
from edge_agent.redaction import RULES, redactor

ALL = tuple(RULES)


def cleaned(text: str, *rules: str) -> str:
    return str(redactor(rules or ALL)({"answer": text})["answer"])


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("write to ann.b+c@mail.example.org, now", "write to [EMAIL], now"),
        ("größe@köln.example", "[EMAIL]"),
        ("call +49 170 1234567 or 0170/1234567!", "call [PHONE] or [PHONE]!"),
        ("(555) 123-4567 and 555-123-4567", "[PHONE] and [PHONE]"),
        ("00 is a number, 0044 20 7946 0958 another", "00 is a number, [PHONE] another"),
        ("ping 192.168.178.1 twice", "ping [IP] twice"),
        ("fe80::1ff:fe23:4567:890a is up", "[IP] is up"),
        ("pay 4111 1111 1111 1111 or 4111111111111111.", "pay [CARD] or [CARD]."),
    ],
)
def test_the_usual_notations_are_found(text: str, left: str) -> None:
    assert cleaned(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "3*4=12; 12-2=10 #### 10",
        "on 2026-11-23 at 10:20:30",
        "version 1.2.3, not 1.2.3.4.5",
        "4111 1111 1111 1112 has a wrong check digit",
        "x = a[0:3]; y @ z",
        "12345678901 apples",
        "a::b in C++",
    ],
)
def test_other_numbers_and_signs_stay(text: str) -> None:
    assert cleaned(text) == text


def test_an_expression_of_ones_own_is_a_rule_too() -> None:
    assert cleaned("door 4711, door 12", r"door \d{4}") == "[REDACTED], door 12"


def test_rules_are_applied_in_their_order() -> None:
    assert cleaned("a@b.example", "a@b", "email") == "[REDACTED].example"


ROW: dict[str, Any] = {
    "seq": 7, "id": "me@example.org", "created_utc": "2026", "private": 0, "score": 0.5, "model": "m", "error": None,
    "messages": json.dumps([{"role": "user", "content": 'say "me@example.org"\n'}], ensure_ascii=False),
    "options": json.dumps({"stop": ["me@example.org"], "tools": [{"function": {"description": "for me@example.org"}}]}),
    "answer": "ok me@example.org", "conversation_id": "me@example.org", "comment": "me@example.org",
    "tool_calls": json.dumps([{"id": "c", "function": {"name": "f", "arguments": '{"to": "me@example.org", "n": 1}'}}]),
    "column_of_a_later_version": "me@example.org",
}  # fmt: skip


def test_every_text_of_a_row_is_redacted_and_the_programs_own_words_are_not() -> None:
    row = redactor(["email"])(ROW)
    assert row["id"] == "me@example.org"  # ids are ours; a row must keep its name
    assert "example.org" not in json.dumps({name: value for name, value in row.items() if name != "id"})
    assert (row["seq"], row["score"], row["error"], row["model"]) == (7, 0.5, None, "m")


def test_json_stays_json() -> None:
    row = redactor(["email"])(ROW)
    assert json.loads(row["messages"]) == [{"role": "user", "content": 'say "[EMAIL]"\n'}]
    (call,) = json.loads(row["tool_calls"])
    assert json.loads(call["function"]["arguments"]) == {"to": "[EMAIL]", "n": 1}


def test_a_pattern_cannot_break_the_json_around_a_text() -> None:
    row = redactor([r"\W+content\W+"])(ROW)
    assert json.loads(row["messages"])[0]["content"].startswith("say")


def test_without_rules_a_row_is_as_it_was() -> None:
    assert redactor([])(ROW) == ROW


@pytest.mark.parametrize("rule", ["(", "[a", "*", "(?P<x>a)(?P<x>b)"])
def test_a_wrong_pattern_is_a_wrong_setting(rule: str) -> None:
    with pytest.raises(ConfigError, match="sync.redact: expected email, phone, ip, card or a regular expression"):
        redactor([rule])


@pytest.mark.parametrize("rule", ["", "x*", "a?|b", "^"])
def test_a_pattern_that_finds_something_everywhere_is_a_wrong_setting(rule: str) -> None:
    with pytest.raises(ConfigError, match="finds something in an empty text, so everywhere; make it narrower"):
        redactor([rule])


def test_a_long_text_takes_no_longer_than_its_length() -> None:
    before = time.process_time()
    for unit in ("a", "1", "a.", "1 ", "a:", "+", "a@"):
        cleaned(unit * (60_000 // len(unit)))
    assert time.process_time() - before < 8.0, "a minute and more when every place is tried to the end of the text"
