"""Hands batches to a receiver over HTTPS, and tells from its answers what to do. Knows HTTP; nothing of positions.

Redirects are not followed and `.netrc` is not read: the token goes to the host in sync.destination and nowhere else.
"""

from __future__ import annotations

import hashlib
import io
import ssl
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import requests
from requests.auth import AuthBase

from edge_agent.errors import ConfigError, SyncError, SyncRefused
from edge_agent.log_batches import BatchHeader, Row
from edge_agent.sync_state import Position, destination_name
from edge_agent.types import utc_now

_RETRY = {408, 429, 500, 502, 503, 504, 507}
_CONNECT_TIMEOUT_S = 10.0
_CLOCK = ("not yet valid", "has expired")
_ADVICE = {
    401: "make one there with `tools/receive_logs.py add-device`; it goes into the variable that sync.token_env names",
    403: "the token belongs to another device; set sync.device_id to that one, or make a token for this one",
    404: "sync.destination should be the address of tools/receive_logs.py, without a path of its own",
    409: "nothing is lost: set another sync.device_id, and everything is sent again under that name",
}


class HttpDestination:
    """:param token: names the device to the receiver.
    :param ca_file: PEM file of the certificates that are trusted; None for the system's.
    :param pace: called with a number of bytes before they are sent; it may sleep.
    :raises ConfigError: when ca_file holds no certificates.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        ca_file: str | None = None,
        timeout_s: float = 60.0,
        pace: Callable[[int], None] = lambda size: None,
    ):
        self.name = destination_name(url)
        self._timeout, self._pace = (min(_CONNECT_TIMEOUT_S, timeout_s), timeout_s), pace
        self._session = requests.Session()
        self._session.auth = _Bearer(token)
        self._session.trust_env = url.startswith("https://")  # its proxies; none stands before this machine itself
        self._verify: str | bool = _readable(ca_file) if ca_file else True

    keeps_repeats = False
    """The receiver knows every row by its id."""

    def position(self, device_id: str, log_id: str, table: str) -> Position:
        """Up to which seq the receiver has everything. :raises SyncError: SyncRefused when it will not say."""
        answer = self._ask("GET", "/v1/position", params={"log_id": log_id, "table": table})
        return Position(_seq(answer), answer.get("id"))

    def put(self, header: BatchHeader, rows: list[Row], body: bytes) -> None:
        """Hand over a batch; the receiver has it for good when this returns.

        :raises SyncError: when it may work later. :raises SyncRefused: code `too_large`, `device_conflict`, ...
        """
        headers = {
            "Content-Type": "application/x-ndjson",
            "Content-Encoding": "gzip",
            "X-Content-SHA256": hashlib.sha256(body).hexdigest(),
            "X-Edge-Agent-Sent-Utc": utc_now(),
        }
        answer = self._ask("POST", "/v1/batches", data=_Paced(body, self._pace), headers=headers)
        _seq(answer)

    def _ask(self, method: str, path: str, **more: Any) -> Any:
        try:
            response = self._session.request(
                method, self.name + path, timeout=self._timeout, verify=self._verify, allow_redirects=False, **more
            )
        except requests.exceptions.SSLError as error:
            raise _certificate(self.name, error) from error
        except requests.exceptions.RequestException as error:
            raise SyncError(f"{self.name}: {_reason(error)}; it is tried again later", code="unreachable") from error
        if response.status_code == 200:
            return _json(response)
        raise _refusal(self.name, response)


def _readable(ca_file: str) -> str:
    path = str(Path(ca_file).expanduser())
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:
        raise ConfigError(f"sync.ca_file: expected certificates in PEM, found {path}: {error}; name another") from error
    return path


class _Bearer(AuthBase):
    """The token; being an `auth`, it keeps requests from reading .netrc."""

    def __init__(self, token: str):
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _Paced(io.BytesIO):
    """A body that is read as fast as the byte rate allows."""

    def __init__(self, body: bytes, pace: Callable[[int], None]):
        super().__init__(body)
        self._pace = pace

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self._pace(len(data))
        return data


def _refusal(name: str, response: requests.Response) -> SyncError:
    status, body = response.status_code, _json(response)
    error = body.get("error") if isinstance(body, dict) else None
    said, code = (error.get("message"), error.get("code")) if isinstance(error, dict) else (response.text[:200], None)
    found = f"{name} answered {status}: {' '.join(str(said).split())[:500]}".rstrip(": ")
    if status in _RETRY:
        failure = SyncError(f"{found}; it is tried again later", code="busy" if status == 429 else "destination_failed")
        failure.retry_after_s = _retry_after_s(response.headers.get("retry-after", ""))
        return failure
    if status == 413:
        return SyncRefused(found, code="too_large")
    advice = _ADVICE.get(status, "see docs/sync.md")
    return SyncRefused(f"{found}; {advice}", code=str(code or "sync_refused"))


def _retry_after_s(text: str) -> float:
    """Seconds or a date, as HTTP allows; 0 for neither."""
    if text.strip().isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
        return max(0.0, moment.timestamp() - time.time())
    except (ValueError, TypeError, IndexError):
        return 0.0


def _certificate(name: str, error: Exception) -> SyncError:
    reason = _reason(error)
    if any(words in reason for words in _CLOCK):
        message = f"{name}: {reason}: the clock of this device says {utc_now()}; if that is wrong, set it (timedatectl)"
        return SyncRefused(message, code="certificate")
    if isinstance(_root(error), ssl.SSLCertVerificationError):
        message = f"{name}: {reason}; set sync.ca_file to the certificate of the authority that signed it"
        return SyncRefused(message, code="certificate")
    return SyncError(f"{name}: {reason}; it is tried again later", code="unreachable")


def _root(error: BaseException) -> BaseException:
    """The error at the bottom: what urllib3 and requests wrapped, one in the other."""
    for _ in range(10):
        inner = getattr(error, "reason", None) or next((a for a in error.args if isinstance(a, BaseException)), None)
        if not isinstance(inner, BaseException) or inner is error:
            break
        error = inner
    return error


def _reason(error: BaseException) -> str:
    root = _root(error)
    text = getattr(root, "verify_message", None) or getattr(root, "strerror", None) or str(root)
    return " ".join(text.rpartition(">: ")[2].split())[:300] or type(root).__name__


def _json(response: requests.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


def _seq(answer: Any) -> int:
    """`last_seq` of a receipt: whoever answers 200 without one is no receiver, and has not kept the rows."""
    seq = answer.get("last_seq") if isinstance(answer, dict) else None
    if type(seq) is not int or seq < 0:
        raise SyncRefused(
            f"expected a receipt with last_seq from the receiver, found {str(answer)[:80]!r}; check sync.destination"
        )
    return seq
