"""The ways to cluster answers, by name. Builds equivalences; knows where their models are.

`value` compares what answers say where that can be read (numbers, dates, choices, lists) and leaves the others to
`entailment`; each of the others can be had alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edge_agent.errors import ConfigError
from edge_agent.training.entailment import EntailmentModel, find_model
from edge_agent.training.equivalences import (
    EmbeddingEquivalence,
    EntailmentEquivalence,
    ExactEquivalence,
    ValueEquivalence,
)
from edge_agent.training.meaning import Equivalence
from edge_agent.training.meaning_judge import JudgeEquivalence
from edge_agent.training.router_export import load_encoder
from edge_agent.training.semantic_entropy import Rule

CLUSTERINGS = ("value", "entailment", "exact", "embedding", "judge")


@dataclass(frozen=True, slots=True)
class Clustering:
    """How answers are clustered; picklable, so that other machines can do the same."""

    name: str
    """As in labels: the equivalence, and the rule where one was chosen."""
    make: Callable[[], Equivalence]
    fingerprint: str
    """Of the models it uses: labels made with others are other labels."""


def clustering(
    name: str,
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
    :param judge: (base URL, model, key) of a language model, for `judge`.
    :param cache: an SQLite file that keeps verdicts between runs.
    :raises ConfigError: for another name, and for `judge` without one.
    """
    if name == "exact":
        return Clustering(name, ExactEquivalence, "")
    if name == "embedding":
        (encoder,) = sorted((models / "encoders").glob("*/encoder.json"))[:1]
        return Clustering(name, partial(_embedding, encoder.parent), encoder.parent.name)
    if name == "judge":
        if judge is None:
            raise ConfigError("clustering judge: expected a language model to ask; name one with --judge URL#model")
        return Clustering(f"judge {judge[1]}", partial(_judge, *judge), judge[0])
    if name not in ("value", "entailment"):
        raise ConfigError(f"clustering: expected one of {', '.join(CLUSTERINGS)}, found {name!r}")
    directory = entailment or find_model(models / "entailment")
    made = _value if name == "value" else _entailment
    called = " ".join([name, *([rule] if rule else [])])
    return Clustering(called, partial(made, directory, rule, cache), _fingerprint(directory))


def _value(directory: Path, rule: Rule | None, cache: Path | None) -> Equivalence:
    return ValueEquivalence(_entailment(directory, rule, cache))


def _entailment(directory: Path, rule: Rule | None, cache: Path | None) -> Equivalence:
    return EntailmentEquivalence(EntailmentModel.load(directory, cache=cache), rule=rule)


def _embedding(directory: Path) -> Equivalence:
    return EmbeddingEquivalence(load_encoder(directory))


def _judge(base_url: str, model: str, key: str | None) -> Equivalence:
    return JudgeEquivalence(base_url, model, key=key)


def _fingerprint(directory: Path) -> str:
    """Of the model's file and of what is said of it: a card's threshold changes labels too."""
    digest = hashlib.sha256()
    for name in ("model.onnx", "card.json", "config.json"):
        if (directory / name).is_file():
            digest.update((directory / name).read_bytes())
    return digest.hexdigest()
