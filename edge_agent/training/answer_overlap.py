"""How much two answers look alike, from their words. Knows no model, no label and no file.

These are the cheap rivals of an entailment model, and the features it is combined with.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

ARTICLES = frozenset(("a", "an", "the"))

_APOSTROPHE = re.compile(r"(?<=\w)['’](?=\w)")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_PUNCTUATION = re.compile(
    r"(?<=[^\W\d_])[-–](?=[^\W\d_])|^[-–•]\s"  # a hyphen between letters, a list's dash; never a minus
    r"|[.,:/](?!\d)|(?<!\d)[,:/]"  # 1.5, .5, 10:30 and 3/4 keep theirs
    r"|\*\*|__|[;!?¿¡()\[\]{}\"'`’‘“”„«»…]"
)


def normalised(text: str) -> str:
    """NFKC, case, articles and punctuation removed, but no sign that changes a value: -5, 1.5, 10:30, 5 %, C++ stay.

    Answers that are equal after this mean the same. A text with nothing left (`?`, `a`) stays as it is.
    """
    plain = unicodedata.normalize("NFKC", text).casefold().strip()
    bare = _PUNCTUATION.sub(" ", _THOUSANDS.sub("", _APOSTROPHE.sub("", plain)))
    return " ".join(word for word in bare.split() if word not in ARTICLES) or plain


def words(text: str) -> list[str]:
    """The words of a text for counting: NFKC, case, articles and everything but letters and digits removed."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return [word for word in re.sub(r"[^\w\s]|_", " ", plain).split() if word not in ARTICLES]


def token_f1(a: Sequence[str], b: Sequence[str]) -> float:
    """F1 of the words two answers share, with multiplicity; 1 for two empty ones."""
    if not a or not b:
        return float(not a and not b)
    return 2 * _shared(a, b) / (len(a) + len(b))


def token_recall(reference: Sequence[str], answer: Sequence[str]) -> float:
    """The share of the reference's words that the answer has; 1 for an empty reference."""
    return _shared(reference, answer) / len(reference) if reference else 1.0


def overlap(a: Sequence[str], b: Sequence[str]) -> float:
    """The shared words over the words of the shorter answer: token recall without knowing which is the reference."""
    shorter = min(len(a), len(b))
    return _shared(a, b) / shorter if shorter else float(len(a) == len(b))


def contained(a: Sequence[str], b: Sequence[str]) -> bool:
    """Whether one answer's words stand in the other in a row."""
    shorter, longer = sorted((list(a), list(b)), key=len)
    n = len(shorter)
    return any(longer[i : i + n] == shorter for i in range(len(longer) - n + 1))


def new_words(answer: Sequence[str], question: Sequence[str]) -> list[str]:
    """The words that do not come from the question; all of them when nothing would be left."""
    asked = frozenset(question)
    return [word for word in answer if word not in asked] or list(answer)


def _shared(a: Sequence[str], b: Sequence[str]) -> int:
    return sum((Counter(a) & Counter(b)).values())
