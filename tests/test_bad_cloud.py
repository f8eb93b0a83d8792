"""The cloud model against an endpoint that misbehaves in every way that docs/cloud.md lists."""

from __future__ import annotations

import resource
import socket
import threading
import time
import tracemalloc
from pathlib import Path

import pytest

from edge_agent.errors import CloudError, CloudRejected, CloudUnavailable
from edge_agent.types import Chunk
from tests import misbehaving_cloud as bad
from tests.asking_a_cloud import HELLO, ask, cloud_model, cloud_threads, failing, pauses_of, wait_until
from tests.misbehaving_cloud import CERTIFICATE, Behaviour, answering, misbehaving_cloud, piece, status


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """TLS tests take the environment's proxy, which must not be this machine's."""
    monkeypatch.setenv("NO_PROXY", "*")


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
    ("429", status(429, {"error": {"code": "rate_limit_exceeded"}}), r"answered 429 \(rate_limit_exceeded\)"),
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


def called(**call: object) -> Behaviour:
    """Streams one piece of a tool call."""
    return bad.events(piece(tool_calls=[call]), piece(finish="tool_calls"))


def measuring(length: bytes) -> Behaviour:
    """Answers with this Content-Length."""
    return lambda request, wire: wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: " + length + b"\r\n\r\nhello")


REJECTED: list[tuple[str, Behaviour, int | None, str]] = [
    (
        "400",
        status(400, {"error": {"message": "bad top_p", "type": "invalid_request_error"}}),
        400,
        "invalid_request_error",
    ),
    ("401", status(401, {"error": {"code": "invalid_api_key"}}), 401, r"401 \(invalid_api_key\): check the key"),
    ("402", status(402), 402, "no credit"),
    ("429, no credit", status(429, {"error": {"code": "insufficient_quota"}}), 402, r"429 .*no credit left"),
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
    ("tool name NaN", called(function={"name": float("nan")}), None, "something else"),
    ("tool name list", called(function={"name": ["f"]}), None, "something else"),
    ("tool id object", called(id={"a": 1}), None, "something else"),
    ("tool arguments list", called(function={"name": "f", "arguments": [1]}), None, "something else"),
    ("tool index text", called(index="0"), None, "something else"),
    ("tool index true", called(index=True), None, "something else"),
    ("tool index huge", called(index=1 << 63), None, "something else"),
    ("negative length", measuring(b"-5"), None, "malformed answer: its headers"),
    ("two lengths", measuring(b"5, 6"), None, "malformed answer: its headers"),
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


@pytest.mark.parametrize("events", [1, 6, 129])
def test_more_tool_calls_than_anyone_makes_are_rejected_at_once(events: int) -> None:
    calls = [{"index": i} for i in range(40_000 if events < 129 else 1)]
    sent = [piece(tool_calls=[call | {"index": call["index"] + event} for call in calls]) for event in range(events)]
    error, _, seconds = failing(bad.events(*sent))
    assert isinstance(error, CloudRejected)
    assert "more than 128 tool calls" in error.message
    assert seconds < 2


def test_long_arguments_in_many_pieces_are_merged_in_time() -> None:
    long, short = ({"index": 0, "function": {"arguments": text}} for text in ("x" * 500_000, "y"))
    sent = [piece(tool_calls=[long])] * 6 + [piece(tool_calls=[short] * 128)] * 200 + [piece(finish="stop")]
    started = time.monotonic()
    with misbehaving_cloud(bad.events(*sent)) as cloud:
        _, completion = ask(cloud_model(cloud))
    assert len(completion.tool_calls[0]["function"]["arguments"]) == 6 * 500_000 + 200 * 128
    assert time.monotonic() - started < 3


def test_a_retry_after_beyond_all_years_is_as_good_as_none() -> None:
    year = f"Fri, 31 Dec {'9' * 20} 23:59:59 GMT"
    assert len(pauses_of(status(503, Retry_After=year), retries=2)) == 2


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
    assert pauses_of(answering("no"), tls=True) == [], "a certificate does not mend itself in seconds"


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
        ask(cloud_model("https://a..b/v1"))


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
        wait_until(lambda: not cloud_threads())


def test_an_error_body_that_hangs_is_not_waited_for() -> None:
    error, _, seconds = failing(bad.hang_in_error_body, read_timeout_s=30, total_timeout_s=30)
    assert "answered 500" in error.message
    assert seconds < 3
