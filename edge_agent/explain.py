"""Explains one decision of the log to a person: who answered, why, how sure, how long, what next. Reads nothing."""

from __future__ import annotations

import itertools
import json
import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from edge_agent.display import first_words, printable
from edge_agent.policy import REASONS, escalates

ERRORS = {
    "busy": "too many questions were waiting for the local model",
    "context_exceeded": "the question was too long for the model that had to answer it",
    "cloud_unavailable": "the cloud did not answer",
    "cloud_rejected": "the cloud refused the request",
    "cloud_interrupted": "the cloud broke off in the middle of its answer",
    "cloud_error": "the cloud's answer could not be used",
    "local_model_unavailable": "the local model could not answer",
    "model_error": "the local model could not answer",
    "router_error": "the router could not score the question",
    "invalid_request": "the request could not be honoured",
    "internal_error": "edge-agent itself failed; the daemon's log lines have the details",
}
"""The error codes a row can hold, each in words."""
SCORED = ("below_threshold", "above_threshold")
"""The reasons in which the score decided."""
MODELS = {"local": "The local model", "cloud": "The cloud model"}
LABEL_WIDTH, TEXT_WIDTH = 12, 100

Row = Mapping[str, Any]


def explain(row: Row) -> str:
    """A row of `LogReader.row` in words: labelled paragraphs, and at the end what to type next."""
    sentences = {
        "Question": _question(row),
        "Answer": _answer(row),
        "Why": _why(row),
        "Degraded": _degraded(row),
        "Score": _score(row),
        "Certainty": _certainty(row),
        "Time": _times(row),
        "Size": _sizes(row),
        "Not stored": _not_stored(row),
        "Feedback": "; ".join(_feedback(row)),
    }
    lines = [f"Exchange {row['id']}, {_local_time(row['created_utc'])}", ""]
    for label, text in sentences.items():
        lines += _labelled(label, textwrap.wrap(text, TEXT_WIDTH))
    return printable("\n".join([*lines, *_labelled("Next", _next(row))]))


def _labelled(label: str, lines: Iterable[str]) -> Iterator[str]:
    for name, line in zip(itertools.chain([label], itertools.repeat("")), lines, strict=False):
        yield f"{name:<{LABEL_WIDTH}}{line}"


def _question(row: Row) -> str:
    return "private" if row["private"] else first_words(row)


def _answer(row: Row) -> str:
    if row["route"] is None:
        return f"Nobody answered: {_error(row)}."
    who = MODELS[row["route"]]
    if row["model"] is None:
        return f"{who} was to answer and did not: {_error(row)}."
    named = f"{who}, {row['model']},"
    if row["finish_reason"] == "error" or row["error"]:
        return (
            f"{named} began to answer and broke off: {_error(row)}. The client saw {row['answer_bytes']:,} bytes of it."
        )
    if row["finish_reason"] == "cancelled":
        return f"{named} was answering when the client left."
    ends = {"length": "; the answer was cut at the token limit", "tool_calls": f" with {_calls(row)}"}
    return f"{named} answered{ends.get(row['finish_reason'], '')}."


def _error(row: Row) -> str:
    code = row["error"] or "internal_error"
    return f"{ERRORS[code]} ({code})" if code in ERRORS else str(code)


def _calls(row: Row) -> str:
    names = [call["function"]["name"] for call in json.loads(row["tool_calls"] or "[]")]
    return f"calls of {', '.join(names)}" if names else "tool calls"


def _why(row: Row) -> str:
    words = _sentence(REASONS.get(row["reason"], str(row["reason"])))
    if row["wish"] == "cloud" and row["route"] == "local":
        words += " The client had asked for the cloud model."
    return words


def _degraded(row: Row) -> str:
    if not row["degraded"]:
        return ""
    why = REASONS.get(row["degraded"], row["degraded"])
    return f"Yes: the cloud model should have answered, and the local one stood in, because {why}."


def _score(row: Row) -> str:
    """What the router expected, and whether that decided."""
    score, threshold = row["score"], row["threshold"]
    router = f" (router {row['router_version']})" if row["router_version"] else ""
    if score is None or threshold is None:
        return "" if row["private"] else f"None: the router did not score this question{router}."
    shown, limit = _two(score, threshold)
    words = f"{shown} of 1: the cloud model was expected to help {_how_much(score, threshold)}; "
    if row["reason"] in SCORED:
        asked = "it is asked" if escalates(score, threshold) else "it would have been asked"
        return f"{words}{asked} at {limit} or more{router}."
    return f"{words}it is asked at {limit} or more, but the score did not decide here{router}."


def _how_much(score: float, threshold: float) -> str:
    if escalates(score, threshold):
        return "enough"
    return "little" if score < threshold / 2 else "somewhat, not enough"


def _two(score: float, threshold: float) -> tuple[str, str]:
    """Both with two digits, with more where two would make them equal."""
    digits = next((n for n in range(2, 7) if f"{score:.{n}f}" != f"{threshold:.{n}f}"), 2)
    return f"{score:.{digits}f}", f"{threshold:.{digits}f}"


def _certainty(row: Row) -> str:
    """Entropy as the number of equally likely tokens it amounts to, log-probability as a share."""
    mean, most, logprob = row["mean_entropy"], row["max_entropy"], row["mean_logprob"]
    if mean is None or most is None or logprob is None:
        return ""
    return (
        f"At each step it chose as if between {_count(math.exp(mean))} equally likely tokens (1 is certain),"
        f" {_count(math.exp(most))} at worst; those it chose had a probability of {math.exp(logprob):.0%} on average"
        f" (entropy {mean:.2f} and {most:.2f} nats, log-probability {logprob:.2f})."
    )


def _count(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}"


def _times(row: Row) -> str:
    named = {"router_ms": "scored in", "first_token_ms": "first token after", "duration_ms": "all in all"}
    times = [f"{words} {_duration(row[name])}" for name, words in named.items() if row[name] is not None]
    wait_ms, all_ms, tokens = row["first_token_ms"], row["duration_ms"], row["output_tokens"] or 0
    if wait_ms is not None and all_ms is not None and all_ms > wait_ms and tokens > 1:
        times.append(f"{(tokens - 1) / (all_ms - wait_ms) * 1000:.1f} tokens/s after the first")
    return ", ".join(times)


def _duration(milliseconds: float) -> str:
    if milliseconds < 10:
        return f"{milliseconds:.1f} ms"
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f} s"


def _sizes(row: Row) -> str:
    tokens = [
        f"{row[f'{way}put_tokens']:,} tokens {way}" for way in ("in", "out") if row[f"{way}put_tokens"] is not None
    ]
    sizes = f"{row['prompt_bytes']:,} bytes asked, {row['answer_bytes']:,} answered"
    return f"{', '.join(tokens)}; {sizes}" if tokens else sizes


def _not_stored(row: Row) -> str:
    if row["private"]:
        return (
            "The exchange was private and never left the device. The row has no question, no answer, no options, no"
            " conversation, no score and no uncertainty; nothing made from its text is kept, no hash and no embedding."
        )
    if not row["messages"]:
        return "Question and answer: the log was told to keep no text (log.content: false)."
    return ""


def _feedback(row: Row) -> Iterator[str]:
    for item in row.get("feedback") or []:
        comment = f": {' '.join(item['comment'].split())}" if item.get("comment") else ""
        yield f"{item['rating']}, {_local_time(item['created_utc'])}{comment}"


def _next(row: Row) -> Iterator[str]:
    """What to type, for what this row is about."""
    reason, trouble, error = row["reason"], row["degraded"], row["error"]
    if error == "busy":
        yield "ask again; more may wait with a larger local.max_waiting"
    elif error == "context_exceeded" or reason == "context_exceeded":
        yield "/clear starts a new conversation in `edge-agent chat`; local.n_ctx sets the context"
    elif error or trouble or reason in ("router_error", "local_unavailable"):
        yield "edge-agent doctor    says what keeps the cloud, the router or the local model from answering"
    if not error and not row.get("feedback"):
        learns = ": the next router learns from it" if row["messages"] else ""
        yield f"edge-agent feedback {row['id']} good    (or bad){learns}"
    if row["score"] is not None and reason in SCORED:
        direction = "higher sends less" if row["route"] == "cloud" else "lower sends more"
        yield f"router.threshold in the settings moves the line: {direction} to the cloud"
    yield f"edge-agent logs show {row['id']} --json    has every column, the whole question and the answer"


def _local_time(utc: str) -> str:
    return datetime.fromisoformat(utc.replace("Z", "+00:00")).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."
