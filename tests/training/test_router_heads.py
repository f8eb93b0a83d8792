"""The heads against sums done by hand, and as graphs."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from edge_agent.onnx_file import read_facts
from edge_agent.training.calibration import fit_calibration
from edge_agent.training.head_graph import head_graph
from edge_agent.training.logistic import fit_logistic, log_loss, platt, sigmoid
from edge_agent.training.router_heads import (
    HEADS,
    Examples,
    LinearHead,
    NeighbourHead,
    SimilarityHead,
    fit_logreg,
    fit_neighbours,
    fit_similarity,
    folds_of,
)


def examples_of(embeddings, targets, extra=0, sources=None, groups=None):
    """Examples of weight 1, with `extra` text features that say nothing."""
    n = len(targets)
    features = np.hstack([np.asarray(embeddings, float), np.zeros((n, extra))]).astype(np.float32)
    sources, groups = sources or ["s"] * n, groups or [str(i) for i in range(n)]
    return Examples(
        features, np.asarray(targets, float), np.ones(n), tuple(sources), tuple(groups), features.shape[1] - extra
    )


def two_kinds(n=240, seed=0):
    """Unit vectors of two directions with noise; the first kind is mostly 1."""
    random = np.random.default_rng(seed)
    kind = random.random(n) < 0.5
    vectors = np.where(kind[:, None], [1.0, 0, 0, 0], [0, 1.0, 0, 0]) + random.normal(0, 0.2, (n, 4))
    return examples_of(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.where(kind, 0.9, 0.1), extra=2)


def test_similarity_weights_are_the_papers():
    """S = (1, .5, 0), y = (1, 0, 1/2): weights 100, 31.62, 10, so P = .741406."""
    stored = np.array([[1, 0], [0.5, np.sqrt(0.75)], [0, 1]])
    head = SimilarityHead(stored, np.array([1, 0, 0.5]), np.ones(3), 10.0)
    assert head.raw(np.array([[1.0, 0.0]])) == pytest.approx(0.741406, abs=1e-6)
    ties = SimilarityHead(stored, np.full(3, 0.5), np.array([1.0, 7.0, 0.1]), 10.0)
    assert ties.raw(np.array([[0.6, 0.8]])) == pytest.approx(0.5)


@pytest.mark.parametrize(("y", "loss"), [(1, 0.356675), (0.5, 0.780324), (0, 1.203973)])
def test_cross_entropy_of_a_soft_target(y, loss):
    assert log_loss(np.array([0.7]), np.array([y]), np.ones(1)) == pytest.approx(loss, abs=1e-6)


def test_the_nearest_questions_vote_and_the_nearer_ones_break_a_tie():
    stored = np.array([[1, 0], [0.8, 0.6], [0, 1.0], [-1, 0]])
    head = NeighbourHead(stored, np.array([1, 0, 1, 0.0]), k=2)
    near, far = head.raw(np.array([[1.0, 0.0], [0.0, 1.0]]))
    assert (near, far) == pytest.approx((0.5, 0.5), abs=1e-3)
    assert near > far  # cosines 1 and .8 against 1 and .6


def test_more_neighbours_than_questions_are_all_of_them():
    examples = examples_of(np.eye(3), [1, 0, 1])
    assert fit_neighbours(examples, k=50).raw(examples.features) == pytest.approx(2 / 3, abs=1e-3)


@pytest.mark.parametrize("name", HEADS)
def test_every_head_learns_what_can_be_learned_and_repeats_itself(name):
    examples = two_kinds()
    head = HEADS[name](examples, 3)
    fresh = two_kinds(seed=1)
    raw = head.raw(fresh.features)
    assert raw[fresh.target > 0.5].mean() > raw[fresh.target < 0.5].mean()
    best = max(np.mean((raw > cut) == (fresh.target > 0.5)) for cut in raw)
    assert best > 0.95
    assert np.array_equal(raw, HEADS[name](examples, 3).raw(fresh.features))


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_a_graph_computes_what_its_head_does(name, method):
    examples = two_kinds()
    head = HEADS[name](examples, 0)
    calibration = fit_calibration(head.raw(examples.features), (examples.target > 0.5) * 1.0, method=method)
    data = head_graph({"score": (head, calibration)}, examples.features.shape[1])
    fresh = two_kinds(seed=2).features
    (output,) = onnxruntime.InferenceSession(data).run(["score"], {"features": fresh})
    apart = np.abs(output[:, 0] - calibration.apply(head.raw(fresh)))
    assert apart.max() < 2e-4 or (method == "isotonic" and np.mean(apart > 2e-4) < 0.02)  # a steep step, float32
    facts = read_facts(data)
    assert facts.domains == {""} and not facts.external_data


def test_two_heads_share_a_graph_and_not_their_weights():
    examples = two_kinds()
    first, second = LinearHead(np.eye(6)[0], 0.0), LinearHead(np.eye(6)[1], 1.0)
    calibrations = [fit_calibration(h.raw(examples.features), (examples.target > 0.5) * 1.0) for h in (first, second)]
    data = head_graph({"score": (first, calibrations[0]), "acceptable": (second, calibrations[1])}, 6)
    outputs = onnxruntime.InferenceSession(data).run(["score", "acceptable"], {"features": examples.features})
    for output, head, calibration in zip(outputs, (first, second), calibrations, strict=True):
        assert output[:, 0] == pytest.approx(calibration.apply(head.raw(examples.features)), abs=1e-5)


def test_a_group_is_in_one_fold_and_folds_are_alike():
    groups = tuple(f"g{i // 7}" for i in range(210))
    fold = folds_of(groups, 5, 0)
    assert all(len(set(fold[[g == name for g in groups]])) == 1 for name in set(groups))
    assert np.ptp(np.bincount(fold)) <= 7
    assert not np.array_equal(fold, folds_of(groups, 5, 1))


def test_what_only_tells_the_sources_apart_is_not_learned():
    sources = ["easy"] * 200 + ["difficult"] * 200
    told = np.array([[float(source == "difficult"), 1 - float(source == "difficult")] for source in sources])
    targets = np.where(told[:, 0] == 1, 0.9, 0.1)
    assert np.abs(fit_logreg(examples_of(told, targets, sources=sources)).weight).max() < 1e-6
    assert np.abs(fit_logreg(examples_of(told, targets)).weight).max() > 0.1


def test_the_fit_is_where_the_gradient_vanishes():
    random = np.random.default_rng(0)
    x, y, v = random.normal(size=(200, 3)), random.random(200), random.uniform(0.5, 2, 200)
    w = fit_logistic(x, y, v, l2=2.0, sources=["one"] * 200)

    def loss(w):
        p = sigmoid((x @ w)[:, None] + np.linspace(-2, 2, 4001))
        cross_entropy = -(v[:, None] * (y[:, None] * np.log(p) + (1 - y[:, None]) * np.log(1 - p))).sum(axis=0)
        return cross_entropy.min() + np.sum(w**2)

    for step in 0.05 * np.vstack([np.eye(3), -np.eye(3)]):
        assert loss(w) < loss(w + step)


@pytest.mark.parametrize(("stretch", "shift"), [(1.0, 0.0), (4.0, 1.0), (0.25, -2.0)])
def test_platt_undoes_a_stretch_and_a_shift(stretch, shift):
    logits = np.random.default_rng(0).normal(size=5000)
    slope, offset = platt(stretch * logits + shift, sigmoid(logits), np.ones(5000))
    assert (slope * stretch, offset + slope * shift) == pytest.approx((1, 0), abs=1e-3)


def test_platt_fits_raw_scores_that_hardly_differ():
    """A similarity-weighted mean lies within hundredths of the base rate."""
    logits = np.random.default_rng(0).normal(size=5000)
    slope, offset = platt(0.7 + 1e-4 * logits, sigmoid(logits - 1), np.ones(5000))
    assert sigmoid(slope * (0.7 + 1e-4 * logits) + offset) == pytest.approx(sigmoid(logits - 1), abs=1e-3)


def test_platt_never_turns_a_score_around():
    logits = np.linspace(-1, 1, 100)
    assert platt(logits, sigmoid(-logits), np.ones(100)) == pytest.approx((0, 0))
    rare = sigmoid(-logits - 2)
    slope, offset = platt(logits, rare, np.ones(100))
    assert slope == 0
    assert sigmoid(np.array([offset])) == pytest.approx(rare.mean())


def test_stored_questions_are_kept_in_int8_steps():
    head = fit_similarity(two_kinds())
    step = np.abs(head.embeddings).max() / 127
    assert head.embeddings / step == pytest.approx(np.round(head.embeddings / step), abs=1e-3)
