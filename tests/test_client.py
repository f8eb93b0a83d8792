"""The client against a scripted daemon on a real socket."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edge_agent.client import Answer, Client, Delta, Final, Started
from edge_agent.errors import DaemonError, EdgeAgentError
from tests.scripted_daemon import DECISION, INFO, STATUS, ScriptedDaemon

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ScriptedDaemon]:
    with closing(ScriptedDaemon(tmp_path / "s.sock")) as daemon:
        daemon.start()
        yield daemon


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_a_chat_yields_the_id_then_the_text_in_pieces_then_how_it_was_decided(daemon: ScriptedDaemon) -> None:
    events = list(Client(daemon.path).chat(user("hello")))
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
    assert events == [Started(INFO["id"]), Delta("You said: "), Delta("hello"), Final("stop", INFO, usage)]


def test_a_whole_answer_is_the_stream_joined_and_each_piece_was_shown_on_the_way(daemon: ScriptedDaemon) -> None:
    pieces: list[str] = []
    answer = Client(daemon.path).ask(user("hello"), on_text=pieces.append)
    assert isinstance(answer, Answer) and answer.text == "You said: hello" and answer.edge_agent == INFO
    assert pieces == ["You said: ", "hello"]


def test_wishes_travel_under_the_documented_names(daemon: ScriptedDaemon) -> None:
    Client(daemon.path).ask(user("hello"), model="cloud", private=True, conversation_id="c1")
    assert daemon.chats == [
        {
            "model": "cloud",
            "messages": user("hello"),
            "private": True,
            "edge_agent": {"conversation_id": "c1"},
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]


def test_pings_are_not_text(daemon: ScriptedDaemon) -> None:
    assert Client(daemon.path).ask(user("pings")).text == "pong"


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        (
            lambda client: client.route(user("hello"), private=True),
            DECISION | {"router_ms": 3.2, "prompt_tokens": 9, "n_ctx": 4096},
        ),
        (lambda client: client.feedback("0193", "good"), {"id": "0193", "rating": "good"}),
        (lambda client: client.status(), STATUS),
        (lambda client: client.health(), {"status": "ok"}),
    ],
)
def test_every_other_call_returns_the_daemons_object(
    daemon: ScriptedDaemon, call: Callable[[Client], object], answer: object
) -> None:
    assert call(Client(daemon.path)) == answer


@pytest.mark.parametrize(
    ("question", "code", "message"),
    [
        ("busy", "busy", "4 requests wait already"),
        ("late error", "local_model_unavailable", "the model broke"),
        ("cut", "interrupted", "closed the connection before its answer was complete"),
        ("cut in a line", "interrupted", "closed the connection before its answer was complete"),
        ("hang up", "interrupted", "closed the connection before its answer was complete"),
        ("silence", "interrupted", "said nothing for 0.2 s"),
        ("not json", "bad_response", "expected a JSON object from the daemon, found b'<h1>proxy</h1>'"),
        ("x" * 1_000_001, "request_too_large", "expected at most 1000000 bytes"),
    ],
)
def test_a_failed_answer_is_an_error_with_the_daemons_code(
    daemon: ScriptedDaemon, question: str, code: str, message: str
) -> None:
    with pytest.raises(EdgeAgentError, match=message) as caught:
        Client(daemon.path, answer_timeout_s=0.2).ask(user(question))
    assert caught.value.code == code


def test_text_before_a_failure_was_delivered(daemon: ScriptedDaemon) -> None:
    pieces: list[str] = []
    with pytest.raises(EdgeAgentError):
        Client(daemon.path).ask(user("cut"), on_text=pieces.append)
    assert pieces == ["half "]


def test_closing_the_events_closes_the_connection_at_once(daemon: ScriptedDaemon) -> None:
    events = Client(daemon.path).chat(user("endless"))
    assert [type(next(events)) for _ in range(3)] == [Started, Delta, Delta]
    events.close()
    assert daemon.client_left.wait(2)


def test_an_exception_while_reading_closes_the_connection(daemon: ScriptedDaemon) -> None:
    def interrupt(text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Client(daemon.path).ask(user("endless"), on_text=interrupt)
    assert daemon.client_left.wait(2)


def test_a_daemon_that_restarted_is_simply_there_again(tmp_path: Path) -> None:
    client, daemon = Client(tmp_path / "s.sock"), ScriptedDaemon(tmp_path / "s.sock")
    for _ in range(2):
        daemon.start()
        assert client.ask(user("hello")).text == "You said: hello"
        daemon.close()
        with pytest.raises(DaemonError):
            client.health()


def dead_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize(
    ("name", "prepare", "message"),
    [
        ("s", lambda path: None, "there is no such socket; start one with `edge-agent serve`"),
        ("s", dead_socket, "nobody listens there; start one with `edge-agent serve`"),
        ("s", Path.touch, "nobody listens there; start one with `edge-agent serve`"),
        ("s" * 108, lambda path: None, "expected at most 107 bytes, found "),
    ],
    ids=["nothing there", "dead socket", "a file", "path too long"],
)
def test_no_daemon_is_an_error_that_says_what_to_type(
    tmp_path: Path, name: str, prepare: Callable[[Path], None], message: str
) -> None:
    prepare(tmp_path / name)
    with pytest.raises(DaemonError, match=message) as caught:
        Client(tmp_path / name).health()
    assert caught.value.exit_code == 4


def test_a_listener_that_speaks_no_http_is_named_as_such(tmp_path: Path) -> None:
    def greet() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"220 mail ready\r\n")
            connection.recv(65536)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        threading.Thread(target=greet, daemon=True).start()
        with pytest.raises(EdgeAgentError, match="is this the socket of `edge-agent serve`") as caught:
            Client(tmp_path / "s").health()
    assert caught.value.code == "bad_response"


@pytest.fixture
def without_root() -> Iterator[None]:
    """Root may connect to every socket; whoever runs the tests is somebody else for a moment."""
    uid = os.geteuid()
    os.seteuid(uid or 65534)
    yield
    os.seteuid(uid)


def test_a_socket_of_somebody_else_is_an_error_that_names_the_group(
    daemon: ScriptedDaemon, request: pytest.FixtureRequest
) -> None:
    daemon.path.chmod(0)
    request.getfixturevalue("without_root")
    with pytest.raises(DaemonError, match="socket.group"):
        Client(daemon.path).health()


def test_the_client_imports_the_standard_library_only() -> None:
    code = "import sys; before = set(sys.modules); import edge_agent.client; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert {name.split(".")[0] for name in done.stdout.split()} - sys.stdlib_module_names == {"edge_agent"}
