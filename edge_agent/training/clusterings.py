"""How answers are clustered in a relabelling: an equivalence by name, and a fingerprint of what it depends on.

Knows where the models are; what the names mean, equivalences.py knows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edge_agent.errors import ConfigError
from edge_agent.training.entailment import find_model
from edge_agent.training.equivalences import named
from edge_agent.training.meaning import Equivalence
from edge_agent.training.meaning_judge import JudgeEquivalence
from edge_agent.training.semantic_entropy import Rule

DEFAULT = "value+entailment"
KINDS = ("entailment", "exact", "embedding", "judge")
NAMES = (*KINDS, *(f"value+{kind}" for kind in KINDS))


@dataclass(frozen=True, slots=True)
class Clustering:
    """Picklable, so that other machines can do the same."""

    name: str
    """As in labels: the equivalence's, and the rule or the judge where one was chosen."""
    make: Callable[[], Equivalence]
    fingerprint: str
    """Of the models it uses: labels made with others are other labels."""


def clustering(
    name: str = DEFAULT,
    *,
    models: Path,
    entailment: Path | None = None,
    rule: Rule | None = None,
    judge: tuple[str, str, str | None] | None = None,
    cache: Path | None = None,
) -> Clustering:
    """The clustering of this name.

    :param models: router_models/, with entailment/ and encoders/.
    :param entailment: a directory with another entailment model.
    :param rule: on its verdicts; None is what its card says.
    :param judge: (base URL, model, key) of a language model.
    :param cache: an SQLite file that keeps verdicts between runs.
    :raises ConfigError: for another name, and for a judge that is not named. :raises ModelError: without its model.
    """
    if name not in NAMES:
        raise ConfigError(f"clustering: expected one of {', '.join(NAMES)}, found {name!r}")
    kind = name.removeprefix("value+")
    if kind == "entailment":
        directory = entailment or find_model(models)
        make = partial(named, name, model=directory, rule=rule, cache=cache)
        return Clustering(f"{name} {rule}" if rule else name, make, _fingerprint(directory))
    if kind == "embedding":
        directory = _encoder(models)
        return Clustering(name, partial(named, name, encoder=directory), directory.name)
    if kind == "judge":
        if judge is None:
            raise ConfigError(f"clustering {name}: expected a language model to ask; name one with --judge URL#model")
        base_url, model, key = judge
        asked = partial(JudgeEquivalence, base_url, model, key=key)
        return Clustering(f"{name} {model}", partial(named, name, judge=asked), base_url)
    return Clustering(name, partial(named, name), "")


def _encoder(models: Path) -> Path:
    found = sorted(card.parent for card in (models / "encoders").glob("*/encoder.json"))
    if not found:
        raise ConfigError(
            f"{models / 'encoders'}: expected an encoder, found none; make one with tools/export_encoder.py"
        )
    return found[0]


def _fingerprint(directory: Path) -> str:
    """Of the model's file and of what is said of it: a card's threshold changes labels too."""
    digest = hashlib.sha256()
    for name in ("model.onnx", "card.json", "config.json"):
        if (directory / name).is_file():
            digest.update((directory / name).read_bytes())
    return digest.hexdigest()
