"""Heads as ONNX: features, float [batch, d], to one output for each calibrated head, float [batch, 1].

Only ONNX's own float operators, opset of the encoder: every processor has them. Trains nothing, writes no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, checker, helper, numpy_helper

from edge_agent.training.calibration import CLIP, Calibration
from edge_agent.training.encoder_export import IR_VERSION, OPSET
from edge_agent.training.router_heads import (
    NEIGHBOUR_TIE,
    Head,
    LinearHead,
    NeighbourHead,
    NetworkHead,
    SimilarityHead,
    int8_step,
)

INPUT = "features"


class _Graph:
    """Nodes and weights of a graph under construction; names are prefixed by the head they belong to."""

    def __init__(self, prefix: str):
        self.prefix, self.nodes, self.weights = prefix, list[NodeProto](), list[TensorProto]()

    def weight(self, name: str, value: Any, dtype: npt.DTypeLike = np.float32) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), f"{self.prefix}_{name}"))
        return f"{self.prefix}_{name}"

    def node(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        made = output or f"{self.prefix}_{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [made], **attributes))
        return made


def head_graph(heads: Mapping[str, tuple[Head, Calibration]], n_features: int) -> bytes:
    """The serialized model; its outputs have the names of the heads."""
    nodes, weights = list[NodeProto](), list[TensorProto]()
    for name, (head, calibration) in heads.items():
        graph = _Graph(name)
        _calibrated(graph, _raw(graph, head), calibration, output=name)
        nodes += graph.nodes
        weights += graph.weights
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "head",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", n_features])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1]) for name in heads],
            weights,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    checker.check_model(model)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _raw(graph: _Graph, head: Head) -> str:
    """The raw score, float [batch, 1]."""
    if isinstance(head, LinearHead):
        return _layer(graph, INPUT, head.weight[:, None], [head.bias], "linear")
    if isinstance(head, NetworkHead):
        hidden = graph.node("Relu", _layer(graph, INPUT, head.w1, head.b1, "first"))
        return _layer(graph, hidden, head.w2[:, None], [head.b2], "second")
    if isinstance(head, SimilarityHead):
        scaled = graph.node("Mul", _similarity(graph, head.embeddings), graph.weight("log_gamma", np.log(head.gamma)))
        weights = graph.node("Exp", graph.node("Sub", scaled, graph.weight("shift", np.log(head.gamma))))
        both = graph.weight("targets", np.stack([head.weight * head.target, head.weight], axis=1))
        sums = graph.node("MatMul", weights, both)
        first, second = (graph.weight(f"column_{i}", [i], np.int64) for i in (0, 1))
        parts = [graph.node("Gather", sums, column, axis=1) for column in (first, second)]
        return graph.node("Div", *parts)
    if isinstance(head, NeighbourHead):
        return _nearest(graph, head)
    raise TypeError(f"expected a head of router_heads, found {type(head).__name__}")


def _layer(graph: _Graph, rows: str, weight: Any, bias: Any, name: str) -> str:
    product = graph.node("MatMul", rows, graph.weight(f"{name}_weight", weight))
    return graph.node("Add", product, graph.weight(f"{name}_bias", bias))


def _similarity(graph: _Graph, embeddings: npt.NDArray[Any]) -> str:
    """Cosines to the stored questions, [batch, n]; these are int8, or the head would be larger than a megabyte."""
    scale = int8_step(embeddings)
    stored = graph.weight("embeddings", np.round(embeddings.T / scale), np.int8)
    table = graph.node("Mul", graph.node("Cast", stored, to=TensorProto.FLOAT), graph.weight("scale", scale))
    bounds = [graph.weight(n, [v], np.int64) for n, v in (("start", 0), ("end", embeddings.shape[1]), ("axis", 1))]
    return graph.node("MatMul", graph.node("Slice", INPUT, *bounds), table)


def _nearest(graph: _Graph, head: NeighbourHead) -> str:
    """Mean target of the k nearest, plus a little of their mean cosine."""
    values, indices = f"{graph.prefix}_closeness", f"{graph.prefix}_nearest"
    inputs = [_similarity(graph, head.embeddings), graph.weight("k", [head.k], np.int64)]
    graph.nodes.append(helper.make_node("TopK", inputs, [values, indices], axis=1))
    targets = graph.node("Gather", graph.weight("targets", head.target), indices)
    means = [graph.node("ReduceMean", part, axes=[1], keepdims=1) for part in (targets, values)]
    return graph.node("Add", means[0], graph.node("Mul", means[1], graph.weight("tie", NEIGHBOUR_TIE)))


def _calibrated(graph: _Graph, raw: str, calibration: Calibration, *, output: str) -> None:
    """The probability, as `Calibration.apply` computes it."""
    if calibration.method == "platt":
        scaled = graph.node("Mul", raw, graph.weight("slope", calibration.slope))
        probability = graph.node("Sigmoid", graph.node("Add", scaled, graph.weight("offset", calibration.offset)))
    else:
        x, y = np.array(calibration.points).T
        beyond = graph.node("Max", graph.node("Sub", raw, graph.weight("knots", x[None, :-1])), graph.weight("zero", 0))
        within = graph.node("Min", beyond, graph.weight("widths", np.diff(x)[None, :]))
        rise = graph.weight("slopes", (np.diff(y) / np.diff(x))[:, None])
        probability = graph.node("Add", graph.node("MatMul", within, rise), graph.weight("lowest", y[:1]))
    graph.node("Clip", probability, graph.weight("least", CLIP), graph.weight("most", 1 - CLIP), output=output)
