"""How well scores tell answers that mean the same from others, beside cheap rivals. Trains no model and reads no file.

Three tasks: `reference` (an answer against the accepted ones, of which the best counts), `short` (those of them with at
most eight words, as sampled answers have), `answers` (two systems' answers to one question). Intervals resample
questions, since answers to one question stand or fall together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.training.answer_overlap import contained, normalised, overlap, token_f1, token_recall, words
from edge_agent.training.entailment_pairs import GradedAnswer, Judged, answer_pair_cases, reference_cases
from edge_agent.training.equivalences import FEATURES, Combination, EmbeddingEquivalence
from edge_agent.training.evaluation import auroc, bootstrap
from edge_agent.training.logistic import fit_logistic, platt
from edge_agent.training.meaning import AnswerPair, Asked

Floats = npt.NDArray[np.float64]
TASKS = ("reference", "short", "answers")
SHORT_WORDS = 8
COMBINATIONS = {"words, fitted": FEATURES[3:], "cross-encoder, fitted": FEATURES[:3], "both, fitted": FEATURES}
"""Features of the logistic regressions that are compared."""


@dataclass(frozen=True, slots=True)
class Cases:
    """Pairs of answers with verdicts; several pairs may be one case."""

    pairs: list[AnswerPair]
    first: npt.NDArray[np.intp]
    """Index of each case's first pair."""
    same: Floats
    """1 where the case's answers mean the same, shape (n_cases,)."""
    question: npt.NDArray[np.intp]
    """Number of each case's question."""

    def best(self, scores: npt.ArrayLike) -> Floats:
        """The highest score of each case's pairs."""
        return np.maximum.reduceat(np.asarray(scores, dtype=np.float64), self.first)


def cases_of(answers: Sequence[GradedAnswer]) -> dict[str, Cases]:
    """The cases of each task."""
    short = [answer for answer in answers if len(answer.text.split()) <= SHORT_WORDS]
    judged = reference_cases(answers), reference_cases(short), answer_pair_cases(answers)
    return {task: _cases(rows) for task, rows in zip(TASKS, judged, strict=True)}


def _cases(rows: Sequence[Judged]) -> Cases:
    _, first = np.unique([row.group for row in rows], return_index=True)
    numbers = {question: n for n, question in enumerate(dict.fromkeys(" ".join(words(r.question)) for r in rows))}
    return Cases(
        [AnswerPair(Asked(row.question), row.a, row.b) for row in rows],
        first,
        np.array([rows[i].same for i in first], dtype=np.float64),
        np.array([numbers[" ".join(words(rows[i].question))] for i in first], dtype=np.intp),
    )


def rivals(cases: Cases, embedding: EmbeddingEquivalence) -> dict[str, Floats]:
    """The scores of what needs no entailment model, one for each case."""
    parts = [(words(pair.a), words(pair.b)) for pair in cases.pairs]
    alone = [AnswerPair(Asked(""), pair.a, pair.b) for pair in cases.pairs]
    scores = {
        "exact match": [float(normalised(pair.a) == normalised(pair.b)) for pair in cases.pairs],
        "token F1": [token_f1(a, b) for a, b in parts],
        "token recall of a in b": [token_recall(a, b) for a, b in parts],
        "token recall of the shorter": [overlap(a, b) for a, b in parts],
        "containment": [float(contained(a, b)) for a, b in parts],
        "embedding cosine, with question": embedding.scores(cases.pairs),
        "embedding cosine, answers alone": embedding.scores(alone),
    }
    return {name: cases.best(values) for name, values in scores.items()}


def fit(tasks: Sequence[tuple[Cases, Floats]], features: Sequence[str], *, l2: float = 1.0) -> Combination:
    """A logistic regression on the first pair of each case; every task weighs the same.

    :param tasks: cases, and FEATURES of each of their pairs.
    """
    columns = [FEATURES.index(name) for name in features]
    rows = np.concatenate([values[cases.first][:, columns] for cases, values in tasks])
    same = np.concatenate([cases.same for cases, _ in tasks])
    weights = np.concatenate([np.full(len(cases.same), 1000 / len(cases.same)) for cases, _ in tasks])
    centre, scale = rows.mean(axis=0), rows.std(axis=0) + 1e-9
    theta = fit_logistic((rows - centre) / scale, same, weights, l2=l2, sources=["answers"] * len(rows)) / scale
    slope, offset = platt((rows - centre) @ theta, same, weights)
    bias = offset - slope * float(centre @ theta)
    return Combination(tuple(features), tuple(round(float(w), 5) for w in slope * theta), round(bias, 5), 0.5)


def best_threshold(scores: Floats, same: Floats, weights: Floats | None = None) -> float:
    """Between the two neighbouring scores where calling the upper ones the same is right most often.

    :param weights: of the cases; see `balanced`.
    """
    order = np.argsort(-scores, kind="stable")
    gains = (2 * same - 1) * (1 if weights is None else weights)
    ordered, hits = scores[order], np.concatenate([[0.0], np.cumsum(gains[order])])
    ends = np.concatenate([[0], np.flatnonzero(np.append(np.diff(ordered) != 0, True)) + 1])
    end = int(ends[np.argmax(hits[ends])])
    if end in (0, len(ordered)):
        return float(ordered[0] + 1e-6 if end == 0 else ordered[-1])
    return float((ordered[end - 1] + ordered[end]) / 2)


def balanced(same: Floats) -> Floats:
    """Weights that make both kinds of case, the same and not the same, weigh 1/2 together."""
    return np.where(same > 0.5, 0.5 / max(np.sum(same), 1), 0.5 / max(np.sum(1 - same), 1))


def figures(scores: Floats, cases: Cases, threshold: float, *, resamples: int = 1000) -> dict[str, Any]:
    """AUROC and accuracy of one method on one task, with 95 % intervals."""
    right = ((scores >= threshold) == (cases.same > 0.5)).astype(np.float64)
    rows, n = _rows_of_questions(cases)

    def area(questions: npt.NDArray[np.intp]) -> float:
        drawn = np.concatenate([rows[q] for q in questions])
        return auroc(scores[drawn], cases.same[drawn])

    def accuracy(questions: npt.NDArray[np.intp]) -> float:
        return float(np.mean(np.concatenate([right[rows[q]] for q in questions])))

    return {
        "auroc": round(auroc(scores, cases.same), 4),
        "auroc_95": _rounded(bootstrap(area, n, resamples=resamples)),
        "accuracy": round(float(right.mean()), 4),
        "accuracy_95": _rounded(bootstrap(accuracy, n, resamples=resamples)),
        "balanced_accuracy": round(float(np.sum(right * balanced(cases.same))), 4),
        "threshold": round(threshold, 4),
    }


def gain(scores: Floats, rival: Floats, cases: Cases, *, resamples: int = 1000) -> dict[str, Any]:
    """How much higher the AUROC is than a rival's, resampled together."""
    rows, n = _rows_of_questions(cases)

    def difference(questions: npt.NDArray[np.intp]) -> float:
        drawn = np.concatenate([rows[q] for q in questions])
        return auroc(scores[drawn], cases.same[drawn]) - auroc(rival[drawn], cases.same[drawn])

    interval = bootstrap(difference, n, resamples=resamples)
    return {"auroc": round(difference(np.arange(n)), 4), "auroc_95": _rounded(interval)}


def _rows_of_questions(cases: Cases) -> tuple[list[npt.NDArray[np.intp]], int]:
    order = np.argsort(cases.question, kind="stable")
    rows = np.split(order, np.flatnonzero(np.diff(cases.question[order])) + 1)
    return rows, len(rows)


def _rounded(interval: tuple[float, float]) -> list[float]:
    return [round(end, 4) for end in interval]
