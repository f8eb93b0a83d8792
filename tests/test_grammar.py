"""What a schema demands is what the model says, and no schema takes the process down."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.errors import RequestError
from edge_agent.grammar import answer_prefix, forced_calls, grammar_for
from edge_agent.json_schema import MAX_BYTES, MAX_DEPTH, to_gbnf
from edge_agent.llama_runtime import llama_cpp
from edge_agent.local_model import LocalModel
from edge_agent.token_sampler import init_grammar
from edge_agent.types import Message, Options, Query

STRINGS = ['a"b', "back\\slash", "line\nbreak", "tab\t", "é", "日本", "😀", "", "\x7f"]


@pytest.fixture(scope="module")
def model(tiny_gguf: Path) -> Iterator[LocalModel]:
    model = LocalModel(tiny_gguf, n_ctx=2048, n_threads=1, temperature=2.0, top_p=1.0, top_k=0)
    yield model
    model.close()


def spoken(model: LocalModel, schema: dict[str, Any], seed: int) -> Any:
    """What the model says under a schema, parsed."""
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    query = Query((Message("user", "hi"),), Options(max_tokens=1000, seed=seed, response_format=form))
    text = "".join(chunk.text for chunk in model.generate(query, threading.Event()))
    return json.loads(text)


def an_object(properties: dict[str, Any], *required: str, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), **more}


NODE = an_object(
    {"n": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}, "n", "next"
)
PAIR = {"type": ["array", "null"], "items": {"type": "integer"}, "minItems": 2, "maxItems": 3}
TUPLE = {"type": "array", "prefixItems": [{"type": "null"}, {"type": "integer"}], "minItems": 2, "maxItems": 2}
ON = an_object({"on": {"type": "boolean"}}, "on")
HONOURED: dict[str, tuple[dict[str, Any], list[Any], list[Any]]] = {
    "enum": ({"enum": STRINGS}, STRINGS, ["a", "e", "back"]),
    "enum of all kinds": ({"enum": [1, None, {"a": [1.5]}]}, [1, None, {"a": [1.5]}], [2, {"a": [1]}, "1"]),
    "const": ({"const": "\\"}, ["\\"], ["", "\\\\"]),
    "property names": (
        an_object({s: {} for s in STRINGS if s}, STRINGS[1]),
        [{STRINGS[1]: {}}],
        [{}, {STRINGS[2]: {}}],
    ),
    "types": ({"type": ["integer", "null"]}, [None, -7], [1.5, "1"]),
    "types of lists": (PAIR, [None, [1, 2], [1, 2, 3]], [[1], [1, 2, 3, 4], ["a", "b"]]),
    "types of objects": ({**ON, "type": ["object", "null"]}, [None, {"on": True}], [{}, {"on": 1}, {"off": True}]),
    "types of enums": ({"type": ["string", "null"], "enum": ["a", None]}, ["a", None], ["b"]),
    "string lengths": ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "é\n日"], ["a", "abcd"]),
    "strings": ({"type": "string"}, ["", *STRINGS], [1, None]),
    "tuples": (TUPLE, [[None, 1]], [[None], [1, None], [None, 1, 2]]),
    "optional properties": (
        an_object({"a": {"type": "integer"}, "b": {"type": "null"}}, "b", additionalProperties=False),
        [{"b": None}, {"b": None, "a": 1}],
        [{}, {"a": 1}, {"b": None, "c": 1}],
    ),
    "more properties": (
        {"type": "object", "additionalProperties": {"type": "boolean"}},
        [{}, {"x": True, "y": False}],
        [{"x": 1}],
    ),
    "properties called like keywords": (
        an_object({"$defs": {"type": "null"}, "type": {"enum": ["x"]}, "root": {"type": "integer"}}, "type", "root"),
        [{"type": "x", "root": 1}, {"type": "x", "root": 1, "$defs": None}],
        [{"type": "y", "root": 1}, 1],
    ),
    "recursion": (
        {"$defs": {"node": NODE}, "$ref": "#/$defs/node"},
        [{"n": 1, "next": None}, {"n": 1, "next": {"n": 2, "next": None}}],
        [{"n": 1}, {"n": 1, "next": {"n": 2}}],
    ),
    "a definition and a property of one name": (
        an_object({"lamp": ON, "b": {"$ref": "#/$defs/lamp"}}, "lamp", "b", **{"$defs": {"lamp": {"type": "integer"}}}),
        [{"lamp": {"on": True}, "b": 1}],
        [{"lamp": {"on": True}, "b": {"on": True}}],
    ),
    "a definition called like a type": (
        an_object(
            {"a": {"type": "boolean"}, "b": {"$ref": "#/$defs/boolean", "description": "x"}},
            "a",
            "b",
            **{"$defs": {"boolean": {"enum": ["yes", "no"]}}},
        ),
        [{"a": True, "b": "no"}],
        [{"a": True, "b": True}],
    ),
    "allOf of one": ({"allOf": [{"type": "integer"}]}, [1], ["a", {}]),
}


def takes(model: LocalModel, grammar: str, text: str) -> bool:
    """Whether llama.cpp, held to the grammar, could say exactly this."""
    sampler = init_grammar(model._llama.model, grammar)
    try:
        for token in [*model._llama.tokenize(text.encode(), add_bos=False), model._llama.token_eos()]:
            data = llama_cpp.llama_token_data(id=token, logit=1.0, p=0.0)
            candidates = llama_cpp.llama_token_data_array(ctypes.pointer(data), 1, -1, False)
            llama_cpp.llama_sampler_apply(sampler, ctypes.byref(candidates))
            if data.logit == float("-inf"):
                return False
            llama_cpp.llama_sampler_accept(sampler, token)
        return True
    finally:
        llama_cpp.llama_sampler_free(sampler)


@pytest.mark.parametrize("name", HONOURED)
def test_the_grammar_takes_what_the_schema_describes_and_nothing_else(model: LocalModel, name: str) -> None:
    schema, good, bad = HONOURED[name]
    grammar = to_gbnf(schema, "response_format")
    assert [v for v in good if not takes(model, grammar, json.dumps(v, ensure_ascii=False))] == []
    assert [v for v in bad if takes(model, grammar, json.dumps(v, ensure_ascii=False))] == []


# a random model comes to no end by itself, so only schemas that bring one
@pytest.mark.parametrize("name", sorted(HONOURED.keys() - {"strings", "more properties"}))
def test_what_the_model_says_under_a_schema_is_json(model: LocalModel, name: str) -> None:
    assert len([spoken(model, HONOURED[name][0], seed) for seed in range(3)]) == 3


@pytest.mark.parametrize("character", ["\n", "\r", "\t", "\x1f"])
def test_a_raw_control_character_is_no_part_of_a_json_string(model: LocalModel, character: str) -> None:
    for schema in ({"type": "string"}, {"type": "string", "minLength": 1}, {"type": "object"}):
        text = '{"a": "b%s"}' if schema["type"] == "object" else '"b%s"'
        grammar = to_gbnf(schema, "response_format")
        assert takes(model, grammar, text % "") and not takes(model, grammar, text % character)


REFUSED = [
    ({"type": "integer", "minimum": 3}, "the keyword 'minimum' is not supported locally"),
    ({"type": "string", "pattern": "^a$"}, "the keyword 'pattern' is not supported"),
    (an_object({"a": {"type": "string", "pattern": "x"}}), r"\.schema\.properties\.a: the keyword 'pattern'"),
    (
        {"type": "array", "items": {"type": "string"}, "minItems": 257},
        "minItems: expected a whole number from 0 to 256",
    ),
    ({"type": "string", "maxLength": -1}, "maxLength: expected a whole number from 0 to 256, found -1"),
    ({"type": "string", "minLength": 3, "maxLength": 2}, "minLength is larger than maxLength"),
    ({"type": "array", "items": {}, "minItems": 3, "maxItems": 2}, "minItems is larger than maxItems"),
    ({"type": "array", "minItems": 3}, "minItems and maxItems are supported beside 'items' only"),
    ({"prefixItems": [{"type": "null"}], "items": {"type": "null"}}, "'items' beside 'prefixItems'"),
    ({"prefixItems": [{"type": "null"}], "minItems": 2}, "a list of 1 items does not fit"),
    ({"type": "object", "required": ["a"]}, "'required' names 'a'"),
    ({"anyOf": [{"type": "null"}], "properties": {"a": {"type": "null"}}}, "'properties' beside 'anyOf'"),
    ({"allOf": [{"type": "object"}, {"type": "object"}]}, "'allOf' of several"),
    ({"enum": 5}, "enum: expected a list of at least one, found 5"),
    ({"enum": []}, r"enum: expected a list of at least one, found \[\]"),
    ({"anyOf": []}, r"anyOf: expected a list of at least one, found \[\]"),
    ({"type": []}, r"type: expected one of null, .*, string or a list of them, found \[\]"),
    ({"type": [[]]}, r"type: expected one of .*, found \[\[\]\]"),
    ({"type": ["string", {}]}, "type: expected one of .*, found "),
    ({"type": "colour"}, 'type: expected one of .*, found "colour"'),
    (an_object({"a": {}}, required=[{}]), r"required: expected a list of names, found \[{}\]"),
    ({"required": [[]]}, r"required: expected a list of names, found \[\[\]\]"),
    ({"type": "array", "items": []}, r"items: expected at least one, found \[\]"),
    ({"properties": []}, "properties: expected an object"),
    ({"properties": {"": {"type": "null"}}}, "without empty names"),
    ({"properties": {"a": True}}, "properties.a: expected a JSON schema, found true"),
    ({"$ref": "https://example.com/schema.json"}, r"\$ref: expected a reference inside the schema"),
    ({"$ref": "#/$defs/nowhere"}, "cannot be honoured: .*nowhere"),
    ({"properties": {"a": {"const": {"type": [[]]}}, "b": {"$ref": "#/properties/a/const"}}}, r"\$ref: expected a"),
]


@pytest.mark.parametrize(("schema", "message"), REFUSED, ids=[message[:25] for _, message in REFUSED])
def test_what_cannot_be_honoured_is_refused_by_name(schema: dict[str, Any], message: str) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with pytest.raises(RequestError, match=message) as caught:
        grammar_for(Options(response_format=form))
    assert caught.value.message.startswith("response_format.json_schema.schema")
    assert caught.value.status == 400 and (caught.value.param or "").startswith("response_format")


def test_large_and_deep_schemas_are_refused_before_they_are_converted() -> None:
    with pytest.raises(RequestError, match=f"at most {MAX_BYTES} bytes of schema, found"):
        to_gbnf({"enum": ["x" * MAX_BYTES]}, "response_format")
    deep: dict[str, Any] = {}
    for _ in range(MAX_DEPTH + 1):
        deep = {"type": "array", "items": deep}
    with pytest.raises(RequestError, match=f"at most {MAX_DEPTH} levels deep"):
        to_gbnf(deep, "response_format")


HOSTILE = """
import sys, threading
from pathlib import Path
from edge_agent.errors import RequestError
from edge_agent.local_model import LocalModel
from edge_agent.token_sampler import TokenSampler
from edge_agent.types import Message, Options, Query
model = LocalModel(Path(sys.argv[1]), n_ctx=512, n_threads=1)
for grammar in ["root ::= foo bar(", "root ::= root", "root ::= nowhere", 'root ::= "a" {9999999}', "x ::= [a"]:
    try:
        TokenSampler(model._llama.model, temperature=0, top_p=1, top_k=0, grammar=grammar)
    except RequestError as error:
        print("refused", "cannot parse" in error.message)
for schema in [{"enum": []}, {"anyOf": []}, {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, {"type": []}]:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    try:
        model.generate(Query((Message("user", "x"),), Options(response_format=form)), threading.Event())
    except RequestError:
        print("refused", True)
print("alive", len(list(model.generate(Query((Message("user", "x"),), Options(max_tokens=3)), threading.Event()))))
"""


def test_a_malformed_grammar_is_refused_and_the_process_lives(tiny_gguf: Path) -> None:
    command = [sys.executable, "-c", HOSTILE, str(tiny_gguf)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.splitlines() == ["refused True"] * 9 + ["alive 3"]


LAMP = {"type": "function", "function": {"name": "lamp", "parameters": an_object({"on": {"type": "boolean"}}, "on")}}
DOOR = {"type": "function", "function": {"name": "door"}}


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        (None, None),
        ("auto", None),
        ("none", None),
        ("required", ["lamp", "door"]),
        ({"type": "function", "function": {"name": "door"}}, ["door"]),
    ],
)
def test_tool_choice_forces_a_call_of_the_functions_it_allows(choice: Any, names: list[str] | None) -> None:
    options = Options(tools=(LAMP, DOOR), tool_choice=choice)
    schema = forced_calls(options)
    calls = [] if schema is None else schema.get("anyOf", [schema])
    assert [call["properties"]["name"]["const"] for call in calls] == (names or [])
    assert answer_prefix(options) == ("<tool_call>\n" if names else "")
    assert (grammar_for(options) is None) == (names is None)


def test_a_tools_parameters_that_cannot_be_honoured_are_refused_when_a_call_is_forced() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "string", "pattern": "x"}}}
    with pytest.raises(RequestError, match="tools.*the keyword 'pattern'"):
        grammar_for(Options(tools=(tool,), tool_choice="required"))
    assert grammar_for(Options(tools=(tool,), tool_choice="auto")) is None
