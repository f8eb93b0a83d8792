"""Which model was right on which question: from made-up files, and the printed counts of the published ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_agent.task_type import task_type
from edge_agent.training.evaluation import apgr, cpt, interval, pgr_curve, random_apgr_sd, random_figures
from edge_agent.training.outcomes import (
    OutcomeSet,
    Price,
    multiple_choice,
    read_labels,
    read_published,
    without_generated,
)
from tests.training.outcome_files import N_GSM8K, N_MMLU, N_MT_BENCH, N_OWN, N_PUBLIC, write_data, write_labels

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("EDGE_AGENT_DATA", ROOT.parent / "shared" / "data"))
needs_data = pytest.mark.skipif(
    not (DATA / "routellm").is_dir(), reason=f"{DATA} has no routellm/; set EDGE_AGENT_DATA to the data folder"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("outcomes") / "data")


@pytest.fixture(scope="module")
def labels(data: Path) -> Path:
    return write_labels(data.parent / "labels", data)


@pytest.fixture(scope="module")
def published() -> dict[str, OutcomeSet]:
    return {one.name: one for one in read_published(DATA)}


def test_contaminated_prompts_are_left_out_and_counted(data: Path) -> None:
    sets = read_published(data)
    assert {one.name: len(one.texts) for one in sets} == {"MT-Bench": N_MT_BENCH, "GSM8K": N_GSM8K, "MMLU": N_MMLU}
    assert all(one.left_out == {"in RouteLLM's training data": 1} and one.is_published for one in sets)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Why?\nA. one\nB. two\nC. x\nD. y\nAnswer:", "Why?\nA) one\nB) two\nC) x\nD) y"),
        ("See: i.\nii. A. or\nB?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:", "See: i.\nii. A. or\nB?\nA) 1\nB) 2\nC) 3\nD) 4"),
    ],
)
def test_choices_are_shown_as_in_our_own_questions(prompt: str, expected: str) -> None:
    assert multiple_choice(prompt) == expected


def test_a_label_set_gives_its_graded_rows_with_data_set_and_task_as_groups(labels: Path, data: Path) -> None:
    found = read_labels(labels, data)
    assert len(found.texts) == N_OWN + N_PUBLIC - 2 and found.left_out == {"not graded": 2}
    assert found.models == ("small", "large") and "mawps" in found.groups and "own: arithmetic" in found.groups
    assert found.log_likelihood is not None and set(found.log_likelihood) == {-0.1, -0.4}


def test_generated_questions_can_be_left_out(labels: Path, data: Path) -> None:
    found = without_generated(read_labels(labels, data))
    assert set(found.groups) == {"mawps"} and len(found.texts) == len(found.weak) == N_PUBLIC
    assert found.left_out == {"not graded": 2, "made by our generator": N_OWN - 2}


def test_costs_are_tokens_times_prices(labels: Path, data: Path) -> None:
    found = read_labels(labels, data)
    costs = found.outcomes(Price(0, 0), Price(1, 10))
    assert costs.local_cost is not None and costs.cloud_cost is not None and not costs.local_cost.any()
    assert costs.cloud_cost[0] * 1e6 == pytest.approx(len(found.texts[0]) / 4 + 8 * 10)


@pytest.mark.parametrize(
    ("read", "error"),
    [
        (lambda labels, data: read_published(data / "nowhere"), "mt_bench__question.jsonl.*--data or EDGE_AGENT_DATA"),
        (lambda labels, data: read_labels(labels, data / "nowhere"), "question files.*--data or EDGE_AGENT_DATA"),
        (lambda labels, data: read_labels(data, data), "expected a label set.*--labels"),
    ],
)
def test_what_is_not_there_is_named_with_its_setting(
    read: Callable[[Path, Path], object], error: str, labels: Path, data: Path
) -> None:
    with pytest.raises(FileNotFoundError, match=error):
        read(labels, data)


def test_a_split_without_graded_rows_is_refused(labels: Path, data: Path) -> None:
    with pytest.raises(ValueError, match="graded rows in the split dev, found 0 rows"):
        read_labels(labels, data, split="dev")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write a Python function that merges two lists.", "code"),
        ("What does this print?\nprint(3)", "code"),
        ("What is 48 * 17?", "maths"),
        ("Anna has 3 boxes of 12 eggs. How many eggs has she?", "maths"),
        ("If all birds fly and a penguin is a bird, what can we conclude?", "reasoning"),
        ("Turn on the light in the kitchen.", "other"),
        ("Who painted the Mona Lisa?", "other"),
        ("", "other"),
    ],
)
def test_the_task_type_is_told_from_the_text_alone(text: str, expected: str) -> None:
    assert task_type(text) == expected


# The published outcomes: figures that were printed by others or computed by hand (E15)


@needs_data
@pytest.mark.parametrize(
    ("name", "n", "strong", "weak", "cells"),
    [
        ("MMLU", 14037, 0.805870, 0.680915, (2496, 10799, 742)),
        ("GSM8K", 1307, 0.857689, 0.637337, (382, 831, 94)),
        ("MT-Bench", 72, 9.211806, 8.281250, (37, 28, 7)),
    ],
)
def test_published_counts_come_out(
    name: str, n: int, strong: float, weak: float, cells: tuple[int, ...], published: dict[str, OutcomeSet]
) -> None:
    one = published[name]
    gain = one.strong - one.weak
    assert (len(one.texts), one.strong.mean(), one.weak.mean()) == pytest.approx((n, strong, weak), abs=1e-6)
    assert ((gain > 0).sum(), (gain == 0).sum(), (gain < 0).sum()) == cells


@needs_data
@pytest.mark.parametrize(
    ("name", "score", "figures"),
    [
        ("MMLU", "oracle", (1.2853, 6.25, 10.00)),
        ("GSM8K", "oracle", (1.1208, 11.02, 17.63)),
        ("MT-Bench", "oracle", (0.9639, 8.18, 17.08)),
        ("MMLU", "words", (0.589, 34.5, 69.9)),
        ("GSM8K", "words", (0.595, 35.7, 68.4)),
        ("MT-Bench", "words", (0.567, 36.1, 75.1)),
        ("MT-Bench", "task type", (0.670, 25.7, 57.2)),
    ],
)
def test_oracle_word_count_and_task_type_come_out(
    name: str, score: str, figures: tuple[float, ...], published: dict[str, OutcomeSet]
) -> None:
    one = published[name]
    by_words = np.array([float(len(text.split())) for text in one.texts])
    scores = {"oracle": one.strong - one.weak, "words": by_words, "task type": np.asarray(one.hard, dtype=float)}
    curve = pgr_curve(scores[score], one.weak, one.strong)
    places = 4 if score == "oracle" else 3
    assert round(apgr(curve), places) == pytest.approx(figures[0], abs=0.6 * 10**-places)
    assert (cpt(curve, 0.5), cpt(curve, 0.8)) == pytest.approx(figures[1:], abs=0.051)


@needs_data
@pytest.mark.parametrize(
    ("name", "sd", "cpt50", "cpt80"),
    [("GSM8K", 0.0204, (42.6, 56.1), (73.8, 84.8)), ("MT-Bench", None, (29.2, 70.8), (58.3, 94.4))],
)
def test_the_band_of_random_routers_comes_out(
    name: str,
    sd: float | None,
    cpt50: tuple[float, float],
    cpt80: tuple[float, float],
    published: dict[str, OutcomeSet],
) -> None:
    outcomes = published[name].outcomes(Price(0, 0), Price(0, 0))
    found = random_figures(outcomes, routers=400, names=["cpt50", "cpt80", "apgr"])
    assert sd is None or random_apgr_sd(outcomes.weak, outcomes.strong) == pytest.approx(sd, abs=5e-5)
    assert interval(found["cpt50"]) == pytest.approx(cpt50, abs=2.5)  # both bands are of some random routers
    assert interval(found["cpt80"]) == pytest.approx(cpt80, abs=2.5)


@needs_data
def test_the_closed_form_of_the_random_band_on_mmlu(published: dict[str, OutcomeSet]) -> None:
    assert random_apgr_sd(published["MMLU"].weak, published["MMLU"].strong) == pytest.approx(0.0090, abs=5e-5)
