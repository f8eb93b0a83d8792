"""tools/relabel.py through its door: real processes, two tiny GGUFs, a tiny entailment model."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edge_agent.training.clusterings import NAMES, clustering
from edge_agent.training.label_queries import read_questions
from edge_agent.training.label_rows import FORMAT, read_labels
from edge_agent.training.questions import generate
from edge_agent.training.semantic_entropy import discrete_entropy
from tests.daemon_process import TOKEN, DaemonProcess
from tests.tiny_entailment import make_tiny_entailment

ROOT = Path(__file__).parents[2]
Relabel = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def command(tmp_path: Path, tiny_gguf: Path, other_tiny_gguf: Path) -> list[str]:
    """Relabels six of our own questions with two tiny models."""
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps(question.to_row()) + "\n" for question in generate(6, seed=3)))
    models = make_tiny_entailment(tmp_path / "entailment")
    return [
        sys.executable, str(ROOT / "tools" / "relabel.py"), "--questions", str(questions), "--output",
        str(tmp_path / "labels"), "--local", str(tiny_gguf), "--cloud", str(other_tiny_gguf), "--n", "4",
        "--entailment", str(models), "--threads", "1",
    ]  # fmt: skip


def environ(tmp_path: Path) -> dict[str, str]:
    return os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "KEY": TOKEN}


@pytest.fixture
def relabel(tmp_path: Path, command: list[str]) -> Relabel:
    def run(*more: str, code: int = 0, stdin: str = "") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*command, *more], env=environ(tmp_path), input=stdin, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == code, done.stderr
        return done

    return run


def labels(tmp_path: Path) -> list[dict[str, Any]]:
    return read_labels(tmp_path / "labels" / "labels.parquet")


def test_every_question_gets_a_label_from_both_models_answers(relabel: Relabel, tmp_path: Path) -> None:
    done = relabel()
    rows = labels(tmp_path)
    assert sorted(row["query_id"] for row in rows) == sorted(question.id for question in generate(6, seed=3))
    for row in rows:
        assert (row["format"], row["clustering"], row["dataset"]) == (FORMAT, "value+entailment", "own")
        assert row["text"]
        for side in ("local", "cloud"):
            assert len(row[f"semantic_ids_{side}"]) == 4
            assert row[f"entropy_{side}"] == pytest.approx(discrete_entropy(row[f"semantic_ids_{side}"]))
            assert all(math.isfinite(value) for value in row[f"log_likelihoods_{side}"])
        assert 0 <= row["strong_wins_soft"] <= 1 and row["target"] is not None
    assert "6 labels" in done.stdout and "tie" in done.stdout and "6/6" in done.stderr
    assert "set_embeddings" not in done.stderr, "llama.cpp talks"
    assert (tmp_path / "labels" / "entropies.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "labels" / "summary.json").read_text())["rows"] == 6


def test_a_rerun_does_nothing_and_another_rule_samples_nothing(relabel: Relabel, tmp_path: Path) -> None:
    relabel()
    before = (tmp_path / "labels" / "labels.parquet").stat()
    assert "nothing to do" in relabel().stdout
    assert (tmp_path / "labels" / "labels.parquet").stat().st_mtime_ns == before.st_mtime_ns
    again = relabel("--rule", "paper")
    assert "queries to sample" not in again.stderr and {row["rule"] for row in labels(tmp_path)} == {"paper"}


def test_killed_at_any_point_it_goes_on_where_it_was(relabel: Relabel, command: list[str], tmp_path: Path) -> None:
    kept = 0
    for _ in range(3):
        process = subprocess.Popen(command, env=environ(tmp_path), stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while process.poll() is None and journal_lines(tmp_path) <= kept and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert journal_lines(tmp_path) >= kept
        kept = journal_lines(tmp_path)
    relabel()
    assert len(labels(tmp_path)) == 6 and journal_lines(tmp_path) == 12, "each query once for each model"


def journal_lines(tmp_path: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in (tmp_path / "cache").rglob("journal.jsonl"))


def test_a_server_plays_the_cloud_once_the_user_agrees(
    relabel: Relabel, tmp_path: Path, cloud_daemon: DaemonProcess
) -> None:
    url = f"http://127.0.0.1:{cloud_daemon.port}/v1#local"
    server = ["--cloud", url, "--key-env", "KEY", "--price-output", "1000"]
    refused = relabel(*server, code=1, stdin="n\n")
    assert "answered, at most" in refused.stderr and not (tmp_path / "labels").exists()
    relabel(*server, "--yes")
    rows = labels(tmp_path)
    assert len(rows) == 6 and {row["model_cloud"] for row in rows} == {"local"}
    assert {row["entropy_likelihood_cloud"] for row in rows} == {None}, "the daemon tells no log-probabilities"


def test_a_judge_elsewhere_is_asked_once_the_user_agrees(relabel: Relabel, tmp_path: Path) -> None:
    relabel("--clustering", "exact")
    judged = relabel("--clustering", "judge", "--judge", "http://127.0.0.1:1/v1#wise", code=1, stdin="n\n")
    assert "wise judges pairs of answers" in judged.stderr and "leave this machine" in judged.stderr


def test_a_cost_limit_keeps_what_was_paid_for(relabel: Relabel, tmp_path: Path, cloud_daemon: DaemonProcess) -> None:
    url = f"http://127.0.0.1:{cloud_daemon.port}/v1#local"
    server = ["--cloud", url, "--key-env", "KEY", "--price-output", "1000", "--yes"]
    limited = relabel(*server, "--max-cost", "0.5", code=1)
    assert "lack samples (cost limit); raise --max-cost" in limited.stderr
    assert 0 < len(labels(tmp_path)) < 6
    relabel(*server)
    assert len(labels(tmp_path)) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--mix", "5"], "expected one of --inbox, --questions and --mix"),
        (["--cloud", "http://127.0.0.1:1/v1"], "expected URL#model"),
        (["--cloud", "http://127.0.0.1:1/v1#m", "--key-env", "UNSET"], "the variable UNSET is not set"),
        (["--local", "missing.gguf"], "missing.gguf"),
        (["--clustering", "judge"], "name one with --judge URL#model"),
        (["--entailment", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_sentence(relabel: Relabel, change: list[str], message: str) -> None:
    done = relabel(*change, code=1)
    assert message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("option", ["--max-cost", "--price-input", "--threads", "--mix"])
def test_a_number_below_what_can_be_is_refused(relabel: Relabel, option: str) -> None:
    assert f"Invalid value for '{option}'" in relabel(option, "-1", code=2).stderr


@pytest.mark.parametrize(("line", "found"), [("{", "line 1"), ('{"text": "x"}', "line 1"), ("", "found none")])
def test_a_bad_questions_file_is_named(relabel: Relabel, tmp_path: Path, line: str, found: str) -> None:
    (tmp_path / "questions.jsonl").write_text(line)
    done = relabel(code=1)
    assert found in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, "line 2: asks the same as line 1"),
        ({"grader": "guess"}, "line 2: .*grader: expected one of"),
        ({"answers": "12"}, "line 2: .*answers: expected a list of texts"),
        ({"text": 5, "id": "x"}, "line 2: "),
    ],
)
def test_a_question_that_cannot_be_graded_is_refused_before_anything_is_asked(
    tmp_path: Path, change: dict[str, Any], found: str
) -> None:
    first = generate(1, seed=3)[0].to_row()
    (tmp_path / "questions.jsonl").write_text(f"{json.dumps(first)}\n{json.dumps(first | change)}\n")
    with pytest.raises(ValueError, match=found):
        read_questions(tmp_path / "questions.jsonl")


def test_labels_of_another_format_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"query_id": ["a"]}), tmp_path / "labels.parquet")
    with pytest.raises(ValueError, match=f"expected labels of format {FORMAT}, found nothing"):
        read_labels(tmp_path / "labels.parquet")
    (tmp_path / "labels.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(ValueError, match="cannot be read as Parquet"):
        read_labels(tmp_path / "labels.parquet")


def test_the_models_that_ship_are_found() -> None:
    models = ROOT / "router_models"
    assert {clustering(name, models=models).name for name in NAMES if "judge" not in name} == {
        name for name in NAMES if "judge" not in name
    }
