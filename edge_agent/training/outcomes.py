"""Reads which of two models was right on which question: published outcomes, and label sets. Scores nothing.

Three published sets compare Mixtral 8x7B with GPT-4 (lm-sys/RouteLLM, Apache-2.0; questions of MMLU and GSM8K, MIT, and
of MT-Bench, Apache-2.0). Prompts that RouteLLM found in its training data are left out, as it does. They are for
evaluation only: nothing is trained, tuned or chosen on them.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.training import mt_bench
from edge_agent.training.evaluation import Floats, Outcomes
from edge_agent.training.judge_protocols import Graded
from edge_agent.training.label_set import CARD, questions_of, read_label_set
from edge_agent.training.questions import OWN

SETTING = "name the data folder with --data or EDGE_AGENT_DATA"

CHARACTERS_PER_TOKEN = 4
"""Costs need tokens of models whose tokenizers are not here; the usual estimate for English."""

HARD_SUBJECTS = frozenset(
    {
        "abstract_algebra", "college_mathematics", "elementary_mathematics", "high_school_mathematics",
        "high_school_statistics", "college_computer_science", "high_school_computer_science", "machine_learning",
        "formal_logic", "logical_fallacies",
    }
)  # fmt: skip
"""Subjects of MMLU that are maths, code or reasoning by their names."""
HARD_CATEGORIES = frozenset({"math", "coding", "reasoning"})
"""Categories of MT-Bench."""
HARD_TASKS = frozenset({"arithmetic", "word_problem", "units", "dates", "code_output"})
"""Tasks of questions.Question."""


@dataclass(frozen=True, slots=True)
class Price:
    """Currency for a million tokens, read and written."""

    read: float
    written: float

    def of(self, tokens: Floats) -> Floats:
        """The cost of each answer, of (n, 2) tokens read and written."""
        return np.asarray(tokens @ np.array([self.read, self.written]) / 1e6)


@dataclass(frozen=True, slots=True)
class OutcomeSet:
    """Questions, and how well a weak and a strong model answered them."""

    name: str
    texts: tuple[str, ...]
    """What a router scores."""
    weak: Floats
    """(n,) quality of the weak model's answers: 0 or 1, or a judge's 1 to 10."""
    strong: Floats
    groups: tuple[str, ...]
    """(n,) subject, category, or data set and task."""
    models: tuple[str, str]
    """Weak, strong."""
    weak_tokens: Floats
    """(n, 2) tokens read and written."""
    strong_tokens: Floats
    tokens_are: str
    """Where the token counts come from, in words."""
    origin: str
    """Where the questions and the answers come from, and under which licence."""
    left_out: Mapping[str, int]
    """Reason -> number of questions that were left out."""
    is_published: bool = False
    hard: npt.NDArray[np.bool_] | None = None
    """(n,) whether the set itself calls the question maths, code or reasoning; None when all are alike."""
    log_likelihood: Floats | None = None
    """(n,) mean log-probability of the tokens of the weak model's answer, where it is known."""

    def outcomes(self, local: Price, cloud: Price) -> Outcomes:
        """The numbers alone, with what each answer cost."""
        _, group = np.unique(np.array(self.groups), return_inverse=True)
        costs = local.of(self.weak_tokens), cloud.of(self.strong_tokens)
        return Outcomes(self.weak, self.strong, group, *costs)

    def rows(self, chosen: npt.NDArray[np.bool_], name: str, reason: str) -> OutcomeSet:
        """Some of the questions under another name; `reason` says why the others are left out."""

        def part(values: Any) -> Any:
            return None if values is None else values[chosen]

        texts, groups = (tuple(np.array(values, dtype=object)[chosen]) for values in (self.texts, self.groups))
        return replace(
            self, name=name, texts=texts, groups=groups, weak=self.weak[chosen], strong=self.strong[chosen],
            weak_tokens=self.weak_tokens[chosen], strong_tokens=self.strong_tokens[chosen], hard=part(self.hard),
            log_likelihood=part(self.log_likelihood), left_out={**self.left_out, reason: int((~chosen).sum())},
        )  # fmt: skip


def read_published(data: Path) -> list[OutcomeSet]:
    """MT-Bench, GSM8K and MMLU, from `data`/routellm.

    :raises FileNotFoundError: naming the file and the setting.
    """
    return [read_mt_bench(data), read_gsm8k(data / "routellm"), read_mmlu(data / "routellm")]


PUBLISHED_MODELS = ("mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview")
ESTIMATED = f"characters / {CHARACTERS_PER_TOKEN} of prompt and answer"


def read_mmlu(folder: Path) -> OutcomeSet:
    """MMLU, 5-shot; the text is the question with its choices as `A) ...` lines, groups are subjects."""
    rows = list(_csv(folder / "mmlu_joined.csv"))
    kept = [row for row in rows if row["contaminated"] == "0"]
    texts = tuple(multiple_choice(row["prompt"]) for row in kept)
    weak, strong = (_right(kept, name) for name in ("mixtral_correct", "gpt4_correct"))
    groups = tuple(row["subject"] for row in kept)
    tokens = np.column_stack([_tokens(texts), np.ones(len(texts))])  # the answer is a letter
    hard = np.array([group in HARD_SUBJECTS for group in groups])
    origin = "questions: MMLU test, MIT; answers: lm-sys/RouteLLM, Apache-2.0"
    return OutcomeSet(
        "MMLU", texts, weak, strong, groups, PUBLISHED_MODELS, tokens, tokens, ESTIMATED, origin,
        {"in RouteLLM's training data": len(rows) - len(kept)}, True, hard,
    )  # fmt: skip


def read_gsm8k(folder: Path) -> OutcomeSet:
    """GSM8K test, 8-shot; one group, and all of it is maths."""
    rows = list(_csv(folder / "gsm8k_joined.csv"))
    answers = {row["prompt"]: row for row in _csv(folder / "gsm8k__gsm8k_responses.csv")}
    kept = [row for row in rows if row["contaminated"] == "0"]
    texts = tuple(row["prompt"] for row in kept)
    weak, strong = (_right(kept, name) for name in ("mixtral_correct", "gpt4_correct"))
    tokens = [
        np.column_stack([_tokens(texts), _tokens([answers[text][f"{model}_response"] for text in texts])])
        for model in PUBLISHED_MODELS
    ]
    origin = "questions: GSM8K test, MIT; answers: lm-sys/RouteLLM, Apache-2.0"
    return OutcomeSet(
        "GSM8K", texts, weak, strong, ("gsm8k",) * len(texts), PUBLISHED_MODELS, tokens[0], tokens[1], ESTIMATED,
        origin, {"in RouteLLM's training data": len(rows) - len(kept)}, True,
    )  # fmt: skip


def read_mt_bench(data: Path) -> OutcomeSet:
    """MT-Bench; the text is the first turn, quality GPT-4's mean score of both turns, groups are categories."""
    questions = list(_jsonl(data / "routellm" / "mt_bench__question.jsonl"))
    known = {row["eval_prompt"] for row in _jsonl(data / "routellm" / "mt_bench__contaminated_prompts.jsonl")}
    kept = [question for question in questions if question["turns"][0] not in known]
    grades, answered = mt_bench.read_judgements(data)
    answers = {(one.model, one.question_id): one.answers for one in answered}
    ids = [question["question_id"] for question in kept]
    weak, strong = (
        np.array([np.mean([grades[Graded(i, turn, model)] for turn in (1, 2)]) for i in ids])
        for model in PUBLISHED_MODELS
    )
    groups = tuple(question["category"] for question in kept)
    tokens = [
        np.array([_two_turns(question["turns"], answers[model, question["question_id"]]) for question in kept])
        for model in PUBLISHED_MODELS
    ]
    return OutcomeSet(
        "MT-Bench", tuple(question["turns"][0] for question in kept), weak, strong, groups, PUBLISHED_MODELS,
        tokens[0], tokens[1], ESTIMATED + ", both turns",
        "questions: MT-Bench, Apache-2.0; answers and scores: lm-sys/RouteLLM, Apache-2.0",
        {"in RouteLLM's training data": len(questions) - len(kept)}, True,
        np.array([group in HARD_CATEGORIES for group in groups]),
    )  # fmt: skip


def _two_turns(asked: Sequence[str], answered: Sequence[str]) -> tuple[float, float]:
    """Tokens read and written; the second turn is asked with the first one and its answer."""
    questions, answers = _tokens(asked), _tokens(answered)
    return float(2 * questions[0] + answers[0] + questions[1]), float(answers.sum())


def multiple_choice(prompt: str) -> str:
    """A prompt of MMLU as `A) ...` lines without the final `Answer:`; every other question of ours looks like that."""
    asked = re.sub(r"\nAnswer:\s*$", "", prompt)
    head, *choices = re.split(r"\n([ABCD])\. ", asked)
    pairs = zip(choices[::2], choices[1::2], strict=True)
    return "\n".join([head, *(f"{letter}) {choice}" for letter, choice in pairs)])


def read_labels(directory: Path, data: Path, *, split: str = "test") -> OutcomeSet:
    """The graded rows of a split of a label set: was the local model right, was the cloud model right.

    :raises FileNotFoundError: when there is no label set, or no data folder for its public questions.
    :raises ValueError: when a question is not in that folder, or the split has no graded rows.
    """
    if not (directory / CARD).is_file():
        raise FileNotFoundError(f"{directory}: expected a label set ({CARD}), found none; name one with --labels")
    rows, card = read_label_set(directory)
    of_split = [row for row in rows if row["split"] == split]
    graded = [row for row in of_split if None not in (row["correct_local"], row["correct_cloud"])]
    if not graded:
        raise ValueError(
            f"{directory}: expected graded rows in the split {split}, found {len(of_split)} rows, none graded"
        )
    texts, tasks = _texts_and_tasks(graded, data / "questions")
    sets = [row["dataset"] for row in graded]
    groups = tuple(f"{name}: {task}" if name == OWN else name for name, task in zip(sets, tasks, strict=True))
    asked = _tokens(texts)
    weak_tokens, strong_tokens = (
        np.column_stack([asked, [float(row[f"greedy_n_tokens_{side}"] or 0) for row in graded]])
        for side in ("local", "cloud")
    )
    weak, strong = (np.array([float(row[f"correct_{side}"]) for row in graded]) for side in ("local", "cloud"))
    likelihood = np.array([np.nan if (v := row["greedy_log_likelihood_local"]) is None else v for row in graded])
    return OutcomeSet(
        "our pair", texts, weak, strong, groups,
        (str(card["models"]["local"]["name"]), str(card["models"]["cloud"]["name"])), weak_tokens, strong_tokens,
        f"the question's characters / {CHARACTERS_PER_TOKEN}; the answer's own count",
        _origin(directory, card, sets), {"not graded": len(of_split) - len(graded)},
        hard=np.array([task in HARD_TASKS for task in tasks]),
        log_likelihood=None if np.isnan(likelihood).any() else likelihood,
    )  # fmt: skip


def without_generated(outcomes: OutcomeSet) -> OutcomeSet:
    """The same set without the questions our generator made."""
    chosen = np.array([not group.startswith(f"{OWN}: ") for group in outcomes.groups])
    return outcomes.rows(chosen, f"{outcomes.name}, public questions", "made by our generator")


def _origin(directory: Path, card: Mapping[str, Any], sets: Sequence[str]) -> str:
    sources = card.get("sources", {})
    named = [f"{sources.get(name, name)} ({count})" for name, count in Counter(sets).most_common()]
    return f"label set {directory.name}: " + "; ".join(named)


def _texts_and_tasks(rows: Sequence[Mapping[str, Any]], folder: Path) -> tuple[tuple[str, ...], list[str]]:
    try:
        questions = questions_of(rows, folder)
    except (FileNotFoundError, LookupError) as error:
        raise type(error)(f"{_message(error)}; {SETTING}") from error
    return tuple(question.text for question in questions), [question.task for question in questions]


def _message(error: Exception) -> str:
    return str(error.args[0]) if error.args else str(error)


def _right(rows: Sequence[Mapping[str, str]], name: str) -> Floats:
    return np.array([float(row[name] == "True") for row in rows])


def _tokens(texts: Sequence[str]) -> Floats:
    return np.array([len(text) / CHARACTERS_PER_TOKEN for text in texts])


def _csv(path: Path) -> Iterator[dict[str, str]]:
    yield from _opened(path, csv.DictReader)


def _jsonl(path: Path) -> Iterator[dict[str, Any]]:
    yield from _opened(path, lambda lines: map(json.loads, lines))


def _opened(path: Path, read: Callable[[Any], Any]) -> Iterator[Any]:
    try:
        file = path.open(encoding="utf-8", newline="")
    except OSError as error:
        raise FileNotFoundError(
            f"{path}: expected published outcomes, found none ({error.strerror}); {SETTING}"
        ) from error
    with file:
        yield from read(file)
