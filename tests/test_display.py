"""Lines for people: pure functions, and a console that knows who is looking."""

from __future__ import annotations

import io
import json
from datetime import datetime, timezone
from typing import Any

import pytest

from edge_agent.display import (
    Console,
    answer_line,
    check_lines,
    first_words,
    log_lines,
    short_ids,
    since_utc,
    status_lines,
)

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=timezone.utc)


LOW = {"route": "local", "reason": "below_threshold", "score": 0.12, "threshold": 0.42}
HIGH = {"route": "cloud", "reason": "above_threshold", "score": 0.42, "threshold": 0.42}


@pytest.mark.parametrize(
    ("info", "line"),
    [
        (LOW, "local · below threshold · 0.12 < 0.42"),
        (LOW | {"score": 0.419}, "local · below threshold · 0.4190 < 0.4200"),
        (LOW | {"score": None}, "local · below threshold"),
        (HIGH, "cloud · above threshold · 0.42 >= 0.42"),
        (LOW | {"degraded": "cloud_rejected"}, "local · below threshold · 0.12 < 0.42 · degraded: cloud rejected"),
        (
            {"route": "local", "reason": "cloud_no_key", "degraded": "cloud_no_key"},
            "local · cloud no key · degraded",
        ),
        ({"route": None, "reason": "context_exceeded"}, "nobody · context exceeded"),
        ({}, "nobody"),
    ],
)
def test_a_decision_is_a_line_of_what_is_known(info: dict[str, Any], line: str) -> None:
    assert answer_line(info, None) == line


@pytest.mark.parametrize(
    ("duration_ms", "finish_reason", "line"),
    [
        (83.4, "stop", "local · 83 ms"),
        (1840.0, "stop", "local · 1.8 s"),
        (None, "stop", "local"),
        (1840.0, "length", "local · 1.8 s · cut at the token limit"),
    ],
)
def test_an_answers_line_ends_with_its_time_and_whether_it_was_cut(
    duration_ms: float | None, finish_reason: str, line: str
) -> None:
    assert answer_line({"route": "local", "duration_ms": duration_ms}, finish_reason) == line


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("90s", "2026-11-23T11:58:30.000Z"),
        ("30m", "2026-11-23T11:30:00.000Z"),
        ("2h", "2026-11-23T10:00:00.000Z"),
        ("3d", "2026-11-20T12:00:00.000Z"),
        ("1w", "2026-11-16T12:00:00.000Z"),
        ("2026-11-23T10:00:00Z", "2026-11-23T10:00:00.000Z"),
        ("2026-11-23T10:00:00+02:00", "2026-11-23T08:00:00.000Z"),
    ],
)
def test_since_takes_an_age_or_an_iso_time(text: str, utc: str) -> None:
    assert since_utc(text, NOW) == utc


def test_a_time_without_a_zone_is_the_local_one() -> None:
    there = datetime(2026, 11, 23).astimezone(timezone.utc)
    assert since_utc("2026-11-23") == there.strftime("%Y-%m-%dT%H:%M:%S.000Z")


@pytest.mark.parametrize("text", ["", "2x", "h", "-2h", "yesterday", "999999w", "2026-13-01"])
def test_since_refuses_what_is_neither(text: str) -> None:
    with pytest.raises(ValueError, match="expected an age such as 2h or 3d, or an ISO time, found"):
        since_utc(text, NOW)


def test_short_ids_grow_until_they_differ() -> None:
    first, second = "0193a5b2-1c3d-7abc-8def-1", "0193a5b2-1c3d-7abd-8def-2"
    assert short_ids([first]) == ["0193a5b2-1c3d"] and short_ids([]) == []
    assert short_ids([first, second]) == ["0193a5b2-1c3d-7abc", "0193a5b2-1c3d-7abd"]


def row(messages: list[dict[str, str]] | None, private: bool = False) -> dict[str, Any]:
    return {"private": private, "messages": None if messages is None else json.dumps(messages)}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (row([{"role": "user", "content": "a\n b"}, {"role": "assistant", "content": "c"}]), "a b"),
        (row([{"role": "user", "content": "x" * 61}]), "x" * 59 + "…"),
        (row([{"role": "user", "content": "\x1b[31mred"}]), "[31mred"),
        (row([{"role": "system", "content": "a"}]), ""),
        (row(None), "(no text kept)"),
        (row(None, private=True), "(private)"),
    ],
)
def test_the_first_words_of_a_question_fit_on_a_line(row: dict[str, Any], words: str) -> None:
    assert first_words(row) == words


ROW = dict.fromkeys(("route", "score", "threshold", "degraded", "error", "finish_reason", "duration_ms", "messages"))
ROW |= {"id": "0193", "created_utc": "2026-11-23T20:15:01.000Z", "reason": "above_threshold", "private": True}


def test_columns_are_aligned_by_what_a_terminal_shows() -> None:
    wide, narrow = log_lines([ROW | {"id": "1", "reason": "日本"}, ROW | {"id": "2", "reason": "four"}])
    assert wide.endswith("(private)") and narrow.endswith("(private)")
    assert len(wide) + 2 == len(narrow)


@pytest.mark.parametrize(
    ("row", "outcome"),
    [
        ({}, "above threshold"),
        ({"degraded": "cloud_unavailable"}, "above threshold (cloud unavailable)"),
        ({"degraded": "above_threshold"}, "above threshold (degraded)"),
        ({"error": "cloud_error", "finish_reason": "cancelled"}, "above threshold (cloud error, cancelled)"),
        ({"error": "above_threshold", "finish_reason": "stop"}, "above threshold"),
    ],
)
def test_a_row_shows_what_went_otherwise_than_wished(row: dict[str, str], outcome: str) -> None:
    assert next(log_lines([ROW | row])).split("  ")[3] == outcome


def test_an_empty_log_is_no_lines() -> None:
    assert list(log_lines([])) == []


def test_a_status_shows_whatever_it_is_told() -> None:
    local = {"n_ctx": 4096, "broken": None, "busy": True, "load_s": 0.67, "routes": {"local": 7, "cloud": 2}}
    status = {"pid": 7, "uptime_s": 12345.6, "size_bytes": 148328, "config": None, "local": local, "new": [1], "x": {}}
    assert [line.rstrip() for line in status_lines(status)] == [
        "pid        7",
        "uptime     3.4 h",
        "size       148 kB",
        "local      n_ctx 4096 · busy yes · load 0.7 s · routes local 7, cloud 2",
        "new        [1]",
        "x",
    ]


def test_a_check_that_failed_is_followed_by_what_mends_it() -> None:
    good = {"name": "router", "ok": "ok", "found": "v1", "fix": "never shown"}
    bad = {"name": "model", "ok": "fail", "found": "nothing", "fix": "edge-agent pull"}
    assert [line.split() for line in check_lines([good, bad])] == [
        ["ok", "router", "v1"],
        ["fail", "model", "nothing"],
        ["->", "edge-agent", "pull"],
    ]


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("err", "environ", "seen"),
    [
        (Screen(), {}, "\x1b[2mremark\x1b[0m\n"),
        (Screen(), {"NO_COLOR": "1"}, "remark\n"),
        (Screen(), {"NO_COLOR": ""}, "\x1b[2mremark\x1b[0m\n"),
        (Screen(), {"TERM": "dumb"}, "remark\n"),
        (io.StringIO(), {}, ""),
    ],
    ids=["terminal", "NO_COLOR", "empty NO_COLOR", "dumb terminal", "file"],
)
def test_a_remark_is_dim_on_a_terminal_and_absent_elsewhere(
    err: io.StringIO, environ: dict[str, str], seen: str
) -> None:
    Console(io.StringIO(), err, environ).note("remark")
    assert err.getvalue() == seen


@pytest.mark.parametrize(("out", "seen"), [(Screen(), "[31mred\n\tx"), (io.StringIO(), "\x1b[31mred\r\n\tx")])
def test_control_characters_reach_a_file_and_not_a_terminal(out: io.StringIO, seen: str) -> None:
    Console(out, io.StringIO(), {}).write("\x1b[31mred\r\n\tx")
    assert out.getvalue() == seen


def test_a_line_that_was_begun_is_ended_once() -> None:
    out = io.StringIO()
    console = Console(out, io.StringIO(), {})
    for text in ("a", "", "b\n"):
        console.write(text)
        console.end_line()
    assert out.getvalue() == "a\nb\n"


def test_an_error_is_one_line_whatever_it_holds() -> None:
    err = io.StringIO()
    Console(io.StringIO(), err, {}).error("it broke:\n\x1b[2J here")
    assert err.getvalue() == "error: it broke: [2J here\n"
