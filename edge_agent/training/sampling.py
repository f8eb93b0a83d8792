"""Samples a model's answers: one near-greedy and n drawn ones per prompt. Clusters nothing, grades nothing."""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.errors import LocalModelError
from edge_agent.llama_runtime import llama_cpp
from edge_agent.training.token_draws import draw, entropies

_BATCH = 512


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How answers are drawn; recorded with every sample."""

    n: int = 10
    """Drawn answers per prompt, besides the near-greedy one."""
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Prompt:
    query_id: str
    tokens: tuple[int, ...]
    """The rendered prompt; prompts that follow each other and share a beginning share its evaluation."""
    max_tokens: int = 64
    stop: str | None = None
    """Ends the answer where it first appears, such as a line's end; it is not part of the text."""


@dataclass(slots=True)
class Generation:
    """One sampled answer."""

    query_id: str
    model: str
    index: int
    """0 is the near-greedy answer, 1..n are drawn."""
    text: str = ""
    log_likelihood: float = 0.0
    """Mean log-probability per token at temperature 1, in nats: length-normalised."""
    n_tokens: int = 0
    finish_reason: str = "length"
    """stop, or length when the cap was hit: such an answer is not graded."""


@dataclass(slots=True)
class Sample:
    """All answers of one model to one prompt, and what the run-time gates are trained on."""

    query_id: str
    generations: list[Generation]
    logprobs: npt.NDArray[np.float16]
    """(n_tokens,) of the near-greedy answer, nats."""
    entropies: npt.NDArray[np.float16]
    """(n_tokens,) of the near-greedy answer, nats."""
    hidden_state: npt.NDArray[np.float16]
    """(n_embd,) last hidden state at the prompt's last token."""
    n_prompt_tokens: int = 0


@dataclass(slots=True, eq=False)
class _Row:
    """One answer under way, in one sequence of the context."""

    query: _Query
    generation: Generation
    max_tokens: int
    sequence: int
    position: int
    token: int = -1
    data: bytes = b""
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Query:
    """A prompt whose answers are under way."""

    prompt: Prompt
    hidden_state: npt.NDArray[np.float16]
    rows: list[_Row] = field(default_factory=list)
    ended: list[_Row] = field(default_factory=list)


class LlamaSampler:
    """A GGUF in this process: every decode advances all answers under way by one token.

    Sequence 0 holds the last prompt; the next prompt keeps what it shares with it. An answer starts as a copy of
    sequence 0, which costs no memory: its cells are shared.

    :param rows: answers under way at a time.
    :raises LocalModelError: when the model cannot be loaded or is recurrent (its state cannot be shared).
    """

    def __init__(self, path: Path, *, name: str, rows: int = 33, n_ctx: int = 8192, n_threads: int = 2):
        self.name = name
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        if not self._model:
            raise LocalModelError(f"{path}: llama.cpp cannot load this model; check it with `edge-agent doctor`")
        if llama_cpp.llama_model_is_recurrent(self._model) or llama_cpp.llama_model_is_hybrid(self._model):
            raise LocalModelError(f"{path}: a recurrent model cannot share a prompt; sample it behind a server instead")
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self._n_vocab = int(llama_cpp.llama_vocab_n_tokens(self._vocab))
        self._n_embd = int(llama_cpp.llama_model_n_embd(self._model))
        self._ctx = _new_context(self._model, n_ctx, rows + 1, n_threads)
        self._memory = llama_cpp.llama_get_memory(self._ctx)
        self._batch = llama_cpp.llama_batch_init(_BATCH, 0, 1)
        self._free = list(range(rows, 0, -1))
        self._held: tuple[int, ...] = ()
        """The prompt in sequence 0."""

    def sample(self, prompts: Iterable[Prompt], settings: SamplingSettings) -> Iterator[Sample]:
        """Answers to each prompt, in the order in which they are complete."""
        waiting, active = deque(prompts), list[_Query]()
        if settings.n + 1 > len(self._free):
            raise ValueError(f"rows: expected at least {settings.n + 1}, found {len(self._free)}")
        rng = np.random.default_rng(settings.seed)
        while waiting or active:
            while waiting and len(self._free) > settings.n:
                active.append(self._begin(waiting.popleft(), settings, rng))
            if rows := [row for query in active for row in query.rows]:
                self._step(rows, settings, rng)
            for query in [query for query in active if not query.rows]:
                active.remove(query)
                yield self._finished(query)

    def close(self) -> None:
        """Free the model."""
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_free(self._ctx)
        llama_cpp.llama_model_free(self._model)

    def _begin(self, prompt: Prompt, settings: SamplingSettings, rng: np.random.Generator) -> _Query:
        """Evaluate what the prompt does not share with the last one, and draw every answer's first token from it."""
        shared = _common_prefix(self._held, prompt.tokens[:-1])
        llama_cpp.llama_memory_seq_rm(self._memory, 0, shared, -1)
        last = len(prompt.tokens) - 1
        for start in range(shared, last, _BATCH):
            part = prompt.tokens[start : min(start + _BATCH, last)]
            self._decode([(token, start + i, 0, False) for i, token in enumerate(part)])
        # the hidden state of the last token only: with embeddings on, every token of a batch becomes an output
        llama_cpp.llama_set_embeddings(self._ctx, True)
        self._decode([(prompt.tokens[last], last, 0, True)])
        llama_cpp.llama_set_embeddings(self._ctx, False)
        self._held = prompt.tokens
        state = np.ctypeslib.as_array(llama_cpp.llama_get_embeddings_ith(self._ctx, 0), (self._n_embd,))
        query = _Query(prompt, state.astype(np.float16))
        for index in range(settings.n + 1):
            sequence = self._free.pop()
            llama_cpp.llama_memory_seq_cp(self._memory, 0, sequence, -1, -1)
            generation = Generation(prompt.query_id, self.name, index)
            query.rows.append(_Row(query, generation, prompt.max_tokens, sequence, len(prompt.tokens)))
        self._draw(np.repeat(self._logits(1), settings.n + 1, axis=0), query.rows, settings, rng)
        return query

    def _step(self, rows: list[_Row], settings: SamplingSettings, rng: np.random.Generator) -> None:
        self._decode([(row.token, row.position, row.sequence, True) for row in rows])
        for row in rows:
            row.position += 1
        self._draw(self._logits(len(rows)), rows, settings, rng)

    def _draw(
        self, logits: npt.NDArray[np.float32], rows: list[_Row], settings: SamplingSettings, rng: np.random.Generator
    ) -> None:
        greedy = np.array([row.generation.index == 0 for row in rows])
        temperature = np.where(greedy, 0.0, settings.temperature).astype(np.float32)
        draws = draw(logits, rng, temperature=temperature, top_p=settings.top_p)
        if greedy.any():
            draws.entropies[greedy] = entropies(logits[greedy])
        for i, row in enumerate(list(rows)):
            row.logprobs.append(float(draws.logprobs[i]))
            row.entropies.append(float(draws.entropies[i]))
            self._advance(row, int(draws.tokens[i]))

    def _advance(self, row: _Row, token: int) -> None:
        row.token = token
        row.generation.n_tokens += 1
        if llama_cpp.llama_vocab_is_eog(self._vocab, token):
            return self._end(row, "stop")
        row.data += self._piece(token)
        stop = row.query.prompt.stop
        if stop is not None and stop.encode() in row.data:
            row.data = row.data.partition(stop.encode())[0]
            return self._end(row, "stop")
        if row.generation.n_tokens >= row.max_tokens:
            self._end(row, "length")

    def _end(self, row: _Row, reason: str) -> None:
        generation = row.generation
        generation.text = row.data.decode("utf-8", "replace").strip()
        generation.log_likelihood = float(np.mean(row.logprobs))
        generation.finish_reason = reason
        llama_cpp.llama_memory_seq_rm(self._memory, row.sequence, -1, -1)
        self._free.append(row.sequence)
        row.query.rows.remove(row)
        row.query.ended.append(row)

    def _finished(self, query: _Query) -> Sample:
        rows = sorted(query.ended, key=lambda row: row.generation.index)
        return Sample(
            query_id=query.prompt.query_id,
            generations=[row.generation for row in rows],
            logprobs=np.array(rows[0].logprobs, dtype=np.float16),
            entropies=np.array(rows[0].entropies, dtype=np.float16),
            hidden_state=query.hidden_state,
            n_prompt_tokens=len(query.prompt.tokens),
        )

    def _decode(self, tokens: list[tuple[int, int, int, bool]]) -> None:
        """Evaluate (token, position, sequence, whether logits are wanted) in one batch."""
        batch = self._batch
        for i, (token, position, sequence, wanted) in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position, 1
            batch.seq_id[i][0], batch.logits[i] = sequence, wanted
        batch.n_tokens = len(tokens)
        code = llama_cpp.llama_decode(self._ctx, batch)
        if code != 0:
            raise LocalModelError(f"{self.name}: llama.cpp failed with {code}; use fewer rows or a larger context")

    def _logits(self, rows: int) -> npt.NDArray[np.float32]:
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits(self._ctx), (rows, self._n_vocab))

    def _piece(self, token: int) -> bytes:
        buffer = ctypes.create_string_buffer(64)
        n = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, False)
        return buffer.raw[: max(n, 0)]


def _new_context(model: Any, n_ctx: int, sequences: int, n_threads: int) -> Any:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = n_ctx, _BATCH, _BATCH
    params.n_seq_max, params.kv_unified = sequences, True
    params.n_threads = params.n_threads_batch = n_threads
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        raise LocalModelError(f"no memory for a context of {n_ctx} tokens and {sequences} sequences; use fewer rows")
    return context


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
