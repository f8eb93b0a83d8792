"""Which label sets teach a router what: the recipe of the one that ships, and how to read another. Trains nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from edge_agent.training.label_rows import read_labels
from edge_agent.training.label_set import CARD, LABELS, read_label_set, router_inputs
from edge_agent.training.questions import split_by
from edge_agent.training.router_export import load_encoder
from edge_agent.training.router_training import Part
from edge_agent.training.training_rows import training_rows

Progress = Callable[[str], object]
DEFAULT_TARGET = "entropy + correctness"


@dataclass(frozen=True, slots=True)
class Ingredient:
    """A label set by its directory, and what it teaches `score`."""

    directory: str
    target: str = DEFAULT_TARGET
    weight: float = 1.0
    """Of a row."""

    @classmethod
    def parse(cls, text: str) -> Ingredient:
        """From DIR[=TARGET[*WEIGHT]]. :raises ValueError: for a weight that is no positive number."""
        directory, _, rest = text.partition("=")
        target, _, weight = rest.partition("*")
        try:
            value = float(weight or 1)
        except ValueError:
            value = 0.0
        if not 0 < value < float("inf"):
            raise ValueError(f"--labels: expected DIR=TARGET*WEIGHT with a positive weight, found {text!r}")
        return cls(directory, target or DEFAULT_TARGET, value)


RECIPE = (
    Ingredient("qwen2.5-coder-0.5b-1.5b", "entropy, soft"),
    Ingredient("qwen2.5-coder-0.5b-1.5b-public", "difficulty", 2.0),
    Ingredient("graded-answers", "correctness, soft", 0.5),
)
"""Chosen on train and dev rows (docs/experiments.md); no published outcome was looked at."""

ENCODER = "minilm-l2-dc4143f6"
ENCODER_REASON = (
    "the knee of cross-validated APGR against latency and bytes (docs/evaluation/encoders.csv): .571 with two layers,"
    " .569 with three, .550 with all six, .542 without any"
)


def read_parts(sets: Path, recipe: Sequence[Ingredient], encoder: Path, progress: Progress = str) -> list[Part]:
    """The label sets of a recipe; a directory that is not in `sets` is taken as it is.

    What tools/relabel.py wrote will do as well: its texts are embedded here.

    :param encoder: its directory.
    :raises ValueError: for a set that is damaged or has no embeddings of this encoder; names both.
    """
    parts, local_model = list[Part](), None
    for one in recipe:
        directory = sets / one.directory if (sets / one.directory).is_dir() else Path(one.directory)
        rows, model = _read(directory, encoder)
        local_model = local_model or model
        progress(f"{directory}: {len(rows)} rows, score learns {one.target}")
        try:
            read = training_rows(rows, encoder.name)
        except ValueError as error:
            raise ValueError(f"{directory}: {error}; choose another encoder or make the set again") from error
        parts.append(Part(directory.name, read, one.target, one.weight, model is not None and model == local_model))
    return parts


def _read(directory: Path, encoder: Path) -> tuple[list[dict[str, Any]], str | None]:
    """The rows, and the SHA-256 of the local model, where it is known."""
    if (directory / CARD).is_file():
        rows, card = read_label_set(directory)
        return rows, dict(card["models"].get("local") or {}).get("sha256")
    if (directory / LABELS).is_file():
        return _embedded(read_labels(directory / LABELS), encoder), None
    raise FileNotFoundError(
        f"{directory}: expected a label set ({CARD}) or labels ({LABELS}), found neither; make them with"
        " tools/relabel.py or tools/publish_labels.py"
    )


def _embedded(labels: Sequence[Mapping[str, Any]], encoder: Path) -> list[dict[str, Any]]:
    """Labels as rows of a set; those without their text are left out, those of no split get one by their id."""
    embedders = {encoder.name: load_encoder(encoder).embed}
    texts = [label for label in labels if label["text"]]
    return [
        {**label, "split": label["split"] or split_by(label["query_id"])} | router_inputs(label["text"], embedders)
        for label in tqdm(texts, desc="embedding", disable=None)
    ]
