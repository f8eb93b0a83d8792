"""Loads public question sets from a folder, and mixes them with our own questions. Copies no text anywhere.

A row is known by (dataset, row, SHA-256 of its text): enough to find the question again in the folder, not enough to
repeat it. Rows that are for evaluation only are left out where questions are loaded for training.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from edge_agent.training.grading import grade
from edge_agent.training.near_duplicates import content_words, groups
from edge_agent.training.questions import OWN, Question, generate

_LOGGER = logging.getLogger(__name__)

EVALUATION_ONLY = frozenset({"gsm8k_test", "mmlu_test"})
"""Data sets no question of which trains, tunes or selects anything."""

SIMILARITY = 0.6
"""Questions that share this part of their content words are wordings of one question and stay in one split."""

EVALUATION_SIMILARITY = 0.7
"""From here on a question repeats one that is for evaluation only, or asks about the same passage. Below are mostly
questions that share no more than a form ("Statement 1 ... Statement 2 ...")."""

LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True, slots=True)
class QuestionFile:
    name: str
    """Below the folder."""
    task: str
    grader: str


FILES = (
    QuestionFile("math.jsonl", "word_problem", "number"),
    QuestionFile("multiple_choice.jsonl", "multiple_choice", "choice"),
    QuestionFile("short_answer.jsonl", "short_answer", "short_answer"),
)
"""JSON lines of {dataset, question, answers, choices?}."""

DIFFICULTY = {"mawps": 1, "svamp": 1}
"""By data set; the others are 3."""

MIX: Mapping[str, float] = {
    OWN: 0.70,
    "mawps": 0.15,
    "svamp": 0.04,
    "gsm8k_train": 0.03,
    "mmlu_val": 0.035,
    "mmlu_dev": 0.01,
    "popqa": 0.007,
    "triviaqa": 0.007,
    "nq_open": 0.007,
    "webquestions": 0.007,
    "simpleqa": 0.007,
}
"""Share of each data set in `training_mix`: a 0.5B model is right on almost half of it (docs/questions.md)."""


def load(folder: Path, *, evaluation: bool = False) -> list[Question]:
    """The public questions of a folder, in file order, near-duplicates sharing a `template`.

    :param evaluation: the rows that are for evaluation only, instead of the others.
    :raises FileNotFoundError: when the folder has none of the files.
    :raises ValueError: for a line that is no question; names file and line.
    """
    paths = [(file, folder / file.name) for file in FILES if (folder / file.name).is_file()]
    if not paths:
        names = ", ".join(file.name for file in FILES)
        raise FileNotFoundError(f"{folder}: expected question files ({names}), found none; name another folder")
    questions = [q for file, path in paths for q in _read(file, path) if (q.dataset in EVALUATION_ONLY) == evaluation]
    return _grouped([q for q in questions if any(grade(q, form) for form in q.answers)])  # an answer may be only `)`


def _read(file: QuestionFile, path: Path) -> Iterator[Question]:
    with path.open(encoding="utf-8") as lines:
        for row, line in enumerate(lines):
            try:
                yield _question(file, row, json.loads(line))
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise ValueError(
                    f"{path}, line {row + 1}: expected an object with dataset, question and answers, found {error!r}"
                ) from error


def _question(file: QuestionFile, row: int, fields: Mapping[str, Any]) -> Question:
    text, choices = str(fields["question"]).strip(), tuple(map(str, fields.get("choices", ())))
    answers = tuple(dict.fromkeys(map(str, fields["answers"])))
    if not text or not answers:
        raise ValueError("an empty question or no answer")
    shown = [f"{letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
    return Question(
        dataset=fields["dataset"],
        row=row,
        task=file.task,
        template="",
        text="\n".join([text, *shown]),
        answers=answers,
        grader=file.grader,
        difficulty=DIFFICULTY.get(fields["dataset"], 3),
        options=choices,
    )


def _grouped(questions: list[Question]) -> list[Question]:
    """Each question with its group as the template: named by the group's first content, not by its place in a file."""
    found = groups([question.text for question in questions], similarity=SIMILARITY)
    names: dict[int, str] = {}
    for group, question in zip(found, questions, strict=True):
        key = hashlib.sha256(" ".join(sorted(content_words(question.text))).encode()).hexdigest()[:16]
        names[group] = min(names.get(group, key), key)
    return [replace(q, template=f"public.{names[group]}") for group, q in zip(found, questions, strict=True)]


def near_evaluation(questions: Sequence[Question], folder: Path) -> set[str]:
    """The ids of questions that share their passage or wording with one for evaluation only: not to be trained on."""
    held = load(folder, evaluation=True)
    found = groups([q.text for q in [*questions, *held]], similarity=EVALUATION_SIMILARITY)
    kept_out = set(found[len(questions) :])
    return {question.id for question, group in zip(questions, found, strict=False) if group in kept_out}


def resolve(references: Iterable[tuple[str, int | str, str]], questions: Iterable[Question]) -> list[Question]:
    """The questions behind (dataset, row, sha256), in order. The hash decides; a row number is only a hint to people.

    :raises LookupError: when a text is not among the questions; names how many are missing and the first one.
    """
    known = {(question.dataset, question.sha256): question for question in questions}
    wanted = list(references)
    if missing := [reference for reference in wanted if (reference[0], reference[2]) not in known]:
        dataset, row, sha256 = missing[0]
        raise LookupError(
            f"{len(missing)} of {len(wanted)} questions are not in this folder, first {dataset} row {row} with SHA-256"
            f" {sha256}; use the same release of the data set"
        )
    return [known[dataset, sha256] for dataset, _, sha256 in wanted]


def training_mix(folder: Path | None, n: int, seed: int = 0, *, mix: Mapping[str, float] = MIX) -> list[Question]:
    """n questions of our own and of public sets, in an order where every prefix is a mix; fixed by the seed.

    Without a folder, or for a set that is missing or too small, own questions take the place; one warning says so.
    """
    pools = _pools(folder)
    rng = Random(f"training mix {seed}")
    chosen: list[Question] = []
    for dataset, share in mix.items():
        pool = pools.get(dataset, [])
        chosen += rng.sample(pool, min(len(pool), round(n * share)))
    chosen = chosen[:n]
    _tell_what_is_missing(folder, n, mix, chosen)
    own = generate(n - len(chosen), seed)
    return _interleaved(own, chosen, rng)


def _pools(folder: Path | None) -> dict[str, list[Question]]:
    if folder is None or not folder.is_dir():
        return {}
    pools: dict[str, dict[str, Question]] = {}
    for question in load(folder):  # one wording of each: the others would add weight, not knowledge
        pools.setdefault(question.dataset, {}).setdefault(question.template, question)
    return {dataset: list(wordings.values()) for dataset, wordings in pools.items()}


def _tell_what_is_missing(folder: Path | None, n: int, mix: Mapping[str, float], chosen: list[Question]) -> None:
    public = round(n * sum(share for dataset, share in mix.items() if dataset != OWN))
    if not chosen and public:
        _LOGGER.warning("%s: no such folder of public questions; all %d are our own", folder or "no folder given", n)
    elif len(chosen) < public - len(mix):  # rounding moves at most one a set
        _LOGGER.warning(
            "%s: expected %d public questions, found %d; own questions take the place of the rest",
            folder, public, len(chosen),
        )  # fmt: skip


def _interleaved(own: list[Question], public: list[Question], rng: Random) -> list[Question]:
    """Both kinds in random order; own ones keep theirs, so that any prefix is spread over templates and levels."""
    shuffled = rng.sample(public, len(public))
    kinds = rng.sample([True] * len(own) + [False] * len(shuffled), len(own) + len(shuffled))
    mine, theirs = iter(own), iter(shuffled)
    return [next(mine) if is_own else next(theirs) for is_own in kinds]
