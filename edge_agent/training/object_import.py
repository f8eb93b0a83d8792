"""Batches that devices wrote as objects (file://, s3://, sftp:// ...) into the inbox. Reads objects, changes none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import fsspec  # type: ignore[import-untyped]

from edge_agent.errors import BatchError, DeviceConflict, ObjectStoreError
from edge_agent.log_batches import MAX_DECODED_BYTES, BatchHeader, decode, object_name, parse_object_name
from edge_agent.training.inbox import Inbox

_MAX_OBJECT_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of one object."""

    name: str
    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    known: bool = False
    """It was imported before, and not read again."""
    problem: str | None = None
    """Why it was skipped; None when its rows are in the inbox."""


def import_objects(url: str, inbox: Inbox, *, max_decoded_bytes: int = MAX_DECODED_BYTES) -> Iterator[Imported]:
    """Each object below a URL, by name, as it is done.

    :raises ObjectStoreError: when the place cannot be reached. :raises InboxError: when the inbox cannot be written.
    """
    with _named_errors(url):
        store, root = fsspec.core.url_to_fs(url)
        store.invalidate_cache()
        found = store.find(root, detail=True)
        if not found and not store.exists(root):
            raise FileNotFoundError(f"there is no {root}")
    for path in sorted(path for path in found if not path.endswith(".part")):  # what sync is writing
        name = path.removeprefix(root).lstrip("/") or path.rsplit("/", 1)[-1]
        header = parse_object_name(path)
        if header is None:
            yield Imported(name, problem="its name is not that of a batch; what is it doing there?")
        elif inbox.has(header):
            yield Imported(name, known=True)
        elif found[path]["size"] > _MAX_OBJECT_BYTES:
            yield Imported(name, problem=f"expected at most {_MAX_OBJECT_BYTES} bytes, found {found[path]['size']}")
        else:
            yield _import(name, header, _reader(store, path, url), inbox, max_decoded_bytes)


def _import(name: str, named: BatchHeader, read: Callable[[], bytes], inbox: Inbox, max_decoded_bytes: int) -> Imported:
    try:
        header, rows = decode(read(), max_decoded_bytes)
        if replace(header, rows=0) != named:
            return Imported(name, problem=f"its header says it is {object_name(header)}; was it renamed?")
        receipt = inbox.add(header, rows, live=False)
    except (BatchError, DeviceConflict) as error:
        return Imported(name, problem=error.message)
    except (FileNotFoundError, PermissionError) as error:
        return Imported(name, problem=f"cannot be read: {error}")
    return Imported(name, receipt.accepted, receipt.duplicates, receipt.rejected)


def _reader(store: Any, path: str, url: str) -> Callable[[], bytes]:
    def read() -> bytes:
        with _named_errors(url, (FileNotFoundError, PermissionError)):
            return bytes(store.cat_file(path))

    return read


@contextmanager
def _named_errors(url: str, passed: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """The drivers' errors have no class in common: one of botocore is neither an OSError nor one of paramiko."""
    try:
        yield
    except passed:
        raise
    except ImportError as error:
        message = f"{url}: {error}; pip install 'edge-agent[s3]' or 'edge-agent[sftp]'"
        raise ObjectStoreError(message, code="no_driver") from error
    except Exception as error:
        message = f"{url}: cannot be read: {error}; check the address and the credentials, then import again"
        raise ObjectStoreError(message) from error
