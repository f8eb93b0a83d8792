"""Conversions and sums of quantities. The answer is a quantity, equal by value in whatever unit it is given."""

from __future__ import annotations

from random import Random

from edge_agent.training.question_templates.family import Family, Made, at
from edge_agent.training.question_templates.words import NAMES

family = Family("units", "quantity")

_LENGTHS = (("km", "m", 1000), ("m", "cm", 100), ("cm", "mm", 10))
_MASSES = (("kg", "g", 1000), ("t", "kg", 1000), ("g", "mg", 1000))


def _plain(value: float) -> str:
    return f"{round(value, 6):g}" if abs(value) < 1e5 else f"{round(value, 6):.10g}"


def _convert(rng: Random, level: int, table: tuple[tuple[str, str, int], ...]) -> Made:
    large, small, factor = rng.choice(table)
    value = rng.randint(2, 90) if level == 1 else rng.randint(11, 999) / at(level, 1, 10, 100)
    if level == 3:
        return f"Convert {_plain(value * 10)} {small} to {large}.", f"{_plain(value * 10 / factor)} {large}"
    asked = rng.choice(
        (f"How many {small} are {_plain(value)} {large}?", f"Convert {_plain(value)} {large} to {small}.")
    )
    return asked, f"{_plain(value * factor)} {small}"


@family.template()
def length(rng: Random, level: int) -> Made:
    return _convert(rng, level, _LENGTHS)


@family.template()
def mass(rng: Random, level: int) -> Made:
    return _convert(rng, level, _MASSES)


@family.template()
def volume(rng: Random, level: int) -> Made:
    glass = rng.choice((100, 150, 200, 250))
    if level == 1:
        litres = rng.randint(2, 30)
        return f"How many millilitres are {litres} litres?", f"{litres * 1000} ml"
    some = rng.randint(2, 9) + rng.choice((0, 0.5))
    if level == 2:
        return f"How many ml are {some} l and {glass} ml together?", f"{_plain(some * 1000 + glass)} ml"
    used = rng.randint(2, 9)
    text = f"From a canister of {some} l somebody fills {used} glasses of {glass} ml."
    return f"{text} How many ml are left?", f"{_plain(some * 1000 - used * glass)} ml"


@family.template()
def hours_to_minutes(rng: Random, level: int) -> Made:
    hours, minutes = rng.randint(1, at(level, 5, 9, 30)), rng.randint(1, 59)
    if level == 1:
        return f"How many minutes are {hours} hours and {minutes} minutes?", f"{hours * 60 + minutes} min"
    if level == 2:
        return f"How many seconds are {hours} minutes and {minutes} seconds?", f"{hours * 60 + minutes} s"
    return f"Write {hours * 60 + minutes} minutes as hours and minutes.", f"{hours} h {minutes} min"


@family.template()
def temperature(rng: Random, level: int) -> Made:
    celsius = rng.randint(0, 20) * 5 if level == 1 else rng.randint(-8, 40) * 5
    fahrenheit = celsius * 9 // 5 + 32
    if level == 3:
        return f"What is {fahrenheit} °F in °C?", f"{celsius} °C"
    return f"What is {celsius} °C in °F?", f"{fahrenheit} °F"


@family.template()
def days_and_weeks(rng: Random, level: int) -> Made:
    weeks, days = rng.randint(2, at(level, 9, 20, 6)), rng.randint(2, 6)
    if level == 1:
        return f"How many days are {weeks} weeks?", f"{weeks * 7} days"
    if level == 2:
        return f"How many days are {weeks} weeks and {days} days?", f"{weeks * 7 + days} days"
    return f"How many hours are {weeks} weeks and {days} days?", f"{(weeks * 7 + days) * 24} hours"


@family.template()
def lengths_added(rng: Random, level: int) -> Made:
    metres, centimetres, more = rng.randint(2, 40), rng.randint(5, 95), rng.randint(110, 990)
    if level == 1:
        return f"How many cm are {metres} m and {centimetres} cm?", f"{metres * 100 + centimetres} cm"
    if level == 2:
        text = f"A board of {metres} m is cut by {centimetres} cm."
        return f"{text} How many cm are left?", f"{metres * 100 - centimetres} cm"
    text = f"Three ropes of {metres} m, {more} cm and {centimetres * 10} mm are tied end to end."
    return f"{text} How many cm is that without the knots?", f"{metres * 100 + more + centimetres} cm"


@family.template()
def speed(rng: Random, level: int) -> Made:
    metres, n = rng.randint(2, 20), rng.randint(2, at(level, 9, 20, 30))
    if level == 1:
        return f"A belt moves {metres} m in one second. How many metres does it move in {n} s?", f"{metres * n} m"
    if level == 2:
        text = f"A walker covers {n * metres * 10} m in {n} minutes."
        return f"{text} How many metres is that in one hour?", f"{metres * 600} m"
    return f"What is {metres * 5} m/s in km/h?", f"{metres * 18} km/h"


@family.template()
def longest(rng: Random, level: int) -> Made:
    millimetres = rng.sample(range(200, 9000, 10), level + 1)
    shown = {rng.choice((f"{n} mm", f"{_plain(n / 10)} cm", f"{_plain(n / 1000)} m")): n for n in millimetres}
    answer = max(shown, key=lambda text: shown[text])
    return f"Which of these lengths is the longest: {', '.join(shown)}?", answer


@family.template()
def data_sizes(rng: Random, level: int) -> Made:
    size, n = rng.randint(2, at(level, 9, 40, 90)), rng.randint(3, 30)
    if level == 1:
        return f"How many MB are {size} GB, if 1 GB is 1000 MB?", f"{size * 1000} MB"
    if level == 2:
        text = f"A photo takes {size * 100} kB."
        return f"{text} How many MB do {n * 10} photos take, if 1 MB is 1000 kB?", f"{size * n} MB"
    name = rng.choice(NAMES)
    text = f"{name}'s card holds {size} GB and has {n * 100} MB used."
    return f"{text} How many MB are free, if 1 GB is 1000 MB?", f"{size * 1000 - n * 100} MB"
