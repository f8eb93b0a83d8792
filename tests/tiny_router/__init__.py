"""A router of a few kilobytes that is real in every part: WordPiece tokenizer, int8 MatMulInteger encoder, head, card.

A text with a word that starts with "hard" among its first or last 62 tokens scores above 0.9, any other below 0.1.
Make one by hand with `python -m tests.tiny_router DIRECTORY`.
"""

from __future__ import annotations

import hashlib
import json
import string
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from edge_agent import text_features

DIMENSION = 8
INPUTS = ["input_ids", "attention_mask"]
THRESHOLD = 0.5
VERSION = "tiny-1"
GOLDEN = ["this is hard", "turn on the light", "", "Hard: what is 2 + 2?"]
CHARACTERS = string.ascii_lowercase + string.digits + string.punctuation
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "hard", *CHARACTERS, *(f"##{c}" for c in CHARACTERS)]
HARD = VOCABULARY.index("hard")


def make_tiny_router(directory: Path, *, version: str = VERSION) -> Path:
    """Writes the tree router_models/ would have into `directory`; returns `directory`/current."""
    card = json.dumps({"name": "tiny", "inputs": INPUTS}).encode()
    files = {"model.onnx": tiny_encoder(), "tokenizer.json": tiny_tokenizer(), "encoder.json": card}
    encoder = directory / "encoders" / f"tiny-{_sha256(files['model.onnx'])[:8]}"
    encoder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (encoder / name).write_bytes(data)
    bundle = directory / version
    bundle.mkdir(exist_ok=True)
    (bundle / "head.onnx").write_bytes(tiny_head())
    (bundle / "router.json").write_text(json.dumps(_card(bundle, encoder, version), indent=1))
    current = directory / "current"
    current.unlink(missing_ok=True)
    current.symlink_to(version)
    _add_golden(current)
    return current


def tiny_tokenizer() -> bytes:
    """A lower-casing WordPiece tokenizer that knows "hard", letters and digits."""
    tokenizer = Tokenizer(models.WordPiece({token: i for i, token in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer.to_str().encode()


def tiny_encoder() -> bytes:
    """Token vectors, one dynamically quantized int8 product, maximum over the tokens, L2 norm."""
    table = np.random.default_rng(0).uniform(-1, 1, (len(VOCABULARY), DIMENSION)).astype(np.float32)
    table[:, 0] = 0
    table[HARD, 0] = 6
    weights = {
        "table": table,
        "identity": (127 * np.eye(DIMENSION)).astype(np.int8),
        "scale": np.array(1 / 127, np.float32),
        "last": np.array([2], np.int64),
        "far": np.array(-1e4, np.float32),
        "one": np.array(1, np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["tokens"]),
        helper.make_node("DynamicQuantizeLinear", ["tokens"], ["quantized", "quantized_scale", "zero"]),
        helper.make_node("MatMulInteger", ["quantized", "identity", "zero"], ["product"]),
        helper.make_node("Cast", ["product"], ["product_float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["quantized_scale", "scale"], ["scales"]),
        helper.make_node("Mul", ["product_float", "scales"], ["hidden"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["one", "mask"], ["padding"]),
        helper.make_node("Mul", ["padding", "far"], ["penalty"]),
        helper.make_node("Unsqueeze", ["penalty", "last"], ["penalty_column"]),
        helper.make_node("Add", ["hidden", "penalty_column"], ["masked"]),
        helper.make_node("ReduceMax", ["masked"], ["pooled"], axes=[1], keepdims=0),
        helper.make_node("LpNormalization", ["pooled"], ["embedding"], axis=-1, p=2),
    ]
    inputs = {name: (TensorProto.INT64, ["batch", "tokens"]) for name in INPUTS}
    return _model(nodes, weights, inputs, {"embedding": ["batch", DIMENSION]})


def tiny_head() -> bytes:
    """A logistic head that looks at the "hard" axis, and a little at everything else."""
    n_features = DIMENSION + len(text_features.NAMES)
    weight = np.full((n_features, 1), 0.05, np.float32)
    weight[0] = 9
    nodes = [
        helper.make_node("MatMul", ["features", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["score"]),
    ]
    weights = {"weight": weight, "bias": np.array([-4.5], np.float32)}
    return _model(nodes, weights, {"features": (TensorProto.FLOAT, ["batch", n_features])}, {"score": ["batch", 1]})


def edit_card(bundle: Path, **changes: Any) -> None:
    """Overwrites fields of a bundle's card; None removes a field."""
    path = bundle / "router.json"
    card = {name: value for name, value in {**json.loads(path.read_text()), **changes}.items() if value is not None}
    path.write_text(json.dumps(card))


def replace_file(bundle: Path, name: str, data: bytes) -> None:
    """Overwrites a file of a bundle and its hash on the card; `name` as in the card's `files`."""
    (bundle.resolve() / name).write_bytes(data)
    files = json.loads((bundle / "router.json").read_text())["files"]
    edit_card(bundle, files={**files, name: _sha256(data)})


def _card(bundle: Path, encoder: Path, version: str) -> dict[str, Any]:
    paths = {"head.onnx": bundle / "head.onnx"}
    paths |= {f"../encoders/{encoder.name}/{name}": encoder / name for name in ("model.onnx", "tokenizer.json")}
    return {
        "format": 1,
        "version": version,
        "input": "last_user_message",
        "encoder": f"../encoders/{encoder.name}",
        "encoder_inputs": INPUTS,
        "dimension": DIMENSION,
        "max_tokens": 128,
        "features": list(text_features.NAMES),
        "features_version": text_features.VERSION,
        "heads": {"score": "whether the text has the word hard"},
        "threshold": THRESHOLD,
        "threshold_head": "score",
        "threshold_rule": "between the two kinds of text",
        "calibration": {"method": "none"},
        "metrics": {},
        "trained_on": {},
        "files": {name: _sha256(path.read_bytes()) for name, path in paths.items()},
        "golden": [{"text": "turn on the light", "score": 0.02}],
    }


def _add_golden(bundle: Path) -> None:
    from edge_agent.router import RouterModel

    router = RouterModel.load(bundle)
    edit_card(bundle, golden=[{"text": text, "score": round(router.score_text(text), 6)} for text in GOLDEN])


def _model(
    nodes: list[Any], weights: dict[str, Any], inputs: dict[str, tuple[int, list[Any]]], outputs: dict[str, list[Any]]
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    serialized: bytes = model.SerializeToString()
    return serialized


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
