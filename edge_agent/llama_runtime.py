"""llama_cpp, imported with bounded spinning. Every room that needs llama_cpp takes it from here.

OpenMP's threads wait for each other by spinning some hundred thousand times. On a machine where another process
holds one core of two, that made 25 tokens a second into one. A few thousand spins cost a few per cent on a quiet
machine and keep most of the speed on a busy one (docs/performance.md). libgomp reads the variable when it is loaded.
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "3000")

import llama_cpp  # noqa: E402

__all__ = ["llama_cpp"]
