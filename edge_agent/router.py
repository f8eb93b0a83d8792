"""Scores queries: the estimate that the cloud model does better. Decides nothing, logs nothing.

A text goes tokenizer -> int8 encoder -> embedding, text features are appended, a small head gives the score. Batch 1
and no padding, always: dynamic int8 scales are taken over the whole input, so padding would change the score.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_agent import text_features
from edge_agent.errors import RouterError
from edge_agent.router_card import (
    CARD,
    ENCODER_MODEL,
    HEAD,
    RETAKE,
    TOKENIZER,
    RouterCard,
    find_bundle,
    read_card,
    verify_files,
)
from edge_agent.router_signature import verify_signature
from edge_agent.types import Estimate, Message, Query

if TYPE_CHECKING:
    import onnxruntime  # type: ignore[import-untyped]
    import tokenizers

__all__ = ["Encoder", "Estimate", "RouterCard", "RouterModel", "find_bundle", "scored_text"]

GOLDEN_TOLERANCE = 0.03
"""int8 kernels differ between processors by less than this; a wrong or damaged model by more."""


CONTEXT_WORDS = 6
"""A last message of at most this many words ("and why?") is scored together with the user's message before it."""


def scored_text(messages: Sequence[Message], kind: str = "last_user_message") -> str:
    """What of a conversation is scored, by a card's `input`; an empty text without a user message.

    last_user_message_in_context: the last user message; if it is too short to stand alone, the one before as well.
    """
    said = [message.content for message in messages if message.role == "user"]
    if not said:
        return ""
    short = len(said[-1].split(None, CONTEXT_WORDS)) <= CONTEXT_WORDS
    if kind == "last_user_message_in_context" and short and len(said) > 1:
        return f"{said[-2]}\n{said[-1]}"
    return said[-1]


class Encoder:
    """Text to an L2-normalised embedding, by the tokenizer and the ONNX graph of a directory."""

    def __init__(
        self,
        directory: Path,
        *,
        inputs: list[str],
        max_tokens: int,
        n_threads: int = 1,
        features: Sequence[str] = text_features.NAMES,
    ):
        """
        :param inputs: of the graph; input_ids, and perhaps attention_mask and token_type_ids.
        :param features: text features behind the embedding, in order.
        :raises RouterError: when the directory holds something else.
        """
        model = directory / ENCODER_MODEL
        self.max_tokens, self._features = max_tokens, tuple(features)
        self._inputs = sorted(inputs)
        self._tokenizer = _tokenizer(directory / TOKENIZER)
        self._session = _session(model, n_threads)
        found = sorted(value.name for value in self._session.get_inputs() if value.type == "tensor(int64)")
        if found != self._inputs or not set(found) <= {"input_ids", "attention_mask", "token_type_ids"}:
            raise RouterError(f"{model}: expected int64 inputs {self._inputs}, found {found}; {RETAKE}")
        outputs = [value.name for value in self._session.get_outputs()]
        if outputs != ["embedding"]:
            raise RouterError(f"{model}: expected output ['embedding'], found {outputs}; {RETAKE}")
        self.dimension = _last(self._session.get_outputs()[0].shape)

    def reading(self, *, max_tokens: int, features: Sequence[str]) -> Encoder:
        """The same tokenizer and graph for another card; shares their memory."""
        other = copy.copy(self)
        other.max_tokens, other._features = max_tokens, tuple(features)
        return other

    def token_ids(self, text: str) -> list[int]:
        """The ids the graph sees: all of them, or the first and last half of `max_tokens`."""
        ids: list[int] = self._tokenizer.encode(text_features.excerpt(_valid(text))).ids
        if len(ids) <= self.max_tokens:
            return ids
        tail = self.max_tokens // 2
        return ids[: self.max_tokens - tail] + ids[-tail:]

    def embed(self, text: str) -> npt.NDArray[np.float32]:
        """The embedding of one text, shape (dimension,)."""
        ids = np.array([self.token_ids(text)], dtype=np.int64)
        values = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        (embeddings,) = self._session.run(["embedding"], {name: values[name] for name in self._inputs})
        embedding: npt.NDArray[np.float32] = embeddings[0]
        return embedding

    def features(self, text: str) -> npt.NDArray[np.float32]:
        """What the head reads: embedding, then text features; shape (dimension + features,)."""
        return np.concatenate([self.embed(text), text_features.text_features(text, self._features)])


class RouterModel:
    """A loaded bundle. `score` may be called from several threads."""

    def __init__(self, card: RouterCard, encoder: Encoder, head: onnxruntime.InferenceSession, path: Path):
        self.card, self.path = card, path
        self.version, self.threshold = card.version, card.threshold
        self._encoder, self._head = encoder, head

    @classmethod
    def load(
        cls, path: str | Path, *, n_threads: int = 1, public_key: str | None = None, beside: RouterModel | None = None
    ) -> RouterModel:
        """The router of a bundle directory, after every check its card allows, a self-test included.

        :param public_key: whose signature the card must have, see router_signature; None asks for none.
        :param beside: another router that stays loaded; an encoder that is the same is shared with it.
        :raises RouterError: naming the file or field, what was expected, what was found and what to do.
        """
        bundle = Path(path).resolve()
        card = read_card(bundle)
        if public_key is not None:
            verify_signature(bundle, public_key)
        _check_features(bundle, card)
        verify_files(bundle, card)
        directory = (bundle / card.encoder).resolve()
        if beside is not None and _encoder_of(beside.card) == _encoder_of(card):
            encoder = beside._encoder.reading(max_tokens=card.max_tokens, features=card.features)
        else:
            encoder = Encoder(
                directory,
                inputs=card.encoder_inputs,
                max_tokens=card.max_tokens,
                n_threads=n_threads,
                features=card.features,
            )
        if encoder.dimension != card.dimension:
            found = f"found {encoder.dimension}; {RETAKE}"
            raise RouterError(f"{directory / ENCODER_MODEL}: expected embeddings of length {card.dimension}, {found}")
        model = cls(card, encoder, _head_session(bundle / HEAD, card), bundle)
        model._self_test()
        return model

    def score(self, query: Query) -> float:
        """Estimate that the cloud model does better on this query, in [0, 1].

        :raises RouterError: when the graphs cannot be run on it.
        """
        return self.estimate(query).score

    def estimate(self, query: Query) -> Estimate:
        """All that the heads say of a query. :raises RouterError: when the graphs cannot be run on it."""
        return self.estimate_text(scored_text(query.messages, self.card.input))

    def score_text(self, text: str) -> float:
        """The score of a text, in [0, 1]; the same text always has the same score on the same machine."""
        return self.estimate_text(text).score

    def estimate_text(self, text: str) -> Estimate:
        """All that the heads say of a text."""
        try:
            features = self._encoder.features(text)
        except Exception as error:  # tokenizers and onnxruntime raise classes of their own, straight from Exception
            raise RouterError(f"{self.path}: cannot score: {_line(error)}; {RETAKE}") from error
        return Estimate(**{name: float(values[0]) for name, values in self.heads(features[None, :]).items()})

    def heads(self, features: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float64]]:
        """Each head's estimates, in [0, 1], shape (n,), from ready features of shape (n, dimension + features).

        :raises RouterError: when the graph cannot be run on them or gives no numbers.
        """
        names = sorted(self.card.heads)
        try:
            outputs = self._head.run(names, {"features": np.asarray(features, dtype=np.float32)})
        except Exception as error:  # onnxruntime raises classes of its own, straight from Exception
            raise RouterError(f"{self.path}: cannot score: {_line(error)}; {RETAKE}") from error
        found = {name: np.asarray(output, dtype=float)[:, 0] for name, output in zip(names, outputs, strict=True)}
        for name, values in found.items():
            if not np.isfinite(values).all():
                bad = values[~np.isfinite(values)][0]
                raise RouterError(f"{self.path}: {name}: expected a score in [0, 1], found {bad}; {RETAKE}")
        return {name: np.clip(values, 0.0, 1.0) for name, values in found.items()}

    def _self_test(self) -> None:
        for pair in self.card.golden:
            score = self.score_text(pair["text"])
            if abs(score - pair["score"]) > GOLDEN_TOLERANCE:
                expected = f"expected score {pair['score']:.3f} (within {GOLDEN_TOLERANCE}) for {pair['text'][:40]!r}"
                raise RouterError(f"{self.path}: self-test: {expected}, found {score:.3f}; {RETAKE}")


def _encoder_of(card: RouterCard) -> tuple[str, str, list[str]]:
    """What two cards agree in when they have the same encoder: SHA-256 of graph and tokenizer, inputs."""
    return card.files[card.encoder_model], card.files[card.tokenizer], sorted(card.encoder_inputs)


def _check_features(bundle: Path, card: RouterCard) -> None:
    known = set(card.features) <= set(text_features.NAMES)
    if card.features_version != text_features.VERSION or not known:
        found = f"version {card.features_version} {card.features}"
        wanted = f"version {text_features.VERSION} and names out of {list(text_features.NAMES)}"
        raise RouterError(f"{bundle / CARD}: features: expected {wanted}, found {found}; update edge-agent or {RETAKE}")


def _head_session(path: Path, card: RouterCard) -> onnxruntime.InferenceSession:
    session = _session(path, 1)
    found = {value.name: _last(value.shape) for value in session.get_inputs() if value.type == "tensor(float)"}
    expected = {"features": card.dimension + len(card.features)}
    if found != expected:
        raise RouterError(f"{path}: expected float inputs {expected}, found {found}; {RETAKE}")
    outputs = {value.name: value.shape[1:] for value in session.get_outputs() if value.type == "tensor(float)"}
    wanted = {name: [1] for name in sorted(card.heads)}
    if outputs != wanted:
        raise RouterError(f"{path}: expected float outputs {wanted} for each text, found {outputs}; {RETAKE}")
    return session


def _last(shape: Sequence[Any]) -> Any:
    """The last length of a shape; None of a single number, which has no shape."""
    return shape[-1] if shape else None


def _session(path: Path, n_threads: int) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = n_threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning slows the local model down
    options.log_severity_level = 4  # what goes wrong arrives as an exception
    try:  # from the file, not from bytes: those would stay in memory for good
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class but Exception
        raise RouterError(f"{path}: expected a model this onnxruntime can run: {_line(error)}; {RETAKE}") from error


def _tokenizer(path: Path) -> tokenizers.Tokenizer:
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise RouterError(f"{path}: expected a tokenizer: {_line(error)}; {RETAKE}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _valid(text: str) -> str:
    """The text with lone surrogates, which no tokenizer takes, as question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _line(error: Any) -> str:
    return " ".join(str(error).split())[:300]
