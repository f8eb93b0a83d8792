"""The rim to terminal and pipe: bytes in become text, the daemon's words become lines for people.

Data goes to one stream, messages to the other, dim where a person looks. Asks and decides nothing.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, TextIO

from edge_agent.errors import RequestError

ID_LENGTH = 13
"""A UUIDv7's first 13 characters are its millisecond: enough to tell a person's exchanges apart."""
QUESTION_LENGTH = 60

_CONTROLS = {code: None for code in [*range(0x20), *range(0x7F, 0xA0)] if chr(code) not in "\n\t"}
"""What a model's text must not do to a terminal: ESC begins sequences that move, colour, retitle."""


class Console:
    """Where a command writes: data to `out`, messages to `err`; notes and dim text only where a person looks."""

    def __init__(self, out: TextIO, err: TextIO, environ: Mapping[str, str]):
        self._out, self._err = out, err
        self.interactive = out.isatty()
        self._notes = err.isatty()
        self._dim = self._notes and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
        self._mid_line = False

    def write(self, text: str) -> None:
        """Data, at once, without a line end of its own."""
        if text:
            self._mid_line = not text.endswith("\n")
            self._out.write(printable(text) if self.interactive else text)
            self._out.flush()

    def line(self, text: str) -> None:
        """One line of data."""
        self.write(text + "\n")

    def json(self, value: object) -> None:
        """Data for a program: ASCII only, so that no locale can spoil it."""
        self.line(json.dumps(value, indent=2))

    def end_line(self) -> None:
        """Ends the line that was begun, if any."""
        if self._mid_line:
            self.write("\n")

    def note(self, text: str) -> None:
        """A remark for a person, dim; a program never sees it."""
        if self._notes:
            text = printable(text)
            print(f"\x1b[2m{text}\x1b[0m" if self._dim else text, file=self._err, flush=True)

    def error(self, text: str) -> None:
        """One line that says what went wrong."""
        print("error: " + " ".join(printable(text).split()), file=self._err, flush=True)


def utf8(data: bytes) -> str:
    """Piped input as text."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"byte 0x{data[error.start]:02x} at {error.start}"
        raise RequestError(f"standard input: expected UTF-8 text, found {found}; convert it first") from error


def printable(text: str) -> str:
    """The text without the control characters a terminal would obey."""
    return text.translate(_CONTROLS)


def answer_line(info: Mapping[str, Any], finish_reason: str | None) -> str:
    """What is worth knowing after an answer: the decision, the time, and whether the text was cut."""
    parts = _decision_parts(info)
    if info.get("duration_ms") is not None:
        parts.append(_duration(info["duration_ms"]))
    if finish_reason == "length":
        parts.append("cut at the token limit")
    return " · ".join(parts)


def route_line(decision: Mapping[str, Any]) -> str:
    """What `route` says: the decision, who decided, how long it took and how much of the context is used."""
    parts = _decision_parts(decision)
    if decision.get("router_version"):
        parts.append(f"router {decision['router_version']}")
    if decision.get("router_ms") is not None:
        parts.append(_duration(decision["router_ms"]))
    if decision.get("prompt_tokens") is not None and decision.get("n_ctx") is not None:
        parts.append(f"{decision['prompt_tokens']} of {decision['n_ctx']} tokens")
    return " · ".join(parts)


def _decision_parts(info: Mapping[str, Any]) -> list[str]:
    parts = [info.get("route") or "nobody", _words(info.get("reason")), _comparison(info)]
    if info.get("degraded"):
        parts.append("degraded" if info["degraded"] == info.get("reason") else f"degraded: {_words(info['degraded'])}")
    return [part for part in parts if part]


def _comparison(info: Mapping[str, Any]) -> str:
    score, threshold = info.get("score"), info.get("threshold")
    if score is None or threshold is None:
        return ""
    digits = 2 if f"{score:.2f}" != f"{threshold:.2f}" or score == threshold else 4
    return f"{score:.{digits}f} {'<' if score < threshold else '>='} {threshold:.{digits}f}"


def _words(name: object) -> str:
    return str(name or "").replace("_", " ")


def _duration(milliseconds: float) -> str:
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    return f"{milliseconds / 1000:.1f} s"


def log_lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """One aligned line per exchange: time, id, route, reason, score, duration, first words of the question."""
    table = [
        (
            _local_time(row["created_utc"]),
            id,
            row["route"] or "-",
            _outcome(row),
            _comparison(row),
            "" if row["duration_ms"] is None else f"{row['duration_ms']:.0f} ms",
            first_words(row),
        )
        for row, id in zip(rows, short_ids([row["id"] for row in rows]), strict=True)
    ]
    return aligned(table, right={5})


def _outcome(row: Mapping[str, Any]) -> str:
    """Why it went there, and what went otherwise than wished: `above threshold (cloud unavailable)`."""
    degraded = "degraded" if row["degraded"] == row["reason"] else row["degraded"]
    error = None if row["error"] == row["reason"] else row["error"]
    cancelled = "cancelled" if row["finish_reason"] == "cancelled" else None
    troubles = ", ".join(_words(trouble) for trouble in (degraded, error, cancelled) if trouble)
    return _words(row["reason"]) + (f" ({troubles})" if troubles else "")


def aligned(table: Iterable[tuple[str, ...]], right: Collection[int] = ()) -> Iterator[str]:
    """A line per row, the columns as wide as their widest cell, those in `right` flush right."""
    rows = list(table)
    widths = [max(map(_columns, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = []
        for index, (cell, width) in enumerate(zip(row, widths, strict=True)):
            space = " " * (width - _columns(cell))
            cells.append(space + cell if index in right else cell + space)
        yield "  ".join(cells).rstrip()


def _columns(text: str) -> int:
    """How many columns a terminal gives to the text."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text if not unicodedata.combining(c))


def _local_time(utc: str) -> str:
    return datetime.fromisoformat(utc.replace("Z", "+00:00")).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def since_utc(text: str, now: datetime | None = None) -> str:
    """`2h`, `3d` or an ISO time as the log writes times; a time without a zone is the local one.

    :raises ValueError: when it is neither.
    """
    age = re.fullmatch(r"(\d{1,6})([smhdw])", text)
    try:
        if age:
            unit_s = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[age[2]]
            moment = (now or datetime.now(timezone.utc)) - timedelta(seconds=int(age[1]) * unit_s)
        else:
            moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
        return moment.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError) as error:
        raise ValueError(f"expected an age such as 2h or 3d, or an ISO time, found {text!r}") from error


def short_ids(ids: Sequence[str]) -> list[str]:
    """The shortest common length, 13 or more characters, at which all ids differ."""
    length = ID_LENGTH
    while len({id[:length] for id in ids}) < len(set(ids)):
        length += 1
    return [id[:length] for id in ids]


def first_words(row: Mapping[str, Any]) -> str:
    """The beginning of a row's question, or why there is none."""
    if row["private"]:
        return "(private)"
    if not row["messages"]:
        return "(no text kept)"
    asked = [message for message in json.loads(row["messages"]) if message.get("role") == "user"]
    text = " ".join(printable(str(asked[-1].get("content") or "") if asked else "").split())
    return text if len(text) <= QUESTION_LENGTH else text[: QUESTION_LENGTH - 1] + "…"


def status_lines(status: Mapping[str, Any]) -> Iterator[str]:
    """A line per part, with whatever it tells about itself; what is null is left to `--json`."""
    for name, value in status.items():
        if isinstance(value, Mapping):
            yield printable(f"{name:<10} {' · '.join(_facts(value))}")
        elif value is not None:
            key, _, shown = _fact(name, value).partition(" ")
            yield printable(f"{key:<10} {shown}")


def _facts(values: Mapping[str, Any]) -> list[str]:
    return [_fact(name, value) for name, value in values.items() if value is not None]


def _fact(name: str, value: object) -> str:
    """`uptime 3.4 h`: a name without its unit, and the value with it."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if name.endswith("_s"):
            return f"{name.removesuffix('_s')} {_long_duration(value)}"
        if name.endswith("_bytes"):
            size = f"{value / 1e6:.1f} MB" if value >= 1e6 else f"{value / 1e3:.0f} kB"
            return f"{name.removesuffix('_bytes')} {size}"
        return f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
    if isinstance(value, bool):
        return f"{name} {'yes' if value else 'no'}"
    if isinstance(value, Mapping):
        return f"{name} {', '.join(_facts(value)) or 'none'}"
    return f"{name} {value}" if isinstance(value, str) else f"{name} {json.dumps(value)}"


def _long_duration(seconds: float) -> str:
    for unit_s, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.1f} {unit}"
    return f"{seconds:.1f} s"


def sent_line(sent: Mapping[str, Any]) -> str:
    """What an upload says when it is done, and that the destination answers again when it did not before."""
    size, since = f"{sent['bytes'] / 1e3:.0f} kB in {sent['batches']}", sent["was_down_since_utc"]
    line = f"sent {_streams(sent['rows'])} to {sent['destination']} ({size} batches)"
    return line + (f"; it answers again, after it did not since {_local_time(since)}" if since else "")


def preview_line(row: Mapping[str, Any]) -> str:
    """A row that would leave: where it is from, and all its texts on one line."""
    texts = [row.get(name) for name in ("messages", "options", "answer", "tool_calls", "rating", "comment")]
    shown = " | ".join(" ".join(str(text).split()) for text in texts if text)
    return printable(f"{row['table']} {row['seq']} {row['id'][:ID_LENGTH]} {shown}").rstrip()


def preview_sum(facts: Mapping[str, Any]) -> str:
    """How much would leave, and where to."""
    where = facts["destination"] or "nowhere: upload is off (sync.destination)"
    return f"would go: {_streams(facts['rows'])}, about {facts['bytes'] / 1e3:.0f} kB, to {where}; nothing was sent"


def forgotten_line(forgotten: Mapping[str, Any], destination: str | None) -> str:
    """What is gone here, and what will be elsewhere."""
    elsewhere = "; what has left before stays there until it is told: set sync.destination or use `logs sync --to`"
    if destination:
        elsewhere = f"; `edge-agent logs sync` says so to {destination}"
    line = f"{forgotten['exchanges']} exchanges are forgotten" + (elsewhere if forgotten["tombstones"] else "")
    return line if forgotten["erased"] else line + "; another program reads the log: end it, its file keeps the text"


def _streams(rows: Mapping[str, int]) -> str:
    """`12 exchanges, 1 feedback`; streams of which nothing is there are left out."""
    return ", ".join(f"{count} {name}" for name, count in rows.items() if count) or "nothing"


def model_lines(models: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """A line per model of the catalogue: name, size, whether it is here, licence, for whom it is."""
    return aligned(
        [
            (model["name"], f"{model['size_bytes'] / 1e6:.0f} MB", model["state"], model["licence"], model["note"])
            for model in models
        ],
        right={1},
    )


def bundle_lines(bundles: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """A line per installed router: star for the current one, version, threshold, encoder, what is special."""
    return aligned(
        [
            (
                "*" if bundle["current"] else " ",
                bundle["version"],
                "" if bundle["threshold"] is None else f"threshold {bundle['threshold']:.4g}",
                bundle["encoder"] or "",
                printable(bundle["problem"] or ("signed" if bundle["signed"] else "")),
            )
            for bundle in bundles
        ]
    )


def check_lines(checks: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """A line per check; below one that is not ok, what mends it."""
    for check in checks:
        yield printable(f"{check['ok']:<5} {check['name']:<16} {check['found']}")
        if check["fix"] and check["ok"] != "ok":
            yield printable(f"{'':<5} {'':<16} -> {check['fix']}")
