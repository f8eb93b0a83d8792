"""The queries to label: graded questions, and what people asked devices. Asks no model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge_agent.training.grading import GRADERS
from edge_agent.training.prompt_formats import messages, prompt_format
from edge_agent.training.questions import Question
from edge_agent.training.sampling import Prompt
from edge_agent.types import Message

LOG_FORMAT = "log@1"
LOG_SYSTEM = "Answer in one short sentence."
LOG_MAX_TOKENS = 96
"""What was asked of a device is asked again as it was, with this system message when it had none: answers of a
paragraph each rarely mean the same, and cost ten times as much."""


@dataclass(frozen=True, slots=True)
class LabelQuery:
    """One query that both models answer several times."""

    id: str
    prompt: Prompt
    format: str
    """task@version of prompt_formats, or log@1."""
    question: Question | None = None
    """With the answers to grade by; None for what came from a log."""
    exchange_ids: tuple[str, ...] = ()
    """The exchanges that asked this, from a log."""

    @property
    def text(self) -> str:
        """What the router scores: the last user message."""
        return next((m.content for m in reversed(self.prompt.messages) if m.role == "user"), "")

    def to_row(self) -> dict[str, Any]:
        """Flat, for Parquet: the messages and the question are JSON text."""
        return {
            "query_id": self.id,
            "messages": json.dumps([message.to_openai() for message in self.prompt.messages]),
            "max_tokens": self.prompt.max_tokens,
            "stop": self.prompt.stop,
            "prompt_format": self.format,
            "question": json.dumps(self.question.to_row()) if self.question else None,
            "exchange_ids": list(self.exchange_ids),
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> LabelQuery:
        """The query of a row that `to_row` wrote."""
        turns = tuple(message_of(turn) for turn in json.loads(row["messages"]))
        question = Question.from_row(json.loads(row["question"])) if row["question"] else None
        prompt = Prompt(row["query_id"], turns, row["max_tokens"], row["stop"])
        return cls(row["query_id"], prompt, row["prompt_format"], question, tuple(row["exchange_ids"] or ()))


def message_of(turn: Mapping[str, Any]) -> Message:
    """The message behind its OpenAI format."""
    return Message(
        turn["role"], turn["content"], tuple(turn.get("tool_calls") or ()), turn.get("tool_call_id"), turn.get("name")
    )


def of_questions(questions: Iterable[Question]) -> list[LabelQuery]:
    """Each question in the format of its task; questions of one format follow each other and share its evaluation."""
    queries = []
    for question in questions:
        chosen = prompt_format(question)
        prompt = Prompt(question.id, messages(question), chosen.max_tokens)
        queries.append(LabelQuery(question.id, prompt, chosen.name, question))
    return sorted(queries, key=lambda query: (query.format, len(query.text)))


def of_exchanges(exchanges: Iterable[tuple[str, Sequence[Message]]]) -> list[LabelQuery]:
    """(exchange id, conversation up to the question) -> queries; the same conversation is one query."""
    found: dict[str, LabelQuery] = {}
    for exchange_id, conversation in exchanges:
        turns = tuple(conversation)
        if not turns or turns[0].role != "system":
            turns = (Message("system", LOG_SYSTEM), *turns)
        digest = hashlib.sha256(json.dumps([turn.to_openai() for turn in turns]).encode()).hexdigest()
        query_id = f"log-{digest[:16]}"
        known = found.get(query_id)
        if known is None:
            prompt = Prompt(query_id, turns, LOG_MAX_TOKENS)
            found[query_id] = LabelQuery(query_id, prompt, LOG_FORMAT, exchange_ids=(exchange_id,))
        else:
            found[query_id] = replace(known, exchange_ids=(*known.exchange_ids, exchange_id))
    return sorted(found.values(), key=lambda query: len(query.text))


def read_questions(path: Path) -> list[Question]:
    """The questions of a JSON-lines file that `Question.to_row` wrote.

    :raises ValueError: for a line that is no question, or asks what an earlier one asks; names file and line.
    """
    lines_of: dict[str, int] = {}
    questions = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                question = _question(json.loads(line))
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"{path}, line {number}: expected a question as JSON (dataset, row, task, template, text, answers,"
                    f" grader, difficulty), found {error!r}; `tools/relabel.py --help` names the ways to give questions"
                ) from error
            first = lines_of.setdefault(question.id, number)
            if first != number:
                raise ValueError(f"{path}, line {number}: asks the same as line {first}; remove one of them")
            questions.append(question)
    return questions


def _question(row: Mapping[str, Any]) -> Question:
    """One that can be asked and graded: better now than after hours of sampling."""
    for name in ("answers", "options"):
        found = row.get(name, [])
        if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
            raise ValueError(f"{name}: expected a list of texts, found {found!r}")
    if row["grader"] not in GRADERS:
        raise ValueError(f"grader: expected one of {', '.join(GRADERS)}, found {row['grader']!r}")
    return Question.from_row(row)
