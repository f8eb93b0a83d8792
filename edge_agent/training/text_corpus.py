"""Texts of a data folder from which an encoder learns what words mean. Reads no label, copies no text anywhere.

Left out: what is for evaluation only, and every question outside the training split, so that an encoder made here has
never seen the questions a router is tested on.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

from edge_agent.training import question_sets
from edge_agent.training.questions import generate, split_of

N_OWN = 20_000
"""Questions of our own generator, those outside the training split included; these are dropped."""

FIELDS = {
    "entailment/answer_equivalence.jsonl": ("answer",),
    "entailment/nli.jsonl": ("premise", "hypothesis"),
    "prompts/nlu_eval_home_domain.csv": ("text",),
    "prompts/slurp_dev_test.csv": ("sentence",),
    "prompts/ha_intents_en.csv": ("sentence",),
    "prompts/clinc150_full.json": ("0",),
}
"""File below the folder -> the fields of a row that are texts. Beside them: questions/, and our own questions."""


def read_texts(folder: Path, limit: int, *, seed: int = 0, n_own: int = N_OWN) -> list[str]:
    """At most `limit` different texts of the folder and of our own generator, in an order fixed by the seed.

    :raises FileNotFoundError: when the folder has none of the files.
    :raises ValueError: for a file that cannot be read; names it.
    """
    files = [(name, fields) for name, fields in FIELDS.items() if (folder / name).is_file()]
    if not files:
        raise FileNotFoundError(f"{folder}: expected text files ({', '.join(FIELDS)}), found none; name another folder")
    texts = chain(_questions(folder / "questions", n_own), *(_texts(folder / name, fields) for name, fields in files))
    found = list(dict.fromkeys(text for text in map(str.strip, texts) if text))
    Random(f"text corpus {seed}").shuffle(found)
    return found[:limit]


def _questions(folder: Path, n_own: int) -> Iterator[str]:
    public = question_sets.load(folder) if folder.is_dir() else []
    yield from (question.text for question in [*generate(n_own), *public] if split_of(question) == "train")


def _texts(path: Path, fields: tuple[str, ...]) -> Iterator[str]:
    try:
        for row in READERS[path.suffix](path):
            yield from (str(row[field]) for field in fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: expected rows with {', '.join(fields)}, found {error!r}") from error


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _splits(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of {split: [[text, label], ...]}, columns by number."""
    for rows in json.loads(path.read_text(encoding="utf-8")).values():
        yield from ({str(column): value for column, value in enumerate(row)} for row in rows)


READERS: dict[str, Callable[[Path], Iterator[dict[str, Any]]]] = {
    ".jsonl": _json_lines,
    ".csv": _csv,
    ".json": _splits,
}
