"""Trained heads as a bundle the device loads: head.onnx, and router.json with hashes, figures and golden pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime  # type: ignore[import-untyped]

from edge_agent import text_features
from edge_agent.files import sha256, write_directory
from edge_agent.router import Encoder, RouterModel
from edge_agent.router_card import CARD, ENCODER_MODEL, FORMAT, HEAD, TOKENIZER
from edge_agent.training.encoder_export import ENCODER_CARD
from edge_agent.training.encoder_parity import Reference, check, encoder_parity
from edge_agent.training.head_graph import head_graph
from edge_agent.training.router_training import TrainedRouter

PARITY = 1e-4
"""Largest difference between a score of head.onnx (float32) and of its numpy original (float64)."""

GOLDEN_TEXTS = (
    "",
    "hi",
    "Turn off the lamp next to the sofa.",
    "Set the heating in the bathroom to 21 degrees at six in the morning.",
    "Which river flows through the capital of Austria?",
    "Who led the orchestra at the first performance of the piece, and in which year was that?",
    "What is 48 * 17 - 5% of 300?",
    "Prove that there are infinitely many primes of the form 4k + 3.",
    "def total(xs):\n    return sum(xs) / len(xs)\n\nWhy does this fail for an empty list?",
    "Écris un poème de quatre vers sur l'hiver.",
    "Is the back door locked, and did anybody ring the bell while I was away? " * 12,
)
"""Written for this purpose; one is longer than any router reads."""


def load_encoder(directory: Path, *, max_tokens: int = 128) -> Encoder:
    """The encoder in a directory that `export_encoder` wrote."""
    card = json.loads((directory / ENCODER_CARD).read_text())
    return Encoder(directory, inputs=card["inputs"], max_tokens=max_tokens)


def export_bundle(
    router: TrainedRouter, encoder: Encoder, encoder_directory: Path, output: Path, *, version: str, rule: str
) -> Path:
    """Writes `output`/<version>/{head.onnx, router.json}; it gets that name once it has loaded as on the device.

    :param encoder_directory: a directory in `output`/encoders.
    :param rule: in words, how the threshold was chosen.
    :raises ValueError: when head.onnx does not compute what the trained heads do, or when its scores by the int8
        encoder are too far from those by the float32 twin.
    """
    features = np.stack([encoder.features(text) for text in GOLDEN_TEXTS])
    head = head_graph({name: (h.head, h.calibration) for name, h in router.heads.items()}, features.shape[1])
    scores = _checked(head, router, features)
    parity = encoder_parity(
        encoder,
        Reference.read(encoder_directory),
        scores=router.heads["score"].probabilities,
        threshold=router.threshold,
    )
    check(parity, name=str(encoder_directory))
    golden = [{"text": t, "score": round(float(s), 4)} for t, s in zip(GOLDEN_TEXTS, scores, strict=True)]
    card = {
        "format": FORMAT,
        "version": version,
        "input": "last_user_message_in_context",
        "encoder": f"../encoders/{encoder_directory.name}",
        "encoder_inputs": json.loads((encoder_directory / ENCODER_CARD).read_text())["inputs"],
        "dimension": encoder.dimension,
        "max_tokens": encoder.max_tokens,
        "features": list(text_features.NAMES),
        "features_version": text_features.VERSION,
        "heads": {name: HEAD_WORDS[name] for name in router.heads},
        "threshold": router.threshold,
        "threshold_head": "score",
        "threshold_rule": rule,
        "calibration": router.calibration,
        "metrics": router.metrics | {"parity_with_float32": parity.to_row()},
        "trained_on": router.trained_on,
        "files": _hashes(head, encoder_directory),
        "golden": golden,
    }
    files = {HEAD: head, CARD: (json.dumps(card, indent=1, ensure_ascii=False) + "\n").encode()}
    return write_directory(output / version, files, check=RouterModel.load)


HEAD_WORDS = {
    "score": "P(the cloud model is right and the local model is wrong)",
    "acceptable": "P(the local answer is good enough)",
}


def _checked(head: bytes, router: TrainedRouter, features: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The scores of head.onnx, which are those of the trained head."""
    names = list(router.heads)
    session = onnxruntime.InferenceSession(head, providers=["CPUExecutionProvider"])
    outputs = session.run(names, {"features": features.astype(np.float32)})
    found = {name: output[:, 0] for name, output in zip(names, outputs, strict=True)}
    for name, values in found.items():
        difference = float(np.abs(values - router.heads[name].probabilities(features)).max())
        if not difference <= PARITY:
            raise ValueError(
                f"head.onnx: {name}: differs from the trained head by {difference:.1e}, expected at most {PARITY}"
            )
    return np.asarray(found["score"])


def _hashes(head: bytes, encoder_directory: Path) -> dict[str, str]:
    files = {name: (encoder_directory / name).read_bytes() for name in (ENCODER_MODEL, TOKENIZER)}
    return {HEAD: sha256(head)} | {f"../encoders/{encoder_directory.name}/{n}": sha256(d) for n, d in files.items()}
