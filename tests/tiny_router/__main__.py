"""Writes the tiny router into a directory: `python -m tests.tiny_router DIRECTORY`."""

import sys
from pathlib import Path

from tests.tiny_router import make_tiny_router

print(make_tiny_router(Path(sys.argv[1])))
