"""From a device's answers to labels on the workstation and back to nothing, through the commands a person types."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from edge_agent.training.label_rows import read_labels
from tests.conftest import StartDaemon
from tests.daemon_process import DaemonProcess
from tests.tiny_entailment import make_tiny_entailment

ROOT = Path(__file__).parents[2]
SECRET = "where is the silver key"


@pytest.fixture
def device(start_daemon: StartDaemon, tmp_path: Path) -> DaemonProcess:
    (tmp_path / "there").mkdir()
    return start_daemon(sync={"destination": (tmp_path / "there").as_uri(), "device_id": "kitchen"})


@pytest.fixture
def run(device: DaemonProcess, tmp_path: Path, tiny_gguf: Path, other_tiny_gguf: Path) -> Callable[[str], str]:
    """One of the commands below, with everything kept in the test's directory; its output."""
    inbox, labels = str(tmp_path / "inbox.db"), str(tmp_path / "labels")
    models = make_tiny_entailment(tmp_path / "entailment")
    tools = {
        "sync": ["sync_logs.py", "--config", str(device.config_file)],
        "import": ["receive_logs.py", "import", (tmp_path / "there").as_uri(), "--inbox", inbox],
        "relabel": [
            "relabel.py", "--inbox", inbox, "--output", labels, "--n", "4", "--threads", "1", "--entailment",
            str(models), "--local", str(tiny_gguf), "--cloud", str(other_tiny_gguf),
        ],
    }  # fmt: skip

    def command(name: str) -> str:
        script, *arguments = tools[name]
        done = subprocess.run(
            [sys.executable, str(ROOT / "tools" / script), *arguments],
            env=device.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    return command


def labels(tmp_path: Path) -> dict[str, dict[str, Any]]:
    return {row["text"]: row for row in read_labels(tmp_path / "labels" / "labels.parquet")}


def test_what_a_device_was_asked_becomes_labels_and_what_is_forgotten_is_gone(
    device: DaemonProcess, run: Callable[[str], str], tmp_path: Path
) -> None:
    for text in ("what is the sea", "what is the sea", "and bread", SECRET):
        device.chat(text).raise_for_status()
    device.chat("my private thing", private=True).raise_for_status()
    for name in ("sync", "import", "relabel"):
        run(name)
    found = labels(tmp_path)
    assert set(found) == {"what is the sea", "and bread", SECRET}
    assert [len(found[text]["exchange_ids"]) for text in ("what is the sea", "and bread")] == [2, 1]
    held = {path.suffix for path in tmp_path.rglob("*") if path.is_file() and holds(path, SECRET)}
    assert {".gz", ".parquet", ".db"} <= held, "where it is before it is forgotten"
    assert {row["dataset"] for row in found.values()} == {"log"} and found[SECRET]["entropy_local"] is not None

    forget(device, found[SECRET]["exchange_ids"][0])
    run("sync")
    run("import")
    assert SECRET not in labels(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file() and holds(path, SECRET)] == []
    assert json.loads((tmp_path / "labels" / "summary.json").read_text())["rows"] == 2


def holds(path: Path, text: str) -> bool:
    """Whether a file says this, packed or not."""
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    elif path.suffix == ".parquet":
        data = repr(pq.read_table(path).to_pylist()).encode()
    return text.encode() in data


def forget(device: DaemonProcess, exchange_id: str) -> None:
    command = [sys.executable, "-m", "edge_agent", "logs", "forget", exchange_id, "--yes"]
    command += ["--config", str(device.config_file)]
    subprocess.run(command, env=device.environ, check=True, capture_output=True, timeout=60)
