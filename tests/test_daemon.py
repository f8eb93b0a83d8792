"""A real daemon process: how it starts and refuses to, what its signals do, and what survives a bad day."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.asking import ask, events, eventually, get, n_active, n_rows
from tests.conftest import StartDaemon, free_port
from tests.daemon_process import DaemonProcess, environment, running_daemon, serve_command, write_config
from tests.misbehaving_cloud import answering, hang_before_headers, misbehaving_cloud
from tests.tiny_router import make_tiny_router

HARD, EASY = "this is hard", "turn on the light"
SECRET = "xylophone"
as_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become another user")


def cloud_at(base_url: str) -> dict[str, Any]:
    return {"base_url": str(base_url), "model": "big", "api_key_env": None}


def stream(daemon: DaemonProcess, text: str, **fields: Any) -> Iterator[str]:
    """The data of a stream's events, as they come."""
    body = {"model": "auto", "messages": [{"role": "user", "content": text}], "stream": True} | fields
    with daemon.http() as client, client.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert answer.status_code == 200
        yield from events(answer.iter_lines())


# Starting


def refused(directory: Path, gguf: Path, router: Path, **settings: Any) -> tuple[int, str]:
    """Exit code and output of a daemon that must not start."""
    config_file = write_config(directory, settings, gguf, router)
    return run_serve(config_file, environment(directory))


def run_serve(config_file: Path, environ: dict[str, str]) -> tuple[int, str]:
    run = subprocess.run(serve_command(config_file), env=environ, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in run.stderr and run.stdout == ""
    sentences = [line for line in run.stderr.splitlines() if " INFO " not in line]
    assert len(sentences) == 1, run.stderr
    return run.returncode, sentences[0]


def cut_in_half(gguf: bytes) -> bytes:
    return gguf[: len(gguf) // 2]


def without_template(gguf: bytes) -> bytes:
    return gguf.replace(b"tokenizer.chat_template", b"tokenizer.chat_templat_")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (cut_in_half, "the file is cut off; download it again"),
        (lambda gguf: b"GGML" + gguf[4:], "expected a file that begins with GGUF, found b'GGML'"),
        (lambda gguf: b"", "expected a file that begins with GGUF, found b''"),
        (without_template, "the GGUF has no tokenizer.chat_template; choose an instruct model"),
        (None, "expected a GGUF file, found nothing; name another with local.model or --model"),
    ],
    ids=["cut in half", "wrong magic", "empty", "no chat template", "missing"],
)
def test_a_bad_model_is_exit_code_3_and_one_sentence(
    tmp_path: Path, tiny_gguf: Path, tiny_router: Path, spoil: Callable[[bytes], bytes] | None, said: str
) -> None:
    path = tmp_path / "bad.gguf"
    if spoil:
        path.write_bytes(spoil(tiny_gguf.read_bytes()))
    code, sentence = refused(tmp_path, path, tiny_router)
    assert code == 3
    assert f"{path}: " in sentence and said in sentence
    assert not (tmp_path / "agent.sock").exists()


@pytest.mark.parametrize(
    ("settings", "code", "said"),
    [
        (
            {"socket": {"path": "{tmp}/file"}},
            78,
            "file exists and is not a socket; move it away or choose another path",
        ),
        ({"socket": {"path": "/tmp/" + "s" * 103}}, 78, "socket.path: expected at most 107 bytes, found 108 in"),
        ({"socket": {"path": "{tmp}/file/agent.sock"}}, 78, "socket.path: cannot listen on"),
        ({"socket": {"group": "no-such-group"}}, 78, "socket.group: there is no group 'no-such-group' here"),
        ({"tcp": {"port": 1, "token_env": "NOT_SET"}}, 78, "the variable NOT_SET (tcp.token_env) is not"),
        ({"tcp": {"port": 8642, "host": "0.0.0.0"}}, 78, "tcp.host: expected a loopback address"),
        ({"log": {"path": "{tmp}/file/log.db"}}, 1, "file/log.db: cannot be opened as the decision log: "),
        ({"log": {"path": "/proc/edge-agent/log.db"}}, 1, "set another file with log.path"),
        ({"log": {"path": "{tmp}/file"}}, 1, "file is not a database"),
        ({"local": {"n_ctxx": 3}}, 78, "unknown key local.n_ctxx; did you mean local.n_ctx?"),
    ],
    ids=lambda value: "" if isinstance(value, int) else str(value)[:40],
)
def test_a_daemon_that_cannot_work_says_why_in_one_sentence(
    tmp_path: Path, tiny_gguf: Path, tiny_router: Path, settings: dict[str, Any], code: int, said: str
) -> None:
    (tmp_path / "file").write_text("in the way" * 100)
    settings = json.loads(json.dumps(settings).replace("{tmp}", str(tmp_path)))
    found, sentence = refused(tmp_path, tiny_gguf, tiny_router, **settings)
    assert (found, said in sentence) == (code, True), sentence
    assert not (tmp_path / "agent.sock").exists()
    assert (tmp_path / "file").read_text() == "in the way" * 100


@pytest.mark.parametrize("text", ["socket: [", "- a\n- list", "socket: path", "\x00"])
def test_settings_that_are_not_yaml_are_exit_code_78(tmp_path: Path, text: str) -> None:
    config_file = tmp_path / "config.yaml"
    config_file.write_text(text)
    code, sentence = run_serve(config_file, environment(tmp_path))
    assert code == 78
    assert str(config_file) in sentence


def test_a_second_daemon_on_the_socket_or_on_the_log_is_exit_code_4(
    daemon: DaemonProcess, tmp_path: Path, tiny_gguf: Path, tiny_router: Path
) -> None:
    code, sentence = refused(tmp_path, tiny_gguf, tiny_router, socket={"path": str(daemon.socket)})
    assert code == 4
    assert f"a daemon already listens on {daemon.socket}; stop it or choose another socket with --socket" in sentence
    code, sentence = refused(tmp_path, tiny_gguf, tiny_router, log={"path": str(daemon.log_file)})
    assert code == 4
    assert f"{daemon.log_file}: another daemon writes this log; stop it or set another file with log.path" in sentence
    assert ask(daemon).choices


def test_a_broken_router_is_no_reason_not_to_answer(start_daemon: StartDaemon, tmp_path: Path) -> None:
    bundle = make_tiny_router(tmp_path / "routers")
    (bundle / "head.onnx").write_bytes(b"something else")
    daemon = start_daemon(router={"path": str(bundle)})
    answer = daemon.chat(HARD).json()["edge_agent"]
    assert (answer["route"], answer["reason"], answer["score"]) == ("local", "router_error", None)
    router = get(daemon, "/v1/status")["router"]
    assert router["version"] is None and "head.onnx" in router["error"]
    assert "router       none: " in daemon.output and "Traceback" not in daemon.output


def test_the_daemons_files_are_its_users_alone_whatever_the_umask(start_daemon: StartDaemon, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        daemon = start_daemon()
        ask(daemon)
    finally:
        os.umask(before)
    files = [path for path in daemon.directory.iterdir() if path.name.startswith(("agent.sock", "log.db"))]
    assert {path.name for path in files} >= {"agent.sock", "agent.sock.lock", "log.db", "log.db-wal", "log.db.lock"}
    assert {path.name: path.stat().st_mode & 0o777 for path in files} == {path.name: 0o600 for path in files}


# Other users


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A directory every user may enter."""
    directory = Path(tempfile.mkdtemp(prefix="edge-agent-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


def received_by(uid: int, path: Path) -> bytes:
    """What /health sends a process of this user: a child, since a process cannot take its own user back."""
    read_end, write_end = os.pipe()
    if os.fork() == 0:
        with suppress(BaseException):
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(10)
                client.connect(str(path))
                with suppress(ConnectionError):
                    client.sendall(b"GET /health HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n")
                    while part := client.recv(4096):
                        os.write(write_end, part)
                os.write(write_end, b"END")
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        received = pipe.read()
    os.wait()
    return received


@as_root
def test_another_user_gets_no_byte_even_through_an_open_socket(
    reachable: Path, tiny_gguf: Path, tiny_router: Path
) -> None:
    with running_daemon(reachable, tiny_gguf, tiny_router) as daemon:
        assert received_by(65534, daemon.socket) == b""  # its mode refuses the connection
        daemon.socket.chmod(0o666)
        assert received_by(65534, daemon.socket) == b"END"  # and the daemon closes it without an answer
        assert b'{"status":"ok"}' in received_by(0, daemon.socket)


@as_root
def test_a_member_of_the_configured_group_is_answered(reachable: Path, tiny_gguf: Path, tiny_router: Path) -> None:
    with running_daemon(reachable, tiny_gguf, tiny_router, {"socket": {"group": "nogroup"}}) as daemon:
        status = daemon.socket.stat()
        assert (status.st_mode & 0o777, status.st_gid) == (0o660, 65534)
        assert b'{"status":"ok"}' in received_by(65534, daemon.socket)
        assert received_by(1, daemon.socket) == b""


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_running_stream_ends_as_it_should_before_the_daemon_does(
    start_daemon: StartDaemon, number: signal.Signals
) -> None:
    with misbehaving_cloud(answering(*"abcdefgh", pause_s=0.1)) as cloud:
        daemon = start_daemon(cloud=cloud_at(cloud))
        answer = stream(daemon, HARD, model="cloud")
        next(answer)
        daemon.process.send_signal(number)
        rest = list(answer)
    assert rest[-1] == "[DONE]"
    assert "".join(json.loads(event)["choices"][0]["delta"].get("content", "") for event in rest[:-1]) == "abcdefgh"
    assert daemon.process.wait(10) == 0
    left = {path.name for path in daemon.directory.iterdir() if path.name.startswith(("agent.sock", "log.db"))}
    assert left == {"agent.sock.lock", "log.db", "log.db.lock"}
    (row,) = daemon.log.rows()
    assert (row["answer"], row["finish_reason"]) == ("abcdefgh", "stop")


def test_a_running_local_answer_ends_as_it_should_too(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(local={"n_ctx": 2048})
    answer = stream(daemon, EASY, model="local", max_tokens=1900)
    next(answer)
    daemon.process.send_signal(signal.SIGTERM)
    *_, final, done = answer
    assert (json.loads(final)["choices"][0]["finish_reason"], done) == ("length", "[DONE]")
    assert daemon.process.wait(10) == 0
    assert [row["output_tokens"] for row in daemon.log.rows()] == [1900]


def test_an_answer_that_takes_too_long_is_ended_and_has_its_row(start_daemon: StartDaemon) -> None:
    with misbehaving_cloud(hang_before_headers) as cloud:
        daemon = start_daemon(cloud=cloud_at(cloud), server={"drain_s": 1.0})
        asking = threading.Thread(target=lambda: suppressed(lambda: daemon.chat(HARD, model="cloud")))
        asking.start()
        eventually(lambda: n_active(daemon) == 1)
        started = time.monotonic()
        assert daemon.stop() == 0
        assert 0.9 < time.monotonic() - started < 5
        asking.join()
    (row,) = daemon.log.rows()
    assert (row["reason"], row["answer"] or "") == ("asked_cloud", "")


def suppressed(function: Callable[[], object]) -> None:
    with suppress(httpx.HTTPError):
        function()


def test_a_hangup_loads_the_new_router_and_drops_no_answer(start_daemon: StartDaemon, tmp_path: Path) -> None:
    bundle = make_tiny_router(tmp_path / "routers")
    with misbehaving_cloud(answering(*"abcdefgh", pause_s=0.1)) as cloud:
        daemon = start_daemon(cloud=cloud_at(cloud), router={"path": str(bundle)})
        answer = stream(daemon, HARD)
        next(answer)
        make_tiny_router(tmp_path / "routers", version="tiny-2")
        daemon.process.send_signal(signal.SIGHUP)
        eventually(lambda: daemon.chat(EASY).json()["edge_agent"]["router_version"] == "tiny-2")
        *_, final, done = answer
    assert done == "[DONE]"
    assert json.loads(final)["edge_agent"]["router_version"] == "tiny-1"
    assert {row["router_version"] for row in daemon.log.rows()} == {"tiny-1", "tiny-2"}
    assert "router tiny-2 loaded (before: tiny-1)" in daemon.output


def test_a_bad_bundle_on_a_hangup_keeps_the_old_router_and_says_so(start_daemon: StartDaemon, tmp_path: Path) -> None:
    bundle = make_tiny_router(tmp_path / "routers")
    daemon = start_daemon(router={"path": str(bundle)})
    score = daemon.chat(HARD).json()["edge_agent"]["score"]
    make_tiny_router(tmp_path / "routers", version="tiny-2")
    (bundle / "head.onnx").write_bytes((bundle / "head.onnx").read_bytes() + b"\0")
    daemon.process.send_signal(signal.SIGHUP)
    eventually(lambda: get(daemon, "/v1/status")["router"]["error"] is not None)
    router = get(daemon, "/v1/status")["router"]
    assert router["version"] == "tiny-1"
    assert "head.onnx" in router["error"] and "sha256" in router["error"].lower().replace("-", "")
    assert "router tiny-1 stays in use" in daemon.output
    answer = daemon.chat(HARD).json()["edge_agent"]
    assert (answer["score"], answer["router_version"]) == (score, "tiny-1")
    make_tiny_router(tmp_path / "routers", version="tiny-3")
    daemon.process.send_signal(signal.SIGHUP)
    eventually(lambda: get(daemon, "/v1/status")["router"]["error"] is None)
    assert get(daemon, "/v1/status")["router"]["version"] == "tiny-3"


# What it prints


def say_much(daemon: DaemonProcess) -> None:
    """Requests of every kind with the secret word in each: answered, private, refused, failed."""
    daemon.chat(f"{SECRET} {HARD}")
    daemon.chat(f"{SECRET} {EASY}", private=True)
    daemon.chat(SECRET, model="local", response_format=schema_of({"enum": [SECRET]}))
    daemon.chat(SECRET, model="local", response_format=schema_of({SECRET: 1}))
    daemon.chat(SECRET, model="local", response_format=schema_of({"anyOf": [{"const": SECRET}, {"enum": []}]}))
    daemon.chat(SECRET, model=SECRET)
    daemon.chat(SECRET * 2000, model="local")
    with daemon.http() as client:
        client.post("/v1/chat/completions", content=f'{{"{SECRET}": '.encode())
        client.get(f"/{SECRET}")


def schema_of(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


@pytest.mark.parametrize("level", ["debug", "info"])
def test_nothing_it_prints_holds_text_of_a_question(start_daemon: StartDaemon, level: str) -> None:
    unreachable = cloud_at(f"http://127.0.0.1:{free_port()}/v1")
    daemon = start_daemon(cloud=unreachable, logging={"level": level}, log={"max_wait_ms": 0.0})
    say_much(daemon)
    eventually(lambda: n_rows(daemon) == 6)
    assert daemon.stop() == 0
    assert "exchange " in daemon.output and "cloud failed, the local model answers" in daemon.output
    assert SECRET not in daemon.output


def test_asked_for_the_text_is_printed_and_a_private_one_still_is_not(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(logging={"prompts": True})
    daemon.chat(f"public {SECRET}")
    daemon.chat(f"private {SECRET}", private=True)
    assert daemon.stop() == 0
    assert f"public {SECRET}" in daemon.output and f"private {SECRET}" not in daemon.output


def test_as_json_every_line_is_an_object(start_daemon: StartDaemon) -> None:
    unreachable = cloud_at(f"http://127.0.0.1:{free_port()}/v1")
    daemon = start_daemon(cloud=unreachable, logging={"level": "debug", "format": "json"})
    say_much(daemon)
    assert daemon.stop() == 0
    before, greeting, after = daemon.output.partition("edge-agent is ready\n")
    lines = [json.loads(line) for line in (before + after.partition("Stop with Ctrl-C.\n")[2]).splitlines() if line]
    assert greeting and len(lines) > 10
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    assert {"debug", "info", "warning"} <= {line["level"] for line in lines}


# The log under it


def database_descriptors(daemon: DaemonProcess) -> dict[str, str]:
    """{descriptor: access mode} of the process' open files that are the decision log's main file."""
    inode = daemon.log_file.stat().st_ino
    found = {}
    for link in Path(f"/proc/{daemon.process.pid}/fd").iterdir():
        with suppress(OSError):
            if link.stat().st_ino == inode:
                info = (link.parent.parent / "fdinfo" / link.name).read_text()
                flags = int(next(line for line in info.splitlines() if line.startswith("flags:")).split()[1], 8)
                found[link.name] = ("r", "w", "rw")[flags & os.O_ACCMODE]
    return found


def test_one_connection_writes_the_log_however_much_is_read(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    assert list(database_descriptors(daemon).values()) == ["rw"]
    for _ in range(5):
        answer = ask(daemon)
        get(daemon, "/v1/status")
        with daemon.http() as client:
            client.post("/v1/feedback", json={"id": answer.id.removeprefix("chatcmpl-"), "rating": "good"})
    found = list(database_descriptors(daemon).values())
    assert found.count("rw") == 1 and len(found) <= 2  # SQLite keeps a closed reader's descriptor for the next one


def test_a_locked_database_stops_no_answer_and_its_rows_come_later(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(log={"max_wait_ms": 100.0})
    with closing(sqlite3.connect(daemon.log_file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        started = time.monotonic()
        ids = [daemon.chat(EASY).json()["edge_agent"]["id"] for _ in range(3)]
        assert time.monotonic() - started < 3
        log = get(daemon, "/v1/status")["log"]
        assert (log["rows"], log["unrecorded"]) == (0, 3)
        other.execute("ROLLBACK")
    eventually(lambda: get(daemon, "/v1/status")["log"]["unrecorded"] == 0)
    assert [row["id"] for row in daemon.log.rows()] == ids[::-1]
    assert "the answer goes first" in daemon.output


def test_killed_at_any_moment_it_loses_no_answer_whose_end_was_seen(
    tmp_path: Path, tiny_gguf: Path, tiny_router: Path
) -> None:
    seen: list[str] = []
    rng = random.Random(1)

    def keep_asking(daemon: DaemonProcess) -> None:
        with suppress(httpx.HTTPError):
            while True:
                *_, final, done = stream(daemon, EASY, model="local", max_tokens=2)
                assert done == "[DONE]"
                seen.append(json.loads(final)["edge_agent"]["id"])

    for _ in range(10):
        with running_daemon(tmp_path, tiny_gguf, tiny_router) as daemon:
            clients = [threading.Thread(target=keep_asking, args=[daemon]) for _ in range(2)]
            [client.start() for client in clients]
            time.sleep(rng.uniform(0.02, 0.3))
            daemon.process.kill()
            daemon.process.wait()
            [client.join() for client in clients]
        with closing(daemon.log.connect()) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            written = {row["id"] for row in connection.execute("SELECT id FROM exchanges")}
        assert set(seen) <= written
    assert len(seen) > 20


# What it does not do


def test_with_the_cloud_switched_off_nothing_is_sent_anywhere(start_daemon: StartDaemon) -> None:
    with socket.create_server(("127.0.0.1", 0)) as recorder:
        recorder.setblocking(False)
        cloud = cloud_at(f"http://127.0.0.1:{recorder.getsockname()[1]}/v1") | {"enabled": False}
        daemon = start_daemon(cloud=cloud)
        routes = {daemon.chat(HARD, model=model).json()["edge_agent"]["route"] for model in ("auto", "cloud", "local")}
        get(daemon, "/v1/status")
        assert daemon.stop() == 0
        assert routes == {"local"}
        with pytest.raises(BlockingIOError):
            recorder.accept()


def cpu_seconds(process_id: int) -> float:
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_an_idle_daemon_leaves_the_processor_alone(daemon: DaemonProcess) -> None:
    ask(daemon)
    time.sleep(0.5)
    before = cpu_seconds(daemon.process.pid)
    time.sleep(3)
    assert cpu_seconds(daemon.process.pid) - before < 0.02 * 3
