"""tools/evaluate_router.py, from data files to a page: what it writes, what it remembers, what it refuses."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.router import Encoder, RouterModel
from edge_agent.training import evaluation_run as run
from edge_agent.training.evaluation_ledger import fingerprint, read_ledger, record
from edge_agent.training.evaluation_page import page, shown
from edge_agent.training.evaluation_report import MORE_WORDS, ORACLE, QUESTIONS, Router, Settings, baselines, report
from edge_agent.training.outcomes import OutcomeSet, read_labels, read_published
from edge_agent.training.published_results import SETS, published_rows
from tests.training.outcome_files import write_data, write_labels

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("EDGE_AGENT_DATA", ROOT.parent / "shared" / "data"))
needs_data = pytest.mark.skipif(
    not (DATA / "routellm").is_dir(), reason=f"{DATA} has no routellm/; set EDGE_AGENT_DATA to the data folder"
)
NOW = "2026-01-01T00:00:00Z"
SETTINGS = Settings(resamples=40)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("evaluate") / "data")


@pytest.fixture(scope="module")
def labels(data: Path) -> Path:
    return write_labels(data.parent / "labels", data)


@pytest.fixture(scope="module")
def sets(data: Path, labels: Path) -> list[OutcomeSet]:
    return [*read_published(data), read_labels(labels, data)]


def features(texts: Any) -> run.Features:
    return np.array([[len(text.split()), len(text)] for text in texts], dtype=np.float32)


def scorer(name: str, column: int, n_train: int, *, is_shipped: bool = False, is_partial: bool = False) -> run.Scorer:
    router = Router(name, "correctness", "logreg", n_train, f"sha-{name}", is_shipped, is_partial)
    return run.Scorer(router, lambda rows: rows[:, column] / 1000)


SCORERS = [scorer("ours", 0, 200, is_shipped=True), scorer("few", 1, 100, is_partial=True), scorer("many", 1, 200)]


@pytest.fixture(scope="module")
def docs(sets: list[OutcomeSet], tmp_path_factory: pytest.TempPathFactory) -> Path:
    docs = tmp_path_factory.mktemp("docs")
    run.evaluate(sets, SCORERS, features, docs, SETTINGS, now_utc=NOW)
    return docs


def row_of(numbers: Any, name: str, router: str) -> dict[str, Any]:
    (one,) = (one for one in numbers["sets"] if one["name"] == name)
    (row,) = (row for row in one["rows"] if row["name"] == router)
    return dict(row)


def tool(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "evaluate_router.py"), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environ}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def test_a_router_that_counts_words_equals_the_word_count(docs: Path) -> None:
    row, words = (row_of(run.read_numbers(docs), "MMLU", name) for name in ("ours", MORE_WORDS))
    assert row["figures"] == words["figures"]
    assert row["over"]["words"]["apgr"] == [0.0, 0.0, 0.0]


def test_every_baseline_has_a_row_and_every_figure_an_interval(docs: Path, sets: list[OutcomeSet]) -> None:
    numbers = run.read_numbers(docs)
    own = {row["name"] for row in numbers["sets"][-1]["rows"]}
    assert own == {*baselines(sets[-1]), "ours", "few", "many"}
    value, low, high = row_of(numbers, "GSM8K", MORE_WORDS)["figures"]["apgr"]
    assert low < value < high
    band = numbers["sets"][1]["random"]["figures"]
    assert band["cpt80"][1] < 80 < band["cpt80"][2] and band["apgr"][0] == pytest.approx(0.5, abs=0.05)


def test_the_page_names_published_rows_as_such_and_the_shipped_router(docs: Path) -> None:
    text = (docs / run.PAGE).read_text()
    assert "| *as published, arXiv 2502.11021: Confidence-Driven SW* | 27.31 | 55.61 |" in text
    assert "| **ours** (200 samples) |" in text and "over words" in text
    assert "2 routers were ever scored on the published sets" in text


def test_figures_are_there_as_pictures_and_as_numbers(docs: Path) -> None:
    folder = docs / "evaluation"
    pictures = {path.name for path in folder.glob("*.png")}
    assert pictures >= {"curve-mmlu.png", "scores-gsm8k.png", "curve-our-pair.png", "samples.png"}
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    with (folder / "curve-mmlu.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["router"] == ORACLE]
    assert [float(rows[i]["cloud_share"]) for i in (0, -1)] == [0, 1]
    assert (folder / "histogram-gsm8k.csv").read_text().startswith("from,to,cloud_better,equal,local_better\n")


def test_what_was_trained_on_a_part_is_in_a_figure_and_sees_no_published_set(docs: Path) -> None:
    sets = {one["name"]: one["rows"] for one in run.read_numbers(docs)["sets"]}
    assert [name for name, rows in sets.items() if "few" in {row["name"] for row in rows}] == ["our pair"]
    assert "few" not in {row["name"] for row in shown(sets["our pair"])}
    with (docs / "evaluation" / "samples.csv").open() as file:
        samples = [(row["set"], row["n_train"]) for row in csv.DictReader(file)]
    assert {("our pair", "100"), ("our pair", "200")} <= set(samples)


def test_the_page_is_held_to_the_numbers(docs: Path, tmp_path: Path) -> None:
    assert run.check(docs) is None
    assert tool("--check", "--docs", str(docs)).returncode == 0
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / run.NUMBERS).write_bytes((docs / "evaluation" / run.NUMBERS).read_bytes())
    (tmp_path / run.PAGE).write_text((docs / run.PAGE).read_text().replace("27.31", "27.32"))
    found = tool("--check", "--docs", str(tmp_path))
    assert found.returncode == 1 and "27.32" in found.stderr and "expected" in found.stderr


@pytest.mark.parametrize(
    ("numbers", "problem"),
    [
        (b"{", "expected JSON, found something else"),
        (b"\xff", "expected JSON, found something else"),
        (b"[]", "expected an object with sets"),
        (b'{"sets": [5]}', "expected this tool's numbers"),
    ],
)
def test_numbers_that_are_none_are_told(tmp_path: Path, numbers: bytes, problem: str) -> None:
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / run.NUMBERS).write_bytes(numbers)
    (tmp_path / run.PAGE).touch()
    with pytest.raises(ValueError, match=f"{run.NUMBERS}: {problem}.*; take it from the repository"):
        run.check(tmp_path)


def test_sets_that_are_not_run_again_stay(sets: list[OutcomeSet], tmp_path: Path) -> None:
    run.evaluate(sets[:1], SCORERS[:1], features, tmp_path, SETTINGS, now_utc=NOW)
    numbers = run.evaluate(sets[3:], SCORERS[:2], features, tmp_path, SETTINGS, now_utc=NOW)
    assert [one["name"] for one in numbers["sets"]] == ["MT-Bench", "our pair"]
    assert numbers["configurations"] == 1, "the second router saw only our own pair"


def test_a_router_is_remembered_once(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    record(path, [("a", "1"), ("b", "2")], NOW)
    found = record(path, [("a again", "1"), ("c", "3"), ("c too", "3")], "later")
    assert [(entry.name, entry.first_scored_utc) for entry in found] == [("a", NOW), ("b", NOW), ("c", "later")]
    assert read_ledger(path) == found


def test_a_ledger_that_is_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ledger.json").write_text("[3]")
    with pytest.raises(ValueError, match=r"ledger\.json: expected a list of configurations"):
        record(tmp_path / "ledger.json", [("a", "1")], NOW)


def test_a_fingerprint_is_of_what_a_head_says() -> None:
    weight = np.linspace(-1, 1, 8)
    same, other = (fingerprint(lambda rows, w=w: rows @ w, 8) for w in (weight * (1 + 1e-9), weight + 0.1))
    assert fingerprint(lambda rows: rows @ weight, 8) == same != other


@pytest.mark.parametrize("scores", [np.ones(3), np.full(16, np.nan)])
def test_scores_that_are_none_are_refused_before_anything_is_written(
    scores: Any, sets: list[OutcomeSet], tmp_path: Path
) -> None:
    broken = run.Scorer(SCORERS[0].router, lambda rows: scores)
    with pytest.raises(ValueError, match="router ours: expected 16 scores, found"):
        run.evaluate(sets[:1], [broken], features, tmp_path, SETTINGS, now_utc=NOW)
    assert not (tmp_path / run.PAGE).exists()


def test_a_set_whose_strong_model_is_worse_has_a_reason_and_no_figures(sets: list[OutcomeSet]) -> None:
    one = sets[2]
    worse = OutcomeSet("upside down", one.texts, one.strong, one.weak, one.groups, one.models, one.weak_tokens,
                       one.strong_tokens, one.tokens_are, one.origin, {})  # fmt: skip
    numbers = {"settings": run.asdict(SETTINGS), "configurations": 0, "has_samples_figure": False}
    found = report(worse, [], SETTINGS)
    assert "expected the strong model to be better, found it worse" in page({**numbers, "sets": [found]})


def test_the_same_seed_gives_the_same_numbers(sets: list[OutcomeSet]) -> None:
    first, again = (report(sets[1], [], SETTINGS) for _ in range(2))
    assert first == again and first != report(sets[1], [], Settings(resamples=40, seed=1))


def test_costs_are_for_a_thousand_questions(sets: list[OutcomeSet]) -> None:
    one = sets[1]
    words = np.mean([len(text) / 4 for text in one.texts])
    expected = QUESTIONS * (10 * words + 30 * 20) / 1e6
    assert report(one, [], SETTINGS)["cost_always_cloud"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", SETS)
def test_both_papers_have_nine_rows_a_set(name: str) -> None:
    rows = published_rows(name)
    assert [sum(row.paper.endswith(paper) for row in rows) for paper in ("2502.11021", "2406.18665")] == [9, 9]
    assert all(13 < row.cpt50 < row.cpt80 < 91 for row in rows) and published_rows("our pair") == []


def test_the_tool_scores_a_bundle_and_every_candidate_and_says_how_many(
    data: Path, tiny_router: Path, tmp_path: Path
) -> None:
    model = RouterModel.load(tiny_router)
    directory = (model.path / model.card.encoder).resolve()
    encoder = Encoder(directory, inputs=model.card.encoder_inputs, max_tokens=model.card.max_tokens)
    labels = write_labels(tmp_path / "labels", data, (directory.name, encoder.embed))
    arguments = ("--labels", str(labels), "--bundle", str(tiny_router), "--resamples", "4", "--docs", str(tmp_path))
    found = tool(*arguments, EDGE_AGENT_DATA=str(data), XDG_CACHE_HOME=str(tmp_path))
    assert found.returncode == 0, found.stderr
    ledger = read_ledger(tmp_path / "evaluation" / run.LEDGER)
    assert f"{len(ledger)} routers were ever scored" in found.stdout and ledger[0].name == "shipped (tiny-1)"
    assert len(ledger) > 20 and not any("samples" in entry.name for entry in ledger)
    numbers = json.loads((tmp_path / "evaluation" / run.NUMBERS).read_text())
    names = ["MT-Bench", "GSM8K", "MMLU", "our pair", "our pair, public questions"]
    assert [one["name"] for one in numbers["sets"]] == names and numbers["has_samples_figure"]


def test_the_tool_names_the_setting_of_a_folder_that_is_not_there(tmp_path: Path) -> None:
    found = tool("--data", str(tmp_path), "--routers", "none", "--docs", str(tmp_path))
    assert found.returncode == 1
    assert "--data or EDGE_AGENT_DATA" in found.stderr and "Traceback" not in found.stderr


def test_the_page_that_is_shipped_says_what_its_numbers_say() -> None:
    assert run.check(ROOT / "docs") is None
    text, numbers = (ROOT / "docs" / run.PAGE).read_text(), run.read_numbers(ROOT / "docs")
    ledger = read_ledger(ROOT / "docs" / "evaluation" / run.LEDGER)
    assert numbers["configurations"] == len(ledger)
    pictures = [line.split("](")[1].rstrip(")") for line in text.splitlines() if line.startswith("![")]
    assert pictures and all((ROOT / "docs" / name).is_file() for name in pictures)


@needs_data
@pytest.mark.parametrize("name", ["MT-Bench", "GSM8K"])
def test_the_numbers_of_the_page_come_out_again(name: str) -> None:
    numbers = run.read_numbers(ROOT / "docs")
    (one,) = (one for one in read_published(DATA) if one.name == name)
    (expected,) = (one for one in numbers["sets"] if one["name"] == name)
    found = report(one, [], Settings(numbers["settings"]["resamples"], numbers["settings"]["seed"]))
    rows = {row["name"]: row for row in expected["rows"]}
    for row in found["rows"]:
        for figure, values in row["figures"].items():
            known = rows[row["name"]]["figures"][figure]
            assert values == pytest.approx(known, abs=2e-4, rel=1e-4), (row["name"], figure)
