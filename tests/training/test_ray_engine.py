"""Labels made by a two-worker Ray are those of one process; its environment is made by fleet_environment.py."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import fsspec
import pytest
from moto.server import ThreadedMotoServer

from edge_agent.errors import EdgeAgentError
from edge_agent.training import relabel_job
from edge_agent.training.fleet_files import LabelParts, key, put_queries, read_queries
from edge_agent.training.label_rows import FORMAT, read_labels
from edge_agent.training.ray_engine import Relabelled, relabel
from tests.fleet_environment import NotInstalled, fleet_python
from tests.training.ray_run import FLEET, job, queries, stages

ROOT = Path(__file__).parents[2]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def on_ray() -> Iterator[Run]:
    """on_ray(source, target, local, cloud): the program of ray_run.py; Ray's own files go to a folder of this run."""
    try:
        python = fleet_python()
    except NotInstalled as error:
        pytest.skip(f"Ray is not here: {error}")
    with TemporaryDirectory(prefix="ray-") as folder:  # short: Ray puts sockets there

        def run(*arguments: object) -> subprocess.CompletedProcess[str]:
            command = [python, "-m", "tests.training.ray_run", *map(str, arguments)]
            environ = os.environ | {"PYTHONPATH": str(ROOT), "RAY_TMPDIR": folder, "RAY_worker_niceness": "0"}
            return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=900)

        yield run
        assert gone(f"RAY_TMPDIR={folder}"), "Ray left processes behind"


def gone(variable: str, patience_s: float = 60) -> bool:
    """Whether no process has this in its environment, or soon has not."""
    end = time.monotonic() + patience_s
    while left := any(variable.encode() in environment_of(path) for path in Path("/proc").glob("[0-9]*/environ")):
        if time.monotonic() > end:
            break
        time.sleep(0.5)
    return not left


def environment_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it ended meanwhile, or is somebody else's
        return b""


@pytest.fixture
def source(tmp_path: Path) -> str:
    put_queries(queries(), str(tmp_path / "queries"))
    return str(tmp_path / "queries")


@pytest.fixture(scope="module")
def in_one_process(tmp_path_factory: pytest.TempPathFactory, tiny_gguf: Path, other_tiny_gguf: Path) -> list[Any]:
    """The labels of the engine without Ray."""
    alone = job(tiny_gguf, other_tiny_gguf, tmp_path_factory.mktemp("alone"))
    relabel_job.run(alone, lambda model, queries: lambda sample: None)
    return by_id(read_labels(alone.output / relabel_job.LABELS))


def by_id(labels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(labels, key=lambda label: label["query_id"])


def parted(label: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is exact, and what follows from log-likelihoods: their fifth digit depends on the prompt before."""
    moved = {name for name in label if any(part in name for part in ("likelihood", "kuhn", "greedy_m"))}
    return {k: v for k, v in label.items() if k not in moved}, {k: v for k, v in label.items() if k in moved}


def as_if_made(target: str, labels: list[dict[str, Any]], recipe: str, source: str) -> None:
    """Parts of two labels each, as workers write them."""
    rows = {row["query_id"]: row for row in read_queries(source)}
    for i in range(0, len(labels), 2):
        part = labels[i : i + 2]
        LabelParts(target, recipe).add(part, [key(rows[label["query_id"]], recipe) for label in part])


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The file system of an object store with the bucket `fleet`."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    environ = {"AWS_ENDPOINT_URL": "http://{}:{}".format(*server.get_host_and_port())}
    environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    store = fsspec.filesystem("s3")
    type(store).clear_instance_cache()  # another test's bucket was behind another address
    store = fsspec.filesystem("s3")
    store.mkdir("fleet")
    yield store
    type(store).clear_instance_cache()
    server.stop()


def test_two_workers_make_the_labels_of_one_process(
    on_ray: Run, bucket: Any, tmp_path: Path, tiny_gguf: Path, other_tiny_gguf: Path, in_one_process: list[Any]
) -> None:
    put_queries(queries(), "s3://fleet/queries")
    done = on_ray("s3://fleet/queries", "s3://fleet/labels", tiny_gguf, other_tiny_gguf)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == {"labelled": 6, "were_there": 0, "unfinished": 0}
    bucket.get("fleet/labels/", f"{tmp_path / 'labels'}/", recursive=True)
    found = by_id(read_labels(tmp_path / "labels"))  # which checks the format in each file's metadata
    for (exact, near), (exactly, nearly) in zip(map(parted, found), map(parted, in_one_process), strict=True):
        assert exact == exactly
        assert [near[name] for name in nearly] == [pytest.approx(value, abs=1e-3) for value in nearly.values()]
    assert len({label["n_sets_local"] for label in found}) > 1, "expected answers that are met again, and others"
    assert len(list((tmp_path / "labels").glob("*.parquet"))) == len(queries()) / FLEET.batch_rows


def test_a_workers_error_is_one_sentence(on_ray: Run, source: str, tmp_path: Path, tiny_gguf: Path) -> None:
    (tmp_path / "no.gguf").write_bytes(b"GGUF nonsense")
    failed = on_ray(source, tmp_path / "labels", tiny_gguf, tmp_path / "no.gguf")
    sentence = failed.stderr.strip().splitlines()[-1]
    assert failed.returncode == 1
    assert sentence.startswith("a worker failed: ") and "no.gguf: llama.cpp cannot load this model" in sentence
    assert sentence.endswith("what is labelled is kept, run it again")


def test_when_all_have_labels_nothing_is_started(
    source: str, tmp_path: Path, tiny_gguf: Path, other_tiny_gguf: Path, in_one_process: list[Any]
) -> None:
    """This environment has no Ray to start."""
    made, target = stages(tiny_gguf, other_tiny_gguf), str(tmp_path / "labels")
    as_if_made(target, in_one_process, made.recipe, source)
    assert relabel(source, target, made, FLEET) == Relabelled(labelled=0, were_there=6, unfinished=0)
    assert by_id(list(LabelParts(target, made.recipe).rows())) == in_one_process


def test_without_ray_the_extra_is_named(source: str, tmp_path: Path, tiny_gguf: Path, other_tiny_gguf: Path) -> None:
    with pytest.raises(EdgeAgentError, match=r"pip install 'edge-agent\[fleet\]'"):
        relabel(source, str(tmp_path / "labels"), stages(tiny_gguf, other_tiny_gguf), FLEET)


def test_labels_of_queries_that_are_gone_go_and_second_ones_too(
    source: str, tmp_path: Path, tiny_gguf: Path, other_tiny_gguf: Path, in_one_process: list[Any]
) -> None:
    made, target = stages(tiny_gguf, other_tiny_gguf), str(tmp_path / "labels")
    as_if_made(target, in_one_process, made.recipe, source)
    as_if_made(target, in_one_process[1:3], made.recipe, source)
    gone = in_one_process[0]["query_id"]
    put_queries([query for query in queries() if query.id != gone], source)
    assert relabel(source, target, made, FLEET) == Relabelled(labelled=0, were_there=5, unfinished=0)
    assert by_id(read_labels(tmp_path / "labels")) == in_one_process[1:]


def test_labels_made_otherwise_are_never_mixed(
    source: str, tmp_path: Path, tiny_gguf: Path, other_tiny_gguf: Path, in_one_process: list[Any]
) -> None:
    made, target = stages(tiny_gguf, other_tiny_gguf), str(tmp_path / "labels")
    as_if_made(target, in_one_process, made.recipe, source)
    with pytest.raises(EdgeAgentError, match=r"expected labels of the same models.*choose another target"):
        relabel(source, target, replace(made, recipe="other"), FLEET)
    assert all(label["format"] == FORMAT for label in read_labels(tmp_path / "labels"))


@pytest.mark.parametrize("there", [False, True])
def test_a_source_without_queries_is_named(there: bool, tmp_path: Path, in_one_process: list[Any]) -> None:
    if there:
        LabelParts(str(tmp_path), "x").add(in_one_process, ["k"] * len(in_one_process))
    with pytest.raises(EdgeAgentError, match="write .*with put_queries"):
        list(read_queries(str(tmp_path)))
