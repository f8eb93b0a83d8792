"""The features of many texts, as the device computes them, kept for the next run. Knows no label."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm  # type: ignore[import-untyped]

from edge_agent import text_features
from edge_agent.router import Encoder


def features_of(
    encoder: Encoder, texts: Sequence[str], *, cache: Path | None = None, name: str = "encoder"
) -> npt.NDArray[np.float32]:
    """The features of texts, one at a time and unpadded as on the device; shape (texts, features).

    :param cache: directory that keeps them for the next run.
    :param name: tells encoders apart in the cache.
    """
    path = cache / f"embeddings-{name}-{encoder.max_tokens}.npz" if cache else None
    known = _read_cache(path)
    keys = [hashlib.sha256(text.encode("utf-8", "replace")).hexdigest() for text in texts]
    missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
    for key, text in tqdm(missing.items(), desc="embedding", disable=None):
        known[key] = encoder.embed(text)
    if path and missing:
        _write_cache(path, known)
    features = [np.concatenate([known[k], text_features.text_features(t)]) for k, t in zip(keys, texts, strict=True)]
    return np.stack(features)


def _read_cache(path: Path | None) -> dict[str, npt.NDArray[np.float32]]:
    if path is None or not path.is_file():
        return {}
    with np.load(path) as stored:
        return dict(zip(stored["keys"].tolist(), stored["embeddings"], strict=True))


def _write_cache(path: Path, known: Mapping[str, npt.NDArray[np.float32]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}-{os.getpid()}")
    with beside.open("wb") as file:
        np.savez(file, keys=np.array(list(known)), embeddings=np.stack(list(known.values())))
    beside.replace(path)
