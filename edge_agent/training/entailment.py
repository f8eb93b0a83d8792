"""Does one answer entail another, given the question? An ONNX cross-encoder; decides nothing about meanings.

The model is a directory: model.onnx, tokenizer.json, and card.json (ours) or config.json (any Hugging Face export of an
NLI model) with `id2label`. Pairs are sorted by length and run in batches, whatever query they come from; what was asked
before is remembered. A dynamically quantized model's probabilities depend a little on the batch (third decimal).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime  # type: ignore[import-untyped]

from edge_agent.errors import ModelError
from edge_agent.training.pair_tokens import PairTokenizer
from edge_agent.training.semantic_entropy import Verdict
from edge_agent.training.verdict_cache import VerdictCache

Floats = npt.NDArray[np.float64]
AskedPair = tuple[str, str, str]
"""(question, a, b): does a entail b, both being answers to the question? "" for sentences without one."""

MODEL, TOKENIZER, CARD, CONFIG = "model.onnx", "tokenizer.json", "card.json", "config.json"
VERDICTS: tuple[Verdict, ...] = ("entailment", "neutral", "contradiction")
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
MAX_TOKENS = 256
"""For a model that does not say: answers are short, and a pass grows with the square of its length."""
BATCH_TOKENS = 512
"""What stays in a core's cache: on two cores, int8, a pass of 96 tokens took 5.6 ms in batches of this size, 6.5 ms
alone and 9.5 ms in batches of 64."""

_SPELLINGS: dict[str, Verdict] = {
    "entailment": "entailment",
    "entail": "entailment",
    "entails": "entailment",
    "neutral": "neutral",
    "not_entailment": "neutral",
    "non_entailment": "neutral",
    "contradiction": "contradiction",
    "contradict": "contradiction",
    "contradicts": "contradiction",
}


class EntailmentModel:
    """A loaded cross-encoder. For one thread."""

    def __init__(
        self,
        directory: Path,
        facts: Mapping[str, Any],
        *,
        cache: Path | None = None,
        n_threads: int = 0,
        batch_tokens: int = BATCH_TOKENS,
    ):
        self.directory, self.card = directory, dict(facts)
        self.columns = label_columns(facts.get("id2label"), _described(directory))
        self.passes = 0
        """Pairs that went through the model since it was loaded."""
        self._batch_tokens = batch_tokens
        digest = _checked_digest(directory, facts)
        self._session = _session(directory / MODEL, n_threads)
        self._inputs = _inputs(self._session, directory)
        self._output = _output(self._session, directory, len(self.columns))
        self._pad = int(facts.get("pad_token_id") or 0)
        self._tokenizer = _tokenizer(directory, _max_tokens(facts))
        self._salt = f"{digest}:{self._tokenizer.max_tokens}".encode()
        self._cache = VerdictCache(cache)

    @classmethod
    def load(
        cls, directory: str | Path, *, cache: Path | None = None, n_threads: int = 0, batch_tokens: int = BATCH_TOKENS
    ) -> EntailmentModel:
        """The model of a directory.

        :param cache: an SQLite file that keeps verdicts between runs; None keeps them in memory.
        :param n_threads: 0 takes every core.
        :param batch_tokens: of one batch with its padding; 1 makes every pair a batch of its own.
        :raises ModelError: naming the file or field, what was expected, what was found and what to do.
        """
        path = Path(directory)
        return cls(path, _facts(path), cache=cache, n_threads=n_threads, batch_tokens=batch_tokens)

    def verdicts(self, pairs: Sequence[AskedPair]) -> list[Verdict]:
        """The likeliest verdict on each pair; see `probabilities`."""
        return [VERDICTS[i] for i in self.probabilities(pairs).argmax(axis=1)]

    def probabilities(self, pairs: Sequence[AskedPair]) -> Floats:
        """P(entailment), P(neutral), P(contradiction) of each pair, shape (n, 3); equal pairs are asked once.

        :raises ModelError: when the model cannot be run or answers with something that is no number.
        """
        keys = [self._key(pair) for pair in pairs]
        known = self._cache.get(list(dict.fromkeys(keys)))
        new = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in known}
        if new:
            fresh = dict(zip(new, self._run(list(new.values())).tolist(), strict=True))
            self._cache.put(fresh)
            known.update(fresh)
        return np.array([known[key] for key in keys], dtype=np.float64).reshape(-1, len(VERDICTS))

    def _key(self, pair: AskedPair) -> bytes:
        digest = hashlib.sha256(self._salt)
        for text in pair:
            data = text.encode("utf-8", "replace")
            digest.update(len(data).to_bytes(8, "little") + data)
        return digest.digest()

    def _run(self, pairs: Sequence[AskedPair]) -> Floats:
        encoded = [self._tokenizer.encode(*pair) for pair in pairs]
        order = sorted(range(len(pairs)), key=lambda i: len(encoded[i][0]))
        result = np.empty((len(pairs), len(VERDICTS)))
        while order:
            longest = len(encoded[order[-1]][0])
            rows = order[-max(1, self._batch_tokens // longest) :]
            del order[-len(rows) :]
            result[rows] = self._batch([encoded[i] for i in rows])
        return result

    def _batch(self, rows: Sequence[tuple[list[int], list[int]]]) -> Floats:
        shape = len(rows), max(len(ids) for ids, _ in rows)
        values = {name: np.zeros(shape, np.int64) for name in INPUTS}
        values["input_ids"][:] = self._pad
        for i, (ids, types) in enumerate(rows):
            values["input_ids"][i, : len(ids)] = ids
            values["attention_mask"][i, : len(ids)] = 1
            values["token_type_ids"][i, : len(ids)] = types
        try:
            (logits,) = self._session.run([self._output], {name: values[name] for name in self._inputs})
        except Exception as error:  # onnxruntime's errors share no base class but Exception
            raise ModelError(f"{self.directory / MODEL}: cannot be run: {_line(error)}; export it again") from error
        self.passes += len(rows)
        return self._to_probabilities(np.asarray(logits, dtype=np.float64))

    def _to_probabilities(self, logits: Floats) -> Floats:
        """Softmax, each column added to its verdict."""
        expected = f"expected finite logits [batch, {len(self.columns)}]"
        if logits.ndim != 2 or logits.shape[1] != len(self.columns):
            raise ModelError(f"{self.directory / MODEL}: {expected}, found shape {list(logits.shape)}; export it again")
        if not np.isfinite(logits).all():
            raise ModelError(
                f"{self.directory / MODEL}: {expected}, found {logits[~np.isfinite(logits)][0]}; export it again"
            )
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        result = np.zeros((len(logits), len(VERDICTS)))
        for column, verdict in enumerate(self.columns):
            result[:, VERDICTS.index(verdict)] += weights[:, column]
        return result


def find_model(root: Path) -> Path:
    """The one entailment model in a router_models tree. :raises ModelError: when there is none, or several."""
    found = sorted(card.parent for card in (root / "entailment").glob("*/card.json"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ModelError(f"{root / 'entailment'}: expected one model, found {names}; name its directory")
    return found[0]


def label_columns(id2label: object, where: str) -> list[Verdict]:
    """The verdict of each output of a model, from its `id2label`; of two classes, `not_entailment` counts as neutral.

    :param where: names the file in errors.
    :raises ModelError: when the labels do not say what they mean, as LABEL_0 does not.
    """
    wanted = "{'0': 'entailment', '1': 'neutral', '2': 'contradiction'} in the order of the model's outputs"
    if not isinstance(id2label, dict) or not id2label:
        raise ModelError(f"{where}: id2label: expected {wanted}, found {id2label!r}; add it")
    try:
        names = [str(name) for _, name in sorted(id2label.items(), key=lambda item: int(item[0]))]
        numbers = sorted(int(number) for number in id2label)
    except ValueError:
        raise ModelError(f"{where}: id2label: expected {wanted}, found {id2label!r}; mend it") from None
    found = [_SPELLINGS.get(name.casefold().strip().replace("-", "_").replace(" ", "_")) for name in names]
    columns = [verdict for verdict in found if verdict is not None]
    complete = set(columns) == set(VERDICTS) or sorted(columns) == ["entailment", "neutral"]
    if len(columns) != len(names) or len(set(columns)) != len(columns) or not complete or numbers[0] != 0:
        raise ModelError(
            f"{where}: id2label: expected {wanted} (or entailment and not_entailment), found {names}:"
            f" look up the order in the model's documentation and write it there"
        )
    return columns


def _facts(directory: Path) -> dict[str, Any]:
    """config.json and card.json in one; the card wins."""
    facts: dict[str, Any] = {}
    for name in (CONFIG, CARD):
        path = directory / name
        if path.exists():
            try:
                facts |= json.loads(path.read_text(encoding="utf-8"))
            except (ValueError, TypeError) as error:
                raise ModelError(f"{path}: expected a JSON object, found: {error}; export the model again") from error
    for name in (MODEL, TOKENIZER):
        if not (directory / name).is_file():
            raise ModelError(f"{directory}: expected {MODEL}, {TOKENIZER} and {CONFIG}, found no {name}; export it")
    return facts


def _described(directory: Path) -> str:
    return str(directory / (CARD if (directory / CARD).exists() else CONFIG))


def _checked_digest(directory: Path, facts: Mapping[str, Any]) -> str:
    """The SHA-256 of the model, after comparison of the files with the card's."""
    hashes = {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in (MODEL, TOKENIZER)}
    for name, expected in (facts.get("files") or {}).items():
        if name in hashes and hashes[name] != expected:
            raise ModelError(
                f"{directory / name}: expected SHA-256 {expected} ({CARD}), found {hashes[name]}; take the model again"
            )
    return hashes[MODEL]


def _session(path: Path, n_threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = n_threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the samplers use these cores too
    options.log_severity_level = 4  # what goes wrong arrives as an exception
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class but Exception
        raise ModelError(
            f"{path}: expected a model this onnxruntime can run: {_line(error)}; export it again"
        ) from error


def _inputs(session: Any, directory: Path) -> list[str]:
    found = [value.name for value in session.get_inputs()]
    if "input_ids" not in found or not set(found) <= set(INPUTS):
        raise ModelError(f"{directory / MODEL}: expected inputs out of {list(INPUTS)}, found {found}; export it again")
    return found


def _output(session: Any, directory: Path, n_labels: int) -> str:
    outputs = {value.name: value.shape for value in session.get_outputs()}
    name = "logits" if "logits" in outputs else next(iter(outputs))
    width = outputs[name][-1] if outputs[name] else None
    if isinstance(width, int) and width != n_labels:
        raise ModelError(
            f"{directory / MODEL}: expected {n_labels} outputs, as id2label in {_described(directory)} names,"
            f" found {width}; mend id2label"
        )
    return name


def _tokenizer(directory: Path, max_tokens: int) -> PairTokenizer:
    try:
        return PairTokenizer(directory / TOKENIZER, max_tokens=max_tokens)
    except ValueError as error:
        raise ModelError(str(error)) from error


def _max_tokens(facts: Mapping[str, Any]) -> int:
    """The card's; else what the position table holds, but for the two places some models keep for themselves."""
    positions = int(facts.get("max_position_embeddings") or MAX_TOKENS + 2) - 2
    return int(facts.get("max_tokens") or min(MAX_TOKENS, positions))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
