"""llama-cpp-python called directly, in a process of its own: the other side of the comparison.

Reads one JSON request a line: {messages, max_tokens}, answers {first_token_ms, tokens_per_s, text}; `{"rss": true}`
answers {rss_anon_mb}.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import llama_cpp


def rss_anon_mb(pid: int | str = "self") -> float:
    """Anonymous resident memory of a process in MB: the model's mapped file is not in it."""
    match = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return int(match[1]) / 1024


def answer(llama: Any, request: dict[str, Any]) -> dict[str, Any]:
    started, first, n, text = time.perf_counter(), None, 0, ""
    stream = llama.create_chat_completion(
        request["messages"], max_tokens=request["max_tokens"], temperature=0.0, stream=True
    )
    for chunk in stream:
        content = chunk["choices"][0]["delta"].get("content")
        if content:
            last = time.perf_counter()
            first = first or last
            n, text = n + 1, text + content
    assert first is not None
    return {
        "first_token_ms": (first - started) * 1000,
        "tokens_per_s": (n - 1) / (last - first) if n > 1 else 0.0,
        "tokens": n,
        "text": text,
    }


def main() -> None:
    model, n_ctx, n_threads, n_batch = sys.argv[1], *map(int, sys.argv[2:5])
    llama = llama_cpp.Llama(
        model, n_ctx=n_ctx, n_threads=n_threads, n_threads_batch=n_threads, n_batch=n_batch, verbose=False
    )
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        result = {"rss_anon_mb": rss_anon_mb()} if request.get("rss") else answer(llama, request)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
