"""Remembers whether something failed too often in a row. Does not know what it guards."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Literal

State = Literal["closed", "open", "half_open"]
"""Requests pass; none passes; the cool-down is over and one may try."""


class CircuitBreaker:
    """Opens after `failures` failures in a row, for `cooldown_s`; then lets one trial through, whose end decides.

    Whoever was admitted reports back with `succeeded`, `failed` or `left` (neither: the trial may be made by another).
    """

    def __init__(self, *, failures: int, cooldown_s: float, clock: Callable[[], float] = time.monotonic):
        self._limit = failures
        self._cooldown_s = cooldown_s
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._opened_at: float | None = None
        self._trying = False

    @property
    def state(self) -> State:
        """closed, open, or half_open: a trial is due or under way."""
        with self._lock:
            return self._state()

    def admit(self) -> State:
        """The state this request goes out in: closed, half_open for the one trial, or open: it must not go out."""
        with self._lock:
            state = self._state()
            if state == "half_open":
                state, self._trying = ("open" if self._trying else "half_open"), True
            return state

    def succeeded(self) -> None:
        """Closes the breaker: it is alive."""
        with self._lock:
            self._failures, self._opened_at, self._trying = 0, None, False

    def failed(self) -> None:
        """Counts a failure; the last one of a row, or a failed trial, opens the breaker."""
        with self._lock:
            self._failures += 1
            if self._failures >= self._limit and self._state() != "open":  # late failures do not prolong the cool-down
                self._opened_at, self._trying = self._clock(), False

    def left(self) -> None:
        """Neither succeeded nor failed: somebody else may make the trial."""
        with self._lock:
            self._trying = False

    def _state(self) -> State:
        if self._opened_at is None:
            return "closed"
        return "open" if self._clock() - self._opened_at < self._cooldown_s else "half_open"
