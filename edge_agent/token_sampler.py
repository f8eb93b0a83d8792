"""Draws the next token. Owns one llama.cpp sampler chain and frees it; knows nothing of prompts or text."""

from __future__ import annotations

import ctypes
from typing import Any

from edge_agent.errors import RequestError
from edge_agent.llama_runtime import llama_cpp

_IMPOSSIBLE = float("-inf")


class TokenSampler:
    """Penalties, top-k, top-p, temperature and a seeded draw, optionally held to a grammar.

    llama.cpp checks a grammar against every token of the vocabulary, which costs more than a small model does. So
    the free draw comes first and only it is checked; where it does not fit, the whole vocabulary is.

    :param temperature: 0 is greedy.
    :param top_k: 0 is the whole vocabulary.
    :param seed: any whole number; llama.cpp draws at random for its largest, which is therefore never reached.
    :raises RequestError: when llama.cpp cannot parse the grammar.
    """

    def __init__(
        self,
        model: Any,
        *,
        temperature: float,
        top_p: float,
        top_k: int,
        seed: int | None = None,
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        grammar: str | None = None,
    ):
        seed = llama_cpp.LLAMA_DEFAULT_SEED if seed is None else seed % llama_cpp.LLAMA_DEFAULT_SEED
        self._grammar = init_grammar(model, grammar) if grammar is not None else None
        self._chains = [_chain() for _ in range(2 if self._grammar else 1)]
        if self._grammar:
            llama_cpp.llama_sampler_chain_add(self._chains[1], self._grammar)
        for chain in self._chains:
            if frequency_penalty or presence_penalty:
                n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
                penalties = llama_cpp.llama_sampler_init_penalties(
                    n_vocab, 256, 1.0, frequency_penalty, presence_penalty
                )
                llama_cpp.llama_sampler_chain_add(chain, penalties)
            for sampler in _draw(temperature, top_p, top_k, seed):
                llama_cpp.llama_sampler_chain_add(chain, sampler)

    def sample(self, ctx: Any) -> int:
        """A token from the last logits of the llama.cpp context."""
        token = int(llama_cpp.llama_sampler_sample(self._chains[0], ctx, -1))
        if self._grammar is None:
            return token
        if self._fits(token):
            llama_cpp.llama_sampler_accept(self._chains[1], token)
            return token
        return int(llama_cpp.llama_sampler_sample(self._chains[1], ctx, -1))

    def _fits(self, token: int) -> bool:
        data = llama_cpp.llama_token_data(id=token, logit=1.0, p=0.0)
        candidates = llama_cpp.llama_token_data_array(data=ctypes.pointer(data), size=1, selected=-1, sorted=False)
        llama_cpp.llama_sampler_apply(self._grammar, ctypes.byref(candidates))
        return bool(data.logit != _IMPOSSIBLE)

    def close(self) -> None:
        """Free the chains; llama-cpp-python leaves its own to a late garbage collection, megabytes a request."""
        while self._chains:
            llama_cpp.llama_sampler_free(self._chains.pop())


def init_grammar(model: Any, grammar: str) -> Any:
    """A llama.cpp grammar sampler. An unparsed one (NULL) in a chain kills the process: it is refused here."""
    vocab = llama_cpp.llama_model_get_vocab(model)
    sampler = llama_cpp.llama_sampler_init_grammar(vocab, grammar.encode(), b"root")
    if not sampler:
        raise RequestError("the schema of response_format or tools gives a grammar llama.cpp cannot parse; simplify it")
    return sampler


def _chain() -> Any:
    return llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())


def _draw(temperature: float, top_p: float, top_k: int, seed: int) -> list[Any]:
    if temperature <= 0:
        return [llama_cpp.llama_sampler_init_greedy()]
    samplers = [llama_cpp.llama_sampler_init_top_k(top_k)] if top_k else []
    samplers += [llama_cpp.llama_sampler_init_top_p(top_p, 1)] if top_p < 1 else []
    return [*samplers, llama_cpp.llama_sampler_init_temp(temperature), llama_cpp.llama_sampler_init_dist(seed)]
