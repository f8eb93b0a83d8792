"""Reads values out of answers: numbers, quantities, dates, times, lists, JSON. Knows no question, grades nothing.

Every reader takes an `Answer` and gives a value that compares with ==, or None when the answer holds none. When an
answer holds several values, the first one after the marker counts; without a marker the last one, since reasoning comes
first. Two different values joined by `or` are no value: a guess in two directions is not an answer.
"""

from __future__ import annotations

import ast
import json
import re
import unicodedata
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import date
from fractions import Fraction
from typing import Any, TypeVar

T = TypeVar("T", bound=Hashable)

MARKER = "####"
"""Stands before the result where the prompt's format asks for brief reasoning."""

_HEDGE = re.compile(r"\b(?:or|either)\b", re.IGNORECASE)
_NUMBER = re.compile(
    r"(?<![\w.])(?P<sign>-)?\s?[$€£]?\s?"
    r"(?:(?:(?P<whole>\d+)\s+)?(?P<above>\d+)\s?/\s?(?P<below>[1-9]\d*)(?![\d/])"
    r"|(?P<decimal>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:e[+-]?\d{1,2}\b)?|\.\d+))",
    re.IGNORECASE,
)
_WORDS = re.findall(
    r"\w+",
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen twenty",
)

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = r"(?P<name>jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_DATE = re.compile(
    r"(?<!\d)(?:(?P<y1>\d{4})[-/.](?P<m1>\d{1,2})[-/.](?P<d1>\d{1,2})"
    rf"|(?P<d2>\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?{_MONTH},?\s+(?P<y2>\d{{4}})"
    rf"|{_MONTH.replace('name', 'name3')}\s+(?P<d3>\d{{1,2}})(?:st|nd|rd|th)?,?\s+(?P<y3>\d{{4}})"
    r"|(?P<a>\d{1,2})(?P<mark>[./-])(?P<b>\d{1,2})(?P=mark)(?P<y4>\d{4}))(?!\d)",
    re.IGNORECASE,
)
_TIME = re.compile(r"(?<![\d:.])(\d{1,2})(?:[:.h](\d{2})(?::00)?)?\s*([ap]\.?m\b\.?)?(?![\d:])", re.IGNORECASE)

_LENGTH = {"mm": "1/1000", "cm": "1/100", "m": "1", "km": "1000"}
_UNITS: dict[str, tuple[str, Fraction, int]] = {
    name: (dimension, Fraction(scale), 0)
    for dimension, table in {
        "length": _LENGTH,
        "mass": {"mg": "1/1000", "g": "1", "kg": "1000", "t": "1000000"},
        "volume": {"ml": "1/1000", "cl": "1/100", "dl": "1/10", "l": "1"},
        "time": {"s": "1", "min": "60", "h": "3600", "d": "86400", "week": "604800"},
        "speed": {"m/s": "1", "km/h": "5/18"},
        "data": {"byte": "1/1000", "kb": "1", "mb": "1000", "gb": "1000000", "tb": "1000000000"},
    }.items()
    for name, scale in table.items()
} | {"°c": ("temperature", Fraction(1), 0), "°f": ("temperature", Fraction(5, 9), -32)}
_SPELLINGS = {
    spelling: unit
    for unit, spellings in {
        "mm": "millimeter millimetre", "cm": "centimeter centimetre", "m": "meter metre", "km": "kilometer kilometre",
        "mg": "milligram", "g": "gram", "kg": "kilogram kilo", "t": "tonne ton",
        "ml": "milliliter millilitre", "l": "liter litre",
        "s": "second sec", "min": "minute", "h": "hour hr", "d": "day", "km/h": "kmh kph",
        "°c": "c celsius °celsius degrees-celsius", "°f": "f fahrenheit °fahrenheit degrees-fahrenheit",
        "kb": "kilobyte", "mb": "megabyte", "gb": "gigabyte", "tb": "terabyte",
    }.items()
    for spelling in spellings.split()
}  # fmt: skip
_UNIT = re.compile(r"\s*((?:degrees? |°\s?)?[a-zµ]+(?:/[a-z]+)?)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    """What follows the last marker, or all of it."""
    marked: bool


def read_answer(text: str) -> Answer:
    """The part of an answer that states the result, in NFKC, with plain minus signs and quotes."""
    plain = unicodedata.normalize("NFKC", text).translate(_PLAIN)
    _, marker, tail = plain.rpartition(MARKER)
    return Answer(tail.strip(), bool(marker))


_PLAIN = str.maketrans({"−": "-", "–": "-", "⁄": "/", "“": '"', "”": '"', "‘": "'", "’": "'"})


def _stated(values: Sequence[T], answer: Answer) -> T | None:
    if not values or (len(set(values)) > 1 and _HEDGE.search(answer.text)):
        return None
    return values[0] if answer.marked else values[-1]


def number(answer: Answer) -> Fraction | None:
    """1,234 = 1234; 3.50 = 3.5 = 7/2; $12; 12 apples; twelve. Percent signs and units are ignored."""
    return _stated([_number(match) for match in _NUMBER.finditer(answer.text)] or _number_words(answer.text), answer)


def _number(match: re.Match[str]) -> Fraction:
    if match["above"]:
        value = Fraction(int(match["whole"] or 0)) + Fraction(int(match["above"]), int(match["below"]))
    else:
        value = Fraction(match["decimal"].replace(",", ""))
    return -value if match["sign"] else value


def _number_words(text: str) -> list[Fraction]:
    return [Fraction(_WORDS.index(word)) for word in re.findall(r"[a-z]+", text.casefold()) if word in _WORDS]


def quantity(answer: Answer, unit: str) -> Fraction | None:
    """The quantity in `unit`, whatever unit the answer has; without one, `unit`. 3 h 20 min is one quantity.

    None as well when the answer's unit measures something else.
    """
    found: list[Fraction | None] = []
    end = -1
    for match in _NUMBER.finditer(answer.text):
        named = _UNIT.match(answer.text, match.end())
        value = _converted(_number(match), unit_named(named[1]) if named else None, unit)
        joined = answer.text[end : match.start()] if end >= 0 else "x"
        if found and found[-1] is not None and value is not None and re.fullmatch(r"\s*(?:and|,)?\s*", joined):
            found[-1] += value
        else:
            found.append(value)
        end = named.end() if named and unit_named(named[1]) else -1
    return _stated(found, answer)


def unit_named(text: str) -> str | None:
    """The unit a word stands for, None for a word that is none."""
    word = re.sub(r"°\s", "°", text.casefold().strip())
    word = re.sub(r"^degrees?\s+", "degrees-", word)
    for form in (word, word.removesuffix("s")):
        if (name := _SPELLINGS.get(form, form)) in _UNITS:
            return name
    return None


def _converted(value: Fraction, given: str | None, wanted: str) -> Fraction | None:
    dimension, scale, shift = _UNITS[wanted]
    if given is None:
        return value
    given_dimension, given_scale, given_shift = _UNITS[given]
    if given_dimension != dimension:
        return None
    return (value + given_shift) * given_scale / scale - shift


def day(answer: Answer) -> date | None:
    """2024-03-05, 5 March 2024, March 5th, 2024, 05.03.2024, 3/14/2024, 14/3/2024, but not the ambiguous 3/5/2024."""
    days = [found for match in _DATE.finditer(answer.text) if (found := _day(match))]
    return _stated(days, answer)


def _day(match: re.Match[str]) -> date | None:
    part = match.groupdict()
    if part["y1"]:
        year, month, day = part["y1"], part["m1"], part["d1"]
    elif part["y2"] or part["y3"]:
        month = str(_MONTHS.index((part["name"] or part["name3"])[:3].casefold()) + 1)
        year, day = part["y2"] or part["y3"], part["d2"] or part["d3"]
    else:
        year, day, month = part["y4"], part["a"], part["b"]
        if part["mark"] != "." and int(month) > 12:
            day, month = month, day
        elif part["mark"] != "." and int(day) <= 12 and day != month:
            return None
    try:
        return date(int(year), int(month), int(day))
    except ValueError:
        return None


def minutes_of_day(answer: Answer) -> int | None:
    """14:05 = 2:05 pm = 2.05 p.m. = 14h05, as minutes since midnight; a bare hour needs am or pm."""
    found = []
    for match in _TIME.finditer(answer.text):
        hour, minute, half = int(match[1]), int(match[2] or 0), (match[3] or "").casefold()[:1]
        if (match[2] or half) and hour < (13 if half else 24) and minute < 60 and (hour or not half):
            found.append((hour % 12 + 12 * (half == "p") if half else hour) * 60 + minute)
    return _stated(found, answer)


def items(answer: Answer) -> tuple[str, ...] | None:
    """The items of a list, with or without brackets, quotes, bullets and a closing `and`; numbers by value."""
    text = answer.text
    if brackets := re.findall(r"[\[({]([^\[\](){}]*)[\])}]", text):
        text = brackets[-1]
    elif ":" in text:
        text = text.rpartition(":")[2]
    parts = re.split(r"\s*[,;\n]\s*(?:and\s+)?|\s+and\s+", text.strip().rstrip("."))
    plain = [re.sub(r"^(?:[-*•]|\d+[.)])\s+", "", part).strip(" \t'\"`") for part in parts]
    return tuple(_item(part) for part in plain if part) if text.strip() or brackets else None


def _item(text: str) -> str:
    match = _NUMBER.fullmatch(text)
    return str(_number(match)) if match else " ".join(text.casefold().split())


def json_value(answer: Answer) -> str | None:
    """The first JSON object or array of the answer in one canonical form; Python's notation is read too.

    Names of keys and texts compare without case, numbers by value (40 = "40" = "40 %"), keys with null count as absent,
    an array of objects has no order, and one of a single object is that object.
    """
    start = min((i for i in (answer.text.find("{"), answer.text.find("[")) if i >= 0), default=-1)
    if start < 0:
        return None
    try:
        value, _ = json.JSONDecoder().raw_decode(answer.text[start:])
    except ValueError:
        value = _python_value(answer.text[start:])
    return None if value is None else json.dumps(_canonical(value), sort_keys=True)


def _python_value(text: str) -> Any:
    end = max(text.rfind("}"), text.rfind("]")) + 1
    try:
        return ast.literal_eval(text[:end])
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key).casefold().strip(): _canonical(field) for key, field in value.items() if field is not None}
    if isinstance(value, (list, tuple, set)):
        members = [_canonical(member) for member in value]
        if members and all(isinstance(member, dict) for member in members):
            members.sort(key=lambda member: json.dumps(member, sort_keys=True))
            return members[0] if len(members) == 1 else members
        return members
    if isinstance(value, bool):
        return value
    text = " ".join(str(value).casefold().split())
    match = _NUMBER.fullmatch(re.sub(r"\s?%$", "", text))
    return f"={_number(match)}" if match else text
