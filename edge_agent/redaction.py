"""Takes what must not leave the device out of the texts of a row. Pure; decides nothing about which rows leave.

A rule is a name of RULES or a regular expression. The log itself keeps its text: its owner may read it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Any

from edge_agent.errors import ConfigError

Redact = Callable[[dict[str, Any]], dict[str, Any]]

RULES = {
    "email": r"[\w.%+-]{1,64}@[\w-]+(?:\.[\w-]+)+",  # unbounded, a long text without one takes the square of its length
    "phone": r"(?<![\w.])(?:(?:\+|00)[1-9][\d ()/.-]{6,20}\d|\(?0\d[\d ()/.-]{5,18}\d"
    r"|\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4})(?!\w)",
    "ip": r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.])|(?<![\w:])(?:[0-9a-fA-F]{0,4}:){2,7}[0-9a-fA-F]{1,4}(?![\w:])",
    "card": r"(?<![\w.])\d(?:[ -]?\d){12,18}(?!\w)",
}
"""Name -> what it finds, a card and an address only if they can be one. They find the usual notations, not all."""

_OWN_WORDS = {
    "id", "exchange_id", "created_utc", "parent_id", "wish", "route", "reason", "router_version", "degraded", "model",
    "finish_reason", "error", "rating", "shadow_router_version",
}  # fmt: skip
"""Columns that hold the program's words. All others are taken for text, also those of a later version."""
_JSON = {"messages", "options", "tool_calls"}


def redactor(rules: Sequence[str]) -> Redact:
    """A function that returns a row without what the rules find; `[EMAIL]`, `[REDACTED]` and so on stand there.

    :raises ConfigError: when a rule is neither a name nor a regular expression, or finds something in every text.
    """
    patterns = [(rule, _compiled(rule)) for rule in rules]

    def clean(text: str) -> str:
        for rule, pattern in patterns:
            text = pattern.sub(lambda found, rule=rule: _mark(rule, found[0]), text)  # type: ignore[misc]
        return text

    def redact(row: dict[str, Any]) -> dict[str, Any]:
        return {name: _clean_column(name, value, clean) for name, value in row.items()}

    return redact if patterns else lambda row: row


def _compiled(rule: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(RULES.get(rule, rule))
    except (re.error, OverflowError, RecursionError) as error:
        names = ", ".join(RULES)
        message = f"sync.redact: expected {names} or a regular expression, found {rule!r}: {error}"
        raise ConfigError(message) from error
    if pattern.search("") is not None:
        raise ConfigError(f"sync.redact: {rule!r} finds something in an empty text, so everywhere; make it narrower")
    return pattern


def _mark(rule: str, found: str) -> str:
    check = _CHECKS.get(rule)
    if check and not check(found):
        return found
    return f"[{rule.upper()}]" if rule in RULES else "[REDACTED]"


def _check_digit_is_right(text: str) -> bool:
    """Luhn: every second digit from the right counts twice, the digits of all are a multiple of 10."""
    digits = [int(c) for c in text if c.isdigit()][::-1]
    return sum(d if i % 2 == 0 else (2 * d - 9 if d > 4 else 2 * d) for i, d in enumerate(digits)) % 10 == 0


def _is_address(text: str) -> bool:
    """Not a time, and not `a::b`."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return any(c.isdigit() for c in text)


_CHECKS = {"card": _check_digit_is_right, "ip": _is_address}


def _clean_column(name: str, value: Any, clean: Callable[[str], str]) -> Any:
    if name in _OWN_WORDS or not isinstance(value, str):
        return value
    if name not in _JSON:
        return clean(value)
    try:
        return json.dumps(_clean_json(json.loads(value), clean), ensure_ascii=False)
    except (ValueError, RecursionError):
        return clean(value)


def _clean_json(value: Any, clean: Callable[[str], str]) -> Any:
    """Every text in it, the names of fields and JSON inside of a text (a tool call's arguments) included."""
    if isinstance(value, dict):
        return {clean(key): _clean_json(item, clean) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean_json(item, clean) for item in value]
    return clean(value) if isinstance(value, str) else value
