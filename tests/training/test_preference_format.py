"""Other people's labels: RouteLLM's row format."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edge_agent.training.preference_format import read_preferences


def row(a: str, b: str, winner: str, prompt: str = "Which is larger?") -> dict[str, Any]:
    won = {f"winner_{name}": int(name == winner) for name in ("model_a", "model_b", "tie")}
    return {"id": 1, "model_a": a, "model_b": b, "prompt": prompt, "response_a": "x", "response_b": "y", **won}


ROWS = [
    row("small", "large", "model_b", "one"),
    row("large", "small", "model_b", "two"),
    row("small", "large", "tie", json.dumps(["first turn", "last turn"])),
    row("small", "other", "model_a", "left out"),
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_the_winner_is_told_from_whichever_side_the_models_are_on(tmp_path: Path, suffix: str) -> None:
    labels = read_preferences(write(tmp_path / f"battles{suffix}", ROWS), weak=["small"], strong=["large"])
    assert [(label.text, label.cloud_wins, label.weak) for label in labels] == [
        ("one", 1.0, 0.0), ("two", 0.0, 1.0), ("last turn", 0.5, 0.5),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"winner_tie": 1}, r"row 1: expected 1 in one of winner_model_a, .*'winner_tie': 1"),
        ({"winner_model_b": 0}, "row 1: expected 1 in one of"),
        ({"winner_model_b": "yes"}, "row 1: expected 1 in one of"),
        ({"prompt": None}, r"row 1: expected the columns .* lacks \['prompt'\]"),
        ({"model_a": "medium"}, "found the models large, medium"),
    ],
)
def test_a_row_that_says_no_winner_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "battles.jsonl", [ROWS[0] | change])
    with pytest.raises(ValueError, match=message):
        read_preferences(path, weak=["small"], strong=["large"])


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected preferences as .csv, .jsonl or .parquet, found .xlsx"):
        read_preferences(tmp_path / "battles.xlsx", weak=["a"], strong=["b"])
