"""Lists of numbers and words: sort, filter, count, pick. The answer is a list, a number or a word."""

from __future__ import annotations

from random import Random

from edge_agent.training.question_templates.family import Family, Made, at
from edge_agent.training.question_templates.words import ANIMALS, FRUITS, NAMES, WORDS

family = Family("lists", "list")


def _numbers(rng: Random, level: int, *, most: int = 0) -> list[int]:
    return rng.sample(range(1, most or at(level, 30, 100, 400)), at(level, 3, 4, 6))


def _words(rng: Random, level: int) -> list[str]:
    return rng.sample(rng.choice((ANIMALS, FRUITS, WORDS, NAMES)), at(level, 3, 4, 6))


def _shown(items: list[int] | list[str]) -> str:
    return ", ".join(map(str, items))


@family.template()
def sort_numbers(rng: Random, level: int) -> Made:
    numbers, down = _numbers(rng, level), level > 1 and rng.random() < 0.5
    order = "from largest to smallest" if down else "from smallest to largest"
    return f"Sort these numbers {order}: {_shown(numbers)}", sorted(numbers, reverse=down)


@family.template()
def alphabetical(rng: Random, level: int) -> Made:
    words = _words(rng, level)
    return f"Put these words in alphabetical order: {_shown(words)}", sorted(words, key=str.casefold)


@family.template()
def reverse_order(rng: Random, level: int) -> Made:
    items = rng.choice((_numbers(rng, level), _words(rng, level)))
    return f"Write this list in reverse order: {_shown(items)}", items[::-1]


@family.template()
def even_or_odd(rng: Random, level: int) -> Made:
    numbers = _numbers(rng, level)
    odd = rng.choice(numbers) % 2
    wanted = [n for n in numbers if n % 2 == odd]
    return f"Keep only the {'odd' if odd else 'even'} numbers, in the given order: {_shown(numbers)}", wanted


@family.template()
def larger_than(rng: Random, level: int) -> Made:
    numbers = _numbers(rng, level)
    bound = sorted(numbers)[len(numbers) // 2] + rng.choice((0, 1))
    return f"Which of these numbers are larger than {bound}? Keep the order: {_shown(numbers)}", [
        n for n in numbers if n > bound
    ]


@family.template()
def without_repeats(rng: Random, level: int) -> Made:
    pool = _words(rng, level)[: level + 2]
    items = [*pool, *rng.choices(pool, k=level + 1)]
    rng.shuffle(items)
    return f"Remove the repeats and keep the first of each, in order: {_shown(items)}", list(dict.fromkeys(items))


@family.template("set")
def in_both(rng: Random, level: int) -> Made:
    pool = rng.sample(range(1, 60), 2 * level + 4) if rng.random() < 0.5 else rng.sample(WORDS, 2 * level + 4)
    shared, rest = pool[: level + 1], pool[level + 1 :]
    half = len(rest) // 2
    one, other = [*shared, *rest[:half]], [*shared, *rest[half:]]
    rng.shuffle(one)
    rng.shuffle(other)
    return f"Which items are in both lists? A: {_shown(one)}. B: {_shown(other)}.", shared


@family.template()
def remove_item(rng: Random, level: int) -> Made:
    words = _words(rng, level)
    gone = rng.sample(words, at(level, 1, 1, 2))
    return f"Remove {' and '.join(gone)} from this list: {_shown(words)}", [w for w in words if w not in gone]


@family.template("number")
def second_largest(rng: Random, level: int) -> Made:
    numbers = _numbers(rng, level)
    if level == 3:
        return f"What is the third smallest of these numbers: {_shown(numbers)}?", sorted(numbers)[2]
    rank, name = at(level, (-1, "largest"), (-2, "second largest"), (0, ""))
    return f"What is the {name} of these numbers: {_shown(numbers)}?", sorted(numbers)[rank]


@family.template("exact")
def nth_item(rng: Random, level: int) -> Made:
    words = _words(rng, level)
    i = rng.randrange(1, len(words) - 1)
    name = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")[i]
    if level == 3:
        return f"Which word comes right before {words[i + 1]} in this list: {_shown(words)}?", words[i]
    return f"Which is the {name} item of this list: {_shown(words)}?", words[i]


@family.template("number")
def how_often(rng: Random, level: int) -> Made:
    pool = rng.sample(rng.choice((FRUITS, ANIMALS)), 3)
    items = [*pool, *rng.choices(pool, k=at(level, 2, 4, 7))]
    rng.shuffle(items)
    return f"How often does {pool[0]} occur in this list: {_shown(items)}?", items.count(pool[0])


@family.template("number")
def list_length(rng: Random, level: int) -> Made:
    items = rng.sample(rng.choice((WORDS, NAMES)), rng.randint(3, at(level, 5, 8, 12)))
    return f"How many items are in this list: {_shown(items)}?", len(items)


@family.template()
def add_to_each(rng: Random, level: int) -> Made:
    numbers, n = _numbers(rng, level)[: level + 2], rng.randint(2, at(level, 5, 15, 40))
    if level == 3:
        n = rng.randint(2, 6)
        return f"Multiply each of these numbers by {n}: {_shown(numbers)}", [x * n for x in numbers]
    return f"Add {n} to each of these numbers: {_shown(numbers)}", [x + n for x in numbers]
