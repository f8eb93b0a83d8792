"""Who may import whom. A change here is a change of the design."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import edge_agent

PACKAGE = Path(edge_agent.__file__).parent
EVERYBODY_MAY = {"__init__", "types", "errors"}

DEVICE = {
    # values, and files read for their own sake
    "__init__": "", "types": "", "errors": "", "answer_text": "", "board": "", "breaker": "", "cloud_failure": "",
    "confidence": "", "gguf_file": "", "llama_probe": "", "llama_runtime": "",
    "listeners": "", "log_batches": "", "migrations": "", "model_sources": "", "notify": "", "onnx_file": "",
    "policy": "", "progress": "", "redaction": "", "task_type": "",
    "text_features": "task_type", "wire": "", "wire_request": "",
    "config_keys": "", "files": "", "guarantees": "", "thresholds": "",
    "config": "config_keys log_batches redaction router_signature",
    # the router
    "router_card": "onnx_file",
    "router_signature": "files router_card",
    "router": "router_card router_signature text_features",
    "router_slots": "config_keys router router_card",
    "router_archive": "files router_card router_signature",
    "router_store": "files router router_archive router_card router_signature",
    "guarantee_facts": "gguf_file router_card",
    # the two models
    "json_schema": "llama_runtime",
    "grammar": "answer_text json_schema",
    "chat_template": "",
    "token_sampler": "llama_runtime",
    "local_model": "answer_text chat_template confidence grammar llama_runtime token_sampler gguf_file",
    "model_store": "gguf_file model_sources",
    "cloud_http": "cloud_failure",
    "cloud_stream": "cloud_failure",
    "cloud_model": "breaker cloud_failure cloud_http cloud_stream",
    # the log and the straight line
    "log_rows": "",
    "log_pruning": "",
    "log_forgetting": "log_pruning",
    "log_reader": "log_forgetting",
    "past_questions": "log_reader thresholds",
    "decision_log": "log_forgetting log_pruning log_reader log_rows migrations",
    "agent": "policy",
    # the way of the rows out
    "sync_state": "log_batches log_reader",
    "log_status": "config_keys log_pruning log_reader sync_state",
    "sync_files": "log_batches sync_state",
    "sync_http": "log_batches sync_state",
    "sync": "log_batches log_reader redaction sync_files sync_http sync_state",
    "server": "agent config log_forgetting wire wire_request",
    # the client's side
    "client": "",
    "display": "",
    "explain": "display policy",
    "chat": "client display",
    # those who see many rooms
    "checks": "board cloud_model llama_probe",
    "doctor": "board checks client cloud_model config llama_probe log_reader model_store policy router_slots",
    "daemon": "agent cloud_model config decision_log listeners local_model log_status model_store notify policy"
    " router_slots server sync_state",
    "cli_options": "client config display log_reader",
    "cli_logs": "cli_options config decision_log display explain log_batches log_reader log_status redaction sync"
    " sync_state",
    "guarantee_bundle": "files guarantees router router_card",
    "threshold_lines": "",
    "cli_threshold": "cli_options config display guarantee_bundle guarantee_facts guarantees model_store past_questions"
    " router router_card threshold_lines thresholds",
    "router_comparison": "guarantees policy",
    "comparison_lines": "display router_comparison",
    "cli_compare": "cli_options comparison_lines display router_comparison",
    "cli_router": "cli_options config display router_archive router_signature router_store",
    "cli": "chat cli_compare cli_logs cli_router cli_threshold cli_options config daemon display doctor"
    " model_store progress",
    "__main__": "cli",
}  # fmt: skip
"""Room of the device -> the rooms it may import, besides those everybody may."""

OWNERS = {
    "cryptography": "router_signature",
    "jinja2": "chat_template",
    "llama_cpp": "llama_probe llama_runtime",
    "numpy": "confidence guarantees local_model past_questions router router_comparison text_features thresholds",
    "onnxruntime": "router",
    "requests": "cloud_failure cloud_http model_sources sync_http",
    "sqlite3": "decision_log doctor log_forgetting log_pruning log_reader sync_state",
    "sqlite_utils": "decision_log migrations",
    "starlette": "server",
    "tokenizers": "router",
    "uvicorn": "daemon listeners",
    "yaml": "config model_store",
    "click": "cli cli_compare cli_logs cli_options cli_router cli_threshold",
    "prompt_toolkit": "chat",
}
"""Library -> the rooms that may import it."""


def imports(path: Path) -> Iterator[tuple[str, ast.stmt]]:
    """The dotted name of every module a file imports, inside functions too, and where."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: a relative import"
            if node.module in ("edge_agent", "edge_agent.training"):
                yield from ((f"{node.module}.{alias.name}", node) for alias in node.names)
            elif node.module:
                yield node.module, node


def rooms(path: Path) -> set[str]:
    """The rooms of the device a file imports; `training` for any of the workstation's."""
    names = [name.split(".") for name, _ in imports(path)]
    found = {parts[1] if len(parts) > 1 else "__init__" for parts in names if parts[0] == "edge_agent"}
    return {room if room in DEVICE or room == "training" else "__init__" for room in found}


def libraries(path: Path) -> set[str]:
    return {name.split(".")[0] for name, _ in imports(path)} - {"edge_agent"}


def test_the_table_names_every_room_there_is() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == set(DEVICE)


@pytest.mark.parametrize("room", DEVICE)
def test_a_room_of_the_device_imports_only_what_it_may(room: str) -> None:
    found = rooms(PACKAGE / f"{room}.py") - EVERYBODY_MAY - {"training"}
    assert found <= set(DEVICE[room].split())


def test_the_table_allows_nothing_nobody_uses() -> None:
    unused = {room: set(may.split()) - rooms(PACKAGE / f"{room}.py") for room, may in DEVICE.items()}
    assert {room: names for room, names in unused.items() if names} == {}


def test_no_room_imports_itself_over_others() -> None:
    graph = {room: rooms(PACKAGE / f"{room}.py") - {"__init__", "training"} for room in DEVICE}
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("room", DEVICE)
def test_the_device_never_imports_the_workstation(room: str) -> None:
    """Only a command may, once it is called."""
    path = PACKAGE / f"{room}.py"
    found = [statement for name, statement in imports(path) if name.startswith("edge_agent.training")]
    in_functions = [
        statement
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef)
        for statement in ast.walk(function)
    ]
    lines = {statement.lineno for statement in in_functions if hasattr(statement, "lineno")}
    assert found == [] or (room in ("cli", "cli_threshold") and all(statement.lineno in lines for statement in found))


@pytest.mark.parametrize("path", sorted((PACKAGE / "training").glob("*.py")), ids=lambda path: path.stem)
def test_the_workstation_imports_no_server_no_daemon_and_no_command_line(path: Path) -> None:
    assert rooms(path) & {"server", "daemon", "cli", "__main__"} == set()


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_is_imported_by_the_rooms_that_own_it(library: str) -> None:
    users = {path.stem for path in PACKAGE.glob("*.py") if library in libraries(path)}
    assert users == set(OWNERS[library].split())


def test_only_who_builds_sees_the_settings_whole() -> None:
    seen = {
        path.stem
        for path in PACKAGE.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "edge_agent.config"
        if {"Config", "load_config"} & {alias.name for alias in node.names}
    }
    assert seen == {"cli_logs", "cli_options", "daemon", "doctor"}


def loaded_by(module: str, tmp_path: Path, installed: list[str]) -> set[str]:
    """The modules in a fresh process that imported `module`, on a machine that has the packages `installed` as well."""
    for name in installed:
        (tmp_path / f"{name}.py").write_text("")
    program = f"import sys; sys.path.append({str(tmp_path)!r}); import {module}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return set(run.stdout.split())


def test_the_daemon_runs_without_the_libraries_of_the_workstation(tmp_path: Path) -> None:
    heavy = ["torch", "transformers", "sklearn", "scipy", "onnx", "tqdm", "pyarrow", "matplotlib", "fsspec", "s3fs"]
    loaded = loaded_by("edge_agent.daemon", tmp_path, heavy)
    assert loaded & {*heavy, "pandas"} == set()
    assert not any(name.startswith("edge_agent.training") for name in loaded)


@pytest.mark.parametrize("module", ["edge_agent.client", "edge_agent.chat", "edge_agent.cli", "edge_agent.explain"])
def test_a_client_starts_without_the_libraries_of_the_daemon(module: str, tmp_path: Path) -> None:
    daemons = {
        "numpy",
        "llama_cpp",
        "onnxruntime",
        "tokenizers",
        "requests",
        "yaml",
        "sqlite_utils",
        "uvicorn",
        "starlette",
    }
    assert loaded_by(module, tmp_path, []) & daemons == set()
