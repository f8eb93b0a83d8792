"""What the commands share: where the daemon and its log are, the options that say so, and how a value is shown."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edge_agent.client import Client
    from edge_agent.config import Config
    from edge_agent.display import Console
    from edge_agent.log_reader import LogReader

FULL_ID = 36
"""Characters of a whole id; less is a prefix."""


@dataclass(frozen=True)
class Where:
    """The daemon a command is about: --config and --socket."""

    config: str | None
    socket: str | None

    def settings(self, flags: Mapping[tuple[str, str], Any] | None = None) -> Config:
        """The settings; what a flag gives, by (section, key), goes first."""
        from edge_agent.config import load_config

        return load_config(self.config, flags={("socket", "path"): self.socket, **(flags or {})})

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


def _since(context: click.Context, option: click.Parameter, text: str | None) -> str | None:
    from edge_agent.display import since_utc

    try:
        return None if text is None else since_utc(text)
    except ValueError as error:
        raise click.BadParameter(str(error), context, option) from error


since_option = click.option(
    "--since", metavar="TIME", callback=_since, help="Only later ones: 90s, 30m, 2h, 3d, 1w or an ISO time."
)
config_option = click.option("--config", type=click.Path(), metavar="FILE", help="Settings; default: the first found.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def where_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--config and --socket, which reach the command as `where`."""

    @wraps(command)
    def run(*args: Any, config: str | None, socket: str | None, **options: Any) -> Any:
        return command(*args, where=Where(config, socket), **options)

    add_socket = click.option("--socket", type=click.Path(), metavar="PATH", help="The daemon's Unix socket.")
    return add_socket(config_option(run))


def print_value(value: object, as_json: bool, lines: Callable[[], Iterable[str]]) -> None:
    """The one way a command shows what it read: as JSON, or as lines."""
    console = make_console()
    if as_json:
        console.json(value)
        return
    for line in lines():
        console.line(line)


def make_console() -> Console:
    """The terminal or pipe this process has."""
    from edge_agent.display import Console

    return Console(sys.stdout, sys.stderr, os.environ)
