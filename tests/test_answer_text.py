"""From the bytes of tokens to the text a client sees."""

from __future__ import annotations

import json

import pytest

from edge_agent.answer_text import AnswerText, parse_tool_calls

CALL = '{"name": "lamp", "arguments": {"on": true}}'


def fed(answer: AnswerText, *pieces: bytes) -> list[str]:
    """What was shown after each piece, and at the end."""
    return [answer.feed(piece) for piece in pieces] + [answer.feed(b"", final=True)]


@pytest.mark.parametrize("text", ["é", "日本", "👩‍👩‍👧 family", "a\u0301"])
def test_a_character_split_over_tokens_is_shown_once_it_is_whole(text: str) -> None:
    shown = fed(AnswerText(), *(bytes([byte]) for byte in text.encode()))
    assert "".join(shown) == text
    assert not any("\ufffd" in piece for piece in shown)


def test_a_character_that_never_becomes_whole_is_shown_as_the_replacement_character() -> None:
    answer = AnswerText()
    assert fed(answer, b"caf\xc3") == ["caf", "\ufffd"]
    assert fed(AnswerText(), b"\xff", b"x") == ["\ufffd", "x", ""]


def test_text_without_stop_strings_is_shown_at_once() -> None:
    answer = AnswerText()
    assert fed(answer, b"Hel", b"lo") == ["Hel", "lo", ""]
    assert (answer.text, answer.stopped) == ("Hello", False)


@pytest.mark.parametrize(
    ("stop", "pieces", "shown"),
    [
        (["STOP"], [b"go ST", b"OP more"], "go "),
        (["STOP"], [b"S", b"T", b"O", b"P"], ""),
        (["\n\n"], [b"one\n", b"two\n", b"\nthree"], "one\ntwo"),
        (["b", "a"], [b"xyab"], "xy"),
        (["aab"], [b"aa", b"ab"], "a"),
        (["é"], [b"caf\xc3", b"\xa9!"], "caf"),
        (["never"], [b"ne", b"v"], "nev"),
    ],
)
def test_nothing_of_a_stop_string_is_ever_shown(stop: list[str], pieces: list[bytes], shown: str) -> None:
    answer = AnswerText(stop)
    result = ""
    for piece in pieces:
        result += answer.feed(piece)
        if answer.stopped:
            break
    else:
        result += answer.feed(b"", final=True)
    assert result == answer.text == shown
    assert answer.stopped == (stop != ["never"])


def test_only_what_may_begin_a_stop_string_is_held_back() -> None:
    assert fed(AnswerText(["END"]), b"the E", b"N", b"T") == ["the ", "", "ENT", ""]


def test_a_tool_call_is_kept_from_the_text_before_it() -> None:
    answer = AnswerText(tools=True)
    shown = fed(answer, b"Let me. <tool", b"_call>\n", CALL.encode(), b"\n</tool_call>")
    assert shown == ["Let me. ", "", "", "", ""]
    assert parse_tool_calls(answer.calls_text, ["lamp"])[0]["function"]["name"] == "lamp"


@pytest.mark.parametrize("before", [b"", b"\n", b"  "])
def test_a_tool_call_without_its_marks_is_one_too(before: bytes) -> None:
    answer = AnswerText(tools=True)
    fed(answer, before, CALL[:9].encode(), CALL[9:].encode())
    assert answer.text.strip() == ""
    assert len(parse_tool_calls(answer.calls_text, ["lamp"])) == 1


@pytest.mark.parametrize(
    ("stop", "shown"), [("}}", CALL[:-2]), ("{", ""), ('"on"', CALL[: CALL.index('"on"')]), ("never", "")]
)
def test_a_call_without_marks_that_a_stop_string_cuts_is_text(stop: str, shown: str) -> None:
    answer = AnswerText(["zzz", stop], tools=True)
    result = ""
    for byte in CALL.encode():
        result += "" if answer.stopped else answer.feed(bytes([byte]))
    assert result == answer.text == shown
    assert (answer.stopped, answer.calls_text) == ((False, CALL) if stop == "never" else (True, ""))


def test_without_tools_braces_and_marks_are_text() -> None:
    assert "".join(fed(AnswerText(), b"<tool_call>", CALL.encode())) == "<tool_call>" + CALL


def test_two_calls_have_ids_of_their_own_and_arguments_as_json_text() -> None:
    text = f'<tool_call>\n{CALL}\n</tool_call>\n<tool_call>{{"name": "f", "arguments": "é"}}</tool_call>'
    first, second = parse_tool_calls(text, ["lamp", "f"])
    assert first["id"] != second["id"]
    assert json.loads(first["function"]["arguments"]) == {"on": True}
    assert second["function"] == {"name": "f", "arguments": "é"}


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>" + CALL[:-3],
        '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>',
        '<tool_call>{"arguments": {}}</tool_call>',
        "<tool_call>[1]</tool_call>",
        f"<tool_call>{CALL}</tool_call><tool_call>nonsense</tool_call>",
        '{"just": "JSON"}',
        '{"name": "lamp", "arguments": {"on": NaN}}',
        '{"name": "lamp", "arguments": [-Infinity]}',
        '{"name": "lamp", "arguments": {"on": 1e999}}',
        '{"name": "lamp", "arguments": ' + "[" * 100_000,
        "",
    ],
)
def test_what_is_not_all_calls_of_known_functions_is_none(text: str) -> None:
    assert parse_tool_calls(text, ["lamp"]) == ()
