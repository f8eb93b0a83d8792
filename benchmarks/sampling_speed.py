"""Sampled tokens a second, against the obvious way and against the limit: python -m benchmarks.sampling_speed

The obvious way asks llama-cpp-python's high-level API n times with the same prompt, whose KV prefix it keeps. The
limit is a decode of as many rows as fit with logits on every row and nothing done with them. Same file, same questions,
same settings, one process after another on the same machine; goal: at least 2.5 times the obvious way and 70 % of the
limit. Answers that are the same so far are evaluated once, so the limit can be passed.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from statistics import median

from edge_agent.config import xdg_dir
from edge_agent.llama_runtime import llama_cpp
from edge_agent.training.label_queries import LabelQuery, of_questions
from edge_agent.training.model_specs import ModelSpec, model_spec
from edge_agent.training.questions import generate
from edge_agent.training.sampling import LlamaSampler, SamplingSettings

LIMIT_ROWS = (44, 88, 176)
"""Rows of a decode; the fastest counts."""
LIMIT_STEPS = 6


def main() -> None:
    chosen = parse()
    spec = model_spec(chosen.model, xdg_dir("cache") / "models", os.environ, n_threads=chosen.threads)
    queries = of_questions(generate(chosen.questions, seed=11))
    settings = SamplingSettings(chosen.n, chosen.temperature, 1.0, seed=0)
    ways: dict[str, Callable[[], tuple[int, float]]] = {
        "ours": lambda: ours(spec, queries, settings, chosen.threads),
        "obvious": lambda: obvious(spec, queries[:: chosen.obvious_every], settings, chosen.threads),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(chosen.repeats):
        for name, way in ways.items():
            tokens, seconds = way()
            rates[name].append(tokens / seconds)
            print(f"{name}: {tokens} tokens in {seconds:.1f} s = {tokens / seconds:.1f} tokens/s", flush=True)
    limit = max(of_rows(spec, rows, chosen.threads) for rows in LIMIT_ROWS)
    own, other = median(rates["ours"]), median(rates["obvious"])
    print(f"{chosen.model}: ours {own:.1f}, obvious {other:.1f}, limit {limit:.1f} tokens/s")
    print(f"{own / other:.2f} times the obvious way (goal 2.5), {own / limit:.0%} of the limit (goal 70 %)")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default="qwen2.5-coder-0.5b")
    add("--questions", type=int, default=40)
    add("--n", type=int, default=10)
    add("--temperature", type=float, default=SamplingSettings().temperature)
    add("--threads", type=int, default=os.cpu_count() or 2)
    add("--repeats", type=int, default=2)
    add("--obvious-every", type=int, default=4, help="the obvious way is slow: it gets every so-manieth question")
    return parser.parse_args()


def ours(spec: ModelSpec, queries: list[LabelQuery], settings: SamplingSettings, threads: int) -> tuple[int, float]:
    """(tokens, seconds), prompts included, loading not."""
    assert spec.path is not None
    sampler = LlamaSampler(spec.path, name=spec.name, n_threads=threads)
    started = time.perf_counter()
    tokens = sum(
        g.n_tokens for sample in sampler.sample([q.prompt for q in queries], settings) for g in sample.generations
    )
    seconds = time.perf_counter() - started
    sampler.close()
    return tokens, seconds


def obvious(spec: ModelSpec, queries: list[LabelQuery], settings: SamplingSettings, threads: int) -> tuple[int, float]:
    """One near-greedy and n drawn answers a query, one call each; questions of a format follow each other."""
    llama = llama_cpp.Llama(
        str(spec.path), n_ctx=2048, n_threads=threads, n_threads_batch=threads, logits_all=False, verbose=False
    )
    started, tokens = time.perf_counter(), 0
    for query in queries:
        messages = [message.to_openai() for message in query.prompt.messages]
        for index in range(settings.n + 1):
            answer = llama.create_chat_completion(
                messages, max_tokens=query.prompt.max_tokens, temperature=settings.temperature if index else 0.0,
                top_p=settings.top_p, top_k=0, min_p=0.0, repeat_penalty=1.0, seed=index,
            )  # fmt: skip
            ended = answer["choices"][0]["finish_reason"] == "stop"
            tokens += answer["usage"]["completion_tokens"] + ended  # ours counts the token that ends an answer
    seconds = time.perf_counter() - started
    llama.close()
    return tokens, seconds


def of_rows(spec: ModelSpec, rows: int, threads: int) -> float:
    """Tokens a second of a decode of this many rows behind a prompt of 200 tokens, logits on every row."""
    assert spec.path is not None
    sampler = LlamaSampler(spec.path, name=spec.name, answers=rows, n_threads=threads)
    sampler._decode([(1000 + i, i, 0, i == 199) for i in range(200)])
    for sequence in range(1, rows + 1):
        llama_cpp.llama_memory_seq_cp(sampler._memory, 0, sequence, -1, -1)
    seconds = []
    for step in range(LIMIT_STEPS):
        started = time.perf_counter()
        sampler._decode([(2000 + sequence, 200 + step, sequence, True) for sequence in range(1, rows + 1)])
        llama_cpp.llama_synchronize(sampler._ctx)
        seconds.append(time.perf_counter() - started)
    sampler.close()
    print(f"limit, {rows} rows: {rows / median(seconds):.1f} tokens/s", flush=True)
    return rows / median(seconds)


if __name__ == "__main__":
    main()
