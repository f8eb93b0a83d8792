"""Guarantees on local answers: the threshold on `acceptable` that labelled questions justify. Pure; reads no file.

The local answer is taken when acceptable > threshold. For questions exchangeable with the labelled ones, and the models
they were labelled with,

    marginal:  P(local wrong and accepted) <= alpha                        conformal risk control, arXiv 2208.02814
    selective: P(local wrong | accepted) <= alpha, confidence 1 - delta    Clopper-Pearson, fixed sequence of tests

The two differ by the share that is accepted: a marginal .05 with one answer in ten accepted may be wrong on half.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edge_agent.errors import ThresholdError

Floats = npt.NDArray[np.float64]
Kind = Literal["selective", "marginal"]

GRID = tuple(i / 100 for i in range(50, 100))
"""Thresholds on `acceptable` that may be chosen, fixed before any label is seen."""
MOST_LABELS = 1_000_000
"""Nobody makes more: what needs more has no number of labels."""
VALID_FOR = ("local_model_sha256", "prompt_template_sha256", "head_sha256", "encoder_sha256", "router_version")
"""What a guarantee is about; a change of any ends it."""


@dataclass(frozen=True, slots=True)
class Guarantee:
    """What is promised of the local answers that are taken when `head` > `threshold`; one entry of a card's list."""

    kind: Kind
    threshold: float
    alpha: float
    """The promised error: of the accepted answers (selective), or of all questions (marginal)."""
    delta: float | None
    """How often a set of labels may mislead; None for marginal, which holds on average over such sets."""
    n: int
    """Labelled questions."""
    n_accepted: int
    n_wrong: int
    """Of the accepted ones."""
    bound: float
    """The upper bound that had to be at most alpha."""
    coverage: float
    """Share of the labelled questions that is accepted."""
    date_utc: str
    valid_for: Mapping[str, str]
    """Hashes and version, by the names in VALID_FOR."""
    head: str = "acceptable"

    def to_card(self) -> dict[str, Any]:
        """For `guarantees` of a router's card."""
        return asdict(self)

    @classmethod
    def from_card(cls, entry: object) -> Guarantee:
        """The guarantee of a card's entry. :raises ThresholdError: naming what is missing or wrong."""
        if not isinstance(entry, dict):
            raise ThresholdError(f"guarantees: expected objects, found {entry!r:.80}; take the bundle again")
        for name, (expected, is_right) in _CARD_CHECKS.items():
            if not is_right(entry.get(name)):
                found = repr(entry[name])[:80] if name in entry else "nothing"
                raise ThresholdError(f"guarantees: {name}: expected {expected}, found {found}; take the bundle again")
        return cls(**{field.name: entry[field.name] for field in fields(cls)})


def void_reason(guarantee: Guarantee, facts: Mapping[str, str | None]) -> str | None:
    """Why a guarantee does not hold here, naming what changed; None when it does.

    :param facts: what is in use, by the names in VALID_FOR; what is not known counts as changed.
    """
    for name in VALID_FOR:
        promised, found = guarantee.valid_for[name], facts.get(name)
        if promised != found:
            what = name.removesuffix("_sha256").replace("_", " ")
            short = "unknown" if found is None else found[:16]
            return f"the {what} changed: the guarantee is for {promised[:16]}, found {short}; label and calibrate anew"
    return None


def clopper_pearson_upper(k: int, m: int, delta: float) -> float:
    """The largest rate that k or fewer of m still has probability delta under: BetaInv(1 - delta; k + 1, m - k)."""
    if k >= m:
        return 1.0
    low, high = k / m, 1.0
    coefficients = _log_binomials(k, m)
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if _tail(coefficients, m, middle) > delta else (low, middle)
    return high


def min_accepted(alpha: float, delta: float) -> int:
    """Accepted answers without one error among them that show an error of at most alpha."""
    return math.ceil(math.log(delta) / math.log1p(-alpha) - 1e-9)


def min_labels(alpha: float) -> int:
    """Labels without which conformal risk control can never promise alpha."""
    return math.ceil(1 / alpha - 1 - 1e-9)


def marginal_threshold(acceptable: Floats, wrong: Floats, *, alpha: float, grid: Sequence[float] = GRID) -> float:
    """The smallest threshold with P(local wrong and accepted) <= alpha; infinite when there is none."""
    _, errors = accepted_counts(acceptable, wrong, grid)
    passed = np.flatnonzero((errors + 1) / (len(acceptable) + 1) <= alpha)
    return float(grid[passed[0]]) if len(passed) else math.inf


def selective_threshold(
    acceptable: Floats,
    wrong: Floats,
    *,
    alpha: float,
    delta: float,
    grid: Sequence[float] = GRID,
    fewest: int | None = None,
) -> float:
    """The smallest threshold with P(local wrong | accepted) <= alpha at confidence 1 - delta; infinite without one.

    :param fewest: thresholds that accept fewer are skipped; at least, and by default, `min_accepted`.
    """
    passed = [grid[i] for i, good in _fixed_sequence(acceptable, wrong, alpha, delta, grid, fewest) if good]
    return float(passed[-1]) if passed else math.inf


def accepted_counts(
    acceptable: Floats, wrong: Floats, grid: Sequence[float] = GRID
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """(accepted, wrong among them) at each threshold of the grid: acceptable > threshold."""
    order = np.argsort(acceptable, kind="stable")
    below = np.searchsorted(acceptable[order], grid, side="right")
    errors = np.concatenate([[0], np.cumsum(np.asarray(wrong, dtype=np.intp)[order])])
    return len(acceptable) - below, errors[-1] - errors[below]


def guarantee(
    acceptable: Floats,
    wrong: Floats,
    *,
    alpha: float,
    delta: float | None,
    valid_for: Mapping[str, str],
    date_utc: str,
    grid: Sequence[float] = GRID,
    fewest: int | None = None,
) -> Guarantee:
    """The guarantee that labelled questions give, with the smallest threshold that has it.

    :param acceptable: calibrated P(local answer good enough), by a head that was not fitted on these labels; (n,).
    :param wrong: whether the local answer was wrong; (n,) of booleans.
    :param delta: None: marginal. Otherwise selective with confidence 1 - delta.
    :raises ThresholdError: when no threshold has it; `labels_missing` says how many would, None when none would.
    """
    _check_promise(acceptable, wrong, alpha, delta)
    n = len(acceptable)
    if delta is None:
        threshold = marginal_threshold(acceptable, wrong, alpha=alpha, grid=grid)
    else:
        threshold = selective_threshold(acceptable, wrong, alpha=alpha, delta=delta, grid=grid, fewest=fewest)
    if math.isinf(threshold):
        raise _infeasible(acceptable, wrong, alpha, delta, grid, fewest)
    accepted, errors = (int(counts[0]) for counts in accepted_counts(acceptable, wrong, [threshold]))
    bound = (errors + 1) / (n + 1) if delta is None else clopper_pearson_upper(errors, accepted, delta)
    kind: Kind = "marginal" if delta is None else "selective"
    coverage = accepted / n
    return Guarantee(kind, threshold, alpha, delta, n, accepted, errors, bound, coverage, date_utc, dict(valid_for))


@dataclass(frozen=True, slots=True)
class Step:
    """One threshold and what the labels say of it."""

    threshold: float
    n_accepted: int
    n_wrong: int
    coverage: float
    bound: float
    passed: bool


def steps(
    acceptable: Floats,
    wrong: Floats,
    *,
    alpha: float,
    delta: float | None,
    grid: Sequence[float] = GRID,
    fewest: int | None = None,
) -> list[Step]:
    """Every threshold that was looked at, from strict to loose: those of the fixed sequence, or for marginal all."""
    n = len(acceptable)
    accepted, errors = (counts.tolist() for counts in accepted_counts(acceptable, wrong, grid))
    if delta is None:
        bounds = {i: (k + 1) / (n + 1) for i, k in enumerate(errors)}
        tests = [(i, bounds[i] <= alpha) for i in range(len(grid) - 1, -1, -1)]
    else:
        tests = list(_fixed_sequence(acceptable, wrong, alpha, delta, grid, fewest))
        bounds = {i: clopper_pearson_upper(errors[i], accepted[i], delta) for i, _ in tests}
    return [Step(grid[i], accepted[i], errors[i], accepted[i] / n, bounds[i], good) for i, good in tests]


def _fixed_sequence(
    acceptable: Floats,
    wrong: Floats,
    alpha: float,
    delta: float,
    grid: Sequence[float],
    fewest: int | None,
) -> Iterator[tuple[int, bool]]:
    """(index in the grid, whether it passed), from strict to loose, up to the first that fails.

    Each test errs with probability delta at most, and a test counts only when all before it passed: so does the whole.
    What is skipped depends on `acceptable` alone, never on the labels.
    """
    least = max(min_accepted(alpha, delta), fewest or 0)
    accepted, errors = accepted_counts(acceptable, wrong, grid)
    for i in range(len(grid) - 1, -1, -1):
        if accepted[i] < least:
            continue
        passed = shows(int(errors[i]), int(accepted[i]), alpha, delta)
        yield i, passed
        if not passed:
            return


def shows(k: int, m: int, alpha: float, delta: float) -> bool:
    """Whether k wrong of m show an error of at most alpha: clopper_pearson_upper(k, m, delta) <= alpha, but quicker."""
    return k < m and _tail(_log_binomials(k, m), m, alpha) <= delta * (1 + 1e-12)


def _log_binomials(k: int, m: int) -> Floats:
    """ln C(m, i) for i = 0 .. k."""
    i = np.arange(1, k + 1)
    return np.concatenate([[0.0], np.cumsum(np.log((m - i + 1) / i))])


def _tail(log_binomials: Floats, m: int, p: float) -> float:
    """P(X <= k), X binomial (m, p)."""
    if not 0 < p < 1:
        return 1.0 if p <= 0 else 0.0
    i = np.arange(len(log_binomials))
    logs = log_binomials + i * math.log(p) + (m - i) * math.log1p(-p)
    top = logs.max()
    return float(math.exp(top) * np.exp(logs - top).sum())


def _check_promise(acceptable: Floats, wrong: Floats, alpha: float, delta: float | None) -> None:
    if not 0 < alpha < 1 or not (delta is None or 0 < delta < 1):
        raise ThresholdError(f"expected alpha and delta between 0 and 1, found {alpha} and {delta}")
    if len(acceptable) != len(wrong) or not np.isfinite(acceptable).all():
        found = f"{len(acceptable)} scores, {int(np.sum(~np.isfinite(acceptable)))} not finite, {len(wrong)} labels"
        raise ThresholdError(f"expected a finite score for each label, found {found}")


def _infeasible(
    acceptable: Floats, wrong: Floats, alpha: float, delta: float | None, grid: Sequence[float], fewest: int | None
) -> ThresholdError:
    """Why no threshold has the guarantee, and how many labels more might give it one."""
    n = len(acceptable)
    accepted, errors = accepted_counts(acceptable, wrong, grid)
    if delta is None:
        if n < min_labels(alpha):
            return _too_few(min_labels(alpha) - n, f"{n} labels cannot promise an error of {alpha:g}")
        rate, least = errors[-1] / n, f"{errors[-1]} of {n} answers are wrong and accepted even at {grid[-1]:g}"
        missing = None if rate >= alpha else math.ceil((1 - alpha) / (alpha - rate)) - n
        return _too_few(missing, least)
    if (most := int(accepted[0])) < (needed := max(min_accepted(alpha, delta), fewest or 0)):
        what = f"an error of {alpha:g} at confidence {1 - delta:g} takes {needed} accepted answers, found {most} of {n}"
        missing = math.ceil((needed - most) * n / most) if most else None if n else needed
        return _too_few(missing, what)
    i = next(i for i, passed in _fixed_sequence(acceptable, wrong, alpha, delta, grid, fewest) if not passed)
    k, m = int(errors[i]), int(accepted[i])
    upper = clopper_pearson_upper(k, m, delta)
    what = f"{k} of the {m} answers accepted at {grid[i]:g} are wrong: up to {upper:.3f} where {alpha:g} was asked"
    more = _accepted_needed(k / m, alpha, delta)
    return _too_few(None if more is None else math.ceil((more - m) * n / m), what)


def _accepted_needed(rate: float, alpha: float, delta: float) -> int | None:
    """Accepted answers that show an error of at most alpha when this rate of them is wrong; None when none do."""
    if rate >= alpha:
        return None
    m = min_accepted(alpha, delta)
    while m <= MOST_LABELS:
        if shows(math.ceil(rate * m), m, alpha, delta):
            return m
        m = math.ceil(m * 1.05)
    return None


def _too_few(missing: int | None, why: str) -> ThresholdError:
    if missing is None:
        step = "more labels will not help: allow a larger error, or train a better router"
    else:
        missing = max(missing, 1)
        step = f"about {missing} more labels are missing; label more, or allow a larger error"
    return ThresholdError(f"no threshold has this guarantee: {why}; {step}", labels_missing=missing)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


_CARD_CHECKS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "head": ("acceptable", lambda value: value == "acceptable"),
    "kind": ("selective or marginal", lambda value: value in ("selective", "marginal")),
    **{name: ("a number", _is_number) for name in ("threshold", "alpha", "bound", "coverage")},
    "delta": ("a number or null", lambda value: value is None or _is_number(value)),
    **{name: ("a whole number", _is_count) for name in ("n", "n_accepted", "n_wrong")},
    "date_utc": ("a time", lambda value: isinstance(value, str)),
    "valid_for": (
        f"an object with {', '.join(VALID_FOR)}",
        lambda value: isinstance(value, dict) and all(isinstance(value.get(name), str) for name in VALID_FOR),
    ),
}
"""Field of an entry -> what it is, and whether a value is that."""
