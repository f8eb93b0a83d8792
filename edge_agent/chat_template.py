"""Messages to prompt tokens by the model's own chat template. Knows Jinja and a tokenizer; nothing of sampling.

Text of a message never becomes a control token: the template is rendered with placeholders, template text is
tokenized with control tokens recognised, message text without.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox

from edge_agent.errors import RequestError
from edge_agent.types import Message

Tokenize = Callable[[str, bool], list[int]]
"""(text, whether control tokens are recognised) -> token ids."""

_PLACEHOLDER = re.compile("\ue000([0-9]+)\ue001")
_SUSPECT = re.compile(r"[<\[\ue000]")
"""What a control token may begin with; other strings of tools and tool calls stay in the template's text."""


class ChatTemplate:
    """:param source: the Jinja text from the GGUF's `tokenizer.chat_template`."""

    def __init__(self, source: str, tokenize: Tokenize, *, bos: str = "", eos: str = "", add_bos: bool = False):
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals.update(raise_exception=_raise, strftime_now=time.strftime)
        self._template = environment.from_string(source)
        self._tokenize, self._bos, self._eos, self._add_bos = tokenize, bos, eos, add_bos
        self.knows_tools = "tools" in source

    def tokens(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = (), prefix: str = "") -> list[int]:
        """The prompt, up to and including the start of the assistant's turn and `prefix`.

        :raises RequestError: when the template refuses the messages.
        """
        texts: list[str] = []
        try:
            rendered = self._render([_for_template(m, texts) for m in messages], _protect(list(tools), texts))
        except RecursionError as error:
            raise RequestError("messages: a tool or a tool call is nested too deeply; nest it less") from error
        if self._bos and rendered.startswith(self._bos):
            rendered = rendered[len(self._bos) :]
        ids = self._tokenize(self._bos, True) if self._bos and self._add_bos else []
        for i, piece in enumerate(_PLACEHOLDER.split(rendered + prefix)):
            text, special = (texts[int(piece)], False) if i % 2 else (piece, True)
            ids += self._tokenize(text, special) if text else []
        return ids

    def _render(self, messages: list[dict[str, Any]], tools: Any) -> str:
        try:
            return self._template.render(
                messages=messages,
                tools=tools or None,
                add_generation_prompt=True,
                bos_token=self._bos,
                eos_token=self._eos,
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise RequestError(
                f"messages: the local model's chat template refuses them: {error}; change their order or roles",
                param="messages",
            ) from error


def _for_template(message: Message, texts: list[str]) -> dict[str, Any]:
    rendered = message.to_openai()
    for key in rendered.keys() & {"name", "tool_call_id"}:
        rendered[key] = _protect(rendered[key], texts)
    rendered["content"] = _placeholder(message.content, texts) if message.content else ""
    if message.tool_calls:
        rendered["tool_calls"] = [_protect(_parsed(call), texts) for call in message.tool_calls]
    return rendered


def _parsed(call: dict[str, Any]) -> dict[str, Any]:
    """A tool call with its arguments as an object, as templates expect, where they are one."""
    function = dict(call["function"])
    with suppress(ValueError):
        function["arguments"] = json.loads(function["arguments"])
    return {**call, "function": function}


def _protect(value: Any, texts: list[str]) -> Any:
    """`value` with every suspicious string inside replaced by a placeholder for its JSON text."""
    if isinstance(value, str):
        return _placeholder(json.dumps(value, ensure_ascii=False)[1:-1], texts) if _SUSPECT.search(value) else value
    if isinstance(value, dict):
        return {_protect(key, texts): _protect(item, texts) for key, item in value.items()}
    return [_protect(item, texts) for item in value] if isinstance(value, list) else value


def _placeholder(text: str, texts: list[str]) -> str:
    texts.append(text)
    return f"\ue000{len(texts) - 1}\ue001"


def _to_json(value: Any, ensure_ascii: bool = False, **layout: Any) -> str:
    """What transformers' filter takes (indent, separators, sort_keys), but escaped placeholders would be lost."""
    return json.dumps(value, ensure_ascii=False, **layout)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)
