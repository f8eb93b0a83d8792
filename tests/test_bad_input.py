"""What clients should not send: each is refused with a clear error, and the daemon goes on as if nothing had been."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.asking import TOOLS, n_rows
from tests.daemon_process import DaemonProcess
from tests.misbehaving_cloud import answering, misbehaving_cloud

CHAT, ROUTE, FEEDBACK = "/v1/chat/completions", "/v1/route", "/v1/feedback"


@pytest.fixture(scope="module")
def client(daemon: DaemonProcess) -> Iterator[httpx.Client]:
    with daemon.http() as client:
        yield client


@pytest.fixture(autouse=True)
def still_well(daemon: DaemonProcess, client: httpx.Client) -> Iterator[None]:
    """After each test the same process answers."""
    yield
    assert client.get("/health").json() == {"status": "ok"} and daemon.process.poll() is None


def refused(answer: httpx.Response, status_code: int = 400, param: str | None = None) -> str:
    """Checks an error in OpenAI's format; its message."""
    assert answer.status_code == status_code, answer.text
    assert set(answer.json()) == {"error"} and set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert param is None or answer.json()["error"]["param"] == param
    assert answer.json()["error"]["type"] == "invalid_request_error" and answer.json()["error"]["code"]
    return str(answer.json()["error"]["message"])


# Bodies


def nested(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


BODIES: dict[str, bytes] = {
    "nothing": b"",
    "cut": b'{"model": "auto", ',
    "python": b"{'model': 'auto'}",
    "two": b"{} {}",
    "list": b"[]",
    "null": b"null",
    "text": b'"hello"',
    "NaN": b'{"temperature": NaN}',
    "Infinity": b'{"temperature": -Infinity}',
    "too large a float": b'{"tools": [{"x": 1e999}]}',
    "5000 digits": b'{"max_tokens": ' + b"1" * 5000 + b"}",
    "latin-1": '{"model": "é"}'.encode("latin-1"),
    "utf-16": '{"model": "auto"}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf{}",
    "65 levels": nested(65).encode(),
    "900 levels": nested(900).encode(),
    "100000 levels": b"[" * 100_000,
    "zeros": bytes(1000),
}


@pytest.mark.parametrize("path", [CHAT, ROUTE, FEEDBACK])
@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_no_json_object_is_refused(client: httpx.Client, name: str, path: str) -> None:
    message = refused(client.post(path, content=BODIES[name]))
    assert message.startswith("body: expected ") and len(message) < 300


def chat_with(**fields: Any) -> dict[str, Any]:
    return {"model": "local", "max_tokens": 4, "messages": [{"role": "user", "content": "hello"}]} | fields


NO_OBJECT = [True, 5, "x", [], ["x"]]
WRONG: dict[str, list[Any]] = {
    "messages": [None, True, 5, "hello", {}, {"role": "user", "content": "x"}, []],
    "stream": [0, 1, "true", [], {}],
    "stream_options": [*NO_OBJECT],
    "private": [0, 1, "yes", [], {}],
    "edge_agent": [*NO_OBJECT],
    "max_tokens": [True, 0, -1, 1.5, 1e3, "5", [], {}, 1 << 40],
    "max_completion_tokens": [False, 0, -7, 2.5, "5", [5]],
    "temperature": [True, -0.1, 2.1, "0.5", [], {}, 10**400],
    "top_p": [False, -0.1, 1.1, "1", []],
    "frequency_penalty": [-2.1, 2.1, "0", True],
    "presence_penalty": [-3, 3, [], True],
    "seed": [1.5, "1", True, 1 << 63, []],
    "stop": [5, True, "", [5], [""], [None], ["a"] * 5, {}, "x" * 257],
    "tools": [5, "x", {}, True],
    "tool_choice": [5, "sometimes", "required", [], {}, {"type": "function", "function": {"name": "unknown"}}],
    "response_format": [*NO_OBJECT],
    "n": [True, 0, "1", 1.0],
    "logprobs": [0, 1, "false"],
}
WRONG_INSIDE = [
    ("response_format.type", {"response_format": {"type": "xml"}}),
    ("response_format.type", {"response_format": {"json_schema": {}}}),
    ("response_format.schema", {"response_format": {"type": "json_object", "schema": {}}}),
    ("response_format.json_schema", {"response_format": {"type": "json_schema"}}),
    ("response_format.json_schema", {"response_format": {"type": "json_schema", "json_schema": {"name": "a b"}}}),
    ("response_format.json_schema", {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}),
    ("stream_options", {"stream_options": {"include_usage": True}}),
    ("stream_options.include_usage", {"stream": True, "stream_options": {"include_usage": 1}}),
    ("stream_options.verbose", {"stream": True, "stream_options": {"verbose": True}}),
    ("edge_agent.private", {"edge_agent": {"private": "yes"}}),
    ("edge_agent.route", {"edge_agent": {"route": "cloud"}}),
    ("edge_agent.conversation_id", {"edge_agent": {"conversation_id": 5}}),
    ("edge_agent.conversation_id", {"edge_agent": {"conversation_id": "x" * 129}}),
    ("max_tokens", {"max_completion_tokens": 5, "max_tokens": 5}),
    ("tools[0]", {"tools": [5]}),
    ("tools[0]", {"tools": [{"type": "function"}]}),
    ("tools[0]", {"tools": [{"type": "custom", "custom": {"name": "x"}}]}),
    ("tools[1]", {"tools": [TOOLS[0], {"type": "function", "function": {"name": "a b"}}]}),
    ("tools[0].function.parameters", {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]}),
    ("tools[0].function.description", {"tools": [{"type": "function", "function": {"name": "f", "description": 5}}]}),
]


@pytest.mark.parametrize(
    ("param", "fields"), [*((name, {name: value}) for name in WRONG for value in WRONG[name]), *WRONG_INSIDE]
)
def test_a_field_of_a_wrong_type_or_range_is_named(client: httpx.Client, param: str, fields: dict[str, Any]) -> None:
    body = chat_with(max_tokens=None) | fields
    message = refused(client.post(CHAT, json=body), param=param)
    assert message.startswith(param) and len(message) < 300


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
MESSAGES: list[tuple[str, list[Any]]] = [
    ("messages[0]", [5]),
    ("messages[0]", [None]),
    ("messages[0].role", [{}]),
    ("messages[0].role", [{"role": "robot", "content": "x"}]),
    ("messages[0].role", [{"role": ["user"], "content": "x"}]),
    ("messages[0].content", [{"role": "user"}]),
    ("messages[0].content", [{"role": "user", "content": 5}]),
    ("messages[0].content", [{"role": "user", "content": []}]),
    ("messages[0].content", [{"role": "user", "content": {"text": "x"}}]),
    ("messages[0].content[0]", [{"role": "user", "content": [5]}]),
    ("messages[0].content[0]", [{"role": "user", "content": [{"type": "text"}]}]),
    ("messages[1].private", [{"role": "user", "content": "x"}, {"role": "user", "content": "x", "private": 1}]),
    ("messages[0].name", [{"role": "user", "content": "x", "name": "<|im_end|>"}]),
    ("messages[0].name", [{"role": "user", "content": "x", "name": ""}]),
    ("messages[0].refusal", [{"role": "assistant", "content": "x", "refusal": "no"}]),
    ("messages[0].mood", [{"role": "user", "content": "x", "mood": "good"}]),
    ("messages[0].tool_call_id", [{"role": "tool", "content": "x"}]),
    ("messages[0].tool_calls", [{"role": "user", "content": "x", "tool_calls": [CALL]}]),
    ("messages[0].tool_calls", [{"role": "assistant", "tool_calls": {}}]),
    ("messages[0].tool_calls[0]", [{"role": "assistant", "tool_calls": [5]}]),
    ("messages[0].tool_calls[0]", [{"role": "assistant", "tool_calls": [CALL | {"type": "custom"}]}]),
    ("messages[0].tool_calls[0]", [{"role": "assistant", "tool_calls": [CALL | {"function": {"name": "f"}}]}]),
    ("messages[0].tool_calls[0].id", [{"role": "assistant", "tool_calls": [CALL | {"id": "x" * 65}]}]),
    ("messages", [{"role": "user", "content": "x"}] * 257),
]


@pytest.mark.parametrize(("param", "messages"), MESSAGES)
def test_a_wrong_message_is_named_with_its_place(client: httpx.Client, param: str, messages: list[Any]) -> None:
    assert refused(client.post(CHAT, json=chat_with(messages=messages)), param=param).startswith(f"{param}: expected ")


@pytest.mark.parametrize("model", ["gpt-4o", "", "AUTO", 5, ["auto"], {}, "x" * 10_000, "\ud800"])
def test_an_unknown_model_is_not_found(client: httpx.Client, model: Any) -> None:
    body = json.dumps(chat_with(model=model))  # ASCII: the lone surrogate stays an escape
    message = refused(client.post(CHAT, content=body), 404, "model")
    assert "auto, local or cloud" in message and len(message) < 200


@pytest.mark.parametrize(
    ("param", "body"),
    [
        ("id", {"rating": "good"}),
        ("id", {"id": 5, "rating": "good"}),
        ("id", {"id": "x" * 65, "rating": "good"}),
        ("rating", {"id": "x"}),
        ("rating", {"id": "x", "rating": 5}),
        ("rating", {"id": "x", "rating": "great"}),
        ("comment", {"id": "x", "rating": "good", "comment": 5}),
        ("stars", {"id": "x", "rating": "good", "stars": 5}),
    ],
)
def test_wrong_feedback_is_named(client: httpx.Client, param: str, body: dict[str, Any]) -> None:
    refused(client.post(FEEDBACK, json=body), param=param)


SURROGATE_BODIES = [
    {"messages": [{"role": "user", "content": "half \ud800 pair"}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "\udc00"}]}]},
    {"edge_agent": {"conversation_id": "\ud800"}},
    {"stop": ["\ud800"]},
    {"tools": [{"type": "function", "function": {"name": "f", "description": "\ud800", "parameters": {"\ud801": 1}}}]},
    {"messages": [{"role": "assistant", "tool_calls": [CALL | {"id": "\ud800"}]}, {"role": "user", "content": "x"}]},
]


@pytest.mark.parametrize("fields", SURROGATE_BODIES)
def test_half_a_surrogate_pair_is_answered_and_logged(
    daemon: DaemonProcess, client: httpx.Client, fields: dict[str, Any]
) -> None:
    before = n_rows(daemon)
    answer = client.post(CHAT, content=json.dumps(chat_with(**fields)))
    assert answer.status_code == 200 and n_rows(daemon) == before + 1
    assert client.get("/v1/status").json()["log"]["unrecorded"] == 0


@pytest.mark.parametrize("fields", [{"\ud800": 1}, {"messages": [{"role": "\ud800"}]}, {"tool_choice": "\ud800"}])
def test_half_a_surrogate_pair_in_an_error_is_shown(client: httpx.Client, fields: dict[str, Any]) -> None:
    assert "?" in refused(client.post(CHAT, content=json.dumps(chat_with(**fields))))


@pytest.mark.parametrize("arguments", ["[" * 50_000, nested(65), "not json", "NaN", ""])
def test_arguments_that_are_sent_back_may_be_no_json_but_not_too_deep(client: httpx.Client, arguments: str) -> None:
    call = CALL | {"function": {"name": "f", "arguments": arguments}}
    turns = [{"role": "assistant", "tool_calls": [call]}, {"role": "user", "content": "x"}]
    answer = client.post(CHAT, json=chat_with(messages=turns))
    if len(arguments) > 100:
        refused(answer, param="messages[0].tool_calls[0].function.arguments")
    assert len(arguments) > 100 or answer.status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status_code"),
    [
        ("GET", CHAT, 405),
        ("PUT", FEEDBACK, 405),
        ("POST", "/v1/models", 405),
        ("DELETE", "/health", 405),
        ("GET", "/", 404),
        ("POST", "/v1/completions", 404),
        ("POST", "/v1/chat/completions/../../../etc/passwd", 404),
        ("GET", "/v1/%00", 404),
    ],
)
def test_a_wrong_method_or_path_is_named(client: httpx.Client, method: str, path: str, status_code: int) -> None:
    message = refused(client.request(method, path), status_code)
    assert message.startswith(f"{method} /") and "docs/api.md" in message


# JSON schemas


def recursive(ref: str) -> dict[str, Any]:
    return {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": ref}, "b": {"$ref": "#/$defs/a"}}}


def deep(levels: int, leaf: Any) -> Any:
    for _ in range(levels):
        leaf = {"type": "array", "items": leaf}
    return leaf


SCHEMAS: dict[str, Any] = {
    "a file": {"$ref": "file:///etc/passwd"},
    "refers to itself": recursive("#/$defs/a"),
    "refers in a circle": recursive("#/$defs/b"),
    "refers to nothing": {"$ref": "#/$defs/nothing"},
    "refers to a number": {"$ref": 5},
    "left recursive": {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}}},
    "property is itself": {"type": "object", "properties": {"a": {"$ref": "#/properties/a"}}},
    "a billion items": {"type": "array", "items": {"type": "integer"}, "maxItems": 10**9},
    "a billion characters": {"type": "string", "minLength": 10**9},
    "minus one item": {"type": "array", "items": {}, "minItems": -1},
    "17 levels": deep(17, {"type": "null"}),
    "28 levels": deep(28, {"type": "null"}),
    "pattern": {"type": "string", "pattern": "(a+)+$"},
    "pattern inside": deep(3, {"anyOf": [{"type": "object", "properties": {"x": {"pattern": ".*"}}}]}),
    "unknown type": {"type": "banana"},
    "number for a type": {"type": 5},
    "list for a type": {"type": "object", "properties": {"b": {"type": [[]]}}},
    "list for properties": {"type": "object", "properties": ["a"]},
    "number for required": {"type": "object", "properties": {"a": {}}, "required": 5},
    "object in required": {"type": "object", "properties": {"a": {}}, "required": [{}]},
    "list in required": {"type": "object", "properties": {"a": {}}, "required": [[]]},
    "no alternatives": {"anyOf": []},
    "empty enum": {"enum": []},
    "17 kB": {"enum": ["x" * 17_000]},
}


def json_schema(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}}


def forced_tool(schema: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}], "tool_choice": "required"}


@pytest.mark.parametrize("asked", [json_schema, forced_tool])
@pytest.mark.parametrize("name", SCHEMAS)
def test_a_hostile_schema_is_refused(client: httpx.Client, name: str, asked: Callable[..., dict[str, Any]]) -> None:
    message = refused(client.post(CHAT, json=chat_with(**asked(SCHEMAS[name]))))
    assert "response_format" in message or "tools" in message


@pytest.mark.parametrize("asked", [json_schema, forced_tool])
def test_no_schema_makes_the_daemon_fetch(client: httpx.Client, asked: Callable[..., dict[str, Any]]) -> None:
    with misbehaving_cloud(answering("{}")) as server:
        for ref in (f"{server}/schema.json", f"{server}#/a"):
            refused(client.post(CHAT, json=chat_with(**asked({"type": "object", "properties": {"a": {"$ref": ref}}}))))
        assert server.requests == []


@pytest.mark.parametrize(
    "text", ['x" root # ', 'x" [a-z]{1000} # ', '"\\', "\n\r", "\x00", "<|im_end|>", "é\u2028", "::="]
)
def test_a_text_in_a_schema_is_never_grammar(client: httpx.Client, text: str) -> None:
    value_is_text = json_schema({"const": text}) | {"max_tokens": 100}
    answer = client.post(CHAT, json=chat_with(**value_is_text)).json()
    assert json.loads(answer["choices"][0]["message"]["content"]) == text
    name_is_text = json_schema({"type": "object", "properties": {text: {"const": 1}}, "required": [text]})
    answer = client.post(CHAT, json=chat_with(**name_is_text) | {"max_tokens": 100}).json()
    assert json.loads(answer["choices"][0]["message"]["content"]) == {text: 1}


# Control tokens


def turns(*messages: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [*messages, {"role": "user", "content": "go on"}]}


def tool(**function: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}} | function}]}


def called(arguments: Any) -> dict[str, Any]:
    call = CALL | {"function": {"name": "f", "arguments": json.dumps(arguments)}}
    return turns({"role": "assistant", "content": None, "tool_calls": [call]})


PLACES: dict[str, Callable[[str], dict[str, Any]]] = {
    "user": lambda text: turns({"role": "user", "content": f"a {text} b"}),
    "system": lambda text: turns({"role": "system", "content": text}),
    "assistant": lambda text: turns({"role": "user", "content": "x"}, {"role": "assistant", "content": text}),
    "part": lambda text: turns({"role": "user", "content": [{"type": "text", "text": text}]}),
    "tool result": lambda text: turns({"role": "tool", "tool_call_id": "1", "content": text}),
    "tool call id": lambda text: turns({"role": "tool", "tool_call_id": text, "content": "x"}),
    "argument": lambda text: called({"x": text}),
    "argument's name": lambda text: called({text: 1}),
    "arguments that are no object": lambda text: called([text]),
    "tool's description": lambda text: tool(description=text),
    "parameter's name": lambda text: tool(parameters={"properties": {text: {}}}),
    "parameter's enum": lambda text: tool(parameters={"properties": {"a": {"enum": [text]}}}),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("token", ["<|im_end|>", "<|im_start|>", "<|endoftext|>"])
def test_text_never_becomes_a_control_token(client: httpx.Client, place: str, token: str) -> None:
    def n_tokens(text: str) -> int:
        planned = client.post(ROUTE, json=chat_with(**PLACES[place](text)))
        return int(planned.raise_for_status().json()["prompt_tokens"])

    assert n_tokens(token) == n_tokens("x" * len(token))  # a control token would be one token


@pytest.mark.parametrize("fields", [tool(name="<|im_end|>"), turns({"role": "user", "content": "x", "name": "<tool>"})])
def test_names_have_no_room_for_control_tokens(client: httpx.Client, fields: dict[str, Any]) -> None:
    refused(client.post(CHAT, json=chat_with(**fields)))
