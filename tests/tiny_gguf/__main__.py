import sys
from pathlib import Path

from tests.tiny_gguf import make_tiny_gguf

print(make_tiny_gguf(Path(sys.argv[1])))
