"""Reads a chat completion out of bytes, streamed (server-sent events) or whole. Does not know where they come from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from edge_agent.cloud_failure import Failure, of_error_object
from edge_agent.types import Completion

LINE_BYTES = 1 << 20
MODEL_CHARS = 256
TOOL_CALLS = 128
"""At most so many in an answer, and pieces of them in an event: nobody can leave while one event is taken in."""
FINISH_REASONS = {"stop", "length", "tool_calls", "content_filter"}


@dataclass
class Draft:
    """An answer as far as it has arrived."""

    model: str
    """The model asked for, until the cloud names the one that answers."""
    pieces: list[str] = field(default_factory=list)
    finish_reason: str | None = None
    """None until the cloud said why it ended: until then the answer is not whole."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    begun: bool = False
    """Whether anything that belongs to an answer has arrived."""
    calls: list[dict[str, Any]] = field(default_factory=list)
    """Tool calls as {index, id, name, arguments}, the arguments as a list of pieces."""

    def add(self, event: Any) -> str | None:
        """Takes in one decoded event; its text, "" for a piece of a tool call, None when it brings neither.

        :raises Failure: the event is an error, or not part of a chat completion.
        """
        try:
            if event.get("error") or event.get("object") == "error":
                raise of_error_object(event)
            if isinstance(name := event.get("model"), str) and name:
                self.model = name[:MODEL_CHARS]
            self._count(event.get("usage") or {})
            first = [choice for choice in event.get("choices") or () if not choice.get("index")]
            return self._choose(first[0]) if first else None
        except (AttributeError, TypeError, RecursionError) as error:
            raise _malformed() from error

    def completion(self, *, finish_reason: str | None, first_token_ms: float | None, duration_ms: float) -> Completion:
        """What the draft is when nothing more comes. `finish_reason` None: the cloud's own."""
        reason = finish_reason or self.finish_reason or "stop"
        return Completion(
            text="".join(self.pieces),
            model=self.model,
            finish_reason="tool_calls" if self.calls and reason == "stop" else reason,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            first_token_ms=first_token_ms,
            duration_ms=duration_ms,
            tool_calls=tuple(_tool_call(call, number) for number, call in enumerate(self.calls)),
        )

    def _count(self, usage: dict[str, Any]) -> None:
        if _is_count(count := usage.get("prompt_tokens")):
            self.input_tokens = count
        if _is_count(count := usage.get("completion_tokens")):
            self.output_tokens = count

    def _choose(self, choice: dict[str, Any]) -> str | None:
        self.begun = True
        whole = choice.get("message")  # sent by endpoints that ignore `stream`
        delta = whole or choice.get("delta") or {}
        if reason := choice.get("finish_reason") or (whole and "stop"):
            self.finish_reason = reason if reason in FINISH_REASONS else "stop"
        calls = delta.get("tool_calls") or []
        if len(calls) > TOOL_CALLS:
            raise _too_many()
        for call in calls:
            self._merge(call)
        text = _text(delta.get("content") or delta.get("refusal"))
        self.pieces.append(text)
        return text or ("" if calls else None)

    def _merge(self, delta: dict[str, Any]) -> None:
        """Adds a piece to its tool call. Some endpoints send no index, some give every call the same one: a new id
        always begins a new call."""
        index, id, function = delta.get("index"), _word(delta.get("id")), delta.get("function") or {}
        if index is not None and not _is_count(index):
            raise TypeError(type(index))
        same = [call for call in self.calls if index is None or call["index"] == index]
        if not same or (id and same[-1]["id"] not in ("", id)):
            if len(self.calls) == TOOL_CALLS:
                raise _too_many()
            same = [{"index": index, "id": "", "name": "", "arguments": []}]
            self.calls += same
        call, arguments = same[-1], function.get("arguments")
        call["id"] = call["id"] or id
        call["name"] = call["name"] or _word(function.get("name"))
        call["arguments"].append(json.dumps(arguments) if isinstance(arguments, dict) else _word(arguments))


def read(blocks: Iterable[bytes], draft: Draft) -> Iterator[str]:
    """The texts of an answer as its bytes arrive, gathered in `draft`; "" stands for a piece of a tool call.

    :raises Failure: the bytes are not a chat completion, hold an error, or end before the answer does.
    """
    seen = False
    try:
        for event in _events(blocks):
            seen = True
            if (text := draft.add(event)) is not None:
                yield text
    except _Done:
        return
    except Failure:
        if draft.finish_reason is None:  # else the answer was whole, only its epilogue is missing
            raise
    if draft.finish_reason is None:
        raise _malformed() if seen and not draft.begun else _cut()


class _Done(Exception):
    """The cloud said [DONE]."""


def _events(blocks: Iterable[bytes]) -> Iterator[Any]:
    lines = _lines(blocks)
    for line in lines:
        if line.lstrip().startswith(b"{"):  # a whole JSON body, not events
            line = b"".join((b"data:", line, *lines))
        name, _, value = line.partition(b":")
        if name == b"data":
            yield _decoded(value.strip(), whole=line.endswith(b"\n"))
        elif line.strip() and name not in (b"", b"event", b"id", b"retry"):
            raise _malformed()


def _lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines with their ends; only the very last may lack one."""
    rest = bytearray()
    for block in blocks:
        rest += block
        if b"\n" in block:
            *lines, rest = rest.split(b"\n")
            yield from (bytes(line) + b"\n" for line in lines)
        if len(rest) > LINE_BYTES:
            raise Failure(f"sent a line of more than {LINE_BYTES >> 20} MiB", unavailable=False)
    if rest:
        yield bytes(rest)


def _decoded(data: bytes, *, whole: bool) -> Any:
    if data == b"[DONE]":
        raise _Done
    try:
        return json.loads(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        raise (_malformed() if whole else _cut()) from None


def _text(content: Any) -> str:
    """Content as text: a string, or a list of parts of which the texts count."""
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content if part.get("type") == "text")
    return _word(content)


def _word(value: Any) -> str:
    """A text; "" when there is none."""
    if value is not None and not isinstance(value, str):
        raise TypeError(type(value))
    return value or ""


def _is_count(value: Any) -> bool:
    """Whether it is a number of tokens or things that a database column and a client can hold."""
    return type(value) is int and 0 <= value < 1 << 31


def _tool_call(call: dict[str, Any], number: int) -> dict[str, Any]:
    function = {"name": call["name"], "arguments": "".join(call["arguments"]) or "{}"}
    return {"id": call["id"] or f"call_{number}", "type": "function", "function": function}


def _malformed() -> Failure:
    summary = "answered 200 with something else than a chat completion; check that cloud.base_url ends as documented"
    return Failure(summary, unavailable=False)


def _too_many() -> Failure:
    return Failure(f"sent more than {TOOL_CALLS} tool calls", unavailable=False)


def _cut() -> Failure:
    return Failure("the answer broke off", unavailable=True)
