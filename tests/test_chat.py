"""The conversation at a prompt: its core with scripted lines, and the real program on a real terminal."""

from __future__ import annotations

import fcntl
import importlib.util
import io
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge_agent.chat import COMMANDS, Chat, History, piped_reader, read_entry
from edge_agent.client import Client
from edge_agent.display import Console
from edge_agent.errors import RequestError
from tests.scripted_daemon import INFO, ScriptedDaemon

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ScriptedDaemon]:
    with closing(ScriptedDaemon(tmp_path / "s.sock")) as daemon:
        daemon.start()
        yield daemon


class Screen(io.StringIO):
    """What a terminal shows; `press_ctrl_c_at` presses it when that text appears."""

    press_ctrl_c_at: str | None = None

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        count = super().write(text)
        if self.press_ctrl_c_at and self.press_ctrl_c_at in text:
            signal.raise_signal(signal.SIGINT)
        return count


@dataclass
class Session:
    code: int
    out: str
    err: str
    prompts: list[str]
    remembered: list[str]


Line = str | type[BaseException] | Callable[[], str]


def converse(daemon: ScriptedDaemon, *lines: Line, ctrl_c_at: str | None = None, **options: object) -> Session:
    """A whole session: each line is typed, raised (Ctrl-C, Ctrl-D) or called for; then the input ends."""
    script, prompts, remembered = iter(lines), list[str](), list[str]()

    def read_line(prompt: str) -> str:
        prompts.append(prompt)
        line = next(script, EOFError)
        if isinstance(line, type):
            raise line
        return line if isinstance(line, str) else line()

    out, err = Screen(), Screen()
    out.press_ctrl_c_at = ctrl_c_at
    console = Console(out, err, {"NO_COLOR": "1"})
    chat = Chat(Client(daemon.path), console, read_line, remember=remembered.append, **options)  # type: ignore[arg-type]
    return Session(chat.run(), out.getvalue(), err.getvalue(), prompts, remembered)


def turns(body: dict[str, list[dict[str, str]]]) -> list[str]:
    return [message["content"] for message in body["messages"]]


def test_every_turn_carries_the_turns_before_it(daemon: ScriptedDaemon) -> None:
    session = converse(daemon, "one", "two")
    assert session.out == "You said: one\nYou said: two\n"
    assert turns(daemon.chats[1]) == ["one", "You said: one", "two"]
    assert daemon.chats[0]["edge_agent"] == daemon.chats[1]["edge_agent"]


def test_after_an_answer_one_line_says_who_why_and_how_long(daemon: ScriptedDaemon) -> None:
    assert converse(daemon, "one").err == "local · below threshold · 0.12 < 0.42 · 1.8 s\n"


def test_a_failed_turn_is_one_line_and_leaves_no_trace(daemon: ScriptedDaemon) -> None:
    session = converse(daemon, "one", "late error", "busy", "two", interactive=False)
    assert session.err.count("\n") == 4 and "error: the model broke\nerror: 4 requests wait already\n" in session.err
    assert turns(daemon.chats[3]) == ["one", "You said: one", "two"]
    assert session.code == 1


def test_a_full_context_is_answered_with_the_way_out(daemon: ScriptedDaemon) -> None:
    assert converse(daemon, "too long").err.endswith("the context 4096; /clear starts a new conversation\n")


def test_ctrl_c_stops_the_answer_and_what_was_said_stays(daemon: ScriptedDaemon) -> None:
    session = converse(daemon, "endless", "two", ctrl_c_at="tick ")
    assert daemon.client_left.wait(2)
    assert turns(daemon.chats[1]) == ["endless", "tick ", "two"]
    assert session.out == "tick \nYou said: two\n" and session.err.startswith("stopped\n")


@pytest.fixture
def alarm_is_ctrl_c() -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    yield
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("alarm_is_ctrl_c")
def test_a_turn_stopped_before_its_first_word_leaves_no_trace(daemon: ScriptedDaemon) -> None:
    def ask_and_press_ctrl_c_while_waiting() -> str:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        return "silence"

    session = converse(daemon, ask_and_press_ctrl_c_while_waiting, "two")
    assert turns(daemon.chats[1]) == ["two"] and session.out == "\nYou said: two\n"


def test_ctrl_c_at_the_prompt_clears_the_line_and_a_second_one_leaves(daemon: ScriptedDaemon) -> None:
    session = converse(daemon, KeyboardInterrupt, "one", KeyboardInterrupt, KeyboardInterrupt, "never read")
    assert [turns(body) for body in daemon.chats] == [["one"]]
    assert session.err.count("Ctrl-C again, or Ctrl-D, leaves\n") == 2 and session.code == 0


def test_a_pipe_does_not_survive_ctrl_c(daemon: ScriptedDaemon) -> None:
    with pytest.raises(KeyboardInterrupt):
        converse(daemon, "endless", ctrl_c_at="tick ", interactive=False)


def test_a_daemon_that_restarts_between_two_turns_is_not_noticed(daemon: ScriptedDaemon) -> None:
    with closing(ScriptedDaemon(daemon.path)) as other:

        def restart() -> str:
            daemon.close()
            other.start()
            return "two"

        assert converse(daemon, "one", restart).out == "You said: one\nYou said: two\n"
    assert turns(other.chats[0]) == ["one", "You said: one", "two"]


def test_private_lasts_until_clear_shows_in_the_prompt_and_stays_out_of_the_history(daemon: ScriptedDaemon) -> None:
    session = converse(daemon, "one", "/private", "two", "three", "/clear", "four")
    assert [body.get("private", False) for body in daemon.chats] == [False, True, True, False]
    assert session.prompts == ["> ", "> ", "private> ", "private> ", "private> ", "> ", "> "]
    assert session.remembered == ["one", "four"]


def test_a_chat_that_began_private_is_private_after_clear_too(daemon: ScriptedDaemon) -> None:
    converse(daemon, "/clear", "one", private=True)
    assert daemon.chats[0]["private"] is True


def test_text_behind_private_is_refused_and_not_remembered(daemon: ScriptedDaemon) -> None:
    session = converse(daemon, "/private my secret")
    assert session.err == "error: /private takes no text; type it alone\n"
    assert session.remembered == [] and daemon.requests == []


def test_clear_forgets_the_turns_and_begins_a_new_conversation(daemon: ScriptedDaemon) -> None:
    converse(daemon, "one", "/clear", "two")
    assert turns(daemon.chats[1]) == ["two"]
    assert daemon.chats[0]["edge_agent"] != daemon.chats[1]["edge_agent"]


def test_the_model_command_holds_for_the_following_turns(daemon: ScriptedDaemon) -> None:
    session = converse(daemon, "one", "/cloud", "two", "/private", "/local", "three", "/auto", "four")
    assert [body["model"] for body in daemon.chats] == ["auto", "cloud", "local", "auto"]
    assert [p for p in session.prompts if "cloud" in p or "local" in p] == [
        "cloud> ", "cloud> ", "cloud private> ", "local private> ", "local private> ",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "asked"),
    [
        (["/route two"], ["two"]),
        (["one", "/route two"], ["one", "You said: one", "two"]),
        (["one", "/route"], ["one"]),
        (["one", "busy", "/route"], ["one", "You said: one", "busy"]),
    ],
)
def test_route_says_what_would_be_decided_for_a_text_or_for_the_last_question(
    daemon: ScriptedDaemon, lines: list[str], asked: list[str]
) -> None:
    session = converse(daemon, *lines)
    path, body = daemon.requests[-1]
    assert path == "/v1/route" and turns(body) == asked
    assert session.out.endswith("local · below threshold · 0.12 < 0.42 · 3 ms · 9 of 4096 tokens\n")


@pytest.mark.parametrize("rating", ["good", "bad"])
def test_good_and_bad_rate_the_last_answer_a_stopped_one_too(daemon: ScriptedDaemon, rating: str) -> None:
    converse(daemon, "endless", f"/{rating}", ctrl_c_at="tick ")
    assert daemon.requests[-1] == ("/v1/feedback", {"id": INFO["id"], "rating": rating})


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["/good"], "no answer to rate yet"),
        (["one", "/clear", "/bad"], "no answer to rate yet"),
        (["one", "busy", "/bad"], "no answer to rate yet"),
        (["/route"], "no question yet"),
        (["/etc/passwd what is it?"], "unknown command /etc/passwd; see /help, or begin the question with a space"),
        (["/clear all"], "/clear takes no text"),
    ],
)
def test_a_command_that_makes_no_sense_is_one_line(daemon: ScriptedDaemon, lines: list[str], message: str) -> None:
    last = converse(daemon, *lines).err.splitlines()[-1]
    assert last.startswith("error: ") and message in last


def test_a_space_makes_a_question_of_what_looks_like_a_command(daemon: ScriptedDaemon) -> None:
    assert converse(daemon, " /etc/passwd?").out == "You said: /etc/passwd?\n"


def test_help_names_every_command_and_every_command_is_known(daemon: ScriptedDaemon) -> None:
    assert all(name in converse(daemon, "/help").out for name in COMMANDS)
    assert all("unknown command" not in converse(daemon, "one", name).err for name in COMMANDS)


@pytest.mark.parametrize("leave", ["/exit", "/quit"])
def test_exit_leaves(daemon: ScriptedDaemon, leave: str) -> None:
    assert converse(daemon, leave, "one").code == 0 and daemon.requests == []


@pytest.mark.parametrize(
    ("lines", "entry"),
    [(["a"], "a"), (["a\\", "b\\", "c"], "a\nb\nc"), (["a\\"], "a"), ([""], "")],
)
def test_a_backslash_at_the_end_goes_on_in_the_next_line(lines: list[str], entry: str) -> None:
    typed = io.BytesIO("\n".join(lines).encode() + b"\n")
    assert read_entry(piped_reader(typed), "> ") == entry


def test_piped_bytes_that_are_no_text_are_named() -> None:
    with pytest.raises(RequestError, match="expected UTF-8 text, found byte 0xff at 3"):
        piped_reader(io.BytesIO(b"abc\xff\n"))("> ")


def test_an_answer_cannot_command_the_terminal(daemon: ScriptedDaemon) -> None:
    assert converse(daemon, "escape").out == "red [31malert\n"


def test_the_history_is_kept_as_typed_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "history"
    History(path).append("one")
    path.chmod(0o644)
    History(path).append("two\nlines")
    assert History(path).lines() == ["one", "two\\", "lines"] and History(path, keep=1).lines() == ["lines"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_history_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    history = History(tmp_path / "file" / "history")
    history.append("one")
    assert history.lines() == []


class Terminal:
    """A program on a pseudo-terminal, with somebody who types and reads."""

    def __init__(self, command: list[str], environ: dict[str, str]):
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environ,
            cwd=REPOSITORY,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that ^C becomes SIGINT
        )
        os.close(slave)
        self.seen = ""

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def expect(self, text: str) -> None:
        """Reads until the text has appeared; what was before it counts as read."""
        give_up = time.monotonic() + 10
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], max(0, give_up - time.monotonic()))
            assert ready, f"{text!r} did not appear; seen: {self.seen!r}"
            self.seen += os.read(self.master, 4096).decode(errors="replace")
        self.seen = self.seen.partition(text)[2]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


CHAT = {
    "prompt_toolkit": "import sys; from edge_agent.cli import main; sys.exit(main())",
    "readline": "import sys; sys.modules['prompt_toolkit'] = None; from edge_agent.cli import main; sys.exit(main())",
}


@pytest.fixture(params=CHAT)
def terminal(request: pytest.FixtureRequest, daemon: ScriptedDaemon, tmp_path: Path) -> Iterator[Terminal]:
    if request.param == "prompt_toolkit" and not importlib.util.find_spec("prompt_toolkit"):
        pytest.skip("prompt_toolkit is not installed")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("EDGE_AGENT_")}
    environ |= {"XDG_STATE_HOME": str(tmp_path), "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
    environ.pop("STATE_DIRECTORY", None)
    terminal = Terminal([sys.executable, "-c", CHAT[request.param], "chat", "--socket", str(daemon.path)], environ)
    yield terminal
    terminal.close()


def test_on_a_terminal_ctrl_c_stops_the_answer_and_not_the_program(daemon: ScriptedDaemon, terminal: Terminal) -> None:
    terminal.expect(">")
    terminal.type("endless\r")
    terminal.expect("tick tick")
    terminal.type("\x03")
    terminal.expect("stopped")
    assert daemon.client_left.wait(2)
    terminal.expect(">")
    terminal.type("hello\r")
    terminal.expect("You said: hello")
    terminal.expect("below threshold")
    terminal.expect(">")
    terminal.type("\x04")
    assert terminal.process.wait(10) == 0
    assert turns(daemon.chats[1])[0] == "endless" and turns(daemon.chats[1])[1].startswith("tick tick")


def test_on_a_terminal_private_questions_stay_out_of_the_history_file(terminal: Terminal, tmp_path: Path) -> None:
    for line in ("hello", "/private", "secret words"):
        terminal.expect(">")
        terminal.type(f"{line}\r")
    terminal.expect("You said: secret words")
    terminal.expect(">")
    terminal.type("abandoned\x03")
    terminal.expect(">")
    terminal.type("\x03")
    assert terminal.process.wait(10) == 0
    history = tmp_path / "edge-agent" / "chat_history"
    assert history.read_text() == "hello\n" and history.stat().st_mode & 0o777 == 0o600
