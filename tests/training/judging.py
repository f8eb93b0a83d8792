"""A judge behind a real socket that answers on purpose."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from edge_agent.training.judge import Judge, KeptReplies
from edge_agent.training.judge_prompts import (
    Turns,
)
from edge_agent.training.judge_protocols import (
    Answered,
)
from edge_agent.training.served_sampling import ServedSampler
from tests.misbehaving_cloud import Behaviour, Cloud, Request, Wire

TASK = Turns(("How much is 2 + 2?", "And 3 + 3?"))


def saying(reply: Callable[[str], str] | str, finish: str = "stop") -> Behaviour:
    """A server whose judge says `reply`, or what it makes of the material."""

    def behave(request: Request, wire: Wire) -> None:
        material = request.json["messages"][-1]["content"]
        text = reply if isinstance(reply, str) else reply(material)
        choice = {"message": {"content": text}, "finish_reason": finish}
        usage = {"prompt_tokens": 100, "completion_tokens": 10}
        wire.whole(200, json.dumps({"choices": [choice], "usage": usage}).encode())

    return behave


def judge_at(cloud: Cloud, kept: KeptReplies | None = None, **options: Any) -> Judge:
    def sampler() -> ServedSampler:
        return ServedSampler(cloud, "judge", many=False, sleep=lambda _: None, **options)

    return Judge("judge", cloud, sampler, KeptReplies() if kept is None else kept)


def answered(model: str, *answers: str, question_id: int = 1) -> Answered:
    return Answered(question_id, model, TASK, answers)


def many(n: int) -> list[Answered]:
    return [answered("m", f"answer {i}", question_id=i) for i in range(n)]
