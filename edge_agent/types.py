"""The vocabulary: the values that travel between the rooms. No behaviour beyond building and copying."""

from __future__ import annotations

import os
import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Literal

Route = Literal["local", "cloud"]
"""Which model answers: the weak and the strong model of the papers."""

Wish = Literal["auto", "local", "cloud"]
"""What the client asked for in `model`."""


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    """system, user, assistant or tool."""
    content: str
    tool_calls: tuple[dict[str, Any], ...] = ()
    """OpenAI tool calls of an assistant message: {id, type, function: {name, arguments (JSON text)}}."""
    tool_call_id: str | None = None
    """For role tool: which call this answers."""
    name: str | None = None

    def to_openai(self) -> dict[str, Any]:
        """The message in OpenAI's chat format, without empty fields."""
        message: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            message["tool_calls"] = [dict(call) for call in self.tool_calls]
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        if self.name is not None:
            message["name"] = self.name
        return message


@dataclass(frozen=True, slots=True)
class Options:
    """Generation options; None means the model's default."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    stop: tuple[str, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: str | dict[str, Any] | None = None
    """none, auto, required or {type: function, function: {name}}."""
    response_format: dict[str, Any] | None = None
    """{type: json_object} or {type: json_schema, json_schema: {name, schema}}; None is plain text."""

    def to_openai(self) -> dict[str, Any]:
        """The options that were given, under OpenAI's names."""
        given = {name: getattr(self, name) for name in self.__dataclass_fields__}
        given["stop"], given["tools"] = list(self.stop) or None, [dict(tool) for tool in self.tools] or None
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Query:
    messages: tuple[Message, ...]
    options: Options = field(default_factory=Options)
    wish: Wish = "auto"
    private: bool = False
    """A private query never reaches the cloud, and its row holds no text."""
    conversation_id: str | None = None
    id: str = field(default_factory=lambda: new_id())
    created_utc: str = field(default_factory=lambda: utc_now())

    @property
    def text(self) -> str:
        """What the router scores: the last user message."""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), "")


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a router's heads say of one query, each in [0, 1]."""

    score: float
    """P(the cloud model does better)."""
    acceptable: float | None = None
    """P(the local answer is good enough); None when the bundle has no such head."""


@dataclass(frozen=True, slots=True)
class Decision:
    route: Route | None
    """Who answers; None when nobody may or can, and `reason` says why."""
    reason: str
    """One word of policy.REASONS."""
    score: float | None = None
    """Estimate that the cloud model does better, in [0, 1]; None when there was no score."""
    threshold: float | None = None
    """Escalate when score >= threshold."""
    router_version: str | None = None
    degraded: str | None = None
    """Why a worse answer than wished for was given (cloud_unavailable, cloud_rejected, ...); None when it was not."""
    acceptable: float | None = None
    """Estimate that the local answer is good enough, in [0, 1]; None when the router has no such head."""


@dataclass(frozen=True, slots=True)
class Chunk:
    text: str


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """Token-level uncertainty of one local answer, in nats."""

    mean_entropy: float
    max_entropy: float
    mean_logprob: float


@dataclass(frozen=True, slots=True)
class Completion:
    text: str
    model: str
    """The model that answered, as its maker names it."""
    finish_reason: str
    """stop, length, tool_calls, cancelled when the client left, or error when the answer broke off."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    first_token_ms: float | None = None
    duration_ms: float | None = None
    uncertainty: Uncertainty | None = None
    tool_calls: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class ShadowScore:
    """What a candidate router, which never decides, would have said of a query."""

    router_version: str
    score: float | None
    """None when it could not score this query."""
    threshold: float
    """What it would decide by, were it in use."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One query and how it ended: one row of the log."""

    query: Query
    decision: Decision
    completion: Completion | None = None
    error: str | None = None
    """The error's code when there was no complete answer."""
    router_ms: float | None = None
    duration_ms: float | None = None
    shadow: ShadowScore | None = None
    """None when there is no candidate, or the router in use did not score the query."""


def new_id() -> str:
    """A UUIDv7 as text: time order equals id order (RFC 9562, section 5.7)."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds & (1 << 48) - 1) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))


def utc_now() -> str:
    """The time as ISO 8601 with milliseconds, in UTC."""
    seconds, milliseconds = divmod(time.time_ns() // 1_000_000, 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{milliseconds:03d}Z"
