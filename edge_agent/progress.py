"""Shows how far a transfer is: a bar on a terminal, a line now and then elsewhere. Transfers nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

BAR_COLUMNS = 24
REDRAW_S, LINE_S = 0.1, 5.0


class Progress:
    """Call it with (done_bytes, total_bytes) as often as you like; `say` prints a sentence without breaking the bar."""

    def __init__(
        self, label: str, *, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.label, self.stream, self.clock = label, stream or sys.stderr, clock
        self.on_terminal = self.stream.isatty()
        self.began: tuple[float, int] | None = None
        self.shown_at = float("-inf")
        self.bar_is_open = False

    def __call__(self, done_bytes: int, total_bytes: int) -> None:
        now = self.clock()
        if self.began is None or done_bytes < self.began[1]:
            self.began = (now, done_bytes)
        if done_bytes < total_bytes and now - self.shown_at < (REDRAW_S if self.on_terminal else LINE_S):
            return
        self.shown_at = now
        line = self._line(done_bytes, total_bytes, now)
        self.bar_is_open = self.on_terminal
        self.stream.write(f"\r\x1b[K{line}" if self.on_terminal else f"{line}\n")
        self.stream.flush()

    def say(self, sentence: str) -> None:
        """Print a sentence on a line of its own."""
        self.close()
        self.stream.write(f"{self.label}: {sentence}\n")
        self.stream.flush()

    def close(self) -> None:
        """Leave the bar as it is and go to the next line."""
        if self.bar_is_open:
            self.stream.write("\n")
            self.bar_is_open = False

    def _line(self, done_bytes: int, total_bytes: int, now: float) -> str:
        assert self.began is not None
        share = done_bytes / max(total_bytes, 1)
        seconds, moved = now - self.began[0], done_bytes - self.began[1]
        rate = f", {moved / seconds / 1e6:.1f} MB/s" if seconds > 0.5 and moved else ""
        left = f", {_minutes((total_bytes - done_bytes) * seconds / moved)} left" if rate and share < 1 else ""
        filled = int(share * BAR_COLUMNS)
        bar = f" [{'#' * filled}{'.' * (BAR_COLUMNS - filled)}]" if self.on_terminal else ":"
        return f"{self.label}{bar} {share:.0%}, {done_bytes / 1e6:.0f} of {total_bytes / 1e6:.0f} MB{rate}{left}"


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
