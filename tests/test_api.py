"""docs/api.md through the Unix socket of a real daemon: what is answered, and what the log holds then."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.errors import LogError
from tests.asking import TOOLS, ask, events, eventual_row, get, joined, n_rows, post, streamed, text_of
from tests.conftest import StartDaemon, cloud_settings
from tests.daemon_process import TOKEN, DaemonProcess, running_daemon
from tests.misbehaving_cloud import Behaviour, answering, cut_after_text, misbehaving_cloud, status

CONTENT_COLUMNS = ("messages", "answer", "options", "tool_calls", "conversation_id", "parent_id", "score")
UNCERTAINTY_COLUMNS = ("mean_entropy", "max_entropy", "mean_logprob")


@pytest.fixture(scope="module")
def patient(
    tmp_path_factory: pytest.TempPathFactory, tiny_gguf: Path, tiny_router: Path, cloud_daemon: DaemonProcess
) -> Iterator[DaemonProcess]:
    """A daemon with room for answers of two thousand tokens: most of a second."""
    settings = {"local": {"n_ctx": 2048, "max_tokens": 2000}, "cloud": cloud_settings(cloud_daemon)}
    directory, environ = tmp_path_factory.mktemp("patient"), {"EDGE_AGENT_CLOUD_API_KEY": TOKEN}
    with running_daemon(directory, tiny_gguf, tiny_router, settings, environ) as running:
        yield running


# An answer, whole and streamed


@pytest.mark.parametrize(("question", "model"), [("hello", "tiny-local"), ("a hard one", "tiny-cloud")])
def test_an_answer_is_a_chat_completion(daemon: DaemonProcess, question: str, model: str) -> None:
    answer = ask(daemon, question, max_tokens=5)
    choice, usage = answer.choices[0], answer.usage
    assert answer.object == "chat.completion" and answer.model == model
    assert answer.id == f"chatcmpl-{answer.model_extra['edge_agent']['id']}" and abs(answer.created - time.time()) < 60
    assert len(answer.choices) == 1 and choice.index == 0 and choice.logprobs is None
    assert choice.message.role == "assistant" and choice.message.content and choice.finish_reason == "length"
    assert usage.completion_tokens == 5 and usage.total_tokens == usage.prompt_tokens + 5


@pytest.mark.parametrize("question", ["hello", "a hard one"])
def test_a_stream_names_the_role_first_and_the_finish_reason_once(daemon: DaemonProcess, question: str) -> None:
    chunks = streamed(daemon, question)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(chunk.choices[0].delta.role is None for chunk in chunks[1:])
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert len({chunk.id for chunk in chunks}) == len({chunk.created for chunk in chunks}) == 1
    assert [bool((chunk.model_extra or {}).get("edge_agent")) for chunk in chunks[:-1]] == [False] * (len(chunks) - 1)
    assert chunks[-1].model_extra["edge_agent"]["route"] in ("local", "cloud")


def test_a_stream_says_what_the_whole_answer_says(daemon: DaemonProcess) -> None:
    whole, chunks = ask(daemon), streamed(daemon, stream_options={"include_usage": True})
    assert joined(chunks) == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"include_usage": None}])
def test_usage_is_streamed_only_when_asked_for(daemon: DaemonProcess, options: dict[str, Any] | None) -> None:
    assert not any(chunk.usage for chunk in streamed(daemon, stream_options=options))
    last = streamed(daemon, stream_options={"include_usage": True})[-1]
    assert last.choices == [] and last.usage.completion_tokens == 8


def test_the_first_chunk_leaves_before_the_last_token_exists(patient: DaemonProcess) -> None:
    body = {"model": "local", "stream": True, "messages": [{"role": "user", "content": "tell me all"}]}
    with patient.http() as client, client.stream("POST", "/v1/chat/completions", json=body) as answer:
        received = events(answer.iter_lines())
        first = [next(received), next(received)][1]
        with pytest.raises(LogError, match="no exchange has"):  # the row is written when the last token is there
            patient.log.row(answer.headers["x-edge-agent-id"])
        *_, done = received
    assert json.loads(first)["choices"][0]["delta"]["content"] and done == "[DONE]"
    assert patient.log.row(answer.headers["x-edge-agent-id"])["output_tokens"] > 1900


def test_a_client_that_leaves_ends_the_answer(patient: DaemonProcess) -> None:
    body = {"model": "local", "stream": True, "messages": [{"role": "user", "content": "tell me more"}]}
    with patient.http() as client, client.stream("POST", "/v1/chat/completions", json=body) as answer:
        next(events(answer.iter_lines()))
    row = eventual_row(patient, answer.headers["x-edge-agent-id"])
    assert row["finish_reason"] == "cancelled" and row["output_tokens"] < 1900


# What is decided, and where it is told


@pytest.mark.parametrize(
    ("model", "question", "route", "reason"),
    [
        ("auto", "hello", "local", "below_threshold"),
        ("auto", "a hard one", "cloud", "above_threshold"),
        ("local", "a hard one", "local", "asked_local"),
        ("cloud", "hello", "cloud", "asked_cloud"),
    ],
)
def test_body_stream_headers_and_row_tell_the_same_decision(
    daemon: DaemonProcess, model: str, question: str, route: str, reason: str
) -> None:
    answer = daemon.chat(question, model=model)
    told = answer.json()["edge_agent"]
    final = streamed(daemon, question, model=model)[-1].model_extra["edge_agent"]
    row = daemon.log.row(told["id"])
    assert (told["route"], told["reason"], told["model"]) == (route, reason, f"tiny-{route}")
    for name in ("route", "reason", "model", "threshold", "degraded", "router_version", "private"):
        assert told[name] == final[name] == row[name], name
    for name in ("id", "route", "reason", "score", "threshold", "model"):
        assert answer.headers[f"x-edge-agent-{name}"] == str(told[name])
    assert (told["score"] > 0.5) == ("hard" in question) and told["score"] == pytest.approx(row["score"], abs=1e-4)
    assert "x-edge-agent-degraded" not in answer.headers


def test_a_local_answer_comes_with_its_times_and_uncertainty(daemon: DaemonProcess) -> None:
    told = ask(daemon).model_extra["edge_agent"]
    row = daemon.log.row(told["id"])
    assert told["router_ms"] > 0 and 0 < told["first_token_ms"] <= told["duration_ms"]
    assert 0 < told["uncertainty"]["mean_entropy"] <= told["uncertainty"]["max_entropy"]
    assert told["uncertainty"]["mean_logprob"] < 0
    assert told["uncertainty"] == pytest.approx({name: row[name] for name in UNCERTAINTY_COLUMNS}, abs=1e-4)
    assert ask(daemon, "a hard one").model_extra["edge_agent"]["uncertainty"] is None  # the cloud's is not measured


def test_a_stream_tells_its_route_before_its_text(daemon: DaemonProcess) -> None:
    answer = daemon.chat("hello", stream=True)
    told = {name: answer.headers.get(f"x-edge-agent-{name}") for name in ("route", "reason", "threshold", "model")}
    assert told == {"route": "local", "reason": "below_threshold", "threshold": "0.5", "model": "tiny-local"}
    assert answer.headers["content-type"].startswith("text/event-stream")


def test_a_fallback_is_marked_as_degraded(start_daemon: StartDaemon) -> None:
    with misbehaving_cloud(status(503)) as cloud:
        settings = {"base_url": str(cloud), "model": "m", "retries": 0, "api_key_env": None}
        answer = start_daemon(cloud=settings).chat("a hard one")
    assert answer.json()["edge_agent"]["degraded"] == answer.headers["x-edge-agent-degraded"] == "cloud_unavailable"
    assert answer.json()["edge_agent"]["route"] == "local"


# The other endpoints


def test_the_models_are_auto_local_and_cloud(daemon: DaemonProcess) -> None:
    listed = get(daemon, "/v1/models")
    assert listed["object"] == "list" and {model["object"] for model in listed["data"]} == {"model"}
    owners = {model["id"]: model["owned_by"] for model in listed["data"]}
    assert owners == {"auto": "edge-agent", "local": "tiny-local", "cloud": "local"}


def test_health_is_ok(daemon: DaemonProcess) -> None:
    assert get(daemon, "/health") == {"status": "ok"}


def test_status_tells_what_runs(daemon: DaemonProcess) -> None:
    told = get(daemon, "/v1/status")
    assert told["pid"] == daemon.process.pid and told["socket"] == str(daemon.socket) and told["uptime_s"] > 0
    assert (told["local"]["model"], told["local"]["n_ctx"]) == ("tiny-local", 1024)
    assert told["cloud"]["configured"] and told["cloud"]["enabled"] and told["cloud"]["breaker"] == "closed"
    assert told["router"]["version"] == "tiny-1" and told["router"]["threshold"] == 0.5
    assert told["log"]["path"] == str(daemon.log_file) and told["log"]["rows"] == n_rows(daemon)
    assert TOKEN not in json.dumps(told)


@pytest.mark.parametrize("fields", [{}, {"model": "cloud"}, {"private": True}, {"tools": TOOLS}])
@pytest.mark.parametrize("question", ["hello", "a hard one"])
def test_route_decides_as_chat_does_and_leaves_no_row(
    daemon: DaemonProcess, cloud_daemon: DaemonProcess, question: str, fields: dict[str, Any]
) -> None:
    body = {"model": "auto", "messages": [{"role": "user", "content": question}]} | fields
    rows = n_rows(daemon), n_rows(cloud_daemon)
    planned = post(daemon, "/v1/route", body).raise_for_status().json()
    assert (n_rows(daemon), n_rows(cloud_daemon)) == rows
    answer = ask(daemon, question, **fields)
    told = answer.model_extra["edge_agent"]
    for name in ("route", "reason", "score", "threshold", "degraded", "router_version", "private"):
        assert planned[name] == told[name], name
    assert planned["n_ctx"] == 1024
    assert told["route"] == "cloud" or planned["prompt_tokens"] == answer.usage.prompt_tokens


def test_feedback_is_kept_beside_the_row(daemon: DaemonProcess) -> None:
    exchange_id = ask(daemon).model_extra["edge_agent"]["id"]
    for rating, comment in (("bad", "wrong"), ("good", None)):
        answer = post(daemon, "/v1/feedback", {"id": exchange_id, "rating": rating, "comment": comment})
        assert (answer.status_code, answer.json()) == (200, {"id": exchange_id, "rating": rating})
    kept = daemon.log.row(exchange_id)["feedback"]
    assert [(item["rating"], item["comment"]) for item in kept] == [("bad", "wrong"), ("good", None)]


def test_feedback_on_an_unknown_answer_is_not_found(daemon: DaemonProcess) -> None:
    answer = post(daemon, "/v1/feedback", {"id": "nothing", "rating": "good"})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found" and answer.json()["error"]["param"] == "id"


# Privacy


PRIVATE = {
    "top level": {"private": True},
    "edge_agent": {"edge_agent": {"private": True, "conversation_id": "diary-7"}},
    "message": {
        "messages": [{"role": "user", "content": "QUESTION", "private": True}, {"role": "user", "content": "?"}]
    },
    "model cloud": {"private": True, "model": "cloud"},
    "tools": {"private": True, "tools": TOOLS, "tool_choice": "required", "max_tokens": 60},
    "streamed": {"private": True, "stream": True, "stop": ["zq"]},
}


@pytest.mark.parametrize("where", PRIVATE)
def test_a_private_question_stays_here_and_leaves_no_text(
    daemon: DaemonProcess, cloud_daemon: DaemonProcess, where: str
) -> None:
    secret = f"a hard secret number {time.time_ns()}"
    asked_before = n_rows(cloud_daemon)
    fields = json.loads(json.dumps(PRIVATE[where]).replace("QUESTION", secret))
    answer = daemon.chat(secret, **fields)
    row = daemon.log.row(answer.headers["x-edge-agent-id"])
    assert answer.status_code == 200 and answer.headers["x-edge-agent-route"] == "local"
    assert n_rows(cloud_daemon) == asked_before
    assert row["private"] and row["reason"] == "private" and row["prompt_bytes"] > 0 and row["output_tokens"] > 0
    assert [row[name] for name in CONTENT_COLUMNS + UNCERTAINTY_COLUMNS] == [None] * 10
    files = [path.read_bytes() for path in daemon.directory.glob("log.db*")]
    assert not any(word in data for data in files for word in (secret.encode(), b"diary-7"))
    assert secret not in daemon.output


def test_one_private_message_keeps_the_whole_conversation_here(daemon: DaemonProcess) -> None:
    early = {"role": "user", "content": "my diary", "private": True}
    turns = [early, {"role": "assistant", "content": "ok"}, {"role": "user", "content": "a hard one"}]
    told = ask(daemon, messages=turns).model_extra["edge_agent"]
    assert (told["route"], told["private"], told["score"]) == ("local", True, None)


@pytest.mark.parametrize("fields", [{"private": False}, {"private": None}, {"edge_agent": {"private": False}}, {}])
def test_what_is_not_private_may_go_to_the_cloud(daemon: DaemonProcess, fields: dict[str, Any]) -> None:
    assert ask(daemon, "a hard one", **fields).model_extra["edge_agent"]["route"] == "cloud"


@pytest.mark.parametrize("stream", [True, False])
def test_half_a_surrogate_pair_of_the_cloud_s_is_a_question_mark(start_daemon: StartDaemon, stream: bool) -> None:
    with misbehaving_cloud(answering("half \ud800", " pair")) as cloud:
        daemon = start_daemon(cloud={"base_url": str(cloud), "model": "m", "api_key_env": None})
        text = joined(streamed(daemon, "a hard one")) if stream else text_of(daemon, "a hard one")
    assert text == daemon.log.rows()[0]["answer"] == "half ? pair"


# One row per exchange


def test_the_row_is_there_when_the_client_sees_the_end(daemon: DaemonProcess) -> None:
    for number in range(10):
        answer = daemon.chat(f"question {number}", stream=bool(number % 2))
        row = daemon.log.row(answer.headers["x-edge-agent-id"])
        assert json.loads(row["messages"])[-1]["content"] == f"question {number}" and row["answer"]


@pytest.mark.parametrize(
    ("question", "fields", "status_code", "error"),
    [
        ("hello", {}, 200, None),
        ("hello", {"stream": True}, 200, None),
        ("long " * 1500, {"model": "local"}, 400, "context_exceeded"),
        ("long " * 1500, {"private": True, "stream": True}, 400, "context_exceeded"),
        ("hello", {"model": "local", "response_format": {"type": "json_schema", "json_schema": {}}}, 400, "no row"),
        ("hello", {"temperature": 3}, 400, "no row"),
    ],
)
def test_each_exchange_is_one_row(
    daemon: DaemonProcess, question: str, fields: dict[str, Any], status_code: int, error: str | None
) -> None:
    before = n_rows(daemon)
    assert daemon.chat(question, **fields).status_code == status_code
    assert n_rows(daemon) == before + (error != "no row")  # what cannot be parsed is not an exchange
    assert error == "no row" or daemon.log.rows(limit=1)[0]["error"] == error


@pytest.mark.parametrize(
    ("stream", "behaviour", "error"),
    [
        (True, cut_after_text, "cloud_interrupted"),
        (False, cut_after_text, "cloud_interrupted"),
        (True, status(400), "cloud_rejected"),
    ],
)
def test_a_cloud_that_fails_is_one_row_and_one_error(
    start_daemon: StartDaemon, stream: bool, behaviour: Behaviour, error: str
) -> None:
    with misbehaving_cloud(behaviour) as cloud:
        daemon = start_daemon(cloud={"base_url": str(cloud), "model": "m", "retries": 0, "api_key_env": None})
        answer = daemon.chat("a hard one", stream=stream)
    rows = daemon.log.rows()
    told = json.loads(list(events(iter(answer.text.splitlines())))[-1]) if answer.status_code == 200 else answer.json()
    assert told["error"]["code"] == error and "[DONE]" not in answer.text
    assert [(row["error"], row["route"]) for row in rows] == [(error, "cloud")]
    assert rows[0]["answer"] == ("Hel" if behaviour is cut_after_text else None)
