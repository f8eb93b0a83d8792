"""What a client may force on the local model, as a GBNF grammar: JSON, a JSON schema, a tool call.

Clients never send grammars themselves. A schema is bounded before it is converted: a large one costs memory in
the parser, and references are followed inside the schema only.
"""

from __future__ import annotations

import json
import re
from typing import Any

from llama_cpp.llama_grammar import SchemaConverter

from edge_agent.answer_text import TOOL_OPEN
from edge_agent.errors import RequestError
from edge_agent.types import Options

MAX_SCHEMA_BYTES = 16_384
MAX_SCHEMA_DEPTH = 16
MAX_REPEAT = 256
"""Largest minLength, maxLength, minItems or maxItems: each repetition becomes a rule."""

_REPEATS = ("minLength", "maxLength", "minItems", "maxItems")
_LISTS = ("enum", "anyOf", "oneOf", "allOf", "prefixItems")
_KNOWN = {
    "type", "properties", "required", "additionalProperties", "items", "prefixItems", "enum", "const", "anyOf", "oneOf",
    "allOf", "minItems", "maxItems", "minLength", "maxLength", "format", "$ref", "$defs", "definitions",
    "title", "description", "default", "examples", "$schema", "$id",
}  # fmt: skip
"""Keywords the converter honours, and those that constrain nothing."""


def grammar_for(options: Options) -> str | None:
    """The grammar `response_format` or `tool_choice` asks for; None when the answer is free.

    :raises RequestError: naming the field and the keyword that cannot be honoured.
    """
    calls = forced_calls(options)
    if calls is not None:
        return _from_schema(calls, "tools")
    form = options.response_format
    if form is None:
        return None
    if form["type"] == "json_object":
        return _from_schema({"type": "object"}, "response_format")
    return _from_schema(form["json_schema"]["schema"], "response_format.json_schema.schema")


def answer_prefix(options: Options) -> str:
    """What the assistant's turn begins with when a tool call is forced."""
    return TOOL_OPEN + "\n" if forced_calls(options) is not None else ""


def forced_calls(options: Options) -> dict[str, Any] | None:
    """The schema of the one call that `tool_choice` forces; None when it forces none."""
    choice = options.tool_choice
    if choice in (None, "none", "auto") or not options.tools:
        return None
    functions = [tool["function"] for tool in options.tools]
    if isinstance(choice, dict):
        functions = [f for f in functions if f["name"] == choice["function"]["name"]]
    calls = [_call_schema(function) for function in functions]
    return calls[0] if len(calls) == 1 else {"anyOf": calls}


def _call_schema(function: dict[str, Any]) -> dict[str, Any]:
    arguments = function.get("parameters") or {"type": "object"}
    return {
        "type": "object",
        "properties": {"name": {"const": function["name"]}, "arguments": arguments},
        "required": ["name", "arguments"],
    }


def _from_schema(schema: dict[str, Any], param: str) -> str:
    text = json.dumps(schema)
    if len(text) > MAX_SCHEMA_BYTES:
        raise RequestError(
            f"{param}: expected at most {MAX_SCHEMA_BYTES} bytes of schema, found {len(text)}", param=param
        )
    _check(schema, param, 0)
    try:
        return _gbnf(json.loads(text))  # a copy: the converter rewrites references in place
    except Exception as error:  # the converter raises whatever it stumbles over: KeyError, AssertionError, ...
        raise RequestError(
            f"{param}: this JSON schema cannot be honoured: {error!r}; simplify it", param=param
        ) from error


def _gbnf(schema: dict[str, Any]) -> str:
    if "$ref" in schema:  # beside one, the converter does not look into $defs
        schema = {"anyOf": [{"$ref": schema["$ref"]}]} | {k: schema[k] for k in ("$defs", "definitions") if k in schema}
    converter: Any = _Converter(  # type: ignore[no-untyped-call]
        prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False
    )
    converter.visit(converter.resolve_refs(schema, "stdin"), "")
    # llama-cpp-python's rule lets raw line breaks into strings, which JSON does not
    return str(converter.format_grammar()).replace(r'char ::= [^"\\] |', r'char ::= [^"\\\x7F\x00-\x1F] |')


class _Converter(SchemaConverter):
    """llama-cpp-python's leaves backslashes in a literal as they are: a quote in a client's text would end the literal,
    and the rest of the text would be grammar."""

    def _format_literal(self, literal: str) -> str:
        text = json.dumps(json.loads(literal), ensure_ascii=False)
        return '"' + re.sub(r'[\\"]', r"\\\g<0>", text) + '"'


def _check(schema: Any, param: str, depth: int) -> None:
    if depth > MAX_SCHEMA_DEPTH:
        raise RequestError(f"{param}: expected a schema at most {MAX_SCHEMA_DEPTH} levels deep", param=param)
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise RequestError(f"{param}: expected a JSON schema, found {type(schema).__name__}", param=param)
    for key, value in schema.items():
        if key not in _KNOWN:
            raise RequestError(f"{param}: the keyword {key!r} is not supported locally; leave it out", param=param)
        if key in _REPEATS and not (type(value) is int and 0 <= value <= MAX_REPEAT):
            raise RequestError(
                f"{param}.{key}: expected a whole number from 0 to {MAX_REPEAT}, found {value!r}", param=param
            )
        if key == "$ref" and not (isinstance(value, str) and value.startswith("#/")):
            raise RequestError(
                f"{param}.$ref: expected a reference inside the schema (#/...), found {value!r}", param=param
            )
        if key in _LISTS and not (isinstance(value, list) and value):
            raise RequestError(f"{param}.{key}: expected a list of at least one, found {value!r}"[:200], param=param)
        _check_inside(key, value, f"{param}.{key}", depth + 1)


def _check_inside(key: str, value: Any, param: str, depth: int) -> None:
    if key in ("properties", "$defs", "definitions") and isinstance(value, dict):
        for name, sub in value.items():
            _check(sub, f"{param}.{name}", depth)
    elif key in ("anyOf", "oneOf", "allOf", "prefixItems") or (key == "items" and isinstance(value, list)):
        for sub in value if isinstance(value, list) else [value]:
            _check(sub, param, depth)
    elif key in ("items", "additionalProperties"):
        _check(value, param, depth)
