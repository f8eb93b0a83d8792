"""Takes the log's rows to a destination, each one exactly once, in whatever way it is interrupted.

Rows after the position, in bounded batches, one in memory at a time; the position moves only when the destination has
acknowledged. What was sent and not acknowledged is sent again, and is ignored there, whatever the batches' bounds.
Knows the log's reader, the positions and what a destination can do; not how it does it.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from edge_agent.errors import ConfigError, SyncError, SyncRefused
from edge_agent.log_batches import MAX_BYTES, MAX_ROWS, TABLES, BatchHeader, Row, encode
from edge_agent.log_reader import LogReader
from edge_agent.redaction import Redact
from edge_agent.sync_state import Position, SyncState
from edge_agent.types import utc_now

_LOGGER = logging.getLogger(__name__)
_MAX_TEXT_BYTES = 4 * MAX_BYTES
"""Read into memory for one batch; text packs four to one and better."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0

T = TypeVar("T")


class Destination(Protocol):
    """Where rows go. Every method raises SyncError when it may work later, SyncRefused when it will not."""

    name: str
    """What it is called in the state file and in messages; holds no password."""

    keeps_repeats: bool
    """Whether rows that come twice, in batches of other bounds, are there twice until somebody reads them."""

    def position(self, device_id: str, log_id: str, table: str) -> Position: ...

    def put(self, header: BatchHeader, rows: list[Row], body: bytes) -> None: ...


@dataclass(slots=True)
class Sent:
    """What one run has handed over."""

    destination: str
    rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TABLES, 0))
    batches: int = 0
    bytes: int = 0
    """Compressed."""
    was_down_since_utc: str | None = None
    """Set when the destination could not be reached before, and can be now."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a failing destination is tried again."""

    give_up_s: float = 120.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[float, float], float] = random.uniform
    """A whole fleet must not come back in the same second."""

    def keep_trying(self, action: Callable[[], T]) -> T:
        """Its result. :raises SyncError: the last one, when there was none in `give_up_s`."""
        end, attempt = self.clock() + self.give_up_s, 0
        while True:
            try:
                return action()
            except SyncRefused:
                raise
            except SyncError as error:
                longest = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**attempt)
                pause = max(error.retry_after_s, self.jitter(0.0, longest))
                if self.clock() + pause > end:
                    raise
                _LOGGER.debug("%s; again in %.1f s", error.message, pause)
                self.sleep(pause)
                attempt += 1


class Sync:
    """One run for one log and one destination.

    :param redact: applied to every row before it is packed.
    :param max_rows: of a batch. :param max_bytes: of a batch, packed; a single row may be larger.
    """

    def __init__(
        self,
        log: LogReader,
        destination: Destination,
        state: SyncState,
        *,
        device_id: str,
        redact: Redact,
        patience: Patience | None = None,
        max_rows: int = MAX_ROWS,
        max_bytes: int = MAX_BYTES,
    ):
        self._log, self._destination, self._state = log, destination, state
        self._device_id, self._log_id = device_id, log.log_id()
        self._redact, self._patience = redact, patience or Patience()
        self._max_rows, self._max_bytes = max_rows, max_bytes
        self._reached = False
        """Whether the destination has answered in this run."""

    def run(self) -> Sent:
        """Send all there is. :raises SyncError: the position stays where the destination acknowledged last."""
        name = self._destination.name
        with self._state.locked():
            sent = Sent(name)
            try:
                for table in TABLES:
                    self._send_table(table, sent)
            except SyncError as error:
                down = {} if isinstance(error, SyncRefused) else {"down_since_utc": self._down_since() or utc_now()}
                self._state.note(name, last_error=f"{utc_now()} {error.message}", **down)
                raise
            if self._reached:
                sent.was_down_since_utc = self._down_since()
                self._state.note(name, down_since_utc=None, last_error=None, unfinished=None)
        return sent

    def _down_since(self) -> str | None:
        since: str | None = self._state.facts(self._destination.name)["down_since_utc"]
        return since

    def _send_table(self, table: str, sent: Sent) -> None:
        seq = self._position(table)
        while rows := self._log.rows_to_send(table, seq, self._max_rows, _MAX_TEXT_BYTES):
            done = self._send(table, seq, [self._redact(row) for row in rows], sent)
            seq = done.seq
            self._state.move(self._destination.name, self._device_id, self._log_id, table, done)

    def _position(self, table: str) -> int:
        """Our own, or what the destination has: when ours is lost, or a run ended before its last acknowledgement."""
        name, asked = self._destination.name, None
        known = self._state.position(name, self._device_id, self._log_id, table)
        if known is None or (self._destination.keeps_repeats and self._state.facts(name)["unfinished"]):
            ask = self._destination.position
            asked = self._patience.keep_trying(lambda: ask(self._device_id, self._log_id, table))
            self._reached = True
        if known is None or (asked and asked.seq > known.seq):
            known = asked or Position(0)
        if not self._log.had(table, known.seq, known.id):
            raise SyncRefused(
                f"{self._log.path}: {table} {known.seq} is not the row that was sent: an older copy of the log was put"
                " back, or two devices have one log; nothing is lost: set another sync.device_id, and everything is"
                " sent again under that name",
                code="log_went_back",
            )
        if known is asked:
            self._state.move(name, self._device_id, self._log_id, table, known)
        return known.seq

    def _send(self, table: str, after_seq: int, rows: list[Row], sent: Sent) -> Position:
        """Send the first of these rows, as many as the destination takes at once."""
        while True:
            header = BatchHeader(self._device_id, self._log_id, table, after_seq, rows[-1]["seq"])
            body = encode(header, rows)
            if len(body) > self._max_bytes and len(rows) > 1:
                rows = rows[: len(rows) // 2]
                continue
            try:
                self._put(header, rows, body)
            except SyncRefused as error:
                if error.code != "too_large":
                    raise
                if len(rows) == 1:
                    raise _too_large(table, rows[0], body, error) from error
                rows = rows[: len(rows) // 2]
                self._max_rows = len(rows)
                continue
            sent.rows[table] += len(rows)
            sent.batches += 1
            sent.bytes += len(body)
            return Position(header.last_seq, rows[-1]["id"])

    def _put(self, header: BatchHeader, rows: list[Row], body: bytes) -> None:
        self._state.note(self._destination.name, unfinished=True)
        self._patience.keep_trying(lambda: self._destination.put(header, rows, body))
        self._reached = True


def preview(log: LogReader, state: SyncState, destination: str, *, device_id: str, redact: Redact) -> Iterator[Row]:
    """The rows a run would send, redacted, each with its `table`. Sends and asks nothing: an unknown position is 0."""
    log_id = log.log_id()
    for table in TABLES:
        position = state.position(destination, device_id, log_id, table)
        seq = position.seq if position else 0
        while rows := log.rows_to_send(table, seq, MAX_ROWS, _MAX_TEXT_BYTES):
            yield from ({"table": table, **redact(row)} for row in rows)
            seq = rows[-1]["seq"]


def open_destination(
    url: str,
    environ: Mapping[str, str],
    *,
    token_env: str,
    ca_file: str | None = None,
    timeout_s: float = 60.0,
    max_kb_s: float = 0.0,
) -> Destination:
    """What a URL stands for. Its library is loaded here: a device needs only the one it uses.

    :param max_kb_s: kilobytes per second on average; 0 for no limit.
    :raises ConfigError: when the token or a library is missing.
    """
    pace = Pace(max_kb_s * 1000) if max_kb_s else lambda size: None
    if not url.startswith(("http://", "https://")):
        from edge_agent.sync_files import FileDestination

        return FileDestination(url, pace=pace)
    from edge_agent.sync_http import HttpDestination

    token = environ.get(token_env, "")
    if not (token and token.isascii() and token.isprintable()):
        found = "is not printable ASCII" if token else "is not set"
        make = "`tools/receive_logs.py add-device` on the workstation makes one"
        raise ConfigError(f"the variable {token_env} (sync.token_env) {found}: {url} needs a token; {make}")
    return HttpDestination(url, token, ca_file=ca_file, timeout_s=timeout_s, pace=pace)


class Pace:
    """Sleeps so that no more than `bytes_s` bytes per second go by on average; called before bytes are sent."""

    def __init__(
        self,
        bytes_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self._bytes_s, self._clock, self._sleep = bytes_s, clock, sleep
        self._free_at = clock()

    def __call__(self, size: int) -> None:
        now = self._clock()
        if self._free_at > now:
            self._sleep(self._free_at - now)
        self._free_at = max(self._free_at, now) + size / self._bytes_s


def _too_large(table: str, row: Row, body: bytes, error: SyncRefused) -> SyncError:
    facts: dict[str, Any] = {"table": table, "id": row["id"], "bytes": len(body)}
    message = "{table} {id}: this row alone is {bytes} bytes when packed, more than the receiver takes".format(**facts)
    fix = "raise its --max-body-bytes, or forget the row with `edge-agent logs forget`"
    return SyncRefused(f"{message} ({error.message}); {fix}", code="too_large")
