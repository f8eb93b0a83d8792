"""The receiver through its door: a real process, real sockets, TLS, kill -9."""

from __future__ import annotations

import gzip
import random
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme

from edge_agent.decision_log import DecisionLog
from edge_agent.log_batches import encode
from edge_agent.training.inbox import Inbox
from tests.log_rows import numbered, write_log
from tests.training.receiving import (
    LOG,
    OTHER_LOG,
    ReceiverProcess,
    add_device,
    batch,
    exchange_row,
    exchanges,
    header,
    run_tool,
    running_receiver,
    stored_ids,
    sync,
    tombstone,
)

SILENT_S = 1.0


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReceiverProcess]:
    """One with TLS, shared; each test has a device of its own."""
    directory = tmp_path_factory.mktemp("receiver")
    authority = trustme.CA()
    server = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(directory / "ca.pem")
    server.private_key_pem.write_to_path(directory / "key.pem")
    for part in server.cert_chain_pems:
        part.write_to_path(directory / "cert.pem", append=True)
    options = ["--tls-cert", directory / "cert.pem", "--tls-key", directory / "key.pem"]
    limits = ["--max-body-bytes", "100000", "--max-decoded-bytes", "1000000", "--silent-client-s", str(SILENT_S)]
    ca_file = str(directory / "ca.pem")
    with running_receiver(directory / "inbox.db", *options, *limits, ca_file=ca_file) as running:
        yield running


@pytest.fixture
def inbox(receiver: ReceiverProcess) -> Iterator[Inbox]:
    inbox = Inbox(receiver.inbox_file)
    yield inbox
    inbox.close()


@pytest.fixture
def device(request: pytest.FixtureRequest) -> str:
    return re.sub(r"[^a-z0-9]+", "-", request.node.name)[-50:].strip("-")


def count(inbox: Inbox, device: str) -> int:
    return int(inbox.read("SELECT count(*) FROM exchanges WHERE device_id = ?", [device])[0][0])


def test_a_batch_over_tls_is_in_the_inbox_once(receiver: ReceiverProcess, inbox: Inbox, device: str) -> None:
    token = receiver.token(device)
    answers = [receiver.send(batch(device=device), token) for _ in range(2)]
    assert [answer.json() for answer in answers] == [
        {"accepted": 3, "duplicates": 0, "rejected": 0, "last_seq": 3},
        {"accepted": 0, "duplicates": 3, "rejected": 0, "last_seq": 3},
    ]
    assert count(inbox, device) == 3
    assert receiver.position(token).json() == {"last_seq": 3, "id": "exchange-3"}


def test_a_tombstone_over_the_wire_deletes(receiver: ReceiverProcess, inbox: Inbox, device: str) -> None:
    token = receiver.token(device)
    rows = [exchange_row(1, id=f"{device}-1")]
    receiver.send(encode(header(0, 1, device=device), rows), token)
    gone = encode(header(0, 1, "forgotten", device=device), [tombstone(1, f"{device}-1")])
    assert receiver.send(gone, token).json()["accepted"] == 1
    assert receiver.send(encode(header(0, 1, device=device), rows), token).json()["duplicates"] == 1
    assert count(inbox, device) == 0


def test_who_does_not_know_our_authority_does_not_connect(receiver: ReceiverProcess) -> None:
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(f"{receiver.url}/health", timeout=5)
    assert requests.get(f"{receiver.url}/health", verify=receiver.ca_file, timeout=5).json() == {"status": "ok"}


def newer(device: str) -> bytes:
    return gzip.compress(gzip.decompress(batch(device=device)).replace(b"edge-agent-log@1", b"edge-agent-log@2"))


REFUSED: dict[str, tuple[Any, dict[str, str], int, str, str]] = {
    "no token": (batch, {"authorization": ""}, 401, "invalid_api_key", "add-device"),
    "a wrong token": (batch, {"authorization": "Bearer x.y"}, 401, "invalid_api_key", "add-device"),
    "another device": (lambda device: batch(device="x"), {}, 403, "other_device", "the token is for"),
    "another hash": (batch, {"x_content_sha256": "0" * 64}, 400, "sha256_mismatch", "send it again"),
    "no hash": (batch, {"x_content_sha256": ""}, 400, "sha256_mismatch", "send it again"),
    "cut off": (lambda device: batch(device=device)[:-20], {}, 400, "bad_batch", "truncated"),
    "empty": (lambda device: b"", {}, 400, "bad_batch", "truncated"),
    "no gzip": (lambda device: b"{}\n", {}, 400, "bad_batch", "expected gzip"),
    "a newer format": (newer, {}, 400, "unknown_format", "same version at both ends"),
    "another type": (batch, {"content_type": "text/csv"}, 415, "unsupported_media_type", "found 'text/csv'"),
    "not compressed": (batch, {"content_encoding": "identity"}, 415, "unsupported_media_type", "expected gzip"),
    "too large": (lambda device: random.Random(0).randbytes(300_000), {}, 413, "request_too_large", "at most 100000"),
    "a bomb": (
        lambda device: encode(header(0, 1, device=device), [exchange_row(1, text="0" * 20_000_000)]),
        {},
        413,
        "request_too_large",
        "at most 1000000 bytes when unpacked",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_batch_of_this_device_is_refused_in_words(
    receiver: ReceiverProcess, inbox: Inbox, device: str, case: str
) -> None:
    make, headers, status, code, words = REFUSED[case]
    body = batch(device=device) if make is batch else make(device)
    answer = receiver.send(body, receiver.token(device), **headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert words in error["message"]
    assert count(inbox, device) == 0


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/batches", 405, "method_not_allowed"),
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/v1/position?log_id=x&table=exchanges", 401, "invalid_api_key"),
    ],
)
def test_another_address_is_refused_in_words(
    receiver: ReceiverProcess, method: str, path: str, status: int, code: str
) -> None:
    answer = requests.request(method, receiver.url + path, verify=receiver.ca_file, timeout=5)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_the_position_of_an_unknown_table_is_refused(receiver: ReceiverProcess, device: str) -> None:
    answer = receiver.position(receiver.token(device), table="secrets")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "table")


def test_two_devices_with_one_id_are_told_apart(receiver: ReceiverProcess, device: str) -> None:
    token = receiver.token(device)
    receiver.send(batch(device=device), token)
    receiver.send(encode(header(0, 1, device=device, log_id=OTHER_LOG), [exchange_row(1, id="other")]), token)
    answer = receiver.send(batch(3, 5, device=device), token)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "device_conflict")
    assert "two devices have one id" in run_tool("devices", "--inbox", receiver.inbox_file)


def test_a_token_revoked_by_a_command_is_refused_at_once(receiver: ReceiverProcess, device: str) -> None:
    printed = run_tool("add-device", "--inbox", receiver.inbox_file, device)
    token = printed.split()[0]
    assert receiver.send(batch(device=device), token).status_code == 200
    run_tool("revoke-device", "--inbox", receiver.inbox_file, device)
    answer = receiver.send(batch(3, 5, device=device), token)
    assert answer.status_code == 401
    assert "was revoked at" in answer.json()["error"]["message"]
    assert token.rpartition(".")[2] not in receiver.printed


def test_a_skewed_clock_changes_nothing_but_is_pointed_out(receiver: ReceiverProcess, device: str) -> None:
    sent = {"x_edge_agent_sent_utc": "1999-12-31T23:59:59.000Z"}
    assert receiver.send(batch(device=device), receiver.token(device), **sent).json()["accepted"] == 3
    assert f"WARNING {device}: its clock is" in receiver.printed


# What a device really does


def test_a_device_syncs_forgets_and_loses_its_position_and_each_row_is_here_once(
    receiver: ReceiverProcess, inbox: Inbox, device: str, tmp_path: Path
) -> None:
    ids, token = write_log(tmp_path / "log.db", numbered(700)), receiver.token(device)
    sync(receiver, tmp_path, device, token)
    assert count(inbox, device) == len(ids)
    with closing(DecisionLog(tmp_path / "log.db")) as log:
        log.forget(ids[5])
    ids += write_log(tmp_path / "log.db", numbered(20, first=700))
    next((tmp_path / "state").rglob("sync-state.json")).unlink()
    sync(receiver, tmp_path, device, token)
    arrived = inbox.read("SELECT id FROM exchanges WHERE device_id = ? ORDER BY seq", [device])
    assert [row[0] for row in arrived] == [one for one in ids if one != ids[5]]


def test_a_copied_card_that_lost_its_position_does_not_pass_over_its_own_rows(
    receiver: ReceiverProcess, inbox: Inbox, device: str, tmp_path: Path
) -> None:
    first, second, token = tmp_path / "first", tmp_path / "second", receiver.token(device)
    write_log(first / "log.db", numbered(10))
    second.mkdir()
    shutil.copy(first / "log.db", second)
    ids = write_log(second / "log.db", numbered(9, first=20))
    write_log(first / "log.db", numbered(5, first=10))
    sync(receiver, first, device, token)
    assert "two devices have one log" in sync(receiver, second, device, token, expect=1)
    sync(receiver, second, f"{device}-b", receiver.token(f"{device}-b"))
    arrived = inbox.read("SELECT id FROM exchanges WHERE device_id = ? ORDER BY seq", [f"{device}-b"])
    assert [row[0] for row in arrived][-len(ids) :] == ids


def test_a_device_with_anothers_token_is_told_what_to_do(
    receiver: ReceiverProcess, device: str, tmp_path: Path
) -> None:
    write_log(tmp_path / "log.db", numbered(3))
    printed = sync(receiver, tmp_path, "another", receiver.token(device), expect=1)
    assert f"the token is for {device!r}, the batch for 'another'" in printed


# Clients that are slow, silent, or gone


def connected(receiver: ReceiverProcess) -> ssl.SSLSocket:
    host, port = receiver.url.removeprefix("https://").split(":")
    context = ssl.create_default_context(cafile=str(receiver.ca_file))
    return context.wrap_socket(socket.create_connection((host, int(port)), timeout=10), server_hostname=host)


def begin_upload(receiver: ReceiverProcess, device: str, body: bytes, sent: int) -> ssl.SSLSocket:
    """Send the headers and the first bytes of an upload."""
    request = requests.Request("POST", f"{receiver.url}/v1/batches", data=body).prepare()
    lines = ["POST /v1/batches HTTP/1.1", "Host: x", f"Content-Length: {request.headers['Content-Length']}"]
    lines += [f"Authorization: Bearer {receiver.token(device)}", "Content-Type: application/x-ndjson"]
    connection = connected(receiver)
    connection.sendall("\r\n".join([*lines, "Content-Encoding: gzip", "", ""]).encode() + body[:sent])
    return connection


def test_an_upload_that_falls_silent_is_ended_and_holds_up_nobody(
    receiver: ReceiverProcess, inbox: Inbox, device: str
) -> None:
    with begin_upload(receiver, device, batch(device=device), 50) as connection:
        start = time.monotonic()
        assert receiver.send(batch(device=f"{device}-b"), receiver.token(f"{device}-b")).status_code == 200
        assert time.monotonic() - start < SILENT_S
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 408") and b"request_timeout" in answer
    assert count(inbox, device) == 0


def test_an_upload_whose_client_vanishes_leaves_nothing(receiver: ReceiverProcess, inbox: Inbox, device: str) -> None:
    begin_upload(receiver, device, batch(device=device), 50).close()
    assert receiver.send(batch(device=f"{device}-b"), receiver.token(f"{device}-b")).status_code == 200
    assert count(inbox, device) == 0


def test_what_is_no_http_does_not_hurt(receiver: ReceiverProcess) -> None:
    host, port = receiver.url.removeprefix("https://").split(":")
    with socket.create_connection((host, int(port))) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
    with connected(receiver) as connection:
        connection.sendall(b"\0\xff" * 100 + b"\r\n\r\n")
    assert requests.get(f"{receiver.url}/health", verify=receiver.ca_file, timeout=5).ok
    assert "Traceback" not in receiver.printed


def test_many_devices_at_once_each_arrive_once(receiver: ReceiverProcess, inbox: Inbox) -> None:
    names = [f"crowd-{number}" for number in range(6)]
    tokens = {name: receiver.token(name) for name in names}

    def upload(name: str) -> None:
        with requests.Session() as session:
            for after in (0, 10, 5, 20, 10, 0):  # repeated, reordered, overlapping
                body = batch(after, after + 10, device=name)
                assert receiver.send(body, tokens[name], session=session).status_code == 200

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(upload, names))
    assert [count(inbox, name) for name in names] == [30] * len(names)
    assert [inbox.position(name, LOG, "exchanges") for name in names] == [30] * len(names)


# A receiver of their own


def test_a_full_disk_is_said_and_nothing_is_lost(tmp_path: Path) -> None:
    large = encode(header(3, 5), [exchange_row(seq, text="y" * 60_000) for seq in (4, 5)])
    with running_receiver(tmp_path / "inbox.db", "--max-inbox-bytes", "180000") as full:
        token = full.token()
        assert full.send(batch(), token).status_code == 200
        answer = full.send(large, token)
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "disk_full")
        assert int(answer.headers["retry-after"]) > 0
        assert full.position(token).json()["last_seq"] == 3
        assert full.send(batch(3, 4), token).json()["accepted"] == 1  # there is room for less
    with running_receiver(tmp_path / "inbox.db") as roomy:
        assert roomy.send(large, token).json() == {"accepted": 1, "duplicates": 1, "rejected": 0, "last_seq": 5}


def test_an_upload_that_has_begun_ends_before_the_receiver_does(tmp_path: Path) -> None:
    with running_receiver(tmp_path / "inbox.db") as receiver:
        token, body = receiver.token(), batch()

        def slowly() -> Iterator[bytes]:
            yield body[:100]
            receiver.process.terminate()
            time.sleep(0.3)
            yield body[100:]

        answer = receiver.send(body, token, session=Streaming(slowly()))
        assert answer.json()["accepted"] == 3
        assert receiver.process.wait(20) == 0
        assert "Traceback" not in receiver.printed


class Streaming:
    """A session whose body comes in pieces."""

    def __init__(self, parts: Iterator[bytes]):
        self._parts = parts

    def post(self, url: str, *, data: bytes, **options: Any) -> requests.Response:
        return requests.post(url, data=self._parts, **options)


def test_killed_at_any_moment_it_has_each_acknowledged_batch_and_no_half_one(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path / "inbox.db")
    token, rng, acknowledged = add_device(inbox.path, "kitchen"), random.Random(7), 0
    for _ in range(10):
        with running_receiver(inbox.path) as receiver:
            acknowledged = upload_until_killed(receiver, token, acknowledged, kill_after_s=rng.uniform(0.0, 0.3))
        stored = stored_ids(inbox)
        assert len(stored) in (acknowledged, acknowledged + 10)
        assert inbox.position("kitchen", LOG, "exchanges") == len(stored)
    with running_receiver(inbox.path) as receiver:
        assert receiver.send(batch(acknowledged, acknowledged + 10), token).ok
    assert stored_ids(inbox) == [f"exchange-{seq}" for seq in range(1, acknowledged + 11)]
    assert acknowledged > 0


def upload_until_killed(receiver: ReceiverProcess, token: str, acknowledged: int, kill_after_s: float) -> int:
    """As a device does: the same batch until it is acknowledged, then the next one; the last seq that was."""
    killer = threading.Timer(kill_after_s, receiver.process.kill)
    killer.start()
    with requests.Session() as session, suppress(requests.RequestException):
        while True:
            answer = receiver.send(batch(acknowledged, acknowledged + 10), token, session=session)
            acknowledged = answer.json()["last_seq"]
    killer.join()
    return acknowledged


# The command line


def test_tokens_do_not_travel_in_the_clear(tmp_path: Path) -> None:
    printed = run_tool("serve", "--inbox", tmp_path / "inbox.db", "--host", "0.0.0.0", expect=78)
    assert "tokens would travel in the clear; give --tls-cert and --tls-key, or --behind-proxy" in printed
    assert not (tmp_path / "inbox.db").exists()


def test_a_certificate_without_its_key_is_named(tmp_path: Path, receiver: ReceiverProcess) -> None:
    other = trustme.CA().issue_cert("127.0.0.1")
    other.private_key_pem.write_to_path(tmp_path / "key.pem")
    pair = ["--tls-cert", receiver.inbox_file.with_name("cert.pem"), "--tls-key", tmp_path / "key.pem"]
    printed = run_tool("serve", "--inbox", tmp_path / "inbox.db", *pair, expect=78)
    assert "key.pem: not a certificate with its key" in printed


def test_a_port_that_is_taken_is_named(tmp_path: Path, receiver: ReceiverProcess) -> None:
    port = receiver.url.rpartition(":")[2]
    assert f"--port {port}: cannot listen there" in run_tool(
        "serve", "--inbox", tmp_path / "inbox.db", "--port", port, expect=78
    )


def test_a_conversation_is_forgotten_by_a_command(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path / "inbox.db")
    inbox.add(header(0, 2), [exchange_row(1), exchange_row(2, parent_id="exchange-1")])
    printed = run_tool("forget", "--inbox", inbox.path, "exchange-2")
    assert "2 exchanges deleted; 2 ids are refused from now on" in printed
    assert inbox.add(header(0, 2), exchanges(0, 2)).accepted == 0


def test_forgetting_takes_the_beginning_of_an_id_and_refuses_what_is_none(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path / "inbox.db")
    ids = write_log(tmp_path / "log.db", numbered(3, private_every=99, first=1))
    inbox.add(header(0, 3), [exchange_row(seq, id=own) for seq, own in enumerate(ids, 1)])
    tool = ["forget", "--inbox", inbox.path]
    for wrong in ("nothing", ids[0][:8], ""):
        assert "give the whole one" in run_tool(*tool, wrong, expect=78)
    assert "1 exchanges deleted" in run_tool(*tool, ids[1][-10:])
    assert stored_ids(inbox) == [ids[0], ids[2]] and inbox.status()["forgotten"] == 1


def test_a_token_is_alone_on_standard_output(tmp_path: Path) -> None:
    command = [sys.executable, "tools/receive_logs.py", "add-device", "kitchen", "--inbox", tmp_path / "inbox.db"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert len(done.stdout.split()) == 1 and "sync.device_id to kitchen" in done.stderr


def test_an_import_of_nothing_says_so(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    printed = run_tool("import", (tmp_path / "there").as_uri(), "--inbox", tmp_path / "inbox.db", expect=78)
    assert "no objects of edge-agent below it" in printed
