"""What `edge-agent threshold` found, as lines for people. Computes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_AROUND = 3
"""Steps of a guarantee shown on either side of the chosen one."""


def score_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """The table of thresholds, what came of the labels, and the line for config.yaml."""
    yield from _origin(facts)
    rows = facts["candidates"]
    yield from _table(_columns(rows), [_score_cells(row) for row in rows])
    if not facts["labels"]:
        yield "quality is not known: rate answers with `edge-agent feedback ID good` or `bad`, or name --labels DIR"
    yield "* chosen   + in use now"
    yield ""
    yield "into config.yaml, as `threshold` of the section `router`:"
    yield f"router.threshold: {facts['chosen']['threshold']:g}"


def guarantee_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """What is promised, the thresholds that were tested, and what to type next."""
    made = facts["guarantee"]
    yield from _origin(facts)
    at = next(i for i, step in enumerate(facts["steps"]) if step["threshold"] == made["threshold"])
    shown = facts["steps"][max(at - _AROUND, 0) : at + _AROUND + 1]
    header = ("", "acceptable >", "accepted", "wrong", "coverage", "bound", "")
    yield from _table(header, [_step_cells(step, made["threshold"]) for step in shown])
    yield ""
    yield _promise(made)
    if facts["labels_from"] == "ratings":
        yield "it holds for questions like the rated ones: were answers rated as they came, or mostly the bad ones?"
    if week := facts["last_week"]:
        yield f"last week: {week['escalated']} of {week['questions']} questions would have gone to the cloud"
    yield "valid for: " + ", ".join(f"{_word(name)} {value[:19]}" for name, value in made["valid_for"].items())
    if facts["bundle"]:
        yield f"written: {facts['bundle']}; `current` is what it was; docs/publishing.md says how to publish it"
    else:
        yield "nothing was written; --write puts it on the card of a new bundle"


def _promise(made: Mapping[str, Any]) -> str:
    base = f"{made['n']} labels, {made['n_accepted']} accepted, {made['n_wrong']} of them wrong"
    if made["kind"] == "marginal":
        return (
            f"guarantee: at most {made['alpha']:.3g} of all questions get a wrong local answer, on average over sets of"
            f" labels, when local answers need acceptable > {made['threshold']:g} ({base})"
        )
    return (
        f"guarantee: at most {made['alpha']:.3g} of the accepted local answers are wrong, with confidence"
        f" {1 - made['delta']:.4g}, when local answers need acceptable > {made['threshold']:g}"
        f" ({base}: at most {made['bound']:.4f})"
    )


def _word(name: str) -> str:
    return name.removesuffix("_sha256").replace("_", " ")


def _origin(facts: Mapping[str, Any]) -> Iterator[str]:
    log = f"{facts['log_questions']} questions of the log"
    labels = f", {facts['label_set_questions']} of the label set" if facts["label_set_questions"] else ""
    yield f"router {facts['router']}, {log}{labels}"
    if facts["left_out"]:
        others = ", ".join(f"{version} ({count})" for version, count in sorted(facts["left_out"].items()))
        yield f"left out: {sum(facts['left_out'].values())} questions that other routers scored: {others}"


def _columns(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    week = next((row["last_week"]["questions"] for row in rows if row["last_week"]), 0)
    last = (f"last week: of {week}", "cost") if week else ("last week", "cost")
    return ("", "threshold", "cloud", "cost/day", "quality", "95 %", "pgr", "95 %", *last)


def _score_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    week = row["last_week"] or {}
    return (
        ("*" if row["chosen"] else "") + ("+" if row["now"] else ""),
        f"{row['threshold']:g}",
        f"{row['cloud_share']:.1%}",
        _money(row["cost_per_day"]),
        _number(row["quality"]),
        _interval(row["quality_95"]),
        _number(row["pgr"]),
        _interval(row["pgr_95"]),
        str(week["escalated"]) if week else "-",
        _money(week.get("cost")),
    )


def _step_cells(step: Mapping[str, Any], chosen: float) -> tuple[str, ...]:
    mark = "*" if step["threshold"] == chosen else ""
    verdict = "holds" if step["passed"] else "does not hold"
    counts = (str(step["n_accepted"]), str(step["n_wrong"]), f"{step['coverage']:.1%}", f"{step['bound']:.4f}")
    return (mark, f"{step['threshold']:.2f}", *counts, verdict)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _money(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _interval(pair: Sequence[float] | None) -> str:
    return "-" if pair is None else f"{pair[0]:.3f} to {pair[1]:.3f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Right-aligned columns; those without a value in any row are left out."""
    kept = [i for i in range(len(header)) if any(row[i] not in ("", "-") for row in rows)]
    widths = [max(len(line[i]) for line in (header, *rows)) for i in kept]
    for line in (header, *rows):
        yield "  ".join(line[i].rjust(width) for i, width in zip(kept, widths, strict=True)).rstrip()
