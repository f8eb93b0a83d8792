"""Every option of a chat completion through the socket: it works, or it is refused by name; nothing is dropped."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.asking import TOOLS, ask, joined, streamed, text_of
from tests.daemon_process import DaemonProcess

ROOM = {"type": "string", "maxLength": 12}
SCHEMAS: dict[str, tuple[dict[str, Any], type]] = {
    "object": ({"type": "object", "properties": {"room": ROOM, "on": {"type": "boolean"}}, "required": ["room"]}, dict),
    "list": ({"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 4}, list),
    "quoted enum": ({"enum": ['say "hi"', "back\\slash", "é\n"]}, str),
    "reference": ({"$ref": "#/$defs/room", "$defs": {"room": {"type": "object", "properties": {"a": ROOM}}}}, dict),
    "recursive": (
        {
            "$ref": "#/$defs/node",
            "$defs": {
                "node": {
                    "type": "object",
                    "properties": {
                        "n": {"type": "integer"},
                        "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]},
                    },
                    "required": ["n"],
                }
            },
        },
        dict,
    ),
    "quoted name": ({"type": "object", "properties": {'a" "b': {"const": 1}}, "required": ['a" "b']}, dict),
}


def json_schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("question", ["hello", "a hard one"])
def test_max_tokens_bounds_the_answer(daemon: DaemonProcess, question: str, name: str) -> None:
    answer = ask(daemon, question, **({"max_tokens": None} | {name: 3}))
    assert answer.usage.completion_tokens == 3 and answer.choices[0].finish_reason == "length"


def test_an_answer_ends_where_the_context_ends(daemon: DaemonProcess) -> None:
    answer = ask(daemon, max_tokens=1 << 20)
    assert answer.usage.total_tokens == 1024 and answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("start", [1, 2, 5, 9])
def test_stop_cuts_the_text_wherever_tokens_begin(daemon: DaemonProcess, start: int, n: int) -> None:
    whole = text_of(daemon, max_tokens=24)
    stop = whole[start : start + n]
    answer = ask(daemon, max_tokens=24, stop=["never seen", stop])
    assert answer.choices[0].message.content == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
    assert joined(streamed(daemon, max_tokens=24, stop=stop)) == whole[: whole.index(stop)]


def test_a_stop_that_never_comes_takes_nothing_away(daemon: DaemonProcess) -> None:
    whole = text_of(daemon)
    assert text_of(daemon, stop=whole + "!") == joined(streamed(daemon, stop=[whole[-1] + "!"])) == whole


def test_the_same_seed_gives_the_same_text_and_another_another(daemon: DaemonProcess) -> None:
    def drawn(seed: int) -> str:
        return text_of(daemon, seed=seed, temperature=1.5, max_tokens=24)

    assert drawn(1) == drawn(1) and drawn(-(1 << 63)) == drawn(-(1 << 63))
    assert len({drawn(seed) for seed in range(5)}) == 5


def test_temperature_zero_and_top_p_zero_are_greedy(daemon: DaemonProcess) -> None:
    greedy = text_of(daemon, temperature=0)
    assert {text_of(daemon, temperature=2, top_p=0, seed=seed) for seed in range(3)} == {greedy}
    assert text_of(daemon, temperature=2, top_p=1, seed=1, max_tokens=24) != text_of(
        daemon, temperature=0, max_tokens=24
    )


@pytest.mark.parametrize("name", ["frequency_penalty", "presence_penalty"])
def test_a_penalty_makes_repetition_rarer(daemon: DaemonProcess, name: str) -> None:
    plain, penalised = (text_of(daemon, max_tokens=60, **{name: value}) for value in (0, 2))
    assert len(set(penalised)) > len(set(plain))


def test_json_object_gives_an_object(daemon: DaemonProcess) -> None:
    for seed in range(5):
        fields = {"seed": seed, "temperature": 1.5, "max_tokens": 900, "response_format": {"type": "json_object"}}
        answer = ask(daemon, "an object please", **fields)
        assert answer.choices[0].finish_reason == "stop"
        assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)


@pytest.mark.parametrize("name", SCHEMAS)
def test_json_schema_is_kept_to(daemon: DaemonProcess, name: str) -> None:
    schema, kind = SCHEMAS[name]
    for seed in range(3):
        fields = {"seed": seed, "temperature": 1.0, "max_tokens": 400}
        value = json.loads(text_of(daemon, response_format=json_schema(schema), **fields))
        assert isinstance(value, kind)
        assert set(schema.get("required", [])) <= set(value)
        assert value in schema.get("enum", [value])
        assert kind is not list or 2 <= len(value) <= 4


def test_schemas_work_in_a_stream_and_at_the_cloud(daemon: DaemonProcess) -> None:
    form = json_schema(SCHEMAS["list"][0])
    for question in ("hello", "a hard one"):
        chunks = streamed(daemon, question, response_format=form, max_tokens=100)
        assert 2 <= len(json.loads(joined(chunks))) <= 4


@pytest.mark.parametrize("question", ["hello", "a hard one"])
@pytest.mark.parametrize(
    ("choice", "names"),
    [("required", {"set_light", "set_fan"}), ({"type": "function", "function": {"name": "set_fan"}}, {"set_fan"})],
)
def test_a_forced_tool_is_called_with_arguments_of_its_schema(
    daemon: DaemonProcess, question: str, choice: Any, names: set[str]
) -> None:
    answer = ask(daemon, question, tools=TOOLS, tool_choice=choice, max_tokens=80)
    (call,) = answer.choices[0].message.tool_calls
    arguments = json.loads(call.function.arguments)
    assert call.type == "function" and call.id and call.function.name in names
    assert arguments["room"] in ("hall", "bath") and isinstance(arguments["on"], bool)
    assert answer.choices[0].message.content is None and answer.choices[0].finish_reason == "tool_calls"


def test_a_streamed_tool_call_is_the_whole_one(daemon: DaemonProcess) -> None:
    chunks = streamed(daemon, tools=TOOLS, tool_choice="required", max_tokens=80)
    (call,) = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert call.index == 0 and call.id and json.loads(call.function.arguments)["room"] in ("hall", "bath")
    assert joined(chunks) == "" and chunks[-1].choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("choice", [None, "auto", "none"])
def test_tools_that_are_not_called_leave_a_text(daemon: DaemonProcess, choice: str | None) -> None:
    answer = ask(daemon, tools=TOOLS, tool_choice=choice)
    assert answer.choices[0].message.content and answer.choices[0].message.tool_calls is None
    with_tools = answer.usage.prompt_tokens > ask(daemon).usage.prompt_tokens
    assert with_tools == (choice != "none")  # a model that may not call them is not told of them


def test_a_tool_s_result_continues_the_conversation(daemon: DaemonProcess) -> None:
    first = daemon.chat("hello", tools=TOOLS, tool_choice="required", max_tokens=80).json()["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": first["tool_calls"][0]["id"], "content": "done: 21 °C"}
    turns = [{"role": "user", "content": "hello"}, first, result]
    answer = ask(daemon, messages=turns, tools=TOOLS)
    assert answer.choices[0].message.content
    kept = json.loads(daemon.log.row(answer.model_extra["edge_agent"]["id"])["messages"])
    assert kept[-1] == result


# What is not supported


REFUSED = {
    "n": 2,
    "logprobs": True,
    "top_logprobs": 3,
    "logit_bias": {"50256": -100},
    "user": "me",
    "store": True,
    "metadata": {"a": "b"},
    "functions": [{"name": "f"}],
    "function_call": "auto",
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy", "format": "wav"},
    "prediction": {"type": "content", "content": "x"},
    "parallel_tool_calls": False,
    "reasoning_effort": "low",
    "service_tier": "flex",
    "web_search_options": {},
    "grammar": 'root ::= "x"',
    "top_k": 5,
    "an_unknown_field": 1,
}
NEUTRAL = {
    "n": 1,
    "logprobs": False,
    "top_logprobs": 0,
    "logit_bias": {},
    "parallel_tool_calls": True,
    "store": False,
    "metadata": {},
    "functions": [],
    "modalities": ["text"],
    "service_tier": "auto",
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_unsupported_field_is_refused_by_name(daemon: DaemonProcess, name: str) -> None:
    answer = daemon.chat("hello", **{name: REFUSED[name]})
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", name, "unsupported_parameter")
    assert name in error["message"] and "leave it out" in error["message"]


def test_null_fields_and_values_that_ask_for_nothing_count_as_absent(daemon: DaemonProcess) -> None:
    options = ("stop", "seed", "temperature", "top_p", "tools", "tool_choice", "response_format", "stream", "private")
    extra = dict.fromkeys([*REFUSED, *options, "edge_agent", "stream_options", "frequency_penalty"])
    assert text_of(daemon, **extra) == text_of(daemon, **NEUTRAL) == text_of(daemon)


def test_a_sent_back_answer_may_carry_the_null_fields_of_the_format(daemon: DaemonProcess) -> None:
    nulls = {"refusal": None, "annotations": [], "audio": None, "function_call": None, "tool_calls": None, "name": None}
    turns = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "ho"},
        {"role": "user", "content": "?"},
    ]
    plain = text_of(daemon, messages=turns)
    assert text_of(daemon, messages=[turns[0], turns[1] | nulls, turns[2]]) == plain


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "refusal"])
def test_parts_other_than_text_are_refused_by_name(daemon: DaemonProcess, kind: str) -> None:
    parts = [{"type": "text", "text": "what is this?"}, {"type": kind, kind: {"url": "data:image/png;base64,AAAA"}}]
    answer = daemon.chat("", messages=[{"role": "user", "content": parts}])
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "messages[0].content[1]"
    assert kind in answer.json()["error"]["message"]


def test_text_parts_are_one_text_and_developer_is_system(daemon: DaemonProcess) -> None:
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    assert text_of(daemon, messages=[{"role": "user", "content": parts}]) == text_of(daemon)
    system, developer = (
        text_of(daemon, messages=[{"role": role, "content": "be brief"}, {"role": "user", "content": "hello"}])
        for role in ("system", "developer")
    )
    assert system == developer != text_of(daemon)
