"""`edge-agent logs ...`: reads the log, uploads it, forgets. Each command imports its room itself."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from edge_agent.cli_options import (
    FULL_ID,
    Where,
    json_option,
    make_console,
    print_value,
    since_option,
    where_options,
)
from edge_agent.errors import DaemonError, LogError, SyncError

if TYPE_CHECKING:
    from edge_agent.config import Config
    from edge_agent.log_reader import LogReader
    from edge_agent.sync_state import SyncState


class _LogsGroup(click.Group):
    """`logs` without a further word is `logs list`."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        if not args or args[0].startswith("-") and args[0] not in context.help_option_names:
            args = ["list", *args]
        return super().parse_args(context, args)


@click.group(cls=_LogsGroup)
def logs() -> None:
    """The decision log: every exchange, its route and why. Alone: `logs list`."""


@logs.command("list")
@click.option("--route", type=click.Choice(["local", "cloud"]), help="Only exchanges that went there.")
@since_option
@click.option("--text", metavar="TEXT", help="Only those whose question or answer contains TEXT.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most this many.")
@json_option
@where_options
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
    print_value(rows, as_json, lambda: log_lines(rows))
    if not rows:
        make_console().note("no exchanges; ask something with `edge-agent ask`, or widen --since, --route and --text")


@logs.command("show")
@click.argument("id")
@json_option
@where_options
def logs_show(id: str, as_json: bool, where: Where) -> None:
    """One exchange in words; ID may be the beginning of an id."""
    from edge_agent.explain import explain

    row = where.log().row(id)
    print_value(row, as_json, lambda: [explain(row)])


@logs.command("path")
@json_option
@where_options
def logs_path(as_json: bool, where: Where) -> None:
    """Where the log is."""
    path = str(where.log_file())
    print_value({"path": path}, as_json, lambda: [path])


@logs.command("status")
@json_option
@where_options
def logs_status(as_json: bool, where: Where) -> None:
    """How large the log is, what of it is not uploaded yet, what pruning would delete and what it keeps."""
    from edge_agent.config import device_id
    from edge_agent.display import status_lines
    from edge_agent.log_status import log_status, retention_of

    config, state = where.settings(), _sync_state()
    device = device_id(config)
    retention = retention_of(config.log, config.sync, state, device)
    facts = log_status(where.log(), retention, state, url=config.sync.destination, device_id=device)
    print_value(facts, as_json, lambda: status_lines(facts))


@logs.command("sync")
@click.option("--to", metavar="URL", help="Where to; default: sync.destination.")
@click.option("--dry-run", is_flag=True, help="Print what would leave; send nothing.")
@click.option("--max-kb-s", type=click.FloatRange(min=0), metavar="N", help="Kilobytes per second, on average.")
@click.option("--give-up-s", type=click.FloatRange(min=0), metavar="N", help="Keep trying for so long.")
@json_option
@where_options
def logs_sync(
    to: str | None,
    dry_run: bool,
    max_kb_s: float | None,
    give_up_s: float | None,
    as_json: bool,
    where: Where,
) -> int:
    """Uploads the rows that were not uploaded yet. Exit code 75: not now, try again later; see docs/sync.md."""
    given = {"destination": to, "max_kb_s": max_kb_s, "give_up_s": give_up_s}
    config = where.settings({("sync", key): value for key, value in given.items()})
    if dry_run:
        _preview(where.log(), config, as_json)
        return 0
    if config.sync.destination is None:
        off = "upload is off: set sync.destination, or name a place with --to; --dry-run shows what would leave"
        print_value({"destination": None}, as_json, lambda: [off])
        return 0
    return _upload(where.log(), config, config.sync.destination, as_json, asked=to is not None)


def _sync_state() -> SyncState:
    from edge_agent.config import xdg_dir
    from edge_agent.sync_state import FILE_NAME, SyncState

    return SyncState(xdg_dir("state") / FILE_NAME)


def _upload(log: LogReader, config: Config, url: str, as_json: bool, *, asked: bool) -> int:
    """:param asked: a person named the place just now: they hear why it did not work, wherever they are."""
    import logging
    from dataclasses import asdict

    from edge_agent.config import device_id
    from edge_agent.display import sent_line
    from edge_agent.redaction import redactor
    from edge_agent.sync import Patience, Sync, open_destination

    logging.basicConfig(format="%(message)s")
    logging.getLogger("edge_agent").setLevel(config.logging.level.upper())
    sync = config.sync
    destination = open_destination(
        url,
        os.environ,
        token_env=sync.token_env,
        ca_file=sync.ca_file,
        timeout_s=sync.timeout_s,
        max_kb_s=sync.max_kb_s,
    )
    run = Sync(
        log,
        destination,
        _sync_state(),
        device_id=device_id(config),
        redact=redactor(sync.redact),
        patience=Patience(sync.give_up_s),
    )
    try:
        sent = asdict(run.run())
    except SyncError as error:
        if error.code != "unreachable":
            raise
        logging.getLogger(__name__).debug(error.message)  # a device is often offline: no news
        if asked:
            raise
        make_console().note(error.message)
        return error.exit_code
    if as_json or sent["batches"] or sent["was_down_since_utc"]:
        print_value(sent, as_json, lambda: [sent_line(sent)])
    else:
        make_console().note(f"nothing to send: {sent['destination']} has everything")
    return 0


def _preview(log: LogReader, config: Config, as_json: bool) -> None:
    """The rows one by one, however many there are; then the sum."""
    import json
    import zlib

    from edge_agent.config import device_id
    from edge_agent.display import preview_line, preview_sum
    from edge_agent.log_batches import TABLES
    from edge_agent.redaction import redactor
    from edge_agent.sync import preview

    sync, console = config.sync, make_console()
    packer, size = zlib.compressobj(), 0
    rows = dict.fromkeys(TABLES, 0)
    for row in preview(
        log, _sync_state(), sync.destination or "", device_id=device_id(config), redact=redactor(sync.redact)
    ):
        line = json.dumps(row)
        rows[row["table"]] += 1
        size += len(packer.compress(line.encode()))
        console.line(line if as_json else preview_line(row))
    facts = {"rows": rows, "bytes": size + len(packer.flush()), "destination": sync.destination}
    console.line(json.dumps(facts) if as_json else preview_sum(facts))


@logs.command("forget")
@click.argument("id", required=False)
@click.option("--conversation", metavar="CID", help="A client's conversation id, in place of ID.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@where_options
def logs_forget(id: str | None, conversation: str | None, yes: bool, as_json: bool, where: Where) -> int:
    """Deletes the whole conversation that the exchange ID belongs to, here and, with the next sync, elsewhere."""
    from edge_agent.display import forgotten_line

    if (id is None) == (conversation is None):
        raise click.UsageError("name one exchange of the conversation, or give --conversation CID")
    if id is not None and len(id) < FULL_ID:
        id = where.log().row(id)["id"]
    found = where.log().conversation_ids(id, conversation)
    if conversation is not None and not found:
        raise LogError(f"no exchange has the conversation id {conversation!r}; `edge-agent logs --json` lists them")
    if not yes and not click.confirm(f"Forget {len(found)} exchanges for good?", err=True):
        return 1
    forgotten = _forget(where, id, conversation)
    destination = where.settings().sync.destination
    print_value(forgotten, as_json, lambda: [forgotten_line(forgotten, destination)])
    return 0


def _forget(where: Where, id: str | None, conversation: str | None) -> dict[str, Any]:
    """By the daemon, which alone may write while it runs; without one, under its lock."""
    from contextlib import closing
    from dataclasses import asdict

    from edge_agent.decision_log import DecisionLog

    try:
        return where.client().forget(id, conversation)
    except DaemonError:
        with closing(DecisionLog(where.log_file())) as log:
            return asdict(log.forget(id, conversation))
