"""The command line as a user meets it: a process, its two streams and its exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import pytest

from edge_agent.chat import COMMANDS
from edge_agent.cli import cli
from edge_agent.decision_log import DecisionLog
from edge_agent.types import Completion, Decision, Exchange, Message, Query
from tests.scripted_daemon import DECISION, INFO, STATUS, ScriptedDaemon

REPOSITORY = Path(__file__).parent.parent
CUT = "the daemon closed the connection before its answer was complete; ask again, or see `edge-agent status`"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ScriptedDaemon]:
    with closing(ScriptedDaemon(tmp_path / "s.sock")) as daemon:
        daemon.start()
        yield daemon


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment of its own: no settings, no cache and no log but the test's."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("EDGE_AGENT_", "XDG_"))}
    home = {f"XDG_{kind}_HOME": str(tmp_path / kind.lower()) for kind in ("CONFIG", "STATE", "CACHE")}
    return environ | home | {"EDGE_AGENT_SOCKET_PATH": str(tmp_path / "s.sock"), "TZ": "UTC", "PYTHONUTF8": "1"}


@pytest.fixture
def run(environ: dict[str, str]) -> Run:
    """Runs `edge-agent ARGUMENTS`, with `stdin` piped in."""

    def run(*arguments: str, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edge_agent", *arguments]
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, cwd=REPOSITORY, env=environ | more, timeout=30
        )

    return run


def shown(done: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("flags", [[], ["--no-stream"], ["--model", "cloud", "--private"]])
def test_ask_prints_the_answer_and_nothing_else(daemon: ScriptedDaemon, run: Run, flags: list[str]) -> None:
    assert shown(run("ask", "hello", *flags)) == (0, "You said: hello\n", "")


@pytest.mark.parametrize(
    ("text", "stdin", "question"),
    [
        (["one"], "", "one"),
        ([], "two\n", "two"),
        (["one"], "two\n", "one\n\ntwo"),
        (["größe"], "naïve 日本", "größe\n\nnaïve 日本"),
    ],
)
def test_ask_asks_the_text_then_what_is_piped(
    daemon: ScriptedDaemon, run: Run, text: list[str], stdin: str, question: str
) -> None:
    assert run("ask", *text, stdin=stdin).stdout == f"You said: {question}\n"


def test_ask_passes_the_wishes_on(daemon: ScriptedDaemon, run: Run) -> None:
    run("ask", "hello", "--model", "local", "--private")
    assert daemon.chats[0]["model"] == "local" and daemon.chats[0]["private"] is True


def test_ask_as_json_is_one_object(daemon: ScriptedDaemon, run: Run) -> None:
    answer = json.loads(run("ask", "hello", "--json").stdout)
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
    assert answer == {"text": "You said: hello", "finish_reason": "stop", "edge_agent": INFO, "usage": usage}


@pytest.mark.parametrize(
    ("question", "out", "err"),
    [
        ("busy", "", "error: 4 requests wait already\n"),
        ("late error", "half \n", "error: the model broke\n"),
        ("cut", "half \n", f"error: {CUT}\n"),
    ],
)
def test_a_failed_answer_is_one_line_and_exit_code_1(
    daemon: ScriptedDaemon, run: Run, question: str, out: str, err: str
) -> None:
    assert shown(run("ask", question)) == (1, out, err)


@pytest.mark.parametrize(
    "command",
    [
        ["ask", "hi"],
        ["route", "hi"],
        ["status"],
        ["chat"],
        ["feedback", str(INFO["id"]), "good"],
        ["logs", "--socket", "none"],
    ],
)
def test_without_a_daemon_every_command_says_how_to_start_one(run: Run, command: list[str]) -> None:
    code, out, err = shown(run(*command))
    assert (code, out) == (4, "") and "start one with `edge-agent serve`" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ask"], "no question; type edge-agent ask"),
        (["ask", "hi", "--model", "gpt"], "'gpt' is not one of"),
        (["logs", "--since", "yesterday"], "expected an age such as 2h or 3d, or an ISO time, found 'yesterday'"),
        (["logs", "--limit", "0"], "0 is not in the range"),
        (["feedback", "0193", "great"], "'great' is not one of"),
        (["sing"], "No such command 'sing'"),
    ],
)
def test_misuse_is_exit_code_2(run: Run, arguments: list[str], message: str) -> None:
    code, out, err = shown(run(*arguments))
    assert (code, out) == (2, "") and message in err


def test_wrong_settings_are_exit_code_78(run: Run, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("socket: {paht: x}")
    code, out, err = shown(run("ask", "hi", "--config", str(tmp_path / "c.yaml")))
    assert (code, out) == (78, "") and "did you mean socket.path?" in err


def test_serve_without_its_model_is_exit_code_3(run: Run) -> None:
    code, out, err = shown(run("serve", "--model", "/none/such.gguf"))
    assert (code, out) == (3, "") and "/none/such.gguf" in err


def test_input_that_is_no_text_is_refused(daemon: ScriptedDaemon, environ: dict[str, str]) -> None:
    command = [sys.executable, "-m", "edge_agent", "ask"]
    done = subprocess.run(command, input=b"\xff", capture_output=True, cwd=REPOSITORY, env=environ, timeout=30)
    assert done.returncode == 1 and b"expected UTF-8 text, found byte 0xff at 0" in done.stderr


def test_the_socket_flag_wins_over_the_environment(daemon: ScriptedDaemon, run: Run) -> None:
    done = run("ask", "hello", "--socket", str(daemon.path), EDGE_AGENT_SOCKET_PATH="/nowhere")
    assert done.stdout == "You said: hello\n"


def test_route_is_a_line_or_the_daemons_object(daemon: ScriptedDaemon, run: Run) -> None:
    decision = DECISION | {"router_ms": 3.2, "prompt_tokens": 9, "n_ctx": 4096}
    assert run("route", "hi").stdout == "local · below threshold · 0.12 < 0.42 · 3 ms · 9 of 4096 tokens\n"
    assert json.loads(run("route", "hi", "--json").stdout) == decision


def test_status_is_a_line_per_part_or_the_daemons_object(daemon: ScriptedDaemon, run: Run) -> None:
    assert "local      model tiny · busy no · waiting 0\n" in run("status").stdout
    assert json.loads(run("status", "--json").stdout) == STATUS


def test_a_piped_chat_answers_line_by_line_and_fails_if_one_failed(daemon: ScriptedDaemon, run: Run) -> None:
    assert shown(run("chat", stdin="one\ntwo\\\nlines\n/good\n")) == (0, "You said: one\nYou said: two\nlines\n", "")
    assert shown(run("chat", stdin="busy\none")) == (1, "You said: one\n", "error: 4 requests wait already\n")


@pytest.fixture
def asking(daemon: ScriptedDaemon, environ: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """An `ask` whose answer does not end by itself; its first word has been read."""
    command, pipe = [sys.executable, "-m", "edge_agent", "ask", "endless"], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=REPOSITORY, env=environ) as process:
        assert process.stdin and process.stdout
        process.stdin.close()
        assert process.stdout.read(5) == b"tick "
        yield process
        process.kill()


def test_ctrl_c_is_exit_code_130_and_the_daemon_hears_of_it(
    daemon: ScriptedDaemon, asking: subprocess.Popen[bytes]
) -> None:
    asking.send_signal(signal.SIGINT)
    assert asking.wait(10) == 130 and asking.stderr and asking.stderr.read().strip() == b""
    assert daemon.client_left.wait(2)


def test_a_reader_that_has_enough_ends_the_answer_quietly(
    daemon: ScriptedDaemon, asking: subprocess.Popen[bytes]
) -> None:
    assert asking.stdout and asking.stderr
    asking.stdout.close()
    assert asking.wait(10) == 1 and asking.stderr.read() == b""
    assert daemon.client_left.wait(2)


@pytest.mark.parametrize("command", [["ask", "hi"], ["route", "hi"], ["status"], ["chat"]])
def test_talking_to_the_daemon_imports_nothing_heavy(
    daemon: ScriptedDaemon, environ: dict[str, str], command: list[str]
) -> None:
    code = f"import sys; from edge_agent.cli import main; main({command}); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], input="", capture_output=True, text=True, cwd=REPOSITORY, env=environ, timeout=30
    )
    loaded = {name.split(".")[0] for name in done.stderr.split()}
    heavy = {"numpy", "llama_cpp", "yaml", "requests", "starlette", "uvicorn", "sqlite3", "sqlite_utils", "asyncio"}
    assert "click" in loaded and not loaded & heavy


def exchange(text: str, number: int, **decision: Any) -> Exchange:
    route = Decision(**({"route": "local", "reason": "below_threshold", "score": 0.12, "threshold": 0.42} | decision))
    completion = Completion(text=f"answer {number}", model="tiny", finish_reason="stop")
    time_utc, id = f"2026-11-23T20:15:0{number}.000Z", f"0193a5b2-1c3{number}-7abc-8def-{number:012}"
    query = Query((Message("user", text),), private=text == "secret", id=id, created_utc=time_utc)
    return Exchange(query, route, completion, duration_ms=1840.0)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "state" / "edge-agent" / "edge-agent.db"
    with closing(DecisionLog(path)) as log:
        log.append(exchange("who\nare you?", 1))
        log.append(exchange("prove it", 2, route="cloud", reason="above_threshold", score=0.61))
        log.append(exchange("secret", 3, reason="private", score=None, degraded="cloud_unavailable"))
    return path


def test_logs_lists_the_newest_first_and_no_private_text(log: Path, run: Run) -> None:
    assert run("logs").stdout.splitlines() == [
        "2026-11-23 20:15:03  0193a5b2-1c33  local  private (cloud unavailable)                1840 ms  (private)",
        "2026-11-23 20:15:02  0193a5b2-1c32  cloud  above threshold              0.61 >= 0.42  1840 ms  prove it",
        "2026-11-23 20:15:01  0193a5b2-1c31  local  below threshold              0.12 < 0.42   1840 ms  who are you?",
    ]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (["--route", "cloud"], ["2"]),
        (["--since", "2026-11-23T20:15:02+00:00"], ["3", "2"]),
        (["--text", "ARE YOU"], ["1"]),
        (["--limit", "1"], ["3"]),
        (["list", "--route", "local", "--limit", "5"], ["3", "1"]),
        (["--text", "nobody asked this"], []),
    ],
)
def test_logs_filters_by_route_time_text_and_number(log: Path, run: Run, filters: list[str], found: list[str]) -> None:
    rows = json.loads(run("logs", *filters, "--json").stdout)
    assert [row["id"][-1] for row in rows] == found


def test_a_row_is_found_by_the_beginning_of_its_id(log: Path, run: Run) -> None:
    assert json.loads(run("logs", "show", "0193a5b2-1c32", "--json").stdout)["answer"] == "answer 2"
    assert "who are you?" in run("logs", "show", "0193a5b2-1c31").stdout
    done = run("logs", "show", "0193a5b2")
    assert done.returncode == 1 and "several exchanges have the id '0193a5b2'" in done.stderr


def test_feedback_takes_the_short_id_that_logs_shows(log: Path, daemon: ScriptedDaemon, run: Run) -> None:
    whole = "0193a5b2-1c32-7abc-8def-000000000002"
    assert run("feedback", "0193a5b2-1c32", "bad").stdout == f"{whole} bad\n"
    assert daemon.requests == [("/v1/feedback", {"id": whole, "rating": "bad"})]


def test_logs_says_where_the_log_is_and_how_large(log: Path, run: Run) -> None:
    assert run("logs", "path").stdout == f"{log}\n"
    assert json.loads(run("logs", "status", "--json").stdout)["rows"] == 3


def test_the_log_of_a_named_socket_is_that_daemons_log(daemon: ScriptedDaemon, run: Run) -> None:
    assert run("logs", "path", "--socket", str(daemon.path)).stdout == f"{STATUS['log']['path']}\n"


def test_pull_lists_the_catalogue_and_knows_what_is_not_in_it(run: Run) -> None:
    assert {"qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"} <= {
        m["name"] for m in json.loads(run("pull", "--list", "--json").stdout)
    }
    code, out, err = shown(run("pull", "no-such-model"))
    assert (code, out) == (3, "") and "no-such-model" in err


def test_doctor_fails_when_a_check_fails_and_says_how_to_mend_it(run: Run) -> None:
    done = run("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert done.returncode == 1 and checks["model"]["ok"] == "fail"  # the test's cache is empty
    assert checks["model"]["fix"] in run("doctor").stdout


def commands(group: click.Group, *names: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *names, name)
        else:
            yield " ".join([*names, name]), command


@pytest.mark.parametrize(("name", "command"), list(commands(cli)))
def test_every_command_has_help_and_the_flags_that_were_promised(name: str, command: click.Command) -> None:
    flags = {flag for option in command.params for flag in option.opts}
    assert command.help
    assert name in ("serve", "chat") or "--json" in flags
    assert name in ("pull", "version", "router keygen") or {"--socket", "--config"} <= flags


def test_the_manual_names_every_command_and_every_exit_code() -> None:
    manual = (REPOSITORY / "docs" / "usage.md").read_text()
    assert [name for name in cli.commands if f"`edge-agent {name}" not in manual] == []
    assert [code for code in (0, 1, 2, 3, 4, 78, 130) if f"| {code} |" not in manual] == []


def test_the_manual_names_every_command_of_the_chat() -> None:
    manual = (REPOSITORY / "docs" / "usage.md").read_text()
    assert [name for name in COMMANDS if f"`{name}" not in manual] == []
