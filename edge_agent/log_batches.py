"""A batch of log rows as bytes: gzip of JSON lines, a header line first. Pure; knows no file, network or database.

Both ends use it: what `encode` writes on the device, `decode` reads on the workstation. A batch covers the rows whose
seq is in (after_seq, last_seq]; rows that are missing there (private, forgotten) are gaps, not losses.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from edge_agent.errors import BatchError

FORMAT = "edge-agent-log@1"
TABLES = ("exchanges", "feedback", "forgotten")
"""The streams, in the order in which they are sent: a tombstone comes after the rows it is about."""
MAX_ROWS = 500
MAX_BYTES = 1 << 20
"""Compressed; a single row may be larger."""
MAX_DECODED_BYTES = 64 << 20

_LEVEL = 6
"""Of gzip; 9 takes three times as long for one byte in a hundred."""

_DEVICE_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_LOG_ID = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(
    rf"({_DEVICE_ID.pattern})/({_LOG_ID.pattern})/({'|'.join(TABLES)})-(\d{{12,}})-(\d{{12,}})\.ndjson\.gz"
)
_LARGEST_SEQ = (1 << 63) - 1

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class BatchHeader:
    """What a batch says of itself."""

    device_id: str
    log_id: str
    """Of one log file: a device that was set up anew has another one."""
    table: str
    """One of TABLES."""
    after_seq: int
    last_seq: int
    """The batch covers (after_seq, last_seq]."""
    rows: int = 0
    """How many follow; `encode` counts them."""


def encode(header: BatchHeader, rows: Sequence[Row]) -> bytes:
    """The batch as gzip bytes, the same for the same rows. A row is {column: value} with `seq` and `id`."""
    first = {"format": FORMAT, **asdict(replace(header, rows=len(rows)))}
    lines = (json.dumps(line, ensure_ascii=False, separators=(",", ":")) for line in (first, *rows))
    return gzip.compress("".join(f"{line}\n" for line in lines).encode("utf-8", "replace"), _LEVEL, mtime=0)


def decode(body: bytes, max_bytes: int = MAX_DECODED_BYTES) -> tuple[BatchHeader, list[Row]]:
    """Header and rows of a batch. What a row lacks (`id`, `seq`) is the caller's to see.

    :param max_bytes: of the text; more is refused before it is unpacked.
    :raises BatchError: when it is truncated, of another format, too large, or not what its header says.
    """
    lines = _unpack(body, max_bytes).split(b"\n")
    if lines.pop() != b"" or not lines:
        raise BatchError("batch: expected JSON lines that end with a line end, found a cut line; send it again")
    header = _header(_object(lines[0], 1))
    if len(lines) - 1 != header.rows:
        raise BatchError(f"batch: expected {header.rows} rows as its header says, found {len(lines) - 1}")
    rows = [_object(line, number) for number, line in enumerate(lines[1:], 2)]
    for row in rows:
        seq = row.get("seq")
        if isinstance(seq, int) and not header.after_seq < seq <= header.last_seq:
            raise BatchError(f"batch: expected seq in ({header.after_seq}, {header.last_seq}], found {seq}")
    return header, rows


def object_name(header: BatchHeader) -> str:
    """The name of the batch among files, the same for the same range of the same log."""
    span = f"{header.after_seq + 1:012d}-{header.last_seq:012d}"
    return f"{header.device_id}/{header.log_id}/{header.table}-{span}.ndjson.gz"


def parse_object_name(name: str) -> BatchHeader | None:
    """What a name ending in <device_id>/<log_id>/<file> says (`rows` is 0); None for a name of something else."""
    found = _NAME.fullmatch("/".join(name.split("/")[-3:]))
    if found is None or not 0 < int(found[4]) <= int(found[5]) <= _LARGEST_SEQ:
        return None
    return BatchHeader(found[1], found[2], found[3], int(found[4]) - 1, int(found[5]))


def contiguous_end(ranges: Iterable[tuple[int, int]]) -> int:
    """The last seq up to which (after, last] ranges cover everything from 0 on; they may overlap and be unordered."""
    end = 0
    for after, last in sorted(ranges):
        if after > end:
            break
        end = max(end, last)
    return end


def is_device_id(text: str) -> bool:
    """Whether the text can name a device: it is part of file names and addresses."""
    return _DEVICE_ID.fullmatch(text) is not None


def device_id_of(hostname: str) -> str:
    """A host name made to fit."""
    return re.sub(r"[^a-z0-9._-]+", "-", hostname.lower()).strip("._-")[:64] or "device"


def _unpack(body: bytes, max_bytes: int) -> bytes:
    unpacker = zlib.decompressobj(wbits=31)  # gzip only
    try:
        data = unpacker.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise BatchError(f"batch: expected gzip, found something else or damaged bytes ({error})") from error
    if len(data) > max_bytes:
        message = f"batch: expected at most {max_bytes} bytes when unpacked, found more; send fewer rows"
        raise BatchError(message, code="request_too_large", status=413)
    if not unpacker.eof:
        raise BatchError(f"batch: truncated: {len(body)} bytes are not the whole gzip stream; send it again")
    if unpacker.unused_data:
        raise BatchError(f"batch: expected one gzip stream, found {len(unpacker.unused_data)} more bytes after it")
    return data


def _object(line: bytes, number: int) -> Row:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BatchError(f"batch: line {number}: expected a JSON object, found {line[:40]!r}") from error
    if not isinstance(value, dict):
        raise BatchError(f"batch: line {number}: expected a JSON object, found {line[:40]!r}")
    return value


def _header(line: Row) -> BatchHeader:
    if line.get("format") != FORMAT:
        found = str(line.get("format"))[:40]
        raise BatchError(
            f"batch: expected format {FORMAT!r}, found {found!r}; use the same version at both ends",
            code="unknown_format",
        )
    for name, holds in _RULES.items():
        if not holds(line.get(name)):
            raise BatchError(f"batch: header: {name}: found {str(line.get(name))[:80]!r}, which cannot be one")
    header = BatchHeader(**{name: line[name] for name in _RULES})
    if header.after_seq >= header.last_seq:
        raise BatchError(
            f"batch: header: expected after_seq < last_seq, found {header.after_seq} and {header.last_seq}"
        )
    return header


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST_SEQ


_RULES = {
    "device_id": lambda value: isinstance(value, str) and is_device_id(value),
    "log_id": lambda value: isinstance(value, str) and _LOG_ID.fullmatch(value) is not None,
    "table": lambda value: value in TABLES,
    "after_seq": _is_count,
    "last_seq": _is_count,
    "rows": _is_count,
}
