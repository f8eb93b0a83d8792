"""Questions with known answers, and a generator of our own ones. Asks no model, grades nothing, reads no file.

Own questions come from templates (question_templates/): the same seed gives the same questions, and splits go by
template, so that a model is never tested on the kind of question it was trained on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import count
from random import Random
from typing import Any, Literal
from zlib import crc32

from edge_agent.training.question_templates import TEMPLATES, Template

OWN = "own"
"""The data set's name of the questions generated here."""

Split = Literal["train", "dev", "test"]

LEVELS = (1, 2, 1, 3)
"""In turn: a small model is right on about half of the questions when every second one is easy."""

_ATTEMPTS = 40
"""Tries for a text that was not asked before; small templates (is 1900 a leap year?) run out of texts."""

_SPLIT_SALT = "1451"
"""Chosen so that every family has at least two templates in dev and two in test; a test holds it to that."""


@dataclass(frozen=True, slots=True)
class Question:
    dataset: str
    """`own`, or the name of a public set."""
    row: int | str
    """Line number in its file from 0, or the template's name."""
    task: str
    """What kind of work it is; it selects the prompt's format."""
    template: str
    """Questions of one template, or wordings of one public question, share it and never straddle splits."""
    text: str
    answers: tuple[str, ...]
    """Accepted forms."""
    grader: str
    """A name in grading.GRADERS."""
    difficulty: int
    """1 easy, 2 medium, 3 hard, by construction or by data set; not measured."""
    options: tuple[str, ...] = ()
    """The labels or choices, when the answer is one of them."""

    @property
    def sha256(self) -> str:
        """SHA-256 of the text: identifies a public question without repeating it."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def id(self) -> str:
        """The data set and the first 16 digits of the text's SHA-256: the same wherever the question is met."""
        return f"{self.dataset}-{self.sha256[:16]}"

    def to_row(self) -> dict[str, Any]:
        """All fields and the id, for JSON."""
        return {"id": self.id, **asdict(self)}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Question:
        """The question of a row that `to_row` wrote; other keys are ignored. :raises ValueError: for another text."""
        fields = {name: row[name] for name in cls.__dataclass_fields__ if name in row}
        question = cls(**fields | {"answers": tuple(row["answers"]), "options": tuple(row.get("options", ()))})
        if row.get("id", question.id) != question.id:
            raise ValueError(f"question {row['id']}: its text gives the id {question.id}; was the row changed by hand?")
        return question


def generate(n: int, seed: int = 0, *, templates: Sequence[Template] = TEMPLATES) -> list[Question]:
    """n different questions, spread evenly over templates and levels; those of a smaller n come first.

    :raises ValueError: when the templates have fewer different texts than that.
    """
    questions: dict[str, Question] = {}
    for made in _rounds(seed, templates):
        if len(questions) >= n:
            break
        if made is None:
            raise ValueError(f"expected {n} different questions, found {len(questions)}; ask for fewer")
        questions.setdefault(made.text, made)
    return list(questions.values())


def _rounds(seed: int, templates: Sequence[Template]) -> Iterator[Question | None]:
    """Questions, one of each template in a round; None once a whole round found no new text."""
    asked: set[str] = set()
    for i in count():
        before = len(asked)
        for template in templates:
            level = LEVELS[(i + crc32(template.name.encode())) % len(LEVELS)]  # each round has all levels
            if made := _new(template, level, f"{seed}/{template.name}/{i}", asked):
                asked.add(made.text)
                yield made
        if len(asked) == before:
            yield None


def _new(template: Template, level: int, seed: str, asked: set[str]) -> Question | None:
    rng = Random(seed)  # a seed of its own for each question: a new template changes no other one's questions
    for _ in range(_ATTEMPTS):
        text, answer = template.make(rng, level)
        if text not in asked:
            forms = tuple(answer) if isinstance(answer, tuple) else (written(answer),)
            return Question(
                OWN, template.name, template.task, template.name, text, forms, template.grader, level, template.options
            )
    return None


def written(answer: object) -> str:
    """An answer as an accepted form: 12, 3.5, 2024-03-05, ["a", "b"], {"device": "light"}."""
    if isinstance(answer, float):
        value = Fraction(answer).limit_denominator(10**6)
        return str(value) if value.denominator == 1 else f"{float(value):.10g}"
    return json.dumps(answer) if isinstance(answer, (list, dict)) else str(answer)


def split_of(question: Question) -> Split:
    """train (60 %), dev (20 %) or test (20 %), by a hash of the template; stable for ever."""
    return split_by(question.template)


def split_by(name: str) -> Split:
    """The split of all questions that share this name."""
    digest = hashlib.sha256(f"{_SPLIT_SALT}:{name}".encode()).digest()
    share = int.from_bytes(digest[:6], "big") / 2**48
    return "test" if share < 0.2 else "dev" if share < 0.4 else "train"
