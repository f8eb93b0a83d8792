"""Short stories with one to three steps of arithmetic. The answer is a number."""

from __future__ import annotations

from random import Random

from edge_agent.training.question_templates.family import Family, Made, at
from edge_agent.training.question_templates.words import GOODS, NAMES, THINGS

family = Family("word_problem", "number")


@family.template()
def boxes_and_gifts(rng: Random, level: int) -> Made:
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    boxes, each, given = rng.randint(3, at(level, 6, 12, 24)), rng.randint(4, at(level, 10, 20, 45)), rng.randint(2, 11)
    loose = rng.randint(3, 40) if level == 3 else 0
    more = f" and {loose} loose ones" if loose else ""
    text = f"{name} has {boxes} boxes with {each} {thing} each{more} and gives away {given} {thing}."
    return f"{text} How many {thing} does {name} have left?", boxes * each + loose - given


@family.template()
def change_at_the_shop(rng: Random, level: int) -> Made:
    name, item, other = rng.choice(NAMES), *rng.sample(GOODS, 2)
    price, second, n = rng.randint(3, at(level, 20, 40, 60)), rng.randint(2, 25), rng.randint(2, 2 + level)
    cost = price * n + (second if level > 1 else 0)
    paid = cost + rng.randint(1, 40)
    also = f" and one {other} for {second} euros" if level > 1 else ""
    text = f"{name} buys {n} pieces of the same {item} for {price} euros each{also} and pays with {paid} euros."
    return f"{text} How many euros does {name} get back?", paid - cost


@family.template()
def shared_equally(rng: Random, level: int) -> Made:
    children, each, kept = rng.randint(3, at(level, 6, 9, 14)), rng.randint(4, at(level, 9, 15, 25)), rng.randint(2, 9)
    thing = rng.choice(THINGS)
    if level == 1:
        text = f"{children * each} {thing} are shared equally among {children} children."
    else:
        text = f"A teacher has {children * each + kept} {thing} and keeps {kept}. {children} children share the rest."
    return f"{text} How many {thing} does each child get?", each


@family.template()
def trip(rng: Random, level: int) -> Made:
    speed, hours = rng.randint(3, at(level, 9, 12, 18)) * 10, rng.randint(2, at(level, 5, 6, 8))
    if level == 3:
        slow, longer = rng.randint(2, 6) * 10, rng.randint(2, 4)
        text = f"A train runs {hours} hours at {speed} km/h and then {longer} hours at {slow} km/h."
        return f"{text} How many kilometres does it cover?", speed * hours + slow * longer
    if level == 2:
        return f"A van covers {speed * hours} km in {hours} hours. What is its average speed in km/h?", speed
    return f"A bus drives {speed} km/h for {hours} hours. How many kilometres does it drive?", speed * hours


@family.template()
def ages(rng: Random, level: int) -> Made:
    older, younger = rng.sample(NAMES, 2)
    age, gap, later = rng.randint(6, 30), rng.randint(2, 12), rng.randint(2, 15)
    if level == 1:
        return f"{younger} is {age} years old. {older} is {gap} years older. How old is {older}?", age + gap
    if level == 2:
        text = f"{younger} is {age} years old and {older} is {gap} years older."
        return f"{text} How old will {older} be in {later} years?", age + gap + later
    text = (
        f"{older} is twice as old as {younger}. In {later} years they will be {3 * age + 2 * later} years old together."
    )
    return f"{text} How old is {younger} now?", age


@family.template()
def discount(rng: Random, level: int) -> Made:
    price = rng.randint(2, at(level, 10, 20, 40)) * 20
    share, item = rng.choice(at(level, (10, 50), (20, 25, 30), (15, 35, 45))), rng.choice(GOODS)
    n = 1 if level < 3 else rng.randint(2, 4)
    what = f"A {item} costs {price} euros. Today everything is {share} percent cheaper."
    asked = f"What does the {item} cost today?" if n == 1 else f"What do {n} of them cost today?"
    return f"{what} {asked}", n * price * (100 - share) / 100


@family.template()
def recipe(rng: Random, level: int) -> Made:
    people, each = rng.randint(2, 6), rng.randint(3, at(level, 9, 15, 30)) * 5
    wanted = people * rng.randint(2, 4) if level == 1 else people + rng.randint(1, 2 + 2 * level)
    dish = rng.choice(("soup", "bread", "pancakes", "rice pudding"))
    text = f"A recipe for {dish} for {people} people needs {people * each} grams of flour."
    return f"{text} How many grams are needed for {wanted} people?", each * wanted


@family.template()
def savings(rng: Random, level: int) -> Made:
    name, weekly, spent = rng.choice(NAMES), rng.randint(3, at(level, 10, 20, 35)), rng.randint(5, 30)
    weeks, start = rng.randint(3, at(level, 6, 12, 20)), rng.randint(10, 90)
    if level == 1:
        return f"{name} saves {weekly} euros a week. How many euros are that after {weeks} weeks?", weekly * weeks
    if level == 2:
        text = f"{name} has {start} euros and saves {weekly} euros every week."
        return f"{text} How many euros does {name} have after {weeks} weeks?", start + weekly * weeks
    text = f"{name} has {start} euros, earns {weekly + spent} euros a week and spends {spent} euros a week."
    return f"{text} After how many weeks does {name} have {start + weekly * weeks} euros?", weeks


@family.template()
def passengers(rng: Random, level: int) -> Made:
    on_board, counts = rng.randint(15, at(level, 30, 60, 90)), []
    text, now = f"A tram starts with {on_board} passengers.", on_board
    for stop in ("first", "second", "third")[:level]:
        off, on = rng.randint(1, 9), rng.randint(1, 14)
        counts.append(on - off)
        text += f" At the {stop} stop {off} get off and {on} get on."
    return f"{text} How many passengers are on board now?", now + sum(counts)


@family.template()
def garden(rng: Random, level: int) -> Made:
    width, length = rng.randint(3, at(level, 9, 15, 30)), rng.randint(10, at(level, 15, 40, 60))
    if level == 1:
        return f"A garden is {length} m long and {width} m wide. How many square metres is that?", width * length
    if level == 2:
        text = f"A garden is {length} m long and {width} m wide."
        return f"{text} How many metres of fence go all the way around it?", 2 * (width + length)
    gate = rng.randint(2, 5)
    text = f"A fence goes around a field of {length} m by {width} m and leaves a gate of {gate} m open."
    return f"{text} One metre of fence costs 3 euros. What does the fence cost in euros?", 3 * (
        2 * (width + length) - gate
    )


@family.template()
def reading(rng: Random, level: int) -> Made:
    name, daily, days = rng.choice(NAMES), rng.randint(8, at(level, 20, 35, 50)), rng.randint(3, at(level, 6, 9, 14))
    left = rng.randint(15, 200)
    if level == 1:
        return f"{name} reads {daily} pages a day. How many pages does {name} read in {days} days?", daily * days
    if level == 2:
        text = f"A book has {daily * days + left} pages. {name} reads {daily} pages a day."
        return f"{text} How many pages are left after {days} days?", left
    text = f"{name} has read {left} pages of a book of {left + daily * days} pages and reads {daily} pages a day."
    return f"{text} How many days does the rest take?", days


@family.template()
def more_and_fewer(rng: Random, level: int) -> Made:
    first, second, third = rng.sample(NAMES, 3)
    thing, n = rng.choice(THINGS), rng.randint(20, at(level, 40, 90, 200))
    fewer, more = rng.randint(3, 15), rng.randint(3, 15)
    if level == 1:
        text = f"{first} has {n} {thing}. {second} has {fewer} fewer than {first}."
        return f"{text} How many {thing} does {second} have?", n - fewer
    text = f"{first} has {fewer} fewer {thing} than {second} and {more} more than {third}. {second} has {n} {thing}."
    if level == 2:
        return f"{text} How many {thing} does {third} have?", n - fewer - more
    return f"{text} How many {thing} do the three have together?", 3 * n - 2 * fewer - more


@family.template()
def two_kinds(rng: Random, level: int) -> Made:
    one, other = rng.sample(THINGS, 2)
    a, b = rng.randint(2, at(level, 9, 15, 25)), rng.randint(2, at(level, 9, 15, 25))
    x, y = rng.randint(2, 9), rng.randint(2, 9)
    name = rng.choice(NAMES)
    text = f"{name} packs {a} bags with {x} {one} each and {b} bags with {y} {other} each."
    if level == 1:
        return f"{text} How many {one} does {name} pack?", a * x
    if level == 2:
        return f"{text} How many things are packed in all?", a * x + b * y
    text = (
        f"{name} packs {a} bags with {x + 9} {one} each and takes {b} {one} out again. {y} bags hold {b} {other} each."
    )
    return f"{text} How many things are packed in all?", a * (x + 9) - b + y * b
