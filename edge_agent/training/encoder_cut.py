"""Leaves layers of a BERT out and makes up for them by linear maps, fitted in closed form. Needs no torch.

Each gap between layers becomes one product: the ridge regression, over the tokens of many texts, from a token's vector
before the gap to what the whole model has after it. A last one turns the mean of the cut model's vectors into the whole
model's embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime  # type: ignore[import-untyped]
from tqdm import tqdm  # type: ignore[import-untyped]

from edge_agent.router_card import TOKENIZER
from edge_agent.training.encoder_export import Array, EncoderFiles, _Graph, encoder_graph, read_bert

PENALTY = 1e-3
"""Of ridge regression, in parts of the inputs' mean square."""


def cut_encoder(source: Path, keep: Sequence[int], texts: Sequence[str], *, n_for_gaps: int = 5000) -> EncoderFiles:
    """The encoder of a sentence-transformers directory with only some layers, repaired; fitted on the int8 graphs.

    :param keep: numbers of the layers that stay, from 0, growing.
    :param texts: thousands, so that maps with a row for each dimension are determined.
    :param n_for_gaps: the first so many texts are used between layers; each has many tokens.
    :raises ValueError: when `keep` names layers the model has not, or in another order.
    """
    tensors, config = read_bert(source)
    every = range(config["num_hidden_layers"])
    if not keep or list(keep) != [layer for layer in every if layer in keep]:
        raise ValueError(f"layers: expected some of 0 to {every[-1]} in growing order, found {list(keep)}")
    tokenizer = (source / TOKENIZER).read_bytes()
    encoder = EncoderFiles(encoder_graph(source), b"", tokenizer).encoder()
    tokens = [np.array([encoder.token_ids(text)]) for text in tqdm(texts, desc="tokens", disable=None)]
    maps: dict[int, Array] = {}
    for first, end in gaps(keep):
        graph = _Cut(tensors, config, keep, maps)
        maps[first] = _fitted(graph.around(first, end), tokens[:n_for_gaps], f"layers {first} to {end - 1}")
    last = _fitted(_Cut(tensors, config, keep, maps).ends(), tokens, "embedding")
    model, twin = (_Cut(tensors, config, keep, maps, quantized).repaired(last) for quantized in (True, False))
    return EncoderFiles(model, twin, tokenizer)


def gaps(keep: Sequence[int]) -> list[tuple[int, int]]:
    """(first, end) of each run of layers that are left out before one that stays."""
    before = [-1, *keep]
    return [(low + 1, high) for low, high in zip(before, keep, strict=False) if high > low + 1]


class _Cut(_Graph):
    """A BERT in which a map stands for each run of layers that are left out."""

    def __init__(
        self, tensors: dict[str, Array], config: dict[str, Any], keep: Sequence[int], maps: dict[int, Array],
        quantized: bool = True,
    ):  # fmt: skip
        super().__init__(tensors, config, quantized)
        self.keep, self.maps, self.size = keep, maps, config["hidden_size"]

    def around(self, first: int, end: int) -> bytes:
        """Outputs `inputs`, the token vectors before a gap, and `outputs`, those of the whole model after it."""
        start, shape = self.begun(), ["batch", "tokens", self.size]
        return self.with_outputs(
            {"inputs": (self.cut(start, first), shape), "outputs": (self.whole(start, end), shape)}
        )

    def ends(self) -> bytes:
        """Outputs `inputs`, the mean of the cut model, and `outputs`, the embedding of the whole one."""
        start, shape = self.begun(), ["batch", self.size]
        mean = self.mean(self.cut(start, self.config["num_hidden_layers"]))
        embedding = self.pooled(self.whole(start, self.config["num_hidden_layers"]))
        return self.with_outputs({"inputs": (mean, shape), "outputs": (embedding, shape)})

    def repaired(self, last: Array) -> bytes:
        """The model, its embedding mapped by the rows of `last`; the last row is the bias."""
        mean = self.mean(self.cut(self.begun(), self.config["num_hidden_layers"]))
        mapped = self.op("Add", self.op("MatMul", mean, last[:-1]), last[-1])
        return self.serialized(self.op("LpNormalization", mapped, axis=-1, p=2))

    def whole(self, hidden: str, end: int) -> str:
        for layer in range(end):
            hidden = self.layer(hidden, layer)
        return hidden

    def cut(self, hidden: str, end: int) -> str:
        for layer in range(end):
            if layer in self.keep:
                hidden = self.layer(hidden, layer)
            elif layer in self.maps:
                weights = self.maps[layer]
                hidden = self.product(hidden, weights[:-1].T, weights[-1])
        return hidden


def _fitted(graph: bytes, tokens: Sequence[npt.NDArray[np.int64]], what: str) -> Array:
    """Ridge regression from the graph's `inputs` to its `outputs`, (inputs + 1, outputs); the last row is the bias."""
    square, product = np.zeros(()), np.zeros(())  # they take their shape from the first text
    for inputs, outputs in tqdm(_runs(graph, tokens), total=len(tokens), desc=what, disable=None):
        rows = np.column_stack([inputs, np.ones(len(inputs))])
        square, product = square + rows.T @ rows, product + rows.T @ outputs
    penalty = PENALTY * np.trace(square) / len(square) * np.eye(len(square))
    return np.linalg.solve(square + penalty, product).astype(np.float32)


def _runs(graph: bytes, tokens: Sequence[npt.NDArray[np.int64]]) -> Iterator[tuple[Array, Array]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the same sums in the same order on every machine
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    for ids in tokens:
        values = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        inputs, outputs = session.run(["inputs", "outputs"], values)
        yield inputs.reshape(-1, inputs.shape[-1]), outputs.reshape(-1, outputs.shape[-1])
