"""Samples a model's answers: one near-greedy and n drawn ones per prompt. Clusters nothing, grades nothing."""

from __future__ import annotations

import ctypes
import hashlib
import json
import logging
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.errors import LocalModelError, RequestError
from edge_agent.llama_runtime import llama_cpp
from edge_agent.local_model import chat_template
from edge_agent.training.token_draws import Floats, draw, entropies
from edge_agent.types import Message

_LOGGER = logging.getLogger(__name__)
_BATCH = 512


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How answers are drawn; recorded with every sample."""

    n: int = 10
    """Drawn answers per prompt, besides the near-greedy one."""
    temperature: float = 0.7
    """At 1 a small model says ten different things (docs/experiments.md)."""
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked, and where the answer ends."""

    query_id: str
    messages: tuple[Message, ...]
    """The conversation to answer; prompts that follow each other and share a beginning share its evaluation."""
    max_tokens: int = 64
    stop: str | None = None
    """Ends the answer where it first appears, such as a line's end; it is not part of the text."""

    @property
    def sha256(self) -> str:
        """Of everything the answers depend on, besides the model and the settings."""
        turns = [message.to_openai() for message in self.messages]
        return hashlib.sha256(json.dumps([turns, self.max_tokens, self.stop]).encode()).hexdigest()


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
    """0 where a server does not tell it: several answers in one response, without log-probabilities."""
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
class _Answer:
    """One answer under way."""

    generation: Generation
    data: bytes = b""
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Node:
    """Answers that are the same up to now: one sequence of the context stands for all of them."""

    query: _Query
    sequence: int
    position: int
    answers: list[_Answer]
    token: int = -1
    """The next one to evaluate."""


@dataclass(slots=True, eq=False)
class _Query:
    """A prompt whose answers are under way."""

    prompt: Prompt
    tokens: tuple[int, ...]
    rng: np.random.Generator
    hidden_state: npt.NDArray[np.float16]
    nodes: list[_Node] = field(default_factory=list)
    ended: list[_Answer] = field(default_factory=list)


class LlamaSampler:
    """A GGUF in this process: every decode advances all answers under way by one token.

    Sequence 0 holds the last prompt; the next prompt keeps what it shares with it. The answers to a prompt are a tree:
    those that are the same up to now are evaluated once, and several tokens are drawn from the one distribution. Where
    they part, the sequence is copied, which costs no memory: its cells are shared.

    :param answers: answers under way at a time, 255 at most.
    :raises LocalModelError: when the model cannot be loaded, is recurrent (its state cannot be shared) or has no chat
        template.
    """

    def __init__(self, path: Path, *, name: str, answers: int = 220, n_ctx: int = 16384, n_threads: int = 2):
        self.name = name
        logging.getLogger("llama-cpp-python").setLevel(logging.ERROR)  # else two lines on stderr for each prompt
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        if not self._model:
            raise LocalModelError(f"{path}: llama.cpp cannot load this model; check it with `edge-agent doctor`")
        if llama_cpp.llama_model_is_recurrent(self._model) or llama_cpp.llama_model_is_hybrid(self._model):
            raise LocalModelError(f"{path}: a recurrent model cannot share a prompt; sample it behind a server instead")
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self._template = chat_template(self._model, path)
        self._n_vocab = int(llama_cpp.llama_vocab_n_tokens(self._vocab))
        self._n_embd = int(llama_cpp.llama_model_n_embd(self._model))
        self._n_ctx = n_ctx
        self._ctx = _new_context(self._model, n_ctx, answers + 1, n_threads)
        self._memory = llama_cpp.llama_get_memory(self._ctx)
        self._batch = llama_cpp.llama_batch_init(_BATCH, 0, 1)
        self._free = list(range(answers, 0, -1))
        self._most_answers = answers
        self._held: tuple[int, ...] = ()
        """The prompt in sequence 0."""

    def sample(self, prompts: Iterable[Prompt], settings: SamplingSettings) -> Iterator[Sample]:
        """Answers to each prompt, in the order in which they are complete.

        What is drawn for a prompt depends on its query_id, the seed and the model, not on the prompts beside it. One
        that is too long for the context, or that the chat template refuses, is left out with a warning.
        """
        if settings.n + 1 > self._most_answers:
            raise ValueError(f"answers: expected at least {settings.n + 1}, found {self._most_answers}")
        waiting = deque(self._that_fit(prompts, settings))
        active = list[_Query]()
        while waiting or active:
            while waiting and self._has_room(active, *waiting[0], settings):
                active.append(self._begin(*waiting.popleft(), settings))
            if nodes := [node for query in active for node in query.nodes]:
                self._step(nodes, settings)
            for query in [query for query in active if not query.nodes]:
                active.remove(query)
                yield self._finished(query)

    def close(self) -> None:
        """Free the model."""
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_free(self._ctx)
        llama_cpp.llama_model_free(self._model)

    def _that_fit(
        self, prompts: Iterable[Prompt], settings: SamplingSettings
    ) -> Iterator[tuple[Prompt, tuple[int, ...]]]:
        for prompt in prompts:
            try:
                tokens = tuple(self._template.tokens(prompt.messages))
            except (RequestError, LookupError, TypeError) as error:  # a tool call is an object of any kind
                _LOGGER.warning("query %s is left out: %s", prompt.query_id, error)
                continue
            cells = len(tokens) + (settings.n + 1) * prompt.max_tokens
            if cells > self._n_ctx:
                _LOGGER.warning(
                    "query %s is left out: its %d tokens and %d answers of %d need %d cells, the context has %d",
                    prompt.query_id, len(tokens), settings.n + 1, prompt.max_tokens, cells, self._n_ctx,
                )  # fmt: skip
                continue
            yield prompt, tokens

    def _has_room(
        self, active: Sequence[_Query], prompt: Prompt, tokens: tuple[int, ...], settings: SamplingSettings
    ) -> bool:
        """Whether one more query fits even if no two answers share a token."""
        cells = (len(self._held) if active else 0) + len(tokens) + (settings.n + 1) * prompt.max_tokens
        answers = settings.n + 1
        for query in active:
            left = sum(len(node.answers) for node in query.nodes)
            answers += left
            cells += len(query.tokens) + (settings.n + 1) * query.prompt.max_tokens
        return answers <= self._most_answers and cells <= self._n_ctx

    def _begin(self, prompt: Prompt, tokens: tuple[int, ...], settings: SamplingSettings) -> _Query:
        """Evaluate what the prompt does not share with the last one, and draw every answer's first token from it."""
        shared = _common_prefix(self._held, tokens[:-1])
        llama_cpp.llama_memory_seq_rm(self._memory, 0, shared, -1)
        last = len(tokens) - 1
        for start in range(shared, last, _BATCH):
            part = tokens[start : min(start + _BATCH, last)]
            self._decode([(token, start + i, 0, False) for i, token in enumerate(part)])
        # the hidden state of the last token only: with embeddings on, every token of a batch becomes an output
        llama_cpp.llama_set_embeddings(self._ctx, True)
        self._decode([(tokens[last], last, 0, True)])
        llama_cpp.llama_set_embeddings(self._ctx, False)
        self._held = tokens
        state = np.ctypeslib.as_array(llama_cpp.llama_get_embeddings_ith(self._ctx, 0), (self._n_embd,))
        rng = np.random.default_rng([settings.seed, zlib.crc32(f"{self.name} {prompt.query_id}".encode())])
        query = _Query(prompt, tokens, rng, state.astype(np.float16))
        answers = [_Answer(Generation(prompt.query_id, self.name, index)) for index in range(settings.n + 1)]
        query.nodes.append(_Node(query, self._copy(0), len(tokens), answers))
        self._draw(self._logits(1), query.nodes[:], settings)
        return query

    def _step(self, nodes: list[_Node], settings: SamplingSettings) -> None:
        for start in range(0, len(nodes), _BATCH):
            part = nodes[start : start + _BATCH]
            self._decode([(node.token, node.position, node.sequence, True) for node in part])
            for node in part:
                node.position += 1
            self._draw(self._logits(len(part)), part, settings)

    def _draw(self, logits: Floats, nodes: Sequence[_Node], settings: SamplingSettings) -> None:
        """One token for each answer of each node; nodes whose answers part are split."""
        rows = np.repeat(np.arange(len(nodes)), [len(node.answers) for node in nodes])
        uniform = np.concatenate([node.query.rng.random(len(node.answers)) for node in nodes])
        greedy = np.array([answer.generation.index == 0 for node in nodes for answer in node.answers])
        uniform[greedy] = np.nan
        draws = draw(logits, uniform, rows=rows, temperature=settings.temperature, top_p=settings.top_p)
        entropy = dict(zip(rows[greedy], entropies(logits[rows[greedy]]), strict=True))
        drawn = zip(draws.tokens.tolist(), draws.logprobs.tolist(), strict=True)
        for row, node in enumerate(nodes):
            branches: dict[int, list[_Answer]] = {}
            for answer in node.answers:
                token, logprob = next(drawn)
                answer.logprobs.append(logprob)
                if answer.generation.index == 0:
                    answer.entropies.append(float(entropy[row]))
                if self._advance(node.query, answer, token):
                    branches.setdefault(token, []).append(answer)
            self._split(node, branches)

    def _split(self, node: _Node, branches: dict[int, list[_Answer]]) -> None:
        """The first branch keeps the sequence, each other one gets a copy."""
        for token, answers in list(branches.items())[1:]:
            copy = _Node(node.query, self._copy(node.sequence), node.position, answers, token)
            node.query.nodes.append(copy)
        if branches:
            node.token, node.answers = next(iter(branches.items()))
        else:
            node.query.nodes.remove(node)
            llama_cpp.llama_memory_seq_rm(self._memory, node.sequence, -1, -1)
            self._free.append(node.sequence)

    def _copy(self, sequence: int) -> int:
        copy = self._free.pop()
        llama_cpp.llama_memory_seq_cp(self._memory, sequence, copy, -1, -1)
        return copy

    def _advance(self, query: _Query, answer: _Answer, token: int) -> bool:
        """Whether the answer goes on after this token."""
        generation, stop = answer.generation, query.prompt.stop
        generation.n_tokens += 1
        ended = bool(llama_cpp.llama_vocab_is_eog(self._vocab, token))
        if not ended:
            answer.data += self._piece(token)
            if stop is not None and stop.encode() in answer.data:
                answer.data, ended = answer.data.partition(stop.encode())[0], True
        if not ended and generation.n_tokens < query.prompt.max_tokens:
            return True
        generation.text = answer.data.decode("utf-8", "replace").strip()
        generation.log_likelihood = float(np.mean(answer.logprobs))
        generation.finish_reason = "stop" if ended else "length"
        query.ended.append(answer)
        return False

    def _finished(self, query: _Query) -> Sample:
        answers = sorted(query.ended, key=lambda answer: answer.generation.index)
        return Sample(
            query_id=query.prompt.query_id,
            generations=[answer.generation for answer in answers],
            logprobs=np.array(answers[0].logprobs, dtype=np.float16),
            entropies=np.array(answers[0].entropies, dtype=np.float16),
            hidden_state=query.hidden_state,
            n_prompt_tokens=len(query.tokens),
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
            raise LocalModelError(f"{self.name}: llama.cpp failed with {code}; use fewer answers or a larger context")

    def _logits(self, rows: int) -> Floats:
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
        raise LocalModelError(f"no memory for a context of {n_ctx} tokens and {sequences} sequences; use fewer answers")
    return context


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
