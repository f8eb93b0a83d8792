"""A trained head as a bundle the device loads: head.onnx, and router.json with hashes and golden pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime  # type: ignore[import-untyped]
from onnx import TensorProto, checker, helper, numpy_helper

from edge_agent import text_features
from edge_agent.files import sha256, write_directory
from edge_agent.router import Encoder, RouterModel
from edge_agent.router_card import CARD, ENCODER_MODEL, FORMAT, HEAD, TOKENIZER
from edge_agent.training.encoder_export import ENCODER_CARD, IR_VERSION, OPSET
from edge_agent.training.router_training import LogisticHead, TrainedRouter

PARITY = 1e-6
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


def head_graph(head: LogisticHead) -> bytes:
    """The head as a serialized ONNX model: features, float [batch, n], to score, float [batch, 1]."""
    n_features = len(head.weight)
    weights = {"weight": head.weight[:, None], "bias": np.array([head.bias])}
    nodes = [
        helper.make_node("MatMul", ["features", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["score"]),
    ]
    graph = helper.make_graph(
        nodes,
        "head",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", n_features])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch", 1])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    checker.check_model(model)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def export_bundle(
    router: TrainedRouter, encoder: Encoder, encoder_directory: Path, output: Path, *, version: str, rule: str
) -> Path:
    """Writes `output`/<version>/{head.onnx, router.json}; it gets that name once it has loaded as on the device.

    :param encoder_directory: a directory in `output`/encoders.
    :param rule: in words, how the threshold was chosen.
    :raises ValueError: when head.onnx does not compute what the trained head does.
    """
    head = head_graph(router.trained.head)
    features = np.stack([encoder.features(text) for text in GOLDEN_TEXTS])
    scores = _run(head, features)
    difference = float(np.abs(scores - router.trained.head.scores(features)).max())
    if difference > PARITY:
        raise ValueError(f"head.onnx differs from the trained head by {difference:.1e}, expected at most {PARITY}")
    golden = [{"text": t, "score": round(float(s), 4)} for t, s in zip(GOLDEN_TEXTS, scores, strict=True)]
    card = {
        "format": FORMAT,
        "version": version,
        "input": "last_user_message",
        "encoder": f"../encoders/{encoder_directory.name}",
        "encoder_inputs": json.loads((encoder_directory / ENCODER_CARD).read_text())["inputs"],
        "dimension": encoder.dimension,
        "max_tokens": encoder.max_tokens,
        "features": list(text_features.NAMES),
        "features_version": text_features.VERSION,
        "heads": {"score": "P(the cloud model is right and the local model is wrong)"},
        "threshold": router.trained.threshold,
        "threshold_head": "score",
        "threshold_rule": rule,
        "calibration": router.trained.calibration,
        "metrics": router.metrics,
        "trained_on": router.trained_on,
        "files": _hashes(head, encoder_directory),
        "golden": golden,
    }
    files = {HEAD: head, CARD: (json.dumps(card, indent=1, ensure_ascii=False) + "\n").encode()}
    return write_directory(output / version, files, check=RouterModel.load)


def _hashes(head: bytes, encoder_directory: Path) -> dict[str, str]:
    files = {name: (encoder_directory / name).read_bytes() for name in (ENCODER_MODEL, TOKENIZER)}
    return {HEAD: sha256(head)} | {f"../encoders/{encoder_directory.name}/{n}": sha256(d) for n, d in files.items()}


def _run(head: bytes, features: npt.NDArray[Any]) -> npt.NDArray[Any]:
    session = onnxruntime.InferenceSession(head, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["score"], {"features": features.astype(np.float32)})[0])[:, 0]
