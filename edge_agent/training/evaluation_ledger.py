"""Remembers which routers were ever scored on the published sets: the more there were, the less the best one says.

A small file that is committed beside the results. A router is known by its fingerprint, so a rerun adds nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.files import sha256, write_file

PROBES = 32


@dataclass(frozen=True, slots=True)
class Configuration:
    """A router that was scored on published sets."""

    name: str
    sha256: str
    first_scored_utc: str


def fingerprint(scores: Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]], n_features: int) -> str:
    """The SHA-256 of what a head says to fixed made-up features: the same head, however it is stored."""
    probes = np.random.default_rng(0).normal(0, 0.05, (PROBES, n_features)).astype(np.float32)
    return sha256(" ".join(f"{score:.4e}" for score in scores(probes)).encode())


def read_ledger(path: Path) -> list[Configuration]:
    """The configurations so far; none without the file. :raises ValueError: when the file is something else."""
    if not path.is_file():
        return []
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(rows, list):
            raise TypeError(f"a {type(rows).__name__}")
        return [Configuration(**row) for row in rows]
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path}: expected a list of configurations, found something else ({error}); take it from the repository"
        ) from error


def record(path: Path, routers: Sequence[tuple[str, str]], now_utc: str) -> list[Configuration]:
    """Adds the (name, fingerprint) that are not there yet; returns all there are."""
    known = read_ledger(path)
    seen = {entry.sha256 for entry in known}
    new: dict[str, Configuration] = {}
    for name, digest in routers:
        if digest not in seen:
            new.setdefault(digest, Configuration(name, digest, now_utc))
    if new or not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [asdict(entry) for entry in [*known, *new.values()]]
        write_file(path, json.dumps(rows, indent=1).encode() + b"\n")
    return [*known, *new.values()]
