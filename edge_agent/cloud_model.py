"""Asks an OpenAI-compatible endpoint. Does not decide who answers, does not log, never sends a private query."""

from __future__ import annotations

import itertools
import json
import random as random_module
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from edge_agent.breaker import CircuitBreaker, State
from edge_agent.cloud_failure import KEY_REFUSED, Failure, of_status
from edge_agent.cloud_http import Cancelled, Key, Timeouts, Transfer, new_session
from edge_agent.cloud_stream import Draft, read
from edge_agent.errors import CloudError, CloudRejected, CloudUnavailable, ConfigError
from edge_agent.types import Chunk, Completion, Query

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 5.0
"""Back-off before the first retry (doubled for each further one) and at most, also when the cloud names a wait."""
ERROR_BODY_S = 2.0
CHECK_S = 10.0
NOT_UNDERSTOOD = ("stream_options", "max_completion_tokens")
"""Words in a 400 or 422 that mean: ask again, differently. See `CloudModel._payload`."""


@dataclass(frozen=True, slots=True)
class CloudCheck:
    """What `CloudModel.check` found."""

    reachable: bool
    key_refused: bool
    model_listed: bool | None
    """None: the endpoint does not list its models."""
    status: int | None
    latency_ms: float | None
    message: str
    """One sentence for the operator."""


@dataclass(frozen=True, slots=True)
class _Begun:
    """An answer of which the first piece is there."""

    transfer: Transfer
    draft: Draft
    texts: Iterator[str]
    first_token_ms: float | None


class CloudModel:
    """One model behind one base URL. Thread-safe: any number of `generate` at a time."""

    def __init__(
        self,
        *,
        base_url: str,
        model: str,
        api_key: str | None,
        connect_timeout_s: float = 3.0,
        read_timeout_s: float = 60.0,
        total_timeout_s: float = 300.0,
        retries: int = 2,
        breaker_failures: int = 3,
        breaker_cooldown_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float, threading.Event], object] = lambda seconds, cancelled: cancelled.wait(seconds),
        random: Callable[[], float] = random_module.random,
    ):
        """:param sleep: waits so many seconds, less when the event is set. :param random: uniform in [0, 1).

        :raises ConfigError: `base_url` is no address, or the key cannot be sent in a header.
        """
        self.host = _checked_host(base_url)
        self.base_url, self.model = base_url.rstrip("/"), model
        self.last_error: str | None = None
        """What the last request failed of, None after a good one; holds neither the key nor the cloud's own words."""
        self._key = Key(_checked_key(api_key))
        # Plain http is for this machine itself: no proxy of the environment lies in between.
        self._session = new_session(self._key, trust_env=base_url.startswith("https://"))
        self._timeouts = Timeouts(connect_timeout_s, read_timeout_s, total_timeout_s)
        self._retries = retries
        self._breaker = CircuitBreaker(failures=breaker_failures, cooldown_s=breaker_cooldown_s, clock=clock)
        self._clock, self._sleep, self._random = clock, sleep, random
        self._not_understood: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"CloudModel(host={self.host!r}, model={self.model!r}, state={self.state!r})"

    @property
    def name(self) -> str:
        """The model asked for."""
        return self.model

    @property
    def state(self) -> State:
        """The circuit breaker: closed, open or half_open."""
        return self._breaker.state

    @property
    def available(self) -> bool:
        """False while the breaker is open: asking would fail at once."""
        return self.state != "open"

    def generate(self, query: Query, cancelled: threading.Event) -> Generator[Chunk, None, Completion]:
        """Waits for the first piece of the answer; then yields texts and returns the Completion.

        Setting `cancelled` ends it within 0.2 s, with finish_reason cancelled.

        :raises CloudUnavailable: another model should answer; from the generator, with code cloud_interrupted, when the
            answer broke off. :raises CloudRejected: the cloud will not answer this; from the generator likewise.
        """
        if query.private:
            raise ValueError("a private query must never reach the cloud")
        started = self._clock()
        try:
            begun = self._guarded(query, cancelled, started)
        except Cancelled:
            return self._nothing(started)
        chunks = self._answer(begun, started)
        next(chunks)
        return chunks

    def check(self) -> CloudCheck:
        """Asks for the list of models, with the key, generating nothing; a failure is a finding, not an error."""
        timeouts = Timeouts(self._timeouts.connect_s, CHECK_S, CHECK_S)
        started = self._clock()
        transfer = self._transfer("GET", "/models", None, timeouts, threading.Event(), started)
        try:
            head = transfer.head()
            latency_ms = self._since(started)
            body = self._body(transfer)
        except Failure as failure:
            return CloudCheck(False, False, None, None, None, f"{self.host} {failure.summary}")
        finally:
            transfer.close()
        listed = _lists(body, self.model) if head.status == 200 else None
        refused = head.status in KEY_REFUSED
        says = f"{self.host} answers in {latency_ms:.0f} ms"
        if refused or 300 <= head.status < 400:
            says = f"{self.host} {of_status(head.status, head.headers, b'').summary}"
        elif listed is False:
            says += f", but does not list {self.model}; check cloud.model"
        return CloudCheck(True, refused, listed, head.status, latency_ms, says)

    def close(self) -> None:
        """Closes idle connections."""
        self._session.close()

    def _guarded(self, query: Query, cancelled: threading.Event, started: float) -> _Begun:
        """`_begin` behind the circuit breaker."""
        state = self._breaker.admit()
        if state == "open":
            raise CloudUnavailable(f"cloud {self.host}: not asked, it failed too often; last: {self.last_error}")
        try:
            begun = self._begin(query, cancelled, started, retries=0 if state == "half_open" else self._retries)
        except Failure as failure:
            if failure.unavailable:
                self._breaker.failed()
            else:  # a cloud that says no is alive
                self._breaker.succeeded()
            raise self._error(failure) from failure
        except BaseException:
            self._breaker.left()
            raise
        self._breaker.succeeded()
        self.last_error = None
        return begun

    def _begin(self, query: Query, cancelled: threading.Event, started: float, *, retries: int) -> _Begun:
        for attempt in itertools.count():
            try:
                return self._attempt(query, cancelled, started)
            except Failure as failure:
                pause_s = self._pause_s(failure, attempt) if attempt < retries else None
                if pause_s is None or self._clock() + pause_s >= started + self._timeouts.total_s:
                    raise
            self._sleep(pause_s, cancelled)
        raise AssertionError("unreachable")

    def _pause_s(self, failure: Failure, attempt: int) -> float | None:
        """Seconds until the next attempt, None when there is to be none: exponential back-off with full jitter."""
        if not (failure.unavailable and failure.retry):
            return None
        if failure.retry_after_s is not None:
            return failure.retry_after_s if failure.retry_after_s <= LONGEST_PAUSE_S else None
        return self._random() * min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0**attempt)

    def _attempt(self, query: Query, cancelled: threading.Event, started: float) -> _Begun:
        if cancelled.is_set():
            raise Cancelled
        body = json.dumps(self._payload(query)).encode()
        transfer = self._transfer("POST", "/chat/completions", body, self._timeouts, cancelled, started)
        try:
            head = transfer.head()
            if not 200 <= head.status < 300:
                refusal = self._body(transfer)
                if head.status in (400, 422) and self._learns(refusal):
                    return self._attempt(query, cancelled, started)
                raise of_status(head.status, head.headers, refusal)
            draft = Draft(self.model)
            texts = read(transfer.blocks(), draft)
            first = list(itertools.islice(texts, 1))
            return _Begun(transfer, draft, itertools.chain(first, texts), self._since(started) if first else None)
        except BaseException:
            transfer.close()
            raise

    def _answer(self, begun: _Begun, started: float) -> Generator[Chunk, None, Completion]:
        whole, reason = False, None
        try:
            yield Chunk("")  # for `generate` alone: a generator that was never begun would not run its `finally`
            for text in begun.texts:
                if text:
                    yield Chunk(text)
            whole = True
        except Cancelled:
            reason = "cancelled"
        except Failure as failure:
            raise self._error(failure, code="cloud_interrupted") from failure
        finally:
            if not whole:  # else the transfer reads the body's end by itself, and the connection is kept for the next
                begun.transfer.close()
        return begun.draft.completion(
            finish_reason=reason, first_token_ms=begun.first_token_ms, duration_ms=self._since(started)
        )

    def _nothing(self, started: float) -> Generator[Chunk, None, Completion]:
        yield from ()
        draft = Draft(self.model)
        return draft.completion(finish_reason="cancelled", first_token_ms=None, duration_ms=self._since(started))

    def _payload(self, query: Query) -> dict[str, Any]:
        """The request: messages and options alone, nothing that says who asks."""
        payload = query.options.to_openai()
        payload["model"], payload["stream"] = self.model, True
        payload["messages"] = [message.to_openai() for message in query.messages]
        if "stream_options" not in self._not_understood:  # some endpoints forbid fields they do not know
            payload["stream_options"] = {"include_usage": True}
        if "max_completion_tokens" in self._not_understood and "max_tokens" in payload:  # OpenAI's newer models
            payload["max_completion_tokens"] = payload.pop("max_tokens")
        return payload

    def _learns(self, refusal: bytes) -> bool:
        """Whether a refusal names something new about how this endpoint wants to be asked."""
        new = {word for word in NOT_UNDERSTOOD if word.encode() in refusal} - self._not_understood
        self._not_understood |= new
        return bool(new)

    def _transfer(
        self,
        method: str,
        path: str,
        body: bytes | None,
        timeouts: Timeouts,
        cancelled: threading.Event,
        started: float,
    ) -> Transfer:
        return Transfer(
            self._session,
            method,
            self.base_url + path,
            body=body,
            timeouts=timeouts,
            cancelled=cancelled,
            clock=self._clock,
            started=started,
        )

    def _body(self, transfer: Transfer) -> bytes:
        """The body as far as it comes soon."""
        body = bytearray()
        try:
            for block in transfer.blocks(within_s=ERROR_BODY_S):
                body += block
        except Failure:
            pass  # the status has said the most
        return bytes(body)

    def _error(self, failure: Failure, code: str | None = None) -> CloudError:
        """The error for the caller; its message is remembered."""
        message = self._key.hidden(f"cloud {self.host}: {failure.summary}")
        error: CloudError = CloudUnavailable(message, code=code)
        if not failure.unavailable:
            error = CloudRejected(message, upstream_status=failure.status, code=code)
        error.detail = self._key.hidden(failure.quote)
        self.last_error = message
        return error

    def _since(self, started: float) -> float:
        return (self._clock() - started) * 1000


def _checked_host(base_url: str) -> str:
    """Host and port, without user and password."""
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # half an IPv6 address, a port that is none
        usable = False
    if not usable or not base_url.isprintable() or " " in base_url:
        found = base_url.rpartition("@")[2]  # no password in a message
        raise ConfigError(f"cloud.base_url: expected an address such as https://api.example.com/v1, found {found!r}")
    return parts.netloc.rpartition("@")[2]


def _checked_key(key: str | None) -> str | None:
    """The key without the line end that files and variables tend to have; None when there is none."""
    key = (key or "").strip()
    if not key.isascii() or not key.isprintable():  # requests' own complaint would quote it
        raise ConfigError("cloud key: expected printable ASCII, found other characters; set the variable again")
    return key or None


def _lists(body: bytes, model: str) -> bool | None:
    """Whether the endpoint's list of models holds `model`; None when the body is no such list."""
    try:
        names = [str(entry["id"]) for entry in json.loads(body)["data"]]
    except (ValueError, KeyError, TypeError):
        return None
    return any(name == model or name.endswith("/" + model) for name in names)
