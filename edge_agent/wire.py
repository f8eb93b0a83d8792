"""What clients get: our types to OpenAI's chat format. Pure: makes values, never sees a socket."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from edge_agent.errors import CloudError, EdgeAgentError
from edge_agent.types import Completion, Decision, Exchange, Query


def render_completion(exchange: Exchange) -> dict[str, Any]:
    """The answer as one `chat.completion` object."""
    completion = _completion(exchange)
    message: dict[str, Any] = {"role": "assistant", "content": completion.text, "refusal": None}
    if completion.tool_calls:
        message |= {"content": completion.text or None, "tool_calls": list(completion.tool_calls)}
    return {
        "id": f"chatcmpl-{exchange.query.id}",
        "object": "chat.completion",
        "created": created(exchange.query),
        "model": completion.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(completion)}],
        "usage": usage(completion),
        "edge_agent": edge_agent_object(exchange),
    }


def render_chunk(query: Query, model: str, delta: dict[str, Any]) -> dict[str, Any]:
    """One `chat.completion.chunk` object."""
    return {
        "id": f"chatcmpl-{query.id}",
        "object": "chat.completion.chunk",
        "created": created(query),
        "model": model,
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}],
    }


def render_ending(exchange: Exchange, include_usage: bool) -> list[dict[str, Any]]:
    """The last chunks of a stream: tool calls if any, the finish reason with `edge_agent`, usage if asked for."""
    completion = _completion(exchange)
    chunks = []
    if completion.tool_calls:
        calls = [{"index": i, **call} for i, call in enumerate(completion.tool_calls)]
        chunks.append(render_chunk(exchange.query, completion.model, {"tool_calls": calls}))
    final = render_chunk(exchange.query, completion.model, {})
    final["choices"][0]["finish_reason"] = _finish(completion)
    chunks.append(final | {"edge_agent": edge_agent_object(exchange)})
    if include_usage:
        chunks.append(render_chunk(exchange.query, completion.model, {}) | {"choices": [], "usage": usage(completion)})
    return chunks


def render_error(error: EdgeAgentError, exchange: Exchange | None = None) -> dict[str, Any]:
    """OpenAI's error object."""
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    kind = {401: "authentication_error", 403: "authentication_error", 429: "rate_limit_error"}.get(error.status, kind)
    detail = f"; it says: {error.detail}" if isinstance(error, CloudError) and error.detail else ""
    body: dict[str, Any] = {
        "error": {"message": error.message + detail, "type": kind, "param": error.param, "code": error.code}
    }
    return body | ({"edge_agent": edge_agent_object(exchange)} if exchange else {})


def render_models(names: Mapping[str, str]) -> dict[str, Any]:
    """The list of `model` values: {value: who answers}."""
    models = [{"id": name, "object": "model", "created": 0, "owned_by": owner} for name, owner in names.items()]
    return {"object": "list", "data": models}


def edge_agent_object(exchange: Exchange) -> dict[str, Any]:
    """What was decided and what it took; None where there is nothing to say."""
    decision, completion = exchange.decision, exchange.completion
    uncertainty = completion.uncertainty if completion else None
    return {
        "id": exchange.query.id,
        "route": decision.route,
        "score": rounded(decision.score, 4),
        "threshold": decision.threshold,
        "reason": decision.reason,
        "model": completion.model if completion else None,
        "degraded": decision.degraded,
        "router_version": decision.router_version,
        "router_ms": rounded(exchange.router_ms, 2),
        "first_token_ms": rounded(completion.first_token_ms, 1) if completion else None,
        "duration_ms": rounded(exchange.duration_ms, 1),
        "private": exchange.query.private,
        "uncertainty": {k: rounded(v, 4) for k, v in asdict(uncertainty).items()} if uncertainty else None,
    }


def headers(query: Query, decision: Decision, model: str | None = None) -> dict[str, str]:
    """The `x-edge-agent-*` headers, as far as the values are known."""
    values = {
        "id": query.id,
        "route": decision.route,
        "reason": decision.reason,
        "score": rounded(decision.score, 4),
        "threshold": decision.threshold,
        "model": model,
        "degraded": decision.degraded,
    }
    ascii_text = {
        name: str(value).encode("ascii", "replace").decode() for name, value in values.items() if value is not None
    }
    return {f"x-edge-agent-{name}": re.sub(r"[^ -~]", "?", text) for name, text in ascii_text.items()}


def usage(completion: Completion) -> dict[str, int]:
    """OpenAI's usage object; unknown counts are 0."""
    prompt, answer = completion.input_tokens or 0, completion.output_tokens or 0
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def created(query: Query) -> int:
    """The query's time in whole seconds since 1970, from the first 48 bits of its UUIDv7."""
    return int(query.id.replace("-", "")[:12], 16) // 1000


def rounded(value: float | None, digits: int) -> float | None:
    """`value` with `digits` decimals; None stays None."""
    return None if value is None else round(value, digits)


def _finish(completion: Completion) -> str:
    return "stop" if completion.finish_reason == "cancelled" else completion.finish_reason


def _completion(exchange: Exchange) -> Completion:
    if exchange.completion is None:
        raise ValueError(f"exchange {exchange.query.id} has no completion to render")
    return exchange.completion
