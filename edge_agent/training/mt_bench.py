"""Reads MT-Bench: questions, reference answers, models' answers, and recorded grades. Judges nothing, copies nothing.

In the data folder: `mt_bench/question.jsonl`, `mt_bench/reference_answers_gpt-4.jsonl`,
`mt_bench/small_models_grades.csv` and `routellm/mt_bench__judgements.jsonl`, as FastChat writes them.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO, TypeVar

from edge_agent.training.judge_prompts import Turns
from edge_agent.training.judge_protocols import Answered, Contest, Graded

T = TypeVar("T")
QUESTIONS = Path("mt_bench", "question.jsonl")
REFERENCES = Path("mt_bench", "reference_answers_gpt-4.jsonl")
JUDGEMENTS = Path("routellm", "mt_bench__judgements.jsonl")
PEER_GRADES = Path("mt_bench", "small_models_grades.csv")

_ANSWER = ("[The Start of Assistant's Answer]\n", "\n[The End of Assistant's Answer]")
_SECOND_ANSWER = ("\n\n### Assistant A:\n", "\n\n<|The End of Assistant A's Conversation with User|>")


def read_tasks(data: Path) -> dict[int, Turns]:
    """The questions by id, with reference answers where the folder has them (mathematics, reasoning, coding).

    :raises FileNotFoundError: a file is not there.
    :raises ValueError: a file is not what it should be.
    """
    references = dict(
        _rows(data / REFERENCES, lambda row: (int(row["question_id"]), tuple(row["choices"][0]["turns"])))
    )
    return dict(
        _rows(
            data / QUESTIONS,
            lambda row: (
                int(row["question_id"]),
                Turns(tuple(row["turns"]), references.get(int(row["question_id"]), ())),
            ),
        )
    )


def read_answers(path: Path, tasks: Mapping[int, Turns]) -> list[Answered]:
    """Models' answers, a line each: {question_id, model_id, choices: [{turns: [...]}]}.

    :raises ValueError: a line is something else, or answers a question that is not there.
    """

    def answered(row: Mapping[str, Any]) -> Answered:
        turns = tuple(_text(turn) for turn in row["choices"][0]["turns"])
        task = tasks[int(row["question_id"])]
        if not 1 <= len(turns) <= len(task.questions):
            raise ValueError(f"expected 1 to {len(task.questions)} turns, found {len(turns)}")
        return Answered(int(row["question_id"]), str(row["model_id"]), task, turns)

    if not (read := list(_rows(path, answered))):
        raise ValueError(f"{path}: expected a line a question and model, found none")
    return read


def read_judgements(data: Path) -> tuple[dict[Graded, float], list[Answered]]:
    """(GPT-4's recorded grades, the answers they are about).

    :raises FileNotFoundError: the file is not there.
    :raises ValueError: it is not what it should be.
    """
    tasks = read_tasks(data)
    grades: dict[Graded, float] = {}
    turns: dict[tuple[int, str], dict[int, str]] = defaultdict(dict)
    for what, grade, answer in _rows(data / JUDGEMENTS, _judgement):
        grades[what] = grade
        turns[what.question_id, what.model][what.turn] = answer
    answered = [
        Answered(question, model, tasks[question], tuple(answers[turn] for turn in sorted(answers)))
        for (question, model), answers in sorted(turns.items())
    ]
    return grades, answered


def read_peer_grades(data: Path) -> dict[str, dict[str, dict[Graded, float]]]:
    """Grades of six models by six judges: by "no reference" or "reference", then by judge.

    A judge that gave none is recorded there as -1, which is left out.
    """
    grades: dict[str, dict[str, dict[Graded, float]]] = defaultdict(lambda: defaultdict(dict))
    with _open(data / PEER_GRADES) as file:
        for row in csv.DictReader(file):
            for turn in (1, 2):
                value = float(row[f"score_turn{turn}"])
                if value > 0:
                    what = Graded(int(row["question_id"]), turn, row["model"])
                    grades[row["mode"]][row["judge"]][what] = value
    names = {"single_grade": "no reference", "single_grade_ref": "reference"}
    return {names.get(mode, mode): dict(judges) for mode, judges in grades.items()}


def read_contests(path: Path) -> list[Contest]:
    """Answers of several systems, a line a question: {id, question, truth, answers: {system: text}}.

    :raises ValueError: a line is something else, or a line has other systems than the first.
    """

    def contest(row: Mapping[str, Any]) -> Contest:
        answers = {name: _text(answer) for name, answer in row["answers"].items()}
        return Contest(str(row["id"]), str(row["question"]), str(row["truth"]), answers)

    contests = list(_rows(path, contest))
    if not contests:
        raise ValueError(f"{path}: expected a line a question, found none")
    names = contests[0].answers.keys()
    for one in contests:
        if one.answers.keys() != names or len(names) < 2:
            raise ValueError(
                f"{path}: expected answers of the same two or more systems for every question, found"
                f" {', '.join(one.answers) or 'none'} for {one.id}; leave out questions that not all answered"
            )
    return contests


def pairs_of(a: Sequence[Answered], b: Sequence[Answered]) -> list[tuple[Answered, Answered]]:
    """The answers of A and B to the same questions. :raises ValueError: when they have no question in common."""
    others = {(answered.question_id, len(answered.answers)): answered for answered in b}
    found = [(one, others[key]) for one in a if (key := (one.question_id, len(one.answers))) in others]
    if not found:
        raise ValueError("expected two files that answer the same questions, found no question in both")
    return found


def _judgement(row: Mapping[str, Any]) -> tuple[Graded, float, str]:
    turn = int(row["turn"])
    begin, end = _ANSWER if turn == 1 else _SECOND_ANSWER
    asked = str(row["user_prompt"])
    if begin not in asked or end not in asked:
        raise ValueError(f"no answer between {begin.strip()} and {end.strip()}")
    answer = asked.partition(begin)[2] if turn == 1 else asked.rpartition(begin)[2]
    what = Graded(int(row["question_id"]), turn, str(row["model"]))
    return what, float(row["score"]), answer.rpartition(end)[0]


def _rows(path: Path, read: Callable[[Mapping[str, Any]], T]) -> Iterator[T]:
    with _open(path) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield read(json.loads(line))
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"{path}, line {number}: this is not what the file should hold ({type(error).__name__}: {error});"
                    " docs/judging.md shows its format"
                ) from error


def _text(answer: object) -> str:
    if not isinstance(answer, str):
        raise TypeError(f"expected an answer as text, found {answer!r:.80}")
    return answer


def _open(path: Path) -> TextIO:
    if not path.exists():
        raise FileNotFoundError(
            f"{path.parent}: expected MT-Bench's files, found no {path.name}; name the data folder with --data or"
            " EDGE_AGENT_DATA (docs/judging.md)"
        )
    return path.open(encoding="utf-8", errors="replace", newline="")  # other bytes are told by what they break
