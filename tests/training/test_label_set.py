"""Label sets that are given away: everything a head needs, no text of public sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.text_features import text_features
from edge_agent.training.label_queries import of_exchanges, of_questions
from edge_agent.training.label_rows import label_row
from edge_agent.training.label_set import (
    LABELS,
    quantized,
    questions_of,
    read_label_set,
    restored,
    router_features,
    with_inputs,
)
from edge_agent.training.label_set import write_label_set as write
from edge_agent.training.meaning import Meanings
from edge_agent.training.question_sets import load, near_evaluation
from edge_agent.training.questions import Question, generate
from edge_agent.training.sampling import Generation, Sample
from edge_agent.types import Message


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lines = [
        {"dataset": "mawps", "question": f"A cart holds {n} bags and gets {n + 1} more. How many?", "answers": [str(n)]}
        for n in (3, 5)
    ]
    (tmp_path / "math.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def sample(query_id: str) -> Sample:
    generations = [Generation(query_id, "m", i, f"answer {i % 2}", -0.5, 3) for i in range(5)]
    values = np.linspace(-1, 1, 8).astype(np.float16)
    return Sample(query_id, generations, values, values, values)


def rows_of(questions: list[Question]) -> list[dict[str, Any]]:
    meanings = (Meanings((0, 1, 0, 1), False), Meanings((0, 0, 0, 0), False))
    rows = []
    for query in of_questions(questions):
        local, cloud = sample(query.id), sample(query.id)
        label = label_row(query, local, cloud, meanings, clustering="value")
        rows.append(with_inputs(label, query, local, cloud, {"tiny": lambda text: np.full(4, 0.5, dtype=np.float32)}))
    return rows


def test_a_set_holds_own_questions_whole_and_of_public_ones_no_text(folder: Path, tmp_path: Path) -> None:
    public = load(folder)
    write(tmp_path / "set", rows_of([*generate(3), *public]), {"models": {}})
    rows, card = read_label_set(tmp_path / "set")
    assert card["rows_by_dataset"] == {"mawps": 2, "own": 3} and card["summary"]["rows"] == 5
    data = (tmp_path / "set" / LABELS).read_bytes() + json.dumps(rows, default=str).encode()
    assert b"cart holds" not in data
    assert {row["dataset"]: row["answers_local"] is None for row in rows} == {"mawps": True, "own": False}
    assert sorted(q.id for q in questions_of(rows, folder)) == sorted(q.id for q in [*generate(3), *public])


def test_what_heads_are_trained_on_comes_back(tmp_path: Path) -> None:
    write(tmp_path / "set", rows_of(generate(1)), {})
    ((row,), _) = read_label_set(tmp_path / "set")
    assert restored(row["embedding_tiny"], row["embedding_tiny_scale"]) == pytest.approx(np.full(4, 0.5), abs=1e-3)
    hidden = restored(row["hidden_state_local"], row["hidden_state_local_scale"])
    assert hidden == pytest.approx(np.linspace(-1, 1, 8), abs=row["hidden_state_local_scale"])
    assert np.frombuffer(row["greedy_logprobs_local"], "<f2")[0] == -1


def test_a_vector_is_off_by_half_a_step_at_most() -> None:
    values = np.random.default_rng(0).normal(size=384).astype(np.float32)
    data, scale = quantized(values)
    assert np.abs(restored(data, scale) - values).max() <= scale / 2 * 1.001
    assert restored(*quantized(np.zeros(3, dtype=np.float32))).tolist() == [0, 0, 0]


def test_a_persons_log_is_not_given_away(tmp_path: Path) -> None:
    (query,) = of_exchanges([("x1", [Message("user", "where is my key?")])])
    both = sample(query.id), sample(query.id)
    label = label_row(query, *both, (Meanings((0, 0, 1, 1), False),) * 2, clustering="exact")
    row = with_inputs(label, query, *both, {"tiny": lambda text: np.ones(4, dtype=np.float32)})
    with pytest.raises(ValueError, match="1 rows have texts that are not ours to give away, first log-"):
        write(tmp_path / "set", [row], {})
    assert not (tmp_path / "set").exists()


def test_public_questions_need_their_folder(folder: Path, tmp_path: Path) -> None:
    rows = rows_of(load(folder))
    with pytest.raises(LookupError, match="2 questions are of public sets; name the folder"):
        questions_of(rows, None)
    (folder / "math.jsonl").write_text(
        json.dumps({"dataset": "mawps", "question": "Another question?", "answers": ["1"]})
    )
    with pytest.raises(LookupError, match="2 of 2 questions are not in this folder, first mawps row"):
        questions_of(rows, folder)


def test_labels_that_are_not_the_cards_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "set", rows_of(generate(1)), {})
    with (tmp_path / "set" / LABELS).open("ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match="expected the file of the card"):
        read_label_set(tmp_path / "set")


def test_the_features_of_the_device_come_back_from_a_set(tmp_path: Path) -> None:
    write(tmp_path / "set", rows_of(generate(5)), {})
    rows, card = read_label_set(tmp_path / "set")
    assert card["encoders"] == ["tiny"]
    features = router_features(rows, "tiny")
    texts = [question.text for question in questions_of(rows, None)]
    expected = [np.concatenate([np.full(4, 0.5), text_features(text)]) for text in texts]
    assert features == pytest.approx(np.stack(expected), abs=1e-6)


def test_questions_that_repeat_an_evaluation_question_are_found(tmp_path: Path) -> None:
    """Numbers aside the wording is the same; another question with the same form is none."""
    stories = {
        "gsm8k_train": [
            "Ann has 3 red kites and buys 5 blue kites at the fair. How many kites?",
            "A bus holds 40 people.",
        ],
        "gsm8k_test": [
            "Ann has 7 red kites and buys 2 blue kites at the fair. How many kites?",
            "A ship holds nobody at all.",
        ],
    }
    lines = [{"dataset": d, "question": q, "answers": ["1"]} for d, texts in stories.items() for q in texts]
    (tmp_path / "math.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    questions = load(tmp_path)
    assert near_evaluation(questions, tmp_path) == {questions[0].id}
