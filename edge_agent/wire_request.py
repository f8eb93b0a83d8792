"""What clients send, in OpenAI's chat format, to our types. Pure: sees bytes and values, never a socket.

A field is honoured or refused by name; null, and a value that asks for nothing, count as absent.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from edge_agent.errors import RequestError
from edge_agent.types import Message, Options, Query, Wish

WISHES = ("auto", "local", "cloud")
ROLES = ("system", "user", "assistant", "tool")
_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
MAX_DEPTH = 64
"""Objects and lists inside each other; what is deeper could exhaust the stack of whoever walks it later."""
MAX_SHOWN = 80
"""Characters of a client's own text that an error repeats."""
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "parallel_tool_calls": (True,),
    "store": (False,),
    "metadata": ({},),
    "functions": ([],),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
}
"""Fields of the format that are not honoured, with the values that ask for nothing."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    query: Query
    stream: bool
    include_usage: bool


@dataclass(frozen=True, slots=True)
class Feedback:
    exchange_id: str
    rating: str
    comment: str | None


def parse_chat(body: bytes, *, max_messages: int = 256) -> ChatRequest:
    """A chat completion request. :raises RequestError: naming the field, what was expected and what was found."""
    data = _object(body)
    for key in data:
        _check_known(key, data[key])
    stream = _bool(data, "stream")
    extra = _mapping(data, "edge_agent")
    for key in extra:
        if key not in ("private", "conversation_id"):
            raise _wrong(f"edge_agent.{key}", "private or conversation_id", "an unknown field")
    messages, any_private = _messages(data, max_messages)
    query = Query(
        messages=messages,
        options=_options(data),
        wish=_wish(data),
        private=_bool(data, "private") or _bool(extra, "private", "edge_agent.private") or any_private,
        conversation_id=_text(extra, "conversation_id", "edge_agent.conversation_id", most=128),
    )
    stream_options = _mapping(data, "stream_options")
    if stream_options and not stream:
        raise _wrong("stream_options", "stream: true beside it", "stream: false")
    for key in stream_options:
        if key != "include_usage":
            raise _wrong(f"stream_options.{key}", "include_usage", "an unknown field")
    return ChatRequest(query, stream, _bool(stream_options, "include_usage", "stream_options.include_usage"))


def parse_feedback(body: bytes) -> Feedback:
    """A rating of one answer: {id, rating: good | bad, comment}."""
    data = _object(body)
    for key in data:
        if key not in ("id", "rating", "comment"):
            raise _wrong(key, "id, rating or comment", "an unknown field")
    exchange_id = _text(data, "id", "id", most=64)
    if exchange_id is None:
        raise _wrong("id", "the edge_agent.id of an answer", "nothing")
    rating = data.get("rating")
    if rating not in ("good", "bad"):
        raise _wrong("rating", "good or bad", rating)
    return Feedback(exchange_id, rating, _text(data, "comment", "comment", most=4096))


def parse_forget(body: bytes) -> tuple[str | None, str | None]:
    """Which conversation to forget: {id} of one of its exchanges, or {conversation_id}; one of the two is None."""
    data = _object(body)
    if len(data) != 1 or not data.keys() <= {"id", "conversation_id"}:
        raise _wrong("body", "either id or conversation_id", ", ".join(sorted(data)))
    exchange_id, conversation_id = _text(data, "id", "id", 64), _text(data, "conversation_id", "conversation_id", 256)
    if conversation_id is None and not re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", exchange_id or ""):
        raise _wrong("id", "the edge_agent.id of an answer", data.get("id"))
    return exchange_id, conversation_id


def _object(body: bytes) -> dict[str, Any]:
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"body: expected UTF-8, found byte 0x{body[error.start]:02x} at offset {error.start}; encode it as UTF-8"
        ) from error
    try:
        data = _clean(json.loads(text, parse_constant=_no_number, parse_float=_finite))
    except RecursionError as error:
        raise _too_deep("body") from error
    except ValueError as error:
        raise RequestError(f"body: expected a JSON object: {error}") from error
    if not isinstance(data, dict):
        raise _wrong("body", "a JSON object", data)
    return data


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _no_number(digits[:20])


def _clean(value: Any, where: str = "body", depth: int = 0) -> Any:
    """`value` with texts that can be encoded (JSON may carry half of a surrogate pair), at most MAX_DEPTH deep."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, (dict, list)) and depth >= MAX_DEPTH:
        raise _too_deep(where)
    if isinstance(value, dict):
        return {_clean(key): _clean(item, where, depth + 1) for key, item in value.items()}
    return [_clean(item, where, depth + 1) for item in value] if isinstance(value, list) else value


def _too_deep(where: str) -> RequestError:
    return RequestError(f"{where}: expected JSON at most {MAX_DEPTH} levels deep; nest it less", param=where)


_HONOURED = {
    "model", "messages", "stream", "stream_options", "private", "edge_agent", "max_tokens", "max_completion_tokens",
    "temperature", "top_p", "seed", "stop", "frequency_penalty", "presence_penalty", "tools", "tool_choice",
    "response_format",
}  # fmt: skip


def _check_known(key: str, value: Any) -> None:
    if key in _HONOURED or value is None:
        return
    if any(value == neutral and type(value) is type(neutral) for neutral in _NEUTRAL.get(key, ())):
        return
    key = key[:MAX_SHOWN]
    raise RequestError(f"{key}: this field is not supported; leave it out", param=key, code="unsupported_parameter")


def _wish(data: Mapping[str, Any]) -> Wish:
    wish = data.get("model")
    if wish is None:
        raise _wrong("model", "auto, local or cloud", "nothing")
    if wish not in WISHES:
        found = repr(wish)[:MAX_SHOWN]
        raise RequestError(
            f"model: expected auto, local or cloud, found {found}", param="model", code="model_not_found", status=404
        )
    return cast(Wish, wish)


_MESSAGE_FIELDS = ("role", "content", "tool_calls", "tool_call_id", "name", "private")


def _messages(data: Mapping[str, Any], most: int) -> tuple[tuple[Message, ...], bool]:
    found = data.get("messages")
    if not isinstance(found, list) or not found:
        raise _wrong("messages", "a list of at least one message", found)
    if len(found) > most:
        raise _wrong("messages", f"at most {most} messages", f"{len(found)}")
    messages = tuple(_message(item, f"messages[{i}]") for i, item in enumerate(found))
    return messages, any(_bool(item, "private", f"messages[{i}].private") for i, item in enumerate(found))


def _message(item: Any, where: str) -> Message:
    if not isinstance(item, dict):
        raise _wrong(where, "an object with role and content", item)
    for key, value in item.items():
        if key not in _MESSAGE_FIELDS and value not in (None, []):  # answers that are sent back carry such fields
            raise _wrong(f"{where}.{key}", ", ".join(_MESSAGE_FIELDS), "an unknown field")
    role = "system" if item.get("role") == "developer" else item.get("role")
    if role not in ROLES:
        raise _wrong(f"{where}.role", ", ".join(ROLES), item.get("role"))
    calls = _tool_calls(item, where)
    if calls and role != "assistant":
        raise _wrong(f"{where}.tool_calls", "role: assistant beside it", role)
    name = _text(item, "name", f"{where}.name", most=64)
    if name is not None and not _NAME.fullmatch(name):
        raise _wrong(f"{where}.name", "letters, digits, - and _", name)
    call_id = _text(item, "tool_call_id", f"{where}.tool_call_id", most=64)
    if role == "tool" and call_id is None:
        raise _wrong(f"{where}.tool_call_id", "the id of the call this message answers", "nothing")
    return Message(role, _content(item, where, optional=bool(calls)), calls, call_id, name)


def _content(item: Mapping[str, Any], where: str, optional: bool) -> str:
    content = item.get("content")
    if content is None and optional:
        return ""
    if isinstance(content, list) and content:
        return "".join(_part(part, f"{where}.content[{i}]") for i, part in enumerate(content))
    if not isinstance(content, str):
        raise _wrong(f"{where}.content", "text", content)
    return content


def _part(part: Any, where: str) -> str:
    if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        kind = part.get("type") if isinstance(part, dict) else part
        raise _wrong(where, '{"type": "text", "text": ...}', kind)
    return cast(str, part["text"])


def _tool_calls(item: Mapping[str, Any], where: str) -> tuple[dict[str, Any], ...]:
    calls = item.get("tool_calls")
    if calls is None:
        return ()
    if not isinstance(calls, list):
        raise _wrong(f"{where}.tool_calls", "a list", calls)
    return tuple(_tool_call(call, i, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls))


def _tool_call(call: Any, number: int, where: str) -> dict[str, Any]:
    function = _function({"type": "function", **call}) if isinstance(call, dict) else {}
    if not _is_name(function.get("name")) or not isinstance(function.get("arguments"), str):
        raise _wrong(where, '{"id", "type": "function", "function": {"name", "arguments"}}', call)
    _check_arguments(function["arguments"], f"{where}.function.arguments")
    call_id = _text(call, "id", f"{where}.id", most=64) or f"call_{number}"
    function = {"name": function["name"], "arguments": function["arguments"]}
    return {"id": call_id, "type": "function", "function": function}


def _check_arguments(arguments: str, where: str) -> None:
    """Any text may be sent back, as models write it; but what parses as JSON must not be too deep."""
    try:
        _clean(json.loads(arguments), where)
    except RecursionError as error:
        raise _too_deep(where) from error
    except ValueError:
        pass


def _options(data: Mapping[str, Any]) -> Options:
    if data.get("max_tokens") is not None and data.get("max_completion_tokens") is not None:
        raise _wrong("max_tokens", "max_tokens or max_completion_tokens", "both")
    max_tokens = "max_completion_tokens" if data.get("max_completion_tokens") is not None else "max_tokens"
    tools = _tools(data)
    return Options(
        max_tokens=_integer(data, max_tokens, 1, 1 << 20),
        temperature=_number(data, "temperature", 0, 2),
        top_p=_number(data, "top_p", 0, 1),
        seed=_integer(data, "seed", -(1 << 63), (1 << 63) - 1),
        frequency_penalty=_number(data, "frequency_penalty", -2, 2),
        presence_penalty=_number(data, "presence_penalty", -2, 2),
        stop=_stop(data),
        tools=tools,
        tool_choice=_tool_choice(data, [tool["function"]["name"] for tool in tools]),
        response_format=_response_format(data),
    )


def _stop(data: Mapping[str, Any]) -> tuple[str, ...]:
    stop = data.get("stop")
    if stop is None:
        return ()
    stops = [stop] if isinstance(stop, str) else stop
    if (
        not isinstance(stops, list)
        or not all(isinstance(s, str) and 0 < len(s) <= 256 for s in stops)
        or len(stops) > 4
    ):
        raise _wrong("stop", "text or a list of at most 4 texts of 1 to 256 characters", stop)
    return tuple(stops)


def _tools(data: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    tools = data.get("tools")
    if tools is None:
        return ()
    if not isinstance(tools, list):
        raise _wrong("tools", "a list", tools)
    for i, tool in enumerate(tools):
        function, where = _function(tool), f"tools[{i}].function"
        if not _is_name(function.get("name")):
            raise _wrong(f"tools[{i}]", '{"type": "function", "function": {"name": ..., "parameters": ...}}', tool)
        if not isinstance(function.get("parameters"), (dict, type(None))):
            raise _wrong(f"{where}.parameters", "a JSON schema", function["parameters"])
        if not isinstance(function.get("description"), (str, type(None))):
            raise _wrong(f"{where}.description", "text", function["description"])
    return tuple(tools)


def _function(value: Any) -> dict[str, Any]:
    """The function inside a tool, a tool call or a tool choice; {} when there is none."""
    function = value.get("function") if isinstance(value, dict) and value.get("type") == "function" else None
    return function if isinstance(function, dict) else {}


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _tool_choice(data: Mapping[str, Any], names: list[str]) -> str | dict[str, Any] | None:
    choice = data.get("tool_choice")
    if choice is None or (choice in ("none", "auto") and isinstance(choice, str)):
        return choice
    if choice == "required" and names:
        return "required"
    if _function(choice).get("name") in names:
        return cast("dict[str, Any]", choice)
    raise _wrong("tool_choice", "none, auto, required or a function of tools", choice)


def _response_format(data: Mapping[str, Any]) -> dict[str, Any] | None:
    form = _mapping(data, "response_format")
    if not form:
        return None
    kind, schema = form.get("type"), form.get("json_schema")
    if kind not in ("text", "json_object", "json_schema"):
        raise _wrong("response_format.type", "text, json_object or json_schema", kind)
    for key in form:
        if key != "type" and (key, kind) != ("json_schema", "json_schema"):
            raise _wrong(f"response_format.{key}", f"nothing beside type: {kind}", "an unknown field")
    if kind != "json_schema":
        return {"type": kind} if kind == "json_object" else None
    if not isinstance(schema, dict) or not isinstance(schema.get("schema"), dict) or not _is_name(schema.get("name")):
        raise _wrong("response_format.json_schema", '{"name": ..., "schema": {...}}', schema)
    return {"type": "json_schema", "json_schema": schema}


def _bool(data: Mapping[str, Any], key: str, where: str | None = None) -> bool:
    value = data.get(key)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise _wrong(where or key, "true or false", value)


def _mapping(data: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = data.get(key)
    if value is None or isinstance(value, dict):
        return value or {}
    raise _wrong(key, "an object", value)


def _text(data: Mapping[str, Any], key: str, where: str, most: int) -> str | None:
    value = data.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= most:
        raise _wrong(where, f"text of 1 to {most} characters", value)
    return value


def _integer(data: Mapping[str, Any], key: str, low: int, high: int) -> int | None:
    value = data.get(key)
    if value is None or (type(value) is int and low <= value <= high):
        return value
    raise _wrong(key, f"a whole number from {low} to {high}", value)


def _number(data: Mapping[str, Any], key: str, low: float, high: float) -> float | None:
    value = data.get(key)
    if value is None:
        return None
    if type(value) in (int, float) and low <= value <= high:
        return float(value)
    raise _wrong(key, f"a number from {low} to {high}", value)


def _wrong(where: str, expected: str, found: Any) -> RequestError:
    where = where[:MAX_SHOWN]
    shown = found if isinstance(found, str) and len(found) <= MAX_SHOWN else json.dumps(found, default=repr)[:MAX_SHOWN]
    return RequestError(f"{where}: expected {expected}, found {shown or repr(found)}", param=where)
