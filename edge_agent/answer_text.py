"""Bytes of generated tokens to the text a client sees. Knows UTF-8, stop strings and tool-call marks; no model."""

from __future__ import annotations

import codecs
import json
import re
import uuid
from collections.abc import Sequence
from typing import Any

TOOL_OPEN, TOOL_CLOSE = "<tool_call>", "</tool_call>"
"""The marks of Hermes and Qwen templates."""


class AnswerText:
    """Feeds on bytes, gives out text that can no longer be part of a stop string or of a tool call.

    `text` is all that was given out; `stopped` is set once a stop string came; `calls_text` is what followed a
    tool-call mark.
    """

    def __init__(self, stop: Sequence[str] = (), *, tools: bool = False):
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._tools = tools
        self._stop = tuple(stop)
        self._marks = self._stop + ((TOOL_OPEN,) if tools else ())
        self._held = ""
        self.text = ""
        self.calls_text = ""
        self.stopped = False

    def feed(self, data: bytes, final: bool = False) -> str:
        """Take in the next bytes; what may be shown now."""
        self._held += self._decoder.decode(data, final)
        if self.calls_text or self._begins_bare_call():
            self.calls_text, self._held = self.calls_text + self._held, ""
            return "" if self.calls_text.startswith(TOOL_OPEN) else self._cut_bare_call()
        at, mark = min(((self._held.find(m), m) for m in self._marks if m in self._held), default=(-1, ""))
        if at >= 0:
            shown, rest = self._held[:at], self._held[at:]
            self._held = ""
            if mark in self._stop:
                self.stopped = True
            else:
                self.calls_text = rest
        else:
            keep = 0 if final else self._partial()
            shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        self.text += shown
        return shown

    def _begins_bare_call(self) -> bool:
        """Small models leave the marks out."""
        return self._tools and not self.text.strip() and self._held.lstrip().startswith("{")

    def _cut_bare_call(self) -> str:
        """What may be shown of an object without marks: it was text when a stop string is in it."""
        at = min((self.calls_text.find(stop) for stop in self._stop if stop in self.calls_text), default=-1)
        if at < 0:
            return ""
        shown, self.calls_text, self.stopped = self.calls_text[:at], "", True
        self.text += shown
        return shown

    def _partial(self) -> int:
        """Length of the longest end of the held text that a stop string or mark may begin with."""
        longest = max((len(mark) - 1 for mark in self._marks), default=0)
        for n in range(min(longest, len(self._held)), 0, -1):
            if any(mark.startswith(self._held[-n:]) for mark in self._marks):
                return n
        return 0


def parse_tool_calls(text: str, names: Sequence[str]) -> tuple[dict[str, Any], ...]:
    """OpenAI tool calls from `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` blocks or one bare object.

    () unless all of it is calls of the functions named, with arguments that are JSON: neither NaN nor Infinity.
    """
    calls = []
    blocks = re.findall(rf"{TOOL_OPEN}\s*(.*?)\s*(?:{TOOL_CLOSE}|$)", text, flags=re.DOTALL) or [text]
    for block in blocks:
        try:
            call = json.loads(block)
            name, arguments = call["name"], call.get("arguments", call.get("parameters", {}))
            if not isinstance(arguments, str):
                arguments = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return ()
        if name not in names:
            return ()
        call_id = f"call_{uuid.uuid4().hex[:24]}"
        calls.append({"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}})
    return tuple(calls)
