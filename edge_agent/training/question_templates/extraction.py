"""Short notes, mails and tables, and one thing to find in them. The answer stands in the text."""

from __future__ import annotations

from datetime import date, timedelta
from random import Random

from edge_agent.training.question_templates.family import Family, Made, at
from edge_agent.training.question_templates.words import CITIES, GOODS, MONTHS, NAMES, STREETS, SURNAMES

family = Family("extraction", "short_answer")


def _person(rng: Random) -> str:
    return f"{rng.choice(NAMES)} {rng.choice(SURNAMES)}"


def _code(rng: Random) -> str:
    return f"{''.join(rng.choices('ABCDEFGHKLMNPRSTUVWXYZ', k=2))}-{rng.randint(1000, 9999)}"


def _phone(rng: Random) -> str:
    return f"0{rng.randint(20, 99)} {rng.randint(100, 999)} {rng.randint(1000, 9999)}"


def _day(rng: Random) -> date:
    return date(2019, 1, 1) + timedelta(rng.randrange(365 * 9))


def _written(day: date) -> str:
    return f"{day.day} {MONTHS[day.month - 1]} {day.year}"


def _text(rng: Random, level: int, sentences: list[str]) -> str:
    """One to all of the sentences, shuffled; the first one stays."""
    kept = sentences[: at(level, 2, 4, len(sentences))]
    rng.shuffle(kept)
    return " ".join(kept)


@family.template("exact")
def order_number(rng: Random, level: int) -> Made:
    order, invoice, customer, person = _code(rng), _code(rng), rng.randint(10000, 99999), _person(rng)
    facts = [f"The order {order} was packed this morning.", f"{person} signed for it.", f"The invoice is {invoice}."]
    facts += [f"The customer number is {customer}.", f"An earlier order, {_code(rng)}, was cancelled."]
    asked = "Which order was packed this morning?" if level == 3 else "What is the order number?"
    return f"{_text(rng, level, facts)}\n{asked}", order


@family.template("digits")
def phone_number(rng: Random, level: int) -> Made:
    first, second = rng.sample(NAMES, 2)
    number = _phone(rng)
    facts = [f"You can reach {first} at {number}.", f"{second} is away until Monday.", f"The office is {_phone(rng)}."]
    facts += [f"For emergencies dial {_phone(rng)}.", f"{second}'s new number is {_phone(rng)}."]
    return f"{_text(rng, level, facts)}\nWhat is {first}'s phone number?", number


@family.template("exact")
def mail_address(rng: Random, level: int) -> Made:
    (a, b, c), firm = rng.sample(NAMES, 3), rng.choice(GOODS)
    mails = [
        f"{name.lower()}.{rng.choice(SURNAMES).lower()}@{firm}-{rng.choice(CITIES).lower()}.example"
        for name in (a, b, c)
    ]
    facts = [f"{a} now writes from {mails[0]}.", f"{b} kept {mails[1]}.", f"Send bills to {mails[2]}."]
    facts += [f"{c} reads mail once a week.", f"The old address info@{firm}.example is closed."]
    return f"{_text(rng, level, facts)}\nWhat is {a}'s mail address?", mails[0]


@family.template("date")
def appointment(rng: Random, level: int) -> Made:
    day, person = _day(rng), _person(rng)
    facts = [f"The inspection is on {_written(day)}.", f"{person} will be there at 9:30."]
    facts += [f"The last one was on {_written(day - timedelta(rng.randint(200, 400)))}."]
    facts += [f"The report is due on {_written(day + timedelta(rng.randint(5, 30)))}.", "Bring the keys."]
    return f"{_text(rng, level, facts)}\nOn which date is the inspection?", day


@family.template("number")
def amount_due(rng: Random, level: int) -> Made:
    total, paid, fee = rng.randint(2000, 90000) / 100, rng.randint(10, 19), rng.randint(2, 9)
    facts = [f"The amount due is {total:.2f} euros.", f"A deposit of {paid} euros was paid in {rng.choice(MONTHS)}."]
    facts += [
        f"Late payment costs {fee} euros.",
        f"Invoice {_code(rng)}.",
        f"Last year it was {total - fee:.2f} euros.",
    ]
    return f"{_text(rng, level, facts)}\nWhat amount is due, in euros?", total


@family.template()
def who_lives_where(rng: Random, level: int) -> Made:
    names, cities = rng.sample(NAMES, level + 1), rng.sample(CITIES, level + 2)
    facts = [f"{name} lives in {city}." for name, city in zip(names, cities, strict=False)]
    if level == 3:
        facts[0] = f"{names[0]} left {cities[-1]} for {cities[0]} last year."
    rng.shuffle(facts)
    return f"{' '.join(facts)}\nIn which city does {names[0]} live now?", cities[0]


@family.template()
def who_did_it(rng: Random, level: int) -> Made:
    names, goods = rng.sample(NAMES, level + 1), rng.sample(GOODS, level + 1)
    verbs = rng.sample(("repaired", "sold", "painted", "borrowed", "found"), level + 1)
    facts = [f"{n} {v} the {g}." for n, v, g in zip(names, verbs, goods, strict=True)]
    if level > 1:
        facts[0] = f"The {goods[0]} was {verbs[0]} by {names[0]}."
    rng.shuffle(facts)
    return f"{' '.join(facts)}\nWho dealt with the {goods[0]}?", names[0]


@family.template("number")
def table_cell(rng: Random, level: int) -> Made:
    names, columns = rng.sample(NAMES, level + 2), rng.sample(("apples", "pears", "plums", "cherries"), level + 1)
    rows = [[rng.randint(2, 99) for _ in columns] for _ in names]
    table = "\n".join(" | ".join(map(str, (name, *row))) for name, row in zip(names, rows, strict=True))
    i, j = rng.randrange(len(names)), rng.randrange(len(columns))
    return f"name | {' | '.join(columns)}\n{table}\nHow many {columns[j]} does {names[i]} have?", rows[i][j]


@family.template()
def highest_price(rng: Random, level: int) -> Made:
    goods, prices = rng.sample(GOODS, level + 2), rng.sample(range(5, 95), level + 2)
    cheapest = level > 1 and rng.random() < 0.5
    facts = [f"The {g} costs {p} euros." for g, p in zip(goods, prices, strict=True)]
    wanted = prices.index(min(prices) if cheapest else max(prices))
    return f"{' '.join(facts)}\nWhich thing is the {'cheapest' if cheapest else 'most expensive'}?", goods[wanted]


@family.template("json")
def contact_as_json(rng: Random, level: int) -> Made:
    person, city, phone = _person(rng), rng.choice(CITIES), _phone(rng)
    fields = {"name": person, "city": city, "phone": phone}
    kept = dict(list(fields.items())[: max(2, level)])
    text = f"Hello, this is {person}. I moved to {city}" + (f"; my number is {phone}." if level == 3 else ".")
    return f"{text}\nGive {', '.join(kept)} as JSON.", kept


@family.template()
def street(rng: Random, level: int) -> Made:
    (one, other), number = rng.sample(STREETS, 2), rng.randint(2, 90)
    person, city = _person(rng), rng.choice(CITIES)
    facts = [f"{person} ordered to {number} {one} in {city}.", "The parcel is heavy."]
    facts += [
        f"The shop is at {rng.randint(2, 90)} {other}.",
        f"The driver starts in {rng.choice(CITIES)}.",
        "Ring twice.",
    ]
    return f"{_text(rng, level, facts)}\nWhat is the street and house number of the delivery?", f"{number} {one}"


@family.template("set")
def people_named(rng: Random, level: int) -> Made:
    names, goods, city = rng.sample(NAMES, level + 2), rng.choice(GOODS), rng.choice(CITIES)
    text = f"{', '.join(names[:-1])} and {names[-1]} met in {city} to look for a {goods}."
    if level == 3:
        text += f" {rng.choice(SURNAMES)} Street was closed, so they walked along the river."
    return f"{text}\nWhich people met?", names
