"""The daemon against llama-cpp-python called directly: same GGUF, same settings, same run, turn about.

python -m benchmarks.device [generation] [memory] [startup] [--rounds N] [--queries N]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.bare_llama import rss_anon_mb
from benchmarks.table import print_table, ratio, spread
from edge_agent.client import Client
from edge_agent.config import Config, xdg_dir
from edge_agent.local_model import default_threads
from edge_agent.model_store import resolve

MODEL = "qwen2.5-coder-0.5b"
N_CTX, N_BATCH = Config().local.n_ctx, Config().local.n_batch
TOPICS = [
    "the sea",
    "bread",
    "clocks",
    "bridges",
    "winter",
    "maps",
    "bees",
    "salt",
    "trains",
    "glass",
    "rivers",
    "chess",
]


class Bare:
    """llama-cpp-python in a process of its own."""

    def __init__(self, model: Path):
        command = [
            sys.executable,
            "-m",
            "benchmarks.bare_llama",
            str(model),
            str(N_CTX),
            str(default_threads()),
            str(N_BATCH),
        ]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._read()

    def chat(self, messages: list[dict[str, str]], max_tokens: int) -> dict[str, Any]:
        return self._ask({"messages": messages, "max_tokens": max_tokens})

    def rss_anon_mb(self) -> float:
        return float(self._ask({"rss": True})["rss_anon_mb"])

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        return dict(json.loads(self._process.stdout.readline()))


class Ours:
    """The daemon over its socket."""

    def __init__(self, process: subprocess.Popen[bytes], socket: Path):
        self.process = process
        self._http = httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), timeout=300)

    def chat(self, messages: list[dict[str, str]], max_tokens: int) -> dict[str, Any]:
        body = {"model": "local", "messages": messages, "max_tokens": max_tokens, "temperature": 0, "stream": True}
        started, first, n, text = time.perf_counter(), None, 0, ""
        for line in self._lines(body):
            if line.startswith("data: {"):
                choices = json.loads(line[6:])["choices"]
                content = choices[0]["delta"].get("content") if choices else None
                if content:
                    last = time.perf_counter()
                    first = first or last
                    n, text = n + 1, text + content
        assert first is not None
        rate = (n - 1) / (last - first) if n > 1 else 0.0
        return {"first_token_ms": (first - started) * 1000, "tokens_per_s": rate, "tokens": n, "text": text}

    def _lines(self, body: dict[str, Any]) -> Iterator[str]:
        with self._http.stream("POST", "http://edge/v1/chat/completions", json=body) as response:
            response.raise_for_status()
            yield from response.iter_lines()

    def rss_anon_mb(self) -> float:
        return rss_anon_mb(self.process.pid)


@contextmanager
def daemon(directory: Path, model: str = MODEL) -> Iterator[tuple[Ours, float, float]]:
    """A fresh daemon; yields it with its seconds to ready and the model's share of them."""
    socket = directory / "agent.sock"
    settings = {"socket": {"path": str(socket)}, "log": {"path": str(directory / "log.db")}, "local": {"model": model}}
    (directory / "config.yaml").write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "edge_agent", "serve", "--config", str(directory / "config.yaml")]
    started = time.perf_counter()
    with (directory / "output.txt").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        client = Client(socket)
        while "is ready" not in (directory / "output.txt").read_text():
            assert process.poll() is None, (directory / "output.txt").read_text()
            time.sleep(0.01)
        ready_s = time.perf_counter() - started
        yield Ours(process, socket), ready_s, float(client.status()["local"]["load_s"])
    finally:
        process.terminate()
        process.wait()


def question(topic: str, words: int) -> list[dict[str, str]]:
    filler = " ".join(f"Point {i} is about {topic} and number {i * 7 % 13}." for i in range(words // 9))
    return [{"role": "user", "content": f"{filler} Write a long essay about {topic}."}]


def fifth_turn(side: Any, topic: str) -> float:
    """Milliseconds to the first token in turn 5 of a conversation; the history is the same for both sides."""
    messages: list[dict[str, str]] = []
    for turn in range(5):
        messages.append({"role": "user", "content": f"Tell me fact number {turn + 1} about {topic}, in two sentences."})
        result = side.chat(messages, 48)
        messages.append({"role": "assistant", "content": result["text"]})
    return float(result["first_token_ms"])


def generation(bare: Bare, ours: Ours, rounds: int) -> None:
    names = ("cold", "turn 5", "rate")
    found: dict[str, dict[str, list[float]]] = {name: {"bare": [], "ours": []} for name in names}
    for i in range(rounds):
        sides = [("bare", bare), ("ours", ours)] if i % 2 else [("ours", ours), ("bare", bare)]
        topic = f"{TOPICS[i % len(TOPICS)]} {i}"
        for name, side in sides:
            result = side.chat(question(topic, 180), 96)
            found["cold"][name].append(result["first_token_ms"])
            found["rate"][name].append(result["tokens_per_s"])
        for name, side in sides:
            found["turn 5"][name].append(fifth_turn(side, topic))
    labels = {"cold": "time to first token, cold, ms", "turn 5": "the same in turn 5, ms", "rate": "tokens/s"}
    goals = {"cold": "<= 1.05", "turn 5": "<= 1.05", "rate": ">= 0.98"}
    rows = []
    for name in names:
        ours_, bare_ = found[name]["ours"], found[name]["bare"]
        rows.append([labels[name], spread(bare_), spread(ours_), f"{ratio(ours_, bare_):.3f}", goals[name]])
    title = f"Generation, {MODEL}, {rounds} rounds, {default_threads()} threads, routing and logging on"
    print_table(title, ["", "llama-cpp-python", "edge-agent", "ratio", "goal"], rows)


def memory(bare: Bare, ours: Ours, queries: int) -> None:
    for i in range(queries):
        ours.chat([{"role": "user", "content": f"Question {i}: say yes."}], 4)
    for i in range(3):
        bare.chat([{"role": "user", "content": f"Question {i}: say yes."}], 4)
    difference = ours.rss_anon_mb() - bare.rss_anon_mb()
    rows = [[f"{bare.rss_anon_mb():.0f}", f"{ours.rss_anon_mb():.0f}", f"{difference:.0f}", "<= 120"]]
    head = ["llama-cpp-python, MB", f"edge-agent after {queries} queries, MB", "difference", "goal"]
    print_table("Anonymous resident memory", head, rows)


def startup(rounds: int) -> None:
    ready, load = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as directory, daemon(Path(directory)) as (_, ready_s, load_s):
            ready.append(ready_s)
            load.append(load_s)
    without = [a - b for a, b in zip(ready, load, strict=True)]
    rows = [
        ["time to ready, s", spread(ready, digits=2), ""],
        ["of it loading the model, s", spread(load, digits=2), ""],
    ]
    rows.append(["time to ready without it, s", spread(without, digits=2), "<= 1.5"])
    python, ask = [], []
    for _ in range(max(5, rounds)):
        python.append(_wall_ms([sys.executable, "-c", "pass"]))
        ask.append(_wall_ms([sys.executable, "-m", "edge_agent", "ask", "hello", "--socket", "/nonexistent/socket"]))
    rows.append(["`python -c pass`, ms", spread(python), ""])
    rows.append(["`edge-agent ask` until it connects, ms", spread(ask), f"{ratio(ask, python):.1f} x python"])
    print_table("Start-up", ["", "median (range)", "goal"], rows)


def _wall_ms(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, capture_output=True, env=os.environ | {"NO_COLOR": "1"}, check=False)
    return (time.perf_counter() - started) * 1000


PARTS = ("generation", "memory", "startup")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--queries", type=int, default=200)
    options = parser.parse_args()
    parts = options.parts or PARTS
    model = resolve(MODEL, xdg_dir("cache") / "models")
    if "generation" in parts or "memory" in parts:
        with tempfile.TemporaryDirectory() as directory, daemon(Path(directory)) as (ours, _, _):
            bare = Bare(model)
            try:
                if "generation" in parts:
                    generation(bare, ours, options.rounds)
                if "memory" in parts:
                    memory(bare, ours, options.queries)
            finally:
                bare.close()
    if "startup" in parts:
        startup(max(3, options.rounds // 2))
    print(f"\nload average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
