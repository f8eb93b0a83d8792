"""Batches of log rows as bytes: what comes back, what is refused, and what names and ranges say."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest

from edge_agent.errors import BatchError
from edge_agent.log_batches import (
    FORMAT,
    BatchHeader,
    contiguous_end,
    decode,
    device_id_of,
    encode,
    is_device_id,
    object_name,
    parse_object_name,
)

LOG_ID = "0123456789abcdef" * 2
HEADER = BatchHeader("pi-5", LOG_ID, "exchanges", 10, 14)
ROWS = [{"seq": 11, "id": "a", "answer": "größe\n日本 \u2028"}, {"seq": 14, "id": "b", "score": 0.25, "error": None}]


def packed(*lines: Any) -> bytes:
    return gzip.compress(
        b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines)
    )


def head(**changed: Any) -> dict[str, Any]:
    return {
        "format": FORMAT, "device_id": "pi-5", "log_id": LOG_ID, "table": "exchanges", "after_seq": 10, "last_seq": 14,
        "rows": 0,
    } | changed  # fmt: skip


def test_what_was_packed_comes_back() -> None:
    header, rows = decode(encode(HEADER, ROWS))
    assert rows == ROWS
    assert header == BatchHeader("pi-5", LOG_ID, "exchanges", 10, 14, rows=2)


def test_the_same_rows_are_the_same_bytes_whenever_they_are_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    first = encode(HEADER, ROWS)
    monkeypatch.setattr("time.time", lambda: 4e9)
    assert encode(HEADER, ROWS) == first


def test_every_cut_of_a_batch_is_refused() -> None:
    whole = encode(HEADER, ROWS)
    for length in range(len(whole)):
        with pytest.raises(BatchError):
            decode(whole[:length])
    with pytest.raises(BatchError, match="truncated: .* are not the whole gzip stream; send it again"):
        decode(whole[:-9])


def test_every_flipped_byte_is_refused_or_without_effect() -> None:
    whole = encode(HEADER, ROWS)
    for place in range(len(whole)):
        damaged = whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :]
        with suppress(BatchError):
            assert decode(damaged)[1] == ROWS  # in gzip's own header: a time, a system


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "truncated: 0 bytes"),
        (b"plain text", "expected gzip, found something else"),
        (packed(), "found a cut line"),
        (packed(b'{"format": "edge-agent-log@1"'), "found a cut line"),
        (packed(b"nothing of ours\n"), r"line 1: expected a JSON object, found b'nothing"),
        (packed([1]), "line 1: expected a JSON object"),
        (packed({}), "expected format 'edge-agent-log@1', found 'None'"),
        (packed(head(format="edge-agent-log@2")), "found 'edge-agent-log@2'; use the same version at both ends"),
        (packed(head(rows=2), {"seq": 11}), "expected 2 rows as its header says, found 1"),
        (packed(head(rows=1), {"seq": 11}, {"seq": 12}), "expected 1 rows as its header says, found 2"),
        (packed(head(rows=1), b"{'seq': 11}\n"), "line 2: expected a JSON object"),
        (packed(head(rows=1), b"[" * 100_000 + b"\n"), "line 2: expected a JSON object"),
        (packed(head(rows=1), b'"text"\n'), "line 2: expected a JSON object"),
        (packed(head(rows=1), {"seq": 10}), r"expected seq in \(10, 14\], found 10"),
        (packed(head(rows=1), {"seq": 15}), r"expected seq in \(10, 14\], found 15"),
        (packed(head(device_id="../up")), "header: device_id: found '../up'"),
        (packed(head(device_id=None)), "header: device_id: found 'None'"),
        (packed(head(log_id="X" * 32)), "header: log_id"),
        (packed(head(table="sqlite_master")), "header: table: found 'sqlite_master'"),
        (packed(head(table=["exchanges"])), "header: table"),
        (packed(head(after_seq=-1)), "header: after_seq: found '-1'"),
        (packed(head(last_seq=True)), "header: last_seq"),
        (packed(head(last_seq=1 << 63)), "header: last_seq"),
        (packed(head(after_seq=14)), "expected after_seq < last_seq, found 14 and 14"),
        (encode(HEADER, ROWS) + b"more", "expected one gzip stream, found 4 more bytes after it"),
    ],
)
def test_what_is_no_batch_is_refused_with_what_was_expected(body: bytes, says: str) -> None:
    with pytest.raises(BatchError, match=says) as caught:
        decode(body)
    assert caught.value.status == 400


def test_rows_that_lack_id_or_seq_are_handed_over_all_the_same() -> None:
    rows = [{"seq": 11}, {"id": "b"}, {"seq": "11", "id": 5}]
    assert decode(encode(HEADER, rows))[1] == rows


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    bomb = gzip.compress(b"x" * (40 << 20))
    tracemalloc.start()
    with pytest.raises(BatchError, match="expected at most 1000000 bytes when unpacked, found more"):
        decode(bomb, max_bytes=1_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000


# Names


def test_a_name_says_device_log_table_and_range() -> None:
    name = object_name(HEADER)
    assert name == f"pi-5/{LOG_ID}/exchanges-000000000011-000000000014.ndjson.gz"
    assert parse_object_name(name) == parse_object_name(f"bucket/some/where/{name}") == HEADER


def test_names_of_large_seqs_are_understood_too() -> None:
    header = BatchHeader("d", LOG_ID, "feedback", 10**13, 10**14)
    assert parse_object_name(object_name(header)) == header


@pytest.mark.parametrize(
    "name",
    [
        "",
        "readme.txt",
        "exchanges-000000000001-000000000002.ndjson.gz",
        object_name(HEADER) + ".part",
        object_name(HEADER).replace("exchanges", "others"),
        object_name(HEADER).replace("pi-5", "Pi 5"),
        object_name(BatchHeader("d", LOG_ID, "feedback", -1, 4)),
        object_name(BatchHeader("d", LOG_ID, "feedback", 5, 4)),
        object_name(BatchHeader("d", LOG_ID, "feedback", 5, 10**30)),
    ],
)
def test_other_names_are_nobodys(name: str) -> None:
    assert parse_object_name(name) is None


# Ranges


@pytest.mark.parametrize(
    ("ranges", "end"),
    [
        ([], 0),
        ([(0, 5)], 5),
        ([(5, 9)], 0),
        ([(5, 9), (0, 5)], 9),
        ([(0, 5), (6, 9)], 5),
        ([(0, 5), (3, 9), (9, 10), (20, 30)], 10),
        ([(0, 9), (2, 4), (9, 11)], 11),
        ([(0, 5), (0, 5), (0, 3)], 5),
    ],
)
def test_a_lost_position_is_where_the_ranges_first_have_a_hole(ranges: list[tuple[int, int]], end: int) -> None:
    assert contiguous_end(ranges) == contiguous_end(reversed(ranges)) == end


# Device ids


@pytest.mark.parametrize(
    ("hostname", "fits"),
    [
        ("raspberrypi", "raspberrypi"),
        ("Kitchen Pi.local", "kitchen-pi.local"),
        ("-.x", "x"),
        ("日本", "device"),
        ("", "device"),
        ("a" * 70, "a" * 64),
    ],
)
def test_a_host_name_is_made_to_fit(hostname: str, fits: str) -> None:
    assert device_id_of(hostname) == fits
    assert is_device_id(fits)


@pytest.mark.parametrize("text", ["", "A", "a b", "../x", "-a", "a/b", "a" * 65, "a\n"])
def test_what_cannot_be_part_of_a_file_name_is_no_device_id(text: str) -> None:
    assert not is_device_id(text)
