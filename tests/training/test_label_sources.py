"""Graded answers become routing labels, and spellings of one question stay together."""

import csv
import json

import pytest

from edge_agent.training.label_sources import (
    RoutingLabel,
    fold_of,
    normalized,
    read_answer_equivalence,
    read_smart_home,
    split_of,
)


def label(text):
    return RoutingLabel(text, "made_up", 0.0, 1.0, 1.0)


def write_answers(path, rows):
    fields = ("dataset", "question", "system", "equivalent")
    path.write_text("".join(json.dumps(dict(zip(fields, row, strict=True)), ensure_ascii=False) + "\n" for row in rows))
    return path


def write_commands(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["suite", "model_id", "task_id", "trial", "category", "text", "label"])
        writer.writerows((suite, model, task, 1, "light", text, grade) for suite, model, task, text, grade in rows)
    return path


def test_spellings_of_one_question_are_one_label(tmp_path):
    path = write_answers(
        tmp_path / "a.jsonl",
        [
            ("nq", "Who is tall?", "small", False),
            ("nq", "who is TALL", "large", True),
            ("nq", "Unanswered by large?", "small", True),
            ("nq", "Line\u2028separator?", "small", True),
            ("nq", "Line\u2028separator?", "large", True),
        ],
    )
    found = read_answer_equivalence(path, ("small", "large"))
    assert [(r.text, r.weak, r.strong, r.cloud_wins) for r in found] == [
        ("Who is tall?", 0, 1, 1),
        ("Line\u2028separator?", 1, 1, 0),
    ]


def test_smart_home_answers_are_compared_within_a_task_and_averaged_over_tasks(tmp_path):
    path = write_commands(
        tmp_path / "c.csv",
        [
            ("s", "small", "home-1", "Lamp on", "Bad"),
            ("s", "large", "home-1", "Lamp on", "Good"),
            ("s", "larger", "home-1", "Lamp on", "Bad"),
            ("s", "small", "home-2", "lamp on!", "Good"),
            ("s", "large", "home-2", "lamp on!", "Good"),
            ("s", "small", "home-3", "lamp on", "Good"),
            ("s", "small", "home-1", "Never asked of a large one", "Good"),
        ],
    )
    (found,) = read_smart_home(path, weak=["small"], strong=["large", "larger"])
    assert (found.weak, found.strong, found.cloud_wins) == (0.5, 0.75, 0.25)


def test_an_unknown_system_is_named_beside_the_known_ones(tmp_path):
    path = write_answers(tmp_path / "a.jsonl", [("nq", "q", "small", True), ("nq", "q", "large", True)])
    with pytest.raises(ValueError, match="expected answers of huge, found those of large, small"):
        read_answer_equivalence(path, ("small", "huge"))


@pytest.mark.parametrize(
    "spelling", ["What's the TIME?", "what s the time", " What’s  the time ?! ", "ｗhat's the time"]
)
def test_spellings_share_key_split_and_fold(spelling):
    assert normalized(spelling) == "what s the time"
    assert split_of(label(spelling)) == split_of(label("what s the time"))
    assert fold_of(label(spelling)) == fold_of(label("what s the time"))


def test_splits_have_their_shares_and_depend_on_the_seed():
    labels = [label(f"question {i}") for i in range(4000)]
    found = [split_of(each) for each in labels]
    shares = {name: found.count(name) / len(found) for name in ("train", "calibrate", "test")}
    assert shares == pytest.approx({"train": 0.6, "calibrate": 0.15, "test": 0.25}, abs=0.03)
    assert {fold_of(each) for each in labels} == set(range(5))
    assert [split_of(each, seed=1) for each in labels] != found
