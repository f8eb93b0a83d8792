"""From labels to a bundle the device loads, on made-up labels and the tiny encoder."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_agent.errors import RouterError
from edge_agent.files import write_directory
from edge_agent.router import RouterModel
from edge_agent.router_store import switch
from edge_agent.training.label_sources import RoutingLabel
from edge_agent.training.router_export import export_bundle, load_encoder
from edge_agent.training.router_training import (
    LogisticHead,
    Settings,
    TrainedHead,
    TrainedRouter,
    cross_validated,
    features_of,
    fit_logistic,
    platt,
    sigmoid,
    train_router,
)
from tests.tiny_router import make_tiny_router

ROOT = Path(__file__).parent.parent.parent


def made_up_labels(n=400, source="made_up", share=0.9):
    """Questions of which the hard ones are mostly answered by the strong system alone."""
    random = np.random.default_rng(0)
    labels = []
    for i in range(n):
        hard = i % 2 == 0
        wins = float(random.random() < (share if hard else 1 - share))
        labels.append(RoutingLabel(f"{'hard' if hard else 'plain'} question {i}", source, 1 - wins, 1.0, wins))
    return labels


@pytest.fixture(scope="module")
def encoder_directory(tmp_path_factory):
    bundle = make_tiny_router(tmp_path_factory.mktemp("router_models"))
    return next((bundle.parent / "encoders").iterdir())


@pytest.fixture(scope="module")
def encoder(encoder_directory):
    return load_encoder(encoder_directory)


@pytest.fixture(scope="module")
def trained(encoder):
    labels = made_up_labels()
    return train_router(labels, features_of(encoder, [label.text for label in labels]))


def test_the_fit_is_where_the_gradient_vanishes():
    random = np.random.default_rng(0)
    x, y, v = random.normal(size=(200, 3)), random.random(200), random.uniform(0.5, 2, 200)
    w = fit_logistic(x, y, v, l2=2.0, sources=["one"] * 200)

    def loss(w):
        intercepts = np.linspace(-2, 2, 4001)
        p = sigmoid((x @ w)[:, None] + intercepts)
        cross_entropy = -(v[:, None] * (y[:, None] * np.log(p) + (1 - y[:, None]) * np.log(1 - p))).sum(axis=0)
        return cross_entropy.min() + np.sum(w**2)

    for step in 0.05 * np.vstack([np.eye(3), -np.eye(3)]):
        assert loss(w) < loss(w + step)


def test_what_only_tells_the_sources_apart_is_not_learned():
    sources = ["easy"] * 500 + ["difficult"] * 500
    x = np.array([[float(source == "difficult")] for source in sources])
    y = np.where(x[:, 0] == 1, 0.9, 0.1)
    assert abs(fit_logistic(x, y, np.ones(1000), l2=1.0, sources=sources)[0]) < 1e-6
    assert fit_logistic(x, y, np.ones(1000), l2=1.0, sources=["both"] * 1000)[0] > 2


@pytest.mark.parametrize(("stretch", "shift"), [(1.0, 0.0), (4.0, 1.0), (0.25, -2.0)])
def test_platt_undoes_a_stretch_and_a_shift(stretch, shift):
    logits = np.random.default_rng(0).normal(size=5000)
    slope, offset = platt(stretch * logits + shift, sigmoid(logits), np.ones(5000))
    assert (slope * stretch, offset + slope * shift) == pytest.approx((1, 0), abs=1e-3)


def test_platt_never_turns_a_score_around():
    logits = np.linspace(-1, 1, 100)
    assert platt(logits, sigmoid(-logits), np.ones(100))[0] == 0


def test_a_learnable_difference_is_learned_and_its_figures_say_so(trained):
    for kind in ("held_out", "cross_validated"):
        figures = trained.metrics[kind]["all"]
        assert figures["apgr"] > figures["apgr_random_95"][1]
        assert figures["auroc"] > 0.8
        assert figures["apgr_over_words_95"][0] > 0
    assert trained.metrics["held_out"]["made_up"] == trained.metrics["held_out"]["all"]


def test_no_question_is_in_two_splits(trained):
    counts = trained.trained_on["questions"]
    assert sum(part["made_up"] for part in counts.values()) == 400
    assert trained.trained.calibration["n"] == counts["calibrate"]["made_up"]
    assert trained.metrics["held_out"]["all"]["n"] == counts["test"]["made_up"]


def test_labels_of_chance_give_a_router_of_chance(encoder):
    labels = made_up_labels(share=0.5)
    features = features_of(encoder, [label.text for label in labels])
    figures = train_router(labels, features).metrics["cross_validated"]["all"]
    low, high = figures["apgr_95"]
    assert low < 0.5 < high


def test_a_source_whose_strong_model_is_worse_is_named_and_stops_nothing(encoder):
    odd = [RoutingLabel(f"odd {i}", "odd", 1.0, 0.0, 0.0) for i in range(20)]
    labels = made_up_labels() + odd
    metrics = train_router(labels, features_of(encoder, [label.text for label in labels])).metrics["cross_validated"]
    assert metrics["odd"] == {
        "n": 20,
        "unusable": "expected the strong model to be better, found it worse by 1.0000 a question",
    }
    assert metrics["made_up"]["apgr"] > 0.5


def test_cross_validated_scores_do_not_know_their_own_label(encoder):
    labels = made_up_labels(100)
    features = features_of(encoder, [label.text for label in labels])
    before = cross_validated(labels, features, Settings())
    one = labels[7]
    labels[7] = RoutingLabel(one.text, one.source, 1 - one.weak, one.strong, 1 - one.cloud_wins)
    assert cross_validated(labels, features, Settings())[7] == before[7]


def test_the_threshold_sends_the_wished_share_to_the_cloud(encoder):
    labels = made_up_labels()
    features = features_of(encoder, [label.text for label in labels])
    for share in (0.1, 0.3, 0.6):
        trained = train_router(labels, features, Settings(cloud_share=share))
        assert trained.metrics["held_out"]["all"]["cloud_share_at_threshold"] == pytest.approx(share, abs=0.12)


def test_a_bundle_scores_on_the_device_what_was_trained(trained, encoder, encoder_directory):
    bundle = export_bundle(trained, encoder, encoder_directory, encoder_directory.parent.parent, version="v7", rule="r")
    router = RouterModel.load(bundle)
    texts = ["hard question", "plain question", "", "something else entirely"]
    expected = trained.trained.head.scores(np.stack([encoder.features(text) for text in texts]))
    assert [router.score_text(text) for text in texts] == pytest.approx(list(expected), abs=1e-6)
    assert (router.version, router.threshold) == ("v7", trained.trained.threshold)
    assert router.card.metrics == trained.metrics
    assert switch(bundle.parent, "v7") is None
    assert os.readlink(bundle.parent / "current") == "v7"


def test_a_bundle_that_does_not_load_leaves_nothing_behind(trained, encoder, encoder_directory, tmp_path):
    with pytest.raises(RouterError, match="expected a file of the bundle, found none"):
        export_bundle(trained, encoder, encoder_directory, tmp_path / "no_encoder_here", version="v1", rule="r")
    assert list((tmp_path / "no_encoder_here").iterdir()) == []


def test_a_version_is_written_once(trained, encoder, encoder_directory):
    output = encoder_directory.parent.parent
    first = export_bundle(trained, encoder, encoder_directory, output, version="v8", rule="r")
    assert export_bundle(trained, encoder, encoder_directory, output, version="v8", rule="r") == first
    with pytest.raises(FileExistsError, match="v8: expected no such directory, found one with other content"):
        export_bundle(trained, encoder, encoder_directory, output, version="v8", rule="another")


def test_a_head_that_float32_cannot_hold_is_refused(encoder, encoder_directory, tmp_path):
    features = encoder.features("hi").astype(float)
    weight = np.random.default_rng(0).normal(0, 1e7, len(features))
    head = LogisticHead(weight, 0.4 - float(weight @ features))
    vast = TrainedRouter(TrainedHead(head, 0.5, {}), {}, {})
    with pytest.raises(ValueError, match=r"head.onnx differs from the trained head by .*, expected at most 1e-06"):
        export_bundle(vast, encoder, encoder_directory, tmp_path, version="v1", rule="r")


def test_features_are_kept_for_the_next_run(encoder, tmp_path):
    class CannotEmbed:
        max_tokens = encoder.max_tokens

    first = features_of(encoder, ["a", "b", "a"], cache=tmp_path)
    assert np.array_equal(first[0], first[2])
    assert np.array_equal(features_of(CannotEmbed(), ["b", "a"], cache=tmp_path), first[1::-1])


def test_a_directory_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(TypeError):
        write_directory(tmp_path / "target", {"good": b"1", "bad": "text"})
    assert list(tmp_path.iterdir()) == []


def test_the_tool_trains_and_publishes_from_a_data_folder(tmp_path):
    bundle = make_tiny_router(tmp_path / "router_models")
    for name in ("entailment", "smart_home"):
        (tmp_path / "data" / name).mkdir(parents=True)
    with (tmp_path / "data" / "entailment" / "answer_equivalence.jsonl").open("w") as file:
        for label in made_up_labels(200):
            for system, right in (("small", label.weak), ("large", label.strong)):
                row = {"dataset": "d", "question": label.text, "system": system, "equivalent": bool(right)}
                file.write(json.dumps(row) + "\n")
    rows = [f"s,{m},t,1,c,{'hard' if i % 2 else 'plain'} command {i},{'Good' if m == 'b' or i % 2 else 'Bad'}\n"
            for i in range(60) for m in "ab"]  # fmt: skip
    commands = "suite,model_id,task_id,trial,category,text,label\n" + "".join(rows)
    (tmp_path / "data" / "smart_home" / "commands.csv").write_text(commands)
    options = ["--output", bundle.parent, "--version", "next", "--answer-pair", "small", "large", "--publish"]
    options += ["--home-weak", "a", "--home-strong", "b"]
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "train_router.py", *options],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
            "EDGE_AGENT_DATA": str(tmp_path / "data"),
        },
    )
    assert done.returncode == 0, done.stderr
    assert RouterModel.load(bundle.parent / "current").version == "next"
    assert "held_out" in done.stdout
    assert "smart_home" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--data", "nowhere"],
            "train_router: .*No such file or directory: 'nowhere/entailment/answer_equivalence.jsonl'",
        ),
        (["--cloud-share", "33"], "expected a share between 0 and 1, found 33"),
    ],
)
def test_the_tool_ends_with_one_sentence_when_it_cannot(tmp_path, options, message):
    command = [sys.executable, ROOT / "tools" / "train_router.py", *options]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode != 0
    assert re.search(message, done.stderr)
    assert "Traceback" not in done.stderr
