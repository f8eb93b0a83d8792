"""Writes batches as immutable objects to any fsspec URL: a directory, a bucket, an SFTP server. Knows no positions.

An object is written under a temporary name and renamed where the other side can rename, and in one request where it
cannot; so there are whole objects only. What is forgotten is taken out of the objects that hold it.
"""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from edge_agent.errors import BatchError, ConfigError, SyncError, SyncRefused
from edge_agent.log_batches import (
    TABLES,
    BatchHeader,
    Row,
    contiguous_end,
    decode,
    encode,
    object_name,
    parse_object_name,
)
from edge_agent.sync_state import Position, destination_name

_RENAMES = {"file", "local", "sftp", "ssh"}
_EXTRAS = {"s3": "s3", "s3a": "s3", "sftp": "sftp", "ssh": "sftp"}
_DOWN = ("ConnectionError", "ConnectTimeout", "Timeout", "EndpointConnection", "NoValidConnections", "SSHException")
"""In the names of errors that the libraries below raise when nobody can be reached."""
_REFUSED = ("Credentials", "Authentication", "BadHostKey", "PasswordRequired", "ParamValidation")


class FileDestination:
    """:param pace: called with the number of bytes of an object before it is written; it may sleep.
    :param options: passed on to the file system, see its documentation.
    :raises ConfigError: when no library for the URL is installed, or the URL is none.
    """

    def __init__(self, url: str, *, pace: Callable[[int], None] = lambda size: None, **options: Any):
        self.name = destination_name(url)
        self._url, self._pace = url, pace
        self._scheme = url.partition("://")[0]
        self._options = _options(self._scheme) | options
        self._opened: tuple[Any, str] | None = None

    keeps_repeats = True
    """A batch that comes again with other bounds is a second object."""

    def position(self, device_id: str, log_id: str, table: str) -> Position:
        """Up to which row the objects that are there reach without a hole."""
        with self._named_errors():
            self._remove_parts(log_id)
            found = [(h, name) for name, h in self._objects(log_id, table) if h.device_id == device_id]
            while found:
                end = contiguous_end((header.after_seq, header.last_seq) for header, _ in found)
                last = next((one for one in found if one[0].last_seq == end), None)
                if last is None:
                    break
                rows = self._rows_of(last[1])
                if rows is not None:
                    return Position(end, rows[-1].get("id") if rows and rows[-1].get("seq") == end else None)
                found.remove(last)  # cut by an interruption, on a file system that shows what is half written
        return Position(0)

    def put(self, header: BatchHeader, rows: list[Row], body: bytes) -> None:
        """Write a batch; it is there for good when this returns. One of the same range and rows is left as it is.

        :raises SyncError: when it may work later. :raises SyncRefused: when another log has written this range.
        """
        with self._named_errors():
            fs, root = self._open()
            if header.table == "forgotten":
                self._erase(header.log_id, rows)
            name = f"{root}/{object_name(header)}"
            there = self._rows_of(name)
            if there is None:
                self._write(fs, name, body)
            elif not _ids(rows) <= _ids(there):  # more may be there: what has been forgotten here since
                raise SyncRefused(
                    f"{self.name}: {object_name(header)} is there and holds other rows: two devices with one log, or"
                    " an older copy of it; nothing is lost: set another sync.device_id",
                    code="device_conflict",
                )

    def _open(self) -> tuple[Any, str]:
        """The file system and the directory in it, connected when first needed."""
        if self._opened is None:
            fs, root = _file_system(self._url, self._scheme, self._options)
            if self._scheme in _RENAMES and not fs.isdir(root):
                message = f"{self.name}: there is no such directory; make it once, or plug in what it is on"
                missing = SyncError(message, code="unreachable")
                missing.retry_after_s = math.inf  # no use to wait for in this run
                raise missing
            self._opened = fs, root.rstrip("/")
        return self._opened

    def _objects(self, log_id: str, table: str) -> Iterator[tuple[str, BatchHeader]]:
        """Every object of a table of a log, whatever the device was called."""
        fs, root = self._open()
        fs.invalidate_cache()
        for name in sorted(fs.glob(f"{glob.escape(root)}/*/{log_id}/{table}-*.ndjson.gz")):
            header = parse_object_name(name)
            if header is not None:
                yield name, header

    def _rows_of(self, name: str) -> list[Row] | None:
        """What an object holds; None when there is none, or a cut one, which is to be written anew."""
        fs, _ = self._open()
        try:
            return decode(fs.cat_file(name))[1]
        except (FileNotFoundError, BatchError):
            return None

    def _erase(self, log_id: str, tombstones: list[Row]) -> None:
        """Rewrite every object that holds a forgotten exchange, or feedback on one, without it."""
        ids = {row["exchange_id"] for row in tombstones}
        seqs = sorted(row["exchange_seq"] for row in tombstones if row["exchange_seq"] is not None)
        complete = len(seqs) == len(tombstones)
        for table in ("exchanges", "feedback"):
            for name, span in self._objects(log_id, table):
                known = complete and table == "exchanges"
                if known and not any(span.after_seq < seq <= span.last_seq for seq in seqs):
                    continue
                self._rewrite(name, span, ids)
        self._remove_parts(log_id)

    def _rewrite(self, name: str, header: BatchHeader, ids: set[str]) -> None:
        fs, _ = self._open()
        rows = self._rows_of(name) or []
        kept = [row for row in rows if not ids & {row.get("id"), row.get("exchange_id")}]
        if len(kept) < len(rows):
            self._write(fs, name, encode(header, kept))

    def _remove_parts(self, log_id: str) -> None:
        """What an interrupted write left behind may hold text too."""
        fs, root = self._open()
        for table in TABLES:
            for name in fs.glob(f"{glob.escape(root)}/*/{log_id}/{table}-*.part"):
                with suppress(FileNotFoundError):
                    fs.rm_file(name)

    def _write(self, fs: Any, name: str, body: bytes) -> None:
        self._pace(len(body))
        if self._scheme not in _RENAMES:
            fs.pipe_file(name, body)
            return
        directory = name.rpartition("/")[0]
        fs.makedirs(directory, exist_ok=True)
        part = f"{name}.part"
        with fs.open(part, "wb") as file:
            file.write(body)
            file.flush()
            if hasattr(file, "fileno"):
                os.fsync(file.fileno())
        fs.mv(part, name)
        if self._scheme in ("file", "local"):
            _sync_directory(directory)

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """The errors of many libraries as ours: refused, unreachable, or failed."""
        try:
            yield
        except (SyncError, ConfigError):
            raise
        except Exception as error:
            raise _failure(self.name, error) from error


def _file_system(url: str, scheme: str, options: dict[str, Any]) -> tuple[Any, str]:
    try:
        fs, root = import_module("fsspec.core").url_to_fs(url, **options)
    except (ImportError, ValueError) as error:
        extra = _EXTRAS.get(scheme)
        fix = f"pip install 'edge-agent[{extra}]'" if extra else "install fsspec and the package it names"
        if isinstance(error, ImportError):
            raise ConfigError(f"{scheme}:// needs a package that is not installed: {error}; {fix}") from error
        raise ConfigError(f"sync.destination: {destination_name(url)}: {error}; see docs/sync.md") from error
    return fs, root


def _options(scheme: str) -> dict[str, Any]:
    if scheme in ("sftp", "ssh"):
        return {"host_key_policy": _known_hosts_only()}
    return {"use_listings_cache": False, "skip_instance_cache": True} if scheme in ("s3", "s3a") else {}


def _known_hosts_only() -> Any:
    """Talk to hosts of ~/.ssh/known_hosts only; fsspec would trust whoever answers first."""
    try:
        paramiko: Any = import_module("paramiko")
    except ImportError as error:
        message = f"sftp:// needs a package that is not installed: {error}; pip install 'edge-agent[sftp]'"
        raise ConfigError(message) from error

    class KnownHosts(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]
        def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
            known = paramiko.HostKeys()
            with suppress(OSError):
                known.load(str(Path("~/.ssh/known_hosts").expanduser()))
            if not known.check(hostname, key):
                found = f"{key.get_name()} key of {hostname} is not in ~/.ssh/known_hosts"
                raise SyncRefused(f"the {found}; compare it, then add it with ssh-keyscan", code="unknown_host")

    return KnownHosts()


def _failure(name: str, error: Exception) -> SyncError:
    kind, text = type(error).__name__, " ".join(str(error).split())[:300] or type(error).__name__
    if isinstance(error, (PermissionError, FileNotFoundError)) or any(word in kind for word in _REFUSED):
        return SyncRefused(f"{name}: refused: {text}; check the address and its access rights")
    down = isinstance(error, (ConnectionError, TimeoutError)) or any(word in kind for word in _DOWN)
    code = "unreachable" if down or kind == "gaierror" else "destination_failed"
    return SyncError(f"{name}: {text}; it is tried again later", code=code)


def _ids(rows: list[Row]) -> set[tuple[Any, Any]]:
    return {(row.get("seq"), row.get("id")) for row in rows}


def _sync_directory(directory: str) -> None:
    """A rename is on the disk when its directory is."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
