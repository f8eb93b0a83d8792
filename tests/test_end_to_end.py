"""The whole device on the real models: a five-turn chat, the cloud, the cloud's end, the log, and the openai SDK."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from edge_agent.config import xdg_dir
from edge_agent.model_store import load_catalogue
from tests.conftest import free_port
from tests.daemon_process import TOKEN, DaemonProcess, running_daemon

pytestmark = pytest.mark.real
ROUTER = Path(__file__).parent.parent / "router_models" / "current"


def real_model(name: str) -> Path:
    path = xdg_dir("cache") / "models" / load_catalogue()[name].file
    if not path.exists():
        pytest.skip(f"{name} is not here: run `edge-agent pull {name}`")
    return path


@pytest.fixture(scope="module")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    settings = {"tcp": {"port": free_port()}, "cloud": {"enabled": False}, "local": {"n_threads": 0, "max_tokens": 32}}
    model = real_model("qwen2.5-coder-1.5b")
    with running_daemon(tmp_path_factory.mktemp("standin"), model, ROUTER, settings) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory, standin: DaemonProcess) -> Iterator[DaemonProcess]:
    cloud = {"base_url": f"http://127.0.0.1:{standin.port}/v1", "model": "local", "read_timeout_s": 120.0}
    settings = {"cloud": cloud, "local": {"n_threads": 0, "max_tokens": 32, "n_ctx": 2048}}
    environ = {"EDGE_AGENT_CLOUD_API_KEY": TOKEN}
    model = real_model("qwen2.5-coder-0.5b")
    with running_daemon(tmp_path_factory.mktemp("device"), model, ROUTER, settings, environ) as daemon:
        yield daemon


def edge_agent(device: DaemonProcess, *words: str, typed: str = "") -> str:
    """Run a command of the device's owner; its standard output."""
    command = [sys.executable, "-m", "edge_agent", *words, "--socket", str(device.socket)]
    done = subprocess.run(command, input=typed, env=device.environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def sdk(device: DaemonProcess) -> openai.OpenAI:
    transport = httpx.HTTPTransport(uds=str(device.socket))
    http_client = httpx.Client(transport=transport, timeout=300)
    return openai.OpenAI(base_url="http://edge/v1", api_key="unused", http_client=http_client, max_retries=0)


def ask(device: DaemonProcess, text: str, model: str = "auto") -> dict[str, Any]:
    """A streamed question through the openai SDK: the text and the `edge_agent` object of the last chunk."""
    stream = sdk(device).chat.completions.create(
        model=model, messages=[{"role": "user", "content": text}], stream=True, max_tokens=16
    )
    chunks = list(stream)
    told = [chunk.model_extra["edge_agent"] for chunk in chunks if "edge_agent" in (chunk.model_extra or {})]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    return {"text": text, "chunks": len(chunks), **told[-1]}


def test_a_five_turn_chat_remembers_and_uses_both_models(device: DaemonProcess) -> None:
    turns = [
        "/local",
        "My name is Ada. Answer with one word: what is the capital of France?",
        "Answer with one word: and of Italy?",
        "/cloud",
        "Answer with one word: and of Spain?",
        "/auto",
        "Answer with one word: and of Austria?",
        "What is my name? Answer with one word.",
    ]
    shown = edge_agent(device, "chat", typed="\n".join(turns) + "\n")
    for word in ("Paris", "Rome", "Madrid", "Vienna", "Ada"):
        assert word in shown
    rows = device.log.rows(limit=5)
    assert [row["reason"] for row in rows[::-1]][:3] == ["asked_local", "asked_local", "asked_cloud"]
    assert {row["route"] for row in rows} == {"local", "cloud"}
    for row in rows:
        assert row["model"].startswith("qwen2.5-coder-0.5b" if row["route"] == "local" else "qwen2.5-coder-1.5b")
    assert len({row["conversation_id"] for row in rows}) == 1


def test_auto_follows_the_score_and_the_log_explains_it(device: DaemonProcess) -> None:
    told = ask(device, "What is 7 plus 5? Answer with a number.")
    assert told["route"] == ("cloud" if told["score"] >= told["threshold"] else "local")
    assert told["text"] and told["chunks"] >= 3
    explained = edge_agent(device, "logs", "show", told["id"])
    assert told["route"] in explained and f"{told['score']:.2f}" in explained


def test_both_models_answer_the_sdk_by_name(device: DaemonProcess) -> None:
    local = ask(device, "Say hello.", model="local")
    cloud = ask(device, "Say hello.", model="cloud")
    assert local["model"].startswith("qwen2.5-coder-0.5b") and local["uncertainty"]["mean_entropy"] >= 0
    assert cloud["model"].startswith("qwen2.5-coder-1.5b") and cloud["uncertainty"] is None


def test_the_sdk_gets_a_tool_call(device: DaemonProcess) -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tool: Any = {"type": "function", "function": {"name": "get_weather", "parameters": parameters}}
    question: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
    answer = sdk(device).chat.completions.create(
        model="local", messages=question, tools=[tool], tool_choice="required", max_tokens=64, temperature=0
    )
    call: Any = (answer.choices[0].message.tool_calls or [None])[0]
    assert call.function.name == "get_weather" and "city" in json.loads(call.function.arguments)
    assert answer.choices[0].finish_reason == "tool_calls"


def test_when_the_cloud_dies_the_local_model_answers_and_everybody_is_told(
    device: DaemonProcess, standin: DaemonProcess
) -> None:
    standin.process.kill()
    standin.process.wait()
    shown = edge_agent(device, "chat", typed="/cloud\nAnswer with one word: what is the capital of France?\n")
    assert "Paris" in shown
    told = ask(device, "Say hello.", model="cloud")
    assert (told["route"], told["degraded"]) == ("local", "cloud_unavailable")
    rows = json.loads(edge_agent(device, "logs", "--limit", "2", "--json"))
    assert [row["degraded"] for row in rows] == ["cloud_unavailable", "cloud_unavailable"]
    listed = edge_agent(device, "logs")
    assert "asked cloud (cloud unavailable)" in listed and "asked local" in listed
