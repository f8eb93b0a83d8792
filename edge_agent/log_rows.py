"""An exchange as a row of the log: what is kept of it, and what is not. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from edge_agent.types import Exchange, Message

Row = dict[str, Any]


def to_row(exchange: Exchange, *, content: bool = True) -> Row:
    """An exchange as a row. A private one keeps id, times, route, reason and sizes: nothing made from its text."""
    query, decision, completion = exchange.query, exchange.decision, exchange.completion
    keep = content and not query.private
    uncertainty = completion.uncertainty if completion and not query.private else None
    answer = completion.text if completion else ""
    options = query.options.to_openai()
    shadow = None if query.private else exchange.shadow
    return {
        "id": query.id,
        "created_utc": query.created_utc,
        "conversation_id": None if query.private else query.conversation_id,
        "parent_id": None,
        "wish": query.wish,
        "private": int(query.private),
        "route": decision.route,
        "reason": decision.reason,
        "score": None if query.private else decision.score,
        "threshold": None if query.private else decision.threshold,
        "router_version": decision.router_version,
        "degraded": decision.degraded,
        "messages": messages_json(query.messages) if keep else None,
        "options": json.dumps(options, ensure_ascii=False) if keep and options else None,
        "answer": answer if keep and completion else None,
        "tool_calls": json.dumps(completion.tool_calls, ensure_ascii=False)
        if keep and completion and completion.tool_calls
        else None,
        "model": completion.model if completion else None,
        "finish_reason": completion.finish_reason if completion else None,
        "error": exchange.error,
        "input_tokens": completion.input_tokens if completion else None,
        "output_tokens": completion.output_tokens if completion else None,
        "prompt_bytes": sum(len(m.content.encode("utf-8", "replace")) for m in query.messages),
        "answer_bytes": len(answer.encode("utf-8", "replace")),
        "router_ms": exchange.router_ms,
        "first_token_ms": completion.first_token_ms if completion else None,
        "duration_ms": exchange.duration_ms,
        "mean_entropy": uncertainty.mean_entropy if uncertainty else None,
        "max_entropy": uncertainty.max_entropy if uncertainty else None,
        "mean_logprob": uncertainty.mean_logprob if uncertainty else None,
        "acceptable": None if query.private else decision.acceptable,
        "shadow_router_version": shadow.router_version if shadow else None,
        "shadow_score": shadow.score if shadow else None,
        "shadow_threshold": shadow.threshold if shadow else None,
    }


def messages_json(messages: Sequence[Message]) -> str:
    """Messages as the log holds them."""
    return json.dumps([m.to_openai() for m in messages], ensure_ascii=False)


def conversation_keys(messages: Sequence[Message]) -> list[bytes]:
    """A key for the messages up to and including each one, equal for equal messages; kept in memory only."""
    digest, keys = hashlib.sha256(), []
    for message in messages:
        digest.update(json.dumps(asdict(message), sort_keys=True).encode())
        keys.append(digest.digest())
    return keys
