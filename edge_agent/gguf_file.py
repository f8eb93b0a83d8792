"""Checks that a GGUF file is whole, from its header alone. Loads nothing, knows no model.

llama.cpp maps the file and trusts it: one cut in half ends in an abort or in a bus error long after the start. What the
header promises is compared with the file's length instead, in pure Python and about a tenth of a second.
Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edge_agent.errors import LocalModelError

VERSIONS = (2, 3)
SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Value type -> size: (u)int8, (u)int16, (u)int32, float32, bool, (u)int64, float64."""
STRING, ARRAY, UINT32 = 8, 9, 4
MAX_DIMENSIONS = 4
MAX_NESTING = 4
MAX_KEY_BYTES = 65_535
MAX_ENTRIES = 1 << 22
"""Keys, tensors or strings of one array; the largest vocabularies have 262,144 tokens."""
MAX_WEIGHTS = 1 << 60
"""Beyond any file: products of hostile dimensions are cut off here."""

# fmt: off
BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66), 17: (256, 74),
    18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2),
    26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
    40: (64, 36),
}
# fmt: on
"""ggml tensor type -> (weights per block, bytes per block)."""


@dataclass(frozen=True, slots=True)
class GgufFacts:
    """What the header says."""

    version: int
    tensors: int
    needed_bytes: int
    """The file is at least this long when it is whole."""


class _Broken(Exception):
    """The header is not what the format allows; says where."""


def check_gguf(path: Path) -> GgufFacts:
    """The facts of a whole GGUF file.

    :raises LocalModelError: the file is unreadable, no GGUF, of another version, or shorter than its tensor table says.
    """
    try:
        with path.open("rb") as stream:
            size_bytes = os.fstat(stream.fileno()).st_size
            facts = _Header(stream, size_bytes).facts()
    except OSError as error:
        raise LocalModelError(
            f"model {path}: cannot be read: {error.strerror}; check the path and its permissions"
        ) from error
    except _Broken as error:
        raise LocalModelError(f"model {path}: {error}; {_NEXT}") from error
    if size_bytes < facts.needed_bytes:
        raise LocalModelError(
            f"model {path}: expected at least {facts.needed_bytes:,} bytes by its tensor table, "
            f"found {size_bytes:,}: the file is cut off; {_NEXT}"
        )
    return facts


def context_length(path: Path) -> int | None:
    """Tokens the model was trained on, by the header; None when it does not say or cannot be read."""
    try:
        with path.open("rb") as stream:
            return _Header(stream, os.fstat(stream.fileno()).st_size).context_length()
    except (OSError, _Broken):
        return None


def chat_template_of(path: Path) -> bytes | None:
    """The source of the model's chat template; None when the header has none or cannot be read."""
    try:
        with path.open("rb") as stream:
            return _Header(stream, os.fstat(stream.fileno()).st_size).chat_template()
    except (OSError, _Broken):
        return None


_NEXT = "download it again (`edge-agent pull --list` names the models that come verified)"


class _Header:
    """Reads a GGUF header front to back; every length is compared with what is left of the file before it is used."""

    def __init__(self, stream: BinaryIO, size_bytes: int) -> None:
        self.stream, self.size_bytes, self.position = stream, size_bytes, 0
        self.version, self.alignment = 0, 32

    def context_length(self) -> int | None:
        """The value of the first key that ends in .context_length; what comes behind it is not read."""
        _, keys = self._begin()
        for _ in range(keys):
            key, kind = self._key()
            if key.endswith(b".context_length") and kind == UINT32:
                return self._uint32()
            self._skip_value(kind)
        return None

    def chat_template(self) -> bytes | None:
        _, keys = self._begin()
        for _ in range(keys):
            key, kind = self._key()
            if key == b"tokenizer.chat_template" and kind == STRING:
                return self._read(self._uint64())
            self._skip_value(kind)
        return None

    def facts(self) -> GgufFacts:
        tensors, keys = self._begin()
        for _ in range(keys):
            self._key_value()
        if not tensors:
            raise _Broken("expected a model, found a GGUF without tensors")
        data_bytes = max(self._tensor_end() for _ in range(tensors))
        start = -(-self.position // self.alignment) * self.alignment
        return GgufFacts(self.version, tensors, start + data_bytes)

    def _begin(self) -> tuple[int, int]:
        """Numbers of tensors and keys."""
        magic = self.stream.read(4)
        if magic != b"GGUF":
            raise _Broken(f"expected a file that begins with GGUF, found {magic!r}")
        self.position = 4
        self.version = self._uint32()
        if self.version not in VERSIONS:
            raise _Broken(f"expected GGUF version 2 or 3, found {_version_in_words(self.version)}")
        return self._count("tensors"), self._count("keys")

    def _key(self) -> tuple[bytes, int]:
        """A key and the type of its value."""
        length = self._uint64()
        if length > MAX_KEY_BYTES:
            raise self._broken(f"a key of {length:,} bytes")
        return self._read(length), self._uint32()

    def _key_value(self) -> None:
        key, kind = self._key()
        if key == b"general.alignment" and kind == UINT32:
            self.alignment = self._uint32()
            if not 0 < self.alignment <= 1 << 20:
                raise self._broken(f"an alignment of {self.alignment:,}")
        else:
            self._skip_value(kind)

    def _skip_value(self, kind: int, nesting: int = 0) -> None:
        if kind in SCALAR_BYTES:
            self._skip(SCALAR_BYTES[kind])
        elif kind == STRING:
            self._skip(self._uint64())
        elif kind == ARRAY and nesting < MAX_NESTING:
            of = self._uint32()
            if of in SCALAR_BYTES:
                self._skip(self._uint64() * SCALAR_BYTES[of])
            else:
                for _ in range(self._count("strings")):
                    self._skip_value(of, nesting + 1)
        else:
            raise self._broken(f"a value of type {kind}")

    def _tensor_end(self) -> int:
        """Where the next tensor of the table ends, in bytes after the beginning of the data."""
        self._skip(self._uint64())
        n_dimensions = self._uint32()
        if n_dimensions > MAX_DIMENSIONS:
            raise self._broken(f"a tensor of {n_dimensions} dimensions")
        weights = 1
        for _ in range(n_dimensions):
            weights = min(weights * self._uint64(), MAX_WEIGHTS)
        kind, offset = self._uint32(), self._uint64()
        per_block, block_bytes = BLOCKS.get(kind, (1, 0))  # a type newer than this table: its offset is a lower bound
        return offset + -(-weights // per_block) * block_bytes

    def _count(self, of: str) -> int:
        count = self._uint64()
        if count > MAX_ENTRIES:
            raise self._broken(f"{count:,} {of}")
        return count

    def _uint32(self) -> int:
        return int(struct.unpack("<I", self._read(4))[0])

    def _uint64(self) -> int:
        return int(struct.unpack("<Q", self._read(8))[0])

    def _read(self, length: int) -> bytes:
        self._claim(length)
        return self.stream.read(length)

    def _skip(self, length: int) -> None:
        self._claim(length)
        if length < 512:  # within the buffer reading is cheaper than seeking
            self.stream.read(length)
        else:
            self.stream.seek(self.position)

    def _claim(self, length: int) -> None:
        self.position += length
        if self.position > self.size_bytes:
            raise _Broken(f"the header goes on for {length:,} bytes where the file ends, at {self.size_bytes:,} bytes")

    def _broken(self, found: str) -> _Broken:
        return _Broken(f"the header is damaged: {found} before byte {self.position:,}")


def _version_in_words(version: int) -> str:
    swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
    return f"{swapped} in big-endian byte order" if swapped in VERSIONS else str(version)
