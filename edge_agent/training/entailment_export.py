"""A fine-tuned BERT with a classifier as an int8 ONNX cross-encoder. Trains nothing and needs no torch.

The graph is the encoder's (encoder_export.py) with BERT's own pooler and classifier on the first token instead of the
mean: inputs input_ids and attention_mask, output logits [batch, 3], as Hugging Face's exports have them.
"""

from __future__ import annotations

from typing import Any

from onnx import TensorProto, checker, helper, numpy_helper

from edge_agent.training.encoder_export import INPUTS, IR_VERSION, OPSET, Array, _Graph


def cross_encoder_graph(tensors: dict[str, Array], config: dict[str, Any], *, quantized: bool = True) -> bytes:
    """A serialized ONNX model.

    :param tensors: the encoder's, its pooler's, classifier.weight [labels, size] and classifier.bias [labels].
    :param config: of the encoder, as in its config.json.
    :param quantized: False gives the float32 twin, for comparisons.
    """
    graph = _CrossEncoder(tensors, config, quantized)
    return graph.with_output(graph.classified(graph.encoded()))


class _CrossEncoder(_Graph):
    def classified(self, hidden: str) -> str:
        first = self.op("Squeeze", self.op("Slice", hidden, [0], [1], [1]), [1])  # (batch, size)
        pooled = self.op("Tanh", self.linear(first, "pooler.dense"))
        weight, bias = self.tensor("classifier.weight"), self.tensor("classifier.bias")
        return self.op("Add", self.op("MatMul", pooled, weight.T), bias)  # three columns: not worth quantizing

    def with_output(self, output: str) -> bytes:
        self.nodes.append(helper.make_node("Identity", [output], ["logits"]))
        inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in INPUTS]
        shape: list[str | int | None] = ["batch", len(self.tensor("classifier.bias"))]
        outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)]
        weights = [numpy_helper.from_array(value, name) for name, value in self.constants.items()]
        graph = helper.make_graph(self.nodes, "cross-encoder", inputs, outputs, weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        checker.check_model(model)
        data: bytes = model.SerializeToString(deterministic=True)
        return data
