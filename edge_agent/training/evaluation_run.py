"""One evaluation: scores routers on outcome sets, writes numbers, figures and the page. Reads no data set.

A run may cover some of the sets only; what an earlier run found for the others stays.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.files import write_file
from edge_agent.training import evaluation_plots as plots
from edge_agent.training.evaluation import Floats
from edge_agent.training.evaluation_ledger import read_ledger, record
from edge_agent.training.evaluation_page import FOLDER, difference, page
from edge_agent.training.evaluation_report import (
    BARS,
    LIKELIHOOD,
    ORACLE,
    SET_TASK_TYPE,
    Router,
    Settings,
    baselines,
    report,
)
from edge_agent.training.outcomes import OutcomeSet

REWRITE = "take it from the repository, or delete it and evaluate again"
NUMBERS, LEDGER, PAGE = "evaluation.json", "ledger.json", "evaluation.md"
ORDER = ("MT-Bench", "GSM8K", "MMLU")
"""Sets on the page; others follow as they come."""

Features = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scorer:
    """A router that can score."""

    router: Router
    scores: Callable[[Features], npt.NDArray[Any]]
    """(n, d) features to (n,) scores, higher goes to the cloud."""


def evaluate(
    sets: Sequence[OutcomeSet],
    scorers: Sequence[Scorer],
    features: Callable[[Sequence[str]], Features],
    docs: Path,
    settings: Settings,
    *,
    now_utc: str,
    progress: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """Scores, writes `docs`/evaluation.md and `docs`/evaluation/, and returns the numbers.

    :param features: of texts, what the scorers read; not asked when there are no scorers.
    :param now_utc: for the ledger, which is written before anything is scored.
    """
    folder = docs / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    whole = [one for one in scorers if not one.router.is_partial]
    if any(one.is_published for one in sets):
        record(folder / LEDGER, [(one.router.name, one.router.sha256) for one in whole], now_utc)
    found = {}
    for one in sets:
        scores = _scores(one, whole if one.is_published else scorers, features)
        found[one.name] = report(one, scores, settings, progress=lambda row, one=one: progress(f"{one.name}: {row}"))  # type: ignore[misc]
        for name, data in _figures(one, scores, found[one.name], settings).items():
            write_file(folder / name, data)
    merged = {one["name"]: one for one in _earlier(folder)} | found
    numbers = _numbers(merged, settings, folder)
    write_file(folder / NUMBERS, to_json(numbers))
    write_file(docs / PAGE, page(numbers).encode())
    return numbers


def check(docs: Path) -> str | None:
    """What is wrong with the page; None when it says what the numbers say.

    :raises FileNotFoundError: when there are no numbers, or no page. :raises ValueError: when the numbers are none.
    """
    numbers = read_numbers(docs)
    try:
        return difference((docs / PAGE).read_text(encoding="utf-8", errors="replace"), numbers)
    except (LookupError, TypeError, AttributeError) as error:
        found = f"found something else ({type(error).__name__}: {error})"
        raise ValueError(f"{docs / FOLDER / NUMBERS}: expected this tool's numbers, {found}; {REWRITE}") from error


def read_numbers(docs: Path) -> dict[str, Any]:
    """The numbers of the last runs. :raises ValueError: when the file is something else."""
    path = docs / FOLDER / NUMBERS
    try:
        numbers = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, found something else ({error}); {REWRITE}") from error
    if not isinstance(numbers, dict) or not isinstance(numbers.get("sets"), list):
        raise ValueError(f"{path}: expected an object with sets, found something else; {REWRITE}")
    return numbers


def to_json(numbers: Mapping[str, Any]) -> bytes:
    """JSON in which a list of numbers is one line."""
    text = json.dumps(numbers, indent=1, ensure_ascii=False)
    return re.sub(r"\[\s+([^][{}]*?)\s+\]", lambda m: "[" + " ".join(m[1].split()) + "]", text).encode() + b"\n"


def _numbers(sets: Mapping[str, Mapping[str, Any]], settings: Settings, folder: Path) -> dict[str, Any]:
    names = sorted(sets, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))
    samples = plots.quality_by_samples([sets[name] for name in names])
    for name, data in samples.items():
        write_file(folder / name, data)
    return {
        "settings": asdict(settings),
        "configurations": len(read_ledger(folder / LEDGER)),
        "has_samples_figure": bool(samples),
        "sets": [sets[name] for name in names],
    }


def _earlier(folder: Path) -> list[dict[str, Any]]:
    return list(read_numbers(folder.parent)["sets"]) if (folder / NUMBERS).is_file() else []


def _scores(
    outcomes: OutcomeSet, scorers: Sequence[Scorer], features: Callable[[Sequence[str]], Features]
) -> list[tuple[Router, Floats]]:
    if not scorers:
        return []
    rows = features(outcomes.texts)
    return [(one.router, _checked(one, np.asarray(one.scores(rows), dtype=float), len(rows))) for one in scorers]


def _checked(scorer: Scorer, scores: Floats, n: int) -> Floats:
    if scores.shape != (n,) or not np.isfinite(scores).all():
        found = f"shape {scores.shape}, {int((~np.isfinite(scores)).sum())} of them no numbers"
        raise ValueError(f"router {scorer.router.name}: expected {n} scores, found {found}; train it again")
    return scores


def _figures(
    outcomes: OutcomeSet, scores: Sequence[tuple[Router, Floats]], found: Mapping[str, Any], settings: Settings
) -> dict[str, bytes]:
    if found["unusable"]:
        return {}
    files = plots.cost_quality(outcomes, _drawn(outcomes, scores, found), oracle=ORACLE, seed=settings.seed)
    for router, score in scores:
        if router.is_shipped:
            files |= plots.scores_by_outcome(outcomes, score)
    return files


def _drawn(
    outcomes: OutcomeSet, scores: Sequence[tuple[Router, Floats]], found: Mapping[str, Any]
) -> dict[str, Floats]:
    """The shipped router, the two bars, one router of each label source, what the set itself knows, the oracle."""
    shipped = [router for router, _ in scores if router.is_shipped]
    by_source: dict[str, tuple[Router, Floats]] = {}
    for router, score in sorted(
        scores, key=lambda pair: (pair[0].head not in [s.head for s in shipped], -pair[0].n_train)
    ):
        if not (router.is_shipped or router.is_partial):
            by_source.setdefault(router.label_source, (router, score))
    free = baselines(outcomes)
    bars = {found["bars"][bar]: free[found["bars"][bar]] for bar in BARS}
    others = {name: free[name] for name in (SET_TASK_TYPE, LIKELIHOOD, ORACLE) if name in free}
    drawn = {router.name: score for router, score in scores if router.is_shipped}
    return drawn | bars | {router.name: score for router, score in by_source.values()} | others
