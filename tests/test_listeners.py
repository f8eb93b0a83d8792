"""The Unix socket: its mode from the first moment, what stands in its way, and who is refused."""

from __future__ import annotations

import grp
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.errors import ConfigError, DaemonError, EdgeAgentError
from edge_agent.listeners import LONGEST_PATH, UnixListener, bind_tcp

GROUP = grp.getgrgid(65534 if os.getuid() == 0 else os.getgid()).gr_name


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    """Nothing else narrows the modes."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


@pytest.mark.parametrize(("group", "mode"), [(None, 0o600), (GROUP, 0o660)])
def test_the_socket_is_the_owners_or_the_groups(tmp_path: Path, group: str | None, mode: int) -> None:
    path = tmp_path / "agent.sock"
    listener = UnixListener(path, group)
    assert stat.S_ISSOCK(path.stat().st_mode) and mode_of(path) == mode
    assert group is None or path.stat().st_gid == grp.getgrnam(group).gr_gid
    assert connects(path)
    assert os.umask(0) == 0  # it was put back
    listener.close()
    assert not path.exists() and not connects(path)


WATCH = """
import os, stat, sys
modes, seen = set(), 0
while seen < 1000:
    try:
        modes.add(stat.S_IMODE(os.stat(sys.argv[1]).st_mode))
        seen += 1
    except FileNotFoundError:
        pass
print(*sorted(map(oct, modes)))
"""


@pytest.mark.parametrize(("group", "modes"), [(None, "0o600"), (GROUP, "0o660")])
def test_the_socket_is_never_wider_not_even_for_a_moment(tmp_path: Path, group: str | None, modes: str) -> None:
    path, give_up = tmp_path / "agent.sock", time.monotonic() + 30
    with subprocess.Popen([sys.executable, "-c", WATCH, path], stdout=subprocess.PIPE, text=True) as watcher:
        while watcher.poll() is None and time.monotonic() < give_up:
            UnixListener(path, group).close()
        watcher.kill()
        assert watcher.stdout and watcher.stdout.read().strip() == modes


def test_a_directory_that_is_missing_is_made_for_the_owner_alone(tmp_path: Path) -> None:
    listener = UnixListener(tmp_path / "new" / "agent.sock")
    assert mode_of(tmp_path / "new") == 0o700
    assert mode_of(tmp_path / "new" / "agent.sock.lock") == 0o600
    listener.close()


def test_a_socket_nobody_listens_on_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    listener = UnixListener(path)
    assert connects(path)
    listener.close()


def put_file(path: Path) -> None:
    path.write_text("precious")


def put_link_to_file(path: Path) -> None:
    (path.parent / "elsewhere").write_text("precious")
    path.symlink_to(path.parent / "elsewhere")


def put_dangling_link(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


@pytest.mark.parametrize("put", [put_file, put_link_to_file, put_dangling_link, Path.mkdir])
def test_what_is_not_a_socket_is_left_alone(tmp_path: Path, put: Any) -> None:
    path = tmp_path / "agent.sock"
    put(path)
    before = path.lstat()
    with pytest.raises(ConfigError, match="agent.sock exists and is not a socket; move it away or choose another path"):
        UnixListener(path)
    assert path.lstat() == before
    path.rename(tmp_path / "moved away")
    UnixListener(path).close()  # nothing of the failure is left


def test_a_link_to_a_living_daemons_socket_is_not_followed(tmp_path: Path) -> None:
    listener = UnixListener(tmp_path / "agent.sock")
    (tmp_path / "link.sock").symlink_to(tmp_path / "agent.sock")
    with pytest.raises(ConfigError, match="link.sock exists and is not a socket"):
        UnixListener(tmp_path / "link.sock")
    assert connects(tmp_path / "agent.sock")
    listener.close()


def test_a_second_daemon_on_the_socket_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    listener = UnixListener(path)
    with pytest.raises(DaemonError, match="a daemon already listens on .*agent.sock; stop it or choose another socket"):
        UnixListener(path)
    assert connects(path)
    listener.close()


def test_a_socket_another_program_listens_on_is_not_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(DaemonError, match="already listens"):
            UnixListener(path)
        assert connects(path)


def test_of_daemons_that_start_at_once_one_listens(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    won: list[UnixListener] = []
    lost: list[EdgeAgentError] = []
    barrier = threading.Barrier(8)

    def start() -> None:
        barrier.wait()
        try:
            won.append(UnixListener(path))
        except EdgeAgentError as error:
            lost.append(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert (len(won), {type(error) for error in lost}) == (1, {DaemonError})
    assert connects(path)
    won[0].close()


def test_closing_leaves_alone_what_has_taken_the_path_since(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    listener = UnixListener(path)
    path.unlink()
    path.write_text("another's")
    listener.close()
    assert path.read_text() == "another's"


def test_a_path_is_as_long_as_the_kernel_allows_and_no_longer(tmp_path: Path) -> None:
    longest = tmp_path / ("s" * (LONGEST_PATH - len(os.fsencode(tmp_path)) - 1))
    UnixListener(longest).close()
    with pytest.raises(
        ConfigError, match="socket.path: expected at most 107 bytes, found 108 in .*; choose another"
    ) as caught:
        UnixListener(longest.with_name(longest.name + "s"))
    assert caught.value.exit_code == 78


def test_bytes_of_the_path_are_counted_not_characters(tmp_path: Path) -> None:
    n_characters = LONGEST_PATH - len(os.fsencode(tmp_path)) - 1
    with pytest.raises(ConfigError, match="at most 107 bytes"):
        UnixListener(tmp_path / ("é" * n_characters))


def test_an_unknown_group_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="socket.group: there is no group 'no-such-group' here; create it .* or name"):
        UnixListener(tmp_path / "agent.sock", "no-such-group")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("directory", ["file", "/proc/edge-agent"])
def test_a_directory_that_cannot_be_made_is_one_clear_error(tmp_path: Path, directory: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="socket.path: cannot listen on .*; choose another with --socket"):
        UnixListener(tmp_path / directory / "agent.sock")


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"tcp.port: cannot listen on 127.0.0.1:{port}: .*; choose another port"):
            bind_tcp("127.0.0.1", port)
    with bind_tcp("127.0.0.1", port) as listener:
        assert listener.getsockname() == ("127.0.0.1", port)
