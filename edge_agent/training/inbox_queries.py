"""The inbox as queries to label: conversations rebuilt, people's ratings beside them. Reads only."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from edge_agent.training.inbox_rows import answer_of, messages_of, options_of, text_or_none
from edge_agent.types import Message

_PAGE = 200
"""Rows read at once: a reader that holds its lock for long would keep the receiver from writing."""

_ROWS = """
SELECT rowid, device_id, row FROM exchanges AS this WHERE has_text AND rowid > ?
AND NOT EXISTS (SELECT 1 FROM exchanges AS other WHERE other.id = this.id AND other.rowid < this.rowid)
ORDER BY rowid LIMIT ?
"""
"""A device that was renamed sends its exchanges again: each counts once."""

Read = Callable[[str, Sequence[Any]], Sequence[Sequence[Any]]]
"""Runs a query with its values; gives all rows."""


@dataclass(frozen=True, slots=True)
class InboxQuery:
    """One exchange as it can be asked again, and what became of it."""

    id: str
    """The exchange's."""
    device_id: str
    created_utc: str | None
    """By the device's clock."""
    messages: tuple[Message, ...]
    """The whole conversation up to the question, as far as it is here."""
    complete: bool
    """False when an earlier part of the conversation is not here: not received yet, or forgotten."""
    options: dict[str, Any]
    """As the client gave them, under OpenAI's names: max_tokens, temperature ..."""
    answer: str | None
    """What the user got; None when nobody answered."""
    route: str | None
    """Who answered: local or cloud."""
    model: str | None
    ratings: tuple[str, ...]
    """good or bad, in the order people gave them."""


def read_queries(read: Read) -> Iterator[InboxQuery]:
    """Each exchange with text once, in the order of arrival; rows that arrive meanwhile are read too."""
    last = 0
    while page := read(_ROWS, [last, _PAGE]):
        for _, device_id, text in page:
            yield _query(read, device_id, json.loads(text))
        last = page[-1][0]


def _query(read: Read, device_id: str, row: dict[str, Any]) -> InboxQuery:
    messages, complete = _conversation(read, device_id, row)
    return InboxQuery(
        id=row["id"],
        device_id=device_id,
        created_utc=text_or_none(row.get("created_utc")),
        messages=messages,
        complete=complete,
        options=options_of(row),
        answer=text_or_none(row.get("answer")),
        route=text_or_none(row.get("route")),
        model=text_or_none(row.get("model")),
        ratings=_ratings(read, row["id"]),
    )


def _conversation(read: Read, device_id: str, row: dict[str, Any]) -> tuple[tuple[Message, ...], bool]:
    """Parents hold what came before; `seen` ends a circle that no device of ours writes."""
    messages, seen = messages_of(row), {row["id"]}
    while parent_id := row.get("parent_id"):
        found = read("SELECT row FROM exchanges WHERE device_id = ? AND id = ?", [device_id, parent_id])
        if not found or parent_id in seen:
            return messages, False
        seen.add(parent_id)
        row = json.loads(found[0][0])
        messages = (*messages_of(row), answer_of(row), *messages)
    return messages, True


def _ratings(read: Read, exchange_id: str) -> tuple[str, ...]:
    query = "SELECT row FROM feedback WHERE exchange_id = ? GROUP BY id ORDER BY min(created_utc), min(seq)"
    return tuple(json.loads(text)["rating"] for (text,) in read(query, [exchange_id]))
