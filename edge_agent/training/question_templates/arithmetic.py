"""Sums, products and what follows from them, in figures. The answer is a number."""

from __future__ import annotations

from random import Random

from edge_agent.training.question_templates.family import Family, Made, at, digits

family = Family("arithmetic", "number")


@family.template()
def sum_of_two(rng: Random, level: int) -> Made:
    a, b = (digits(rng, at(level, 2, 4, 6)) for _ in range(2))
    return rng.choice(("What is {} + {}?", "Add {} and {}.", "Calculate {} + {}.")).format(a, b), a + b


@family.template()
def sum_of_many(rng: Random, level: int) -> Made:
    numbers = [rng.randint(2, at(level, 30, 99, 400)) for _ in range(level + 2)]
    return f"What is the sum of {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}?", sum(numbers)


@family.template()
def difference(rng: Random, level: int) -> Made:
    a, b = digits(rng, at(level, 2, 4, 6)), digits(rng, at(level, 2, 4, 5))
    return rng.choice((f"What is {a} - {b}?", f"Subtract {b} from {a}.")), a - b


@family.template()
def product(rng: Random, level: int) -> Made:
    a, b = digits(rng, at(level, 2, 2, 3)), digits(rng, at(level, 1, 2, 2))
    return rng.choice((f"What is {a} * {b}?", f"Multiply {a} by {b}.", f"What is {a} times {b}?")), a * b


@family.template()
def quotient(rng: Random, level: int) -> Made:
    a, b = digits(rng, at(level, 1, 2, 3)), digits(rng, at(level, 1, 1, 2))
    return rng.choice((f"What is {a * b} / {b}?", f"Divide {a * b} by {b}.")), a


@family.template()
def remainder(rng: Random, level: int) -> Made:
    a, b = digits(rng, at(level, 2, 2, 3)), rng.randint(3, at(level, 6, 12, 25))
    return f"What is the remainder when {a} is divided by {b}?", a % b


@family.template()
def order_of_operations(rng: Random, level: int) -> Made:
    a, b, c, d = (rng.randint(2, at(level, 9, 20, 60)) for _ in range(4))
    if level == 1:
        return f"What is {a} + {b} * {c}?", a + b * c
    return f"What is {a} + {b} * {c} - {d}?", a + b * c - d


@family.template()
def brackets(rng: Random, level: int) -> Made:
    a, b, c, d, e = (rng.randint(2, at(level, 9, 15, 30)) for _ in range(5))
    if level == 1:
        return f"Calculate ({a} + {b}) * {c}.", (a + b) * c
    return f"Calculate ({a} + {b}) * {c} - {d} * {e}.", (a + b) * c - d * e


@family.template()
def percentage(rng: Random, level: int) -> Made:
    share = rng.choice(at(level, (10, 50, 25), (5, 20, 30, 75), (12, 15, 35, 65)))
    whole = rng.randint(2, at(level, 12, 30, 60)) * 20
    return rng.choice(
        (f"What is {share} % of {whole}?", f"How much is {share} percent of {whole}?")
    ), share * whole / 100


@family.template()
def mean(rng: Random, level: int) -> Made:
    count = level + 2
    numbers = [rng.randint(3, at(level, 20, 60, 200)) for _ in range(count)]
    numbers[-1] += -sum(numbers) % count
    return f"What is the average of {', '.join(map(str, numbers))}?", sum(numbers) // count


@family.template()
def missing_operand(rng: Random, level: int) -> Made:
    a, x = rng.randint(3, at(level, 20, 90, 30)), rng.randint(3, at(level, 30, 300, 60))
    if level == 3:
        b = rng.randint(2, 40)
        return f"Which number x solves {a} * x + {b} = {a * x + b}?", x
    return rng.choice((f"Which number plus {a} gives {a + x}?", f"x + {a} = {a + x}. What is x?")), x


@family.template()
def power(rng: Random, level: int) -> Made:
    base, exponent = rng.randint(3, at(level, 12, 25, 9)), at(level, 2, 2, 4)
    return rng.choice((f"What is {base}^{exponent}?", f"What is {base} to the power of {exponent}?")), base**exponent


@family.template()
def decimal_sum(rng: Random, level: int) -> Made:
    a, b, c = (rng.randint(11, at(level, 99, 999, 9999)) for _ in range(3))
    if level == 1:
        return f"What is {a / 10} + {b / 10}?", (a + b) / 10
    return f"What is {a / 100} + {b / 100} - {c / 1000}?", (10 * a + 10 * b - c) / 1000


@family.template()
def fraction_of(rng: Random, level: int) -> Made:
    below = rng.randint(3, at(level, 4, 8, 12))
    above, unit = rng.randint(at(level, 1, 2, 3), below), rng.randint(3, at(level, 12, 30, 60))
    above = min(above, below - 1)
    return f"What is {above}/{below} of {below * unit}?", above * unit
