"""Cheap features of a text that stand beside its embedding. Pure; the device and the training use this one function."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edge_agent.task_type import CODE, MATHS, task_type

VERSION = 1
"""Goes up with any change that gives another number for some text and feature; a router's card names its version."""

NAMES = (
    "words", "word_length", "lines", "digits", "capitals", "non_ascii", "question", "code", "maths",
    "sentences", "numbers", "choices", "task_code", "task_maths", "task_reasoning",
)  # fmt: skip
"""All features there are; a card lists those its head reads. A new one may be added, none is ever changed."""

EXCERPT_CHARACTERS = 4096
SENTENCE_END = re.compile(r"[.!?](?:\s|$)")
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
CHOICE = re.compile(r"^\(?[A-J][).] ", re.MULTILINE)


def excerpt(text: str) -> str:
    """The first and last 4096 characters: more than any router reads, so that a megabyte costs no more than a page."""
    if len(text) <= 2 * EXCERPT_CHARACTERS:
        return text
    return text[:EXCERPT_CHARACTERS] + text[-EXCERPT_CHARACTERS:]


def text_features(text: str, names: Sequence[str] = NAMES) -> npt.NDArray[np.float32]:
    """The named features of one text: shares, flags and log counts, so that none dwarfs the rest."""
    part = excerpt(text)
    words, characters = part.split(), max(len(part), 1)
    n_words = max(len(words), 1)
    task = task_type(part)
    values = {
        "words": np.log1p(len(text.split())),
        "word_length": np.log1p(sum(map(len, words)) / n_words),
        "lines": np.log1p(part.count("\n")),
        "digits": sum(map(str.isdigit, part)) / characters,
        "capitals": sum(word[0].isupper() for word in words) / n_words,
        "non_ascii": 0.0 if part.isascii() else sum(character > "\x7f" for character in part) / characters,
        "question": "?" in part,
        "code": CODE.search(part) is not None,
        "maths": MATHS.search(part) is not None,
        "sentences": np.log1p(len(SENTENCE_END.findall(part))),
        "numbers": np.log1p(len(NUMBER.findall(part))),
        "choices": len(CHOICE.findall(part)) >= 3,
        "task_code": task == "code",
        "task_maths": task == "maths",
        "task_reasoning": task == "reasoning",
    }
    return np.array([values[name] for name in names], dtype=np.float32)
