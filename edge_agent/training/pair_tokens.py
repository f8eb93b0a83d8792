"""Two answers to a question as the token ids of one input of a cross-encoder. Runs no model."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import tokenizers

Tokens = tuple[int, ...]


class PairTokenizer:
    """premise = question + " " + a, hypothesis = question + " " + b, with the tokenizer's own special tokens.

    What is too long loses the beginning of the question, on both sides alike; answers are cut, at their ends, only when
    they do not fit without any question.
    """

    def __init__(self, path: Path, *, max_tokens: int):
        """:raises ValueError: when the file holds no tokenizer, or one that knows no pairs."""
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise ValueError(f"{path}: expected a tokenizer: {error}; export the model again") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = True  # an answer that says [SEP] says five characters
        self.max_tokens = max_tokens
        self._frame, self._types = self._read_frame(path)
        self._ids = lru_cache(maxsize=100_000)(self._encode)

    def encode(self, question: str, a: str, b: str) -> tuple[list[int], list[int]]:
        """Token ids and token type ids (0 for the premise, 1 for the hypothesis, as far as the model has types)."""
        space = " " if question.strip() else ""
        asked, first, second = self._ids(question), self._ids(space + a), self._ids(space + b)
        room = self.max_tokens - sum(map(len, self._frame))
        first, second = _cut(first, second, room)
        asked = asked[len(asked) - min(len(asked), (room - len(first) - len(second)) // 2) :]
        premise, hypothesis = asked + first, asked + second
        start, middle, end = self._frame
        ids = [*start, *premise, *middle, *hypothesis, *end]
        split = len(start) + len(premise) + 1
        return ids, [self._types[0]] * split + [self._types[1]] * (len(ids) - split)

    def _encode(self, text: str) -> Tokens:
        valid = text.encode("utf-8", "replace").decode("utf-8")  # no tokenizer takes lone surrogates
        return tuple(self._tokenizer.encode(valid, add_special_tokens=False).ids)

    def _read_frame(self, path: Path) -> tuple[tuple[Tokens, Tokens, Tokens], tuple[int, int]]:
        """The special tokens before, between and after a pair, and the type ids of its two parts."""
        sample = self._tokenizer.encode("a", "b")
        inner = [i for i, special in enumerate(sample.special_tokens_mask) if not special]
        sides = [sample.sequence_ids[i] or 0 for i in inner]
        if not inner or sides != sorted(sides) or set(sides) != {0, 1}:
            raise ValueError(f"{path}: expected a tokenizer that joins two texts, found sides {sides}; name another")
        second = inner[sides.index(1)]
        last = inner[sides.index(1) - 1]
        ids = tuple(sample.ids)
        frame = ids[: inner[0]], ids[last + 1 : second], ids[inner[-1] + 1 :]
        return frame, (sample.type_ids[inner[0]], sample.type_ids[second])


def _cut(a: Tokens, b: Tokens, room: int) -> tuple[Tokens, Tokens]:
    """Both within `room` tokens: the longer one loses its end, until both are equally long."""
    if len(a) + len(b) <= room:
        return a, b
    half = room // 2
    if len(a) <= half:
        return a, b[: room - len(a)]
    if len(b) <= half:
        return a[: room - len(b)], b
    return a[:half], b[: room - half]
