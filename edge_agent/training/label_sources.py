"""Reads public data sets of graded answers as routing labels. Knows their formats; trains nothing.

A label says how well a weak and a strong system answered one question. Both sets are read, never copied.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ANSWER_PAIR = ("gpt35", "gpt4")
"""One maker's smaller and larger model, both answering from memory, as the local and the cloud model do. The other
systems look their answers up (fid, newbing), so what they fail on says little about a model's size."""

HOME_WEAK = ("qwen3-1.7b", "gemma4-e2b")
HOME_STRONG = ("gpt-4.1", "claude-3-7-sonnet", "gemini-2.5-flash")
"""Local models that fit a device, and a large cloud model of three makers; each answered nearly all the texts."""


@dataclass(frozen=True, slots=True)
class RoutingLabel:
    """One question and how well two (groups of) systems answered it."""

    text: str
    source: str
    """The data set it comes from."""
    weak: float
    """Share of the weak systems' answers that were right, in [0, 1]."""
    strong: float
    cloud_wins: float
    """Share of pairs of answers in which the strong one is right and the weak one wrong: what the score estimates."""

    @property
    def key(self) -> str:
        """Equal for spellings of one question; they must not be trained on and tested on."""
        return normalized(self.text)


def normalized(text: str) -> str:
    """Case, punctuation, width and spacing removed."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.sub(r"[^\w\s]", " ", plain).split())


def split_of(label: RoutingLabel, *, calibrate: float = 0.15, test: float = 0.25, seed: int = 0) -> str:
    """train, calibrate or test: by a hash of the question, so that all spellings of it and all reruns agree."""
    share = _hash_share(label, seed)
    return "test" if share < test else "calibrate" if share < test + calibrate else "train"


def fold_of(label: RoutingLabel, *, folds: int = 5, seed: int = 0) -> int:
    """The cross-validation fold of a question, by the same hash."""
    return int(_hash_share(label, seed) * folds)


def read_answer_equivalence(path: Path, pair: tuple[str, str] = ANSWER_PAIR) -> list[RoutingLabel]:
    """Labels from human verdicts on systems' answers to trivia questions (EVOUNA): {question, system, equivalent}."""
    verdicts: dict[tuple[str, str], dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    texts: dict[tuple[str, str], str] = {}
    with path.open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            question = (row["dataset"], normalized(row["question"]))
            texts.setdefault(question, row["question"])
            verdicts[question][row["system"]].append(row["equivalent"])
    known = {system for answers in verdicts.values() for system in answers}
    _require(path, pair, known)
    return [
        _label(texts[question], question[0], [(answers[pair[0]], answers[pair[1]])])
        for question, answers in verdicts.items()
        if set(pair) <= answers.keys()
    ]


def read_smart_home(
    path: Path, weak: Sequence[str] = HOME_WEAK, strong: Sequence[str] = HOME_STRONG
) -> list[RoutingLabel]:
    """Labels from models' graded handling of smart-home commands: {suite, task_id, model_id, text, label Good/Bad}.

    Answers are compared within a task (one text may be asked of several homes), then averaged over the tasks of a text.
    """
    tasks: dict[str, dict[tuple[str, str], dict[str, list[bool]]]] = defaultdict(lambda: defaultdict(dict))
    texts: dict[str, str] = {}
    known = set()
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            text, model = normalized(row["text"]), row["model_id"]
            texts.setdefault(text, row["text"])
            known.add(model)
            tasks[text][row["suite"], row["task_id"]].setdefault(model, []).append(row["label"] == "Good")
    _require(path, [*weak, *strong], known)
    found = []
    for text, answers_by_task in tasks.items():
        pairs = [(_of(answers, weak), _of(answers, strong)) for answers in answers_by_task.values()]
        if pairs := [(local, cloud) for local, cloud in pairs if local and cloud]:
            found.append(_label(texts[text], "smart_home", pairs))
    return found


def _of(answers: dict[str, list[bool]], models: Iterable[str]) -> list[float]:
    """How often each of the models that answered was right."""
    return [float(np.mean(answers[model])) for model in models if model in answers]


def _label(text: str, source: str, pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> RoutingLabel:
    """Pairs of (weak, strong) answers' correctness, one for each task; answers within a task are independent."""
    weak = np.array([np.mean(local) for local, _ in pairs])
    strong = np.array([np.mean(cloud) for _, cloud in pairs])
    return RoutingLabel(text, source, float(weak.mean()), float(strong.mean()), float((strong * (1 - weak)).mean()))


def _require(path: Path, systems: Iterable[str], known: set[str]) -> None:
    if missing := sorted(set(systems) - known):
        raise ValueError(f"{path}: expected answers of {', '.join(missing)}, found those of {', '.join(sorted(known))}")


def _hash_share(label: RoutingLabel, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}:{label.key}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
