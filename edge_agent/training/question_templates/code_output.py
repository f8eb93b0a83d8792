"""Short Python programs. The answer is what they print, found by running them here."""

from __future__ import annotations

import contextlib
import io
from random import Random

from edge_agent.training.question_templates.family import Family, Made, at
from edge_agent.training.question_templates.words import FRUITS, NAMES, WORDS

family = Family("code_output", "exact")


def printed(code: str) -> str:
    """What a program of ours prints, without the last line break."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "<template>", "exec"), {"__name__": "template"})  # written above, never a stranger's
    return out.getvalue().rstrip("\n")


def _asked(code: str) -> Made:
    return f"What does this Python code print?\n{code}", printed(code)


@family.template()
def arithmetic_operators(rng: Random, level: int) -> Made:
    a, b, c = rng.randint(7, at(level, 30, 90, 400)), rng.randint(2, 9), rng.randint(2, 9)
    return _asked(
        at(
            level,
            rng.choice((f"print({a} // {b})", f"print({a} * {b})", f"print({a} - {b} + {c})")),
            f"a = {a}\nb = {b}\nprint(a // b + a % b)",
            f"a = {a}\na -= {b}\na *= {c}\nprint(a % {b + 9}, a // {b})",
        )
    )


@family.template()
def slices(rng: Random, level: int) -> Made:
    word, i, j = rng.choice([w for w in WORDS if len(w) > 5]), rng.randint(0, 2), rng.randint(3, 5)
    return _asked(
        at(
            level,
            f"s = '{word}'\nprint(s[:{j}])",
            f"s = '{word}'\nprint(s[{i}:{j}])",
            f"s = '{word}'\nprint(s[-{j}:-{i + 1}])",
        )
    )


@family.template()
def loop_sum(rng: Random, level: int) -> Made:
    start, n, step = (
        rng.randint(0, at(level, 1, 5, 9)),
        rng.randint(3, at(level, 4, 5, 6)),
        at(level, 1, 1, rng.randint(2, 4)),
    )
    body = at(level, "total += i", f"total += i * {rng.randint(2, 5)}", f"total += i % {rng.randint(3, 5)}")
    return _asked(f"total = {start}\nfor i in range(1, {n * step + 1}, {step}):\n    {body}\nprint(total)")


@family.template()
def list_methods(rng: Random, level: int) -> Made:
    items, x = rng.sample(range(1, 40), level + 2), rng.randint(1, 50)
    lines = [f"x = {items}", f"x.append({x})"]
    lines += at(level, [], ["x.pop(0)"], ["x.sort()", "x.insert(1, 0)"])
    return _asked("\n".join([*lines, at(level, "print(x)", "print(x)", "print(x[1:4])")]))


@family.template()
def comprehension(rng: Random, level: int) -> Made:
    n, k = rng.randint(3, at(level, 5, 7, 10)), rng.randint(2, 5)
    return _asked(
        at(
            level,
            f"print([i * {k} for i in range({n})])",
            f"print([i + {k} for i in range({n}) if i % 2])",
            f"print(sum(i * i for i in range({n}) if i % {k}))",
        )
    )


@family.template()
def dictionaries(rng: Random, level: int) -> Made:
    keys, values = rng.sample(FRUITS, 3), rng.sample(range(1, 30), 3)
    shown = dict(zip(keys, values, strict=True))
    lines = [f"d = {shown}", f"d['{keys[level % 3]}'] += {rng.randint(2, 9)}"]
    end = at(
        level,
        f"print(d['{keys[1]}'])",
        "print(sum(d.values()))",
        f"print(d.get('{rng.choice(NAMES)}', len(d)) + d['{keys[0]}'])",
    )
    return _asked("\n".join([*lines, end]))


@family.template()
def branches(rng: Random, level: int) -> Made:
    x, low, high = rng.randint(1, 40), rng.randint(5, 15), rng.randint(16, 35)
    one, two, three = rng.sample(FRUITS, 3)
    test = at(level, f"x > {low}", f"x > {low} and x < {high}", f"x % {rng.randint(2, 4)} == 0 or not x > {high}")
    other = f"\nelif x == {x + rng.choice((0, 1))}:\n    print('{three}')" if level > 1 else ""
    return _asked(f"x = {x}\nif {test}:\n    print('{one}'){other}\nelse:\n    print('{two}')")


@family.template()
def while_loop(rng: Random, level: int) -> Made:
    n, step = rng.randint(10, at(level, 20, 30, 40)), rng.randint(4, 9)
    change = at(level, f"n -= {step}", f"n -= {step}\n    count += 1", "n //= 2\n    count += n % 2")
    shown = at(level, "n", "count", "count, n")
    bound = at(level, step, step, 1)
    return _asked(f"n = {n}\ncount = 0\nwhile n > {bound}:\n    {change}\nprint({shown})")


@family.template()
def functions(rng: Random, level: int) -> Made:
    a, b, x, y = (rng.randint(2, at(level, 9, 12, 6)) for _ in range(4))
    if level == 3:
        code = f"def f(n):\n    return {a} if n == 0 else f(n - 1) + n * {b}\nprint(f({rng.randint(3, 5)}))"
        return _asked(code)
    inner = at(level, f"f({x}, {y})", f"f(f({x}, 1), b={y})")
    return _asked(f"def f(a, b={b}):\n    return a * {a} - b\nprint({inner})")


@family.template()
def string_methods(rng: Random, level: int) -> Made:
    words, k = rng.sample(WORDS, level), rng.randint(2, 4)
    text = " ".join(words)
    call = at(
        level,
        rng.choice((".upper()", ".capitalize()", f" * {k}")),
        rng.choice((".title()", ".split()", ".replace(' ', '_')")),
        rng.choice((".split()[-1][0]", ".count('e')", ".find(' ')")),
    )
    return _asked(f"s = '{text}'\nprint(s{call})")


@family.template()
def formatted(rng: Random, level: int) -> Made:
    name, n, price = rng.choice(NAMES), rng.randint(2, 9), rng.randint(11, 99) / 10
    return _asked(
        at(
            level,
            f"name = '{name}'\nn = {n}\nprint(f'{{name}}: {{n + 1}}')",
            f"price = {price}\nprint(f'{{price:.2f}} for {n}')",
            f"n = {n}\nprint(f'{{n:03d}}|{{n * {price}:.1f}}')",
        )
    )


@family.template()
def nested_loops(rng: Random, level: int) -> Made:
    a, b = rng.randint(2, 3), rng.randint(2, 3)
    body = at(level, "total += 1", "total += i * j", f"if (i + j) % {rng.randint(2, 3)}:\n            total += i + j")
    size = at(level, 0, 1, 2)
    return _asked(
        f"total = 0\nfor i in range({a + size}):\n    for j in range({b + size}):\n        {body}\nprint(total)"
    )


@family.template()
def sets_and_lengths(rng: Random, level: int) -> Made:
    items = rng.choices(range(1, 7), k=level + 3)
    call = at(level, "len(set(x))", "max(x) - min(x)", "sorted(set(x))[-2:]")
    items[0] = 9
    return _asked(f"x = {items}\nprint({call})")
