"""What a client may force on the local model, as a GBNF grammar: JSON, a JSON schema, a tool call.

Clients never send grammars themselves.
"""

from __future__ import annotations

from typing import Any

from edge_agent.answer_text import TOOL_OPEN
from edge_agent.json_schema import to_gbnf
from edge_agent.types import Options


def grammar_for(options: Options) -> str | None:
    """The grammar `response_format` or `tool_choice` asks for; None when the answer is free.

    :raises RequestError: naming the field and the keyword that cannot be honoured.
    """
    calls = forced_calls(options)
    if calls is not None:
        return to_gbnf(calls, "tools")
    form = options.response_format
    if form is None:
        return None
    if form["type"] == "json_object":
        return to_gbnf({"type": "object"}, "response_format")
    return to_gbnf(form["json_schema"]["schema"], "response_format.json_schema.schema")


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
