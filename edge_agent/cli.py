"""The command line: reads flags, calls one room, prints. Each command imports its room itself: `ask` starts at once.

Data goes to standard output, messages to standard error. Exit codes: 0 done, 1 failed, 2 misused, 3 no model,
4 no daemon or one too many, 75 try again later, 78 wrong settings, 130 Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from edge_agent import __version__
from edge_agent.cli_compare import compare
from edge_agent.cli_logs import logs
from edge_agent.cli_options import FULL_ID, Where, config_option, json_option, make_console, print_value, where_options
from edge_agent.cli_router import router
from edge_agent.cli_threshold import threshold
from edge_agent.errors import EdgeAgentError

if TYPE_CHECKING:
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
        make_console().error(error.message)
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


cli.add_command(compare)
cli.add_command(logs)
cli.add_command(router)
cli.add_command(threshold)


def _wish_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--model and --private: what the client asks of the routing."""
    models = click.Choice(["auto", "local", "cloud"])
    command = click.option("--private", is_flag=True, help="Stays on this device; its log row holds no text.")(command)
    return click.option("--model", type=models, default="auto", show_default=True, help="Who answers.")(command)


@cli.command()
@where_options
@click.option("--model", metavar="FILE", help="The local model: a GGUF file, or a name from `edge-agent pull --list`.")
def serve(where: Where, model: str | None) -> int:
    """Runs the daemon in the foreground until SIGTERM or Ctrl-C."""
    from edge_agent.daemon import serve as run

    return run(where.settings({("local", "model"): model}))


@cli.command()
@_wish_options
@where_options
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
        client, make_console(), read_line, remember=remember, interactive=interactive, model=model, private=private
    )
    return conversation.run()


@cli.command()
@click.argument("text", required=False)
@_wish_options
@click.option("--no-stream", is_flag=True, help="Print the answer when it is complete.")
@json_option
@where_options
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

    client, messages, console = where.client(), _question(text), make_console()
    on_text = (lambda text: None) if as_json or no_stream else console.write
    try:
        answer = client.ask(messages, model=model, private=private, on_text=on_text)
    finally:
        console.end_line()
    if as_json or no_stream:
        print_value(asdict(answer), as_json, lambda: [answer.text])
    console.note(answer_line(answer.edge_agent, answer.finish_reason))


@cli.command()
@click.argument("text", required=False)
@_wish_options
@json_option
@where_options
def route(text: str | None, model: Wish, private: bool, as_json: bool, where: Where) -> None:
    """What would be decided for TEXT; nothing is generated."""
    from edge_agent.display import route_line

    decision = where.client().route(_question(text), model=model, private=private)
    print_value(decision, as_json, lambda: [route_line(decision)])


@cli.command()
@json_option
@where_options
def status(as_json: bool, where: Where) -> None:
    """What the running daemon says about itself."""
    from edge_agent.display import status_lines

    facts = where.client().status()
    print_value(facts, as_json, lambda: status_lines(facts))


@cli.command()
@click.argument("id")
@click.argument("rating", type=click.Choice(["good", "bad"]))
@json_option
@where_options
def feedback(id: str, rating: str, as_json: bool, where: Where) -> None:
    """Rates the answer ID, as `edge-agent logs` shows it."""
    if len(id) < FULL_ID:
        id = where.log().row(id)["id"]
    result = where.client().feedback(id, rating)
    print_value(result, as_json, lambda: [f"{result['id']} {result['rating']}"])


@cli.command()
@json_option
@where_options
def doctor(as_json: bool, where: Where) -> int:
    """Checks models, router, socket, cloud, disk, memory and board; says how to mend what is wrong."""
    from dataclasses import asdict

    from edge_agent.display import check_lines
    from edge_agent.doctor import run

    checks = [asdict(check) for check in run(where.settings())]
    print_value(checks, as_json, lambda: check_lines(checks))
    return int(any(check["ok"] == "fail" for check in checks))


@cli.command()
@click.argument("name", required=False)
@click.option("--list", "list_only", is_flag=True, help="What there is, and what of it is here.")
@json_option
@config_option
def pull(name: str | None, list_only: bool, as_json: bool, config: str | None) -> None:
    """Downloads the model NAME, by default the configured one, and verifies it."""
    from edge_agent import model_store
    from edge_agent.config import xdg_dir
    from edge_agent.display import model_lines
    from edge_agent.progress import Progress

    store_dir = xdg_dir("cache") / "models"
    if list_only:
        models = [model.to_dict() for model in model_store.list_models(store_dir)]
        print_value(models, as_json, lambda: model_lines(models))
        return
    name = name or Where(config, None).settings().local.model
    progress = Progress(name)
    try:
        path = str(model_store.pull(name, store_dir, progress=progress, say=progress.say))
    finally:
        progress.close()
    print_value({"name": name, "path": path}, as_json, lambda: [path])


@cli.command()
@json_option
def version(as_json: bool) -> None:
    """The version of edge-agent."""
    print_value({"version": __version__}, as_json, lambda: [f"edge-agent {__version__}"])


def _question(text: str | None) -> list[dict[str, str]]:
    """TEXT, then what is piped in: the router reads the beginning, and that is where the task should be."""
    from edge_agent.display import utf8

    piped = "" if sys.stdin is None or sys.stdin.isatty() else utf8(sys.stdin.buffer.read()).strip()
    question = "\n\n".join(part for part in (text, piped) if part and part.strip())
    if not question:
        raise click.UsageError('no question; type edge-agent ask "TEXT" or pipe text in', click.get_current_context())
    return [{"role": "user", "content": question}]
