from __future__ import annotations

from dataclasses import replace

import pytest

from edge_agent import errors
from edge_agent.decision_log import DecisionLog, LogReader, Row, to_row
from edge_agent.explain import ERRORS, explain
from edge_agent.policy import REASONS
from edge_agent.types import Completion, Decision, Exchange, Message, Options, Query, Uncertainty

QUERY = Query((Message("user", "Turn on the lamp in the kitchen, please"),), id="0193a5b2-1c3d-7abc-8def-000000000001")
LOCAL = Decision("local", "below_threshold", 0.12, 0.42, "r1")
CLOUD = Decision("cloud", "above_threshold", 0.80, 0.42, "r1")
ANSWER = Completion("It is on.", "tiny-0.5b", "stop", 45, 21, 210.0, 2210.0, Uncertainty(0.3, 2.9, -0.25))
LOCAL_EXCHANGE = Exchange(QUERY, LOCAL, ANSWER, router_ms=5.1, duration_ms=2210.0)
CLOUD_EXCHANGE = Exchange(QUERY, CLOUD, replace(ANSWER, model="gpt", uncertainty=None), duration_ms=2210.0)


def row_of(exchange: Exchange, *, content: bool = True, **changes: object) -> Row:
    return to_row(exchange, content=content) | {"feedback": []} | changes


def said(exchange: Exchange, *, content: bool = True, **changes: object) -> str:
    """The explanation on one line, however it was wrapped."""
    return " ".join(explain(row_of(exchange, content=content, **changes)).split())


def test_a_local_answer_is_explained_with_its_numbers() -> None:
    text = said(LOCAL_EXCHANGE)
    assert "Turn on the lamp in the kitchen" in text
    assert "The local model, tiny-0.5b, answered." in text
    assert (
        "0.12 of 1: the cloud model was expected to help little; it would have been asked at 0.42 or more (router r1)"
        in text
    )
    assert "as if between 1.3 equally likely tokens (1 is certain), 18 at worst" in text
    assert "a probability of 78% on average (entropy 0.30 and 2.90 nats, log-probability -0.25)" in text
    assert "scored in 5.1 ms, first token after 210 ms, all in all 2.2 s, 10.0 tokens/s after the first" in text
    assert "45 tokens in, 21 tokens out; 39 bytes asked, 9 answered" in text


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_is_given_in_the_words_of_the_policy(reason: str) -> None:
    assert REASONS[reason][1:] in said(replace(LOCAL_EXCHANGE, decision=replace(LOCAL, reason=reason)))


@pytest.mark.parametrize(
    ("score", "threshold", "words"),
    [
        (
            0.12,
            0.42,
            "0.12 of 1: the cloud model was expected to help little; it would have been asked at 0.42 or more",
        ),
        (0.30, 0.42, "to help somewhat, not enough; it would have been asked at 0.42 or more"),
        (0.419, 0.42, "0.419 of 1: the cloud model was expected to help somewhat, not enough;"),
        (0.42, 0.42, "0.42 of 1: the cloud model was expected to help enough; it is asked at 0.42 or more"),
        (0.80, 0.42, "to help enough; it is asked at 0.42 or more"),
    ],
)
def test_the_score_is_set_against_the_threshold(score: float, threshold: float, words: str) -> None:
    decision = replace(CLOUD if score >= threshold else LOCAL, score=score, threshold=threshold)
    assert words in said(replace(LOCAL_EXCHANGE, decision=decision))


def test_a_score_that_did_not_decide_says_so() -> None:
    asked = replace(LOCAL_EXCHANGE, decision=replace(LOCAL, reason="asked_local", score=0.9))
    assert "0.90 of 1" in said(asked) and "the score did not decide here" in said(asked)


def test_an_exchange_without_a_score_says_that_there_was_none() -> None:
    assert "None: the router did not score" in said(replace(LOCAL_EXCHANGE, decision=Decision("local", "router_error")))


@pytest.mark.parametrize("degraded", ["cloud_unavailable", "cloud_rejected", "cloud_no_key", "cloud_not_configured"])
def test_a_degraded_answer_says_who_should_have_answered_and_sends_to_doctor(degraded: str) -> None:
    text = said(replace(LOCAL_EXCHANGE, decision=replace(CLOUD, route="local", degraded=degraded)))
    assert f"the cloud model should have answered, and the local one stood in, because {REASONS[degraded]}" in text
    assert "edge-agent doctor" in text


def test_a_wish_for_the_cloud_that_was_not_granted_is_named() -> None:
    private = Exchange(replace(QUERY, wish="cloud", private=True), Decision("local", "private"), ANSWER)
    assert "The client had asked for the cloud model" in said(private)


def test_a_private_row_says_what_is_not_stored_and_shows_no_word_of_the_question() -> None:
    private = replace(LOCAL_EXCHANGE, query=replace(QUERY, private=True), decision=Decision("local", "private"))
    text = said(private)
    assert "no question, no answer, no options, no conversation, no score and no uncertainty" in text
    assert "lamp" not in text and "learns" not in text


def test_a_private_row_shows_no_question_even_if_one_were_stored() -> None:
    assert "lamp" not in explain(row_of(LOCAL_EXCHANGE, private=True))


def test_a_log_without_content_says_why_there_is_no_text() -> None:
    assert "the log was told to keep no text (log.content: false)" in said(LOCAL_EXCHANGE, content=False)


@pytest.mark.parametrize(
    ("exchange", "words"),
    [
        (
            Exchange(QUERY, CLOUD, None, "cloud_rejected"),
            "The cloud model was to answer and did not: the cloud refused the request (cloud_rejected).",
        ),
        (
            Exchange(QUERY, Decision(None, "context_exceeded"), None, "context_exceeded"),
            "Nobody answered: the question was too long for the model that had to answer it (context_exceeded).",
        ),
        (
            Exchange(QUERY, CLOUD, Completion("It", "gpt", "error"), "cloud_interrupted"),
            "The cloud model, gpt, began to answer and broke off: the cloud broke off in the middle of its answer"
            " (cloud_interrupted). The client saw 2 bytes of it.",
        ),
        (
            replace(LOCAL_EXCHANGE, completion=replace(ANSWER, finish_reason="cancelled")),
            "The local model, tiny-0.5b, was answering when the client left.",
        ),
        (
            replace(LOCAL_EXCHANGE, completion=replace(ANSWER, finish_reason="length")),
            "answered; the answer was cut at the token limit.",
        ),
        (
            replace(
                LOCAL_EXCHANGE,
                completion=replace(ANSWER, finish_reason="tool_calls", tool_calls=({"function": {"name": "lamp_on"}},)),
            ),
            "answered with calls of lamp_on.",
        ),
        (Exchange(QUERY, LOCAL, None, "a_new_code"), "did not: a_new_code."),
    ],
)
def test_how_it_ended_is_said(exchange: Exchange, words: str) -> None:
    assert words in said(exchange)


def test_every_error_class_has_words() -> None:
    not_in_a_row = {errors.ConfigError, errors.LogError, errors.DaemonError}
    not_in_a_row |= {errors.BatchError, errors.SyncError, errors.SyncRefused}
    not_in_a_row |= {errors.InboxError, errors.DeviceConflict, errors.ObjectStoreError, errors.ThresholdError}
    classes = [errors.EdgeAgentError]
    for kind in classes:
        classes += [found for found in kind.__subclasses__() if found.__module__ == errors.__name__]
    assert {kind.code for kind in classes if kind not in not_in_a_row} <= set(ERRORS)


def test_feedback_is_shown_and_not_asked_for_again() -> None:
    feedback = {"rating": "bad", "comment": "wrong\nlamp", "created_utc": "2026-11-23T20:00:00.000Z"}
    text = said(LOCAL_EXCHANGE, feedback=[feedback])
    assert "Feedback bad, 2026-11-2" in text and "wrong lamp" in text
    assert "edge-agent feedback" not in text
    assert f"edge-agent feedback {QUERY.id} good" in said(LOCAL_EXCHANGE)


def test_what_is_to_be_typed_stays_on_one_line() -> None:
    lines = explain(row_of(LOCAL_EXCHANGE)).splitlines()
    assert any(f"edge-agent logs show {QUERY.id} --json" in line for line in lines)
    assert any(f"edge-agent feedback {QUERY.id} good" in line for line in lines)


def test_a_terminal_obeys_nothing_of_a_question() -> None:
    query = replace(QUERY, messages=(Message("user", "red \x1b[31malert"),))
    assert "\x1b" not in explain(row_of(replace(LOCAL_EXCHANGE, query=query)))


def test_a_row_read_back_from_the_log_is_explained(tmp_path) -> None:
    log = DecisionLog(tmp_path / "log.db")
    log.append(replace(CLOUD_EXCHANGE, query=replace(QUERY, options=Options(max_tokens=5))))
    log.add_feedback(QUERY.id, "good", "quick")
    log.close()
    text = explain(LogReader(tmp_path / "log.db").row(QUERY.id[:13]))
    assert "The cloud model, gpt, answered." in text and "quick" in text and "Certainty" not in text
