"""Remembers how far each judge agreed with recorded grades: who reads its verdicts is to be told. Judges nothing."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge_agent.errors import ConfigError
from edge_agent.files import write_file
from edge_agent.training.judge import Judge
from edge_agent.training.judge_agreement import Agreement


def remember(path: Path, judge: Judge, found: Agreement, *, clock: Callable[[], float] = time.time) -> None:
    """Write what was found of this judge into a JSON file beside what is known of others."""
    checked_utc = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(clock()))
    known = _read(path) | {
        _key(judge): {"judge": judge.name, "trusted": found.trusted, "checked_utc": checked_utc, **asdict(found)}
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, json.dumps(known, indent=1, sort_keys=True).encode())


def recall(path: Path, judge: Judge) -> str:
    """One sentence on whether the judge may be trusted. :raises ConfigError: when the file holds something else."""
    known = _read(path).get(_key(judge))
    if known is None:
        return f"judge {judge.name} was not checked: run `judge_answers.py agreement` first, its verdicts may be noise"
    kappa = "kappa {value:.2f} [{low:.2f}, {high:.2f}]".format(**known["kappa"])
    verdict = "trusted" if known["trusted"] else "NOT trusted"
    return f"judge {judge.name} is {verdict}: {kappa} with recorded grades, {known['checked_utc'][:10]}"


def _key(judge: Judge) -> str:
    return hashlib.sha256(json.dumps([judge.name, judge.fingerprint]).encode()).hexdigest()[:16]


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path}: expected what is known of judges, found something else; remove it") from error
