"""Receives the logs of devices on a workstation: an HTTPS receiver, objects to import, and who may send."""

from __future__ import annotations

import json
import logging
import socket
import ssl
import sys
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from edge_agent.config import is_loopback, xdg_dir
from edge_agent.errors import ConfigError, EdgeAgentError
from edge_agent.notify import notify
from edge_agent.training.inbox import Inbox
from edge_agent.training.inbox_devices import Device, Devices

EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group(help=__doc__)
def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for noisy in ("uvicorn", "asyncio", "aiobotocore", "botocore", "paramiko", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def with_inbox(command: Callable[..., None]) -> Callable[..., None]:
    """The option --inbox."""
    path = click.Path(dir_okay=False, path_type=Path)
    help_text = "the inbox; default inbox.db in edge-agent's state directory"
    return click.option("--inbox", "inbox_file", type=path, help=help_text)(command)


def opened(inbox_file: Path | None, max_bytes: int | None = None) -> Inbox:
    return Inbox(inbox_file or xdg_dir("state") / "inbox.db", max_bytes=max_bytes)


@main.command()
@with_inbox
@click.option("--host", default="127.0.0.1", show_default=True, help="the address to listen on; 0.0.0.0 for all")
@click.option("--port", default=8443, show_default=True, type=click.IntRange(0, 65535), help="0: any free one")
@click.option("--tls-cert", type=EXISTING, help="certificate chain, PEM")
@click.option("--tls-key", type=EXISTING, help="its key, PEM")
@click.option("--behind-proxy", is_flag=True, help="plain HTTP beyond this machine: a proxy in front speaks TLS")
@click.option("--max-body-bytes", default=4 << 20, show_default=True, type=click.IntRange(1024), help="of a batch")
@click.option("--max-decoded-bytes", default=64 << 20, show_default=True, type=click.IntRange(1024), help="unpacked")
@click.option("--max-inbox-bytes", type=click.IntRange(65536), help="the inbox grows no larger; default: the disk")
@click.option("--silent-client-s", default=30.0, show_default=True, help="how long an upload may pause")
def serve(
    inbox_file: Path | None,
    host: str,
    port: int,
    tls_cert: Path | None,
    tls_key: Path | None,
    behind_proxy: bool,
    max_inbox_bytes: int | None,
    **limits: Any,
) -> None:
    """Take batches from devices until SIGTERM or Ctrl-C."""
    from edge_agent.training.receiver import Receiver, run

    tls = checked_tls(host, tls_cert, tls_key, behind_proxy)
    inbox = opened(inbox_file, max_inbox_bytes)
    listener = listening(host, port)
    address = f"[{host}]" if ":" in host else host
    url = f"{'https' if tls else 'http'}://{address}:{listener.getsockname()[1]}"

    def ready() -> None:
        notify(f"READY=1\nSTATUS=receiving on {url}")
        print(f"receiving on {url} into {inbox.path}; stop with Ctrl-C", flush=True)

    receiver = Receiver(inbox, **limits, on_start=ready, on_forgotten=lambda: forget_what_was_made(inbox))
    run(receiver, listener, tls=tls)
    inbox.close()


def whole_id(inbox: Inbox, given: str) -> str:
    """The id that begins or ends like this; a whole one may be of an exchange that has not come yet."""
    pattern = (
        "SELECT DISTINCT id FROM exchanges WHERE ?1 IN (substr(id, 1, length(?1)), substr(id, -length(?1))) LIMIT 2"
    )
    found = [row[0] for row in inbox.read(pattern, [given.lower()])] if given else []
    if len(found) == 1:
        return str(found[0])
    try:
        return str(uuid.UUID(given))
    except ValueError as error:
        problem = "several exchanges have" if found else "no exchange here has"
        message = f"{problem} the id {given!r}; give the whole one, as `edge-agent logs show` on the device prints it"
        raise ConfigError(message) from error


def forget_what_was_made(inbox: Inbox) -> None:
    """Take what was forgotten out of samples and labels, too; later when a relabelling is running."""
    if not (ids := inbox.forgotten_ids()):
        return
    from edge_agent.training.forgetting import forget  # loads what draws histograms

    try:
        gone = forget(ids, xdg_dir("cache") / "samples")
    except (EdgeAgentError, OSError, ValueError) as error:
        logging.warning("samples and labels still hold forgotten exchanges: %s; `forget` again", error)
    else:
        logging.info("forgotten: %d samples and %d labels deleted", gone.samples, gone.labels)


@main.command("add-device")
@with_inbox
@click.argument("name")
def add_device(inbox_file: Path | None, name: str) -> None:
    """Let a device upload. Prints its token, once."""
    token = Devices(opened(inbox_file)).add(name)
    print(token, flush=True)
    hint = f"On the device set sync.device_id to {name}, and keep this token in the variable that sync.token_env names."
    print(f"\n{hint} It is not shown again.", file=sys.stderr)


@main.command("revoke-device")
@with_inbox
@click.argument("name")
def revoke_device(inbox_file: Path | None, name: str) -> None:
    """Refuse a device's token from now on. What it sent stays."""
    Devices(opened(inbox_file)).revoke(name)
    print(f"{name} can no longer upload; `add-device {name}` gives it a new token")


@main.command()
@with_inbox
@click.option("--json", "as_json", is_flag=True, help="for programs")
def devices(inbox_file: Path | None, as_json: bool) -> None:
    """Who sent what, when, and what to look at."""
    found = Devices(opened(inbox_file)).all()
    print(json.dumps([as_dict(device) for device in found], indent=1) if as_json else table(found))


@main.command("import")
@with_inbox
@click.argument("url")
def import_(inbox_file: Path | None, url: str) -> None:
    """Read the objects devices wrote below URL (file://, s3://, sftp:// ...). Ends with 1 when one was skipped."""
    from edge_agent.training.object_import import import_objects

    done = []
    inbox = opened(inbox_file)
    for imported in import_objects(url, inbox):
        done.append(imported)
        if imported.problem:
            print(f"skipped {imported.name}: {imported.problem}", file=sys.stderr)
    if not done:
        raise ConfigError(f"{url}: no objects of edge-agent below it; give the URL that the device sends to")
    forget_what_was_made(inbox)
    skipped, known = sum(bool(one.problem) for one in done), sum(one.known for one in done)
    rows = f"{sum(one.accepted for one in done)} rows new, {sum(one.duplicates for one in done)} known"
    rejected = sum(one.rejected for one in done)
    print(f"{len(done)} objects: {known} imported before, {skipped} skipped; {rows}, {rejected} rejected")
    sys.exit(1 if skipped else 0)


@main.command()
@with_inbox
@click.argument("exchange_id")
def forget(inbox_file: Path | None, exchange_id: str) -> None:
    """Delete the whole conversation of an exchange, and what was made from it; refuse it when it is sent again."""
    inbox = opened(inbox_file)
    before = inbox.status()["exchanges"]
    ids = inbox.forget(whole_id(inbox, exchange_id))
    print("\n".join(ids))
    print(f"{before - inbox.status()['exchanges']} exchanges deleted; {len(ids)} ids are refused from now on.")
    forget_what_was_made(inbox)
    print("The device still has them: `edge-agent logs forget` there deletes them there too.")


@main.command()
@with_inbox
@click.option("--json", "as_json", is_flag=True, help="for programs")
def status(inbox_file: Path | None, as_json: bool) -> None:
    """What the inbox holds."""
    facts = opened(inbox_file).status()
    lines = (f"{name.replace('_', ' '):<18} {'-' if value is None else value}" for name, value in facts.items())
    print(json.dumps(facts, indent=1) if as_json else "\n".join(lines))


def checked_tls(host: str, cert: Path | None, key: Path | None, behind_proxy: bool) -> tuple[Path, Path] | None:
    """Tokens travel: in the clear only where nobody listens."""
    if cert and key:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(cert, key)
        except OSError as error:
            raise ConfigError(f"--tls-cert {cert}, --tls-key {key}: not a certificate with its key: {error}") from error
        return cert, key
    if cert or key:
        raise ConfigError("--tls-cert and --tls-key: expected both or none")
    if not is_loopback(f"[{host}]" if ":" in host else host) and not behind_proxy:
        next_step = "give --tls-cert and --tls-key, or --behind-proxy when a proxy in front speaks TLS"
        raise ConfigError(f"--host {host}: tokens would travel in the clear; {next_step}")
    return None


def listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise ConfigError(f"--host {host} --port {port}: cannot listen there: {error}; choose another") from error


def as_dict(device: Device) -> dict[str, object]:
    return {name: getattr(device, name) for name in Device.__dataclass_fields__}


def table(found: Sequence[Device]) -> str:
    row = "{:<24} {:>9} {:>8} {:>4}  {:<24} {:>9}".format
    lines = [row("device", "exchanges", "feedback", "logs", "last seen", "clock")]
    for one in found:
        clock = "-" if one.clock_offset_s is None else f"{round(one.clock_offset_s):+d} s"
        lines.append(row(one.device_id, one.exchanges, one.feedback, one.logs, one.last_seen_utc or "never", clock))
        lines += [f"  ! {warning}" for warning in one.warnings]
    return "\n".join(lines) if found else "no devices yet; `receive_logs.py add-device NAME` lets one upload"


if __name__ == "__main__":
    try:
        main()
    except EdgeAgentError as error:
        print(f"receive_logs: {error.message}", file=sys.stderr)
        sys.exit(error.exit_code)
