"""JSON schemas to llama.cpp's grammar language (GBNF). Knows neither requests nor models.

What llama-cpp-python's converter would leave out of the grammar without a word is rewritten or refused by name. A
schema is bounded before it is converted: a large one costs memory in the parser.
"""

from __future__ import annotations

import json
import re
from typing import Any

from edge_agent.errors import RequestError
from edge_agent.llama_runtime import llama_cpp

MAX_BYTES = 16_384
MAX_DEPTH = 16
MAX_REPEAT = 256
"""Largest minLength, maxLength, minItems or maxItems: each repetition becomes a rule."""

_REPEATS = ("minLength", "maxLength", "minItems", "maxItems")
_KNOWN = {
    "type", "properties", "required", "additionalProperties", "items", "prefixItems", "enum", "const", "anyOf", "oneOf",
    "allOf", "minItems", "maxItems", "minLength", "maxLength", "format", "$ref", "$defs", "definitions",
    "title", "description", "default", "examples", "$schema", "$id",
}  # fmt: skip
"""Keywords the converter honours, and those that constrain nothing."""
_TYPES = ("null", "boolean", "object", "array", "number", "integer", "string")
_NAMED = ("properties", "$defs", "definitions")
_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems")
_ALTERNATIVES = ("$ref", "const", "enum", "anyOf", "oneOf", "allOf")
_PARTS = ("properties", "required", "additionalProperties", "items", "prefixItems", *_REPEATS)
"""Not read by the converter in a schema that has one of the alternatives."""
_REFERENCE = re.compile(r"#(/(properties|\$defs|definitions)/[^/#]+|/items|/additionalProperties)+")
"""To a schema that was checked; a `const` or `default` holds anything."""
_CHARACTER = r"""[^"\\\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4})"""
"""One character of a JSON string. The converter's own rule takes raw line breaks, which no JSON parser does."""


def to_gbnf(schema: dict[str, Any], param: str) -> str:
    """The grammar of all JSON texts a schema describes, or of some of them.

    :param param: the request field the schema came in, for messages.
    :raises RequestError: naming the keyword that cannot be honoured.
    """
    size_bytes = len(json.dumps(schema))
    if size_bytes > MAX_BYTES:
        raise RequestError(f"{param}: expected at most {MAX_BYTES} bytes of schema, found {size_bytes}", param=param)
    _check(schema, param, 0)
    try:
        return _Converter().gbnf(_plain(schema))
    except Exception as error:  # the converter raises whatever it stumbles over: KeyError, AssertionError, ...
        raise RequestError(
            f"{param}: this JSON schema cannot be honoured: {error!r}; simplify it", param=param
        ) from error


class _Converter(llama_cpp.llama_grammar.SchemaConverter):
    """llama-cpp-python's, but literals keep their backslashes and every reference has a rule of its own."""

    def __init__(self) -> None:
        super().__init__(prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False)  # type: ignore[no-untyped-call]
        self._names: dict[str, str] = {}

    def gbnf(self, schema: dict[str, Any]) -> str:
        self.visit(self.resolve_refs(schema, "stdin"), "")  # type: ignore[no-untyped-call]
        if "char" in self._rules:
            self._rules["char"] = _CHARACTER
        return str(self.format_grammar())  # type: ignore[no-untyped-call]

    def _format_literal(self, literal: str) -> str:
        """:param literal: JSON text."""
        text = json.dumps(json.loads(literal), ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
        return str(super()._format_literal(text.replace("\\", "\\\\")))  # type: ignore[no-untyped-call]

    def _resolve_ref(self, ref: str) -> str:
        if ref not in self._names:  # named after its last word, as there, it could take another rule's place
            self._names[ref] = f"reference-{len(self._names)}"
            self._names[ref] = self.visit(self._refs[ref], self._names[ref])  # type: ignore[no-untyped-call]
        return self._names[ref]


def _plain(schema: Any) -> Any:
    """The schema in words the converter reads in full: `anyOf` for several types and for what stands alone in it."""
    if isinstance(schema, bool):
        return schema
    rest = dict(schema)
    if isinstance(rest.get("type"), list):
        types = rest.pop("type")
        if not any(key in rest for key in _ALTERNATIVES):
            rest = {"anyOf": [{**rest, "type": one} for one in types]}
    if "$ref" in rest and len(rest) > 1:
        rest["anyOf"] = [{"$ref": rest.pop("$ref")}]
    if "allOf" in rest:
        rest["anyOf"] = rest.pop("allOf")
    return {key: _plain_inside(key, value) for key, value in rest.items()}


def _plain_inside(key: str, value: Any) -> Any:
    if key in _NAMED:
        return {name: _plain(sub) for name, sub in value.items()}
    if key in _LISTED or (key == "items" and isinstance(value, list)):
        return [_plain(sub) for sub in value]
    return _plain(value) if key in ("items", "additionalProperties") else value


def _check(schema: Any, param: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise RequestError(f"{param}: expected a schema at most {MAX_DEPTH} levels deep", param=param)
    if not isinstance(schema, dict):
        raise RequestError(f"{param}: expected a JSON schema, found {json.dumps(schema)[:40]}", param=param)
    for key, value in schema.items():
        problem = _problem_of(key, value)
        if problem:
            raise RequestError(f"{param}: {problem}", param=param)
        for where, sub in _inside(key, value):
            _check(sub, f"{param}.{where}", depth + 1)
    problem = _left_out(schema)
    if problem:
        raise RequestError(f"{param}: {problem}", param=param)


def _problem_of(key: str, value: Any) -> str | None:
    """What is wrong with one keyword by itself."""
    if key not in _KNOWN:
        return f"the keyword {key!r} is not supported locally; leave it out"
    if key in _NAMED and not (isinstance(value, dict) and "" not in value):
        return f"{key}: expected an object without empty names, found {json.dumps(value)[:40]}"
    if key in (*_LISTED, "required", "enum") and not (isinstance(value, list) and (value or key == "required")):
        return f"{key}: expected a list of at least one, found {json.dumps(value)[:40]}"
    if key == "required" and not all(isinstance(name, str) for name in value):
        return f"required: expected a list of names, found {json.dumps(value)[:40]}"
    # llama.cpp prints a grammar it cannot parse, text and all: nothing without a meaning may reach it
    if key == "type" and not (value and all(one in _TYPES for one in (value if isinstance(value, list) else [value]))):
        return f"type: expected one of {', '.join(_TYPES)} or a list of them, found {json.dumps(value)[:40]}"
    if key == "items" and value in ([], None):
        return f"items: expected at least one, found {json.dumps(value)}"
    if key in _REPEATS and not (type(value) is int and 0 <= value <= MAX_REPEAT):
        return f"{key}: expected a whole number from 0 to {MAX_REPEAT}, found {json.dumps(value)[:40]}"
    if key == "$ref" and not (isinstance(value, str) and _REFERENCE.fullmatch(value)):
        return f"$ref: expected a reference inside the schema (#/$defs/...), found {json.dumps(value)[:40]}"
    return None


def _inside(key: str, value: Any) -> list[tuple[str, Any]]:
    """The schemas inside a keyword, and where they are."""
    if key in _NAMED:
        return [(f"{key}.{name}", sub) for name, sub in value.items()]
    if key in _LISTED or (key == "items" and isinstance(value, list)):
        return [(f"{key}[{i}]", sub) for i, sub in enumerate(value)]
    if key == "items" or (key == "additionalProperties" and not isinstance(value, bool)):
        return [(key, value)]
    return []


def _left_out(schema: dict[str, Any]) -> str | None:
    """What the converter would leave out of the grammar, as a sentence; None when that is nothing."""
    alternatives = [key for key in _ALTERNATIVES if key in schema]
    beside = alternatives[1:] + [key for key in _PARTS if key in schema]
    if alternatives and beside:
        return f"{beside[0]!r} beside {alternatives[0]!r} is not supported locally; leave one of them out"
    if len(schema.get("allOf", "1")) != 1:
        return "'allOf' of several schemas is not supported locally; write them as one"
    missing = [name for name in schema.get("required", ()) if name not in schema.get("properties", {})]
    if missing:
        return f"'required' names {missing[0]!r}, which is none of the properties; describe it there"
    if schema.get("minLength", 0) > schema.get("maxLength", MAX_REPEAT):
        return "minLength is larger than maxLength"
    return _left_out_of_list(schema)


def _left_out_of_list(schema: dict[str, Any]) -> str | None:
    items, least, most = schema.get("items"), schema.get("minItems", 0), schema.get("maxItems", MAX_REPEAT)
    if "prefixItems" in schema and items:
        return "'items' beside 'prefixItems' is not supported locally; leave one of them out"
    if least > most:
        return "minItems is larger than maxItems"
    prefix = schema.get("prefixItems", items if isinstance(items, list) else None)
    if prefix is not None:
        return (
            None if least <= len(prefix) <= most else f"a list of {len(prefix)} items does not fit minItems, maxItems"
        )
    if items is None and ("minItems" in schema or "maxItems" in schema):
        return "minItems and maxItems are supported beside 'items' only; say what the items are"
    return None
