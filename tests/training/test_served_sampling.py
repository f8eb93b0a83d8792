"""Sampling a server: a real daemon over TCP, and endpoints on a real socket that do as they like."""

from __future__ import annotations

import json
import math
from typing import Any

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
        assert all(0 < g.n_tokens <= 8 for g in sample.generations)
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


@pytest.mark.parametrize(
    "change",
    [
        {"choices": [{"message": None}]},
        {"choices": [{"message": {"content": "a"}, "logprobs": {"content": [{"token": "a"}]}}]},
        {"choices": [{"message": {"content": "a"}, "logprobs": {"content": [{"logprob": None}]}}]},
        {"choices": [{"message": {"content": "a"}, "logprobs": ["a"]}]},
        {"choices": [{"message": {"content": "a"}}], "usage": [1, 2]},
        {"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": "many"}},
        {"choices": "abc"},
        {"choices": {"0": 1}},
    ],
)
def test_an_answer_that_is_no_completion_is_one_sentence(change: dict[str, Any]) -> None:
    with misbehaving_cloud(status(200, change)) as cloud, pytest.raises(CloudRejected, match="expected a chat"):
        sampled(ServedSampler(cloud, "m", many=False))


def test_text_that_is_no_unicode_and_logprobs_that_are_no_numbers_become_something_that_can_be_kept() -> None:
    token = {"content": [{"token": "a", "logprob": -math.inf}]}
    answer = {"choices": [{"message": {"content": "half \ud800 of a pair"}, "logprobs": token}]}
    with misbehaving_cloud(status(200, answer)) as cloud:
        (sample,) = sampled(ServedSampler(cloud, "m", many=False))
    assert {g.text for g in sample.generations} == {"half ? of a pair"}
    assert all(math.isnan(g.log_likelihood) for g in sample.generations)


def test_a_prompt_the_server_refuses_is_left_out_when_others_are_answered(caplog: pytest.LogCaptureFixture) -> None:
    def too_long(request: Request, wire: Wire) -> None:
        long = "sea 1" in request.json["messages"][0]["content"]
        (status(400, {"error": {"message": "context_length_exceeded"}}) if long else completions)(request, wire)

    with misbehaving_cloud(too_long) as cloud:
        found = sampled(ServedSampler(cloud, "m", many=True, concurrency=1), 3)
    assert [sample.query_id for sample in found] == ["q0", "q2"]
    assert "query q1 is left out" in caplog.text and "context_length_exceeded" in caplog.text


def test_a_server_that_does_not_say_what_it_used_is_taken_for_the_most_it_may_have_used() -> None:
    price = Price(input=1e6, output=1e6)
    answer = {"choices": [{"message": {"content": "a"}}]}
    most = price.of(*worst_case(prompts()[0], SETTINGS))
    with misbehaving_cloud(status(200, answer)) as cloud:
        sampler = ServedSampler(cloud, "m", many=False, concurrency=4, price=price, max_cost=2.5 * most)
        assert len(sampled(sampler, 8)) == 2 and sampler.cost <= 2.5 * most


def test_long_queries_under_way_count_before_a_short_one_is_begun() -> None:
    price = Price(input=1e6)
    long, short = Prompt("long", (Message("user", "sea " * 500),), max_tokens=8), prompts()[0]
    most = price.of(*worst_case(long, SETTINGS, many=True))
    with misbehaving_cloud(completions) as cloud:
        sampler = ServedSampler(cloud, "m", many=True, concurrency=4, price=price, max_cost=most + 1)
        found = sampler.sample([long, short], SETTINGS)
        next(found)
        assert len(cloud.requests) == 2, "the short one waits until it is known what the long one cost"
        sampler.close()


def test_a_query_that_may_cost_too_much_is_not_begun() -> None:
    price = Price(input=1e6, output=1e6)
    most = price.of(*worst_case(prompts()[0], SETTINGS, many=True))
    with misbehaving_cloud(completions) as cloud:
        sampler = ServedSampler(cloud, "m", many=True, concurrency=4, price=price, max_cost=most + 31)
        found = sampled(sampler, 8)
    assert 0 < len(found) < 8
    assert sampler.cost == pytest.approx(30 * len(found)) and sampler.cost <= most + 31
