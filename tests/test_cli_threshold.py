"""`edge-agent threshold` on real logs, a real label set and a real bundle, all tiny."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_agent.cli import main
from edge_agent.config import load_config
from edge_agent.decision_log import open_for_writing
from edge_agent.guarantee_facts import facts_in_use
from edge_agent.guarantees import Guarantee, void_reason
from edge_agent.router import Encoder, RouterModel
from edge_agent.router_card import read_card
from edge_agent.types import Completion, Decision, Exchange, Message, Query, new_id, utc_now
from tests.daemon_process import environment, write_config
from tests.log_rows import write_log
from tests.tiny_router import INPUTS, edit_card, replace_file

NOW = datetime.now(timezone.utc)


@dataclass
class Shown:
    code: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        return json.loads(self.out)


@dataclass
class Device:
    """A directory with a config, a log and a router of its own."""

    config: Path
    log: Path
    bundle: Path
    gguf: Path
    run: Callable[..., Shown]


@pytest.fixture
def device(
    tmp_path: Path,
    tiny_gguf: Path,
    tiny_router: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Device:
    shutil.copytree(tiny_router.parent, tmp_path / "router_models", symlinks=True)
    bundle = tmp_path / "router_models" / "current"
    add_acceptable(bundle)
    config = write_config(tmp_path, {}, tiny_gguf, bundle)
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("EDGE_AGENT_CONFIG", raising=False)

    def run(*arguments: str, json_out: bool = True) -> Shown:
        words = ["threshold", "--config", str(config), *arguments, *(["--json"] if json_out else [])]
        code = main(words)
        return Shown(code, *capsys.readouterr())

    return Device(config, tmp_path / "log.db", bundle, tiny_gguf, run)


def add_acceptable(bundle: Path) -> None:
    """A second head: 1 - score."""
    model = onnx.load(bundle / "head.onnx")
    model.graph.initializer.append(numpy_helper.from_array(np.array(1, np.float32), "whole"))
    model.graph.node.append(helper.make_node("Sub", ["whole", "score"], ["acceptable"]))
    model.graph.output.append(helper.make_tensor_value_info("acceptable", TensorProto.FLOAT, ["batch", 1]))
    replace_file(bundle, "head.onnx", model.SerializeToString())
    edit_card(bundle, heads={"score": "cloud better", "acceptable": "local good enough"})


def exchange(score: float | None, *, days_ago: float = 1.0, route: Any = "local", **facts: Any) -> Exchange:
    """An answered question; `facts` of the decision, the query or the completion."""
    created = (NOW - timedelta(days=days_ago)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    query = Query((Message("user", "hi"),), created_utc=created, wish=facts.pop("wish", "auto"),
                  private=facts.pop("private", False))  # fmt: skip
    decision = Decision(route, facts.pop("reason", "below_threshold"), score, 0.5, facts.pop("version", "tiny-1"),
                        acceptable=facts.pop("acceptable", None))  # fmt: skip
    completion = Completion(
        "hello", facts.pop("model", "tiny"), "stop", facts.pop("input", 1000), facts.pop("output", 500)
    )
    assert not facts
    return Exchange(query, decision, completion)


def rate(path: Path, ids: Iterable[str], ratings: Iterable[str]) -> None:
    """Feedback on a log nobody else writes."""
    with closing(open_for_writing(path)) as connection, connection:
        for id_, rating in zip(ids, ratings, strict=True):
            connection.execute(
                "INSERT INTO feedback (id, exchange_id, rating, created_utc) VALUES (?, ?, ?, ?)",
                [new_id(), id_, rating, utc_now()],
            )


def hundred(path: Path, **facts: Any) -> list[str]:
    """Scores .01 to 1, one a question; the last fifty are older than a week."""
    return write_log(path, [exchange(i / 100, days_ago=1 if i <= 50 else 10, **facts) for i in range(1, 101)])


# By share and money


def test_a_share_of_the_log_goes_to_the_cloud(device: Device) -> None:
    hundred(device.log)
    shown = device.run("--cloud-share", ".2").value
    assert shown["config"] == {"router": {"threshold": 0.81}}
    assert shown["chosen"]["cloud_share"] == pytest.approx(0.2)
    assert shown["chosen"]["last_week"] == {"questions": 50, "escalated": 0, "cost": None}
    now = next(row for row in shown["candidates"] if row["now"])
    assert (now["threshold"], now["last_week"]["escalated"]) == (0.5, 1)


def test_the_last_line_is_a_setting_the_config_knows(device: Device) -> None:
    hundred(device.log)
    lines = device.run("--cloud-share", ".2", json_out=False).out.splitlines()
    assert lines[-1] == "router.threshold: 0.81"
    section, key, value = lines[-1].replace(":", ".").replace(" ", "").split(".", 2)
    assert load_config(device.config, flags={(section, key): float(value)}, environ={}).router.threshold == 0.81
    table = [line.split()[:3] for line in lines if "%" in line]
    assert ["*", "0.81", "20.0%"] in table and ["+", "0.5", "51.0%"] in table


def test_money_per_day_counts_tokens_prices_and_what_was_asked_of_the_cloud_by_name(device: Device) -> None:
    hundred(device.log)  # 0.002 each, ten days: a hundred cost 0.02 a day
    prices = ["--price-input", "1", "--price-output", "2"]
    shown = device.run("--money-per-day", "0.01", *prices).value
    assert shown["config"]["router"]["threshold"] == 0.51
    assert shown["chosen"]["cost_per_day"] == pytest.approx(0.01, rel=1e-3)
    assert shown["candidates"][0]["last_week"]["cost"] == pytest.approx(
        0.002 * shown["candidates"][0]["last_week"]["escalated"]
    )
    write_log(device.log, [exchange(0.9, route="cloud", wish="cloud", reason="asked_cloud") for _ in range(25)])
    assert device.run("--money-per-day", "0.01", *prices).value["config"]["router"]["threshold"] == 0.76
    assert "costs only 0.001 a day" in device.run("--money-per-day", "0.001", *prices).err


def test_tokens_nobody_counted_are_taken_to_be_as_many_as_usual(device: Device) -> None:
    write_log(device.log, [exchange(0.9, input=None, output=None), exchange(0.8, input=1000, output=500)])
    shown = device.run("--cloud-share", "1", "--price-input", "1", "--price-output", "2").value
    assert shown["chosen"]["last_week"]["cost"] == pytest.approx(0.004)


def test_what_no_threshold_decided_about_is_not_counted(device: Device) -> None:
    hundred(device.log)
    others = [
        exchange(0.9, private=True),
        exchange(None, reason="router_error"),
        exchange(0.9, wish="local", reason="asked_local"),
        exchange(0.9, route="cloud", reason="context_exceeded"),
        exchange(0.9, days_ago=100),
        exchange(0.9, days_ago=-400),
    ]
    write_log(device.log, others)
    assert device.run("--cloud-share", ".2").value["config"]["router"]["threshold"] == 0.81
    recent = device.run("--cloud-share", ".2", "--since", "1w").value
    assert recent["config"]["router"]["threshold"] == 0.41


def test_scores_of_other_routers_are_left_out_and_counted(device: Device) -> None:
    hundred(device.log)
    write_log(device.log, [exchange(0.001, version="tiny-0") for _ in range(30)])
    assert device.run("--cloud-share", ".2").value["left_out"] == {"tiny-0": 30}
    shown = device.run("--cloud-share", ".2", json_out=False)
    assert "left out: 30 questions that other routers scored: tiny-0 (30)" in shown.out
    assert shown.out.splitlines()[-1] == "router.threshold: 0.81"


# By quality


def test_quality_by_what_people_said_of_answers(device: Device) -> None:
    ids = hundred(device.log)
    rate(device.log, ids, ["good" if i < 60 else "bad" for i in range(100)])
    rate(device.log, ids[:1], ["good"])
    shown = device.run("--quality", ".95").value
    assert shown["labels"] == 100 and shown["config"]["router"]["threshold"] == 0.66
    assert shown["chosen"]["quality"] == pytest.approx(0.95)
    assert shown["chosen"]["quality_95"][0] < 0.95 < shown["chosen"]["quality_95"][1]
    assert device.run("--pgr", ".5").value["chosen"]["pgr"] == pytest.approx(0.5)


def test_ratings_of_cloud_answers_say_how_good_the_cloud_is(device: Device) -> None:
    ids = hundred(device.log)
    rate(device.log, ids, ["good" if i < 60 else "bad" for i in range(100)])
    ids = write_log(device.log, [exchange(0.9, route="cloud", reason="above_threshold") for _ in range(10)])
    rate(device.log, ids, ["good"] * 8 + ["bad"] * 2)
    shown = device.run("--quality", "1").value
    assert shown["chosen"]["quality"] >= 1 and shown["config"]["router"]["threshold"] > 0.6


def test_answers_of_an_earlier_local_model_are_no_labels(device: Device) -> None:
    old = write_log(device.log, [exchange(0.3, model="old") for _ in range(5)])
    new = write_log(device.log, [exchange(0.1 * i) for i in range(1, 9)])
    rate(device.log, [*old, *new], ["bad"] * 5 + ["good"] * 4 + ["bad"] * 4)
    assert device.run("--quality", ".9").value["labels"] == 8


# A guarantee


def judged(device: Device, *, easy_wrong: int = 2) -> None:
    """160 rated answers: 80 the router calls acceptable, `easy_wrong` of them bad, and 80 it does not."""
    ids = write_log(
        device.log,
        [exchange(0.1, acceptable=0.95) for _ in range(80)] + [exchange(0.9, acceptable=0.1) for _ in range(80)],
    )
    rate(device.log, ids, ["bad"] * easy_wrong + ["good"] * (80 - easy_wrong) + ["bad"] * 60 + ["good"] * 20)


def test_a_guarantee_from_ratings(device: Device) -> None:
    judged(device)
    shown = device.run("--max-local-error", ".1").value
    promise = Guarantee.from_card(shown["guarantee"])
    assert (promise.kind, promise.alpha, promise.delta) == ("selective", 0.1, 0.05)
    assert (promise.n, promise.n_accepted, promise.n_wrong, promise.coverage) == (160, 80, 2, 0.5)
    assert promise.threshold == 0.5 and promise.bound == pytest.approx(0.0767, abs=1e-4)
    facts = facts_in_use(device.gguf, read_card(device.bundle))
    assert void_reason(promise, facts) is None and shown["bundle"] is None
    assert shown["last_week"] == {"questions": 160, "escalated": 80}
    lines = device.run("--max-local-error", ".1", json_out=False).out
    assert "at most 0.1 of the accepted local answers are wrong, with confidence 0.95" in lines
    assert lines.splitlines()[-1].startswith("nothing was written; --write")


def test_a_marginal_guarantee_is_about_all_questions(device: Device) -> None:
    judged(device)
    shown = device.run("--max-local-error", ".05", "--marginal").value["guarantee"]
    assert (shown["kind"], shown["delta"], shown["bound"]) == ("marginal", None, 3 / 161)
    assert "of all questions" in device.run("--max-local-error", ".05", "--marginal", json_out=False).out


def test_a_guarantee_is_written_into_a_new_bundle_beside_the_old(device: Device) -> None:
    judged(device)
    before = (device.bundle.resolve(), (device.bundle / "router.json").read_bytes())
    shown = device.run("--max-local-error", ".1", "--write").value
    bundle = Path(shown["bundle"])
    assert bundle.name == "tiny-1-g1" and RouterModel.load(bundle).version == "tiny-1-g1"
    (entry,) = json.loads((bundle / "router.json").read_text())["guarantees"]
    assert void_reason(Guarantee.from_card(entry), facts_in_use(device.gguf, read_card(bundle))) is None
    assert before == (device.bundle.resolve(), (device.bundle / "router.json").read_bytes())
    told = device.run("--max-local-error", ".2", "--write", json_out=False).out.splitlines()[-1]
    assert "tiny-1-g2; `current` is what it was; docs/publishing.md" in told


def test_guarantees_of_the_old_card_stay_when_they_still_hold(device: Device) -> None:
    judged(device)
    written = [device.run("--max-local-error", ".1", "--write").value["bundle"]]
    device.bundle.unlink()
    device.bundle.symlink_to(Path(written[0]).name)
    edit = json.loads((device.bundle / "router.json").read_text())
    stale = edit["guarantees"][0] | {"alpha": 0.3}
    stale = stale | {"valid_for": stale["valid_for"] | {"local_model_sha256": "gone"}}
    edit_card(device.bundle, guarantees=[*edit["guarantees"], stale])
    for _ in range(2):  # scores of the new version, rated again
        ids = write_log(device.log, [exchange(0.1, acceptable=0.95, version="tiny-1-g1") for _ in range(40)])
        rate(device.log, ids, ["bad"] + ["good"] * 39)
    shown = device.run("--max-local-error", ".2", "--write").value
    card = json.loads((Path(shown["bundle"]) / "router.json").read_text())
    assert card["version"] == "tiny-1-g2" and [entry["alpha"] for entry in card["guarantees"]] == [0.1, 0.2]
    assert {entry["valid_for"]["router_version"] for entry in card["guarantees"]} == {"tiny-1-g2"}


@pytest.mark.parametrize("found", [5, {"kind": "marginal"}])
def test_guarantees_that_are_no_list_are_told_and_nothing_is_written(device: Device, found: Any) -> None:
    judged(device)
    edit_card(device.bundle, guarantees=found)
    assert RouterModel.load(device.bundle).version == "tiny-1"
    shown = device.run("--max-local-error", ".1", "--write")
    assert shown.code == 1 and "router.json: guarantees: expected a list, found" in shown.err
    assert not list(device.bundle.parent.glob("*-g1"))


def test_a_guarantee_out_of_reach_is_refused_with_the_labels_missing(device: Device) -> None:
    judged(device, easy_wrong=6)
    shown = device.run("--max-local-error", ".1")
    assert shown.code == 1 and shown.out == ""
    assert "6 of the 80 answers accepted at 0.94 are wrong" in shown.err and "more labels are missing" in shown.err


def test_a_guarantee_takes_more_labels_than_a_handful(device: Device) -> None:
    ids = write_log(device.log, [exchange(0.1, acceptable=0.95) for _ in range(8)])
    rate(device.log, ids, ["good"] * 7 + ["bad"])
    shown = device.run("--max-local-error", ".05")
    assert "takes 59 accepted answers, found 8 of 8; about 51 more labels are missing" in shown.err
    assert (
        "8 labels cannot promise an error of 0.05; about 11 more"
        in device.run("--max-local-error", ".05", "--marginal").err
    )


# A label set


def label_set(device: Device, directory: Path, *, local_sha256: str | None = None, all_right: bool = False) -> Path:
    """120 graded questions, easy and hard, in the test split, and 20 in dev."""
    from edge_agent.training.label_set import router_inputs, write_label_set

    card = read_card(device.bundle)
    encoder = Encoder(device.bundle / card.encoder, inputs=INPUTS, max_tokens=128)
    name = (device.bundle / card.encoder).resolve().name
    rows = []
    for i in range(140):
        hard = i % 3 == 0
        text = f"a hard one {i}" if hard else f"turn on light {i}"
        graded = {"correct_local": all_right or (not hard and i % 40 != 1), "correct_cloud": i % 20 != 0}
        rows.append({
            "query_id": f"q{i}", "dataset": "own", "split": "test" if i < 120 else "dev", "text": text,
            "insufficient": False, "strong_wins": 1.0, "entropy_local": 0.1, "entropy_cloud": 0.1, **graded,
            **router_inputs(text, {name: encoder.embed}),
        })  # fmt: skip
    facts = facts_in_use(device.gguf, card)
    models = {"local": {"name": "tiny", "sha256": local_sha256 or facts["local_model_sha256"]}}
    return write_label_set(directory, rows, {"models": models})


def test_quality_from_a_label_set_without_a_log(device: Device, tmp_path: Path) -> None:
    labels = label_set(device, tmp_path / "set")
    shown = device.run("--quality", "1", "--labels", str(labels)).value
    assert (shown["labels"], shown["log_questions"]) == (120, 0)
    assert 0.9 < shown["config"]["router"]["threshold"] < 1 and 0.3 < shown["chosen"]["cloud_share"] <= 1 / 3
    assert shown["chosen"]["last_week"] is None and shown["chosen"]["cost_per_day"] is None
    assert device.run("--cloud-share", "1", "--labels", str(labels), "--split", "dev").value["labels"] == 20


def test_a_share_of_a_label_set_whose_answers_are_all_right(device: Device, tmp_path: Path) -> None:
    labels = label_set(device, tmp_path / "set", all_right=True)
    shown = device.run("--cloud-share", ".5", "--labels", str(labels)).value
    assert shown["chosen"]["cloud_share"] <= 0.5 and shown["chosen"]["quality"] is None and shown["labels"] == 0
    assert "all 120 labelled local answers are good" in device.run("--quality", ".9", "--labels", str(labels)).err


def test_a_label_set_beside_a_log_shows_what_last_week_would_have_been(device: Device, tmp_path: Path) -> None:
    hundred(device.log)
    shown = device.run("--quality", "1", "--labels", str(label_set(device, tmp_path / "set"))).value
    assert shown["labels"] == 120 and shown["chosen"]["last_week"]["questions"] == 50


def test_a_guarantee_from_a_label_set(device: Device, tmp_path: Path) -> None:
    shown = device.run("--max-local-error", ".1", "--labels", str(label_set(device, tmp_path / "set"))).value
    assert (shown["guarantee"]["n"], shown["guarantee"]["n_accepted"], shown["guarantee"]["n_wrong"]) == (120, 80, 2)


def test_labels_of_another_local_model_promise_nothing_here(device: Device, tmp_path: Path) -> None:
    labels = label_set(device, tmp_path / "set", local_sha256="0123456789abcdef0123")
    shown = device.run("--max-local-error", ".1", "--labels", str(labels))
    assert "the label set is of the local model 0123456789abcdef, this device runs" in shown.err


# What cannot be chosen


def test_without_a_log_nothing_is_chosen(device: Device) -> None:
    shown = device.run("--cloud-share", ".2")
    assert shown.code == 1 and "there is no decision log yet" in shown.err


@pytest.mark.parametrize(
    ("rows", "arguments", "problem"),
    [
        ([], ["--cloud-share", ".2"], "(0 questions: none at all); ask some first, widen --since"),
        ([exchange(None, reason="router_error")], ["--cloud-share", ".2"], "(1 questions: all private, asked for by"),
        ([exchange(0.2, version="tiny-0")], ["--cloud-share", ".2"], "no question that a threshold of this router"),
        ([exchange(0.2)], ["--quality", ".9"], "no local answer is labelled; rate some with `edge-agent feedback"),
        ([exchange(0.2)], ["--max-local-error", ".1"], "no local answer is labelled; rate some with"),
    ],
)  # fmt: skip
def test_a_log_that_says_too_little_is_told(
    device: Device, rows: list[Exchange], arguments: list[str], problem: str
) -> None:
    write_log(device.log, rows)
    shown = device.run(*arguments)
    assert (shown.code, shown.out) == (1, "") and problem in shown.err


@pytest.mark.parametrize(
    ("acceptable", "ratings", "goal", "problem"),
    [
        (0.9, ["good"] * 3, "--quality", "all 3 labelled local answers are good: nothing tells thresholds apart"),
        (0.9, ["bad"] * 3, "--max-local-error", "all 3 labelled local answers are bad"),
        (None, ["good", "bad", "bad"], "--max-local-error", "none of the 3 rated local answers has an estimate"),
    ],
)
def test_labels_that_say_too_little_are_told(
    device: Device, acceptable: float | None, ratings: list[str], goal: str, problem: str
) -> None:
    rate(device.log, write_log(device.log, [exchange(0.2, acceptable=acceptable) for _ in range(3)]), ratings)
    shown = device.run(goal, ".1")
    assert shown.code == 1 and problem in shown.err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "name one goal out of --cloud-share, --money-per-day"),
        (["--cloud-share", ".1", "--quality", ".9"], "name one goal"),
        (["--money-per-day", "1"], "--money-per-day needs --price-input and --price-output"),
        (["--money-per-day", "1", "--price-input", "1"], "give both --price-input and --price-output"),
        (["--cloud-share", "1.5"], "1.5 is not in the range"),
        (["--cloud-share", "nan"], "expected a number, found nan"),
        (["--money-per-day", "1", "--price-input", "inf", "--price-output", "1"], "expected a number, found inf"),
        (["--max-local-error", "0"], "0.0 is not in the range"),
        (["--quality", ".9", "--write"], "--write and --marginal are for --max-local-error"),
        (["--cloud-share", ".1", "--since", "soon"], "expected an age such as 2h or 3d"),
    ],
)
def test_what_was_typed_wrong_is_named(device: Device, arguments: list[str], problem: str) -> None:
    shown = device.run(*arguments)
    assert shown.code == 2 and problem in " ".join(shown.err.split())


@pytest.mark.parametrize("damage", ["absent", "changed", "other features"])
def test_a_label_set_that_cannot_be_used_is_told(device: Device, tmp_path: Path, damage: str) -> None:
    labels = label_set(device, tmp_path / "set")
    if damage == "absent":
        labels = tmp_path / "nowhere"
    elif damage == "changed":
        (labels / "labels.parquet").write_bytes(b"PAR1")
    else:
        (labels / "card.json").write_text((labels / "card.json").read_text().replace('"version": ', '"version": 9'))
    shown = device.run("--quality", ".9", "--labels", str(labels))
    assert shown.code == 1 and f"{labels}: cannot be used as a label set" in shown.err


def test_without_the_training_extra_the_error_names_it(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    for name in [name for name in sys.modules if name.startswith("edge_agent.training.label_s")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    shown = device.run("--quality", ".9", "--labels", str(tmp_path))
    assert shown.code == 1 and "pip install 'edge-agent[training]'" in shown.err


def test_a_damaged_log_is_told(device: Device) -> None:
    hundred(device.log)
    device.log.write_bytes(device.log.read_bytes()[:8192] + b"x" * 8192)
    for beside in device.log.parent.glob("log.db-*"):
        beside.unlink()
    shown = device.run("--cloud-share", ".2")
    assert shown.code == 1 and "cannot be read as a decision log" in shown.err


def test_a_log_of_an_older_version_has_scores_but_no_second_head(device: Device) -> None:
    ids = hundred(device.log)
    rate(device.log, ids, ["good", "bad"] * 50)
    with closing(open_for_writing(device.log)) as connection, connection:
        connection.execute("ALTER TABLE exchanges DROP COLUMN acceptable")
    assert device.run("--cloud-share", ".2").value["config"]["router"]["threshold"] == 0.81
    assert "none of the 100 rated local answers has an estimate" in device.run("--max-local-error", ".1").err
