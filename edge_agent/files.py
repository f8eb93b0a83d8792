"""Writes files and directories whole or not at all, and names their bytes. Knows nothing of what is in them."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path


def sha256(data: bytes) -> str:
    """The SHA-256 of some bytes in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def write_directory(target: Path, files: Mapping[str, bytes], *, check: Callable[[Path], object] | None = None) -> Path:
    """Creates `target` with these files, by a temporary directory beside it and one rename; returns `target`.

    A directory that is there already with the same bytes is left alone.

    :param check: called with the temporary directory; when it raises, nothing is left behind.
    :raises FileExistsError: when it is there with other content.
    """
    if target.exists():
        if all((target / name).is_file() and (target / name).read_bytes() == data for name, data in files.items()):
            return target
        raise FileExistsError(f"{target}: expected no such directory, found one with other content; remove it first")
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        for name, data in files.items():
            _write(beside / name, data)
        if check:
            check(beside)
        beside.chmod(0o755)
        _sync(beside)
        beside.rename(target)
    except BaseException:
        shutil.rmtree(beside)
        raise
    _sync(target.parent)
    return target


def write_file(target: Path, data: bytes) -> None:
    """Creates or replaces a file, whole or not at all, by a temporary file beside it and one rename."""
    handle, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    os.close(handle)
    beside = Path(name)
    try:
        _write(beside, data)
        beside.chmod(0o644)
        beside.replace(target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    _sync(target.parent)


def point(link: Path, target: str) -> None:
    """Makes `link` a relative symlink to `target`, in one step: there is never a moment without a link."""
    beside = link.with_name(f".{link.name}-{os.getpid()}")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    try:
        beside.replace(link)
    except BaseException:
        beside.unlink()
        raise
    _sync(link.parent)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
