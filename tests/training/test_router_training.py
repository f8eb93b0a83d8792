"""From label sets to a bundle the device loads, on made-up labels and the tiny encoder."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_agent.errors import RouterError
from edge_agent.files import write_directory
from edge_agent.router import RouterModel
from edge_agent.router_store import switch
from edge_agent.training.calibration import Calibration
from edge_agent.training.candidates import candidates
from edge_agent.training.embeddings import features_of
from edge_agent.training.encoder_parity import REFERENCE, Reference
from edge_agent.training.label_rows import SCHEMA, to_table
from edge_agent.training.label_set import CARD, LABELS, write_label_set
from edge_agent.training.router_export import export_bundle, load_encoder
from edge_agent.training.router_heads import HEADS, LinearHead
from edge_agent.training.router_recipe import Ingredient, read_parts
from edge_agent.training.router_training import CalibratedHead, Part, Settings, out_of_fold, train_router
from edge_agent.training.sample_store import write_parquet
from edge_agent.training.training_rows import LABEL_SOURCES, read_training_rows, training_rows
from tests.tiny_router import make_tiny_router
from tests.training.tiny_labels import MODELS, tiny_label_set, tiny_rows

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def encoder_directory(tmp_path_factory):
    bundle = make_tiny_router(tmp_path_factory.mktemp("router_models"))
    directory = next((bundle.parent / "encoders").iterdir())
    texts = [f"{kind} text {i}" for i in range(50) for kind in ("hard", "plain")]
    (directory / REFERENCE).write_bytes(Reference.of(load_encoder(directory), texts).serialized())
    return directory


@pytest.fixture(scope="module")
def encoder(encoder_directory):
    return load_encoder(encoder_directory)


@pytest.fixture(scope="module")
def rows(encoder):
    return training_rows(tiny_rows(encoder, "tiny"), "tiny")


@pytest.fixture(scope="module")
def trained(rows):
    return train_router([Part("made_up", rows, "entropy, soft")])


def test_a_learnable_difference_is_learned_and_its_figures_say_so(trained):
    figures = trained.metrics["made_up"]["all"]
    assert figures["apgr"] > figures["apgr_random_95"][1]
    assert figures["auroc"] > 0.8
    assert figures["apgr_over_words_95"][0] > 0
    assert trained.metrics["acceptable"]["auroc"] > 0.8


@pytest.mark.parametrize("target", LABEL_SOURCES)
def test_every_source_of_labels_can_be_learned_from(rows, target):
    assert train_router([Part("made_up", rows, target)]).metrics["made_up"]["all"]["apgr"] > 0.6


@pytest.mark.parametrize("head", HEADS)
def test_every_head_can_be_trained_and_exported(rows, head, encoder, encoder_directory, tmp_path_factory):
    router = train_router([Part("made_up", rows, "entropy, soft")], Settings(head=head))
    bundle = export_bundle(router, encoder, encoder_directory, encoder_directory.parent.parent, version=head, rule="r")
    model = RouterModel.load(bundle)
    assert model.score_text("hard question 7") > model.score_text("plain question 7")
    assert (bundle / "head.onnx").stat().st_size < 1_000_000


def test_labels_of_chance_give_a_router_of_chance(encoder):
    rows = training_rows(tiny_rows(encoder, "tiny", 1000, share=0.5), "tiny")
    low, high = train_router([Part("chance", rows, "correctness")]).metrics["chance"]["all"]["apgr_95"]
    assert low < 0.5 < high


def test_the_test_split_is_not_learned_from(rows, trained):
    test = rows.split == "test"
    other = {name: np.where(test, 1 - y, y) for name, y in rows.targets.items()}
    turned = replace(rows, targets=other, weak=np.where(test, 1 - rows.weak, rows.weak))
    again = train_router([Part("made_up", turned, "entropy, soft")])
    assert again.threshold == trained.threshold
    assert again.calibration == trained.calibration
    raw = [router.heads["score"].head.raw(rows.features) for router in (again, trained)]
    assert np.array_equal(*raw)


def test_scores_out_of_fold_do_not_know_their_own_group(rows):
    examples, index = rows.examples("correctness", rows.split != "test")
    before = out_of_fold(examples, "logreg", 0)
    group = np.array([g == examples.group[7] for g in examples.group])
    turned = replace(examples, target=np.where(group, 1 - examples.target, examples.target))
    assert np.array_equal(out_of_fold(turned, "logreg", 0)[group], before[group])


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_the_threshold_sends_the_wished_share_to_the_cloud(encoder, share):
    many = training_rows(tiny_rows(encoder, "tiny", 1000), "tiny")
    router = train_router([Part("made_up", many, "entropy, soft")], Settings(cloud_share=share))
    assert router.metrics["made_up"]["all"]["cloud_share_at_threshold"] == pytest.approx(share, abs=0.12)


def test_a_part_with_little_weight_counts_little(rows, encoder):
    turned = tiny_rows(encoder, "tiny", seed=1)
    for row in turned:
        row["correct_share_local"], row["correct_share_cloud"] = row["correct_share_cloud"], row["correct_share_local"]
    against = training_rows(turned, "tiny")
    for weight, better in ((0.01, True), (100.0, False)):
        parts = [Part("one", rows, "correctness, soft"), Part("two", against, "correctness, soft", weight)]
        raw = train_router(parts).heads["score"].head.raw(rows.features)
        assert bool(raw[rows.cloud_wins == 1].mean() > raw[rows.cloud_wins == 0].mean()) == better


def test_acceptable_learns_from_the_devices_own_model_alone(rows, trained):
    nonsense = replace(rows, weak_share=1 - rows.weak_share, weak=1 - rows.weak)
    other = train_router([Part("one", rows, "entropy, soft"), Part("two", nonsense, "entropy, soft", 1e-6)])
    alone, beside = (r.heads["acceptable"].probabilities(rows.features) for r in (trained, other))
    assert np.array_equal(alone, beside)


# Bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: {"split": "test"}, "labels: made_up: expected graded rows of the split dev, found none"),
        (lambda row: {"split": "dev" if row["split"] == "test" else row["split"]}, "of the split test, found none"),
        (lambda row: {"split": "validation"}, "split: expected train, dev or test, found 'validation' in row q0"),
        (
            lambda row: {"strong_wins_soft": None, "insufficient": True},
            "expected at least 50 rows with a target, found 0",
        ),
        (
            lambda row: {"embedding_tiny": None} if row["query_id"] == "q3" else {},
            "expected a vector of 8, found 0 .* q3",
        ),
        (
            lambda row: {"embedding_tiny_scale": 0.0},
            "embedding_tiny: expected a vector of 8, found 8 numbers of length 0",
        ),
        (lambda row: {"text_features": [1.0]}, r"text_features: expected 15 numbers, found \[1.0\] in row q0"),
        (
            lambda row: {"strong_wins_soft": 0.5},
            "expected different targets, found 240",
        ),
        (
            lambda row: {"strong_wins_soft": float("nan")},
            r"labels: entropy, soft: expected a number in \[0, 1\], found nan",
        ),
        (lambda row: {"correct_share_local": 1.2}, r"local wrong: expected a number in \[0, 1\], found -0.2?"),
        (lambda row: {"correct_local": None}, "labels: made_up: expected rows with graded answers of both models"),
        (lambda row: {"correct_local": True}, "calibration: expected both outcomes, found 240 targets that are all 0"),
    ],
)
def test_labels_nobody_can_learn_from_are_named(encoder, change, message):
    bad = [row | change(row) for row in tiny_rows(encoder, "tiny")]
    with pytest.raises(ValueError, match=message):
        train_router([Part("made_up", training_rows(bad, "tiny"), "entropy, soft")])


def test_an_encoder_the_set_knows_nothing_of_is_named(encoder):
    with pytest.raises(ValueError, match="embedding_other: expected embeddings of other, found those of tiny"):
        training_rows(tiny_rows(encoder, "tiny"), "other")


def test_another_targets_name_is_told_which_there_are(rows):
    with pytest.raises(ValueError, match="target: expected one of entropy, paper's rule, .*, found 'entropy'"):
        Part("made_up", rows, "entropy")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", Ingredient("a", "entropy + correctness", 1.0)),
        ("a/b=difficulty", Ingredient("a/b", "difficulty", 1.0)),
        ("a=entropy, soft*0.25", Ingredient("a", "entropy, soft", 0.25)),
    ],
)
def test_an_ingredient_is_written_in_one_word(text, expected):
    assert Ingredient.parse(text) == expected


@pytest.mark.parametrize("text", ["a=difficulty*-1", "a=difficulty*x", "a=difficulty*nan", "a=difficulty*0"])
def test_an_impossible_weight_is_refused(text):
    with pytest.raises(ValueError, match="expected DIR=TARGET\\*WEIGHT with a positive weight"):
        Ingredient.parse(text)


# Bundles


def test_a_bundle_scores_on_the_device_what_was_trained(trained, encoder, encoder_directory):
    bundle = export_bundle(trained, encoder, encoder_directory, encoder_directory.parent.parent, version="v7", rule="r")
    router = RouterModel.load(bundle)
    texts = ["hard question", "plain question", "", "something else entirely"]
    features = np.stack([encoder.features(text) for text in texts])
    for name, head in trained.heads.items():
        found = [getattr(router.estimate_text(text), name) for text in texts]
        assert found == pytest.approx(list(head.probabilities(features)), abs=1e-5)
    assert (router.version, router.threshold) == ("v7", trained.threshold)
    assert router.card.input == "last_user_message_in_context"
    assert router.card.metrics["made_up"] == trained.metrics["made_up"]
    assert router.card.metrics["parity_with_float32"]["flipped"] == 0
    switch(bundle.parent, "v7")
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


def test_a_head_that_float32_cannot_hold_is_refused(trained, encoder, encoder_directory, tmp_path):
    features = encoder.features("hi").astype(float)
    weight = np.random.default_rng(0).normal(0, 1e7, len(features))
    vast = CalibratedHead(LinearHead(weight, 0.4 - float(weight @ features)), Calibration("platt", 9, 1.0, 0.0))
    with pytest.raises(ValueError, match=r"head.onnx: score: differs from the trained head by .*, expected at most"):
        export_bundle(
            replace(trained, heads={"score": vast}), encoder, encoder_directory, tmp_path, version="v1", rule="r"
        )


def test_an_encoder_far_from_its_float32_twin_is_refused(trained, encoder, encoder_directory, tmp_path):
    kept = (encoder_directory / REFERENCE).read_bytes()
    reference = Reference.read(encoder_directory)
    swapped = Reference(reference.texts, reference.embeddings[::-1].copy())
    try:
        (encoder_directory / REFERENCE).write_bytes(swapped.serialized())
        with pytest.raises(ValueError, match="is too far from float32: .*flipped: expected at most 0.03, found"):
            export_bundle(trained, encoder, encoder_directory, tmp_path, version="v1", rule="r")
    finally:
        (encoder_directory / REFERENCE).write_bytes(kept)
    assert list(tmp_path.iterdir()) == []


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


# Candidates


def test_candidates_are_trained_on_the_same_rows(encoder, tmp_path):
    tiny_label_set(tmp_path / "pair", encoder, "tiny")
    tiny_label_set(tmp_path / "others", encoder, "tiny", 600, seed=1)
    made = candidates(tmp_path / "pair", "tiny", preferences=tmp_path / "others")
    assert len({c.name for c in made}) == len(made) == 8 * len(HEADS)
    assert {c.n_train for c in made} == {180}
    rows = read_training_rows(tmp_path / "pair", "tiny")
    for candidate in made:
        scores = candidate.scores(rows.features)
        assert scores[rows.cloud_wins == 1].mean() > scores[rows.cloud_wins == 0].mean()
    assert {c.n_train for c in candidates(tmp_path / "pair", "tiny", n_train=60)} == {60}


# The tool


def run(tmp_path, *options):
    command = [sys.executable, ROOT / "tools" / "train_router.py", *map(str, options)]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)


@pytest.fixture
def workshop(tmp_path, encoder_directory):
    """A directory with router_models and label_sets, as a clone has them."""
    bundle = make_tiny_router(tmp_path / "router_models")
    own = next((bundle.parent / "encoders").iterdir())
    (own / REFERENCE).write_bytes((encoder_directory / REFERENCE).read_bytes())
    for name, seed in (("pair", 0), ("more", 1)):
        tiny_label_set(tmp_path / "label_sets" / name, load_encoder(own), own.name, seed=seed)
    return tmp_path


def test_the_tool_trains_and_publishes_from_label_sets(workshop):
    labels = ("--labels", "pair=entropy, soft", "--labels", "label_sets/more=correctness*0.5")
    done = run(workshop, *labels, "--version", "next", "--publish")
    assert done.returncode == 0, done.stderr
    router = RouterModel.load(workshop / "router_models" / "current")
    assert router.version == "next"
    assert [part["label_set"] for part in router.card.trained_on["parts"]] == ["pair", "more"]
    assert re.search(r"pair +all +60 ", done.stdout)
    assert "score: logreg on 480 rows of 2 label sets" in done.stderr
    twin = run(workshop, *labels, "--version", "twin")
    assert twin.returncode == 0, twin.stderr
    assert "use twin" in twin.stdout
    heads = [(workshop / "router_models" / name / "head.onnx").read_bytes() for name in ("next", "twin")]
    assert heads[0] == heads[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--labels", "nowhere"],
            "train_router: nowhere: expected a label set .card.json. or labels .*, found neither",
        ),
        (["--labels", "pair", "--version", "../x"], "train_router: --version: expected letters, digits"),
        (["--cloud-share", "33"], "expected a share between 0 and 1, found 33"),
        (["--labels", "pair=entropy"], "train_router: target: expected one of entropy, paper's rule"),
        (
            ["--labels", "pair", "--encoder", "router_models"],
            "embeddings of router_models, found those of tiny-.*; choose another encoder or make the set again",
        ),
    ],
)
def test_the_tool_ends_with_one_sentence_when_it_cannot(workshop, options, message):
    before = sorted(path.name for path in (workshop / "router_models").iterdir())
    done = run(workshop, *options)
    assert done.returncode != 0
    assert re.search(message, done.stderr)
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in (workshop / "router_models").iterdir()) == before


def test_a_damaged_label_set_stops_the_tool_and_the_old_router_stays(workshop):
    with (workshop / "label_sets" / "pair" / LABELS).open("ab") as file:
        file.write(b"x")
    done = run(workshop, "--labels", "pair", "--publish")
    assert "expected the file of the card, found another" in done.stderr
    assert os.readlink(workshop / "router_models" / "current") == "tiny-1"


@pytest.mark.parametrize("text", ["[]", "no card", '{"models": null}', '{"files": []}'])
def test_a_card_that_is_none_is_named(workshop, text):
    (workshop / "label_sets" / "pair" / CARD).write_text(text)
    done = run(workshop, "--labels", "pair")
    assert re.search(r"train_router: label_sets/pair/card.json: expected the card of a label set, found", done.stderr)


def test_a_set_of_other_text_features_is_refused(workshop):
    path = workshop / "label_sets" / "pair" / CARD
    card = json.loads(path.read_text())
    path.write_text(json.dumps(card | {"text_features": {"version": 0, "names": []}}))
    assert "text_features: expected" in run(workshop, "--labels", "pair").stderr


def test_only_the_devices_own_local_model_says_what_is_acceptable(workshop, encoder):
    directory = next((workshop / "router_models" / "encoders").iterdir())
    others = MODELS | {"local": {"name": "another", "sha256": "c" * 64}}
    write_label_set(workshop / "label_sets" / "others", tiny_rows(encoder, directory.name), {"models": others})
    parts = read_parts(workshop / "label_sets", [Ingredient(d) for d in ("pair", "more", "others")], directory)
    assert [part.same_local_model for part in parts] == [True, True, False]


def test_labels_of_a_log_are_embedded_as_they_come(workshop, encoder):
    """What tools/relabel.py writes of a log has texts, no embeddings and no grades."""
    rows = [
        row | {"text": f"{'hard' if i % 2 == 0 else 'plain'} thing {i}", "split": None, "correct_local": None}
        for i, row in enumerate(tiny_rows(encoder, "tiny"))
    ]
    rows[0]["text"] = None  # a public question: it has no text here
    folder = workshop / "labels"
    folder.mkdir()
    write_parquet(folder / LABELS, to_table([{name: row.get(name) for name in SCHEMA.names} for row in rows]))
    done = run(workshop, "--labels", "pair=entropy, soft", "--add", "labels=entropy, soft*3")
    assert done.returncode == 0, done.stderr
    assert "labels: 299 rows, score learns entropy, soft" in done.stderr
    only = run(workshop, "--labels", "labels=entropy, soft")
    assert "labels: labels: expected rows with graded answers of both models, found none" in only.stderr
