"""The cloud model against a misbehaving endpoint on a real socket."""

from __future__ import annotations

import logging
import resource
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from edge_agent.breaker import CircuitBreaker
from edge_agent.cloud_model import CloudModel
from edge_agent.errors import CloudError, CloudRejected, CloudUnavailable, ConfigError
from edge_agent.types import Chunk, Completion, Message, Options, Query
from tests import misbehaving_cloud as bad
from tests.misbehaving_cloud import CERTIFICATE, Behaviour, Cloud, answering, in_turn, misbehaving_cloud, piece, status

KEY = "sk-very-secret"
HELLO = Query(messages=(Message("user", "Say hello."),))


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """TLS tests take the environment's proxy, which must not be this machine's."""
    monkeypatch.setenv("NO_PROXY", "*")


def cloud_model(base_url: str, **changes: Any) -> CloudModel:
    patient = {"connect_timeout_s": 5.0, "read_timeout_s": 5.0, "total_timeout_s": 10.0, "retries": 0}
    return CloudModel(base_url=base_url, model="big", **({"api_key": KEY} | patient | changes))


def ask(model: CloudModel, query: Query = HELLO, cancelled: threading.Event | None = None) -> tuple[str, Completion]:
    """The chunks' text, joined, and the Completion."""
    texts, chunks = [], model.generate(query, cancelled or threading.Event())
    while True:
        try:
            chunk = next(chunks)
        except StopIteration as end:
            return "".join(texts), end.value
        assert isinstance(chunk, Chunk)
        texts.append(chunk.text)


def failing(behaviour: Behaviour, *, tls: bool = False, **changes: Any) -> tuple[CloudError, Cloud, float]:
    """The error that asking ends in, the cloud that caused it, and the seconds it took."""
    with misbehaving_cloud(behaviour, tls=tls) as cloud:
        started = time.monotonic()
        with pytest.raises(CloudError) as caught:
            ask(cloud_model(cloud, **changes))
        return caught.value, cloud, time.monotonic() - started


# A good cloud


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
            _wait_until(lambda: not _cloud_threads())
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


# A bad cloud


UNAVAILABLE: list[tuple[str, Behaviour, str]] = [
    ("hangs before headers", bad.hang_before_headers, "sent nothing for 0.5 s"),
    ("hangs after headers", bad.hang_after_headers, "sent nothing for 0.5 s"),
    ("byte by byte", bad.drip, "no whole answer within 1 s"),
    ("cut before headers", bad.cut_before_headers, "the connection broke off"),
    ("cut before text", bad.cut_before_text, "the connection broke off"),
    ("ends before text", bad.raw(b'data: {"choices": [{"delta": {"role": "assistant"}}]}\n\n'), "the answer broke off"),
    ("cut in a line", bad.raw(b'data: {"choi'), "the answer broke off"),
    ("nothing", bad.raw(), "the answer broke off"),
    ("not HTTP", lambda request, wire: (wire.send(b"SSH-2.0-OpenSSH_9.2\r\n"), wire.cut()), "the connection broke off"),
    ("408", status(408), "answered 408"),
    ("429", status(429, {"error": {"code": "insufficient_quota"}}), r"answered 429 \(insufficient_quota\)"),
    ("500", status(500), "answered 500"),
    ("503 in HTML", status(503, b"<html>upstream down</html>", "text/html"), "answered 503"),
    ("529", status(529, {"type": "error", "error": {"type": "overloaded_error"}}), "answered 529"),
    ("200, 502 inside", bad.events({"error": {"code": 502, "message": "gone"}}), "answered 502: .*, inside a 200"),
    ("200, its fault", bad.events({"error": {"type": "server_error"}}), "reported an error .* inside a 200"),
]


@pytest.mark.parametrize(
    ("behaviour", "says"), [case[1:] for case in UNAVAILABLE], ids=[case[0] for case in UNAVAILABLE]
)
def test_a_failing_cloud_is_unavailable_in_time(behaviour: Behaviour, says: str) -> None:
    error, _, seconds = failing(behaviour, read_timeout_s=0.5, total_timeout_s=1.0)
    assert isinstance(error, CloudUnavailable)
    assert error.code == "cloud_unavailable"
    assert seconds < 2
    with pytest.raises(CloudUnavailable, match=says):
        raise error


REJECTED: list[tuple[str, Behaviour, int | None, str]] = [
    (
        "400",
        status(400, {"error": {"message": "bad top_p", "type": "invalid_request_error"}}),
        400,
        "invalid_request_error",
    ),
    ("401", status(401, {"error": {"code": "invalid_api_key"}}), 401, r"401 \(invalid_api_key\): check the key"),
    ("402", status(402), 402, "no credit"),
    ("403", status(403), 403, "may not use this model"),
    ("404 in HTML", status(404, b"<html>", "text/html"), 404, "check cloud.base_url and cloud.model"),
    ("413", status(413), 413, "too large"),
    ("418", status(418), 418, "does not accept"),
    ("200 HTML", bad.raw(b"<html>\n<p>Log in</p>", content_type="text/html"), None, "something else"),
    ("200 other JSON", bad.raw(b'{"status": "ok"}', content_type="application/json"), None, "something else"),
    ("200 list", bad.raw(b"data: [1]\n\n"), None, "something else"),
    ("200 broken JSON", bad.raw(b"data: {nonsense}\n\n"), None, "something else"),
    ("200 odd types", bad.raw(b'data: {"choices": [{"delta": {"content": 5}}]}\n\n'), None, "something else"),
    ("200 deep", bad.raw(b"data: " + b"[" * 100_000 + b"\n\n"), None, "something else"),
    (
        "200 error inside",
        bad.events({"error": {"code": "model_not_found"}}),
        None,
        r"error \(model_not_found\) inside a 200",
    ),
    ("200 error text", bad.events({"error": "no such model"}), None, "error inside a 200"),
    ("endless line", bad.endless_line, None, "a line of more than 1 MiB"),
    ("gigabyte", bad.one_huge_chunk, None, "more than 8 MiB"),
]


@pytest.mark.parametrize(
    ("behaviour", "upstream_status", "says"), [case[1:] for case in REJECTED], ids=[case[0] for case in REJECTED]
)
def test_a_cloud_that_says_no_or_talks_nonsense_is_rejected_without_retry(
    behaviour: Behaviour, upstream_status: int | None, says: str
) -> None:
    error, cloud, _ = failing(behaviour, retries=2)
    assert isinstance(error, CloudRejected)
    assert (error.code, error.upstream_status) == ("cloud_rejected", upstream_status)
    assert len(cloud.requests) == 1
    with pytest.raises(CloudRejected, match=says):
        raise error


def test_a_refused_connection_is_unavailable() -> None:
    with misbehaving_cloud(answering("no")) as cloud:
        base_url = str(cloud)
    with pytest.raises(CloudUnavailable, match="connection refused"):
        ask(cloud_model(base_url))


def test_an_unknown_host_is_unavailable() -> None:
    with pytest.raises(CloudUnavailable, match="cloud nowhere.invalid: host name not found"):
        ask(cloud_model("http://nowhere.invalid/v1", connect_timeout_s=20, total_timeout_s=20))


def test_a_name_lookup_that_hangs_counts_as_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: answered.wait(5) and [])
    started = time.monotonic()
    with pytest.raises(CloudUnavailable, match="no connection within 0.4 s"):
        ask(cloud_model("http://slow.example/v1", connect_timeout_s=0.2))
    assert time.monotonic() - started < 2
    answered.set()


def test_a_tls_handshake_that_hangs_counts_as_connecting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        model = cloud_model(f"https://127.0.0.1:{silent.getsockname()[1]}/v1", connect_timeout_s=0.2)
        with pytest.raises(CloudUnavailable, match="no connection within 0.2 s"):
            ask(model)


def test_a_certificate_nobody_vouches_for_is_refused_and_no_key_is_sent() -> None:
    error, cloud, _ = failing(answering("no"), tls=True)
    assert isinstance(error, CloudUnavailable)
    assert "TLS certificate refused (self-signed certificate)" in error.message
    assert cloud.requests == []
    assert _pauses(answering("no"), tls=True) == [], "a certificate does not mend itself in seconds"


def test_a_certificate_of_the_configured_bundle_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bundle.pem").write_text(CERTIFICATE)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "bundle.pem"))
    with misbehaving_cloud(answering("hello"), tls=True) as cloud:
        assert ask(cloud_model(cloud))[0] == "hello"


def test_https_to_a_plain_port_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:
        answer = threading.Thread(target=lambda: plain.accept()[0].sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
        answer.start()
        with pytest.raises(CloudUnavailable, match="TLS failed"):
            ask(cloud_model(f"https://127.0.0.1:{plain.getsockname()[1]}/v1"))
        answer.join()


def test_a_missing_certificate_bundle_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nonexistent/bundle.pem")
    with pytest.raises(CloudUnavailable, match="check REQUESTS_CA_BUNDLE"):
        ask(cloud_model("https://127.0.0.1:1/v1"))


def test_a_base_url_that_is_none_is_rejected() -> None:
    with pytest.raises(CloudRejected, match="check cloud.base_url"):
        ask(cloud_model("https://a..b:port/v1"))


def test_a_proxy_of_the_environment_is_used_for_https_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with misbehaving_cloud(answering("hello")) as cloud:
        assert ask(cloud_model(cloud))[0] == "hello"
    with pytest.raises(CloudUnavailable, match="the proxy does not connect"):
        ask(cloud_model("https://api.example.com/v1"))


def test_a_redirect_is_not_followed() -> None:
    with misbehaving_cloud(answering("stolen")) as other:
        error, cloud, _ = failing(bad.redirect_to(other + "/chat/completions"))
        assert other.requests == []
    assert isinstance(error, CloudRejected)
    assert error.upstream_status == 307
    assert "redirects are not followed" in error.message


AFTER_TEXT: list[tuple[str, Behaviour, type[CloudError]]] = [
    ("cut", bad.cut_after_text, CloudUnavailable),
    ("silent", bad.hang_after_text, CloudUnavailable),
    ("no end", bad.raw(b'data: {"choices": [{"delta": {"content": "Hel"}}]}\n\n'), CloudUnavailable),
    ("error inside", bad.events(piece("Hel"), {"error": {"message": "oops"}}), CloudRejected),
    ("nonsense", bad.events(piece("Hel"), 7), CloudRejected),
]


@pytest.mark.parametrize(("behaviour", "kind"), [case[1:] for case in AFTER_TEXT], ids=[case[0] for case in AFTER_TEXT])
def test_an_answer_that_breaks_off_says_so_and_is_not_retried(behaviour: Behaviour, kind: type[CloudError]) -> None:
    with misbehaving_cloud(behaviour) as cloud:
        chunks = cloud_model(cloud, retries=2, read_timeout_s=0.5).generate(HELLO, threading.Event())
        assert next(chunks) == Chunk("Hel")
        with pytest.raises(kind) as caught:
            next(chunks)
    assert caught.value.code == "cloud_interrupted"
    assert len(cloud.requests) == 1


def test_an_endless_answer_is_bounded_in_size_and_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with misbehaving_cloud(bad.endless) as cloud:
        model, length = cloud_model(cloud), 0
        with pytest.raises(CloudRejected, match="more than 8 MiB"):
            for chunk in model.generate(HELLO, threading.Event()):
                length += len(chunk.text)
        assert cloud.hung_up.wait(1)
    assert 1 << 20 < length < 8 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


def test_a_slow_reader_does_not_let_the_answer_pile_up() -> None:
    with misbehaving_cloud(bad.endless) as cloud:
        tracemalloc.start()
        chunks = cloud_model(cloud, total_timeout_s=1.0).generate(HELLO, threading.Event())
        time.sleep(1.1)
        piled_up, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert piled_up < 4 << 20
        with pytest.raises(CloudUnavailable, match="no whole answer within 1 s"):
            list(chunks)
        assert cloud.hung_up.wait(1)


def test_an_answer_nobody_reads_lets_go_of_its_thread_and_connection() -> None:
    with misbehaving_cloud(bad.endless) as cloud:
        cloud_model(cloud).generate(HELLO, threading.Event()).close()
        assert cloud.hung_up.wait(1)
        _wait_until(lambda: not _cloud_threads())


def test_an_error_body_that_hangs_is_not_waited_for() -> None:
    error, _, seconds = failing(bad.hang_in_error_body, read_timeout_s=30, total_timeout_s=30)
    assert "answered 500" in error.message
    assert seconds < 3


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


def test_an_error_names_the_host_without_its_user_and_password() -> None:
    with pytest.raises(CloudUnavailable, match="^cloud 127.0.0.1:1: connection refused"):
        ask(cloud_model("http://user:password@127.0.0.1:1/v1"))


# Retries


def test_a_failure_before_the_first_text_is_retried() -> None:
    with misbehaving_cloud(in_turn(status(500), bad.cut_before_text, answering("hello"))) as cloud:
        model = cloud_model(cloud, retries=2, random=lambda: 0.0)
        assert ask(model)[0] == "hello"
    assert len(cloud.requests) == 3
    assert (model.state, model.last_error) == ("closed", None)


def _pauses(behaviour: Behaviour, **changes: Any) -> list[float]:
    pauses: list[float] = []
    failing(behaviour, sleep=lambda seconds, cancelled: pauses.append(seconds), **({"retries": 5} | changes))
    return pauses


def test_the_pause_doubles_up_to_a_bound_and_is_drawn_from_nothing_to_it() -> None:
    assert _pauses(status(503), random=lambda: 1.0, total_timeout_s=60) == [0.5, 1.0, 2.0, 4.0, 5.0]
    assert _pauses(status(503), random=lambda: 0.25, retries=2) == [0.125, 0.25]


@pytest.mark.parametrize(
    ("retry_after", "pauses"),
    [("1", [1.0]), ("0.25", [0.25]), ("30", []), ("soon", [0.5]), (format_datetime(datetime.now(timezone.utc)), [0.0])],
)
def test_a_short_retry_after_is_kept_and_a_long_one_ends_the_attempts(retry_after: str, pauses: list[float]) -> None:
    assert _pauses(status(429, Retry_After=retry_after), retries=1, random=lambda: 1.0) == pauses


def test_a_retry_after_date_in_the_future_is_waited_for() -> None:
    soon = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=4))
    (pause,) = _pauses(status(429, Retry_After=soon), retries=1, total_timeout_s=60)
    assert 2 < pause <= 4


def test_no_pause_goes_beyond_the_total_time() -> None:
    assert _pauses(status(503), random=lambda: 1.0, total_timeout_s=0.3) == []


def test_being_out_of_time_is_not_retried() -> None:
    assert _pauses(bad.drip, total_timeout_s=0.4) == []


# Cancelling


CANCELLED: list[tuple[str, Behaviour, dict[str, Any], str]] = [
    ("before headers", bad.hang_before_headers, {}, ""),
    ("after headers", bad.hang_after_headers, {}, ""),
    ("in the answer", bad.hang_after_text, {}, "Hel"),
    ("in back-off", status(503, Retry_After="5"), {"retries": 2}, ""),
]


@pytest.mark.parametrize(
    ("behaviour", "changes", "text"), [case[1:] for case in CANCELLED], ids=[case[0] for case in CANCELLED]
)
def test_cancelling_ends_the_answer_within_half_a_second(
    behaviour: Behaviour, changes: dict[str, Any], text: str
) -> None:
    with misbehaving_cloud(behaviour) as cloud:
        model, cancelled = cloud_model(cloud, read_timeout_s=30, total_timeout_s=30, **changes), threading.Event()
        due = time.monotonic() + 0.2
        threading.Timer(0.2, cancelled.set).start()
        got, completion = ask(model, HELLO, cancelled)
        assert 0 <= time.monotonic() - due < 0.5
        assert got == completion.text == text
        assert completion.finish_reason == "cancelled"
        assert (completion.first_token_ms is None) == (text == "")
        if "retries" not in changes:
            assert cloud.hung_up.wait(0.5), "the cloud goes on generating for nobody"
        assert (model.state, model.last_error) == ("closed", None)
    _wait_until(lambda: not _cloud_threads())


def test_a_query_cancelled_before_it_begins_is_not_sent() -> None:
    cancelled = threading.Event()
    cancelled.set()
    with misbehaving_cloud(answering("no")) as cloud:
        assert ask(cloud_model(cloud), HELLO, cancelled)[1].finish_reason == "cancelled"
        assert cloud.requests == []


def test_cancelling_stops_a_fast_answer_too() -> None:
    with misbehaving_cloud(bad.endless) as cloud:
        cancelled = threading.Event()
        chunks = cloud_model(cloud).generate(HELLO, cancelled)
        next(chunks)
        cancelled.set()
        assert list(chunks) == []


# The circuit breaker


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Iterator[Clock]:
    yield Clock()


def test_the_breaker_opens_after_failures_in_a_row_and_closes_after_a_good_trial(clock: Clock) -> None:
    with misbehaving_cloud(in_turn(status(500), status(500), answering("hello"))) as cloud:
        model = cloud_model(cloud, clock=clock, breaker_failures=2, breaker_cooldown_s=30)
        for state in ("closed", "open", "open"):
            with pytest.raises(CloudUnavailable):
                ask(model)
            assert (model.state, model.available) == (state, state == "closed")
        assert len(cloud.requests) == 2, "an open breaker asks nothing of the cloud"
        assert model.last_error and "answered 500" in model.last_error
        clock.now += 30
        assert (model.state, model.available) == ("half_open", True)
        assert ask(model)[0] == "hello"
    assert (model.state, model.last_error) == ("closed", None)


def test_a_failed_trial_opens_the_breaker_again_after_one_attempt(clock: Clock) -> None:
    with misbehaving_cloud(status(500)) as cloud:
        model = cloud_model(cloud, clock=clock, breaker_failures=1, retries=2, sleep=lambda *_: None)
        for requests in (3, 4):
            with pytest.raises(CloudUnavailable):
                ask(model)
            assert (model.state, len(cloud.requests)) == ("open", requests)
            clock.now += 30


def test_a_cancelled_trial_leaves_the_next_one_free(clock: Clock) -> None:
    cancelled = threading.Event()
    cancelled.set()
    with misbehaving_cloud(in_turn(status(500), answering("hello"))) as cloud:
        model = cloud_model(cloud, clock=clock, breaker_failures=1)
        with pytest.raises(CloudUnavailable):
            ask(model)
        clock.now += 30
        assert ask(model, HELLO, cancelled)[1].finish_reason == "cancelled"
        assert ask(model)[0] == "hello"


@pytest.mark.parametrize("code", [401, 402, 403])
def test_a_refused_key_is_remembered_and_does_not_open_the_breaker(code: int) -> None:
    with misbehaving_cloud(in_turn(status(500), status(code), status(500))) as cloud:
        model = cloud_model(cloud, breaker_failures=2)
        for expected in (500, code, 500):
            with pytest.raises(CloudError):
                ask(model)
            assert model.last_error and f"answered {expected}" in model.last_error
    assert model.available


def test_only_one_trial_runs_at_a_time_and_one_that_left_makes_room(clock: Clock) -> None:
    breaker = CircuitBreaker(failures=1, cooldown_s=10, clock=clock)
    breaker.failed()
    assert breaker.admit() == "open"
    clock.now += 10
    assert [breaker.admit(), breaker.admit()] == ["half_open", "open"]
    breaker.left()
    assert breaker.admit() == "half_open"
    breaker.succeeded()
    assert breaker.admit() == "closed"


def test_failures_that_come_in_late_do_not_prolong_the_cooldown(clock: Clock) -> None:
    breaker = CircuitBreaker(failures=1, cooldown_s=10, clock=clock)
    breaker.failed()
    clock.now += 9
    breaker.failed()
    clock.now += 1
    assert breaker.state == "half_open"


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


def _cloud_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "cloud"]


def _wait_until(condition: Any, seconds: float = 2.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)
