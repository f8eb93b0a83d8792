"""The devices of an inbox: their tokens, their clocks, and what a person should look at. Sees no row's text."""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
from dataclasses import dataclass
from datetime import datetime

from edge_agent.errors import RequestError
from edge_agent.log_batches import is_device_id
from edge_agent.training.inbox import Inbox
from edge_agent.types import utc_now

_LOGGER = logging.getLogger(__name__)
_TOLERATED_S = 300.0
"""A clock that is off by more is worth a warning; nothing depends on it."""
_NOTED_S = 10.0
"""A smaller change of the offset is the network's, and not worth a commit for each batch."""

_DEVICES = """
SELECT device_id, revoked_utc, clock_offset_s,
    (SELECT max(last_seen_utc) FROM logs WHERE logs.device_id = all_of.device_id) AS last_seen_utc,
    (SELECT count(*) FROM exchanges WHERE exchanges.device_id = all_of.device_id) AS exchanges,
    (SELECT count(*) FROM feedback WHERE feedback.device_id = all_of.device_id) AS feedback,
    (SELECT count(*) FROM rejected WHERE rejected.device_id = all_of.device_id) AS rejected,
    (SELECT count(*) FROM logs WHERE logs.device_id = all_of.device_id) AS logs
FROM (SELECT device_id FROM devices UNION SELECT device_id FROM logs) AS all_of LEFT JOIN devices USING (device_id)
ORDER BY device_id
"""


@dataclass(frozen=True, slots=True)
class Device:
    device_id: str
    exchanges: int
    feedback: int
    logs: int
    """Log files: more than one after a card was written anew."""
    last_seen_utc: str | None
    """By our clock."""
    clock_offset_s: float | None
    """Its clock minus ours, at its last upload; None for objects, which do not tell."""
    warnings: tuple[str, ...]


class Devices:
    """Who may upload to an inbox."""

    def __init__(self, inbox: Inbox):
        self._inbox = inbox

    def add(self, device_id: str) -> str:
        """Let a device upload; its token, which is stored nowhere. :raises RequestError: for a name that cannot be."""
        if not is_device_id(device_id):
            expected = "1 to 64 of a-z 0-9 . _ -, a letter or digit first"
            raise RequestError(f"device: expected {expected}, found {device_id!r}; give another name")
        known = self._inbox.read("SELECT revoked_utc FROM devices WHERE device_id = ?", [device_id])
        if known and known[0][0] is None:
            next_step = f"take its token away first with `receive_logs.py revoke-device {device_id}`"
            raise RequestError(f"device: {device_id!r} has a token, which cannot be shown again; {next_step}")
        token, salt = f"{device_id}.{secrets.token_urlsafe(32)}", secrets.token_bytes(16)
        with self._inbox.transaction() as connection:
            connection.execute(
                "INSERT INTO devices (device_id, salt, token_sha256, created_utc) VALUES (?, ?, ?, ?) ON CONFLICT DO"
                " UPDATE SET salt = excluded.salt, token_sha256 = excluded.token_sha256, revoked_utc = NULL",
                [device_id, salt, _hash(salt, token), utc_now()],
            )
        return token

    def revoke(self, device_id: str) -> None:
        """Refuse its token from the next request on; its rows stay. :raises RequestError: when there is none."""
        with self._inbox.transaction() as connection:
            query = "UPDATE devices SET revoked_utc = ? WHERE device_id = ? AND revoked_utc IS NULL"
            if not connection.execute(query, [utc_now(), device_id]).rowcount:
                found = f"no device {device_id!r} has a token; `receive_logs.py devices` lists them"
                raise RequestError(f"device: {found}", status=404, code="not_found")

    def of_token(self, token: str) -> str:
        """The device a token belongs to. :raises RequestError: for a token that is wrong or was revoked."""
        device_id = token.rpartition(".")[0]
        query = "SELECT salt, token_sha256, revoked_utc FROM devices WHERE device_id = ?"
        known = self._inbox.read(query, [device_id]) if is_device_id(device_id) else []
        salt, expected, revoked_utc = known[0] if known else (b"", b"", None)
        if not hmac.compare_digest(_hash(salt, token), expected):
            raise _unauthorized("expected `Bearer <token>` with the token that `receive_logs.py add-device` printed")
        if revoked_utc is not None:
            message = f"the token of {device_id!r} was revoked at {revoked_utc}"
            raise _unauthorized(f"{message}; `receive_logs.py add-device {device_id}` makes a new one")
        return device_id

    def compare_clock(self, device_id: str, sent_utc: str | None, arrived_utc: str) -> None:
        """Note how far a device's clock is from ours. Warns when it goes wrong, not each time it still is."""
        offset_s = _offset_s(sent_utc, arrived_utc)
        known = self._inbox.read("SELECT clock_offset_s FROM devices WHERE device_id = ?", [device_id])
        before_s = known[0][0] if known else None
        if offset_s is None or (before_s is not None and abs(offset_s - before_s) < _NOTED_S):
            return
        if _is_off(offset_s) and not _is_off(before_s):
            _LOGGER.warning("%s: %s", device_id, _clock_words(offset_s))
        with self._inbox.transaction() as connection:
            query = "UPDATE devices SET clock_offset_s = ? WHERE device_id = ?"
            connection.execute(query, [offset_s, device_id])

    def all(self) -> list[Device]:
        """Every device that has a token or sent something, by name."""
        devices = []
        for name, revoked, offset_s, seen, exchanges, feedback, rejected, logs in self._inbox.read(_DEVICES):
            warnings = [f"token revoked at {revoked}"] if revoked else []
            if _is_off(offset_s):
                warnings.append(_clock_words(offset_s))
            if rejected:
                warnings.append(f"{rejected} rows were rejected; see the table `rejected`")
            warnings += self._log_warnings(name)
            devices.append(Device(name, exchanges, feedback, logs, seen, offset_s, tuple(warnings)))
        return devices

    def _log_warnings(self, device_id: str) -> list[str]:
        query = (
            "SELECT log_id, retired_utc, conflict_utc, conflict FROM logs WHERE device_id = ? ORDER BY first_seen_utc"
        )
        words = []
        for log_id, retired, conflict_utc, conflict in self._inbox.read(query, [device_id]):
            if conflict:
                words.append(f"log {log_id:.8} was refused at {conflict_utc}: {conflict}")
            elif retired:
                words.append(f"log {log_id:.8} ended at {retired}: the device was set up anew, or there are two of it")
        return words


def _hash(salt: bytes, token: str) -> bytes:
    """The token is 256 random bits: there is nothing to guess, so a slow hash would protect nothing."""
    return hashlib.sha256(salt + token.encode("utf-8", "replace")).digest()


def _unauthorized(message: str) -> RequestError:
    return RequestError(f"authorization: {message}", status=401, code="invalid_api_key")


def _offset_s(sent_utc: str | None, arrived_utc: str) -> float | None:
    try:
        sent, arrived = (datetime.fromisoformat(text.replace("Z", "+00:00")) for text in (sent_utc or "", arrived_utc))
        return (sent - arrived).total_seconds()
    except (ValueError, TypeError):  # no time, or one without a zone
        return None


def _is_off(offset_s: float | None) -> bool:
    return offset_s is not None and abs(offset_s) > _TOLERATED_S


def _clock_words(offset_s: float | None) -> str:
    minutes = (offset_s or 0.0) / 60.0
    return f"its clock is {abs(minutes):.0f} min {'ahead of' if minutes > 0 else 'behind'} ours; rows keep its times"
