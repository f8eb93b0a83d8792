"""Says in our own words what went wrong with a cloud. Knows statuses and exceptions; does not retry, does not log."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from socket import gaierror
from typing import Any

import requests
import urllib3

KEY_REFUSED = (401, 402, 403)
ADVICE = {
    400: "it does not accept this request",
    401: "check the key in the environment variable that cloud.api_key_env names",
    402: "the account has no credit left",
    403: "the key may not use this model",
    404: "check cloud.base_url and cloud.model",
    413: "the request is too large for it; shorten the conversation",
    429: "too many requests, or no credit left",
}
ITS_OWN_FAULT = {"server_error", "overloaded_error", "rate_limit_error"}
"""Values of `error.type` that mean: another time it may work."""
QUOTE_CHARS = 300
MALFORMED_HEADERS = "sent a malformed answer: its headers contradict HTTP"


@dataclass(eq=False)
class Failure(Exception):
    """One request that failed, before it is known whether another is made."""

    summary: str
    """What happened and what to do, without a word of the cloud's own: fit for logs."""
    unavailable: bool
    """True: another time, or the local model, may work. False: it will say no again."""
    status: int | None = None
    """The cloud's HTTP status, when that is the failure."""
    retry: bool = True
    """False: not even an unavailable cloud is asked again."""
    retry_after_s: float | None = None
    """The wait the cloud asked for."""
    quote: str = ""
    """The cloud's own words, which may repeat the prompt: for the client, never for logs."""


def of_status(status: int, headers: Mapping[str, str], body: bytes) -> Failure:
    """The failure that an HTTP status other than 2xx is."""
    code, quote = _details(body)
    summary = f"answered {status}{f' ({code})' if code else ''}"
    if 300 <= status < 400:
        advice = "redirects are not followed, the key stays here; set cloud.base_url to the final address"
        return Failure(f"{summary}: {advice}", unavailable=False, status=status)
    advice = ADVICE.get(status) or (ADVICE[400] if status < 500 else "it has trouble of its own")
    if status == 429 and code == "insufficient_quota":  # how OpenAI says that there is no credit
        return Failure(f"{summary}: {ADVICE[402]}", unavailable=False, status=402, quote=quote)
    unavailable = status in (408, 429) or status >= 500
    wait = retry_after_s(headers.get("Retry-After"))
    return Failure(f"{summary}: {advice}", unavailable, status=status, retry_after_s=wait, quote=quote)


def of_error_object(document: dict[str, Any]) -> Failure:
    """The failure that an error object inside a 200 is."""
    error = document.get("error")
    number = error.get("code") if isinstance(error, dict) else None
    if isinstance(number, int) and number >= 400:
        failure = of_status(number, {}, json.dumps(document).encode())
        return Failure(f"{failure.summary}, inside a 200", failure.unavailable, quote=failure.quote)
    code, quote = _details(json.dumps(document).encode())
    unavailable = isinstance(error, dict) and error.get("type") in ITS_OWN_FAULT
    return Failure(f"reported an error{f' ({code})' if code else ''} inside a 200", unavailable, quote=quote)


def of_exception(error: Exception, *, connected: bool, connect_timeout_s: float, read_timeout_s: float) -> Failure:
    """The failure that an exception of requests or urllib3 is; any other exception is raised again: it is a bug.

    :param connected: whether the connection, with TLS, had been made.
    """
    if not isinstance(error, requests.RequestException | urllib3.exceptions.HTTPError | OSError):
        raise error
    causes = list(_causes(error))
    if isinstance(error, ValueError) and connected:  # InvalidHeader
        return Failure(MALFORMED_HEADERS, unavailable=False)
    if isinstance(error, ValueError):  # requests' InvalidURL, InvalidSchema, InvalidProxyURL and the like
        return Failure("cannot be asked: check cloud.base_url and the proxy variables", unavailable=False)
    timeouts = (TimeoutError, requests.Timeout, urllib3.exceptions.ReadTimeoutError)
    timed_out = any(isinstance(cause, timeouts) for cause in causes)
    if connected:
        silence = f"sent nothing for {read_timeout_s:g} s"
        # who waited read_timeout_s once shall not wait it three times before the local model answers
        return Failure(silence if timed_out else "the connection broke off", unavailable=True, retry=not timed_out)
    if not isinstance(error, requests.RequestException):  # how requests reports a bundle that is not there
        return Failure("no TLS certificate bundle; check REQUESTS_CA_BUNDLE", unavailable=True, retry=False)
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            summary = f"TLS certificate refused ({cause.verify_message}); check cloud.base_url and this device's clock"
            return Failure(summary, unavailable=True, retry=False)
    return Failure(no_connection(connect_timeout_s) if timed_out else _not_connected(causes), unavailable=True)


def no_connection(connect_timeout_s: float) -> str:
    """The summary of a connection that took too long."""
    return f"no connection within {connect_timeout_s:g} s; check the network"


def retry_after_s(header: str | None) -> float | None:
    """A Retry-After header, in seconds or as a date, in seconds from now; None when absent or unreadable."""
    if header is None:
        return None
    if re.fullmatch(r"\d{1,9}(\.\d+)?", header.strip()):
        return float(header)
    try:
        date = parsedate_to_datetime(header)
        return max(0.0, (date - datetime.now(timezone.utc)).total_seconds())
    except (TypeError, ValueError, OverflowError):
        return None


def _not_connected(causes: list[BaseException]) -> str:
    for cause in causes:
        if isinstance(cause, requests.exceptions.ProxyError):
            return "the proxy does not connect; check the proxy variables"
        if isinstance(cause, gaierror | urllib3.exceptions.NameResolutionError):
            return "host name not found; check the network and cloud.base_url"
        if isinstance(cause, ConnectionRefusedError):
            return "connection refused; check that it runs and cloud.base_url"
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed ({cause.reason or 'cut off'}); check cloud.base_url"
    return "no connection; check the network"


def _causes(error: object) -> Iterator[BaseException]:
    """`error` and all it wraps: urllib3 keeps causes in args as often as in __cause__."""
    waiting: list[object] = [error]
    seen: set[int] = set()
    while waiting:
        cause = waiting.pop(0)
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            waiting += [cause.__cause__, cause.__context__, *cause.args]


def _details(body: bytes) -> tuple[str, str]:
    """The error's code when it is one word, and its message on one line; both empty for HTML and the like."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return "", ""
    error = document.get("error", document) if isinstance(document, dict) else document
    if not isinstance(error, dict):
        return "", _one_line(error) if isinstance(error, str) else ""
    code = str(error.get("code") or error.get("type") or "")
    quote = error.get("message") or error.get("detail") or ""
    return code if re.fullmatch(r"[a-zA-Z][\w.-]{,63}", code) else "", _one_line(quote)


def _one_line(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))[:QUOTE_CHARS]
