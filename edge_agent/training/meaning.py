"""Which of a query's answers mean the same: greedy clustering, many queries at once. Runs no model itself.

Whether two answers mean the same is asked of an equivalence, by name: `entailment`, `value`, `exact`, `embedding`,
`judge` (equivalences.py, meaning_judge.py). Answers whose `key` is equal are never asked about; the rest goes in
rounds, and one round asks about pairs of all queries together, so that a model runs full batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from edge_agent.training.questions import Question


@dataclass(frozen=True, slots=True)
class Asked:
    """What the answers are answers to."""

    text: str
    """The question, as the models saw it."""
    question: Question | None = None
    """With its grader, where it comes from a set of gradable questions."""


@dataclass(frozen=True, slots=True)
class AnswerPair:
    """Two answers to one question; `a` is the first member of a cluster."""

    asked: Asked
    a: str
    b: str


@dataclass(frozen=True, slots=True)
class Answers:
    """One query's sampled answers."""

    asked: Asked
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Meanings:
    """One query's answers by meaning."""

    semantic_ids: tuple[int, ...]
    """Of each answer, numbered in order of appearance; all empty answers are one meaning."""
    insufficient: bool
    """Fewer than two answers say anything: their entropy means nothing."""


class Equivalence(Protocol):
    """Says which answers mean the same."""

    def key(self, asked: Asked, answer: str) -> str:
        """Answers of equal keys mean the same."""
        ...

    def same(self, pairs: Sequence[AnswerPair]) -> list[bool]:
        """Of each pair, whether its answers mean the same; their keys differ. The pairs are of any questions."""
        ...


@dataclass(slots=True)
class _Open:
    """One query while it is clustered: its different answers by index, and the id of each one's cluster."""

    asked: Asked
    texts: list[str]
    ids: list[int]
    waiting: list[int]

    @property
    def pairs(self) -> list[AnswerPair]:
        """The first answer that waits, which opens a cluster, with each of the others."""
        first, *others = self.waiting
        return [AnswerPair(self.asked, self.texts[first], self.texts[i]) for i in others]

    def settle(self, same: Sequence[bool]) -> None:
        """Closes the cluster that `pairs` asked about."""
        first, *others = self.waiting
        for i, joins in zip([first, *others], [True, *same], strict=True):
            if joins:
                self.ids[i] = first
        self.waiting = [i for i, joins in zip(others, same, strict=True) if not joins]


def cluster_many(queries: Sequence[Answers], equivalence: Equivalence) -> list[Meanings]:
    """What `semantic_entropy.cluster` gives for each query, with its comparisons asked in rounds for all of them.

    Round k opens every query's k-th cluster with its first answer that is in none, and asks which of the others join.
    """
    keys = [[_key(equivalence, query.asked, text) for text in query.texts] for query in queries]
    open_queries = [_opened(query, own) for query, own in zip(queries, keys, strict=True)]
    while waiting := [query for query in open_queries if query.waiting]:
        pairs = [query.pairs for query in waiting]
        verdicts = iter(equivalence.same([pair for own in pairs for pair in own]))
        for query, own in zip(waiting, pairs, strict=True):
            query.settle([next(verdicts) for _ in own])
    return [_meanings(query, own) for query, own in zip(open_queries, keys, strict=True)]


def _key(equivalence: Equivalence, asked: Asked, text: str) -> str:
    return equivalence.key(asked, text) or text if text.strip() else ""


def _opened(query: Answers, keys: Sequence[str]) -> _Open:
    texts = {key: text for key, text in reversed(list(zip(keys, query.texts, strict=True)))}  # the first of each key
    different = [texts[key] for key in dict.fromkeys(keys)]
    waiting = [i for i, text in enumerate(different) if text.strip()]
    return _Open(query.asked, different, list(range(len(different))), waiting)


def _meanings(query: _Open, keys: Sequence[str]) -> Meanings:
    clusters = dict(zip(dict.fromkeys(keys), query.ids, strict=True))
    numbers = {first: n for n, first in enumerate(dict.fromkeys(clusters[key] for key in keys))}
    return Meanings(tuple(numbers[clusters[key]] for key in keys), sum(key != "" for key in keys) < 2)
