"""The wire format alone: what a request becomes, what an exchange looks like, what random JSON meets."""

from __future__ import annotations

import json
import random
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from edge_agent import wire, wire_request
from edge_agent.errors import Busy, CloudRejected, CloudUnavailable, EdgeAgentError, LocalModelError, RequestError
from edge_agent.types import Completion, Decision, Exchange, Message, Options, Query, Uncertainty
from edge_agent.wire_request import parse_chat, parse_feedback

CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def parsed(**fields: Any) -> wire_request.ChatRequest:
    body = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]} | fields
    return parse_chat(json.dumps(body).encode())


# Requests


def test_the_smallest_request_has_no_options() -> None:
    chat = parsed()
    assert chat.query.messages == (Message("user", "hello"),)
    assert (chat.query.options, chat.query.wish, chat.query.private) == (Options(), "auto", False)
    assert (chat.stream, chat.include_usage) == (False, False)


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({"max_tokens": 5}, "max_tokens", 5),
        ({"max_completion_tokens": 6}, "max_tokens", 6),
        ({"max_completion_tokens": None, "max_tokens": 7}, "max_tokens", 7),
        ({"temperature": 1}, "temperature", 1.0),
        ({"top_p": 0}, "top_p", 0.0),
        ({"seed": -1}, "seed", -1),
        ({"frequency_penalty": -2}, "frequency_penalty", -2.0),
        ({"presence_penalty": 2}, "presence_penalty", 2.0),
        ({"stop": "x"}, "stop", ("x",)),
        ({"stop": ["x", "y"]}, "stop", ("x", "y")),
        ({"stop": []}, "stop", ()),
        ({"tools": [TOOL]}, "tools", (TOOL,)),
        ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice", "required"),
        ({"tool_choice": "none"}, "tool_choice", "none"),
        ({"response_format": {"type": "text"}}, "response_format", None),
        ({"response_format": {"type": "json_object"}}, "response_format", {"type": "json_object"}),
    ],
)
def test_an_option_is_taken_over(fields: dict[str, Any], name: str, value: Any) -> None:
    options = parsed(**fields).query.options
    assert getattr(options, name) == value
    assert set(options.to_openai()) <= {name, "tools"}


def test_options_go_to_the_cloud_as_they_came() -> None:
    given = {"max_tokens": 5, "temperature": 0.5, "seed": 1, "stop": ["x"], "tools": [TOOL], "tool_choice": "auto"}
    assert parsed(**given).query.options.to_openai() == given


@pytest.mark.parametrize(
    "fields",
    [
        {"private": True},
        {"edge_agent": {"private": True}},
        {"messages": [{"role": "user", "content": "a", "private": True}, {"role": "user", "content": "b"}]},
        {"private": False, "edge_agent": {"private": True}},
        {"private": True, "edge_agent": {"private": False}},
    ],
)
def test_one_mark_makes_a_request_private(fields: dict[str, Any]) -> None:
    assert parsed(**fields).query.private
    assert "private" not in json.dumps([message.to_openai() for message in parsed(**fields).query.messages])


def test_messages_keep_calls_results_and_names() -> None:
    sent = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hello", "name": "ann"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "done", "tool_call_id": "call_1"},
    ]
    assert [message.to_openai() for message in parsed(messages=sent).query.messages] == sent


def test_a_call_without_id_or_type_gets_them() -> None:
    sent = [{"role": "assistant", "tool_calls": [{"function": CALL["function"]}] * 2}]
    (message,) = parsed(messages=sent).query.messages
    assert [call["id"] for call in message.tool_calls] == ["call_0", "call_1"]
    assert {call["type"] for call in message.tool_calls} == {"function"}


def test_half_a_surrogate_pair_becomes_a_question_mark() -> None:
    chat = parsed(messages=[{"role": "user", "content": "a\ud800b"}], edge_agent={"conversation_id": "\udfff"})
    assert (chat.query.text, chat.query.conversation_id) == ("a?b", "?")
    assert parsed(messages=[{"role": "user", "content": "\ud83d\ude00"}]).query.text == "😀"


def test_nesting_is_allowed_up_to_its_limit() -> None:
    def nested(levels: int) -> dict[str, Any]:
        return {"x": nested(levels - 1)} if levels else {}

    n_around = 5  # body, tools, the tool, its function, parameters
    deepest = wire_request.MAX_DEPTH - n_around
    tool = {"type": "function", "function": {"name": "f", "parameters": nested(deepest)}}
    assert parsed(tools=[tool]).query.options.tools == (tool,)
    tool["function"]["parameters"] = nested(deepest + 1)
    with pytest.raises(RequestError, match="at most 64 levels deep"):
        parsed(tools=[tool])


def test_too_many_messages_are_counted() -> None:
    body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "x"}] * 4}).encode()
    assert len(parse_chat(body, max_messages=4).query.messages) == 4
    with pytest.raises(RequestError, match="messages: expected at most 3 messages, found 4"):
        parse_chat(body, max_messages=3)


def test_feedback_is_read() -> None:
    feedback = parse_feedback(b'{"id": "x", "rating": "bad", "comment": null}')
    assert (feedback.exchange_id, feedback.rating, feedback.comment) == ("x", "bad", None)


# Random requests


KEYS = [
    *sorted(wire_request._HONOURED),
    *wire_request._NEUTRAL,
    "role",
    "content",
    "type",
    "function",
    "name",
    "\ud800",
]
KEYS += ["parameters", "json_schema", "schema", "tool_calls", "arguments", "include_usage", "id", "text", "rating"]
LEAVES = ["auto", "user", "tool", "text", "function", "json_schema", "f", "", "{}", "\ud800", "<|im_end|>", "x" * 300]
LEAVES += [None, True, False, 0, 1, -1, 2.5, 10**30, 1e300]


def random_value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.random()
    if depth > 5 or kind < 0.4:
        return rng.choice(LEAVES)
    if kind < 0.6:
        return [random_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(KEYS): random_value(rng, depth + 1) for _ in range(rng.randrange(6))}


def mutated(rng: random.Random, value: Any) -> Any:
    """`value` with about one part in twenty replaced by something random."""
    if rng.random() < 0.05:
        return random_value(rng, 3)
    if isinstance(value, dict):
        return {key: mutated(rng, item) for key, item in value.items()}
    return [mutated(rng, item) for item in value] if isinstance(value, list) else value


VALID = {
    "model": "auto",
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "x"}], "private": True},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "x", "tool_call_id": "call_1"},
    ],
    "tools": [TOOL],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}},
    "stream": True,
    "stream_options": {"include_usage": True},
    "edge_agent": {"conversation_id": "c", "private": False},
    "stop": ["x"],
    "temperature": 1,
    "n": 1,
}


def test_random_json_meets_nothing_but_refusals() -> None:
    rng, n_read = random.Random(7), 0
    for number in range(6000):
        value = mutated(rng, VALID) if number % 2 else random_value(rng)
        body = json.dumps(value).encode()
        for parse in (parse_chat, parse_feedback):
            try:
                json.dumps(asdict(parse(body)), ensure_ascii=False).encode()
                n_read += 1
            except RequestError as error:
                assert error.status in (400, 404) and len(error.message) < 400
                json.dumps(wire.render_error(error), ensure_ascii=False).encode()
    assert n_read > 100


def test_random_bytes_meet_nothing_but_refusals() -> None:
    rng, valid = random.Random(8), json.dumps(VALID).encode()
    for _ in range(3000):
        body = bytearray(valid)
        for _ in range(rng.randrange(1, 4)):
            body[rng.randrange(len(body))] = rng.randrange(256)
        try:
            parse_chat(bytes(body[: rng.randrange(1, 2 * len(body))]))
        except RequestError as error:
            assert error.code in ("invalid_request", "unsupported_parameter", "model_not_found")


# Answers


QUERY = Query((Message("user", "hello"),))
DECISION = Decision("local", "below_threshold", 0.123456, 0.5, "v1")
COMPLETION = Completion("hi", "tiny", "stop", 3, 2, 1.26, 9.87, Uncertainty(1.23456, 2.0, -0.5))


def exchange(**completion: Any) -> Exchange:
    values = {name: getattr(COMPLETION, name) for name in Completion.__dataclass_fields__}
    return Exchange(QUERY, DECISION, Completion(**(values | completion)), router_ms=0.777, duration_ms=10.04)


def test_an_answer_is_rendered_in_openai_s_format() -> None:
    rendered = wire.render_completion(exchange())
    answer = ChatCompletion.model_validate(rendered)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("hi", "stop")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 2, 5)
    assert rendered["edge_agent"] == {
        "id": QUERY.id, "route": "local", "score": 0.1235, "threshold": 0.5, "reason": "below_threshold",
        "model": "tiny", "degraded": None, "router_version": "v1", "router_ms": 0.78, "first_token_ms": 1.3,
        "duration_ms": 10.0, "private": False,
        "uncertainty": {"mean_entropy": 1.2346, "max_entropy": 2.0, "mean_logprob": -0.5},
    }  # fmt: skip


def test_unknown_figures_are_zero_or_null() -> None:
    rendered = wire.render_completion(
        exchange(input_tokens=None, output_tokens=None, first_token_ms=None, uncertainty=None)
    )
    assert rendered["usage"] == {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    assert rendered["edge_agent"]["first_token_ms"] is rendered["edge_agent"]["uncertainty"] is None
    assert set(wire.edge_agent_object(Exchange(QUERY, Decision(None, "unanswerable"))).values()) == {
        QUERY.id, None, False, "unanswerable",
    }  # fmt: skip


def test_the_ending_brings_calls_then_the_reason_then_usage() -> None:
    chunks = wire.render_ending(exchange(tool_calls=(CALL,), finish_reason="tool_calls", text=""), include_usage=True)
    calls, final, usage = (ChatCompletionChunk.model_validate(chunk) for chunk in chunks)
    assert calls.choices[0].delta.tool_calls[0].function.name == "f" and calls.choices[0].finish_reason is None
    assert final.choices[0].finish_reason == "tool_calls" and "edge_agent" in (final.model_extra or {})
    assert usage.choices == [] and usage.usage.total_tokens == 5
    assert len(wire.render_ending(exchange(), include_usage=False)) == 1


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (RequestError("x", param="stop"), 400, "invalid_request_error", "invalid_request"),
        (RequestError("x", status=404, code="not_found"), 404, "invalid_request_error", "not_found"),
        (RequestError("x", status=408, code="request_timeout"), 408, "invalid_request_error", "request_timeout"),
        (RequestError("x", status=413), 413, "invalid_request_error", "invalid_request"),
        (RequestError("x", status=401), 401, "authentication_error", "invalid_request"),
        (RequestError("x", status=403), 403, "authentication_error", "invalid_request"),
        (Busy("x"), 429, "rate_limit_error", "busy"),
        (LocalModelError("x"), 503, "server_error", "local_model_unavailable"),
        (CloudUnavailable("x"), 502, "server_error", "cloud_unavailable"),
        (CloudRejected("x", upstream_status=400), 502, "server_error", "cloud_rejected"),
        (EdgeAgentError("x"), 500, "server_error", "internal_error"),
    ],
)
def test_an_error_has_openai_s_type(error: EdgeAgentError, status: int, kind: str, code: str) -> None:
    assert error.status == status
    assert wire.render_error(error) == {"error": {"message": "x", "type": kind, "param": error.param, "code": code}}


def test_headers_are_printable_ascii_whatever_the_names_are() -> None:
    odd = Decision("cloud", "above_threshold", 0.9, 0.5, degraded=None)
    headers = wire.headers(QUERY, odd, "modèle\r\nx-evil: 1")
    assert headers["x-edge-agent-model"] == "mod?le??x-evil: 1"
    assert "x-edge-agent-degraded" not in headers and headers["x-edge-agent-score"] == "0.9"


def test_created_is_the_time_of_the_id() -> None:
    query = Query((), id=str(uuid.UUID(int=(1_700_000_000_123 << 80) | (7 << 76) | (2 << 62))))
    assert wire.created(query) == 1_700_000_000


# The page


def test_the_page_names_every_field_and_every_endpoint() -> None:
    page = (Path(__file__).parent.parent / "docs" / "api.md").read_text()
    honoured, refused = page.split("## Fields")[1].split("### Refused")
    assert {name for name in wire_request._HONOURED if f"`{name}`" not in honoured} == set()
    assert {name for name in wire_request._NEUTRAL if f"`{name}`" not in refused.split("\n## ")[0]} == set()
