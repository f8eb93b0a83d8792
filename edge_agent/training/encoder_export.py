"""A sentence encoder's weights (BERT, safetensors) as one int8 ONNX graph with pooling inside. Trains no weight.

Weights are symmetric int8 with a scale per output channel, embeddings with a scale per row; activations are quantized
at run time (DynamicQuantizeLinear, MatMulInteger). Only operators of ONNX itself, opset 17. The graph is written here
node by node, so that neither torch nor a converter is needed, and queries, keys and values share one product.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, checker, helper, numpy_helper

from edge_agent.files import sha256, write_directory
from edge_agent.router import Encoder
from edge_agent.router_card import ENCODER_MODEL, TOKENIZER
from edge_agent.training.encoder_parity import REFERENCE, Reference, check, encoder_parity

Array = npt.NDArray[Any]
Input = str | Array | float | list[int]
"""Of a node: another node's output, a weight, a float32 scalar or an int64 list."""

OPSET, IR_VERSION = 17, 8
ENCODER_CARD = "encoder.json"
INPUTS = ["input_ids", "attention_mask"]
MAX_TOKENS = 128


@dataclass(frozen=True, slots=True)
class EncoderFiles:
    """An encoder before it has a directory: its graph, the float32 twin of that, and its tokenizer."""

    model: bytes
    twin: bytes
    tokenizer: bytes

    def encoder(self, *, twin: bool = False) -> Encoder:
        """The graph, or its twin, as the device runs it."""
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, ENCODER_MODEL).write_bytes(self.twin if twin else self.model)
            Path(directory, TOKENIZER).write_bytes(self.tokenizer)
            return Encoder(Path(directory), inputs=INPUTS, max_tokens=MAX_TOKENS)


def whole_encoder(source: Path) -> EncoderFiles:
    """The encoder of a sentence-transformers directory: config.json, model.safetensors, tokenizer.json."""
    return EncoderFiles(
        encoder_graph(source), encoder_graph(source, quantized=False), (source / TOKENIZER).read_bytes()
    )


def first_layers(source: Path, n: int) -> EncoderFiles:
    """The encoder that stops after the first n layers: the mean of their vectors is the embedding.

    :raises ValueError: when the model has fewer layers.
    """
    tensors, config = read_bert(source)
    if not 0 < n <= config["num_hidden_layers"]:
        raise ValueError(f"first: expected 1 to {config['num_hidden_layers']} layers, found {n}")
    config = {**config, "num_hidden_layers": n}
    model, twin = (graph_of(tensors, config, quantized=quantized) for quantized in (True, False))
    return EncoderFiles(model, twin, (source / TOKENIZER).read_bytes())


def source_card(source: Path) -> dict[str, Any]:
    """What `encoder.json` says of an encoder made from a sentence-transformers directory."""
    return {
        "source_sha256": sha256((source / "model.safetensors").read_bytes()),
        "quantization": "int8 weights per channel, activations at run time; embeddings int8 per row",
    }


def write_encoder(
    files: EncoderFiles, encoders: Path, name: str, card: Mapping[str, Any], *,
    twins: Path | None = None, texts: Sequence[str] | None = None,
) -> Path:  # fmt: skip
    """Writes `encoders`/<name>-<sha8>/{model.onnx, tokenizer.json, encoder.json, float32.npz}, whole or not at all.

    :param card: what `encoder.json` says besides name, inputs and parity.
    :param twins: where a directory of the same name with the float32 graph is written too.
    :param texts: what it is compared with its twin on; default our own generator's.
    :returns: the directory; when it was there already it is left as it is.
    :raises ValueError: when the graph is further from its twin than `encoder_parity.BOUNDS` allow.
    """
    reference = Reference.of(files.encoder(twin=True), texts)
    found = check(encoder_parity(files.encoder(), reference), name=name)
    about = {"name": name, "inputs": INPUTS, **card, "parity": found.to_row()}
    directory = f"{name}-{sha256(files.model)[:8]}"
    written = {TOKENIZER: files.tokenizer, ENCODER_CARD: json.dumps(about, indent=1).encode()}
    if twins:
        write_directory(twins / directory, {ENCODER_MODEL: files.twin, **written})
    return write_directory(
        encoders / directory, {ENCODER_MODEL: files.model, REFERENCE: reference.serialized(), **written}
    )


def encoder_graph(directory: Path, *, quantized: bool = True) -> bytes:
    """The encoder of a sentence-transformers directory as a serialized ONNX model.

    Inputs input_ids and attention_mask, int64 [batch, tokens]; output embedding, float [batch, dimension], L2 norm 1.

    :param directory: holds model.safetensors and config.json of a BERT with mean pooling.
    :param quantized: False gives the float32 twin, for comparisons.
    :raises ValueError: when config.json describes something else.
    """
    return graph_of(*read_bert(directory), quantized=quantized)


def read_bert(directory: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """Weights and config.json of a sentence-transformers directory. :raises ValueError: for another architecture."""
    config = json.loads((directory / "config.json").read_text())
    for key, expected in {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}.items():
        if config.get(key) != expected:
            raise ValueError(f"{directory}/config.json: {key}: expected {expected}, found {config.get(key)}")
    return read_safetensors(directory / "model.safetensors"), config


def graph_of(tensors: dict[str, Array], config: dict[str, Any], *, quantized: bool) -> bytes:
    """The graph of a BERT with these weights, named as in its safetensors file, and this config.json."""
    graph = _Graph(tensors, config, quantized)
    return graph.serialized(graph.pooled(graph.encoded()))


def graph_with(pooled: Callable[[_Graph], str], dimension: int) -> bytes:
    """The graph whose embedding, of this length, is the output that `pooled` adds to an empty one."""
    graph = _Graph({}, {"hidden_size": dimension}, True)
    return graph.serialized(pooled(graph))


def read_safetensors(path: Path) -> dict[str, Array]:
    """The float32 tensors of a safetensors file by name."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            begin, end = entry["data_offsets"]
            tensors[name] = np.frombuffer(data[start + begin : start + end], "<f4").reshape(entry["shape"])
    return tensors


def quantize(weight: Array, axis: int) -> tuple[Array, Array]:
    """Symmetric int8 values and their float32 scales, one scale per slice across `axis`: weight ~ values * scales."""
    scales = np.maximum(np.abs(weight).max(axis=axis, keepdims=True), 1e-12) / 127
    return np.clip(np.rint(weight / scales), -127, 127).astype(np.int8), scales.astype(np.float32)


class _Graph:
    """Nodes and weights in the making; each method adds a part of BERT and returns the name of its output."""

    def __init__(self, tensors: dict[str, Array], config: dict[str, Any], quantized: bool):
        self.tensors, self.config, self.quantized = tensors, config, quantized
        self.nodes: list[Any] = []
        self.constants: dict[str, Array] = {}

    def op(self, operator: str, *inputs: Input, **attributes: Any) -> str:
        return self.ops(1, operator, *inputs, **attributes)[0]

    def ops(self, n_outputs: int, operator: str, *inputs: Input, **attributes: Any) -> list[str]:
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        outputs = [f"{operator}_{len(self.nodes)}_{i}" for i in range(n_outputs)]
        self.nodes.append(helper.make_node(operator, names, outputs, **attributes))
        return outputs

    def constant(self, value: Array | float | list[int]) -> str:
        name = f"weight_{len(self.constants)}"
        kind = np.int64 if isinstance(value, list) else np.float32 if isinstance(value, float) else value.dtype
        self.constants[name] = (
            np.ascontiguousarray(np.asarray(value, kind)) if np.ndim(value) else np.asarray(value, kind)
        )
        return name

    def tensor(self, *path: object) -> Array:
        return self.tensors[".".join(map(str, path))]

    def encoded(self) -> str:
        hidden = self.begun()
        for layer in range(self.config["num_hidden_layers"]):
            hidden = self.layer(hidden, layer)
        return hidden

    def begun(self) -> str:
        """Token embeddings, and the masks that the layers need."""
        mask = self.op("Cast", "attention_mask", to=TensorProto.FLOAT)
        self.mask = self.op("Unsqueeze", mask, [2])  # (batch, tokens, 1)
        away = self.op("Mul", self.op("Sub", 1.0, mask), -1e4)
        self.penalty = self.op("Unsqueeze", away, [1, 2])  # (batch, 1, 1, tokens)
        return self.embedded()

    def layer(self, hidden: str, number: int) -> str:
        return self.transformed(self.attended(hidden, f"encoder.layer.{number}.attention"), f"encoder.layer.{number}")

    def embedded(self) -> str:
        words = self.tensor("embeddings.word_embeddings.weight")
        positions = self.tensor("embeddings.position_embeddings.weight")
        token_type = self.tensor("embeddings.token_type_embeddings.weight")[0]  # one text at a time: always type 0
        n_tokens = self.op("Slice", self.op("Shape", "input_ids"), [1], [2])
        hidden = self.op("Slice", positions + token_type, [0], n_tokens)
        return self.normalized(self.op("Add", self.rows(words), hidden), "embeddings")

    def rows(self, table: Array) -> str:
        if not self.quantized:
            return self.op("Gather", table, "input_ids")
        values, scales = quantize(table, axis=1)
        rows = self.op("Cast", self.op("Gather", values, "input_ids"), to=TensorProto.FLOAT)
        return self.op("Mul", rows, self.op("Gather", scales, "input_ids"))

    def attended(self, hidden: str, name: str) -> str:
        n_heads, size = self.config["num_attention_heads"], self.config["hidden_size"]
        factors = {"query": (size // n_heads) ** -0.5, "key": 1, "value": 1}  # softmax's scale goes into the weights
        weight = np.concatenate([self.tensor(name, "self", p, "weight") * f for p, f in factors.items()])
        bias = np.concatenate([self.tensor(name, "self", p, "bias") * f for p, f in factors.items()])
        parts = self.ops(3, "Split", self.product(hidden, weight, bias), [size] * 3, axis=2)
        heads = [self.op("Reshape", part, [0, 0, n_heads, size // n_heads]) for part in parts]
        orders = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
        query, key, value = (self.op("Transpose", head, perm=perm) for head, perm in zip(heads, orders, strict=True))
        weights = self.op("Softmax", self.op("Add", self.op("MatMul", query, key), self.penalty), axis=-1)
        mixed = self.op("Transpose", self.op("MatMul", weights, value), perm=[0, 2, 1, 3])
        mixed = self.op("Reshape", mixed, [0, 0, size])
        output = self.linear(mixed, f"{name}.output.dense")
        return self.normalized(self.op("Add", output, hidden), f"{name}.output")

    def transformed(self, hidden: str, name: str) -> str:
        wide = self.linear(hidden, f"{name}.intermediate.dense")
        erf = self.op("Erf", self.op("Div", wide, math.sqrt(2)))
        gelu = self.op("Mul", self.op("Mul", wide, self.op("Add", erf, 1.0)), 0.5)
        return self.normalized(self.op("Add", self.linear(gelu, f"{name}.output.dense"), hidden), f"{name}.output")

    def linear(self, hidden: str, name: str) -> str:
        return self.product(hidden, self.tensor(name, "weight"), self.tensor(name, "bias"))

    def product(self, hidden: str, weight: Array, bias: Array) -> str:
        """hidden @ weight.T + bias; weight is (outputs, inputs) as torch keeps it."""
        if not self.quantized:
            return self.op("Add", self.op("MatMul", hidden, weight.T), bias)
        values, scales = quantize(weight, axis=1)
        integers, scale, zero = self.ops(3, "DynamicQuantizeLinear", hidden)
        total = self.op("Cast", self.op("MatMulInteger", integers, values.T, zero), to=TensorProto.FLOAT)
        return self.op("Add", self.op("Mul", total, self.op("Mul", scale, scales[:, 0])), bias)

    def normalized(self, hidden: str, name: str) -> str:
        weight, bias = self.tensor(name, "LayerNorm.weight"), self.tensor(name, "LayerNorm.bias")
        return self.op("LayerNormalization", hidden, weight, bias, axis=-1, epsilon=self.config["layer_norm_eps"])

    def pooled(self, hidden: str) -> str:
        return self.op("LpNormalization", self.mean(hidden), axis=-1, p=2)

    def mean(self, hidden: str) -> str:
        total = self.op("ReduceSum", self.op("Mul", hidden, self.mask), [1], keepdims=0)
        return self.op("Div", total, self.op("ReduceSum", self.mask, [1], keepdims=0))

    def serialized(self, output: str) -> bytes:
        return self.with_outputs({"embedding": (output, ["batch", self.config["hidden_size"]])})

    def with_outputs(self, named: Mapping[str, tuple[str, list[str | int]]]) -> bytes:
        """The model; `named` gives each output's name the node's output behind it, and its shape."""
        self.nodes += [helper.make_node("Identity", [output], [name]) for name, (output, _) in named.items()]
        inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in INPUTS]
        outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, (_, shape) in named.items()]
        weights = [numpy_helper.from_array(value, name) for name, value in self.constants.items()]
        graph = helper.make_graph(self.nodes, "encoder", inputs, outputs, weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        checker.check_model(model)
        data: bytes = model.SerializeToString(deterministic=True)
        return data
