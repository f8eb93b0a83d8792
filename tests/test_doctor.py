from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from edge_agent import checks, doctor
from edge_agent.board import Board, FlashLife, Swap, disk_of, read_board
from edge_agent.checks import Check
from edge_agent.cloud_model import CloudCheck
from edge_agent.config import Config, cloud_problem, load_config
from edge_agent.decision_log import DecisionLog
from edge_agent.llama_probe import LlamaFacts, probe
from edge_agent.policy import REASONS
from edge_agent.types import Completion, Decision, Exchange, Message, Query
from tests.daemon_process import environment, write_config
from tests.misbehaving_cloud import Behaviour, hang_before_headers, misbehaving_cloud, redirect_to, status
from tests.tiny_router import edit_card, make_tiny_router

NOW_S = 1_796_000_000.0
KEY = "sk-a-secret-that-is-shown-nowhere"
PI = Board(
    model="Raspberry Pi 5 Model B Rev 1.0",
    machine="aarch64",
    cpu_features=frozenset({"asimd", "asimddp"}),
    memory_bytes=8_000_000_000,
    available_bytes=6_000_000_000,
    temperatures_c={"cpu-thermal": 51.0},
    throttled=0,
    cards=("mmcblk0",),
)
DOTPROD = LlamaFacts(version="0.3.36", cpu="NEON = 1 | DOTPROD = 1")
QWEN = {
    "general.architecture": "qwen2",
    "qwen2.block_count": "24",
    "qwen2.attention.head_count": "14",
    "qwen2.attention.head_count_kv": "2",
    "qwen2.embedding_length": "896",
    "qwen2.context_length": "32768",
    "tokenizer.chat_template": "{{ messages }}",
}
STATUS = {
    "pid": 7,
    "version": "0.1.0",
    "uptime_s": 7300.0,
    "local": {"model": "tiny", "waiting": 0, "broken": None},
    "cloud": {"configured": True, "enabled": True, "usable": True, "problem": None, "last_error": None},
    "router": {"version": "r1", "threshold": 0.42, "error": None},
    "log": {"rows": 3, "unrecorded": 0, "last_error": None},
}


class Device:
    """A directory with settings, a tiny model and a tiny router, and what doctor says of it."""

    def __init__(self, directory: Path, gguf: Path, router: Path):
        self.directory, self._gguf, self._router = directory, gguf, router
        self.environ = environment(directory)

    def config(self, **settings: Mapping[str, Any]) -> Config:
        file = write_config(self.directory, settings, self._gguf, self._router)
        return load_config(file, environ=self.environ)

    def checks(self, *, cloud_s: float = 5.0, **settings: Mapping[str, Any]) -> dict[str, Check]:
        found = doctor.run(self.config(**settings), environ=self.environ, board=PI, now_s=NOW_S, cloud_s=cloud_s)
        assert len({check.name for check in found}) == len(found)
        assert all(check.fix for check in found if check.ok != "ok"), "a finding without a way out"
        return {check.name: check for check in found}


@pytest.fixture
def device(tmp_path: Path, tiny_gguf: Path, tiny_router: Path) -> Device:
    return Device(tmp_path, tiny_gguf, tiny_router)


def test_a_healthy_device_without_a_daemon_lacks_only_the_daemon(device: Device) -> None:
    found = device.checks()
    assert [name for name, check in found.items() if check.ok != "ok" and name != "engine"] == ["socket"]
    assert "tiny-local.gguf" in found["model"].found
    assert "tiny-1, threshold 0.5, 4 golden pairs pass" in found["router"].found
    assert found["cloud"].found == "local only: no cloud model is configured"


def test_names_are_stable_and_documented(device: Device) -> None:
    expected = (
        "config system engine model context memory router log sqlite disk clock temperature throttling swap flash"
        " cgroup socket token cloud"
    )
    assert list(device.checks()) == expected.split()
    documented = (Path(__file__).parent.parent / "docs" / "troubleshooting.md").read_text()
    daemon = [check.name for check in checks.check_status(STATUS, "0.1.0")]
    assert [name for name in [*device.checks(), *daemon] if f"| `{name}` |" not in documented] == []


def test_doctor_leaves_no_trace(device: Device) -> None:
    config = device.config()
    before = sorted(device.directory.rglob("*"))
    doctor.run(config, environ=device.environ, board=PI)
    assert sorted(device.directory.rglob("*")) == before


def test_doctor_itself_never_loads_llama_cpp(device: Device) -> None:
    device.config()
    script = (
        "import sys; from edge_agent import doctor; from edge_agent.config import load_config;"
        " doctor.run(load_config()); sys.exit('llama_cpp' in sys.modules)"
    )
    environ = device.environ | {"EDGE_AGENT_CONFIG": str(device.directory / "config.yaml")}
    assert subprocess.run([sys.executable, "-c", script], env=environ).returncode == 0


@pytest.mark.parametrize(
    ("said", "grade", "words"),
    [
        (check, grade, words)
        for grade, words, check in [
            ("ok", "Raspberry Pi 5", checks.check_system(PI, "3.11")),
            ("fail", "32-bit", checks.check_system(replace(PI, bits=32), "3.11")),
            ("ok", "built for this processor", checks.check_engine(DOTPROD, PI.cpu_features)),
            ("warn", "without DOTPROD", checks.check_engine(LlamaFacts("0.3.36", "NEON = 1"), PI.cpu_features)),
            ("warn", "AMX", checks.check_engine(LlamaFacts("0.3.36", "AVX2 = 1 | AMX_INT8 = 1"), frozenset())),
            (
                "ok",
                "built for this",
                checks.check_engine(LlamaFacts("0.3.36", "AMX_INT8 = 0"), frozenset({"amx_int8"})),
            ),
            ("fail", "SIGILL", checks.check_engine(LlamaFacts(problem="crashed with SIGILL"), frozenset())),
            ("ok", "51 °C (cpu-thermal)", checks.check_temperature(PI)),
            ("warn", "84 °C (gpu)", checks.check_temperature(replace(PI, temperatures_c={"cpu": 60.0, "gpu": 84.2}))),
            ("ok", "not reported by this board", checks.check_temperature(Board())),
            ("ok", "none since boot", checks.check_throttling(PI)),
            ("fail", "now: under-voltage, throttled", checks.check_throttling(replace(PI, throttled=0x50005))),
            ("warn", "since boot: under-voltage", checks.check_throttling(replace(PI, throttled=0x10000))),
            ("warn", "now: slowed down by heat", checks.check_throttling(replace(PI, throttled=0x80008))),
            ("fail", "under-voltage", checks.check_throttling(Board(undervolted=True))),
            ("ok", "no under-voltage", checks.check_throttling(Board(undervolted=False))),
            ("warn", "oc1 2 events", checks.check_throttling(Board(overcurrent_events={"oc1_event_cnt": 2}))),
            ("ok", "no over-current", checks.check_throttling(Board(overcurrent_events={"oc1_event_cnt": 0}))),
            ("ok", "not reported by this board", checks.check_throttling(Board())),
            ("ok", "none", checks.check_swap(PI)),
            ("warn", "/var/swap on mmcblk0", checks.check_swap(Board(swaps=(Swap("/var/swap", 10**8, "mmcblk0"),)))),
            ("ok", "/dev/zram0, 4.0 GB", checks.check_swap(Board(swaps=(Swap("/dev/zram0", 4 * 10**9, "zram0"),)))),
            ("ok", "an SD card, which reports no wear", checks.check_flash(PI)),
            ("ok", "at most 20 %", checks.check_flash(Board(flash=(FlashLife("mmcblk0", 2, 1),)))),
            ("warn", "at most 90 %", checks.check_flash(Board(flash=(FlashLife("mmcblk0", 9, 1),)))),
            ("fail", "beyond its rated life", checks.check_flash(Board(flash=(FlashLife("mmcblk0", 11, 1),)))),
            ("fail", "at most 50 %", checks.check_flash(Board(flash=(FlashLife("mmcblk0", 5, 3),)))),
            ("ok", "no service", checks.check_cgroup(Board(memory_cgroup=False))),
            ("ok", "in force", checks.check_cgroup(Board(memory_limit="MemoryMax=1G"))),
            ("warn", "is ignored", checks.check_cgroup(Board(memory_limit="MemoryMax=1G", memory_cgroup=False))),
            ("ok", "WAL-reset bug", checks.check_sqlite("3.40.1")),
            ("ok", "3.51.3", checks.check_sqlite("3.51.3")),
            ("fail", "1970-01-01", checks.check_clock(12.0, None)),
            ("warn", "before the log's newest row", checks.check_clock(NOW_S, "2029-01-01T00:00:00.000Z")),
            ("ok", "2026-11-30T", checks.check_clock(NOW_S, "2026-11-23T20:00:00.000Z")),
            ("ok", "9.0 GB free", checks.check_disk("/data", 9 * 10**9, read_only=False)),
            ("warn", "200 MB free", checks.check_disk("/data", 200 * 10**6, read_only=False)),
            ("fail", "9 MB free", checks.check_disk("/data", 9 * 10**6, read_only=False)),
            ("fail", "read-only", checks.check_disk("/data", 9 * 10**9, read_only=True)),
            ("warn", "cannot be written", checks.check_disk("/data", 9 * 10**9, read_only=False, writable=False)),
        ]
    ],
)
def test_facts_become_findings(said: Check, grade: str, words: str) -> None:
    assert said.ok == grade and words in said.found
    assert bool(said.fix) == (grade != "ok")


def test_the_wal_bug_is_said_to_need_two_writers() -> None:
    assert "WAL-reset" not in checks.check_sqlite("3.51.3").found
    assert "needs two writers; edge-agent has one" in checks.check_sqlite("3.51.2").found


def test_the_kv_cache_is_counted_from_the_header() -> None:
    assert (
        checks.kv_bytes(QWEN, 4096) == 2 * 2 * 24 * 2 * 64 * 4096
    )  # bytes, key and value, layers, heads, width, tokens
    assert checks.kv_bytes(QWEN | {"qwen2.attention.key_length": "128"}, 4096) == 2 * (128 + 64) * 24 * 2 * 4096
    assert checks.kv_bytes({}, 4096) is None


@pytest.mark.parametrize(
    ("model_bytes", "loaded", "grade"),
    [(10**9, False, "ok"), (6 * 10**9, False, "warn"), (6 * 10**9, True, "ok"), (9 * 10**9, False, "fail")],
)
def test_memory_is_set_against_model_and_kv_cache(model_bytes: int, loaded: bool, grade: str) -> None:
    assert checks.check_memory(PI, model_bytes, 50 * 10**6, loaded=loaded).ok == grade


@pytest.mark.parametrize(
    ("changes", "n_ctx", "grade", "words"),
    [
        ({}, 4096, "ok", "4,096 tokens of the 32,768"),
        ({}, 40_000, "warn", "was trained on 32,768"),
        ({"tokenizer.chat_template": None}, 4096, "fail", "no chat template"),
        ({"lfm2.shortconv.l_cache": "3"}, 4096, "warn", "recurrent"),
    ],
)
def test_the_header_says_whether_the_model_fits(changes: dict[str, str], n_ctx: int, grade: str, words: str) -> None:
    header = {key: value for key, value in (QWEN | changes).items() if value is not None}
    check = checks.check_context(LlamaFacts("0.3.36", model=header), n_ctx)
    assert check is not None and check.ok == grade and words in check.found


def test_the_probe_reads_a_models_header(tiny_gguf: Path) -> None:
    found = probe(tiny_gguf)
    assert found.version and found.problem is None and found.model_problem is None
    assert found.model["llama.block_count"] == "2" and "tokenizer.chat_template" in found.model
    assert checks.kv_bytes(found.model, 1024) == 2 * (16 + 16) * 2 * 4 * 1024


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "crashed with SIGILL while it was loaded"),
        ("raise ImportError('libgomp.so.1: cannot open shared object file')", "cannot be loaded: ImportError: libgomp"),
        ("import time; time.sleep(60)", "did not answer within 0.5 s"),
    ],
)
def test_a_llama_cpp_that_dies_or_hangs_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, words: str
) -> None:
    (tmp_path / "llama_cpp.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = probe(None, timeout_s=0.5 if "sleep" in source else 30)
    assert words in str(found.problem)


def test_a_board_is_read_from_proc_and_sys(tmp_path: Path) -> None:
    files = {
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano\0",
        "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimddp\n\nprocessor\t: 1\nFeatures\t: fp\n",
        "proc/meminfo": "MemTotal:        8000000 kB\nMemFree:  10 kB\nMemAvailable:    5000000 kB\n",
        "proc/swaps": "Filename Type Size Used\n/dev/mmcblk0p3 partition 100 0\n/dev/zram0 partition 9 0\n",
        "sys/class/thermal/thermal_zone0/temp": "48500\n",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone1/temp": "not now\n",
        "sys/class/hwmon/hwmon1/oc1_event_cnt": "4\n",
        "sys/block/mmcblk0/device/type": "MMC\n",
        "sys/block/mmcblk0/device/life_time": "0x01 0x03\n",
        "sys/block/mmcblk0/device/pre_eol_info": "0x01\n",
        "sys/block/mmcblk1/device/type": "SD\n",
        "sys/block/mmcblk0boot0/device/type": "MMC\n",
        "sys/fs/cgroup/cgroup.controllers": "cpuset cpu io pids\n",
        "etc/systemd/system/edge-agent.service": "[Service]\nMemoryHigh=80%\n",
    }
    write_tree(tmp_path, files)
    board = read_board(tmp_path, {"PATH": ""})
    assert board == Board(
        model="NVIDIA Jetson Orin Nano",
        machine=os.uname().machine,
        cpu_features=frozenset({"fp", "asimd", "asimddp"}),
        memory_bytes=8_000_000 * 1024,
        available_bytes=5_000_000 * 1024,
        swaps=(Swap("/dev/mmcblk0p3", 100 * 1024, "mmcblk0"), Swap("/dev/zram0", 9 * 1024, "zram0")),
        temperatures_c={"cpu-thermal": 48.5},
        overcurrent_events={"oc1_event_cnt": 4},
        flash=(FlashLife("mmcblk0", 3, 1),),
        cards=("mmcblk1",),
        memory_cgroup=False,
        memory_limit="MemoryHigh=80%",
    )


def test_a_board_that_tells_nothing_is_read_as_well(tmp_path: Path) -> None:
    board = read_board(tmp_path, {"PATH": ""})
    assert (board.memory_bytes, board.throttled, board.temperatures_c, board.flash) == (None, None, {}, ())
    findings = [checks.check_memory(board, 10**9, None, loaded=False), *doctor._board(board)]
    assert {check.ok for check in findings} == {"ok"}


def test_this_machine_is_read() -> None:
    board = read_board()
    assert board.memory_bytes and board.available_bytes and board.cpu_features


def test_throttling_is_asked_of_vcgencmd_first(tmp_path: Path) -> None:
    write_tree(tmp_path, {"sys/devices/platform/soc/soc:firmware/get_throttled": "20002\n"})
    vcgencmd = tmp_path / "bin" / "vcgencmd"
    write_tree(tmp_path, {"bin/vcgencmd": "#!/bin/sh\necho throttled=0x50005\n"})
    vcgencmd.chmod(0o755)
    assert read_board(tmp_path, {"PATH": str(vcgencmd.parent)}).throttled == 0x50005
    vcgencmd.write_text("#!/bin/sh\necho VCHI initialization failed\nexit 255\n")
    assert read_board(tmp_path, {"PATH": str(vcgencmd.parent)}).throttled == 0x20002


def test_an_undervoltage_alarm_is_read_from_hwmon(tmp_path: Path) -> None:
    write_tree(tmp_path, {"sys/class/hwmon/hwmon2/name": "rpi_volt\n", "sys/class/hwmon/hwmon2/in0_lcrit_alarm": "1\n"})
    assert read_board(tmp_path, {"PATH": ""}).undervolted is True


def test_a_swap_file_is_traced_to_its_card(tmp_path: Path) -> None:
    write_tree(tmp_path, {"var/swap": "", "sys/devices/mmc0/mmcblk0/mmcblk0p2/partition": "2\n"})
    write_tree(tmp_path, {"proc/swaps": "Filename Type Size Used Priority\n/var/swap file 102396 0 -2\n"})
    device = (tmp_path / "var/swap").stat().st_dev
    link = tmp_path / f"sys/dev/block/{os.major(device)}:{os.minor(device)}"
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "sys/devices/mmc0/mmcblk0/mmcblk0p2")
    assert disk_of(tmp_path / "var", tmp_path) == "mmcblk0"
    assert read_board(tmp_path, {"PATH": ""}).swaps == (Swap("/var/swap", 102396 * 1024, "mmcblk0"),)


def test_a_missing_model_says_what_to_pull(device: Device) -> None:
    check = device.checks(local={"model": "qwen2.5-coder-0.5b"})["model"]
    assert check.ok == "fail" and check.fix == "run `edge-agent pull qwen2.5-coder-0.5b`"


def test_a_catalogue_model_of_the_wrong_size_is_named_with_both_sizes(device: Device) -> None:
    store = device.directory / "cache" / "edge-agent" / "models"
    write_tree(store, {"qwen2.5-coder-0.5b-instruct-q4_k_m.gguf": "GGUF"})
    check = device.checks(local={"model": "qwen2.5-coder-0.5b"})["model"]
    assert check.ok == "fail" and "expected 491,400,064 bytes, found 4" in check.found and "pull" in check.fix


def test_a_model_cut_in_half_is_found_before_llama_cpp_sees_it(device: Device, tiny_gguf: Path) -> None:
    half = device.directory / "half.gguf"
    half.write_bytes(tiny_gguf.read_bytes()[: tiny_gguf.stat().st_size // 2])
    found = device.checks(local={"model": str(half)})
    assert found["model"].ok == "fail" and "cut off" in found["model"].found
    assert "context" not in found


def test_a_damaged_router_is_named(device: Device, tmp_path: Path) -> None:
    bundle = make_tiny_router(tmp_path / "routers")
    edit_card(bundle, golden=[{"text": "turn on the light", "score": 0.9}])
    check = device.checks(router={"path": str(bundle), "on_error": "cloud"})["router"]
    assert check.ok == "fail" and "self-test: expected score 0.900" in check.found
    assert "every question goes to cloud" in check.found


@pytest.mark.parametrize(
    ("shadow", "grade", "found"),
    [("next", "ok", "next can watch"), ("gone", "warn", "gone/router.json: expected a router's card, found none")],
)
def test_a_candidate_is_checked_as_well(device: Device, tmp_path: Path, shadow: str, grade: str, found: str) -> None:
    make_tiny_router(tmp_path / "routers", version="next")
    bundle = make_tiny_router(tmp_path / "routers")
    checks = device.checks(router={"path": str(bundle), "shadow": shadow})
    assert checks["router"].ok == "ok"
    assert checks["shadow"].ok == grade and found in checks["shadow"].found


def test_a_log_is_counted_and_its_newest_row_checks_the_clock(device: Device) -> None:
    query = Query((Message("user", "hello"),), created_utc="2030-01-01T00:00:00.000Z")
    log = DecisionLog(device.directory / "log.db")
    log.append(Exchange(query, Decision("local", "private"), Completion("hi", "tiny", "stop")))
    log.close()
    found = device.checks()
    assert found["log"].ok == "ok" and "1 rows" in found["log"].found
    assert found["clock"].ok == "warn" and "2030-01-01" in found["clock"].found


@pytest.mark.parametrize("damage", ["not a database", "a damaged page"])
def test_a_damaged_log_is_found(device: Device, damage: str) -> None:
    path = device.directory / "log.db"
    if damage == "not a database":
        path.write_text("dear diary " * 500)
    else:
        DecisionLog(path).close()
        pages = bytearray(path.read_bytes())
        pages[4096 * 3 :] = b"\xff" * (len(pages) - 4096 * 3)
        path.write_bytes(pages)
    assert device.checks()["log"].ok == "fail"


def test_a_file_where_the_socket_should_be_is_found(device: Device) -> None:
    (device.directory / "agent.sock").write_text("mine")
    check = device.checks()["socket"]
    assert check.ok == "fail" and "is not a socket" in check.found


def test_a_socket_path_that_is_too_long_is_found(device: Device) -> None:
    check = device.checks(socket={"path": f"/tmp/{'s' * 120}"})["socket"]
    assert check.ok == "fail" and "125 bytes, a Unix socket may have 107" in check.found


def test_a_socket_left_behind_is_found(device: Device) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(device.directory / "agent.sock"))
    check = device.checks()["socket"]
    assert check.ok == "warn" and "was left behind" in check.found


def test_a_stranger_on_the_socket_is_found_and_does_not_hang_doctor(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "DAEMON_S", 0.3)
    path = device.directory / "agent.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        path.chmod(0o666)
        found = device.checks()
    assert found["socket"].ok == "warn" and "mode 0666, expected 0600" in found["socket"].found
    assert found["daemon"].ok == "fail" and "said nothing for 0.3 s" in found["daemon"].found


def test_a_running_daemon_is_asked_how_it_is(device: Device, daemon: Any) -> None:
    found = doctor.run(load_config(daemon.config_file, environ={}), environ=device.environ, board=PI, now_s=NOW_S)
    grades = {check.name: check for check in found}
    assert f"pid {daemon.process.pid}" in grades["daemon"].found
    names = ("socket", "token", "daemon", "daemon.local", "daemon.router", "daemon.cloud", "daemon.log")
    assert {grades[name].ok for name in names} == {"ok"}
    assert "this shell has none" in grades["cloud"].found
    assert grades["log"].found.startswith(str(daemon.log_file))


@pytest.mark.parametrize(
    ("section", "facts", "name", "grade", "words"),
    [
        ("local", {"broken": "RuntimeError: llama_decode returned -3"}, "daemon.local", "fail", "llama_decode"),
        ("router", {"error": "no router bundle"}, "daemon.router", "fail", "no router bundle"),
        (
            "log",
            {"unrecorded": 4, "last_error": "disk full"},
            "daemon.log",
            "warn",
            "4 rows are not on disk: disk full",
        ),
        ("cloud", {"last_error": "cloud x: answered 402: no credit"}, "daemon.cloud", "warn", "402"),
        ("cloud", {"problem": "no key"}, "daemon.cloud", "warn", "local only: no key"),
        ("cloud", {"problem": "not configured", "configured": False}, "daemon.cloud", "ok", "local only"),
    ],
)
def test_what_a_daemon_admits_is_a_finding(
    section: str, facts: dict[str, Any], name: str, grade: str, words: str
) -> None:
    status = STATUS | {section: STATUS[section] | facts}  # type: ignore[operator]
    check = next(check for check in checks.check_status(status, "0.1.0") if check.name == name)
    assert check.ok == grade and words in check.found and bool(check.fix) == (grade != "ok")


def test_a_daemon_older_than_the_program_is_found() -> None:
    check = next(iter(checks.check_status(STATUS, "0.2.0")))
    assert check.ok == "warn" and "version 0.1.0, up 2 h; this program is version 0.2.0" in check.found


@pytest.mark.parametrize(
    ("behaviour", "grade", "words"),
    [
        (status(200, {"data": [{"id": "big"}]}), "ok", "answers in"),
        (status(404, "nothing here"), "ok", "answers in"),
        (status(200, {"data": [{"id": "other"}]}), "warn", "does not list big"),
        (status(401, {"error": {"message": "bad key"}}), "fail", "answered 401"),
        (status(402, {"error": {"message": "pay"}}), "fail", "answered 402"),
        (status(503, "busy"), "warn", "with status 503"),
        (redirect_to("https://elsewhere.example"), "fail", "answered 30"),
        (hang_before_headers, "warn", "did not answer within 0.5 s"),
    ],
)
def test_the_cloud_is_asked_with_the_key(device: Device, behaviour: Behaviour, grade: str, words: str) -> None:
    device.environ["EDGE_AGENT_CLOUD_API_KEY"] = KEY
    with misbehaving_cloud(behaviour) as url:
        started = time.monotonic()
        found = device.checks(cloud={"base_url": str(url), "model": "big"}, cloud_s=0.5 if "within" in words else 5.0)
        assert time.monotonic() - started < 8
        assert url.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert found["cloud"].ok == grade and words in found["cloud"].found
    assert KEY not in json.dumps([asdict(check) for check in found.values()])


def test_a_cloud_out_of_reach_is_a_warning(device: Device) -> None:
    check = device.checks(cloud={"base_url": "http://127.0.0.1:9/v1", "model": "big", "api_key_env": None})["cloud"]
    assert check.ok == "warn" and "127.0.0.1:9" in check.found


@pytest.mark.parametrize(
    ("settings", "reason", "grade"),
    [
        ({}, "cloud_not_configured", "ok"),
        ({"enabled": False, "base_url": "https://c.example/v1", "model": "big"}, "cloud_disabled", "ok"),
        ({"base_url": "https://c.example/v1", "model": "big"}, "cloud_no_key", "warn"),
    ],
)
def test_local_only_for_the_reason_the_daemon_has(
    device: Device, settings: dict[str, Any], reason: str, grade: str
) -> None:
    assert cloud_problem(device.config(cloud=settings), device.environ) == reason
    check = device.checks(cloud=settings)["cloud"]
    expected = "EDGE_AGENT_CLOUD_API_KEY" if reason == "cloud_no_key" else REASONS[reason]
    assert check.ok == grade and check.found.startswith("local only: ") and expected in check.found


def test_an_unknown_answer_of_the_cloud_is_graded() -> None:
    check = checks.check_cloud(CloudCheck(True, False, None, 429, 3.0, "host answers in 3 ms"), "KEY")
    assert check.ok == "warn" and "429" in check.found


@pytest.mark.parametrize(
    ("token", "grade"), [(None, "fail"), ("short", "warn"), ("0123456789abcdef0123456789abcdef", "ok")]
)
def test_tcp_needs_a_token_that_is_hard_to_guess(device: Device, token: str | None, grade: str) -> None:
    device.environ.pop("EDGE_AGENT_TOKEN")
    device.environ |= {"EDGE_AGENT_TOKEN": token} if token else {}
    check = device.checks(tcp={"port": 8642})["token"]
    assert check.ok == grade and (token is None or token not in check.found + check.fix)


def test_a_check_that_fails_itself_stops_no_other(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    (device.directory / "no-directory").write_text("")
    found = device.checks(log={"path": str(device.directory / "no-directory" / "log.db")})
    assert found["cloud"].ok == "ok"
    monkeypatch.setattr(checks, "check_sqlite", lambda version: 1 / 0)
    found = device.checks()
    assert found["sqlite"].ok == "fail" and "ZeroDivisionError" in found["sqlite"].found
    assert found["cloud"].ok == "ok"


def write_tree(root: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
