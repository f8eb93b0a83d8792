"""Whole protocols: grades, pairs judged in both orders, shares of being among the best. Knows no server and no file.

MT-Bench's two (arXiv 2306.05685) and the one arXiv 2502.11021 uses for GSM8K. Many judges prefer what stands first, so
nothing is decided by one order alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from edge_agent.training.evaluation import Floats, bootstrap
from edge_agent.training.judge import Judge, Verdict
from edge_agent.training.judge_prompts import Pick, Turns, ask_best, ask_grade, ask_pick

Winner = Literal["A", "B", "tie"]
OnVerdicts = Callable[[int], object]
"""Called with how many more verdicts there are now."""
_MIRRORED: Mapping[Pick, Pick] = {"first": "second", "second": "first", "tie": "tie"}
_WINNERS: Mapping[Pick, Winner] = {"first": "A", "second": "B", "tie": "tie"}


class Graded(NamedTuple):
    """What a grade is about."""

    question_id: int
    turn: int
    """1 or 2."""
    model: str


@dataclass(frozen=True, slots=True)
class Answered:
    """A model's answers to one question."""

    question_id: int
    model: str
    task: Turns
    answers: tuple[str, ...]
    """One a turn."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two answers of one turn, judged in both orders."""

    question_id: int
    turn: int
    winner: Winner | None
    """The answer that won in both orders, else a tie; None when an order has no verdict."""
    seen: tuple[Pick | None, Pick | None]
    """The verdicts as the judge gave them: with A shown first, and with B shown first."""


@dataclass(frozen=True, slots=True)
class Contest:
    """One question, its true solution, and an answer of each system."""

    id: str
    question: str
    truth: str
    answers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Best:
    """The systems that were among the best of one contest, once for each order that has a verdict."""

    contest_id: str
    orders: tuple[frozenset[str], ...]


@dataclass(frozen=True, slots=True)
class Score:
    """Share of contests, in percent, in which a system was among the best, with its 95 % interval."""

    value: float
    low: float
    high: float


def grade(
    judge: Judge, answered: Sequence[Answered], on_verdicts: OnVerdicts = lambda n: None
) -> dict[Graded, Verdict[float]]:
    """A grade for every turn of every model. :raises CloudError: see `Judge.verdicts`."""
    wanted = {
        Graded(a.question_id, turn, a.model): ask_grade(a.task, a.answers, turn)
        for a in answered
        for turn in range(1, len(a.answers) + 1)
    }
    return dict(zip(wanted, judge.verdicts(list(wanted.values()), on_verdicts), strict=True))


def compare(
    judge: Judge,
    pairs: Sequence[tuple[Answered, Answered]],
    *,
    seed: int = 0,
    on_verdicts: OnVerdicts = lambda n: None,
) -> list[Comparison]:
    """Which of A and B is better, turn by turn: each is asked about in both orders, in an order the seed decides.

    :raises CloudError: see `Judge.verdicts`.
    """
    turns = [(a, b, turn) for a, b in pairs for turn in range(1, len(a.answers) + 1)]
    askings = [
        [ask_pick(a.task, a.answers, b.answers, turn), ask_pick(a.task, b.answers, a.answers, turn)]
        for a, b, turn in turns
    ]
    a_first = [random.Random(f"{seed} {a.question_id} {turn}").random() < 0.5 for a, _, turn in turns]
    asked = [asking for both, forward in zip(askings, a_first, strict=True) for asking in both[:: 1 if forward else -1]]
    verdicts = iter(judge.verdicts(asked, on_verdicts))
    results = []
    for (a, _, turn), forward in zip(turns, a_first, strict=True):
        both = (next(verdicts).value, next(verdicts).value)
        seen = both if forward else (both[1], both[0])
        results.append(Comparison(a.question_id, turn, winner_of(*seen), seen))
    return results


def winner_of(a_first: Pick | None, b_first: Pick | None) -> Winner | None:
    """Who won, from the verdict with A shown first and the one with B shown first: a win has to survive the swap."""
    if a_first is None or b_first is None:
        return None
    return _WINNERS[a_first] if a_first == _MIRRORED[b_first] else "tie"


def position_bias(comparisons: Sequence[Comparison]) -> float:
    """Share of comparisons in which the same place won both times; NaN when none has both verdicts."""
    both = [comparison.seen for comparison in comparisons if None not in comparison.seen]
    return float(np.mean([a == b != "tie" for a, b in both])) if both else float("nan")


def best_of(
    judge: Judge, contests: Sequence[Contest], *, seed: int = 0, on_verdicts: OnVerdicts = lambda n: None
) -> list[Best]:
    """Who is among the best of each contest: asked about in an order the seed decides, and in the reverse of it.

    Systems with the same answer share its verdict: it is shown once. Where all are the same, nobody is asked.

    :raises CloudError: see `Judge.verdicts`.
    """
    shown = [_orders(contest, seed) for contest in contests]
    asked = [
        ask_best(contest.question, contest.truth, order)
        for contest, orders in zip(contests, shown, strict=True)
        for order in orders
    ]
    verdicts = iter(judge.verdicts(asked, on_verdicts))
    results = []
    for contest, orders in zip(contests, shown, strict=True):
        found = tuple(
            frozenset(name for name, answer in contest.answers.items() if answer in {order[i] for i in positions})
            for order in orders
            if (positions := next(verdicts).value) is not None
        )
        results.append(Best(contest.id, found if orders else (frozenset(contest.answers),)))
    return results


def scores(best: Sequence[Best], names: Sequence[str], *, seed: int = 0) -> dict[str, Score]:
    """100 S / T for each system: T contests that have a verdict, S of them in which it is among the best.

    A contest whose two orders disagree counts half for a system that only one of them names. Ties count for all, so
    scores do not add up to 100. NaN when no contest has a verdict.
    """
    known = [one.orders for one in best if one.orders]
    if not known:
        return dict.fromkeys(names, Score(np.nan, np.nan, np.nan))
    results = {}
    for name in names:
        won = 100 * np.array([np.mean([name in order for order in orders]) for orders in known])
        results[name] = Score(float(np.mean(won)), *_interval(won, seed))
    return results


def askings_of(contests: Sequence[Contest]) -> int:
    """How many verdicts `best_of` needs."""
    return sum(len(_orders(contest, 0)) for contest in contests)


def _interval(values: Floats, seed: int) -> tuple[float, float]:
    return bootstrap(lambda rows: float(np.mean(values[rows])), len(values), seed=seed)


def _orders(contest: Contest, seed: int) -> list[list[str]]:
    """The different answers shuffled, and the reverse of that; nothing when there is but one."""
    different = sorted(set(contest.answers.values()))
    if len(different) < 2:
        return []
    random.Random(f"{seed} {contest.id}").shuffle(different)
    return [different, different[::-1]]
