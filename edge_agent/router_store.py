"""The tree of router bundles: installs, says which one is `current`, goes back. Scores nothing, knows no daemon.

router_models/.history holds what was current before, one version a line, the last one last.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from edge_agent.errors import RouterError
from edge_agent.files import point, sha256, write_directory, write_file
from edge_agent.router import RouterModel
from edge_agent.router_archive import BUNDLE_FILES, ENCODER_FILES, ENCODERS, encoder_name, unpack
from edge_agent.router_card import CARD, ENCODER_MODEL, NAME, RETAKE, TOKENIZER, RouterCard, find_bundle, read_card
from edge_agent.router_signature import SIGNATURE

CURRENT, HISTORY = "current", ".history"
RESERVED = {CURRENT, ENCODERS, "entailment"}
PACKAGED = "-"
"""In the history: there was no `current`, so the router that came with the package."""
MOST_REMEMBERED = 50
LEFT_S = 3600.0
"""What a killed process left half-written is deleted after this time; no copy takes as long."""


@dataclass(frozen=True, slots=True)
class Installed:
    """One bundle of a tree."""

    version: str
    current: bool
    signed: bool
    """Whether there is a signature; whose it is, the daemon checks."""
    encoder: str | None = None
    threshold: float | None = None
    problem: str | None = None
    """What is wrong with its card."""


def find_root(state_dir: Path, *, configured: str | None = None, package_dir: Path | None = None) -> Path:
    """The tree the daemon takes its router from; the device's own when that is the installed package's, or none.

    :param configured: router.path of the settings.
    """
    with suppress(RouterError):
        bundle = find_bundle(configured, state_dir, package_dir=package_dir)
        if configured or bundle.name == CURRENT:
            return bundle.parent
    return state_dir / "router_models"


def install(source: Path, root: Path, *, public_key: str | None = None) -> str:
    """Copies a bundle, a directory or an archive, into a tree; an encoder that is there already is not copied again.

    :returns: its version. `current` stays what it was.
    :raises RouterError: when the bundle cannot be used here; the tree is then as it was.
    """
    with suppress(OSError):  # told below
        root.mkdir(parents=True, exist_ok=True)
    with _changing(root, "installed"):
        _sweep(root)
        with _directory_of(source, root) as bundle:
            return _install(bundle, root, public_key)


def current(root: Path) -> str | None:
    """The version that `current` names."""
    link = root / CURRENT
    return link.readlink().name if link.is_symlink() else None


def switch(root: Path, version: str, *, public_key: str | None = None) -> str | None:
    """Makes a version the current one, in one step, once it has loaded; returns what was current before.

    :raises RouterError: when there is no such version, or it cannot be used; `current` stays.
    """
    existing(root, version)
    with _changing(root, "switched"):
        RouterModel.load(root / version, public_key=public_key)
        before = current(root)
        if before != version:
            _remember(root, [*_history(root), before or PACKAGED])
            point(root / CURRENT, version)
    return before


def roll_back(root: Path, *, public_key: str | None = None) -> str | None:
    """Goes back to what was current before, and with every further call one more; returns the version.

    :returns: None when it is again the router that came with the package.
    :raises RouterError: when there is nothing to go back to, or it cannot be used; `current` stays.
    """
    nothing = "expected an earlier router to go back to, found none; take another version by its name"
    if not _history(root):
        raise RouterError(f"{root}: {nothing}")
    with _changing(root, "switched"):
        history, now = _history(root), current(root)
        while history:
            version = history.pop()
            if version == PACKAGED and now is not None:
                (root / CURRENT).unlink()
                _remember(root, history)
                return None
            if version != now and (root / version / CARD).is_file():
                RouterModel.load(root / version, public_key=public_key)
                point(root / CURRENT, version)
                _remember(root, history)
                return version
    raise RouterError(f"{root}: {nothing}")


def remove(root: Path, version: str) -> None:
    """Deletes a bundle, and its encoder when no other bundle has it. :raises RouterError: for the current one."""
    bundle = existing(root, version)
    if version == current(root):
        raise RouterError(f"{bundle}: is the current router; use another one first")
    encoder = _described(bundle, None).encoder
    with _changing(root, "removed"):
        _delete(bundle)
        others = {other.encoder for other in list_bundles(root)}
        if encoder and not others & {encoder, None} and (root / ENCODERS / encoder).is_dir():
            _delete(root / ENCODERS / encoder)


def list_bundles(root: Path) -> list[Installed]:
    """What is in a tree, by version."""
    found = sorted(card.parent for card in root.glob(f"*/{CARD}") if not card.parent.is_symlink())
    return [_described(bundle, current(root)) for bundle in found if not bundle.name.startswith(".")]


@contextmanager
def _changing(root: Path, done: str) -> Iterator[None]:
    """One process at a time: two installs share an encoder. What the file system refuses is a RouterError."""
    try:
        handle = os.open(root, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)
    except OSError as error:
        message = f"{error.filename2 or error.filename or root}: {error.strerror or error}"
        raise RouterError(f"nothing was {done}: {message}; mend that and try again") from error


def _sweep(root: Path) -> None:
    """Deletes what killed processes left; their names begin with a dot and end with -xxxxxxxx."""
    for left in [*root.glob(".*-*"), *root.glob(f"{ENCODERS}/.*-*")]:
        if time.time() - left.lstat().st_mtime < LEFT_S:
            continue
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        else:
            left.unlink()


@contextmanager
def _directory_of(source: Path, root: Path) -> Iterator[Path]:
    """The bundle's directory: the source itself, or where the archive is unpacked for the time being."""
    if not source.is_file():
        yield source.resolve()
        return
    with tempfile.TemporaryDirectory(prefix=".incoming-", dir=root) as directory:
        yield unpack(source, Path(directory))


def _install(bundle: Path, root: Path, public_key: str | None) -> str:
    card = read_card(bundle)
    if card.version in RESERVED:
        expected = "expected no name the tree has for itself"
        raise RouterError(f"{bundle / CARD}: version: {expected}, found {card.version[:80]!r}; {RETAKE}")
    encoder = root / ENCODERS / encoder_name(bundle, card)
    added = _install_encoder(bundle, encoder, card)
    try:
        _install_bundle(bundle, root / card.version, public_key)
    except BaseException:
        if added:
            _delete(encoder)
        raise
    return card.version


def _install_encoder(bundle: Path, target: Path, card: RouterCard) -> bool:
    """Whether it had to be copied. One that is there is verified when the bundle is loaded beside it."""
    if target.exists():
        return False
    source = bundle / card.encoder
    if not source.is_dir():
        missing = f"expected the bundle's encoder here or in the bundle, found none in {source}"
        raise RouterError(f"{target}: {missing}; pack the bundle with its encoder")
    files = {name: (source / name).read_bytes() for name in ENCODER_FILES if (source / name).is_file()}
    for name in (ENCODER_MODEL, TOKENIZER):
        found, expected = sha256(files.get(name, b"")), card.files[f"{card.encoder}/{name}"]
        if found != expected:
            raise RouterError(f"{source / name}: expected SHA-256 {expected} as on the card, found {found}; {RETAKE}")
    write_directory(target, files)
    return True


def _install_bundle(bundle: Path, target: Path, public_key: str | None) -> None:
    files = {name: (bundle / name).read_bytes() for name in BUNDLE_FILES if (bundle / name).is_file()}
    if not target.exists():
        write_directory(target, files, check=lambda staged: RouterModel.load(staged, public_key=public_key))
        return
    signature = files.pop(SIGNATURE, None)
    try:
        write_directory(target, files)
    except FileExistsError as error:
        message = "a bundle of this version is here, with other content"
        raise RouterError(f"{target}: {message}; give the new one another version, or remove this one") from error
    if signature is not None and not (target / SIGNATURE).exists():
        write_file(target / SIGNATURE, signature)
    RouterModel.load(target, public_key=public_key)


def existing(root: Path, version: str) -> Path:
    """The directory of a version. :raises RouterError: when there is none, naming those there are."""
    if not re.fullmatch(NAME, version) or version in RESERVED or not (root / version / CARD).is_file():
        there = ", ".join(bundle.version for bundle in list_bundles(root)) or "none"
        raise RouterError(f"{root}: expected a version that is installed, found {version!r}; there are: {there}")
    return root / version


def _described(bundle: Path, now: str | None) -> Installed:
    is_current, signed = bundle.name == now, (bundle / SIGNATURE).is_file()
    try:
        card = read_card(bundle)
    except RouterError as error:
        return Installed(bundle.name, is_current, signed, problem=error.message)
    return Installed(bundle.name, is_current, signed, Path(card.encoder).name, card.threshold)


def _delete(directory: Path) -> None:
    """Out of sight in one step, then gone."""
    beside = Path(tempfile.mkdtemp(prefix=".removed-", dir=directory.parent))
    directory.rename(beside / directory.name)
    shutil.rmtree(beside)


def _history(root: Path) -> list[str]:
    try:
        lines = (root / HISTORY).read_text(encoding="utf-8", errors="replace").split()
    except FileNotFoundError:
        return []
    return [line for line in lines if line == PACKAGED or re.fullmatch(NAME, line)]


def _remember(root: Path, history: list[str]) -> None:
    write_file(root / HISTORY, "".join(f"{version}\n" for version in history[-MOST_REMEMBERED:]).encode())
