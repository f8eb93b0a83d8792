"""Sync to S3 and SFTP servers on loopback: each row once, forgotten rows gone, strangers refused."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.errors import SyncError, SyncRefused
from edge_agent.log_batches import decode
from edge_agent.sync_files import FileDestination
from tests.conftest import free_port
from tests.log_rows import exchange, ids_of, numbered, objects, rate, write_log
from tests.sync_device import Device, device
from tests.test_decision_log import open_log

__all__ = ["device"]

KEYS = {"key": "testing", "secret": "testing"}


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """moto's S3 on a real port, started once: it takes seconds to import."""
    server_of = pytest.importorskip("moto.server").ThreadedMotoServer
    pytest.importorskip("s3fs")
    server = server_of(ip_address="127.0.0.1", port=free_port(), verbose=False)
    server.start()
    yield f"http://127.0.0.1:{server._port}"
    server.stop()


class Bucket:
    """A bucket, and what is in it read by another client than sync's."""

    def __init__(self, endpoint: str, name: str):
        import boto3

        self.options = {**KEYS, "client_kwargs": {"endpoint_url": endpoint, "region_name": "us-east-1"}}
        keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
        self._bucket = boto3.resource("s3", endpoint_url=endpoint, **keys).create_bucket(Bucket=name)
        self.destination = FileDestination(f"s3://{name}/logs", **self.options)

    def rows(self, table: str) -> list[dict[str, Any]]:
        found = [one for one in self._bucket.objects.all() if f"/{table}-" in one.key]
        return [row for one in found for row in decode(one.get()["Body"].read())[1]]

    def everything(self) -> bytes:
        return b"".join(gzip.decompress(one.get()["Body"].read()) for one in self._bucket.objects.all())


@pytest.fixture
def bucket(s3_endpoint: str, request: pytest.FixtureRequest) -> Bucket:
    return Bucket(s3_endpoint, request.node.name.replace("_", "-")[:60].strip("-"))


def test_rows_arrive_in_a_bucket_once_and_nothing_private_does(device: Device, bucket: Bucket) -> None:
    ids = write_log(device.log, numbered(100))
    device.sync(destination=bucket.destination, max_rows=30)
    device.state.path.unlink()  # the position is taken from what the bucket lists
    assert device.sync(destination=bucket.destination).batches == 0
    ids += write_log(device.log, numbered(10, first=200))
    device.sync(destination=bucket.destination)
    assert [row["id"] for row in bucket.rows("exchanges")] == ids
    assert b"question 1" in bucket.everything() and b"secret" not in bucket.everything()


def test_what_is_forgotten_is_taken_out_of_a_bucket(device: Device, bucket: Bucket) -> None:
    ids = write_log(device.log, [*numbered(50), exchange("NOBODYKNOWS")])
    rate(device.log, ids[-1], "NOBODYKNOWS")
    device.sync(destination=bucket.destination, max_rows=20)
    with open_log(device.log) as log:
        log.forget(ids[-1])
    device.sync(destination=bucket.destination)
    assert [row["id"] for row in bucket.rows("exchanges")] == ids[:-1] and bucket.rows("feedback") == []
    assert [row["id"] for row in bucket.rows("forgotten")] == ids[-1:]
    assert b"NOBODYKNOWS" not in bucket.everything()


def test_a_bucket_that_is_not_there_is_refused(device: Device, s3_endpoint: str) -> None:
    write_log(device.log, numbered(5))
    options = {**KEYS, "client_kwargs": {"endpoint_url": s3_endpoint, "region_name": "us-east-1"}}
    with pytest.raises(
        SyncRefused, match="s3://no-such-bucket/x: refused: .*; check the address and its access rights"
    ):
        device.sync(destination=FileDestination("s3://no-such-bucket/x", **options))


def test_a_bucket_out_of_reach_is_for_later(device: Device) -> None:
    pytest.importorskip("s3fs")
    write_log(device.log, numbered(5))
    client = {"endpoint_url": f"http://127.0.0.1:{free_port()}", "region_name": "us-east-1"}
    quick = {"config_kwargs": {"retries": {"max_attempts": 1}, "connect_timeout": 1}}
    with pytest.raises(SyncError, match="it is tried again later") as caught:
        device.sync(destination=FileDestination("s3://bucket/x", **KEYS, client_kwargs=client, **quick))
    assert (caught.value.code, caught.value.exit_code) == ("unreachable", 75)


# SFTP


class SftpServer:
    """paramiko's server over a directory, with a key of its own, on a free loopback port."""

    def __init__(self, root: Path):
        paramiko = pytest.importorskip("paramiko")
        from tests.sftp_directory import Login, interface_for

        self.key = paramiko.RSAKey.generate(2048)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._transports: list[Any] = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = self._socket.accept()
                except OSError:
                    return
                transport = paramiko.Transport(connection)
                transport.add_server_key(self.key)
                transport.set_subsystem_handler("sftp", paramiko.SFTPServer, interface_for(root))
                self._transports.append(transport)
                transport.start_server(server=Login())

        threading.Thread(target=serve, daemon=True).start()

    def known(self, home: Path) -> None:
        """Write the server's key to the known hosts of a home."""
        (home / ".ssh").mkdir(parents=True, exist_ok=True)
        line = f"[127.0.0.1]:{self.port} {self.key.get_name()} {self.key.get_base64()}\n"
        (home / ".ssh" / "known_hosts").write_text(line)

    def close(self) -> None:
        self._socket.close()
        for transport in self._transports:
            transport.close()


@pytest.fixture
def sftp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SftpServer]:
    root = tmp_path / "served"
    (root / "logs").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    server = SftpServer(root)
    yield server
    server.close()


def sftp_to(server: SftpServer, path: str = "/logs") -> FileDestination:
    return FileDestination(
        f"sftp://me:pass@127.0.0.1:{server.port}{path}",
        allow_agent=False,
        look_for_keys=False,
        skip_instance_cache=True,
    )


def test_rows_arrive_over_sftp_once_and_what_is_forgotten_leaves(
    device: Device, sftp: SftpServer, tmp_path: Path
) -> None:
    sftp.known(tmp_path / "home")
    ids = write_log(device.log, [*numbered(60), exchange("NOBODYKNOWS")])
    device.sync(destination=sftp_to(sftp), max_rows=20)
    device.state.path.unlink()
    device.sync(destination=sftp_to(sftp))
    assert ids_of(tmp_path / "served" / "logs") == ids
    with open_log(device.log) as log:
        log.forget(ids[-1])
    device.sync(destination=sftp_to(sftp))
    arrived = objects(tmp_path / "served" / "logs")
    assert ids_of(tmp_path / "served" / "logs") == ids[:-1] and "NOBODYKNOWS" not in json.dumps(arrived)
    assert "pass" not in device.state.path.read_text()


def test_a_server_nobody_vouches_for_gets_no_row(device: Device, sftp: SftpServer, tmp_path: Path) -> None:
    write_log(device.log, numbered(5))
    with pytest.raises(SyncRefused, match="is not in ~/.ssh/known_hosts; compare it, then add it with ssh-keyscan"):
        device.sync(destination=sftp_to(sftp))
    assert list((tmp_path / "served" / "logs").iterdir()) == []


def test_a_directory_that_is_missing_at_the_server_is_not_made(
    device: Device, sftp: SftpServer, tmp_path: Path
) -> None:
    sftp.known(tmp_path / "home")
    write_log(device.log, numbered(5))
    with pytest.raises(SyncError, match="there is no such directory; make it once"):
        device.sync(destination=sftp_to(sftp, "/elsewhere"))
