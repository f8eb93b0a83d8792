"""Where a candidate router differs from the one in use, from rows of the log with both scores. Pure; reads nothing.

Only questions count that a router could send elsewhere: those that asked for no model by name, and that the local model
can answer at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.guarantees import clopper_pearson_upper
from edge_agent.policy import escalates

WIDEST = 0.2
"""An interval on the share of disagreement that is wider says too little to decide by."""
LOCAL_CANNOT = ("context_exceeded", "local_incapable", "local_unavailable")
COLUMNS = (
    "id", "wish", "route", "reason", "score", "threshold", "router_version", "shadow_score", "shadow_threshold",
    "shadow_router_version", "input_tokens", "output_tokens",
)  # fmt: skip
"""What is read of a row, and its last `rating`. No text: a log may be larger than the memory."""
CELLS = ("both local", "only the router", "only the candidate", "both cloud")
"""Who sends a question to the cloud."""

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Cell:
    """The questions about which the two decide in one of the four ways."""

    questions: int
    good: int
    bad: int
    """Questions whose last rating was thumbs-up, thumbs-down."""
    tokens_local: int
    tokens_cloud: int
    """Tokens read and written by the model that did answer."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One question about which the two decide differently."""

    id: str
    score: float
    threshold: float
    shadow_score: float
    shadow_threshold: float

    @property
    def size(self) -> float:
        """How far apart they are, each measured from its own threshold."""
        return abs((self.shadow_score - self.shadow_threshold) - (self.score - self.threshold))


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the log says about one pair of routers."""

    router_version: str
    shadow_router_version: str
    questions: int
    """Scored by both."""
    failed: int
    """The candidate could not score them."""
    other_pairs: int
    """Rows of other pairs of versions, which are not in here."""
    cloud_share: float
    shadow_cloud_share: float
    differ_share: float
    differ_share_95: tuple[float, float]
    """Interval on the share of questions about which they decide differently."""
    rank_correlation: float | None
    """Spearman's, ties by their mean rank; None when one of them gives all questions the same score."""
    cells: dict[str, Cell]
    """By CELLS."""
    differences: tuple[Difference, ...]
    """The largest first."""

    @property
    def enough(self) -> bool:
        """Whether there are enough questions to tell how often they differ."""
        low, high = self.differ_share_95
        return high - low <= WIDEST


def compare(rows: Iterable[Row]) -> Comparison | None:
    """The newest pair of versions in rows with COLUMNS, oldest first; None when nothing was scored by both."""
    given = [row for row in rows if row["shadow_router_version"] and _was_open(row)]
    scored = [row for row in given if row["shadow_score"] is not None]
    if not scored:
        return None
    pair = _pair(scored[-1])
    ours = [row for row in scored if _pair(row) == pair]
    cells = [cell_of(row) for row in ours]
    counts = Counter(cells)
    n_differ = counts[CELLS[1]] + counts[CELLS[2]]
    differ = [_difference(row) for row, cell in zip(ours, cells, strict=True) if cell in CELLS[1:3]]
    return Comparison(
        *pair,
        questions=len(ours),
        failed=sum(row["shadow_score"] is None and _pair(row) == pair for row in given),
        other_pairs=sum(_pair(row) != pair for row in given),
        cloud_share=(counts[CELLS[1]] + counts[CELLS[3]]) / len(ours),
        shadow_cloud_share=(counts[CELLS[2]] + counts[CELLS[3]]) / len(ours),
        differ_share=n_differ / len(ours),
        differ_share_95=share_95(n_differ, len(ours)),
        rank_correlation=rank_correlation([r["score"] for r in ours], [r["shadow_score"] for r in ours]),
        cells={name: _cell([row for row, cell in zip(ours, cells, strict=True) if cell == name]) for name in CELLS},
        differences=tuple(sorted(differ, key=lambda difference: -difference.size)),
    )


def _was_open(row: Row) -> bool:
    """Whether the score decides about such a question."""
    has_score = row["score"] is not None and row["threshold"] is not None
    return has_score and row["wish"] == "auto" and row["reason"] not in LOCAL_CANNOT


def cell_of(row: Row) -> str:
    """Which of CELLS a row belongs to: each router decides by the threshold that was in force."""
    router = escalates(row["score"], row["threshold"])
    return CELLS[2 * escalates(row["shadow_score"], row["shadow_threshold"]) + router]


def share_95(k: int, n: int) -> tuple[float, float]:
    """95 % interval of a share (Clopper and Pearson, 1934); honest for small n and shares near 0 and 1."""
    return 1.0 - clopper_pearson_upper(n - k, n, 0.025), clopper_pearson_upper(k, n, 0.025)


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rho; None when it is not defined."""
    ranks, others = _ranks(first), _ranks(second)
    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return float(np.corrcoef(ranks, others)[0, 1])


def _ranks(values: Sequence[float]) -> npt.NDArray[np.float64]:
    """Equal values share the mean of their ranks."""
    _, index, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    means: npt.NDArray[np.float64] = (last - (counts - 1) / 2.0)[index]
    return means


def _pair(row: Row) -> tuple[str, str]:
    return row["router_version"], row["shadow_router_version"]


def _cell(rows: Sequence[Row]) -> Cell:
    return Cell(
        len(rows),
        sum(row["rating"] == "good" for row in rows),
        sum(row["rating"] == "bad" for row in rows),
        *(sum(_tokens(row) for row in rows if row["route"] == route) for route in ("local", "cloud")),
    )


def _tokens(row: Row) -> int:
    return (row["input_tokens"] or 0) + (row["output_tokens"] or 0)


def _difference(row: Row) -> Difference:
    return Difference(row["id"], row["score"], row["threshold"], row["shadow_score"], row["shadow_threshold"])
