"""Past questions out of the log, as thresholds are chosen by them: scores, money, ratings. Chooses and writes nothing.

The threshold decides about a question that nobody pinned (private, or a model asked for by name), that has a score, and
that the local model could have answered. Ratings of local answers are the only labels a log has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timezone

import numpy as np
import numpy.typing as npt

from edge_agent.errors import ThresholdError
from edge_agent.log_reader import LogReader
from edge_agent.thresholds import Labelled, Traffic

Floats = npt.NDArray[np.float64]

_LOCAL_CANNOT = ("context_exceeded", "local_incapable", "local_unavailable")
_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class PastQuestion:
    """The columns of a log row that matter here."""

    created_utc: str
    wish: str
    route: str | None
    reason: str
    score: float | None
    acceptable: float | None
    router_version: str | None
    model: str | None
    input_tokens: int | None
    output_tokens: int | None
    rating: str | None
    """What people said last: good, bad or None."""

    @property
    def decided(self) -> bool:
        """Whether a threshold on its score could have sent it elsewhere."""
        return self.wish == "auto" and self.score is not None and self.reason not in _LOCAL_CANNOT


@dataclass(frozen=True, slots=True)
class Prices:
    """Of the cloud model, per million tokens, in any one currency."""

    input: float
    output: float


def read_past(log: LogReader, since_utc: str, until_utc: str) -> list[PastQuestion]:
    """The questions of a time that are not private, in the order of arrival. :raises LogError: without a log."""
    columns = [field.name for field in fields(PastQuestion) if field.name != "rating"]
    return [PastQuestion(**row) for row in log.with_ratings(columns, since_utc, until_utc)]


def of_router(past: Sequence[PastQuestion], version: str) -> tuple[list[PastQuestion], dict[str, int]]:
    """(questions without a score or with one of this router, {another version: how many were left out})."""
    others: dict[str, int] = {}
    kept = []
    for question in past:
        if question.score is None or question.router_version == version:
            kept.append(question)
        else:
            others[str(question.router_version)] = others.get(str(question.router_version), 0) + 1
    return kept, others


def traffic(past: Sequence[PastQuestion], prices: Prices | None, days: float) -> Traffic:
    """What a threshold would have decided about, and what the cloud would charge for each of it.

    :raises ThresholdError: when there is nothing.
    """
    decided = [question for question in past if question.decided]
    if not decided:
        why = "all private, asked for by name, or without a score" if past else "none at all"
        raise ThresholdError(
            f"the log holds no question that a threshold of this router decided about ({len(past)} questions: {why});"
            " ask some first, widen --since, or choose by a label set (--labels)"
        )
    scores = np.array([question.score for question in decided], dtype=np.float64)
    if prices is None:
        return Traffic(scores, None, days)
    fixed = [question for question in past if not question.decided and question.route == "cloud"]
    costs = _costs([*decided, *fixed], prices)
    return Traffic(scores, costs[: len(decided)], days, float(costs[len(decided) :].sum()))


def days_between(past: Sequence[PastQuestion], now: datetime) -> float:
    """From the first of these questions until now, at least one day."""
    first = min((question.created_utc for question in past), default=None)
    if first is None:
        return 1.0
    started = datetime.fromisoformat(first.replace("Z", "+00:00")).astimezone(timezone.utc)
    return max((now - started).total_seconds() / _DAY_S, 1.0)


def rated_local(past: Sequence[PastQuestion]) -> tuple[list[PastQuestion], int]:
    """(rated answers of the local model in use last, how many rated ones of earlier local models were left out)."""
    local = [question for question in past if question.route == "local" and question.model]
    newest = local[-1].model if local else None
    rated = [question for question in local if question.rating]
    return [question for question in rated if question.model == newest], sum(q.model != newest for q in rated)


def labelled(past: Sequence[PastQuestion]) -> Labelled:
    """Rated local answers with a score; the cloud's quality is the mean of its own ratings, 1 without any.

    :raises ThresholdError: without labels, or with labels of one kind.
    """
    rated = [question for question in rated_local(past)[0] if question.score is not None]
    local = _good(rated)
    cloud = _good([question for question in past if question.route == "cloud" and question.rating])
    check_both_kinds(local)
    scores = np.array([question.score for question in rated], dtype=np.float64)
    return Labelled(scores, local, np.full(len(local), cloud.mean() if len(cloud) else 1.0))


def accepted_or_wrong(past: Sequence[PastQuestion]) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """(`acceptable` of each rated local answer, whether it was rated bad).

    :raises ThresholdError: without labels, with labels of one kind, or when the router has no such head.
    """
    rated = rated_local(past)[0]
    known = [question for question in rated if question.acceptable is not None]
    if rated and not known:
        raise ThresholdError(
            f"none of the {len(rated)} rated local answers has an estimate `acceptable`: the router has no such head;"
            " take a router that has one, or promise nothing and use --quality"
        )
    good = _good(known)
    check_both_kinds(good)
    return np.array([question.acceptable for question in known], dtype=np.float64), good == 0


def check_both_kinds(local: Floats) -> None:
    """:raises ThresholdError: without labels of local answers, or when all say the same."""
    if not len(local):
        raise ThresholdError(
            "no local answer is labelled; rate some with `edge-agent feedback ID good` or `bad`, or name a label set"
            " with --labels"
        )
    if local.min() == local.max():
        found = "good" if local[0] else "bad"
        raise ThresholdError(
            f"all {len(local)} labelled local answers are {found}: nothing tells thresholds apart; rate others too, or"
            " name a label set with --labels"
        )


def _good(rated: Sequence[PastQuestion]) -> Floats:
    return np.array([question.rating == "good" for question in rated], dtype=np.float64)


def _costs(questions: Sequence[PastQuestion], prices: Prices) -> Floats:
    """Tokens that were not counted are taken to be as many as usual."""
    total = np.zeros(len(questions))
    for name, price in (("input_tokens", prices.input), ("output_tokens", prices.output)):
        counts = np.array([getattr(question, name) for question in questions], dtype=np.float64)  # None becomes NaN
        known = counts[~np.isnan(counts)]
        total += np.where(np.isnan(counts), known.mean() if len(known) else 0.0, counts) * price / 1e6
    return total
