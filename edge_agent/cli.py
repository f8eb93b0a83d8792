"""The command line: reads flags, calls one room, prints. Each command imports its room itself: `ask` starts at once.

Data goes to standard output, messages to standard error. Exit codes: 0 done, 1 failed, 2 misused, 3 no model,
4 no daemon or one too many, 78 wrong settings, 130 Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_agent import __version__
from edge_agent.errors import EdgeAgentError

if TYPE_CHECKING:
    from edge_agent.client import Client
    from edge_agent.config import Config
    from edge_agent.display import Console
    from edge_agent.log_reader import LogReader
    from edge_agent.types import Wish


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    :param arguments: the words after `edge-agent`; None takes them from the process.
    :return: the exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal may know fewer characters
    try:
        code = cli.main(arguments, prog_name="edge-agent", standalone_mode=False)
        sys.stdout.flush()
        return int(code or 0)
    except EdgeAgentError as error:
        _console().error(error.message)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        # The reader, `head` say, has enough. What is still buffered must not fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edge-agent", message="%(prog)s %(version)s")
def cli() -> None:
    """A local model that answers, and asks the cloud when that is better.

    Start the daemon with `edge-agent serve`, then talk to it with `edge-agent chat` or `edge-agent ask`.
    """


@dataclass(frozen=True)
class Where:
    """The daemon a command is about: --config and --socket."""

    config: str | None
    socket: str | None

    def settings(self, model: str | None = None) -> Config:
        from edge_agent.config import load_config

        return load_config(self.config, flags={("socket", "path"): self.socket, ("local", "model"): model})

    def client(self) -> Client:
        from edge_agent.client import Client
        from edge_agent.config import find_socket

        return Client(find_socket(self.settings()))

    def log_file(self) -> Path:
        """The log of the settings; if a socket is named, of the daemon that listens there."""
        from edge_agent.config import log_path

        named = self.client().status()["log"]["path"] if self.socket else None
        return Path(named) if named else log_path(self.settings())

    def log(self) -> LogReader:
        from edge_agent.log_reader import LogReader

        return LogReader(self.log_file())


_config_option = click.option("--config", type=click.Path(), metavar="FILE", help="Settings; default: the first found.")
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def _where_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--config and --socket, which reach the command as `where`."""

    @wraps(command)
    def run(*args: Any, config: str | None, socket: str | None, **options: Any) -> Any:
        return command(*args, where=Where(config, socket), **options)

    add_socket = click.option("--socket", type=click.Path(), metavar="PATH", help="The daemon's Unix socket.")
    return add_socket(_config_option(run))


def _wish_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--model and --private: what the client asks of the routing."""
    models = click.Choice(["auto", "local", "cloud"])
    command = click.option("--private", is_flag=True, help="Stays on this device; its log row holds no text.")(command)
    return click.option("--model", type=models, default="auto", show_default=True, help="Who answers.")(command)


def _since(context: click.Context, option: click.Parameter, text: str | None) -> str | None:
    from edge_agent.display import since_utc

    try:
        return None if text is None else since_utc(text)
    except ValueError as error:
        raise click.BadParameter(str(error), context, option) from error


@cli.command()
@_where_options
@click.option("--model", metavar="FILE", help="The local model: a GGUF file, or a name from `edge-agent pull --list`.")
def serve(where: Where, model: str | None) -> int:
    """Runs the daemon in the foreground until SIGTERM or Ctrl-C."""
    from edge_agent.daemon import serve as run

    return run(where.settings(model))


@cli.command()
@_wish_options
@_where_options
def chat(model: Wish, private: bool, where: Where) -> int:
    """A conversation at a prompt; /help lists its commands."""
    from edge_agent.chat import Chat, History, piped_reader, terminal_reader
    from edge_agent.config import xdg_dir

    client = where.client()
    client.health()
    history, interactive = History(xdg_dir("state") / "chat_history"), sys.stdin.isatty() and sys.stdout.isatty()
    read_line = terminal_reader(history) if interactive else piped_reader(sys.stdin.buffer)
    remember = history.append if interactive else lambda line: None
    conversation = Chat(
        client, _console(), read_line, remember=remember, interactive=interactive, model=model, private=private
    )
    return conversation.run()


@cli.command()
@click.argument("text", required=False)
@_wish_options
@click.option("--no-stream", is_flag=True, help="Print the answer when it is complete.")
@_json_option
@_where_options
def ask(
    text: str | None,
    model: Wish,
    private: bool,
    no_stream: bool,
    as_json: bool,
    where: Where,
) -> None:
    """One question, one answer. Piped standard input is added after TEXT."""
    from dataclasses import asdict

    from edge_agent.display import answer_line

    client, messages, console = where.client(), _question(text), _console()
    on_text = (lambda text: None) if as_json or no_stream else console.write
    try:
        answer = client.ask(messages, model=model, private=private, on_text=on_text)
    finally:
        console.end_line()
    if as_json or no_stream:
        _print(asdict(answer), as_json, lambda: [answer.text])
    console.note(answer_line(answer.edge_agent, answer.finish_reason))


@cli.command()
@click.argument("text", required=False)
@_wish_options
@_json_option
@_where_options
def route(text: str | None, model: Wish, private: bool, as_json: bool, where: Where) -> None:
    """What would be decided for TEXT; nothing is generated."""
    from edge_agent.display import route_line

    decision = where.client().route(_question(text), model=model, private=private)
    _print(decision, as_json, lambda: [route_line(decision)])


@cli.command()
@_json_option
@_where_options
def status(as_json: bool, where: Where) -> None:
    """What the running daemon says about itself."""
    from edge_agent.display import status_lines

    facts = where.client().status()
    _print(facts, as_json, lambda: status_lines(facts))


@cli.command()
@click.argument("id")
@click.argument("rating", type=click.Choice(["good", "bad"]))
@_json_option
@_where_options
def feedback(id: str, rating: str, as_json: bool, where: Where) -> None:
    """Rates the answer ID, as `edge-agent logs` shows it."""
    if len(id) < FULL_ID:
        id = where.log().row(id)["id"]
    result = where.client().feedback(id, rating)
    _print(result, as_json, lambda: [f"{result['id']} {result['rating']}"])


class _LogsGroup(click.Group):
    """`logs` without a further word is `logs list`."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        if not args or args[0].startswith("-") and args[0] not in context.help_option_names:
            args = ["list", *args]
        return super().parse_args(context, args)


@cli.group(cls=_LogsGroup)
def logs() -> None:
    """The decision log: every exchange, its route and why. Alone: `logs list`."""


@logs.command("list")
@click.option("--route", type=click.Choice(["local", "cloud"]), help="Only exchanges that went there.")
@click.option("--since", metavar="TIME", callback=_since, help="Only later ones: 90s, 30m, 2h, 3d, 1w or an ISO time.")
@click.option("--text", metavar="TEXT", help="Only those whose question or answer contains TEXT.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most this many.")
@_json_option
@_where_options
def logs_list(
    route: str | None,
    since: str | None,
    text: str | None,
    limit: int,
    as_json: bool,
    where: Where,
) -> None:
    """The last exchanges, newest first."""
    from edge_agent.display import log_lines

    rows = where.log().rows(route=route, since_utc=since, text=text, limit=limit)
    _print(rows, as_json, lambda: log_lines(rows))
    if not rows:
        _console().note("no exchanges; ask something with `edge-agent ask`, or widen --since, --route and --text")


@logs.command("show")
@click.argument("id")
@_json_option
@_where_options
def logs_show(id: str, as_json: bool, where: Where) -> None:
    """One exchange in words; ID may be the beginning of an id."""
    from edge_agent.explain import explain

    row = where.log().row(id)
    _print(row, as_json, lambda: [explain(row)])


@logs.command("path")
@_json_option
@_where_options
def logs_path(as_json: bool, where: Where) -> None:
    """Where the log is."""
    path = str(where.log_file())
    _print({"path": path}, as_json, lambda: [path])


@logs.command("status")
@_json_option
@_where_options
def logs_status(as_json: bool, where: Where) -> None:
    """How large the log is, and what of it is not uploaded yet."""
    from edge_agent.display import status_lines

    facts = where.log().status()
    _print(facts, as_json, lambda: status_lines(facts))


@cli.command()
@_json_option
@_where_options
def doctor(as_json: bool, where: Where) -> int:
    """Checks models, router, socket, cloud, disk, memory and board; says how to mend what is wrong."""
    from dataclasses import asdict

    from edge_agent.display import check_lines
    from edge_agent.doctor import run

    checks = [asdict(check) for check in run(where.settings())]
    _print(checks, as_json, lambda: check_lines(checks))
    return int(any(check["ok"] == "fail" for check in checks))


@cli.command()
@click.argument("name", required=False)
@click.option("--list", "list_only", is_flag=True, help="What there is, and what of it is here.")
@_json_option
@_config_option
def pull(name: str | None, list_only: bool, as_json: bool, config: str | None) -> None:
    """Downloads the model NAME, by default the configured one, and verifies it."""
    from edge_agent import model_store
    from edge_agent.config import xdg_dir
    from edge_agent.display import model_lines
    from edge_agent.progress import Progress

    store_dir = xdg_dir("cache") / "models"
    if list_only:
        models = [model.to_dict() for model in model_store.list_models(store_dir)]
        _print(models, as_json, lambda: model_lines(models))
        return
    name = name or Where(config, None).settings().local.model
    progress = Progress(name)
    try:
        path = str(model_store.pull(name, store_dir, progress=progress, say=progress.say))
    finally:
        progress.close()
    _print({"name": name, "path": path}, as_json, lambda: [path])


@cli.command()
@_json_option
def version(as_json: bool) -> None:
    """The version of edge-agent."""
    _print({"version": __version__}, as_json, lambda: [f"edge-agent {__version__}"])


FULL_ID = 36
"""Characters of a whole id; less is a prefix."""


def _print(value: object, as_json: bool, lines: Callable[[], Iterable[str]]) -> None:
    """The one way a command shows what it read: as JSON, or as lines."""
    console = _console()
    if as_json:
        console.json(value)
        return
    for line in lines():
        console.line(line)


def _console() -> Console:
    from edge_agent.display import Console

    return Console(sys.stdout, sys.stderr, os.environ)


def _question(text: str | None) -> list[dict[str, str]]:
    """TEXT, then what is piped in: the router reads the beginning, and that is where the task should be."""
    from edge_agent.display import utf8

    piped = "" if sys.stdin is None or sys.stdin.isatty() else utf8(sys.stdin.buffer.read()).strip()
    question = "\n\n".join(part for part in (text, piped) if part and part.strip())
    if not question:
        raise click.UsageError('no question; type edge-agent ask "TEXT" or pipe text in', click.get_current_context())
    return [{"role": "user", "content": question}]
