"""Reads other people's preference labels: RouteLLM's row format, also that of 2502.11021's released labels.

A row is {prompt, model_a, model_b, winner_model_a, winner_model_b, winner_tie} with a one-hot winner; the prompt is
text, or a JSON list of the user's turns. Trains nothing.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from edge_agent.training.label_sources import RoutingLabel

_WINNERS = ("winner_model_a", "winner_model_b", "winner_tie")
_COLUMNS = ("prompt", "model_a", "model_b", *_WINNERS)


def read_preferences(path: Path, *, weak: Collection[str], strong: Collection[str]) -> list[RoutingLabel]:
    """One label for each row that compares a weak model with a strong one; rows of other pairs are left out.

    Nobody graded the answers: `cloud_wins` is 1, 1/2 or 0, `strong` the same and `weak` what is left.

    :param path: CSV, JSON lines or Parquet, by its suffix.
    :raises ValueError: for another format, a row that is none, or when no row compares such models.
    """
    models: set[str] = set()
    labels = []
    for number, row in enumerate(_rows(path), 1):
        share = _winner_share(path, number, row)
        a, b = str(row["model_a"]), str(row["model_b"])
        models |= {a, b}
        if a in weak and b in strong:
            share = 1 - share
        elif not (a in strong and b in weak):
            continue
        labels.append(RoutingLabel(_last_turn(str(row["prompt"])), path.stem, 1 - share, share, share))
    if not labels:
        raise ValueError(
            f"{path}: expected rows that compare one of {', '.join(sorted(weak))} (weak) with one of"
            f" {', '.join(sorted(strong))} (strong), found the models {', '.join(sorted(models)) or 'none'}"
        )
    return labels


def _winner_share(path: Path, number: int, row: Mapping[str, Any]) -> float:
    """How far model_a won: 1, 1/2 or 0."""
    if lacking := [name for name in _COLUMNS if row.get(name) in (None, "")]:
        raise ValueError(f"{path}, row {number}: expected the columns {', '.join(_COLUMNS)}, lacks {lacking}")
    try:
        won = [float(row[name]) for name in _WINNERS]
    except (TypeError, ValueError):
        won = []
    if sorted(won) != [0, 0, 1]:
        found = {name: row[name] for name in _WINNERS}
        raise ValueError(f"{path}, row {number}: expected 1 in one of {', '.join(_WINNERS)}, 0 in the others: {found}")
    return won[0] + won[2] / 2


def _last_turn(prompt: str) -> str:
    """What the router would score: the last user message of a conversation."""
    if prompt.startswith("["):
        try:
            turns = json.loads(prompt)
        except ValueError:
            return prompt
        if turns and all(isinstance(turn, str) for turn in turns):
            return str(turns[-1])
    return prompt


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file)
    elif path.suffix == ".jsonl":
        with path.open(encoding="utf-8") as file:
            yield from map(json.loads, file)
    elif path.suffix == ".parquet":
        yield from pq.read_table(path).to_pylist()
    else:
        raise ValueError(
            f"{path}: expected preferences as .csv, .jsonl or .parquet, found {path.suffix or 'no suffix'}"
        )
