"""Records what two other implementations of semantic entropy say about made-up answers, for a test of ours.

The peers are uqlm (Apache-2.0) and lm-polygraph (MIT); they want an older numpy than we do, so they have an environment
of their own, and nothing of edge-agent is imported here:

    python3 -m venv peers
    peers/bin/pip install --upgrade pip
    peers/bin/pip install torch uqlm 'transformers<5' 'numpy<2' 'pyarrow<21' 'datasets<4' openai rouge-score nltk \
        sacrebleu sentencepiece bs4 diskcache spacy boostedprob omegaconf
    peers/bin/pip install --no-deps lm-polygraph
    peers/bin/python benchmarks/peers/semantic_entropy_peer.py tests/training/data/semantic_entropy_peers.json

Both get the same answers, token log-probabilities and verdicts. The verdicts are symmetric and transitive (answers are
wordings of known meanings), since the peers cluster differently when they are not: uqlm lets an answer join several
clusters, lm-polygraph's number of sets counts connected components.

What they compute:
uqlm: the discrete entropy, the entropy of length-normalised likelihoods, the number of sets, and a confidence of
  1 - H / ln K.
lm-polygraph: the discrete entropy (`frequency`); Kuhn's estimator (`sum`) with two differences from ours: the classes'
  masses are not normalised, which adds -ln of all the mass, and the mean goes over samples, not over classes, so that
  a class weighs as often as it was sampled; the number of sets; the degree matrix; the length-normalised predictive
  entropy; the mean ROUGE-L of all pairs, negative, of stemmed words.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

SEED, N_ANSWERS = 20, 10
WORDINGS = ("{}", "it is {}", "I think {}", "{} of course", "the answer is {}", "that would be {}", "{} is my guess")
QUESTIONS = {
    "Which planet is the red one?": ("Mars", "Venus", "Saturn"),
    "What is the capital of Norway?": ("Oslo", "Bergen", "Stockholm", "Paris"),
    "How many legs has a spider?": ("eight", "six", "ten"),
    "Which metal is liquid at room temperature?": ("mercury", "tin", "lead", "zinc", "iron"),
    "What is frozen water?": ("ice", "snow"),
    "Which month has the fewest days?": ("February", "April", "June"),
    "Who wrote Hamlet?": ("Shakespeare", "Marlowe", "Milton", "Goethe"),
    "What do bees make?": ("honey", "wax", "pollen"),
}
SIZES = ((10,), (1,) * 10, (5, 5), (2,) * 5)
"""Of the clusters of four more queries: certain, clueless, and two with classes of one size."""


class Verdicts:
    """Stands for the entailment model of uqlm: answers of one meaning entail each other, with or without a prompt."""

    def __init__(self) -> None:
        self.meaning: dict[str, int] = {}
        self.num_responses = 0

    def get_nli_results_batch(self, pairs: list[tuple[str, str]]) -> list[dict[str, Any]]:
        same = [self.meaning[a.split("\n")[-1]] == self.meaning[b.split("\n")[-1]] for a, b in pairs]
        return [{"entailment": s, "entailment_score": float(s), "noncontradiction_score": float(s)} for s in same]


def made_up(rng: Random) -> list[dict[str, Any]]:
    """Questions with ten answers each, their meanings, and log-probabilities of their tokens."""
    queries = []
    for question, things in QUESTIONS.items():
        weights = [rng.random() ** 2 + 0.05 for _ in things]
        queries.append(_query(rng, question, list(things), rng.choices(range(len(things)), weights, k=N_ANSWERS)))
    for sizes in SIZES:
        meanings = [i for i, size in enumerate(sizes) for _ in range(size)]
        rng.shuffle(meanings)
        things = [f"number {chr(ord('a') + i)}" for i in range(len(sizes))]
        queries.append(_query(rng, f"Which of {len(sizes)}?", things, meanings))
    return queries


def _query(rng: Random, question: str, things: list[str], meanings: list[int]) -> dict[str, Any]:
    answers = [rng.choice(WORDINGS).format(things[i]) for i in meanings]
    logprobs = [[round(-rng.expovariate(1.5), 4) for _ in range(rng.randint(2, 9))] for _ in meanings]
    return {"question": question, "answers": answers, "meanings": meanings, "token_logprobs": logprobs}


def by_uqlm(query: dict[str, Any]) -> dict[str, Any]:
    from uqlm import SemanticEntropy

    verdicts = Verdicts()
    verdicts.meaning = dict(zip(query["answers"], query["meanings"], strict=True))
    logprobs = [[{"logprob": value} for value in answer] for answer in query["token_logprobs"]]
    scorer = SemanticEntropy(llm=None, nli=verdicts, use_best=False)
    data = scorer.score(
        prompts=[query["question"]], responses=query["answers"][:1], sampled_responses=[query["answers"][1:]],
        logprobs_results=logprobs[:1], sampled_logprobs_results=[logprobs[1:]], show_progress_bars=False,
    ).data  # fmt: skip
    return {
        "discrete": data["discrete_entropy_values"][0],
        "likelihood": data["tokenprob_entropy_values"][0],
        "n_sets": data["num_semantic_sets"][0],
        "confidence": data["discrete_confidence_scores"][0],
    }


def by_lm_polygraph(query: dict[str, Any]) -> dict[str, Any]:
    from lm_polygraph import estimators
    from lm_polygraph.stat_calculators.semantic_classes import SemanticClassesCalculator

    meanings = np.array(query["meanings"])
    same = (meanings[:, None] == meanings[None, :]).astype(float)[None]
    means = [float(np.mean(answer)) for answer in query["token_logprobs"]]
    stats = {
        "sample_texts": [query["answers"]],
        "semantic_matrix_classes": same.astype(int), "entailment_id": 1,
        "semantic_matrix_entail": same, "semantic_matrix_contra": 1 - same,
        "sample_log_probs": [means],
    }  # fmt: skip
    stats |= SemanticClassesCalculator()(stats, [query["question"]], None)
    classes = stats["semantic_classes_entail"]["sample_to_class"][0]
    totals = {
        "sample_log_probs": [[sum(answer) for answer in query["token_logprobs"]]],
        "sample_tokens": [query["token_logprobs"]],  # only their number counts
    }
    return {
        "classes": [classes[i] for i in range(N_ANSWERS)],
        "discrete": _first(estimators.SemanticEntropy(class_probability_estimation="frequency"), stats),
        "mean_over_samples": _first(estimators.SemanticEntropy(class_probability_estimation="sum"), stats),
        "n_sets": _first(estimators.NumSemSets(), stats),
        "distance": _first(estimators.DegMat(), stats),
        "naive": _first(estimators.MonteCarloNormalizedSequenceEntropy(), totals),
        "rouge_l": _first(estimators.LexicalSimilarity("rougeL"), stats),
    }


def _first(estimator: Any, stats: dict[str, Any]) -> float:
    return float(estimator(stats)[0])


def main(path: Path) -> None:
    queries = [q | {"uqlm": by_uqlm(q), "lm_polygraph": by_lm_polygraph(q)} for q in made_up(Random(SEED))]
    versions = {name: version(name) for name in ("uqlm", "lm-polygraph")}
    rows = ",\n".join(json.dumps(query) for query in queries)
    path.write_text(f'{{"seed": {SEED}, "versions": {json.dumps(versions)}, "queries": [\n{rows}\n]}}\n')


if __name__ == "__main__":
    main(Path(sys.argv[1]))
