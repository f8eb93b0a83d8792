"""Two routers and the same questions: where they part, told from rows of a log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_agent import comparison_lines
from edge_agent.log_reader import LogReader
from edge_agent.redaction import redactor
from edge_agent.router_comparison import CELLS, COLUMNS, Comparison, compare, rank_correlation, share_95
from edge_agent.types import Completion, Decision, Exchange, Message, Query, ShadowScore
from tests.log_rows import rate, write_log


def row(score: float, shadow: float | None, **columns: Any) -> dict[str, Any]:
    """A row of a question that both scored; both decide at 0.5."""
    route = "cloud" if score >= 0.5 else "local"
    own = {"id": "x", "wish": "auto", "reason": "below_threshold", "rating": None}
    tokens = {"route": route, "input_tokens": 10, "output_tokens": 5}
    routers = {"router_version": "old", "shadow_router_version": "new", "threshold": 0.5, "shadow_threshold": 0.5}
    return own | tokens | routers | {"score": score, "shadow_score": shadow} | columns


def compared(*rows: dict[str, Any]) -> Comparison:
    comparison = compare(rows)
    assert comparison is not None
    return comparison


def counts(comparison: Comparison) -> dict[str, int]:
    return {name: cell.questions for name, cell in comparison.cells.items()}


def test_the_four_ways_to_decide_are_counted_with_ratings_and_tokens() -> None:
    rows = [row(0.1, 0.2), row(0.1, 0.9, rating="bad"), row(0.1, 0.8, rating="good"), row(0.9, 0.2), row(0.9, 0.9)]
    found = compared(*rows)
    assert counts(found) == dict(zip(CELLS, (1, 1, 2, 1), strict=True))
    cell = found.cells["only the candidate"]
    assert (cell.good, cell.bad, cell.tokens_local, cell.tokens_cloud) == (1, 1, 30, 0)
    assert found.cells["only the router"].tokens_cloud == 15
    assert (found.cloud_share, found.shadow_cloud_share, found.differ_share) == (0.4, 0.6, 0.6)


def test_each_decides_by_the_threshold_that_was_in_force() -> None:
    found = compared(row(0.4, 0.4, threshold=0.3), row(0.4, 0.4, shadow_threshold=0.4), row(0.4, 0.4))
    assert counts(found) == dict(zip(CELLS, (1, 1, 1, 0), strict=True))


@pytest.mark.parametrize(
    "columns",
    [
        {"wish": "cloud", "reason": "asked_cloud"},
        {"wish": "local", "reason": "asked_local"},
        {"reason": "context_exceeded"},
        {"reason": "local_incapable"},
    ],
)
def test_questions_no_router_decides_about_are_left_out(columns: dict[str, Any]) -> None:
    assert compared(row(0.1, 0.1), row(0.1, 0.9, **columns)).questions == 1
    assert compare([row(0.1, 0.9, **columns)]) is None


def test_the_newest_pair_is_compared_and_the_others_are_counted() -> None:
    found = compared(row(0.1, 0.9, shadow_router_version="older"), row(0.1, 0.9), row(0.1, None), row(0.9, 0.9))
    assert (found.shadow_router_version, found.questions, found.failed, found.other_pairs) == ("new", 2, 1, 1)


def test_the_largest_difference_comes_first() -> None:
    rows = [row(0.4, 0.6, id="small"), row(0.1, 0.9, id="large"), row(0.2, 0.4, id="none")]
    assert [difference.id for difference in compared(*rows).differences] == ["large", "small"]


@pytest.mark.parametrize(
    ("first", "second", "rho"),
    [
        ([0.1, 0.2, 0.3], [0.2, 0.3, 0.9], 1.0),
        ([0.1, 0.2, 0.3], [0.9, 0.3, 0.2], -1.0),
        ([1, 2, 3, 4, 5], [5, 6, 7, 8, 7], 0.8207826816681233),  # scipy.stats.spearmanr
        ([1, 1, 2, 2], [1, 2, 1, 2], 0.0),
        ([0.5, 0.5], [0.1, 0.2], None),
    ],
)
def test_rank_correlation_is_spearmans(first: list[float], second: list[float], rho: float | None) -> None:
    assert rank_correlation(first, second) == (None if rho is None else pytest.approx(rho))


@pytest.mark.parametrize(("k", "n", "low", "high"), [(0, 10, 0, 0.3085), (5, 10, 0.1871, 0.8129), (10, 10, 0.6915, 1)])
def test_the_interval_is_clopper_pearsons(k: int, n: int, low: float, high: float) -> None:
    assert share_95(k, n) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(
    ("n_agree", "n_differ", "enough"), [(5, 5, False), (10, 0, False), (60, 40, True), (40, 0, True)]
)
def test_too_few_questions_are_called_too_few(n_agree: int, n_differ: int, enough: bool) -> None:
    found = compared(*[row(0.1, 0.1)] * n_agree, *[row(0.1, 0.9)] * n_differ)
    assert found.enough == enough
    shown = "\n".join(comparison_lines.lines(comparison_lines.facts(found, 3, lambda id: "a question")))
    assert ("too few to tell" in shown) != enough


def scored(text: str, score: float, shadow: float | None) -> Exchange:
    decision = Decision("local", "below_threshold", score, 0.5, "old", acceptable=0.75)
    answer = Completion("an answer", "tiny", "stop", 7, 3)
    return Exchange(Query((Message("user", text),)), decision, answer, shadow=ShadowScore("20270101-1", shadow, 0.5))


def test_a_log_tells_what_both_said_the_last_rating_and_nothing_private(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    ids = write_log(
        path,
        [scored("b", 0.1, 0.9), scored("a", 0.1, None), Exchange(Query((), private=True), Decision(None, "private"))],
    )
    rate(path, ids[0])
    log = LogReader(path)
    rows = log.with_ratings([*COLUMNS, "acceptable"], "", "9999")
    told = [(row["acceptable"], row["shadow_score"], row["rating"]) for row in rows]
    assert told == [(0.75, 0.9, "good"), (0.75, None, None)]
    found = compared(*rows)
    assert (found.questions, found.failed, found.differences[0].id) == (1, 1, ids[0])


def test_what_leaves_the_device_names_the_candidate_in_full_whatever_is_redacted(tmp_path: Path) -> None:
    write_log(tmp_path / "log.db", [scored("call 4711", 0.1, 0.9)])
    (row,) = LogReader(tmp_path / "log.db").rows_to_send("exchanges", 0, 10, 1 << 20)
    sent = redactor([r"\d+"])(row)
    assert (sent["shadow_router_version"], sent["shadow_score"]) == ("20270101-1", 0.9)
    assert "4711" not in sent["messages"]
