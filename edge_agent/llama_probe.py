"""What llama.cpp says of itself and of a model file, no weight read: `python -m edge_agent.llama_probe [FILE]`.

A process of its own: a llama.cpp built for another processor dies of SIGILL or SIGSEGV, and `doctor` lives to tell.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

PROBE_S = 60.0
"""An SD card takes its time over the first import."""
_LONGEST = 4096
_NEEDED = ("general.architecture", "tokenizer.chat_template")


@dataclass(frozen=True, slots=True)
class LlamaFacts:
    version: str | None = None
    """Of llama-cpp-python; None when it could not be loaded."""
    cpu: str = ""
    """llama_print_system_info(): `NEON = 1 | DOTPROD = 1 | ...`."""
    problem: str | None = None
    """Why there is nothing to tell about llama.cpp, in words; None when there is."""
    model: dict[str, str] = field(default_factory=dict)
    """The GGUF's metadata by key, numbers as text; empty without a file."""
    model_problem: str | None = None
    """What llama.cpp said when it could not open the file."""


def probe(model: Path | None, timeout_s: float = PROBE_S) -> LlamaFacts:
    """The facts, from a process of their own; never raises, never hangs."""
    package_parent = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")]))
    environ = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}  # nothing is imported from where we were called
    command = [sys.executable, "-m", "edge_agent.llama_probe", *([str(model)] if model else [])]
    try:
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=timeout_s)
        return LlamaFacts(**json.loads(done.stdout))
    except subprocess.TimeoutExpired:
        return LlamaFacts(problem=f"did not answer within {timeout_s:g} s")
    except ValueError:
        return LlamaFacts(problem=_last_words(done.returncode, done.stderr))


def _last_words(code: int, stderr: str) -> str:
    if code < 0:
        return f"crashed with {signal.Signals(-code).name} while it was loaded"
    lines = stderr.strip().splitlines()
    return f"cannot be loaded: {lines[-1][:300]}" if lines else f"ended with code {code}"


def facts(model: str | None) -> dict[str, Any]:
    """The fields of LlamaFacts, found in this process."""
    import llama_cpp

    said: list[str] = []

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
    def listen(level: int, text: bytes, _: Any) -> None:
        if level >= 4:  # GGML_LOG_LEVEL_ERROR
            said.append(text.decode("utf-8", "replace").strip())

    llama_cpp.llama_log_set(listen, None)
    found: dict[str, Any] = {
        "version": llama_cpp.__version__,
        "cpu": llama_cpp.llama_print_system_info().decode().strip(" |"),
    }
    if model is not None:
        parameters = llama_cpp.llama_model_default_params()
        parameters.vocab_only = True
        handle = llama_cpp.llama_model_load_from_file(os.fsencode(model), parameters)
        found["model"] = _metadata(handle) if handle else {}
        found["model_problem"] = None if handle else next(iter(said), "it cannot be opened")
    return found


def _metadata(handle: Any) -> dict[str, str]:
    """What is asked for by name, and every number."""
    import llama_cpp

    pairs = {}
    for i in range(llama_cpp.llama_model_meta_count(handle)):
        key = _read(partial(llama_cpp.llama_model_meta_key_by_index, handle, i))
        value = _read(partial(llama_cpp.llama_model_meta_val_str_by_index, handle, i))
        if key in _NEEDED or value.isdigit():
            pairs[key] = value
    return pairs


def _read(call: Callable[[Any, int], int]) -> str:
    buffer = ctypes.create_string_buffer(_LONGEST)
    call(buffer, _LONGEST)
    return buffer.value.decode("utf-8", "replace")


if __name__ == "__main__":
    print(json.dumps(facts(sys.argv[1] if len(sys.argv) > 1 else None)))
