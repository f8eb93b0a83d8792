"""Takes exchanges that an owner forgot out of samples and labels. The inbox forgets by itself (inbox.py)."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from edge_agent.errors import EdgeAgentError
from edge_agent.files import write_file
from edge_agent.training.label_plots import entropy_histograms
from edge_agent.training.label_rows import read_labels, summary, to_table
from edge_agent.training.relabel_job import HISTOGRAMS, LABELS, SUMMARY
from edge_agent.training.sample_store import forget_samples, write_parquet


@dataclass(frozen=True, slots=True)
class Forgotten:
    """How many rows are gone."""

    samples: int
    labels: int


OUTPUTS = "outputs.txt"
"""Beside the stores of samples: the folders that labels of a log were written to, one a line."""


def remember_output(samples: Path, output: Path) -> None:
    """Note that a folder gets labels of a log, so that forgetting finds them."""
    known = outputs(samples)
    if output.absolute() not in known:
        samples.mkdir(parents=True, exist_ok=True)
        write_file(samples / OUTPUTS, "".join(f"{path}\n" for path in [*known, output.absolute()]).encode())


def outputs(samples: Path) -> list[Path]:
    """The folders that were noted."""
    notes = samples / OUTPUTS
    return [Path(line) for line in notes.read_text().splitlines()] if notes.is_file() else []


def forget(exchange_ids: Collection[str], samples: Path) -> Forgotten:
    """Remove everything that was made from these exchanges.

    :param samples: the folder with the stores of samples.
    :raises EdgeAgentError: when a relabelling is running, or a file cannot be read: whatever else there is has been
        looked at; run it again when that is mended.
    """
    if not exchange_ids:
        return Forgotten(0, 0)
    problems: list[str] = []

    def each(forget_in: Callable[[Path, Collection[str]], int], places: Iterable[Path]) -> int:
        count = 0
        for place in places:
            try:
                count += forget_in(place, exchange_ids)
            except (EdgeAgentError, pa.ArrowException, OSError, ValueError, LookupError) as error:
                problems.append(str(error))
        return count

    stores = [path.parent for path in samples.glob("*/settings.json")]
    gone = Forgotten(each(forget_samples, stores), each(_forget_labels, outputs(samples)))
    if problems:
        raise EdgeAgentError(f"not all is forgotten: {'; '.join(problems)}")
    return gone


def _forget_labels(folder: Path, exchange_ids: Collection[str]) -> int:
    """The rest is written without its recipe: the next relabelling looks at it anew."""
    for path in folder.glob(f".{LABELS}-*"):  # what a kill left half written
        path.unlink()
    if not (folder / LABELS).is_file():
        return 0
    rows = read_labels(folder / LABELS)
    kept = [row for row in rows if not {*(row["exchange_ids"] or ())} & {*exchange_ids}]
    if len(kept) < len(rows):
        write_parquet(folder / LABELS, to_table(kept))
        known = json.loads((folder / SUMMARY).read_text()) if (folder / SUMMARY).is_file() else {}
        write_file(folder / SUMMARY, json.dumps(known | summary(kept), indent=1).encode())
        write_file(folder / HISTOGRAMS, entropy_histograms(kept))
    return len(rows) - len(kept)
