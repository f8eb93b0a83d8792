"""The cloud model against a well-behaved endpoint on a real socket: answers, the key, `check`."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from edge_agent.cloud_model import CloudModel
from edge_agent.errors import CloudRejected, CloudUnavailable, ConfigError
from edge_agent.types import Chunk, Message, Options, Query
from tests import misbehaving_cloud as bad
from tests.asking_a_cloud import HELLO, KEY, ask, cloud_model, cloud_threads, wait_until
from tests.misbehaving_cloud import CERTIFICATE, Behaviour, answering, in_turn, misbehaving_cloud, piece, status


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """TLS tests take the environment's proxy, which must not be this machine's."""
    monkeypatch.setenv("NO_PROXY", "*")


def test_an_answer_streams_with_usage_model_and_times() -> None:
    with misbehaving_cloud(answering("Hel", "lo", "!")) as cloud:
        text, completion = ask(cloud_model(cloud))
    assert text == completion.text == "Hello!"
    assert (completion.model, completion.finish_reason) == ("big-1", "stop")
    assert (completion.input_tokens, completion.output_tokens) == (7, 3)
    assert completion.first_token_ms and completion.duration_ms and completion.uncertainty is None
    assert 0 < completion.first_token_ms <= completion.duration_ms


def test_chunks_leave_before_the_answer_is_whole() -> None:
    with misbehaving_cloud(bad.hang_after_text) as cloud:
        chunks = cloud_model(cloud).generate(HELLO, threading.Event())
        assert next(chunks) == Chunk("Hel")
        chunks.close()
        assert cloud.hung_up.wait(1)


def test_the_request_holds_messages_and_options_and_nothing_about_who_asks() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = (Message("assistant", "", tool_calls=(call,)), Message("tool", "4", tool_call_id="c"))
    options = Options(max_tokens=9, temperature=0.0, stop=("\n",), seed=1, response_format={"type": "json_object"})
    with misbehaving_cloud(answering("4")) as cloud:
        ask(cloud_model(cloud + "/"), Query(messages, options, wish="cloud", conversation_id="conversation"))
    request = cloud.requests[0]
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert request.json == {
        "model": "big",
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [message.to_openai() for message in messages],
        "max_tokens": 9,
        "temperature": 0.0,
        "stop": ["\n"],
        "seed": 1,
        "response_format": {"type": "json_object"},
    }


def test_a_private_query_is_never_sent() -> None:
    with misbehaving_cloud(answering("no")) as cloud:
        with pytest.raises(ValueError, match="private"):
            cloud_model(cloud).generate(Query(HELLO.messages, private=True), threading.Event())
        assert cloud.requests == []


def test_tool_calls_are_merged_from_their_pieces() -> None:
    pieces = [
        piece(tool_calls=[{"index": 0, "id": "a", "type": "function", "function": {"name": "lamp", "arguments": ""}}]),
        piece(tool_calls=[{"index": 0, "function": {"arguments": '{"on":'}}]),
        piece(tool_calls=[{"index": 1, "id": "b", "function": {"name": "door", "arguments": "{}"}}]),
        piece(tool_calls=[{"index": 0, "function": {"arguments": " true}"}}]),
        piece(finish="tool_calls"),
    ]
    with misbehaving_cloud(bad.events(*pieces)) as cloud:
        text, completion = ask(cloud_model(cloud))
    assert text == ""
    assert completion.finish_reason == "tool_calls"
    assert completion.first_token_ms is not None
    assert completion.tool_calls == (
        {"id": "a", "type": "function", "function": {"name": "lamp", "arguments": '{"on": true}'}},
        {"id": "b", "type": "function", "function": {"name": "door", "arguments": "{}"}},
    )


@pytest.mark.parametrize("index", [{}, {"index": 0}], ids=["no index", "one index for all"])
def test_a_new_id_begins_a_new_tool_call_whatever_its_index(index: dict[str, int]) -> None:
    calls = [index | {"id": id, "function": {"name": "f", "arguments": {"n": id}}} for id in "ab"]
    with misbehaving_cloud(bad.events(*(piece(tool_calls=[call]) for call in calls), piece(finish="stop"))) as cloud:
        _, completion = ask(cloud_model(cloud))
    assert [call["function"]["arguments"] for call in completion.tool_calls] == ['{"n": "a"}', '{"n": "b"}']
    assert completion.finish_reason == "tool_calls"


DATA = b'data: {"choices": [{"delta": {"content": "h\xc3\xa9\xf0\x9f\x8c\x8d"}, "finish_reason": "stop"}]}'


@pytest.mark.parametrize(
    ("blocks", "text"),
    [
        ([DATA[i : i + 1] for i in range(len(DATA))] + [b"\n\n"], "hé🌍"),
        ([DATA.replace(b"\xc3\xa9", b"\xff\xe9"), b"\n"], "h\ufffd\ufffd🌍"),
        ([b": ping\r\nevent: message\r\nid: 7\r\n" + DATA + b"\r\n\r\ndata: [DONE]\r\n\r\n"], "hé🌍"),
        ([DATA.replace(b"data: ", b"data:"), b"\n\n"], "hé🌍"),
        ([DATA, b"\n\n", b'data: {"id": '], "hé🌍"),
        ([b'{"choices": [{"message": {"content": "whole"}}],\n "usage": {"prompt_tokens": 1}}'], "whole"),
        ([b'data: {"choices": [{"delta": {"content": [{"type": "text", "text": "part"}]}}]}\n\ndata: [DONE]'], "part"),
        ([b'data: {"choices": [{"delta": {"refusal": "I will not."}, "finish_reason": "odd"}]}\n\n'], "I will not."),
        ([b'data: {"choices": [], "model": "m"}\n\ndata: {"choices": [{"finish_reason": "stop"}]}\n\n'], ""),
    ],
    ids=["byte by byte", "invalid UTF-8", "CRLF", "no space", "cut after its end", "JSON", "parts", "refusal", "empty"],
)
def test_answers_are_read_in_every_dialect(blocks: list[bytes], text: str) -> None:
    with misbehaving_cloud(bad.raw(*blocks)) as cloud:
        got, completion = ask(cloud_model(cloud))
    assert got == completion.text == text
    assert completion.finish_reason == "stop"
    assert completion.model in ("big", "m")


@pytest.mark.parametrize("count", [-1, 1 << 31, 1 << 63, 1.5, True, "7", [7]])
def test_a_usage_that_is_no_count_is_left_out(count: object) -> None:
    usage = {"prompt_tokens": count, "completion_tokens": (1 << 31) - 1}
    with misbehaving_cloud(bad.events(piece("yes", finish="stop"), {"choices": [], "usage": usage})) as cloud:
        _, completion = ask(cloud_model(cloud))
    assert (completion.input_tokens, completion.output_tokens) == (None, (1 << 31) - 1)


@pytest.mark.parametrize(
    ("named", "model"), [("m" * 200_000, "m" * 256), ({"id": "m"}, "big"), (7, "big"), ("", "big")]
)
def test_the_model_s_name_is_a_text_of_bounded_length(named: object, model: str) -> None:
    with misbehaving_cloud(bad.events(piece("yes", finish="stop") | {"model": named})) as cloud:
        assert ask(cloud_model(cloud))[1].model == model


def test_the_first_choice_alone_is_the_answer() -> None:
    first, second = ({"index": i, "delta": {"content": text}} for i, text in enumerate(("Hel", "Bye")))
    sent = [{"choices": [second, first]}, {"choices": [second]}, piece("lo", finish="stop")]
    with misbehaving_cloud(bad.events(*sent)) as cloud:
        assert ask(cloud_model(cloud))[0] == "Hello"


@pytest.mark.parametrize("refused", ["stream_options", "max_completion_tokens"])
def test_a_field_the_endpoint_does_not_take_is_left_out_from_then_on(refused: str) -> None:
    no = status(422, {"detail": [{"loc": ["body", refused], "msg": "Extra inputs are not permitted"}]})
    with misbehaving_cloud(in_turn(no, answering("yes"))) as cloud:
        model = cloud_model(cloud)
        for _ in range(2):
            text, _ = ask(model, Query(HELLO.messages, Options(max_tokens=5)))
            assert text == "yes"
    first, *others = [
        set(request.json) & {"stream_options", "max_tokens", "max_completion_tokens"} for request in cloud.requests
    ]
    assert first == {"stream_options", "max_tokens"}
    expected = {"stream_options": {"max_tokens"}, "max_completion_tokens": {"stream_options", "max_completion_tokens"}}
    assert others == [expected[refused]] * 2


def test_connections_are_kept() -> None:
    with misbehaving_cloud(answering("hello")) as cloud:
        model = cloud_model(cloud)
        for _ in range(3):
            ask(model)
            wait_until(lambda: not cloud_threads())
    assert len({request.client for request in cloud.requests}) == 1


def test_many_threads_may_ask_at_a_time() -> None:
    with misbehaving_cloud(answering(*"hello", pause_s=0.02)) as cloud:
        model, texts = cloud_model(cloud, total_timeout_s=5), []
        threads = [threading.Thread(target=lambda: texts.append(ask(model)[0])) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert texts == ["hello"] * 16


# The key


def test_the_key_is_sent_as_a_bearer_token_and_not_at_all_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with misbehaving_cloud(answering("hello")) as cloud:
        for key in (KEY + "\n", None, ""):
            ask(cloud_model(cloud, api_key=key))
    assert [request.headers.get("authorization") for request in cloud.requests] == [f"Bearer {KEY}", None, None]


def test_the_netrc_file_does_not_replace_the_key_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password mine\n")
    (tmp_path / "bundle.pem").write_text(CERTIFICATE)
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "bundle.pem"))
    with misbehaving_cloud(answering("hello"), tls=True) as cloud:
        ask(cloud_model(cloud))
        ask(cloud_model(cloud, api_key=None))
    assert [request.headers.get("authorization") for request in cloud.requests] == [f"Bearer {KEY}", None]


def test_no_cookie_is_sent_back() -> None:
    with misbehaving_cloud(in_turn(status(400, Set_Cookie="who=you; Path=/"), answering("hello"))) as cloud:
        model = cloud_model(cloud)
        with pytest.raises(CloudRejected):
            ask(model)
        ask(model)
    assert "cookie" not in cloud.requests[1].headers


def test_neither_the_key_nor_the_cloud_s_own_words_reach_message_status_or_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    echo = {"error": {"message": f"key {KEY} may not ask:\n Say hello.", "code": KEY}}
    with misbehaving_cloud(status(401, echo)) as cloud:
        model = cloud_model(cloud)
        with pytest.raises(CloudRejected) as caught:
            ask(model)
    told = f"{caught.value} {caught.value!r} {model!r} {model.last_error} {caplog.text}"
    assert KEY not in told + caught.value.detail
    assert "Say hello." not in told
    assert caught.value.detail == "key [key] may not ask: Say hello."


@pytest.mark.parametrize("key", ["sk-\nsecret", "sk-sécret"])
def test_a_key_that_no_header_can_hold_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cloud_model("https://api.example.com/v1", api_key=key)
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize(
    "base_url",
    ["https://[", "https://", "https://:443/v1", "https://a:99999999/v1", "https://a:0/v1", "https://a:port/v1"]
    + ["https://a/v1\n", "https://a\tb/v1", "https://a b/v1", "ftp://a/v1", "a/v1"],
)
def test_a_base_url_that_is_no_address_is_a_setting_to_mend(base_url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cloud_model(base_url)
    assert caught.value.message.startswith("cloud.base_url: expected an address such as https://")
    assert caught.value.message.endswith(f"found {base_url!r}")


def test_an_error_names_the_host_without_its_user_and_password() -> None:
    with pytest.raises(CloudUnavailable, match="^cloud 127.0.0.1:1: connection refused"):
        ask(cloud_model("http://user:password@127.0.0.1:1/v1"))


# check


MODELS = {"object": "list", "data": [{"id": "big"}, {"id": "vendor/bigger"}]}


@pytest.mark.parametrize(
    ("behaviour", "model", "reachable", "refused", "listed", "says"),
    [
        (status(200, MODELS), "big", True, False, True, "answers in"),
        (status(200, MODELS), "bigger", True, False, True, "answers in"),
        (status(200, MODELS), "bug", True, False, False, "does not list bug; check cloud.model"),
        (status(200, b"hello"), "big", True, False, None, "answers in"),
        (status(404), "big", True, False, None, "answers in"),
        (status(401), "big", True, True, None, "answered 401: check the key"),
        (status(402), "big", True, True, None, "answered 402: the account has no credit left"),
        (status(403), "big", True, True, None, "answered 403"),
        (bad.redirect_to("http://127.0.0.1:1/"), "big", True, False, None, "redirects are not followed"),
        (bad.cut_before_headers, "big", False, False, None, "the connection broke off"),
    ],
)
def test_check_says_whether_the_cloud_is_in_reach_and_takes_the_key(
    behaviour: Behaviour, model: str, reachable: bool, refused: bool, listed: bool | None, says: str
) -> None:
    with misbehaving_cloud(behaviour) as cloud:
        found = CloudModel(base_url=cloud, model=model, api_key=KEY).check()
    assert (found.reachable, found.key_refused, found.model_listed) == (reachable, refused, listed)
    assert says in found.message
    request = cloud.requests[0]
    assert (request.method, request.path, request.headers["authorization"]) == ("GET", "/v1/models", f"Bearer {KEY}")
    assert (found.latency_ms is not None) == reachable


def test_check_leaves_its_connection_for_the_first_question() -> None:
    listing_then_answer = in_turn(status(200, MODELS), answering("hello"))
    with misbehaving_cloud(listing_then_answer) as cloud:
        model = cloud_model(cloud)
        model.check()
        ask(model)
    assert len({request.client for request in cloud.requests}) == 1
