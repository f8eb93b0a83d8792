"""What `edge-agent compare` found, as facts for programs and as lines for people. Computes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from edge_agent.display import ID_LENGTH, aligned
from edge_agent.router_comparison import CELLS, Comparison

NOTHING = "no question of the log was scored by a router and by a candidate; set router.shadow and restart the daemon"


def facts(comparison: Comparison, n_examples: int, question_of: Callable[[str], str]) -> dict[str, Any]:
    """The comparison as JSON; of the questions that differ, the first so many.

    :param question_of: the first words of the question of an exchange, by its id.
    """
    differences = comparison.differences[:n_examples]
    shown = [asdict(difference) | {"question": question_of(difference.id)} for difference in differences]
    return asdict(comparison) | {"enough": comparison.enough, "differences": shown}


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The same for a person."""
    low, high = found["differ_share_95"]
    yield f"router     {found['router_version']}: {found['cloud_share']:.1%} to the cloud"
    yield f"candidate  {found['shadow_router_version']}: {found['shadow_cloud_share']:.1%} to the cloud"
    rho = found["rank_correlation"]
    ranks = "not defined: one of them gives every question the same score" if rho is None else f"{rho:.3f}"
    yield f"questions  {found['questions']:,} scored by both{_left_out(found)}"
    yield f"differ     {found['differ_share']:.1%} of them (95 %: {low:.1%} to {high:.1%})"
    yield f"order      rank correlation {ranks}"
    yield ""
    yield from _table(found["cells"])
    yield ""
    if not found["enough"]:
        yield f"too few to tell: between {low:.0%} and {high:.0%} of the questions may differ; let it watch longer"
    if found["differences"]:
        yield "where they differ most:"
        yield from aligned([_example(difference) for difference in found["differences"]])


def _left_out(found: Mapping[str, Any]) -> str:
    counts = {"the candidate could not score": found["failed"], "of other versions, left out": found["other_pairs"]}
    return "".join(f"; {count:,} {words}" for words, count in counts.items() if count)


def _table(cells: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    header = ("to the cloud by", "questions", "rated good", "rated bad", "local tokens", "cloud tokens")
    names = {"both local": "neither"} | {"both cloud": "both"}
    rows = [(names.get(name, name), *(f"{count:,}" for count in cells[name].values())) for name in CELLS]
    return aligned([header, *rows], right={1, 2, 3, 4, 5})


def _example(difference: Mapping[str, Any]) -> tuple[str, ...]:
    by = "router" if difference["score"] >= difference["threshold"] else "candidate"
    scores = [
        f"{who} {difference[score]:.2f} of {difference[limit]:.2f}"
        for who, score, limit in (("router", "score", "threshold"), ("candidate", "shadow_score", "shadow_threshold"))
    ]
    return difference["id"][:ID_LENGTH], f"cloud by the {by}", *scores, difference["question"]
