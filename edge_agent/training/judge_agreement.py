"""How far a judge agrees with recorded grades, and whether it may be trusted. Pure numpy; asks nobody.

Grades are compared directly (Pearson, Spearman), and by which of two models they put first on a question and turn. Most
such pairs are ties, and one model mostly wins the others, so agreement is corrected for chance (Cohen's kappa).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from edge_agent.training.evaluation import Floats, bootstrap
from edge_agent.training.judge_protocols import Graded

Grades = Mapping[Graded, float]
Statistic = Callable[[Floats, Floats], float]

LEAST_KAPPA = 0.2
LEAST_SPEARMAN = 0.4
LEAST_PAIRS = 100
RULE = (
    f"the 95 % intervals of kappa and Spearman begin at {LEAST_KAPPA} and {LEAST_SPEARMAN} or above,"
    f" over at least {LEAST_PAIRS} pairs"
)
"""Above what counting words reaches, where the better of six judges of 7B to 32B agree with each other
(docs/judging.md)."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure and its 95 % interval over resampled questions; NaN where it has no value."""

    value: float
    low: float = float("nan")
    high: float = float("nan")

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of a judge's grades with recorded ones."""

    n: int
    """Grades compared."""
    pairs: int
    """Pairs of models compared, each on one question and turn."""
    pearson: Figure
    spearman: Figure
    same: Figure
    """Share of pairs with the same winner, ties among them."""
    kappa: Figure
    """The same, corrected for chance."""
    decided: Figure
    """Share of the same winner among the pairs where both name one."""

    @property
    def trusted(self) -> bool:
        """Whether RULE holds. A judge that always says the same never is: its figures have no value, or are 0."""
        return self.pairs >= LEAST_PAIRS and self.kappa.low >= LEAST_KAPPA and self.spearman.low >= LEAST_SPEARMAN


def agreement(judge: Grades, recorded: Grades, *, resamples: int = 1000, seed: int = 0) -> Agreement:
    """Of the grades both have given; whole questions are resampled for the intervals, none when `resamples` is 0."""
    common = sorted(judge.keys() & recorded.keys())
    own, other = (np.array([grades[what] for what in common], dtype=float) for grades in (judge, recorded))
    questions = np.array([what.question_id for what in common])
    first, second = _pairs(common)
    signs = np.sign(own[first] - own[second]), np.sign(other[first] - other[second])
    of_grades, of_pairs = _Resampled(questions, resamples, seed), _Resampled(questions[first], resamples, seed)
    return Agreement(
        len(common),
        len(first),
        of_grades.figure(pearson, own, other),
        of_grades.figure(spearman, own, other),
        of_pairs.figure(same, *signs),
        of_pairs.figure(kappa, *signs),
        of_pairs.figure(decided, *signs),
    )


def pearson(a: Floats, b: Floats) -> float:
    """Correlation; NaN when either is constant."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def spearman(a: Floats, b: Floats) -> float:
    """Correlation of ranks, equal values sharing the mean of theirs; NaN when either is constant."""
    return pearson(_ranks(a), _ranks(b))


def same(a: Floats, b: Floats) -> float:
    """Share of equal signs; NaN of nothing."""
    return float(np.mean(a == b)) if len(a) else float("nan")


def kappa(a: Floats, b: Floats) -> float:
    """Cohen's kappa over the signs -1, 0, 1: 0 is what chance gives, 1 is always the same.

    NaN where chance alone gives 1: both always say one and the same.
    """
    by_chance = sum(float(np.mean(a == sign) * np.mean(b == sign)) for sign in (-1, 0, 1)) if len(a) else 1.0
    return (same(a, b) - by_chance) / (1 - by_chance) if by_chance < 1 else float("nan")


def decided(a: Floats, b: Floats) -> float:
    """Share of equal signs where neither is a tie; NaN when there are none."""
    both = (a != 0) & (b != 0)
    return same(a[both], b[both])


class _Resampled:
    """Figures of rows that belong to questions; whole questions are resampled."""

    def __init__(self, questions: npt.NDArray[np.int_], resamples: int, seed: int):
        self._rows = [np.flatnonzero(questions == question) for question in np.unique(questions)]
        self._resamples, self._seed = resamples, seed

    def figure(self, of: Statistic, a: Floats, b: Floats) -> Figure:
        def metric(drawn: npt.NDArray[np.intp]) -> float:
            rows = np.concatenate([self._rows[i] for i in drawn])
            return of(a[rows], b[rows])

        if not self._resamples or not self._rows:
            return Figure(of(a, b))
        interval = bootstrap(metric, len(self._rows), resamples=self._resamples, seed=self._seed)
        return Figure(of(a, b), *interval)


def _pairs(graded: list[Graded]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Positions of the two grades of every pair of models on one question and turn."""
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for position, what in enumerate(graded):
        groups[what.question_id, what.turn].append(position)
    found = [pair for group in groups.values() for pair in combinations(group, 2)]
    both = np.array(found, dtype=np.intp).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def _ranks(values: Floats) -> Floats:
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[group]
