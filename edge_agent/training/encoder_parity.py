"""How closely a quantized encoder follows its float32 twin, in embeddings and in the scores of a head.

The twin is large and stays where the encoder was made. Its embeddings of a thousand questions of our own generator go
with the encoder (`float32.npz`), so that whoever trains a head can check it without the twin.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent import text_features
from edge_agent.router import Encoder
from edge_agent.training.questions import generate

REFERENCE = "float32.npz"
N_TEXTS = 1000
TEXTS_SEED = 1000

BOUNDS = {
    "cosine_mean": (0.99, None),
    "cosine_min": (0.97, None),
    "score_difference_mean": (None, 0.01),
    "score_difference_max": (None, 0.05),
    "spearman": (0.99, None),
    "flipped": (None, 0.03),
}
"""Figure -> (least, most) that `check` lets pass."""

Scores = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
"""Features, (n, dimension + text features), to scores, (n,)."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Texts, and the float32 twin's embeddings of them."""

    texts: tuple[str, ...]
    embeddings: npt.NDArray[np.float32]
    """(texts, dimension)"""

    @classmethod
    def of(cls, twin: Encoder, texts: Sequence[str] | None = None) -> Reference:
        """What the twin makes of some texts; by default of the questions of our own generator."""
        chosen = parity_texts() if texts is None else list(texts)
        return cls(tuple(chosen), np.stack([twin.embed(text) for text in chosen]))

    @classmethod
    def read(cls, directory: Path) -> Reference:
        """What was kept with an encoder. :raises FileNotFoundError: when nothing was."""
        path = directory / REFERENCE
        if not path.is_file():
            raise FileNotFoundError(f"{path}: expected float32 embeddings, found none; export the encoder again")
        with np.load(path) as stored:
            texts = stored["texts"].tobytes().decode().split("\0")
            return cls(tuple(texts), stored["embeddings"].astype(np.float32))

    def serialized(self) -> bytes:
        """For REFERENCE; embeddings as float16, 2e-4 of a unit vector at most."""
        file, texts = io.BytesIO(), np.frombuffer("\0".join(self.texts).encode(), np.uint8)
        np.savez_compressed(file, texts=texts, embeddings=self.embeddings.astype(np.float16))
        return file.getvalue()


@dataclass(frozen=True, slots=True)
class Parity:
    """What quantization changed, over the texts of a Reference."""

    n_texts: int
    cosine_mean: float
    cosine_min: float
    score_difference_mean: float | None = None
    """The last four need a head."""
    score_difference_max: float | None = None
    spearman: float | None = None
    """Rank correlation of the two scores."""
    flipped: float | None = None
    """Share of the decisions at the threshold that differ."""

    def to_row(self) -> dict[str, float]:
        """The figures there are, for a card."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def encoder_parity(
    encoder: Encoder, reference: Reference, *, scores: Scores | None = None, threshold: float | None = None
) -> Parity:
    """Compares an encoder with its twin, one text at a time and unpadded, as on the device.

    :param scores: of a head, to say what the difference does to it.
    :param threshold: decisions are compared here.
    """
    embeddings = np.stack([encoder.embed(text) for text in reference.texts])
    cosines = np.sum(embeddings * reference.embeddings, axis=1)
    found: dict[str, float] = {"cosine_mean": cosines.mean(), "cosine_min": cosines.min()}
    if scores:
        features = np.stack([text_features.text_features(text) for text in reference.texts])
        ours, theirs = (scores(np.hstack([part, features])) for part in (embeddings, reference.embeddings))
        apart = np.abs(ours - theirs)
        found |= {"score_difference_mean": apart.mean(), "score_difference_max": apart.max()}
        found |= {"spearman": spearman(ours, theirs)}
        if threshold is not None:
            found |= {"flipped": np.mean((ours >= threshold) != (theirs >= threshold))}
    return Parity(len(reference.texts), **{name: round(float(value), 5) for name, value in found.items()})


def check(parity: Parity, *, name: str) -> Parity:
    """The parity itself. :raises ValueError: naming each figure beyond BOUNDS."""
    beyond = []
    for figure, value in parity.to_row().items():
        least, most = BOUNDS.get(figure, (None, None))
        if (least is not None and not value >= least) or (most is not None and not value <= most):
            beyond.append(
                f"{figure}: expected {'at least' if most is None else 'at most'} {least or most}, found {value}"
            )
    if beyond:
        raise ValueError(f"{name} is too far from float32: {'; '.join(beyond)}; export the encoder again")
    return parity


def spearman(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> float:
    """Spearman's rank correlation, ties at their mean rank; two constants agree, one agrees with nothing."""
    ours, theirs = _ranks(first), _ranks(second)
    constant = [np.ptp(ours) == 0, np.ptp(theirs) == 0]
    return float(all(constant)) if any(constant) else float(np.corrcoef(ours, theirs)[0, 1])


def _ranks(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    ranks: npt.NDArray[np.float64] = np.cumsum(count) - (count - 1) / 2
    return ranks[place]


def parity_texts(n: int = N_TEXTS) -> list[str]:
    """Questions of our own generator, and some other texts a device meets: commands, pages, other scripts, nothing."""
    others = ["", "?", "ok", "turn the kitchen light off", "Merci beaucoup, à demain !", "Как дела?", "今日の天気は？"]
    others += ["😀😀😀", "a" * 300, "7" * 50, "Is the back door locked, and did anybody ring? " * 12]
    return others + [question.text for question in generate(n - len(others), TEXTS_SEED)]
