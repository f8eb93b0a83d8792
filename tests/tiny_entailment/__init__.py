"""A cross-encoder of a few kilobytes that is real in every part: WordPiece tokenizer, ONNX graph, config.json.

It compares the last characters of premise and hypothesis: the same one, or a hypothesis that ends in `?`, is
entailment, two different digits are contradiction, anything else is neutral.
Make one by hand with `python -m tests.tiny_entailment DIRECTORY`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper
from tokenizers import Tokenizer, processors

from tests.tiny_router import VOCABULARY, tiny_tokenizer

LABELS = ("entailment", "neutral", "contradiction")
INPUTS = ("input_ids", "attention_mask")
MAX_TOKENS = 64


def make_tiny_entailment(
    directory: Path, *, labels: Sequence[str] = LABELS, inputs: Sequence[str] = INPUTS, garbage: bool = False
) -> Path:
    """Writes model.onnx, tokenizer.json and config.json; returns `directory`.

    :param labels: as config.json names them; the graph's outputs are in their order, as far as they are LABELS.
    :param inputs: with token_type_ids, these say where the premise ends; without, the first [SEP] does.
    :param garbage: the graph answers NaN.
    """
    directory.mkdir(parents=True, exist_ok=True)
    order = [LABELS.index(name) if name in LABELS else i for i, name in enumerate(labels)]
    (directory / "model.onnx").write_bytes(tiny_cross_encoder(order, inputs, garbage))
    (directory / "tokenizer.json").write_bytes(pair_tokenizer())
    config = {"id2label": {str(i): name for i, name in enumerate(labels)}, "max_position_embeddings": MAX_TOKENS + 2}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def pair_tokenizer() -> bytes:
    """The tiny router's tokenizer, taught to join two texts."""
    tokenizer = Tokenizer.from_str(tiny_tokenizer().decode())
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer.to_str().encode()


def tiny_cross_encoder(order: Sequence[int], inputs: Sequence[str], garbage: bool) -> bytes:
    """The rule of the module's docstring; logits of LABELS in this order, 3 for what holds and -3 for what does not."""
    characters = [token.removeprefix("##") for token in VOCABULARY]
    weights = {
        "sep": np.array(VOCABULARY.index("[SEP]")),
        "character": np.array([characters.index(c) for c in characters]),
        "digit": np.array([c.isdigit() for c in characters]),
        "asks": np.array([c == "?" for c in characters]),
        "back": np.array(2),
        "one": np.array(1),
        "axis": np.array([1]),
        "order": np.array(order),
        "scale": np.array(np.nan if garbage else 6, np.float32),
        "offset": np.array(-3, np.float32),
    }
    node = helper.make_node
    nodes = [
        *_premise_end("token_type_ids" in inputs),
        node("ReduceSum", ["attention_mask", "axis"], ["length"], keepdims=1),
        node("Sub", ["length", "back"], ["hypothesis_end"]),
        node("GatherElements", ["input_ids", "premise_end"], ["a"], axis=1),
        node("GatherElements", ["input_ids", "hypothesis_end"], ["b"], axis=1),
        *(node("Gather", [table, x], [f"{table}_{x}"]) for table in ("character", "digit", "asks") for x in "ab"),
        node("Equal", ["character_a", "character_b"], ["equal"]),
        node("Or", ["equal", "asks_b"], ["entailment"]),
        node("And", ["digit_a", "digit_b"], ["digits"]),
        node("Not", ["entailment"], ["not_entailment"]),
        node("And", ["digits", "not_entailment"], ["contradiction"]),
        node("Or", ["entailment", "contradiction"], ["decided"]),
        node("Not", ["decided"], ["neutral"]),
        node("Concat", list(LABELS), ["truth"], axis=1),
        node("Cast", ["truth"], ["number"], to=TensorProto.FLOAT),
        node("Mul", ["number", "scale"], ["scaled"]),
        node("Add", ["scaled", "offset"], ["all_logits"]),
        node("Gather", ["all_logits", "order"], ["logits"], axis=1),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in inputs]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(order)])
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "tiny", values, [logits], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    return model.SerializeToString()


def _premise_end(by_type: bool) -> list[object]:
    """Nodes for the place of the premise's last token, [batch, 1]."""
    node = helper.make_node
    if not by_type:
        return [
            node("Equal", ["input_ids", "sep"], ["is_sep"]),
            node("Cast", ["is_sep"], ["sep_number"], to=TensorProto.INT64),
            node("ArgMax", ["sep_number"], ["first_sep"], axis=1, keepdims=1),
            node("Sub", ["first_sep", "one"], ["premise_end"]),
        ]
    return [
        node("Sub", ["attention_mask", "token_type_ids"], ["first_part"]),  # padding has mask 0 and type 0
        node("ReduceSum", ["first_part", "axis"], ["first_length"], keepdims=1),
        node("Sub", ["first_length", "back"], ["premise_end"]),
    ]
