"""The same content in another form. The answer is exact text or JSON."""

from __future__ import annotations

from datetime import date, timedelta
from random import Random

from edge_agent.training.question_templates.family import Family, Made, at
from edge_agent.training.question_templates.words import CITIES, FRUITS, GOODS, MONTHS, NAMES, SURNAMES, WORDS

family = Family("formatting", "exact")


def _day(rng: Random) -> date:
    return date(1990, 1, 1) + timedelta(rng.randrange(365 * 50))


@family.template("date")
def iso_date(rng: Random, level: int) -> Made:
    day = _day(rng)
    name = MONTHS[day.month - 1]
    shown = at(level, f"{day.day} {name} {day.year}", f"{name} {day.day}, {day.year}", f"{day:%d.%m.}{day.year}")
    return f"Write this date as year-month-day: {shown}", day


@family.template()
def european_date(rng: Random, level: int) -> Made:
    day = _day(rng)
    shown = at(
        level,
        f"{day.day} {MONTHS[day.month - 1]} {day.year}",
        str(day),
        f"{day.month}/{day.day}/{day.year} (month first)",
    )
    return f"Write this date as DD.MM.YYYY: {shown}", f"{day.day:02d}.{day.month:02d}.{day.year}"


@family.template()
def surname_first(rng: Random, level: int) -> Made:
    first, last = [rng.choice(NAMES) for _ in range(level)], rng.choice(SURNAMES)
    if level == 2:
        return f"Write this name as initial and surname, like 'A. Bauer': {first[0]} {last}", f"{first[0][0]}. {last}"
    return f"Write this name as 'surname, first names': {' '.join(first)} {last}", f"{last}, {' '.join(first)}"


@family.template()
def snake_case(rng: Random, level: int) -> Made:
    words = rng.sample(WORDS, level + 1)
    shown = " ".join(words) if level < 3 else "".join(w.capitalize() for w in words)
    return f"Write this in snake_case: {shown}", "_".join(words)


@family.template()
def camel_case(rng: Random, level: int) -> Made:
    words = rng.sample(WORDS, level + 1)
    shown = at(level, " ".join(words), "_".join(words), "-".join(words).upper())
    return f"Write this in camelCase: {shown}", words[0] + "".join(w.capitalize() for w in words[1:])


@family.template()
def thousands(rng: Random, level: int) -> Made:
    n = rng.randint(10 ** (3 * level), 10 ** (3 * level + 2))
    return f"Write {n} with commas between the thousands.", f"{n:,}"


@family.template()
def two_decimals(rng: Random, level: int) -> Made:
    value = at(level, rng.randint(2, 99), rng.randint(11, 999) / 10, rng.randint(2001, 99999) / 1000)
    if level == 3 and round(value * 1000) % 10 == 5:
        value += 0.001  # 2.675 rounds up on paper and down in a computer
    return f"Write {value:g} with exactly two decimals.", f"{value:.2f}"


@family.template()
def padded(rng: Random, level: int) -> Made:
    n, width = rng.randint(1, at(level, 99, 999, 9999)), at(level, 4, 6, 8)
    return f"Pad the number {n} with leading zeros to {width} digits.", f"{n:0{width}d}"


@family.template("json")
def pairs_to_json(rng: Random, level: int) -> Made:
    fields = {
        "name": rng.choice(NAMES),
        "age": rng.randint(18, 90),
        "city": rng.choice(CITIES),
        "active": rng.random() < 0.5,
    }
    kept = dict(list(fields.items())[: level + 1])
    shown = "; ".join(
        f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in kept.items()
    )
    return f"Write this as a JSON object: {shown}", kept


@family.template("json")
def sentence_to_json(rng: Random, level: int) -> Made:
    fruits, counts = rng.sample(FRUITS, level + 1), rng.sample(range(2, 40), level + 1)
    shown = ", ".join(f"{n} {fruit}" for fruit, n in zip(fruits, counts, strict=True))
    return f"Write the counts as a JSON object, fruit to number: {shown}", dict(zip(fruits, counts, strict=True))


@family.template()
def csv_line(rng: Random, level: int) -> Made:
    name, good, price = rng.choice(NAMES), rng.choice(GOODS), rng.randint(3, 90)
    cells = [name, good, str(price), rng.choice(CITIES)][: level + 1]
    keys = ["customer", "item", "price", "city"]
    shown = ", ".join(f"{k} is {v}" for k, v in zip(keys, cells, strict=False))
    return f"Write only the values as one line, separated by semicolons, no spaces: {shown}", ";".join(cells)


@family.template()
def title_case(rng: Random, level: int) -> Made:
    words = rng.sample(WORDS, level + 1)
    shown = " ".join(words) if level < 3 else " ".join(words).upper()
    return f"Write every word with a capital first letter and the rest small: {shown}", " ".join(
        w.capitalize() for w in words
    )


@family.template()
def bullets(rng: Random, level: int) -> Made:
    items = rng.sample((*FRUITS, *GOODS), level + 1)
    return f"Write these as Markdown bullets, one a line, with '- ': {', '.join(items)}", "\n".join(
        f"- {i}" for i in items
    )
