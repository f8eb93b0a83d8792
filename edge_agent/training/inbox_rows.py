"""What a received row must have to be filed, and the columns it is found by. Pure; writes nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from edge_agent.log_batches import BatchHeader, Row
from edge_agent.types import Message


@dataclass(frozen=True, slots=True)
class Filed:
    values: dict[str, Any]
    """Column -> value; the device, its log and the time of arrival are added by who files it."""
    exchange_id: str
    """The exchange the row belongs to: once that is forgotten, so is the row."""


def filed_row(header: BatchHeader, row: Row) -> Filed | str:
    """The columns of a row of a batch, or the reason why it is no row of that table."""
    row_id, seq = row.get("id"), row.get("seq")
    if not is_id(row_id):
        return "id: expected a text"
    if type(seq) is not int or not header.after_seq < seq <= header.last_seq:
        return f"seq: expected an integer within {header.after_seq + 1}-{header.last_seq}, the batch's own range"
    if header.table == "forgotten":
        return Filed({"exchange_id": row_id, "seq": seq}, row_id)
    values = {"id": row_id, "seq": seq, "created_utc": text_or_none(row.get("created_utc")), "row": _json(row)}
    return _feedback(row, values) if header.table == "feedback" else _exchange(row, values)


def _feedback(row: Mapping[str, Any], values: dict[str, Any]) -> Filed | str:
    exchange_id = row.get("exchange_id")
    if not is_id(exchange_id):
        return "exchange_id: expected a text"
    if not isinstance(row.get("rating"), str):
        return "rating: expected a text"
    return Filed(values | {"exchange_id": exchange_id}, exchange_id)


def _exchange(row: Mapping[str, Any], values: dict[str, Any]) -> Filed | str:
    try:
        messages = messages_of(row)
        answer_of(row)
        options_of(row)
    except ValueError as error:
        return str(error)
    parent_id = row.get("parent_id") if is_id(row.get("parent_id")) else None
    return Filed(values | {"parent_id": parent_id, "has_text": int(bool(messages))}, values["id"])


def messages_of(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """The messages a row holds itself; () for a row without text. :raises ValueError: when it holds something else."""
    wrong = ValueError("messages: expected a JSON list of {role, content}")
    items = _decoded(row, "messages", wrong, default=[])
    if not isinstance(items, list):
        raise wrong
    return tuple(_message(item, wrong) for item in items)


def options_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The generation options of a row, under OpenAI's names. :raises ValueError: when it holds something else."""
    wrong = ValueError("options: expected a JSON object")
    options = _decoded(row, "options", wrong, default={})
    if not isinstance(options, dict):
        raise wrong
    return options


def answer_of(row: Mapping[str, Any]) -> Message:
    """A row's answer as a message. :raises ValueError: when its tool calls are something else."""
    wrong = ValueError("tool_calls: expected a JSON list of objects")
    return Message(
        "assistant", text_or_none(row.get("answer")) or "", _calls(_decoded(row, "tool_calls", wrong, []), wrong)
    )


def _message(item: Any, wrong: ValueError) -> Message:
    if not (isinstance(item, dict) and isinstance(item.get("role"), str) and isinstance(item.get("content"), str)):
        raise wrong
    calls = _calls(item.get("tool_calls") or [], wrong)
    return Message(
        item["role"], item["content"], calls, text_or_none(item.get("tool_call_id")), text_or_none(item.get("name"))
    )


def _calls(items: Any, wrong: ValueError) -> tuple[dict[str, Any], ...]:
    if not isinstance(items, list) or not all(isinstance(call, dict) for call in items):
        raise wrong
    return tuple(items)


def _decoded(row: Mapping[str, Any], name: str, wrong: ValueError, default: Any) -> Any:
    if row.get(name) is None:
        return default
    try:
        return json.loads(row[name])
    except (TypeError, ValueError, RecursionError) as error:
        raise wrong from error


def _json(row: Mapping[str, Any]) -> str:
    """Half of a surrogate pair cannot be stored; it becomes a question mark, as on the device."""
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "replace").decode()


def is_id(value: Any) -> TypeGuard[str]:
    """Whether the value can be the id of a row."""
    return isinstance(value, str) and value.isprintable() and value != ""


def text_or_none(value: Any) -> str | None:
    """The value if it is a text, made storable."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None
