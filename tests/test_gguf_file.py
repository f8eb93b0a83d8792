"""GGUF files cut, spoilt and whole."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from edge_agent.errors import LocalModelError
from edge_agent.gguf_file import BLOCKS, check_gguf
from tests.tiny_gguf import make_tiny_gguf


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf").read_bytes()


def write(directory: Path, body: bytes) -> Path:
    path = directory / "model.gguf"
    path.write_bytes(body)
    return path


def test_a_whole_file_is_as_long_as_its_tensor_table_says(tmp_path: Path, whole: bytes) -> None:
    facts = check_gguf(write(tmp_path, whole))
    assert (facts.version, facts.tensors, facts.needed_bytes) == (3, 21, len(whole))


@pytest.mark.parametrize("share", [0.0, 0.00001, 0.001, 0.01, 0.03, 0.5, 0.99999])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, whole: bytes, share: float) -> None:
    path = write(tmp_path, whole[: int(len(whole) * share)])
    with pytest.raises(LocalModelError, match=f"model {path}: .*expected|model {path}: the header goes on"):
        check_gguf(path)


HEAD = b"GGUF" + struct.pack("<I", 3)
KEY = struct.pack("<Q", 1) + b"k"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html>", "expected a file that begins with GGUF, found b'<htm'"),
        (b"GGUF" + struct.pack("<I", 1), "expected GGUF version 2 or 3, found 1"),
        (b"GGUF" + struct.pack(">I", 3), "expected GGUF version 2 or 3, found 3 in big-endian byte order"),
        (HEAD + struct.pack("<QQ", 0, 0), "found a GGUF without tensors"),
        (HEAD + struct.pack("<QQ", 1 << 63, 0), "9,223,372,036,854,775,808 tensors"),
        (HEAD + struct.pack("<QQQ", 1, 1, 1 << 40), "a key of 1,099,511,627,776 bytes"),
        (HEAD + struct.pack("<QQ", 1, 1) + KEY + struct.pack("<I", 99), "a value of type 99"),
        (HEAD + struct.pack("<QQ", 1, 1) + KEY + struct.pack("<IQ", 8, 1 << 62), "the header goes on"),
        (HEAD + struct.pack("<QQ", 1, 1) + KEY + struct.pack("<IIQ", 9, 4, 1 << 63), "the header goes on"),
        (HEAD + struct.pack("<QQ", 1, 1) + KEY + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 9, "type 9"),
        (HEAD + struct.pack("<QQ", 1, 0) + KEY + struct.pack("<I", 5), "a tensor of 5 dimensions"),
        (HEAD + struct.pack("<QQ", 1, 0) + KEY + struct.pack("<IQQIQ", 2, 1 << 63, 1 << 63, 0, 0), "is cut off"),
    ],
)
def test_a_spoilt_header_is_named_and_costs_no_memory(tmp_path: Path, body: bytes, reason: str) -> None:
    with pytest.raises(LocalModelError, match=reason):
        check_gguf(write(tmp_path, body))


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocalModelError, match="cannot be read: Is a directory"):
        check_gguf(tmp_path)


def test_block_sizes_are_those_of_the_gguf_package() -> None:
    common = {GGMLQuantizationType(kind) for kind in BLOCKS if kind in list(GGMLQuantizationType)}
    assert len(common) >= 30
    assert {kind: BLOCKS[kind] for kind in common} == {kind: GGML_QUANT_SIZES[kind] for kind in common}
