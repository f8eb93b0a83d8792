"""Calendar and clock. Answers are dates, times, weekdays, months or numbers of days and minutes."""

from __future__ import annotations

import calendar
from datetime import date, timedelta
from random import Random

from edge_agent.training.question_templates.family import Family, Made, at
from edge_agent.training.question_templates.words import MONTHS, NAMES, WEEKDAYS

family = Family("dates", "date")


def _day(rng: Random) -> date:
    return date(2001, 1, 1) + timedelta(rng.randrange(365 * 35))


def _written(day: date) -> str:
    return f"{day.day} {MONTHS[day.month - 1]} {day.year}"


def _clock(minutes: int) -> str:
    return f"{minutes // 60 % 24:02d}:{minutes % 60:02d}"


@family.template()
def days_after(rng: Random, level: int) -> Made:
    start, n = _day(rng), rng.randint(1, at(level, 5, 20, 80))
    if level == 1:
        start = start.replace(day=rng.randint(1, 18))
    return f"What date is {n} days after {rng.choice((str(start), _written(start)))}?", start + timedelta(n)


@family.template()
def days_before(rng: Random, level: int) -> Made:
    start, n = _day(rng), rng.randint(1, at(level, 5, 20, 60))
    if level == 1:
        start = start.replace(day=rng.randint(12, 28))
    return f"What date is {n} days before {rng.choice((str(start), _written(start)))}?", start - timedelta(n)


@family.template("number")
def days_between(rng: Random, level: int) -> Made:
    start, n = _day(rng), rng.randint(3, at(level, 12, 28, 70))
    if level == 1:
        start = start.replace(day=rng.randint(1, 14))
    return f"How many days is it from {_written(start)} to {_written(start + timedelta(n))}?", n


@family.template("label", WEEKDAYS)
def weekday_after(rng: Random, level: int) -> Made:
    i, n = rng.randrange(7), rng.randint(*at(level, (1, 3), (4, 12), (13, 40)))
    return f"Today is {WEEKDAYS[i]}. Which weekday is it in {n} days?", WEEKDAYS[(i + n) % 7]


@family.template("label", WEEKDAYS)
def weekday_of_date(rng: Random, level: int) -> Made:
    known, n = _day(rng).replace(day=rng.randint(1, 7)), rng.randint(*at(level, (1, 3), (4, 10), (11, 21)))
    asked = known + timedelta(n)
    text = f"{_written(known)} is a {WEEKDAYS[known.weekday()]}."
    return f"{text} Which weekday is {_written(asked)}?", WEEKDAYS[asked.weekday()]


@family.template("label", MONTHS)
def month_after(rng: Random, level: int) -> Made:
    i, n = rng.randrange(12), rng.randint(*at(level, (1, 3), (3, 11), (12, 30)))
    back = level > 1 and rng.random() < 0.5
    text = f"Which month is {n} months {'before' if back else 'after'} {MONTHS[i]}?"
    return text, MONTHS[(i - n if back else i + n) % 12]


@family.template("time")
def end_time(rng: Random, level: int) -> Made:
    start, length = rng.randint(7 * 12, 22 * 12) * 5, rng.randint(3, at(level, 9, 25, 60)) * 5
    start -= start % 60 if level == 1 else 0
    what = rng.choice(("A film", "A meeting", "A lesson", "A concert"))
    long = f"{length} minutes" if level < 3 else f"{length // 60} h {length % 60} min"
    return f"{what} starts at {_clock(start)} and takes {long}. When does it end?", _clock(start + length)


@family.template("number")
def minutes_between(rng: Random, level: int) -> Made:
    start, length = rng.randint(6 * 60, 20 * 60), rng.randint(10, at(level, 50, 150, 400))
    if level == 1:
        start -= start % 60 - rng.randint(0, 9)
    return f"How many minutes is it from {_clock(start)} to {_clock(start + length)}?", length


@family.template("label", ("yes", "no"))
def leap_year(rng: Random, level: int) -> Made:
    year = rng.choice(at(level, range(2001, 2060), range(1804, 2000), (1700, 1800, 1900, 2000, 2100, 2200, 2300, 2400)))
    return f"Is {year} a leap year? Yes or no?", "yes" if calendar.isleap(year) else "no"


@family.template("number")
def days_in_month(rng: Random, level: int) -> Made:
    year, month = rng.randint(1990, 2040), rng.randint(1, 12)
    if level == 3:
        after = month % 12 + 1
        year += after == 1
        days = calendar.monthrange(year - (after == 1), month)[1] + calendar.monthrange(year, after)[1]
        return f"How many days do {MONTHS[month - 1]} and {MONTHS[after - 1]} {year} have together?", days
    asked = 2 if level == 2 else month
    return f"How many days does {MONTHS[asked - 1]} {year} have?", calendar.monthrange(year, asked)[1]


@family.template()
def earliest(rng: Random, level: int) -> Made:
    first = _day(rng)
    days = [first + timedelta(n) for n in rng.sample(range(at(level, 3000, 300, 40)), level + 2)]
    return f"Which of these dates is the earliest: {', '.join(map(_written, days))}?", min(days)


@family.template("number")
def age_on(rng: Random, level: int) -> Made:
    name, born, year = rng.choice(NAMES), _day(rng), rng.randint(2037, 2070)
    day = date(year, 12, 31) if level == 1 else _day(rng).replace(day=rng.randint(1, 28)).replace(year=year)
    age = day.year - born.year - ((day.month, day.day) < (born.month, born.day))
    return f"{name} was born on {_written(born)}. How old is {name} on {_written(day)}?", age


@family.template("time")
def twelve_to_twenty_four(rng: Random, level: int) -> Made:
    minutes = rng.randint(*at(level, (13 * 60, 20 * 60), (1, 23 * 60), (12 * 60, 13 * 60)))
    if level == 3 and rng.random() < 0.5:
        minutes -= 12 * 60
    shown = f"{(minutes // 60 + 11) % 12 + 1}:{minutes % 60:02d} {'am' if minutes < 720 else 'pm'}"
    return f"Write {shown} as a 24-hour time.", _clock(minutes)
