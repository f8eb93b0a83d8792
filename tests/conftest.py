"""Fixtures: tiny real models made once a session, and daemons that run on them."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.daemon_process import TOKEN, DaemonProcess, running_daemon
from tests.tiny_gguf import make_tiny_gguf
from tests.tiny_router import make_tiny_router

StartDaemon = Callable[..., DaemonProcess]


def pytest_configure() -> None:
    """A job in the background is started with SIGINT ignored, and so would be all it starts: no Ctrl-C to test."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random-weight GGUF: the local model of the fast tests."""
    return make_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny-local.gguf")


@pytest.fixture(scope="session")
def other_tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one, that plays the cloud."""
    return make_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny-cloud.gguf", seed=1)


@pytest.fixture(scope="session")
def tiny_router(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny int8 router: texts with the word `hard` score above its threshold, others below."""
    return make_tiny_router(tmp_path_factory.mktemp("router_models"))


@pytest.fixture
def start_daemon(tmp_path: Path, tiny_gguf: Path, tiny_router: Path) -> Iterator[StartDaemon]:
    """start_daemon(name="a", gguf=..., environ=..., section={key: value} ...) -> DaemonProcess, stopped at the end."""
    with ExitStack() as stack:

        def start(
            name: str = "agent", *, gguf: Path = tiny_gguf, environ: dict[str, str] | None = None, **settings: Any
        ) -> DaemonProcess:
            return stack.enter_context(running_daemon(tmp_path / name, gguf, tiny_router, settings, environ))

        yield start


@pytest.fixture(scope="session")
def cloud_daemon(
    tmp_path_factory: pytest.TempPathFactory, other_tiny_gguf: Path, tiny_router: Path
) -> Iterator[DaemonProcess]:
    """The cloud stand-in: a second edge-agent, local-only, on loopback TCP."""
    settings = {"tcp": {"port": free_port()}, "cloud": {"enabled": False}, "local": {"n_ctx": 2048}}
    with running_daemon(tmp_path_factory.mktemp("cloud"), other_tiny_gguf, tiny_router, settings) as daemon:
        yield daemon


@pytest.fixture(scope="session")
def daemon(
    tmp_path_factory: pytest.TempPathFactory, tiny_gguf: Path, tiny_router: Path, cloud_daemon: DaemonProcess
) -> Iterator[DaemonProcess]:
    """A daemon with a cloud, shared by the tests that leave it as it was; also on TCP."""
    settings = {"tcp": {"port": free_port()}, "cloud": cloud_settings(cloud_daemon)}
    environ = {"EDGE_AGENT_CLOUD_API_KEY": TOKEN}
    with running_daemon(tmp_path_factory.mktemp("daemon"), tiny_gguf, tiny_router, settings, environ) as running:
        yield running


def cloud_settings(cloud: DaemonProcess) -> dict[str, Any]:
    """The `cloud` section that points at a stand-in."""
    return {"base_url": f"http://127.0.0.1:{cloud.port}/v1", "model": "local", "retries": 0, "connect_timeout_s": 1.0}


def free_port() -> int:
    """A TCP port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
