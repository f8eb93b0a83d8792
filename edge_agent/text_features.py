"""Cheap features of a text that stand beside its embedding. Pure; the device and the training use this one function."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

VERSION = 1
"""Goes up with any change that gives another number for some text; a router's card names its version."""

NAMES = ("words", "word_length", "lines", "digits", "capitals", "non_ascii", "question", "code", "maths")

EXCERPT_CHARACTERS = 4096
CODE = re.compile(r"```|</\w|[{};]\s*$|=>|->|==|\w\(.*\)|\b(?:def|class|import|return|SELECT|void) ", re.MULTILINE)
MATHS = re.compile(r"\d\s*[-+*/^=×÷]\s*[\dx(]|\\(?:frac|sum|int|sqrt)|[√∑∫≤≥π]|\$\d|\d\s*%")


def excerpt(text: str) -> str:
    """The first and last 4096 characters: more than any router reads, so that a megabyte costs no more than a page."""
    if len(text) <= 2 * EXCERPT_CHARACTERS:
        return text
    return text[:EXCERPT_CHARACTERS] + text[-EXCERPT_CHARACTERS:]


def text_features(text: str) -> npt.NDArray[np.float32]:
    """The features of one text in the order of NAMES: shares, flags and log counts, so that none dwarfs the rest."""
    part = excerpt(text)
    words, characters = part.split(), max(len(part), 1)
    n_words = max(len(words), 1)
    return np.array(
        [
            np.log1p(len(text.split())),
            np.log1p(sum(map(len, words)) / n_words),
            np.log1p(part.count("\n")),
            sum(map(str.isdigit, part)) / characters,
            sum(word[0].isupper() for word in words) / n_words,
            sum(character > "\x7f" for character in part) / characters,
            "?" in part,
            CODE.search(part) is not None,
            MATHS.search(part) is not None,
        ],
        dtype=np.float32,
    )
