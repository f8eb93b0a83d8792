"""Sync: rows a second, memory, and a receiver that is killed again and again: python -m benchmarks.sync

Real processes over real sockets: tools/sync_logs.py uploads, tools/receive_logs.py receives. Memory is constant when
the large log needs as much as the small one.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from benchmarks.table import print_table
from edge_agent.training.inbox import Inbox
from tests.log_rows import exchange, write_log
from tests.training.receiving import add_device, running_receiver

TOOL = Path(__file__).parents[1] / "tools" / "sync_logs.py"
TEXT = "what the weather will be like on the day after tomorrow " * 6
"""With its answer about a kilobyte a row."""


@dataclass(frozen=True)
class Ended:
    code: int
    seconds: float
    peak_mb: float


def main() -> None:
    chosen = parse()
    with tempfile.TemporaryDirectory() as name:
        speed(Path(name), chosen.rows)
    with tempfile.TemporaryDirectory() as name:
        kills(Path(name), chosen.kills, chosen.seed)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def speed(directory: Path, rows: int) -> None:
    """A small and a large log, to a directory and to a receiver."""
    table = []
    for n_rows in (rows // 100, rows):
        log = directory / f"{n_rows}.db"
        ids = write_log(log, (exchange(f"{i} {TEXT}", TEXT) for i in range(n_rows)))
        there = directory / f"there-{n_rows}"
        there.mkdir()
        table.append(_measured("directory", n_rows, upload(log, directory / f"file-{n_rows}", there.as_uri())))
        inbox = directory / f"inbox-{n_rows}.db"
        token = add_device(inbox, "bench")
        with running_receiver(inbox) as receiver:
            table.append(
                _measured("receiver", n_rows, upload(log, directory / f"http-{n_rows}", receiver.url, token=token))
            )
        stored = _stored(inbox)
        assert sorted(stored) == sorted(ids), f"expected {len(ids)} rows, found {len(stored)}"
    print_table("Upload", ["to", "rows", "rows/s", "peak memory, MB"], table)


def kills(directory: Path, wanted: int, seed: int) -> None:
    """Kill -9 the receiver at a random point of each upload; at the end each row is there once."""
    rng, log, inbox = random.Random(seed), directory / "log.db", directory / "inbox.db"
    token, ids, codes = add_device(inbox, "bench"), list[str](), Counter[int]()
    while codes[75] < wanted:
        ids += write_log(log, (exchange(f"{len(ids) + i} {TEXT}", TEXT) for i in range(1500)))
        with running_receiver(inbox) as receiver:
            process = start(log, directory / "state", receiver.url, token=token)
            timer = threading.Timer(rng.uniform(0.3, 1.6), receiver.process.kill)
            timer.start()
            codes[process.wait()] += 1
            timer.cancel()
    with running_receiver(inbox) as receiver:
        last = upload(log, directory / "state", receiver.url, token=token)
    stored = _stored(inbox)
    lost, twice = len(set(ids) - set(stored)), len(stored) - len(set(stored))
    print(f"\nreceiver killed while {codes[75]} uploads ran ({codes[0]} more were done before the kill), seed {seed}:")
    print(f"{len(ids)} rows sent, {lost} lost, {twice} twice; the last run ended with {last.code}")
    assert (lost, twice, last.code) == (0, 0, 0)


def upload(log: Path, state: Path, url: str, token: str = "") -> Ended:
    started = time.perf_counter()
    process, peak_mb = start(log, state, url, token), 0.0
    while process.poll() is None:
        peak_mb = peak_mb_of(process.pid) or peak_mb
        time.sleep(0.02)
    return Ended(process.returncode, time.perf_counter() - started, peak_mb)


def peak_mb_of(pid: int) -> float:
    """Of the program: what wait4 tells includes what the parent held when it forked."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def start(log: Path, state: Path, url: str, token: str = "") -> subprocess.Popen[bytes]:
    settings = {"LOG_PATH": log, "SYNC_DESTINATION": url, "SYNC_DEVICE_ID": "bench", "SYNC_TOKEN": token}
    settings |= {"SYNC_GIVE_UP_S": "0"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("EDGE_AGENT_", "XDG_"))}
    own = {f"XDG_{kind}_HOME": str(state / kind.lower()) for kind in ("CONFIG", "STATE", "CACHE")}
    environ = kept | own | {f"EDGE_AGENT_{name}": str(value) for name, value in settings.items()}
    return subprocess.Popen([sys.executable, TOOL], env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _measured(to: str, rows: int, ended: Ended) -> list[str]:
    assert ended.code == 0, f"sync ended with {ended.code}"
    return [to, f"{rows:,}", f"{rows / ended.seconds:,.0f}", f"{ended.peak_mb:.0f}"]


def _stored(path: Path) -> list[str]:
    inbox = Inbox(path)
    found = [row[0] for row in inbox.read("SELECT id FROM exchanges")]
    inbox.close()
    return found


if __name__ == "__main__":
    main()
