"""What a template and a family of templates are. Knows no question and no grader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")

Made = tuple[str, Any]
"""The text of a question and its answer: a text, number, date, list or JSON object, or a tuple of accepted texts."""

Maker = Callable[[Random, int], Made]


@dataclass(frozen=True, slots=True)
class Template:
    name: str
    """family.function: the name that splits go by."""
    task: str
    grader: str
    options: tuple[str, ...]
    """All labels the answer is one of, for the grader `label`."""
    make: Maker
    """(random generator, level from 1 to 3) -> (text, answer)."""


class Family:
    """The templates of one task."""

    def __init__(self, task: str, grader: str):
        self.task, self.grader = task, grader
        self.templates: list[Template] = []

    def template(self, grader: str = "", options: tuple[str, ...] = ()) -> Callable[[Maker], Maker]:
        """Adds the decorated function; without a grader it is the family's."""

        def add(make: Maker) -> Maker:
            name = f"{self.task}.{getattr(make, '__name__', '')}"
            self.templates.append(Template(name, self.task, grader or self.grader, options, make))
            return make

        return add


def at(level: int, *values: T) -> T:
    """The value for this level: the first one is for level 1."""
    return values[level - 1]


def digits(rng: Random, n: int) -> int:
    """A whole number of n digits."""
    return rng.randint(10 ** (n - 1) + (n == 1), 10**n - 1)
