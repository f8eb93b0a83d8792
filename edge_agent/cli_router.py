"""`edge-agent router ...`: bundles in, out and back, and who decides by which. Each command imports its room itself."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from edge_agent.cli_options import Where, json_option, make_console, print_value, where_options
from edge_agent.errors import DaemonError, RouterError

RELOAD_S = 60.0
"""A Raspberry Pi loads a router of 23 MB in about two seconds."""

PACKAGED = "the installed package's own"
EXISTING = click.Path(exists=True, path_type=Path)


@click.group()
def router() -> None:
    """The router's versions: install, try, use, go back. See docs/publishing.md."""


def _tree_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--root, --config and --socket, which reach the command as the tree's directory `root`, and `where`."""

    @wraps(command)
    def run(*args: Any, root: Path | None, where: Where, **options: Any) -> Any:
        from edge_agent.config import xdg_dir
        from edge_agent.router_store import find_root

        found = root or find_root(xdg_dir("state"), configured=where.settings().router.path)
        return command(*args, root=found, where=where, **options)

    help_text = "The tree of bundles; default: the one the daemon's router is in."
    return click.option("--root", type=click.Path(path_type=Path), metavar="DIR", help=help_text)(where_options(run))


reload_option = click.option("--reload", is_flag=True, help="Tell the running daemon, and say what it made of it.")


@router.command("list")
@_tree_options
@json_option
def router_list(root: Path, as_json: bool, where: Where) -> None:
    """What is installed; the current one has a star."""
    from dataclasses import asdict

    from edge_agent.display import bundle_lines
    from edge_agent.router_store import list_bundles

    bundles = [asdict(bundle) for bundle in list_bundles(root)]
    print_value(bundles, as_json, lambda: bundle_lines(bundles))
    if not bundles:
        make_console().note(f"no bundles in {root}: the installed package's own router is used")


@router.command("install")
@click.argument("source", type=EXISTING)
@click.option("--use", "use_it", is_flag=True, help="Make it the current one, too.")
@reload_option
@_tree_options
@json_option
def router_install(source: Path, use_it: bool, reload: bool, root: Path, as_json: bool, where: Where) -> None:
    """Takes a bundle, a directory or a file of `router pack`, into the tree, once it has loaded here."""
    from edge_agent.router_store import current, install, switch

    key = where.settings().router.public_key
    version = install(source, root, public_key=key)
    if use_it:
        switch(root, version, public_key=key)
    facts = {"installed": version, "current": current(root), "root": str(root)}
    _tell(facts, where, reload, as_json, f"{version} is installed in {root}" + (" and current" if use_it else ""))


@router.command("use")
@click.argument("version")
@reload_option
@_tree_options
@json_option
def router_use(version: str, reload: bool, root: Path, as_json: bool, where: Where) -> None:
    """Makes VERSION the current one, in one step."""
    from edge_agent.router_store import switch

    before = switch(root, version, public_key=where.settings().router.public_key)
    _tell(_now(root, version, before), where, reload, as_json, f"current is {version}, was {before or PACKAGED}")


@router.command("rollback")
@reload_option
@_tree_options
@json_option
def router_rollback(reload: bool, root: Path, as_json: bool, where: Where) -> None:
    """Goes back to the version that was current before; again, to the one before that."""
    from edge_agent.router_store import current, roll_back

    before = current(root)
    version = roll_back(root, public_key=where.settings().router.public_key)
    _tell(_now(root, version, before), where, reload, as_json, f"current is {version or PACKAGED}, was {before}")


@router.command("remove")
@click.argument("version")
@_tree_options
@json_option
def router_remove(version: str, root: Path, as_json: bool, where: Where) -> None:
    """Deletes a version that is not current, and its encoder when no other version has it."""
    from edge_agent.router_store import remove

    remove(root, version)
    print_value({"version": version, "root": str(root)}, as_json, lambda: [f"{version} is removed from {root}"])


@router.command("pack")
@click.argument("version")
@click.option("--with-encoder", is_flag=True, help="For a device that has another encoder, or none.")
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="Default: VERSION.tar.gz, here.")
@_tree_options
@json_option
def router_pack(version: str, with_encoder: bool, output: Path | None, root: Path, as_json: bool, where: Where) -> None:
    """Writes VERSION into one file, to be copied to a device and installed there."""
    from edge_agent.router_archive import pack
    from edge_agent.router_store import existing

    path = pack(existing(root, version), output or Path(f"{version}.tar.gz"), with_encoder=with_encoder)
    size = path.stat().st_size
    print_value({"path": str(path), "bytes": size}, as_json, lambda: [f"{path}, {size:,} bytes"])


@router.command("sign")
@click.argument("version")
@click.option("--key", type=EXISTING, required=True, metavar="FILE", help="The private key, of `router keygen`.")
@_tree_options
@json_option
def router_sign(version: str, key: Path, root: Path, as_json: bool, where: Where) -> None:
    """Signs VERSION, for devices that have set router.public_key."""
    from edge_agent.router_signature import sign
    from edge_agent.router_store import existing

    path = str(sign(existing(root, version), key))
    print_value({"path": path}, as_json, lambda: [path])


@router.command("keygen")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def router_keygen(file: Path, as_json: bool) -> None:
    """Makes a private key, FILE, and prints the public one for the devices."""
    from edge_agent.router_signature import new_private_key, public_key_of

    new_private_key(file)
    key = public_key_of(file)
    print_value({"path": str(file), "public_key": key}, as_json, lambda: [f"router.public_key: {key}"])
    make_console().note(f"keep {file} to yourself; the line above goes into the devices' settings")


def _now(root: Path, version: str | None, before: str | None) -> dict[str, Any]:
    return {"current": version, "before": before, "root": str(root)}


def _tell(facts: dict[str, Any], where: Where, reload: bool, as_json: bool, line: str) -> None:
    """What was done, and with --reload what the daemon says; an error when it decides by another router."""
    if not reload:
        print_value(facts, as_json, lambda: [line])
        make_console().note("a running daemon takes `current` up with --reload, or when it gets SIGHUP")
        return
    try:
        told = _reload(where)
    except DaemonError as error:
        raise DaemonError(f"{line}; but nobody took it up: {error.message}") from error
    decides = f"the daemon decides by {told['version']} in {told['path']}"
    print_value(facts | {"daemon": told}, as_json, lambda: [line, decides])
    if told["error"]:
        raise RouterError(f"the daemon keeps {told['version']}: {told['error']}")
    if facts["current"] not in (told["version"], None):
        raise RouterError(f"{decides}, not by {facts['current']}; give its tree with --root, or mend router.path")


def _reload(where: Where) -> dict[str, Any]:
    """The router's part of the daemon's status, after it has loaded anew. :raises DaemonError: when it does not."""
    client = where.client()
    status = client.status()
    try:
        os.kill(status["pid"], signal.SIGHUP)
    except OSError as error:
        message = f"the daemon (pid {status['pid']}) cannot be told to reload: {error.strerror}"
        raise DaemonError(f"{message}; run this as the daemon's user, on its machine") from error
    give_up = time.monotonic() + RELOAD_S
    while time.monotonic() < give_up:
        told: dict[str, Any] = client.status()["router"]
        if told["loads"] > status["router"]["loads"]:
            return told
        time.sleep(0.1)
    raise DaemonError(f"the daemon did not reload within {RELOAD_S:g} s; see its log lines")
