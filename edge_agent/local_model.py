"""The local model: a quantized GGUF through llama-cpp-python behind `generate(query)`. Does not decide, does not log.

One engine thread owns the Llama: it serves one answer at a time, the others wait in a bounded queue.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.answer_text import AnswerText, parse_tool_calls
from edge_agent.chat_template import ChatTemplate
from edge_agent.confidence import TokenUncertainty
from edge_agent.errors import Busy, EdgeAgentError, LocalModelError, RequestError
from edge_agent.gguf_file import context_length
from edge_agent.grammar import answer_prefix, grammar_for
from edge_agent.llama_runtime import llama_cpp
from edge_agent.token_sampler import TokenSampler, init_grammar
from edge_agent.types import Chunk, Completion, Options, Query

_LOGGER = logging.getLogger("llama.cpp")
_ABORTED = "llama_decode returned 2"
_FAILURES_UNTIL_BROKEN = 2
_CANCEL_POLL_S = 0.25
"""How soon a cancelled job leaves the queue; a running one is cancelled within a token."""


class _LlamaCppFailed(Exception):
    """llama.cpp could not evaluate tokens."""


@dataclass(slots=True, eq=False)
class _Job:
    query: Query
    prompt: list[int]
    grammar: str | None
    cancelled: threading.Event
    out: queue.SimpleQueue[Chunk | Completion | Exception] = field(default_factory=queue.SimpleQueue)
    started: float = field(default_factory=time.perf_counter)


class LocalModel:
    """:param n_threads: 0 is one per core, minus one on four cores and more.
    :param max_waiting: answers that may wait behind the running one; one more raises Busy.
    :raises LocalModelError: when the file cannot be loaded or has no chat template.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str | None = None,
        n_ctx: int = 4096,
        n_threads: int = 0,
        n_batch: int = 256,
        max_tokens: int = 1024,
        temperature: float = 0.7,
        top_p: float = 0.8,
        top_k: int = 20,
        max_waiting: int = 4,
    ):
        self.name = name or path.stem
        self.n_threads = n_threads or default_threads()
        self._llama = _load(path, n_ctx, self.n_threads, n_batch)
        self.n_ctx = min(n_ctx, self._llama.n_ctx())
        self._template = chat_template(self._llama.model, path)
        self._max_tokens, self._temperature, self._top_p, self._top_k = max_tokens, temperature, top_p, top_k
        self._max_waiting = max_waiting
        self._waiting: deque[_Job] = deque()
        self._running: _Job | None = None
        self._closing = False
        self._changed = threading.Condition()
        self._failures = 0
        self.heartbeat = 0
        """Moves while the engine works."""
        self.broken: str | None = None
        """Why the model no longer answers; None while it does."""
        self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Answers that wait behind the running one."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether an answer is running."""
        return self._running is not None

    def prompt_tokens(self, query: Query) -> int:
        """Tokens of the prompt, template included. :raises RequestError: when this model cannot honour the query."""
        self._grammar(query.options)
        return len(self._prompt(query))

    def generate(self, query: Query, cancelled: threading.Event) -> Generator[Chunk, None, Completion]:
        """Queue the query; the iterator yields chunks and returns the Completion. `cancelled` ends it within a token.

        :raises RequestError: before anything is queued, when the options cannot be honoured.
        :raises Busy: when `max_waiting` answers wait already.
        :raises LocalModelError: when the model is broken.
        """
        if self.broken:
            raise LocalModelError(
                f"the local model {self.name} is broken ({self.broken}); restart the daemon and see `edge-agent doctor`"
            )
        grammar = self._grammar(query.options)
        job = _Job(query, self._prompt(query), grammar, cancelled)
        with self._changed:
            ahead = self.busy + sum(not other.cancelled.is_set() for other in self._waiting)
            if ahead > self._max_waiting:
                raise Busy(
                    f"busy: one answer is running and {ahead - 1} wait (local.max_waiting); try again in a moment"
                )
            self._waiting.append(job)
            self._changed.notify()
        return self._received(job)

    def close(self) -> None:
        """Finish what is queued, stop the engine thread and free the model."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        self._llama.close()

    def _received(self, job: _Job) -> Generator[Chunk, None, Completion]:
        while True:
            try:
                item = job.out.get(timeout=_CANCEL_POLL_S)
            except queue.Empty:
                if job.cancelled.is_set() and self._withdraw(job):
                    return Completion("", self.name, "cancelled", len(job.prompt), 0, None, _ms_since(job.started))
                continue
            if isinstance(item, Completion):
                return item
            if isinstance(item, Exception):
                raise item
            yield item

    def _withdraw(self, job: _Job) -> bool:
        """Take a job out of the queue; False when it runs already."""
        with self._changed:
            if job not in self._waiting:
                return False
            self._waiting.remove(job)
            return True

    def _prompt(self, query: Query) -> list[int]:
        options = query.options
        if options.tools and not self._template.knows_tools:
            raise RequestError(
                f"tools: the chat template of {self.name} knows no tools; use another model", param="tools"
            )
        tools = () if options.tool_choice == "none" else options.tools
        return self._template.tokens(query.messages, tools, answer_prefix(options))

    def _grammar(self, options: Options) -> str | None:
        grammar = grammar_for(options)
        if grammar is not None:
            llama_cpp.llama_sampler_free(init_grammar(self._llama.model, grammar))
        return grammar

    def _next(self) -> _Job | None:
        """The next job once there is one; None when the model closes."""
        with self._changed:
            self._running = None
            while not self._waiting and not self._closing:
                self._changed.wait()
            self._running = self._waiting.popleft() if self._waiting else None
            return self._running

    def _serve(self) -> None:
        while (job := self._next()) is not None:
            try:
                job.out.put(self._answer(job))
                self._failures = 0
            except EdgeAgentError as error:
                job.out.put(error)
            except Exception as error:
                self._forget()
                if isinstance(error, _LlamaCppFailed):  # an error of our own is this one request's
                    self._failures += 1
                    if self._failures >= _FAILURES_UNTIL_BROKEN:
                        self.broken = str(error)
                job.out.put(LocalModelError(f"the local model {self.name} failed: {error}; see `edge-agent doctor`"))

    def _answer(self, job: _Job) -> Completion:
        options = job.query.options
        text = AnswerText(options.stop, tools=bool(options.tools))
        text.feed(answer_prefix(options).encode())
        uncertainty = TokenUncertainty(self._llama.n_vocab())
        finish_reason, first_token_ms, n_tokens = "length", None, 0
        for token in self._tokens(job, uncertainty):
            n_tokens += 1
            first_token_ms = first_token_ms or _ms_since(job.started)
            if llama_cpp.llama_vocab_is_eog(llama_cpp.llama_model_get_vocab(self._llama.model), token):
                finish_reason = "stop"
                break
            if shown := text.feed(bytes(self._llama.detokenize([token]))):
                job.out.put(Chunk(shown))
            if text.stopped:
                finish_reason = "stop"
                break
        calls, tail = self._ending(text, options)
        if tail:
            job.out.put(Chunk(tail))
        if job.cancelled.is_set():
            finish_reason = "cancelled"
        return Completion(
            text=text.text,
            model=self.name,
            finish_reason="tool_calls" if calls else finish_reason,
            input_tokens=len(job.prompt),
            output_tokens=n_tokens,
            first_token_ms=first_token_ms,
            duration_ms=_ms_since(job.started),
            uncertainty=uncertainty.result(),
            tool_calls=calls,
        )

    def _ending(self, text: AnswerText, options: Options) -> tuple[tuple[dict[str, Any], ...], str]:
        """The tool calls, and what is still to be shown: held-back text, or calls that turned out to be none."""
        tail = "" if text.stopped else text.feed(b"", final=True)
        if not text.calls_text:
            return (), tail
        calls = parse_tool_calls(text.calls_text, [tool["function"]["name"] for tool in options.tools])
        if not calls:
            tail += text.calls_text.removeprefix(answer_prefix(options))
            text.text += tail
        return calls, tail

    def _tokens(self, job: _Job, uncertainty: TokenUncertainty) -> Iterator[int]:
        """Tokens until the limit, the context's end or cancellation; each one's uncertainty from its logits."""
        options, llama = job.query.options, self._llama
        room = self.n_ctx - len(job.prompt)
        sampler = self._sampler(job)
        try:
            if not self._prefill(job):
                return
            limit = min(options.max_tokens or self._max_tokens, room)
            for n in range(1, limit + 1):
                token = sampler.sample(llama.ctx)
                uncertainty.add(self._logits(), token)
                self.heartbeat += 1
                yield token
                if n == limit or job.cancelled.is_set():
                    return  # nothing asks for what would follow this token
                self._eval([token])
        finally:
            sampler.close()

    def _prefill(self, job: _Job) -> bool:
        """Evaluate the prompt behind what the context already holds of it; False when cancelled meanwhile."""
        if job.cancelled.is_set():
            return False

        # the callback runs once per graph node: cheap beside a batch of prompt tokens, too dear for each answer token
        def aborts(_: Any) -> bool:
            self.heartbeat += 1
            return job.cancelled.is_set()

        abort = llama_cpp.ggml_abort_callback(aborts)
        llama_cpp.llama_set_abort_callback(self._llama.ctx, abort, None)
        try:
            kept = self._keep_prefix(job.prompt)
            self._eval(job.prompt[kept:])
        except _LlamaCppFailed as error:
            if _ABORTED not in str(error):
                raise
            return False
        finally:
            llama_cpp.llama_set_abort_callback(self._llama.ctx, llama_cpp.ggml_abort_callback(), None)
        return not job.cancelled.is_set()

    def _eval(self, tokens: Sequence[int]) -> None:
        try:
            self._llama.eval(tokens)
        except Exception as error:
            raise _LlamaCppFailed(f"{type(error).__name__}: {error}") from error

    def _keep_prefix(self, prompt: Sequence[int]) -> int:
        """Cut the context back to the longest prefix it shares with the prompt, leaving a token to evaluate."""
        llama = self._llama
        held = llama.input_ids[: min(llama.n_tokens, len(prompt) - 1)]
        differs = np.flatnonzero(held != np.asarray(prompt[: len(held)], dtype=held.dtype))
        kept = int(differs[0]) if len(differs) else len(held)
        if kept and llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(llama.ctx), 0, kept, -1):
            llama.n_tokens = kept
            return kept
        self._forget()  # nothing shared, or a recurrent model, which cannot be cut back
        return 0

    def _forget(self) -> None:
        self._llama.reset()
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._llama.ctx), True)

    def _sampler(self, job: _Job) -> TokenSampler:
        options = job.query.options
        return TokenSampler(
            self._llama.model,
            temperature=self._temperature if options.temperature is None else options.temperature,
            top_p=self._top_p if options.top_p is None else options.top_p,
            top_k=self._top_k,
            seed=options.seed,
            frequency_penalty=options.frequency_penalty or 0.0,
            presence_penalty=options.presence_penalty or 0.0,
            grammar=job.grammar,
        )

    def _logits(self) -> npt.NDArray[Any]:
        """The last logits, shape (n_vocab,), not copied."""
        logits = llama_cpp.llama_get_logits_ith(self._llama.ctx, -1)
        return np.ctypeslib.as_array(logits, shape=(self._llama.n_vocab(),))


def default_threads() -> int:
    """One per core this process may use; one fewer on four and more, so that the rest of the device stays alive."""
    cores = len(os.sched_getaffinity(0))
    return cores - 1 if cores >= 4 else cores


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _log_line(level: int, text: bytes, _: Any) -> None:
    _LOGGER.debug("%s", text.decode("utf-8", "replace").rstrip())


def _load(path: Path, n_ctx: int, n_threads: int, n_batch: int) -> Any:
    llama_cpp.llama_log_set(_log_line, None)
    trained = context_length(path)
    if trained is not None and n_ctx > trained:
        _LOGGER.warning("local.n_ctx is %d, %s was trained on %d: so many are used", n_ctx, path.name, trained)
        n_ctx = trained
    try:
        return llama_cpp.Llama(
            str(path),
            n_ctx=n_ctx,
            n_threads=n_threads,
            n_threads_batch=n_threads,
            n_batch=n_batch,
            n_ubatch=n_batch,
            verbose=False,
        )
    except MemoryError as error:
        raise LocalModelError(
            f"{path}: not enough memory for local.n_ctx {n_ctx} and local.n_batch {n_batch}: {error}; lower them"
        ) from error
    except (ValueError, RuntimeError) as error:
        raise LocalModelError(
            f"{path}: llama.cpp cannot load this model ({path.stat().st_size if path.exists() else 0} bytes): {error};"
            " check the file with `edge-agent doctor` or fetch it again with `edge-agent pull`"
        ) from error


def chat_template(model: Any, path: Path) -> ChatTemplate:
    """The template in a loaded model's file, with the model's own tokenizer.

    :param model: llama.cpp's `llama_model *`.
    :raises LocalModelError: when the file has none.
    """
    source = llama_cpp.llama_model_chat_template(model, None)
    if not source:
        raise LocalModelError(f"{path}: the GGUF has no tokenizer.chat_template; choose an instruct model")
    vocab = llama_cpp.llama_model_get_vocab(model)

    def text_of(token: int) -> str:
        return llama_cpp.llama_vocab_get_text(vocab, token).decode() if token >= 0 else ""

    def tokenize(text: str, special: bool) -> list[int]:
        data = text.encode("utf-8", "replace")
        tokens = (llama_cpp.llama_token * (len(data) + 1))()  # no token is shorter than a byte
        n = llama_cpp.llama_tokenize(vocab, data, len(data), tokens, len(tokens), False, special)
        return list(tokens[:n])

    bos, eos = llama_cpp.llama_vocab_bos(vocab), llama_cpp.llama_vocab_eos(vocab)
    add_bos = bool(llama_cpp.llama_vocab_get_add_bos(vocab))
    return ChatTemplate(source.decode(), tokenize, bos=text_of(bos), eos=text_of(eos), add_bos=add_bos)


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000.0
