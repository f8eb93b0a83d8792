"""Pairs in both orders and the best of several, with judges that are right or prefer a place."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from edge_agent.training.judge_prompts import (
    Unreadable,
    read_best,
    read_pick,
)
from edge_agent.training.judge_protocols import (
    Best,
    Contest,
    best_of,
    compare,
    position_bias,
    scores,
    winner_of,
)
from tests.misbehaving_cloud import misbehaving_cloud, status
from tests.training.judging import answered, judge_at, saying

# pairs

LEFT, RIGHT = answered("left", "four", "six"), answered("right", "five", "six")


def knows(text: str) -> str:
    """The judge who is right: four is."""
    if "four" not in text or "answer_A_2" in text:
        return "Both. [[tie]]"
    return "[[A]]" if text.index("four") < text.index("five") else "[[B]]"


@pytest.mark.parametrize("seed", range(3))
def test_a_judge_who_is_right_names_the_winner_wherever_it_stands(seed: int) -> None:
    with misbehaving_cloud(saying(knows)) as cloud:
        found = compare(judge_at(cloud), [(LEFT, RIGHT)], seed=seed)
        mirrored = compare(judge_at(cloud), [(RIGHT, LEFT)], seed=seed)
    assert [c.winner for c in found] == ["A", "tie"] and [c.winner for c in mirrored] == ["B", "tie"]
    assert found[0].seen == ("first", "second") and position_bias(found) == 0


@pytest.mark.parametrize("always", ["[[A]]", "[[B]]"])
def test_a_judge_who_always_prefers_one_place_gives_ties(always: str) -> None:
    with misbehaving_cloud(saying(always)) as cloud:
        found = compare(judge_at(cloud), [(LEFT, RIGHT)])
        asked = [request.json["messages"][-1]["content"] for request in cloud.requests]
    assert [c.winner for c in found] == ["tie", "tie"] and position_bias(found) == 1
    assert len(set(asked)) == 4, "each turn in both orders"


@pytest.mark.parametrize(
    ("a_first", "b_first", "winner"),
    [
        ("first", "second", "A"),
        ("second", "first", "B"),
        ("first", "first", "tie"),
        ("second", "second", "tie"),
        ("first", "tie", "tie"),
        ("tie", "first", "tie"),
        ("tie", "tie", "tie"),
        (None, "second", None),
        ("first", None, None),
    ],
)
def test_only_a_win_that_survives_the_swap_counts(a_first: Any, b_first: Any, winner: str | None) -> None:
    assert winner_of(a_first, b_first) == winner


def test_which_order_is_asked_first_is_decided_by_the_seed() -> None:
    pairs = [(answered("a", f"left {i}", question_id=i), answered("b", "right", question_id=i)) for i in range(40)]
    orders = []
    for _ in range(2):
        with misbehaving_cloud(saying("[[tie]]")) as cloud:
            compare(judge_at(cloud, concurrency=1), pairs, seed=5)
            asked = [r.json["messages"][-1]["content"] for r in cloud.requests]
        orders.append([text.index("left") < text.index("right") for text in asked])
    assert orders[0] == orders[1] and 8 <= sum(orders[0][::2]) <= 32 and sum(orders[0]) == 40


@pytest.mark.parametrize("reply", ["", "A", "[A]", "[[C]]", "[[A or B]]", "A is better than B", "[[A]] no, [[B]]"])
def test_a_reply_without_one_clear_winner_is_refused(reply: str) -> None:
    with pytest.raises(Unreadable):
        read_pick(reply)


def test_a_winner_is_read() -> None:
    assert [read_pick(r) for r in ("Well: [[A]]", "[[ b ]]", "[[Tie]].")] == ["first", "second", "tie"]


# the best of several

CONTEST = Contest("q1", "2 + 2?", "4", {"one": "It is 4.", "two": "It is 5.", "three": "4, since 2 + 2 = 4."})


def right_ones(text: str) -> str:
    """The judge who is right names every solution with a 4 in it."""
    found = re.findall(r"<LLM_(\d)>\n(.*?)\n</LLM", text)
    return " and ".join(f"LLM {number}" for number, answer in found if "4" in answer)


def test_a_judge_who_is_right_finds_the_best_wherever_they_stand() -> None:
    with misbehaving_cloud(saying(right_ones)) as cloud:
        (best,) = best_of(judge_at(cloud), [CONTEST])
        asked = [request.json["messages"][-1]["content"] for request in cloud.requests]
    assert best == Best("q1", (frozenset({"one", "three"}),) * 2)
    shown = [re.findall(r"<LLM_\d>\n(.*?)\n</LLM", text) for text in asked]
    assert shown[0] == shown[1][::-1] and "2 + 2?" in asked[0] and "right_solution" in asked[0]


def test_orders_differ_between_questions_and_with_the_seed() -> None:
    def winners(seed: int) -> list[list[str]]:
        contests = [Contest(str(i), "?", "4", CONTEST.answers) for i in range(12)]
        with misbehaving_cloud(saying("LLM 1")) as cloud:
            return [sorted(best.orders[0]) for best in best_of(judge_at(cloud), contests, seed=seed)]

    assert {name for (name,) in winners(0)} == set(CONTEST.answers)
    assert winners(0) == winners(0) != winners(1)


def test_a_judge_who_always_names_the_first_finds_the_first_of_each_order() -> None:
    with misbehaving_cloud(saying("LLM 1")) as cloud:
        (best,) = best_of(judge_at(cloud), [CONTEST])
    assert len(best.orders) == 2 and best.orders[0] != best.orders[1]


def test_the_same_answer_is_shown_once_and_shares_the_verdict() -> None:
    contest = Contest("q", "2 + 2?", "4", {"a": "4", "b": "5", "c": "4"})
    with misbehaving_cloud(saying(right_ones)) as cloud:
        (best,) = best_of(judge_at(cloud), [contest])
        assert all("LLM_3" not in request.json["messages"][-1]["content"] for request in cloud.requests)
    assert set(best.orders) == {frozenset("ac")}


def test_where_all_answers_are_the_same_nobody_is_asked() -> None:
    with misbehaving_cloud(status(500)) as cloud:
        (best,) = best_of(judge_at(cloud), [Contest("q", "?", "4", {"a": "4", "b": "4"})])
        assert cloud.requests == [] and best.orders == (frozenset("ab"),)


def test_scores_are_shares_of_the_questions_with_a_verdict_and_ties_count_for_all() -> None:
    """By hand: a 2 of 3, b 1.5 of 3 (half where its orders disagree), c 0; the fourth question has no verdict."""
    best = [
        Best("1", (frozenset("ab"), frozenset("ab"))),
        Best("2", (frozenset("a"), frozenset("ab"))),
        Best("3", ()),
        Best("4", (frozenset(),)),
    ]
    found = scores(best, ["a", "b", "c"])
    assert [round(found[name].value, 4) for name in "abc"] == [66.6667, 50, 0]
    assert found["a"].low < 66 < found["a"].high and found["c"].high == 0


def test_scores_of_nothing_have_no_value() -> None:
    assert math.isnan(scores([Best("1", ())], ["a"])["a"].value)


@pytest.mark.parametrize(
    ("reply", "best"),
    [
        ("LLM 1", {0}),
        ("LLM 1 and LLM 3", {0, 2}),
        ("LLM 1, LLM 2, and LLM 3.", {0, 1, 2}),
        ("**llm 2 & llm 3**", {1, 2}),
        ("<think>LLM 1?</think>\nLLM 2\n", {1}),
        ("LLM 2, LLM 2", {1}),
    ],
)
def test_names_of_the_best_are_read(reply: str, best: set[int]) -> None:
    assert read_best(reply, 3) == best


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "none",
        "All",
        "1 and 3",
        "LLM 9",
        "LLM 1 and LLM 4",
        "LLM 0",
        "LLM 1 is wrong, LLM 2 is right",
        "LLM 1\nLLM 2",
    ],
)
def test_a_reply_that_is_not_names_alone_is_refused(reply: str) -> None:
    with pytest.raises(Unreadable):
        read_best(reply, 3)
