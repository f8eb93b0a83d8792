"""A virtual environment with Ray, made once and kept in the user's cache: Ray brings pandas, which the project avoids.

Packages that the project's own environment has are not installed a second time: llama-cpp-python takes minutes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
DONE = "complete"
UNREACHED = ("No matching distribution", "NewConnectionError", "timed out")
"""In pip's words when it reaches nothing: any other failure is one of ours."""


class NotInstalled(Exception):
    """Ray cannot be installed here."""


def fleet_python(environ: Mapping[str, str] = os.environ) -> Path:
    """The Python that has the extra `fleet` besides everything this one has.

    :raises NotInstalled: when pip cannot get it, such as without a network.
    """
    ours, wanted = sysconfig.get_path("purelib"), _requirements()
    digest = hashlib.sha256("\n".join([sys.version, ours, *wanted]).encode()).hexdigest()[:16]
    caches = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-agent" / "test-environments"
    caches.mkdir(parents=True, exist_ok=True)
    folder = caches / f"fleet-{digest}"
    with (caches / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / DONE).exists():
            shutil.rmtree(folder, ignore_errors=True)
            _make(folder, ours, wanted)
    return folder / "bin" / "python"


def _requirements() -> list[str]:
    """Of the extra `fleet`, which is one line; Python 3.10 has no reader of TOML."""
    found = re.search(r"^fleet = (\[.*\])$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found, "pyproject.toml: expected the extra `fleet` on a line of its own"
    return list(json.loads(found[1]))


def _make(folder: Path, ours: str, wanted: list[str]) -> None:
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, capture_output=True)
    python = folder / "bin" / "python"
    ask = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    theirs = subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip()
    Path(theirs, "project.pth").write_text(ours + "\n")
    install = subprocess.run([python, "-m", "pip", "install", *wanted], capture_output=True, text=True, timeout=900)
    if install.returncode != 0 and any(word in install.stderr for word in UNREACHED):
        raise NotInstalled(f"pip install {' '.join(wanted)} failed: {install.stderr.strip()[-300:]}")
    assert install.returncode == 0, install.stderr
    (folder / DONE).touch()
