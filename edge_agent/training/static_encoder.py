"""A static sentence encoder: a vector for each token, their sum normalised. Learned from another encoder, no torch.

The vectors are fitted so that the normalised sum of a text's vectors points where the teacher's embedding points, seen
along the principal axes of the teacher's embeddings. How much a token weighs is the length of its vector: it begins as
smooth inverse frequency (Arora et al., ICLR 2017) and is learned with the rest. Reads no file and knows no text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from edge_agent.training.encoder_export import Array, EncoderFiles, graph_with, quantize

Tokens = Sequence[npt.NDArray[np.int64]]
"""The token ids of each text, all special tokens included."""

Progress = Callable[[int, int], object]
"""Called with (steps done, steps in all)."""

RIDGE = 1e-3
FIRST_MOMENT, SECOND_MOMENT = 0.9, 0.99
BEGINNING = 0.1
"""Standard deviation of the first vectors' values; the learning rate is in proportion to it."""


@dataclass(frozen=True, slots=True)
class StaticSettings:
    """What a static encoder is made with."""

    dimension: int = 256
    """Of the embedding; the file has as many bytes for each token of the vocabulary."""
    epochs: int = 8
    """Times every text is seen."""
    batch: int = 256
    """Texts for a step."""
    rate: float = 0.006
    """Adam's learning rate at the first step; it falls to 0 in a line."""
    smoothing: float = 1e-3
    """A token of frequency p begins with weight smoothing / (smoothing + p)."""
    seed: int = 0
    """Decides the order of the texts."""


def static_encoder(
    teacher: EncoderFiles, texts: Sequence[str], targets: Array, words: Array, settings: StaticSettings, *,
    progress: Progress = lambda done, total: None,
) -> EncoderFiles:  # fmt: skip
    """An encoder with the teacher's tokenizer; see `distilled` for the arguments."""
    encoder = teacher.encoder()
    tokens = [np.array(encoder.token_ids(text)) for text in texts]
    table = distilled(tokens, targets, words, settings, progress=progress)
    return EncoderFiles(static_graph(table), static_graph(table, quantized=False), teacher.tokenizer)


def distilled(
    tokens: Tokens,
    targets: Array,
    words: Array,
    settings: StaticSettings,
    *,
    progress: Progress = lambda done, total: None,
) -> Array:
    """The table of token vectors, float32 (vocabulary, dimension), that imitates a teacher.

    :param targets: the teacher's embedding of each text, (texts, teacher's dimension).
    :param words: a vector of each token to begin with, (vocabulary, any): what the teacher's first layer reads.
    :raises ValueError: when there are fewer texts than dimensions, or not as many targets as texts.
    """
    if len(tokens) != len(targets) or len(tokens) < settings.dimension or targets.shape[1] < settings.dimension:
        expected = f"expected at least {settings.dimension} texts, and a longer target for each"
        raise ValueError(f"{expected}; found {len(tokens)} texts and targets of shape {targets.shape}; add texts")
    goals = normalized(targets @ principal_axes(targets, settings.dimension))
    table = _beginning(tokens, goals, words, settings.smoothing)
    return _fitted(table, tokens, goals, settings, progress)


def principal_axes(vectors: Array, n_axes: int) -> Array:
    """The directions (columns) that keep most of the vectors' length; not centred, so that cosines are kept best."""
    _, axes = np.linalg.eigh(vectors.T.astype(np.float64) @ vectors)  # in order of growing eigenvalue
    chosen = axes[:, ::-1][:, :n_axes]
    signs = np.sign(chosen[np.abs(chosen).argmax(axis=0), np.arange(n_axes)])  # the sign of an axis is a convention
    turned: Array = (chosen * signs).astype(np.float32)
    return turned


def normalized(vectors: Array) -> Array:
    """Each row at length 1."""
    unit: Array = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit


def sums(table: Array, tokens: Tokens, *, batch: int = 1024) -> Array:
    """The sum of each text's token vectors, (texts, dimension)."""
    parts = [_counts(tokens[i : i + batch]) for i in range(0, len(tokens), batch)]
    return np.concatenate([counts @ table[used] for counts, used in parts])


def static_graph(table: Array, *, quantized: bool = True) -> bytes:
    """The serialized ONNX model of a table, with inputs and output as any encoder here.

    :param quantized: int8 with a scale per row; False gives the float32 twin.
    """

    def pooled(graph: Any) -> str:
        mask = graph.op("Cast", "attention_mask", to=TensorProto.FLOAT)
        if quantized:
            values, scales = quantize(table, axis=1)
            rows = graph.op("Cast", graph.op("Gather", values, "input_ids"), to=TensorProto.FLOAT)
            mask = graph.op("Mul", mask, graph.op("Gather", scales[:, 0], "input_ids"))
        else:
            rows = graph.op("Gather", table, "input_ids")
        total = graph.op("MatMul", graph.op("Unsqueeze", mask, [1]), rows)  # (batch, 1, dimension)
        found: str = graph.op("LpNormalization", graph.op("Squeeze", total, [1]), axis=-1, p=2)
        return found

    return graph_with(pooled, dimension=table.shape[1])


def _counts(tokens: Tokens) -> tuple[Array, Array]:
    """How often each text has each token, (texts, used), and the ids of the used ones."""
    used, place = np.unique(np.concatenate(tokens), return_inverse=True)
    owner = np.repeat(np.arange(len(tokens)), [len(ids) for ids in tokens])
    counts = np.bincount(owner * len(used) + place, minlength=len(tokens) * len(used))
    return counts.reshape(len(tokens), len(used)).astype(np.float32), used


def _beginning(tokens: Tokens, goals: Array, words: Array, smoothing: float) -> Array:
    """Word vectors weighted by inverse frequency, and turned by ridge regression so that their sums meet the goals."""
    seen = np.bincount(np.concatenate(tokens), minlength=len(words)) + 0.5  # a token that was not seen is rare, not new
    share = seen / seen.sum()
    centred = words - np.average(words, axis=0, weights=share)
    weighted = (centred * (smoothing / (smoothing + share))[:, None]).astype(np.float32)
    turned = weighted @ ridge(normalized(sums(weighted, tokens)), goals)
    table: Array = (turned * (BEGINNING / turned.std())).astype(np.float32)
    return table


def ridge(inputs: Array, outputs: Array) -> Array:
    """The matrix W of outputs ~ inputs @ W, (inputs, outputs) float32; the penalty is RIDGE of the mean square."""
    square = inputs.T.astype(np.float64) @ inputs
    penalty = RIDGE * np.trace(square) / len(square) * np.eye(len(square))
    return np.linalg.solve(square + penalty, inputs.T.astype(np.float64) @ outputs).astype(np.float32)


def _fitted(table: Array, tokens: Tokens, goals: Array, settings: StaticSettings, progress: Progress) -> Array:
    """The table after Adam on 1 - cosine(sum, goal); moments move only for the tokens of a batch."""
    table, first, second = table.copy(), np.zeros_like(table), np.zeros_like(table)
    random, step = np.random.default_rng(settings.seed), 0
    n_steps = settings.epochs * -(-len(tokens) // settings.batch)
    for _ in range(settings.epochs):
        order = random.permutation(len(tokens))
        for i in range(0, len(order), settings.batch):
            chosen = order[i : i + settings.batch]
            counts, used = _counts([tokens[j] for j in chosen])
            slope = _slope(counts, table[used], goals[chosen])
            first[used] = FIRST_MOMENT * first[used] + (1 - FIRST_MOMENT) * slope
            second[used] = SECOND_MOMENT * second[used] + (1 - SECOND_MOMENT) * slope**2
            rate = settings.rate * (1 - step / n_steps)
            table[used] -= rate * first[used] / (np.sqrt(second[used]) + 1e-8)
            step += 1
            progress(step, n_steps)
    return table


def _slope(counts: Array, vectors: Array, goals: Array) -> Array:
    """The gradient of the summed 1 - cosine(counts @ vectors, goals) with respect to `vectors`."""
    total = counts @ vectors
    length = np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)
    direction = total / length
    cosine = np.sum(direction * goals, axis=1, keepdims=True)
    slope: Array = counts.T @ ((cosine * direction - goals) / length)
    return slope
