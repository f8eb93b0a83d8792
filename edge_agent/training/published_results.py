"""Results other people printed for the published sets: numbers to stand beside ours, nothing else.

arXiv 2502.11021 (Table 1: CPT only) and arXiv 2406.18665 (Tables 1 to 3). Both compare Mixtral 8x7B with GPT-4; the one
names gpt-4-0613, the other gpt-4-1106-preview. Neither gives intervals for a single router.
"""

from __future__ import annotations

from dataclasses import dataclass

SETS = ("MT-Bench", "GSM8K", "MMLU")


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One router on one set."""

    paper: str
    router: str
    cpt50: float
    cpt80: float
    apgr: float | None = None


CONFIDENCE = "arXiv 2502.11021"
ROUTE_LLM = "arXiv 2406.18665"

_CONFIDENCE = """
random                  51.29 78.55  48.79 80.16  50.04 79.32
TO-Router kNN           59.72 90.39  47.93 79.03  43.73 77.74
TO-Router MLP           49.15 86.67  51.03 77.77  44.01 77.43
RouteLLM SW             56.08 78.37  46.03 79.58  47.41 74.23
RouteLLM MF             55.59 84.12  49.07 80.09  58.55 83.68
Confidence-Driven SW    27.31 55.61  48.03 80.41  37.96 73.85
Confidence-Driven MF    42.94 63.53  41.89 75.34  50.06 78.38
Confidence-Driven kNN   60.84 81.50  44.08 76.32  42.70 75.28
Confidence-Driven MLP   35.54 74.92  50.04 79.79  57.07 83.27
"""
"""Router, then CPT(50 %) and CPT(80 %) on each of SETS."""

_ROUTE_LLM = """
random                  49.03 78.08 .500  50.00 80.08 .497  50.07 79.93 .500
Arena: BERT             78.09 87.64 .391  58.78 83.84 .438  49.43 77.80 .502
Arena: Causal LLM       28.82 77.53 .573  56.09 83.56 .461  48.88 77.93 .499
Arena: MF               25.32 74.26 .580  53.59 85.24 .4746  45.00 76.86 .524
Arena: SW               37.85 58.99 .610  54.43 82.11 .4753  55.82 80.25 .473
augmented: BERT         19.58 34.02 .751  44.76 79.09 .531  41.30 72.20 .572
augmented: Causal LLM   31.50 48.75 .679  33.64 63.26 .622  35.49 70.31 .600
augmented: MF           13.40 31.31 .802  38.82 72.62 .565  35.46 71.40 .597
augmented: SW           23.21 36.04 .759  41.21 72.20 .568  35.40 71.55 .603
"""
"""Router, then CPT(50 %), CPT(80 %) and APGR on each of SETS."""


def published_rows(name: str) -> list[PublishedRow]:
    """What both papers printed for a set of this name; nothing for other sets."""
    if name not in SETS:
        return []
    place = SETS.index(name)
    return [*_rows(CONFIDENCE, _CONFIDENCE, place, 2), *_rows(ROUTE_LLM, _ROUTE_LLM, place, 3)]


def _rows(paper: str, table: str, place: int, columns: int) -> list[PublishedRow]:
    rows = []
    for line in table.strip().splitlines():
        words = line.split()
        values = [float(word) for word in words[-columns * len(SETS) :]]
        router = " ".join(words[: -columns * len(SETS)])
        rows.append(PublishedRow(paper, router, *values[place * columns : (place + 1) * columns]))
    return rows
