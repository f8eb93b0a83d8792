"""Well-known clients, unmodified: the openai SDK, curl, llm and requests, and every example of docs/api.md."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import httpx
import openai
import pytest
import requests_unixsocket
from pydantic import BaseModel

from tests.asking import eventually, get, n_active
from tests.conftest import StartDaemon
from tests.daemon_process import TOKEN, DaemonProcess
from tests.misbehaving_cloud import cut_after_text, hang_before_headers, misbehaving_cloud, status

PAGE = (Path(__file__).parent.parent / "docs" / "api.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
BIN = Path(sys.executable).parent
HELLO: Any = [{"role": "user", "content": "hello"}]


class Light(BaseModel):
    """Switch a light."""

    room: Literal["hall", "bath"]
    on: bool


class Lights(BaseModel):
    lights: list[Light]


def sdk(daemon: DaemonProcess, http_client: httpx.Client | None = None) -> openai.OpenAI:
    http_client = http_client or httpx.Client(transport=httpx.HTTPTransport(uds=str(daemon.socket), verify=False))
    return openai.OpenAI(base_url="http://edge/v1", api_key="none", http_client=http_client, max_retries=0)


def sdk_on_tcp(daemon: DaemonProcess, token: str = TOKEN) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{daemon.port}/v1", api_key=token, max_retries=0)


@pytest.fixture(scope="module")
def client(daemon: DaemonProcess) -> Iterator[openai.OpenAI]:
    with sdk(daemon) as client:
        yield client


# The openai SDK


@pytest.mark.parametrize("make", [sdk, sdk_on_tcp])
@pytest.mark.parametrize(("text", "route"), [("hello", "local"), ("a hard one", "cloud")])
def test_the_sdk_asks_and_streams(
    daemon: DaemonProcess, make: Callable[[DaemonProcess], openai.OpenAI], text: str, route: str
) -> None:
    messages: Any = [{"role": "user", "content": text}]
    with make(daemon) as client:
        answer = client.chat.completions.create(model="auto", messages=messages, max_tokens=8)
        chunks = list(client.chat.completions.create(model="auto", messages=messages, max_tokens=8, stream=True))
    assert answer.edge_agent["route"] == chunks[-1].edge_agent["route"] == route
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert answer.choices[0].message.content == streamed != ""


def test_the_sdk_s_own_http_library_works_too(daemon: DaemonProcess) -> None:
    httpx2 = pytest.importorskip("httpx2")
    http_client = openai.DefaultHttpxClient(transport=httpx2.HTTPTransport(uds=str(daemon.socket)))
    with sdk(daemon, http_client) as client:
        assert client.chat.completions.create(model="local", messages=HELLO, max_tokens=2).choices


def test_the_async_sdk_asks_and_streams_at_the_same_time(daemon: DaemonProcess) -> None:
    async def talk() -> list[str]:
        transport = httpx.AsyncHTTPTransport(uds=str(daemon.socket))
        http_client = httpx.AsyncClient(transport=transport)
        async with openai.AsyncOpenAI(base_url="http://edge/v1", api_key="none", http_client=http_client) as client:

            async def streamed() -> str:
                text, create = "", client.chat.completions.create
                async for chunk in await create(model="local", messages=HELLO, max_tokens=40, stream=True):
                    text += chunk.choices[0].delta.content or ""
                return text

            async def whole() -> str:
                answer = await client.chat.completions.create(model="local", messages=HELLO, max_tokens=40)
                return answer.choices[0].message.content or ""

            return await asyncio.gather(streamed(), whole(), streamed(), whole())

    texts = asyncio.run(talk())
    assert len(set(texts)) == 1 and texts[0]


def test_the_sdk_s_stream_helper_gathers_text_and_usage(client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True}
    with client.chat.completions.stream(model="local", messages=HELLO, stop="c", stream_options=options) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "".join(deltas) and final.usage.completion_tokens > 0


def test_the_sdk_parses_answers_into_pydantic_models(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(model="local", messages=HELLO, response_format=Lights, max_tokens=600)
    assert isinstance(answer.choices[0].message.parsed, Lights)


def test_the_sdk_s_tools_are_called_and_their_results_read(client: openai.OpenAI) -> None:
    tools: Any = [openai.pydantic_function_tool(Light)]
    first = client.chat.completions.parse(
        model="local", messages=HELLO, tools=tools, tool_choice="required", max_tokens=80
    )
    (call,) = first.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Light) and first.choices[0].finish_reason == "tool_calls"
    result = {"role": "tool", "tool_call_id": call.id, "content": "done"}
    for sent_back in (first.choices[0].message, first.choices[0].message.to_dict()):
        messages: Any = [*HELLO, sent_back, result]
        second = client.chat.completions.create(model="local", messages=messages, tools=tools, max_tokens=5)
        assert second.choices[0].message.content


def test_an_answer_goes_back_as_it_came(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(model="local", messages=HELLO, max_tokens=5).choices[0].message
    for sent_back in (first, first.to_dict(), first.model_dump()):
        messages: Any = [*HELLO, sent_back, {"role": "user", "content": "and then?"}]
        assert client.chat.completions.create(model="local", messages=messages, max_tokens=5).choices


def test_the_sdk_lists_models_and_reads_headers(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["auto", "local", "cloud"]
    raw = client.chat.completions.with_raw_response.create(
        model="auto", messages=HELLO, max_tokens=2, extra_body={"private": True}
    )
    assert raw.headers["x-edge-agent-reason"] == raw.parse().edge_agent["reason"] == "private"


@pytest.mark.parametrize(
    ("fields", "expected", "code", "param"),
    [
        ({"n": 2}, openai.BadRequestError, "unsupported_parameter", "n"),
        ({"temperature": 5}, openai.BadRequestError, "invalid_request", "temperature"),
        ({"messages": []}, openai.BadRequestError, "invalid_request", "messages"),
        (
            {"messages": [{"role": "user", "content": "x" * 3000}]},
            openai.BadRequestError,
            "context_exceeded",
            "messages",
        ),
        ({"model": "gpt-4o"}, openai.NotFoundError, "model_not_found", "model"),
        (
            {"messages": [{"role": "user", "content": "x" * 2_000_000}]},
            openai.APIStatusError,
            "request_too_large",
            None,
        ),
    ],
)
def test_a_refusal_is_the_sdk_s_error(
    client: openai.OpenAI, fields: dict[str, Any], expected: type[openai.APIStatusError], code: str, param: str | None
) -> None:
    body = {"model": "local", "messages": HELLO} | fields
    with pytest.raises(expected) as caught:
        client.chat.completions.create(**body)
    assert (caught.value.code, caught.value.param, caught.value.type) == (code, param, "invalid_request_error")


def test_a_wrong_token_is_an_authentication_error(daemon: DaemonProcess) -> None:
    with sdk_on_tcp(daemon, "wrong") as client, pytest.raises(openai.AuthenticationError, match="tcp.token_env"):
        client.models.list()


def test_a_busy_daemon_is_a_rate_limit_error(start_daemon: StartDaemon) -> None:
    with misbehaving_cloud(hang_before_headers) as cloud:
        settings = {"base_url": str(cloud), "model": "m", "api_key_env": None}
        daemon = start_daemon(cloud=settings, server={"max_active": 1})
        asked = [str(BIN / "python"), "-m", "edge_agent", "ask", "--socket", str(daemon.socket), "a hard one"]
        with subprocess.Popen(asked, env=daemon.environ, stdin=subprocess.DEVNULL) as waiting:
            try:
                eventually(lambda: n_active(daemon) == 1)
                with sdk(daemon) as client, pytest.raises(openai.RateLimitError) as caught:
                    client.chat.completions.create(model="local", messages=HELLO)
            finally:
                waiting.kill()
    assert (caught.value.code, caught.value.response.headers["retry-after"]) == ("busy", "1")


def test_a_cloud_that_refuses_is_an_internal_server_error_not_retried(start_daemon: StartDaemon) -> None:
    with misbehaving_cloud(status(400)) as cloud:
        daemon = start_daemon(cloud={"base_url": str(cloud), "model": "m", "api_key_env": None})
        with sdk(daemon).with_options(max_retries=2) as client, pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model="cloud", messages=HELLO)
        assert len(cloud.requests) == 1
    assert (caught.value.status_code, caught.value.code) == (502, "cloud_rejected")


def test_a_stream_that_breaks_off_is_an_api_error(start_daemon: StartDaemon) -> None:
    with misbehaving_cloud(cut_after_text) as cloud:
        daemon = start_daemon(cloud={"base_url": str(cloud), "model": "m", "api_key_env": None, "retries": 0})
        texts = []
        with sdk(daemon) as client, pytest.raises(openai.APIError, match="broke off") as caught:
            for chunk in client.chat.completions.create(model="cloud", messages=HELLO, stream=True):
                texts.append(chunk.choices[0].delta.content)
    assert texts == ["", "Hel"]
    assert caught.value.code == "cloud_interrupted"


# Other clients


def test_requests_asks_and_streams_over_the_socket(daemon: DaemonProcess) -> None:
    url = f"http+unix://{quote(str(daemon.socket), safe='')}/v1/chat/completions"
    body = {"model": "local", "messages": HELLO, "max_tokens": 5}
    with requests_unixsocket.Session() as session:
        answer = session.post(url, json=body)
        with session.post(url, json=body | {"stream": True}, stream=True) as stream:
            lines = [line for line in stream.iter_lines() if line]
    assert answer.json()["usage"]["completion_tokens"] == 5
    assert len(lines) == 1 + 5 + 1 + 1 and lines[-1] == b"data: [DONE]"


def test_llm_talks_over_tcp(daemon: DaemonProcess, tmp_path: Path) -> None:
    models = next(code for language, code in BLOCKS if language == "yaml").replace("8642", str(daemon.port))
    (tmp_path / "extra-openai-models.yaml").write_text(models)
    command = [str(BIN / "llm"), "-m", "edge", "--key", TOKEN, "a hard question of llm"]
    environ = os.environ | {"LLM_USER_PATH": str(tmp_path)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    row = daemon.log.rows(limit=1)[0]
    assert json.loads(row["messages"])[0]["content"] == "a hard question of llm"
    assert done.stdout.strip("\n") == row["answer"] and row["route"] == "cloud"


# docs/api.md


@pytest.fixture
def reader(daemon: DaemonProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Someone who follows the page: their environment; returns the page's text with the port of our daemon."""
    (tmp_path / "edge-agent.sock").symlink_to(daemon.socket)
    (tmp_path / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\n")  # an error status is an exit code
    given: dict[str, object] = {"CURL_HOME": tmp_path, "LLM_USER_PATH": tmp_path, "EDGE_AGENT_TOKEN": TOKEN}
    given["SOCKET"] = tmp_path / "edge-agent.sock"
    for name, value in given.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("PATH", str(BIN), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    models = next(code for language, code in BLOCKS if language == "yaml")
    (tmp_path / "extra-openai-models.yaml").write_text(models.replace("8642", str(daemon.port)))
    return lambda code: code.replace("8642", str(daemon.port))


@pytest.mark.parametrize("code", [code for language, code in BLOCKS if language == "sh"])
def test_the_page_s_commands_work(reader: Callable[[str], str], code: str) -> None:
    if "curl" in code and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    command = ["bash", "-eu", "-o", "pipefail", "-c", reader(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == 0 and done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("code", [code for language, code in BLOCKS if language == "python"])
def test_the_page_s_programs_work(reader: Callable[[str], str], code: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(reader(code), "docs/api.md", "exec"), {})
    assert capsys.readouterr().out or "assert" in code


def shape(value: Any) -> Any:
    """The names in a JSON value, without what they hold."""
    if isinstance(value, dict):
        return {name: shape(item) for name, item in value.items()}
    return [shape(value[0])] if isinstance(value, list) and value else None


def test_the_page_s_answers_look_like_ours(daemon: DaemonProcess) -> None:
    answer, decision, error = (shape(json.loads(code)) for language, code in BLOCKS if language == "json")
    with daemon.http() as client:
        body = {"model": "auto", "messages": HELLO, "max_tokens": 2}
        assert shape(client.post("/v1/chat/completions", json=body).json()) == answer
        assert shape(client.post("/v1/route", json=body).json()) == decision
        refused = client.post("/v1/chat/completions", json=body | {"temperature": 3}).json()
    assert shape(refused) == error and refused["error"]["message"] in PAGE
    assert set(get(daemon, "/v1/status")) == set(re.findall(r"`(\w+)`", PAGE.split("Its fields: ")[1].split("```")[0]))
