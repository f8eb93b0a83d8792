"""Our entropies against those that uqlm and lm-polygraph gave for the same answers, likelihoods and verdicts.

benchmarks/peers/semantic_entropy_peer.py recorded them, and says where the peers' definitions differ.
"""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.training import semantic_entropy as ours

RECORD = json.loads((Path(__file__).parent / "data" / "semantic_entropy_peers.json").read_text())


@pytest.fixture(params=RECORD["queries"], ids=lambda query: query["question"])
def query(request: pytest.FixtureRequest) -> dict[str, Any]:
    """One question with ten answers; `ids` are our semantic ids, `means` the length-normalised log-likelihoods."""
    meanings = request.param["meanings"]
    ids = ours.cluster(len(meanings), lambda i, j: meanings[i] == meanings[j]).tolist()
    return request.param | {"ids": ids, "means": [float(np.mean(answer)) for answer in request.param["token_logprobs"]]}


def close(value: float) -> object:
    return pytest.approx(value, abs=1e-6)


def test_uqlm_finds_the_same_entropies(query: dict[str, Any]) -> None:
    peer, ids = query["uqlm"], query["ids"]
    assert ours.discrete_entropy(ids) == close(peer["discrete"])
    assert ours.likelihood_entropy(ids, query["means"]) == close(peer["likelihood"])
    assert 1 - ours.normalised_entropy(ids) == close(peer["confidence"])
    assert len(ours.clusters(ids)) == peer["n_sets"]


def test_lm_polygraph_finds_the_same_clusters_and_entropies(query: dict[str, Any]) -> None:
    peer, ids = query["lm_polygraph"], query["ids"]
    same = np.equal.outer(ids, ids).astype(float)
    assert ids == peer["classes"]
    assert len(ours.clusters(ids)) == peer["n_sets"]
    assert ours.discrete_entropy(ids) == close(peer["discrete"])
    assert ours.degree_uncertainty(same) == close(peer["distance"])
    assert ours.naive_entropy(query["means"]) == close(peer["naive"])


def test_lm_polygraphs_masses_are_ours_before_they_are_normalised(query: dict[str, Any]) -> None:
    """Its mean goes over samples, Kuhn's over classes: each class counts as often as it was sampled."""
    ids, means = query["ids"], query["means"]
    surprise = -np.log(ours.cluster_masses(ids, means)) - np.logaddexp.reduce(means)
    assert np.average(surprise, weights=ours.counts(ids)) == close(query["lm_polygraph"]["mean_over_samples"])


def test_kuhns_estimator_is_lm_polygraphs_where_all_classes_have_one_size() -> None:
    compared = 0
    for row in RECORD["queries"]:
        means = [float(np.mean(answer)) for answer in row["token_logprobs"]]
        if len(set(ours.counts(row["meanings"]))) == 1:
            kuhn = ours.kuhn_entropy(row["meanings"], means)
            assert kuhn - np.logaddexp.reduce(means) == close(row["lm_polygraph"]["mean_over_samples"])
            compared += 1
    assert compared >= 4


def test_rouge_l_of_all_pairs_is_lm_polygraphs(query: dict[str, Any]) -> None:
    """It stems words, which makes no two of these words one."""
    words = [answer.lower().split() for answer in query["answers"]]
    mean = np.mean([ours.rouge_l(a, b) for a, b in combinations(words, 2)])
    assert -mean == close(query["lm_polygraph"]["rouge_l"])
