"""Sampling a server: a real daemon over TCP, and endpoints on a real socket that do as they like."""

from __future__ import annotations

import json
import math

import pytest

from edge_agent.errors import CloudRejected, CloudUnavailable
from edge_agent.training.sampling import Prompt, Sample, SamplingSettings
from edge_agent.training.served_sampling import Price, ServedSampler, worst_case
from edge_agent.types import Message
from tests.daemon_process import TOKEN, DaemonProcess
from tests.misbehaving_cloud import Behaviour, Request, Wire, cut_before_text, in_turn, misbehaving_cloud, status

SETTINGS = SamplingSettings(n=4, temperature=0.7, seed=3)


def prompts(n: int = 3) -> list[Prompt]:
    return [Prompt(f"q{i}", (Message("user", f"the sea {i}"),), max_tokens=8) for i in range(n)]


def sampled(sampler: ServedSampler, n: int = 1) -> list[Sample]:
    try:
        return list(sampler.sample(prompts(n), SETTINGS))
    finally:
        sampler.close()


def completions(request: Request, wire: Wire) -> None:
    """A server with `n`, log-probabilities and usage; answers differ with the request."""
    asked = request.json
    texts = [f"{asked['temperature']}-{i}" for i in range(asked.get("n", 1))]
    token = {"content": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1.5}]}
    choices = [{"message": {"content": text}, "logprobs": token, "finish_reason": "stop"} for text in texts]
    usage = {"prompt_tokens": 10, "completion_tokens": 2 * len(texts)}
    wire.whole(200, json.dumps({"choices": choices, "usage": usage}).encode())


def one_choice(request: Request, wire: Wire) -> None:
    """A server that ignores `n` and knows no log-probabilities."""
    if "logprobs" in request.json:
        return status(400, {"error": {"message": "logprobs: not supported"}})(request, wire)
    wire.whole(200, json.dumps({"choices": [{"message": {"content": ""}, "finish_reason": "length"}]}).encode())


def test_a_daemon_is_sampled_one_request_an_answer(cloud_daemon: DaemonProcess) -> None:
    sampler = ServedSampler(f"http://127.0.0.1:{cloud_daemon.port}/v1", "local", api_key=TOKEN, concurrency=2)
    found = {sample.query_id: sample for sample in sampled(sampler, 2)}
    assert set(found) == {"q0", "q1"}
    for sample in found.values():
        assert [g.index for g in sample.generations] == [0, 1, 2, 3, 4]
        assert len({g.text for g in sample.generations}) > 1
        assert math.isnan(sample.generations[0].log_likelihood), "the daemon tells no log-probabilities"
    assert sampler.output_tokens > 0


def test_all_drawn_answers_come_from_one_request_where_the_server_can() -> None:
    with misbehaving_cloud(completions) as cloud:
        (sample,) = sampled(ServedSampler(cloud, "m", many=True))
        asked = [request.json for request in cloud.requests]
    assert sorted(body.get("n", 1) for body in asked) == [1, 4]
    assert [g.text for g in sample.generations] == ["0.0-0", "0.7-0", "0.7-1", "0.7-2", "0.7-3"]
    assert sample.generations[1].log_likelihood == -1.0 and sample.logprobs.tolist() == [-0.5, -1.5]


@pytest.mark.parametrize(("server", "many"), [(completions, True), (one_choice, False)])
def test_whether_a_server_can_is_found_out(server: Behaviour, many: bool) -> None:
    with misbehaving_cloud(server) as cloud:
        (sample,) = sampled(ServedSampler(cloud, "m"))
        answers = [request.json.get("n", 1) for request in cloud.requests if "logprobs" not in request.json or many]
    assert (4 in answers) is many and len(sample.generations) == 5


def test_empty_answers_are_answers_and_a_cap_is_told() -> None:
    with misbehaving_cloud(one_choice) as cloud:
        (sample,) = sampled(ServedSampler(cloud, "m", many=False))
    assert {(g.text, g.finish_reason) for g in sample.generations} == {("", "length")}


def test_failures_that_pass_are_waited_out() -> None:
    waits: list[float] = []
    failing = in_turn(status(503), cut_before_text, status(429), *[completions] * 9)
    with misbehaving_cloud(failing) as cloud:
        (sample,) = sampled(ServedSampler(cloud, "m", many=True, concurrency=1, sleep=waits.append))
    assert len(sample.generations) == 5 and len(waits) == 3


@pytest.mark.parametrize(
    ("server", "error", "message"),
    [
        (
            status(401, {"error": {"message": "bad key"}}),
            CloudRejected,
            "refuses m: HTTP 401.*bad key.*check model, key",
        ),
        (status(200, {"hello": 1}), CloudRejected, "expected a chat completion with choices, found"),
        (status(200, {"choices": [{"text": "old"}]}), CloudRejected, "expected a chat completion"),
        (status(500), CloudUnavailable, "no answer after 6 attempts .HTTP 500.*run it again later"),
    ],
)
def test_what_does_not_pass_ends_it_with_a_sentence(server: Behaviour, error: type[Exception], message: str) -> None:
    with misbehaving_cloud(server) as cloud, pytest.raises(error, match=message):
        sampled(ServedSampler(cloud, "m", sleep=lambda _: None))


def test_a_query_that_may_cost_too_much_is_not_begun() -> None:
    price = Price(input=1e6, output=1e6)
    most = price.of(*worst_case(prompts()[0], SETTINGS, many=True))
    with misbehaving_cloud(completions) as cloud:
        sampler = ServedSampler(cloud, "m", many=True, concurrency=4, price=price, max_cost=most + 31)
        found = sampled(sampler, 8)
    assert 0 < len(found) < 8
    assert sampler.cost == pytest.approx(30 * len(found)) and sampler.cost <= most + 31
