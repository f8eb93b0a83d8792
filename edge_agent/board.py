"""Reads the facts a board tells about itself: /proc, /sys and vcgencmd. Judges nothing, changes nothing.

Where a board does not report something, the fact is None or empty: an absent file is no error here.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

VCGENCMD_S = 2.0
UNITS = ("etc/systemd/system", "run/systemd/system", "usr/lib/systemd/system", "lib/systemd/system")
UNIT = "edge-agent.service"


@dataclass(frozen=True, slots=True)
class Swap:
    name: str
    size_bytes: int
    disk: str | None
    """The block device it is on, such as mmcblk0; None when that cannot be told. zram is memory."""


@dataclass(frozen=True, slots=True)
class FlashLife:
    """Wear of an eMMC, as it reports it (JEDEC EXT_CSD)."""

    disk: str
    life_time: int
    """The worse of the two life time estimates: 1 is up to 10 % used, 10 up to 100 %, 11 beyond."""
    pre_eol: int | None
    """Reserved blocks: 1 normal, 2 80 % used, 3 urgent."""


@dataclass(frozen=True, slots=True)
class Board:
    model: str | None = None
    """As the device tree names it; None on a PC."""
    machine: str = ""
    """aarch64, x86_64, ..."""
    bits: int = 64
    """Of this Python, that is of the installed system, whatever the kernel is."""
    cpu_features: frozenset[str] = frozenset()
    memory_bytes: int | None = None
    available_bytes: int | None = None
    swaps: tuple[Swap, ...] = ()
    temperatures_c: Mapping[str, float] = field(default_factory=dict)
    throttled: int | None = None
    """A Raspberry Pi's bits: 0-3 now, 16-19 the same since boot."""
    undervolted: bool | None = None
    """The Pi's hwmon alarm, for when `throttled` cannot be read."""
    overcurrent_events: Mapping[str, int] = field(default_factory=dict)
    """A Jetson's counters since boot."""
    flash: tuple[FlashLife, ...] = ()
    cards: tuple[str, ...] = ()
    """SD cards, which report no wear."""
    memory_cgroup: bool = True
    """Whether the kernel can limit the memory of a service."""
    memory_limit: str | None = None
    """The line of the installed unit that limits memory; None when there is none."""


def read_board(root: Path = Path("/"), environ: Mapping[str, str] | None = None) -> Board:
    """What the board under `root` tells; `environ` has the PATH that vcgencmd is looked for in."""
    memory = _memory(root)
    return Board(
        model=_text(root / "proc/device-tree/model"),
        machine=platform.machine(),
        bits=64 if sys.maxsize > 2**32 else 32,
        cpu_features=_cpu_features(root),
        memory_bytes=memory.get("MemTotal"),
        available_bytes=memory.get("MemAvailable"),
        swaps=tuple(_swaps(root)),
        temperatures_c=dict(_temperatures(root)),
        throttled=_throttled(root, os.environ if environ is None else environ),
        undervolted=_undervolted(root),
        overcurrent_events=_numbers(root, "sys/class/hwmon/hwmon*/oc*_event_cnt"),
        flash=tuple(_flash(root)),
        cards=tuple(p.name for p in _blocks(root) if _text(p / "device/type") == "SD"),
        memory_cgroup=_memory_cgroup(root),
        memory_limit=_memory_limit(root),
    )


def disk_of(path: Path, root: Path = Path("/")) -> str | None:
    """The block device that holds `path`, such as mmcblk0 or nvme0n1; None when it is none."""
    try:
        device = path.stat().st_dev
        block = (root / f"sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve(strict=True)
    except OSError:
        return None
    return block.parent.name if (block / "partition").exists() else block.name


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip(" \t\r\n\0") or None
    except OSError:
        return None


def _number(text: str | None, convert: Callable[[str], int]) -> int | None:
    with suppress(ValueError):
        return None if text is None else convert(text)
    return None


def _numbers(root: Path, pattern: str) -> dict[str, int]:
    """{file name: number} of the files that hold one."""
    found = {path.name: _number(_text(path), int) for path in sorted(root.glob(pattern))}
    return {name: number for name, number in found.items() if number is not None}


def _cpu_features(root: Path) -> frozenset[str]:
    lines = re.findall(r"(?m)^(?:Features|flags)\s*:(.*)$", _text(root / "proc/cpuinfo") or "")
    return frozenset(lines[0].split()) if lines else frozenset()


def _memory(root: Path) -> dict[str, int]:
    """Bytes by name."""
    lines = re.findall(r"(?m)^(\w+):\s+(\d+) kB$", _text(root / "proc/meminfo") or "")
    return {name: int(number) * 1024 for name, number in lines}


def _swaps(root: Path) -> Iterator[Swap]:
    for line in (_text(root / "proc/swaps") or "").splitlines()[1:]:
        name, kind, kilobytes = line.split()[:3]
        node = name.removeprefix("/dev/")
        disk = disk_of(root / name.lstrip("/"), root) if kind == "file" else re.sub(r"(?<=\d)p\d+$", "", node)
        yield Swap(name, int(kilobytes) * 1024, disk)


def _temperatures(root: Path) -> Iterator[tuple[str, float]]:
    for zone in sorted(root.glob("sys/class/thermal/thermal_zone*")):
        millidegrees = _number(_text(zone / "temp"), int)  # a Jetson's sleeping zones refuse to be read
        if millidegrees is not None and millidegrees > 0:
            yield _text(zone / "type") or zone.name, millidegrees / 1000


def _throttled(root: Path, environ: Mapping[str, str]) -> int | None:
    """`vcgencmd get_throttled`, which needs the group video; else the firmware driver's file."""
    with suppress(OSError, subprocess.SubprocessError):
        command = ["vcgencmd", "get_throttled"]
        done = subprocess.run(command, env=dict(environ), capture_output=True, text=True, timeout=VCGENCMD_S)
        if answer := re.search(r"throttled=(0x[0-9a-fA-F]+)", done.stdout):
            return int(answer[1], 16)
    files = sorted(root.glob("sys/devices/platform/*/*firmware/get_throttled"))
    return _number(_text(files[0]), lambda text: int(text, 16)) if files else None


def _undervolted(root: Path) -> bool | None:
    for device in root.glob("sys/class/hwmon/hwmon*"):
        if _text(device / "name") == "rpi_volt":
            return _text(device / "in0_lcrit_alarm") == "1"
    return None


def _blocks(root: Path) -> list[Path]:
    return sorted(p for p in root.glob("sys/block/mmcblk*") if re.fullmatch(r"mmcblk\d+", p.name))


def _flash(root: Path) -> Iterator[FlashLife]:
    for block in _blocks(root):
        life = re.findall(r"0x[0-9a-fA-F]+", _text(block / "device/life_time") or "")
        if life:
            pre_eol = _number(_text(block / "device/pre_eol_info"), lambda text: int(text, 16))
            yield FlashLife(block.name, max(int(value, 16) for value in life), pre_eol)


def _memory_cgroup(root: Path) -> bool:
    controllers = _text(root / "sys/fs/cgroup/cgroup.controllers")
    return "memory" in controllers.split() if controllers else (root / "sys/fs/cgroup/memory").is_dir()


def _memory_limit(root: Path) -> str | None:
    for directory in UNITS:
        base = root / directory
        for file in [base / UNIT, *sorted((base / f"{UNIT}.d").glob("*.conf"))]:
            if found := re.search(r"(?m)^Memory(?:High|Max)\s*=\s*[^\s].*$", _text(file) or ""):
                return found[0]
    return None
