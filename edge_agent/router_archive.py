"""A bundle as one file for a thin link: packs and unpacks, with or without the encoder. Judges no router.

<version>/{router.json, router.json.sig, head.onnx}, and perhaps encoders/<name>/{model.onnx, tokenizer.json,
encoder.json}: regular files of these names and nothing else.
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.errors import RouterError
from edge_agent.files import write_file
from edge_agent.router_card import CARD, ENCODER_MODEL, HEAD, NAME, RETAKE, TOKENIZER, RouterCard, read_card
from edge_agent.router_signature import SIGNATURE

if TYPE_CHECKING:
    from typing_extensions import Self

ENCODERS = "encoders"
BUNDLE_FILES = (CARD, SIGNATURE, HEAD)
ENCODER_FILES = (ENCODER_MODEL, TOKENIZER, "encoder.json")
"""The last one is for whoever trains the next head."""
MOST_FILES = len(BUNDLE_FILES) + len(ENCODER_FILES)
MAX_BYTES = 256 << 20
"""Of all files unpacked; the largest encoder in use has a tenth of it."""

_MEMBER = re.compile(
    rf"{NAME}/({'|'.join(map(re.escape, BUNDLE_FILES))})|{ENCODERS}/{NAME}/({'|'.join(map(re.escape, ENCODER_FILES))})"
)


def encoder_name(bundle: Path, card: RouterCard) -> str:
    """The name of a bundle's encoder in the tree. :raises RouterError: when it lies anywhere but in ../encoders."""
    found = re.fullmatch(rf"\.\./{ENCODERS}/({NAME})", card.encoder)
    if found is None:
        expected = f"expected ../{ENCODERS}/NAME, found {card.encoder[:80]!r}"
        raise RouterError(f"{bundle / CARD}: encoder: {expected}; {RETAKE}")
    return found[1]


def pack(bundle: Path, output: Path, *, with_encoder: bool = False) -> Path:
    """Writes a bundle into a .tar.gz, the same bytes for the same bundle; without the encoder it is a few kilobytes.

    :raises RouterError: when a file of the bundle is missing, or `output` cannot be written.
    """
    card = read_card(bundle)
    places = [(bundle, card.version, BUNDLE_FILES)]
    if with_encoder:
        name = encoder_name(bundle, card)
        places.append((bundle.resolve().parent / ENCODERS / name, f"{ENCODERS}/{name}", ENCODER_FILES))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for directory, prefix, names in places:
            for name in names:
                if (directory / name).is_file():
                    _add(archive, f"{prefix}/{name}", (directory / name).read_bytes())
                elif name in (HEAD, ENCODER_MODEL, TOKENIZER):
                    raise RouterError(f"{directory / name}: expected a file of the bundle, found none; {RETAKE}")
    try:
        write_file(output, gzip.compress(packed.getvalue(), 9, mtime=0))
    except OSError as error:
        raise RouterError(f"{output}: cannot be written: {error.strerror}; name another file") from error
    return output


def unpack(archive: Path, directory: Path) -> Path:
    """Writes an archive's files below `directory`; returns the bundle's directory there.

    :raises RouterError: when it holds anything but the files of one bundle, or too much.
    """
    room = MAX_BYTES
    bundles = set()
    try:
        with tarfile.open(archive, "r:gz", tarinfo=_Plain) as opened:
            for number, member in enumerate(opened):
                room -= member.size
                _check_member(archive, member, room)
                target = directory / member.name
                if number == MOST_FILES or target.exists():
                    expected = f"expected {MOST_FILES} files at most, each once"
                    raise RouterError(f"{archive}: {expected}, found another {member.name!r}; {RETAKE}")
                target.parent.mkdir(parents=True, exist_ok=True)
                content = opened.extractfile(member)
                target.write_bytes(content.read() if content else b"")
                bundles |= {target.parent} if target.name == CARD else set()
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RouterError(
            f"{archive}: expected a .tar.gz, found something else or a part ({error}); {RETAKE}"
        ) from error
    if len(bundles) != 1:
        raise RouterError(f"{archive}: expected one {CARD}, found {len(bundles)}; {RETAKE}")
    return bundles.pop()


class _Plain(tarfile.TarInfo):
    """A member by its header alone: whatever is no plain file is not looked into.

    tarfile reads extended headers whole, gigabytes too, and turns back for ever at a size below zero.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.size < 0:
            member.type = tarfile.DIRTYPE
        return member


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), 0o644
    archive.addfile(entry, io.BytesIO(data))


def _check_member(archive: Path, member: tarfile.TarInfo, room: int) -> None:
    if not member.isreg() or not _MEMBER.fullmatch(member.name):
        found = f"{'' if member.isreg() else 'a link, directory, device or extended header '}{member.name[:80]!r}"
        raise RouterError(f"{archive}: expected regular files of a bundle only, found {found}; {RETAKE}")
    if room < 0:
        raise RouterError(f"{archive}: expected at most {MAX_BYTES} bytes unpacked, found more; {RETAKE}")
