"""Sync to a receiver that drops connections, answers late, refuses or lies: each row arrives once."""

from __future__ import annotations

import datetime
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.errors import ConfigError, SyncError, SyncRefused
from edge_agent.sync import Patience
from edge_agent.sync_http import HttpDestination
from tests.conftest import free_port
from tests.log_rows import exchange, numbered, rate, write_log
from tests.misbehaving_cloud import CERTIFICATE, PRIVATE_KEY
from tests.misbehaving_station import TOKEN, Mood, misbehaving_station
from tests.sync_device import Device, Run, device, run

__all__ = ["device", "run"]


class Time:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now, self.pauses = 0.0, []

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def patience(self, give_up_s: float = 120.0, jitter: Any = lambda low, high: high) -> Patience:
        return Patience(give_up_s, clock=lambda: self.now, sleep=self.sleep, jitter=jitter)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


def to(url: str, **settings: Any) -> HttpDestination:
    return HttpDestination(url, TOKEN, **({"timeout_s": 0.3} | settings))


TROUBLES: list[tuple[Mood, ...]] = [
    (),
    ("cut mid-body",),
    ("cut before the answer",),
    ("cut in the answer",),
    ("late",),
    (408, 429, 500, 502, 503, 504, 507),
    ("cut before the answer", "late", 500, "cut mid-body", "well", "late", "cut in the answer"),
]


@pytest.mark.parametrize("moods", TROUBLES, ids=[" ".join(map(str, moods)) or "none" for moods in TROUBLES])
def test_each_row_is_there_once_whatever_happened_on_the_way(device: Device, moods: tuple[Mood, ...]) -> None:
    ids = write_log(device.log, numbered(100))
    feedback = rate(device.log, ids[0])
    with misbehaving_station(*moods) as station:
        device.sync(destination=to(station.url), max_rows=30, patience=Time().patience(1000))
        assert station.ids == ids and list(station.rows["feedback"]) == [feedback]
        assert device.position(destination=station.url) == 100
        assert len(station.bodies) <= 4 + len(moods)


def test_a_run_that_ended_anywhere_is_gone_on_with_by_the_next(device: Device) -> None:
    ids = write_log(device.log, numbered(100))
    moods: tuple[Mood, ...] = ("well", "cut before the answer", "well", "late", 500)
    with misbehaving_station(*moods) as station:
        failures = 0
        for rows in (20, 30, 25, 40, 50, 60):  # what was not acknowledged comes again with other bounds
            try:
                device.sync(destination=to(station.url), max_rows=rows, patience=Patience(0.0))
            except SyncError:
                failures += 1
    assert failures == 3 and station.ids == ids and station.repeats > 0


def test_a_request_says_who_when_and_what(device: Device) -> None:
    write_log(device.log, numbered(3))
    with misbehaving_station() as station:
        device.sync(destination=to(station.url))
    path, headers = station.requests[1]
    assert path == "/v1/batches"
    assert headers["authorization"] == f"Bearer {TOKEN}" and headers["content-encoding"] == "gzip"
    assert headers["content-type"] == "application/x-ndjson" and int(headers["content-length"]) == len(
        station.bodies[0]
    )
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", headers["x-edge-agent-sent-utc"])


def test_a_lost_position_is_asked_for(device: Device) -> None:
    ids = write_log(device.log, numbered(50))
    with misbehaving_station() as station:
        device.sync(destination=to(station.url))
        device.state.path.unlink()
        ids += write_log(device.log, numbered(10, first=60))
        device.sync(destination=to(station.url))
    assert station.ids == ids and station.repeats == 0
    assert "/v1/position?log_id=" in station.requests[-4][0]


# Too large


def test_a_batch_that_is_too_large_is_halved_until_it_is_taken(device: Device) -> None:
    ids = write_log(device.log, [exchange(bytes(range(i, i + 100)).hex() * 3) for i in range(64)])
    with misbehaving_station(max_body_bytes=1500) as station:
        device.sync(destination=to(station.url), patience=Time().patience())
    assert station.ids == ids
    assert len(station.requests) < 40  # once small enough, the next ones are small at once


def test_a_row_that_is_too_large_alone_is_named_and_stays(device: Device) -> None:
    small, large = write_log(device.log, [exchange(), exchange("".join(chr(0x4E00 + i * 7) for i in range(2000)))])
    with misbehaving_station(max_body_bytes=1500) as station:
        with pytest.raises(
            SyncRefused, match=f"exchanges {large}: this row alone is [0-9]+ bytes when packed"
        ) as caught:
            device.sync(destination=to(station.url))
        assert "raise its --max-body-bytes, or forget the row" in caught.value.message
        assert station.ids == [small] and device.position(destination=station.url) == 1


# Refused


@pytest.mark.parametrize(
    ("mood", "says"),
    [
        (400, "answered 400: no 400; see docs/sync.md"),
        (401, "answered 401: no 401; make one there with `tools/receive_logs.py add-device`"),
        (403, "answered 403: no 403; the token belongs to another device"),
        (404, "answered 404: no 404; sync.destination should be the address of"),
        (409, "answered 409: no 409; nothing is lost: set another sync.device_id"),
        (301, "answered 301: no 301"),
        ("nonsense", "expected a receipt with last_seq from the receiver, found .*another server.*; check sync.destin"),
    ],
)
def test_a_refusal_ends_the_run_with_one_sentence_and_moves_nothing(device: Device, mood: Mood, says: str) -> None:
    write_log(device.log, numbered(20))
    clock = Time()
    with misbehaving_station(mood) as station:
        with pytest.raises(SyncRefused, match=says) as caught:
            device.sync(destination=to(station.url), patience=clock.patience())
        assert caught.value.exit_code == 1 and clock.pauses == []
        assert (device.position(destination=station.url), len(station.bodies)) == (0, 1)
        assert caught.value.message in device.state.facts(station.url)["last_error"]


def test_the_token_goes_nowhere_else(device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_log(device.log, numbered(2))
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with misbehaving_station() as elsewhere, misbehaving_station(307) as station:
        with pytest.raises(SyncRefused):
            device.sync(destination=to(station.url))
        assert elsewhere.requests == []
        assert {headers["authorization"] for _, headers in station.requests} == {f"Bearer {TOKEN}"}


# Trying again


def test_pauses_grow_with_jitter_are_bounded_and_end(device: Device) -> None:
    write_log(device.log, numbered(2))
    clock, asked = Time(), []
    patience = clock.patience(300.0, jitter=lambda low, high: asked.append((low, high)) or high)
    with (
        misbehaving_station(*[500] * 50) as station,
        pytest.raises(SyncError, match="answered 500: no 500; it is tried"),
    ):
        device.sync(destination=to(station.url), patience=patience)
    assert [pair for pair in asked[:8]] == [(0.0, float(top)) for top in (1, 2, 4, 8, 16, 32, 60, 60)]
    assert 240 < clock.now <= 300


@pytest.mark.parametrize(("give_up_s", "pauses"), [(120.0, [7.0]), (5.0, [])])
def test_retry_after_is_kept_or_is_the_end(device: Device, give_up_s: float, pauses: list[float]) -> None:
    write_log(device.log, numbered(2))
    clock = Time()
    with misbehaving_station(503) as station:
        try:
            device.sync(destination=to(station.url), patience=clock.patience(give_up_s))
        except SyncError as error:
            assert error.exit_code == 75 and pauses == []
    assert clock.pauses == pauses


# A network that is not there


def shown(done: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
    return done.returncode, done.stdout, done.stderr


def test_a_network_that_is_down_is_no_news_and_its_return_is_one_line(device: Device, run: Run) -> None:
    write_log(device.log, numbered(10))
    port = free_port()
    environ = {"EDGE_AGENT_SYNC_TOKEN": TOKEN, "EDGE_AGENT_SYNC_DESTINATION": f"http://127.0.0.1:{port}"}
    for _ in range(2):
        assert shown(run(**environ)) == (75, "", "")
    assert "Connection refused" in run(**environ, EDGE_AGENT_LOGGING_LEVEL="debug").stderr
    since = device.state.facts(f"http://127.0.0.1:{port}")["down_since_utc"]
    with misbehaving_station(port=port) as station:
        code, out, err = shown(run(**environ))
        assert (code, err) == (0, "") and len(station.ids) == 8
        assert re.fullmatch(
            rf"sent 8 exchanges to {station.url} \(.*\); it answers again, after it did not since .*\n", out
        )
        assert since[11:19] in out
        assert shown(run(**environ)) == (0, "", "")


def test_trouble_at_the_receiver_is_said_and_is_for_later(device: Device, run: Run) -> None:
    write_log(device.log, numbered(10))
    with misbehaving_station(507) as station:
        code, out, err = shown(run("--to", station.url, EDGE_AGENT_SYNC_TOKEN=TOKEN))
    assert (code, out) == (75, "") and err == f"error: {station.url} answered 507: no 507; it is tried again later\n"


def test_a_refusal_is_exit_code_1_and_one_line(device: Device, run: Run) -> None:
    write_log(device.log, numbered(10))
    with misbehaving_station(401) as station:
        code, out, err = shown(run("--to", station.url, EDGE_AGENT_SYNC_TOKEN=TOKEN))
    assert (code, out, err.count("\n")) == (1, "", 1) and "the variable that sync.token_env names" in err


# TLS


@pytest.fixture
def own_ca(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A certificate with its key for the station, and the certificate alone for the device."""
    both, alone = tmp_path / "station.pem", tmp_path / "ca.pem"
    both.write_text(CERTIFICATE + PRIVATE_KEY)
    alone.write_text(CERTIFICATE)
    yield both, alone


def test_a_private_authority_is_trusted_when_it_is_named(
    device: Device, own_ca: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ids = write_log(device.log, numbered(10))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none.pem"))  # must not win over sync.ca_file
    with misbehaving_station(certificate=own_ca[0]) as station:
        device.sync(destination=to(station.url, ca_file=str(own_ca[1]), timeout_s=5.0))
        assert station.ids == ids


def test_an_unknown_authority_is_refused_before_the_token_is_sent(device: Device, own_ca: tuple[Path, Path]) -> None:
    write_log(device.log, numbered(10))
    with misbehaving_station(certificate=own_ca[0]) as station:
        with pytest.raises(SyncRefused, match="self-signed certificate; set sync.ca_file to the certificate of the"):
            device.sync(destination=to(station.url, timeout_s=5.0))
        assert station.requests == []


@pytest.mark.parametrize(("days", "says"), [(-2, "certificate has expired"), (2, "certificate is not yet valid")])
def test_a_certificate_of_another_time_names_the_clock(device: Device, tmp_path: Path, days: int, says: str) -> None:
    write_log(device.log, numbered(10))
    both = certificate_of(tmp_path, datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days))
    with (
        misbehaving_station(certificate=both) as station,
        pytest.raises(SyncRefused, match=rf"{says}: the clock of this device says 20.*; if that is wrong, set it"),
    ):
        device.sync(destination=to(station.url, ca_file=str(both), timeout_s=5.0))


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_file_without_certificates_is_a_wrong_setting(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "ca.pem"
    if content:
        file.write_text(content)
    with pytest.raises(ConfigError, match="sync.ca_file: expected certificates in PEM, found .*ca.pem"):
        to("https://127.0.0.1:1", ca_file=str(file))


def certificate_of(directory: Path, around: datetime.datetime) -> Path:
    """A certificate for 127.0.0.1, signed by itself, valid a day before and after `around`; with its key."""
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, day = ec.generate_private_key(ec.SECP256R1()), datetime.timedelta(days=1)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), around - day, around + day
    )
    certificate = builder.add_extension(address, False).sign(key, hashes.SHA256())
    pem, none = serialization.Encoding.PEM, serialization.NoEncryption()
    file = directory / "other-time.pem"
    file.write_bytes(certificate.public_bytes(pem) + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, none))
    return file
