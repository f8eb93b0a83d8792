"""What `doctor` makes of the facts: pure functions from facts to checks, each with what mends it. Reads nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from edge_agent.board import Board
from edge_agent.llama_probe import LlamaFacts

if TYPE_CHECKING:
    from edge_agent.cloud_model import CloudCheck

Grade = Literal["ok", "warn", "fail"]

HOT_C = 80.0
"""Where a Raspberry Pi begins to slow down; a Jetson is not far from it."""
RUNTIME_BYTES = 350 << 20
"""Beside weights and KV cache: compute buffers, the router and Python."""
MIN_FREE_BYTES, LOW_FREE_BYTES = 64 << 20, 512 << 20
EARLIEST_S = 1_767_225_600
"""2026-01-01: no clock that is right shows an earlier time than this program has."""
WAL_RESET_FIXED = (3, 51, 3)
UNDERVOLTED, CAPPED, THROTTLED, SOFT_LIMIT = 0, 1, 2, 3
THROTTLE_BITS = {
    UNDERVOLTED: "under-voltage",
    CAPPED: "CPU frequency capped",
    THROTTLED: "throttled",
    SOFT_LIMIT: "slowed down by heat",
}
"""Bits of get_throttled; 16 higher: the same, since boot."""
ARM_KERNELS = {"asimddp": "DOTPROD", "i8mm": "MATMUL_INT8"}
"""CPU feature -> what llama_print_system_info() calls a build that uses it."""
REBUILD = 'CMAKE_ARGS="-DGGML_NATIVE=ON" pip install --force-reinstall --no-binary llama-cpp-python llama-cpp-python'
NO_AMX = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    """Short and stable: programs read it."""
    ok: Grade
    found: str
    """One sentence."""
    fix: str = ""
    """What to do; empty when it is ok."""


def check_system(board: Board, python: str) -> Check:
    """A 64-bit system: a 64-bit kernel under a 32-bit userland is not enough."""
    found = f"{board.model or 'no board name'}, {board.machine}, {board.bits}-bit Python {python}"
    if board.bits == 64:
        return Check("system", "ok", found)
    fix = "install the 64-bit image of the system: llama.cpp and onnxruntime have no builds for 32 bits"
    return Check("system", "fail", found, fix)


def check_engine(llama: LlamaFacts, cpu_features: frozenset[str]) -> Check:
    """Whether llama.cpp loads, and is built for this processor."""
    if llama.problem:
        fix = "install it again on this machine, see docs/install.md: pip install --force-reinstall llama-cpp-python"
        return Check("engine", "fail", f"llama-cpp-python {llama.problem}", fix)
    found = f"llama-cpp-python {llama.version}"
    unused = [kernel for feature, kernel in ARM_KERNELS.items() if feature in cpu_features and not _has(llama, kernel)]
    if unused:
        found += f" is built without {' and '.join(unused)}, which this processor has: prompts take about twice as long"
        return Check("engine", "warn", found, f"build it here, see docs/install.md: {REBUILD}")
    if _has(llama, "AMX_INT8"):
        found += " is built with AMX, which crashes (SIGSEGV) inside some virtual machines"
        flags = f"-DCMAKE_C_FLAGS='{NO_AMX}' -DCMAKE_CXX_FLAGS='{NO_AMX}'"
        return Check(
            "engine", "warn", found, f'if it does, build with CMAKE_ARGS="{flags}", see docs/troubleshooting.md'
        )
    return Check("engine", "ok", f"{found}, built for this processor")


def _has(llama: LlamaFacts, feature: str) -> bool:
    return f"{feature} = 1" in llama.cpu


def check_context(llama: LlamaFacts, n_ctx: int) -> Check | None:
    """Whether the model can be used as configured, going by its header; None when there is no header to go by."""
    if llama.model_problem:
        fix = "install a newer llama-cpp-python, or choose another model with local.model"
        return Check("context", "fail", f"llama.cpp cannot open the model: {llama.model_problem}", fix)
    if not llama.model:
        return None
    if "tokenizer.chat_template" not in llama.model:
        return Check("context", "fail", "the model has no chat template", "choose an instruct model with local.model")
    recurrent = [key for key in llama.model if any(word in key for word in (".ssm.", ".shortconv.", ".wkv."))]
    if recurrent:
        found = "a recurrent model: it cannot go back, so every turn reads the whole conversation again"
        return Check("context", "warn", found, "choose a plain transformer, such as those of `edge-agent pull --list`")
    trained = _of(llama.model, "context_length")
    if trained is not None and n_ctx > trained:
        found = f"local.n_ctx is {n_ctx:,} tokens, the model was trained on {trained:,}"
        return Check("context", "warn", found, f"set local.n_ctx to {trained} or less")
    return Check("context", "ok", f"{n_ctx:,} tokens" + (f" of the {trained:,} the model can use" if trained else ""))


def kv_bytes(model: Mapping[str, str], n_ctx: int) -> int | None:
    """The KV cache of a transformer at 16 bits: 2 bytes (key + value) per context token, layer and KV head."""
    layers, heads, width = (_of(model, name) for name in ("block_count", "attention.head_count", "embedding_length"))
    if not layers or not heads or not width:
        return None
    kv_heads = _of(model, "attention.head_count_kv") or heads
    key = _of(model, "attention.key_length") or width // heads
    value = _of(model, "attention.value_length") or width // heads
    return 2 * (key + value) * layers * kv_heads * n_ctx


def _of(model: Mapping[str, str], name: str) -> int | None:
    text = model.get(f"{model.get('general.architecture')}.{name}", "")
    return int(text) if text.isdigit() else None


def check_memory(board: Board, model_bytes: int, cache_bytes: int | None, *, loaded: bool) -> Check:
    """RAM against weights, KV cache and the rest. :param loaded: a daemon holds the model already."""
    needed = model_bytes + (cache_bytes or 0) + RUNTIME_BYTES
    parts = f"{_size(model_bytes)} model, {_size(cache_bytes or 0)} KV cache, {_size(RUNTIME_BYTES)} for the rest"
    if board.memory_bytes is None or board.available_bytes is None:
        return Check("memory", "ok", f"needs about {_size(needed)} ({parts}); not reported by this board")
    has = f"{_size(board.available_bytes)} of {_size(board.memory_bytes)} free"
    found = f"needs about {_size(needed)} ({parts}); {has}"
    smaller = "choose a smaller model with local.model, or lower local.n_ctx and local.n_batch"
    if needed > board.memory_bytes:
        return Check("memory", "fail", found, smaller)
    if needed > board.available_bytes and not loaded:
        return Check("memory", "warn", found, f"stop other programs, or {smaller}")
    return Check("memory", "ok", found)


def check_temperature(board: Board) -> Check:
    """The warmest zone."""
    if not board.temperatures_c:
        return Check("temperature", "ok", "not reported by this board")
    zone, warmest = max(board.temperatures_c.items(), key=lambda item: item[1])
    found = f"{warmest:.0f} °C ({zone})"
    if warmest < HOT_C:
        return Check("temperature", "ok", found)
    return Check("temperature", "warn", found, "cool it: a fan or heat sink keeps the speed it starts with")


def check_throttling(board: Board) -> Check:
    """Whether the board slows itself down, now or since it was started."""
    events = {name: count for name, count in board.overcurrent_events.items() if count}
    if events:
        counted = ", ".join(f"{name.removesuffix('_event_cnt')} {count}" for name, count in events.items())
        fix = "use the power supply made for the board, or a lower power mode (nvpmodel)"
        return Check("throttling", "warn", f"over-current throttling since boot: {counted} events", fix)
    if board.throttled is None:
        return _from_the_alarm(board)
    now, before = _bits(board.throttled), _bits(board.throttled >> 16)
    if not now and not before:
        return Check("throttling", "ok", "none since boot")
    found = f"now: {', '.join(now)}" if now else f"not now; since boot: {', '.join(before)}"
    power = board.throttled & (1 << UNDERVOLTED | 1 << UNDERVOLTED + 16)
    fix = "use the power supply made for the board, and a short cable" if power else "cool it: a fan or a heat sink"
    return Check("throttling", "fail" if now and power else "warn", found, fix)


def _from_the_alarm(board: Board) -> Check:
    if board.undervolted:
        fix = "use the power supply made for the board, and a short cable"
        return Check("throttling", "fail", "now: under-voltage", fix)
    if board.undervolted is False:
        return Check("throttling", "ok", "no under-voltage; the rest needs vcgencmd (group video)")
    found = "no over-current events since boot" if board.overcurrent_events else "not reported by this board"
    return Check("throttling", "ok", found)


def _bits(value: int) -> list[str]:
    return [words for bit, words in THROTTLE_BITS.items() if value >> bit & 1]


def check_swap(board: Board) -> Check:
    """Swap on a card wears it out, and a model that swaps is too slow to use."""
    worn = [swap for swap in board.swaps if swap.disk and swap.disk.startswith("mmcblk")]
    if worn:
        found = ", ".join(f"{swap.name} on {swap.disk}, {_size(swap.size_bytes)}" for swap in worn)
        fix = f"it wears the card out: sudo swapoff {worn[0].name}, and use zram instead"
        return Check("swap", "warn", found, fix)
    found = ", ".join(f"{swap.name}, {_size(swap.size_bytes)}" for swap in board.swaps)
    return Check("swap", "ok", found or "none")


def check_flash(board: Board) -> Check:
    """The wear that an eMMC reports."""
    if not board.flash:
        found = f"{', '.join(board.cards)}: an SD card, which reports no wear" if board.cards else "no eMMC or SD card"
        return Check("flash", "ok", found)
    worst = max(board.flash, key=lambda flash: flash.life_time)
    found = f"{worst.disk}: at most {min(worst.life_time * 10, 100)} % of its life used"
    urgent = any(flash.life_time > 10 or flash.pre_eol == 3 for flash in board.flash)
    aged = any(flash.life_time > 8 or flash.pre_eol == 2 for flash in board.flash)
    if not aged and not urgent:
        return Check("flash", "ok", found)
    found = f"{worst.disk}: beyond its rated life" if worst.life_time > 10 else found
    fix = "back up the decision log, and move it to another disk with log.path"
    return Check("flash", "fail" if urgent else "warn", found, fix)


def check_cgroup(board: Board) -> Check:
    """A unit's memory limit does nothing where the kernel has no memory controller: stock Raspberry Pi OS."""
    if board.memory_limit is None:
        return Check("cgroup", "ok", "no service with a memory limit is installed")
    if board.memory_cgroup:
        return Check("cgroup", "ok", f"the service's {board.memory_limit} is in force")
    found = f"the service's {board.memory_limit} is ignored: this kernel runs without the memory controller"
    fix = "add cgroup_enable=memory to the line in /boot/firmware/cmdline.txt and restart"
    return Check("cgroup", "warn", found, fix)


def check_sqlite(version: str) -> Check:
    """The bug that corrupts a WAL written by two connections does not touch a log with one writer."""
    numbers = tuple(int(part) for part in version.split(".") if part.isdigit())
    if numbers >= WAL_RESET_FIXED:
        return Check("sqlite", "ok", version)
    found = f"{version} has the WAL-reset bug (fixed in 3.51.3), which needs two writers; edge-agent has one"
    return Check("sqlite", "ok", f"{found}: let no other program write the log")


def check_clock(now_s: float, newest_utc: str | None) -> Check:
    """A board without a battery clock starts in the past: TLS fails and the log's order is wrong.

    :param newest_utc: the time of the newest row of the log, as the log writes it.
    """
    shown = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_s))
    fix = "set the clock: sudo timedatectl set-ntp true, or fit a battery for the board's clock"
    if now_s < EARLIEST_S:
        return Check("clock", "fail", f"{shown} UTC cannot be: it is before this program was made", fix)
    if newest_utc and shown < newest_utc[:19]:
        found = f"{shown} UTC is before the log's newest row, {newest_utc}"
        return Check("clock", "warn", found, fix)
    return Check("clock", "ok", f"{shown} UTC")


def check_disk(directory: str, free_bytes: int, *, read_only: bool, writable: bool = True) -> Check:
    """Room for the log. A card that fails turns read-only. :param writable: for whoever asks."""
    found = f"{_size(free_bytes)} free in {directory}"
    if read_only:
        fix = "look at `dmesg`: a card that fails turns read-only; replace it, or set log.path to another disk"
        return Check("disk", "fail", f"{directory} is on a disk that is mounted read-only", fix)
    if not writable:
        fix = "run this as the daemon's user; if this is it, set log.path to a directory it may write"
        return Check("disk", "warn", f"{directory} cannot be written by this user", fix)
    if free_bytes < LOW_FREE_BYTES:
        fix = "free some space, or set log.path to another disk"
        return Check("disk", "fail" if free_bytes < MIN_FREE_BYTES else "warn", found, fix)
    return Check("disk", "ok", found)


def check_cloud(cloud: CloudCheck, key_env: str | None) -> Check:
    """What asking for the list of models gave. Out of reach is a normal state at the edge; a refused key is not."""
    if not cloud.reachable:
        found, _, advice = cloud.message.partition("; ")
        fix = f"{advice or 'check the network'}; until then the local model answers alone"
        return Check("cloud", "warn", found, fix)
    status = cloud.status or 0
    if cloud.key_refused:
        fix = f"mend the key in {key_env} or its account, then restart the daemon; until then answers are local"
        return Check("cloud", "fail", cloud.message, fix)
    if 300 <= status < 400:
        return Check("cloud", "fail", cloud.message, "set cloud.base_url to the address it redirects to")
    if cloud.model_listed is False:
        return Check("cloud", "warn", cloud.message, "set cloud.model to a name the endpoint lists")
    if status >= 500 or status == 429:
        return Check("cloud", "warn", f"{cloud.message} with status {status}", "try again later")
    return Check("cloud", "ok", cloud.message)


def check_status(status: Mapping[str, Any], version: str) -> Iterator[Check]:
    """The checks of a running daemon, from what GET /v1/status answered; `version` is this program's."""
    yield _alive(status, version)
    local, router, log = (part(status, name) for name in ("local", "router", "log"))
    broken = local.get("broken")
    answers = f"{local.get('model')} answers, {local.get('waiting', 0)} waiting"
    restart = "restart the daemon; if it comes back, see the checks engine and model above"
    yield Check("daemon.local", "fail", str(broken), restart) if broken else Check("daemon.local", "ok", answers)
    error = router.get("error")
    reload = "see the check router above, then `kill -HUP` the daemon"
    yield (
        Check("daemon.router", "fail", str(error), reload)
        if error
        else Check("daemon.router", "ok", f"{router.get('version')} decides, threshold {router.get('threshold')}")
    )
    if watching := part(router, "shadow"):
        error = watching.get("error")
        yield (
            Check("daemon.shadow", "warn", f"no candidate watches: {error}", reload)
            if error
            else Check("daemon.shadow", "ok", f"{watching.get('version')} watches; see `edge-agent compare`")
        )
    yield _daemon_cloud(part(status, "cloud"))
    unrecorded, rows = log.get("unrecorded") or 0, log.get("rows") or 0
    found = f"{unrecorded} rows are not on disk: {log.get('last_error') or 'being written'}"
    fix = "see the checks disk and log; rows are kept in memory and tried again until the daemon ends"
    yield Check("daemon.log", "warn", found, fix) if unrecorded else Check("daemon.log", "ok", f"{rows} rows")


def _alive(status: Mapping[str, Any], version: str) -> Check:
    found = f"pid {status.get('pid')}, version {status.get('version')}, up {_age(status.get('uptime_s') or 0)}"
    if status.get("version") != version:
        return Check("daemon", "warn", f"{found}; this program is version {version}", "restart the daemon")
    return Check("daemon", "ok", found)


def _daemon_cloud(cloud: Mapping[str, Any]) -> Check:
    if problem := cloud.get("problem"):
        wanted = cloud.get("configured") and cloud.get("enabled")
        fix = "set it where the daemon starts (a service: /etc/edge-agent/environment) and restart the daemon"
        return Check("daemon.cloud", "warn" if wanted else "ok", f"local only: {problem}", fix if wanted else "")
    if last := cloud.get("last_error"):
        fix = (
            f"see the check cloud above, if this shell has the daemon's settings ({cloud.get('base_url')});"
            " meanwhile the local model answers, and such answers are marked degraded"
        )
        return Check("daemon.cloud", "warn", f"the last request failed: {last}", fix)
    return Check(
        "daemon.cloud", "ok", f"{cloud.get('model')} at {cloud.get('base_url')}, breaker {cloud.get('breaker')}"
    )


def part(status: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A section of a daemon's status; empty when it is not there."""
    section = status.get(name)
    return section if isinstance(section, Mapping) else {}


def _age(seconds: float) -> str:
    for unit_s, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds:.0f} s"


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
