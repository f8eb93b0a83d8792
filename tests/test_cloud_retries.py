"""When the cloud model asks again, when it stops, and when it does not ask at all."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import pytest

from edge_agent.breaker import CircuitBreaker
from edge_agent.errors import CloudError, CloudUnavailable
from tests import misbehaving_cloud as bad
from tests.asking_a_cloud import HELLO, Clock, ask, cloud_model, cloud_threads, pauses_of, wait_until
from tests.misbehaving_cloud import Behaviour, answering, in_turn, misbehaving_cloud, status


def test_a_failure_before_the_first_text_is_retried() -> None:
    with misbehaving_cloud(in_turn(status(500), bad.cut_before_text, answering("hello"))) as cloud:
        model = cloud_model(cloud, retries=2, random=lambda: 0.0)
        assert ask(model)[0] == "hello"
    assert len(cloud.requests) == 3
    assert (model.state, model.last_error) == ("closed", None)


def test_the_pause_doubles_up_to_a_bound_and_is_drawn_from_nothing_to_it() -> None:
    assert pauses_of(status(503), random=lambda: 1.0, total_timeout_s=60) == [0.5, 1.0, 2.0, 4.0, 5.0]
    assert pauses_of(status(503), random=lambda: 0.25, retries=2) == [0.125, 0.25]


@pytest.mark.parametrize(
    ("retry_after", "pauses"),
    [("1", [1.0]), ("0.25", [0.25]), ("30", []), ("soon", [0.5]), ("Fri, 31 Dec 1999 23:59:59 GMT", [0.0])],
)
def test_a_short_retry_after_is_kept_and_a_long_one_ends_the_attempts(retry_after: str, pauses: list[float]) -> None:
    assert pauses_of(status(429, Retry_After=retry_after), retries=1, random=lambda: 1.0) == pauses


def test_a_retry_after_date_in_the_future_is_waited_for() -> None:
    soon = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=4))
    (pause,) = pauses_of(status(429, Retry_After=soon), retries=1, total_timeout_s=60)
    assert 2 < pause <= 4


def test_no_pause_goes_beyond_the_total_time() -> None:
    assert pauses_of(status(503), random=lambda: 1.0, total_timeout_s=0.3) == []


def test_being_out_of_time_is_not_retried() -> None:
    assert pauses_of(bad.drip, total_timeout_s=0.4) == []


# Cancelling


CANCELLED: list[tuple[str, Behaviour, dict[str, Any], str]] = [
    ("before headers", bad.hang_before_headers, {}, ""),
    ("after headers", bad.hang_after_headers, {}, ""),
    ("in the answer", bad.hang_after_text, {}, "Hel"),
    ("in back-off", status(503, Retry_After="5"), {"retries": 2}, ""),
]


@pytest.mark.parametrize(
    ("behaviour", "changes", "text"), [case[1:] for case in CANCELLED], ids=[case[0] for case in CANCELLED]
)
def test_cancelling_ends_the_answer_within_half_a_second(
    behaviour: Behaviour, changes: dict[str, Any], text: str
) -> None:
    with misbehaving_cloud(behaviour) as cloud:
        model, cancelled = cloud_model(cloud, read_timeout_s=30, total_timeout_s=30, **changes), threading.Event()
        due = time.monotonic() + 0.2
        threading.Timer(0.2, cancelled.set).start()
        got, completion = ask(model, HELLO, cancelled)
        assert 0 <= time.monotonic() - due < 0.5
        assert got == completion.text == text
        assert completion.finish_reason == "cancelled"
        assert (completion.first_token_ms is None) == (text == "")
        if "retries" not in changes:
            assert cloud.hung_up.wait(0.5), "the cloud goes on generating for nobody"
        assert (model.state, model.last_error) == ("closed", None)
    wait_until(lambda: not cloud_threads())


def test_a_query_cancelled_before_it_begins_is_not_sent() -> None:
    cancelled = threading.Event()
    cancelled.set()
    with misbehaving_cloud(answering("no")) as cloud:
        assert ask(cloud_model(cloud), HELLO, cancelled)[1].finish_reason == "cancelled"
        assert cloud.requests == []


def test_cancelling_stops_a_fast_answer_too() -> None:
    with misbehaving_cloud(bad.endless) as cloud:
        cancelled = threading.Event()
        chunks = cloud_model(cloud).generate(HELLO, cancelled)
        next(chunks)
        cancelled.set()
        assert list(chunks) == []


# The circuit breaker


@pytest.fixture
def clock() -> Iterator[Clock]:
    yield Clock()


def test_the_breaker_opens_after_failures_in_a_row_and_closes_after_a_good_trial(clock: Clock) -> None:
    with misbehaving_cloud(in_turn(status(500), status(500), answering("hello"))) as cloud:
        model = cloud_model(cloud, clock=clock, breaker_failures=2, breaker_cooldown_s=30)
        for state in ("closed", "open", "open"):
            with pytest.raises(CloudUnavailable):
                ask(model)
            assert (model.state, model.available) == (state, state == "closed")
        assert len(cloud.requests) == 2, "an open breaker asks nothing of the cloud"
        assert model.last_error and "answered 500" in model.last_error
        clock.now += 30
        assert (model.state, model.available) == ("half_open", True)
        assert ask(model)[0] == "hello"
    assert (model.state, model.last_error) == ("closed", None)


def test_a_failed_trial_opens_the_breaker_again_after_one_attempt(clock: Clock) -> None:
    with misbehaving_cloud(status(500)) as cloud:
        model = cloud_model(cloud, clock=clock, breaker_failures=1, retries=2, sleep=lambda *_: None)
        for requests in (3, 4):
            with pytest.raises(CloudUnavailable):
                ask(model)
            assert (model.state, len(cloud.requests)) == ("open", requests)
            clock.now += 30


def test_a_cancelled_trial_leaves_the_next_one_free(clock: Clock) -> None:
    cancelled = threading.Event()
    cancelled.set()
    with misbehaving_cloud(in_turn(status(500), answering("hello"))) as cloud:
        model = cloud_model(cloud, clock=clock, breaker_failures=1)
        with pytest.raises(CloudUnavailable):
            ask(model)
        clock.now += 30
        assert ask(model, HELLO, cancelled)[1].finish_reason == "cancelled"
        assert ask(model)[0] == "hello"


@pytest.mark.parametrize("code", [401, 402, 403])
def test_a_refused_key_is_remembered_and_does_not_open_the_breaker(code: int) -> None:
    with misbehaving_cloud(in_turn(status(500), status(code), status(500))) as cloud:
        model = cloud_model(cloud, breaker_failures=2)
        for expected in (500, code, 500):
            with pytest.raises(CloudError):
                ask(model)
            assert model.last_error and f"answered {expected}" in model.last_error
    assert model.available


def test_only_one_trial_runs_at_a_time_and_one_that_left_makes_room(clock: Clock) -> None:
    breaker = CircuitBreaker(failures=1, cooldown_s=10, clock=clock)
    breaker.failed()
    assert breaker.admit() == "open"
    clock.now += 10
    assert [breaker.admit(), breaker.admit()] == ["half_open", "open"]
    breaker.left()
    assert breaker.admit() == "half_open"
    breaker.succeeded()
    assert breaker.admit() == "closed"


def test_failures_that_come_in_late_do_not_prolong_the_cooldown(clock: Clock) -> None:
    breaker = CircuitBreaker(failures=1, cooldown_s=10, clock=clock)
    breaker.failed()
    clock.now += 9
    breaker.failed()
    clock.now += 1
    assert breaker.state == "half_open"
