"""Writes the tiny cross-encoder into a directory: `python -m tests.tiny_entailment DIRECTORY`."""

import sys
from pathlib import Path

from tests.tiny_entailment import make_tiny_entailment

print(make_tiny_entailment(Path(sys.argv[1])))
