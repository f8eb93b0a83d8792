"""Clustering answers by meaning: in rounds over all queries, against one pair at a time. Passes and seconds per query.

python -m benchmarks.entailment [--samples FILE] [--queries N]

FILE holds lines of {"question": ..., "answers": [...]}, perhaps with "values": [...], what each says or null: then
how well answers of one value are told from answers of two is printed as well. Without FILE, ten answers to each of our
own questions are drawn from a long-tailed distribution over right and wrong ones in several wordings.

"Pairwise" compares every two answers in both directions, one pass at a time; "greedy" compares with first members only,
one pass at a time as well. All three ask the same int8 model.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from random import Random

import numpy as np

from benchmarks.table import print_table
from edge_agent.training.answer_overlap import normalised
from edge_agent.training.entailment import AskedPair, EntailmentModel, find_model
from edge_agent.training.equivalences import FEATURES, Combination, EntailmentEquivalence, pair_features
from edge_agent.training.evaluation import auroc
from edge_agent.training.meaning import AnswerPair, Answers, Asked, cluster_many
from edge_agent.training.questions import generate
from edge_agent.training.semantic_entropy import cluster

WORDINGS = ("{}", "{}.", "It is {}.", "The answer is {}", "{} I think")
N_ANSWERS = 10


class OneByOne(EntailmentModel):
    """The same model, asked about one pair at a time, in both directions, and remembering nothing."""

    def probabilities(self, pairs: Sequence[AskedPair]):  # type: ignore[no-untyped-def]
        return self._run(pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=Path)
    parser.add_argument("--queries", type=int, default=60)
    parser.add_argument("--model", type=Path, help="directory; default the one in router_models/entailment")
    parser.add_argument("--threads", type=int, default=0, help="0 takes every core")
    chosen = parser.parse_args()
    directory = chosen.model or find_model(Path("router_models"))
    queries = (read(chosen.samples) if chosen.samples else drawn(Random(0)))[: chosen.queries]
    different = sum(len(set(query.texts)) for query in queries) / len(queries)
    print(f"{len(queries)} queries, {different:.1f} different texts each, {directory.name}")
    methods = {"pairwise, batch 1": pairwise, "greedy, batch 1": greedy, "rounds, batched": rounds}
    found = {name: measured(run, directory, chosen.threads, queries) for name, run in methods.items()}
    ours = found["rounds, batched"]
    rows = [
        [name, *(f"{value:.3f} ({value / own:.1f}x)" for value, own in zip(values, ours, strict=True))]
        for name, values in found.items()
    ]
    print_table("For each query (and times ours)", ["", "passes", "seconds", "processor seconds"], rows)
    if chosen.samples:
        by_value(chosen.samples, directory)


def read(path: Path) -> list[Answers]:
    with path.open(encoding="utf-8") as file:
        return [Answers(Asked(row["question"]), tuple(row["answers"])) for row in map(json.loads, file)]


def drawn(random: Random) -> list[Answers]:
    """Answers of other questions of the same template are the wrong ones."""
    questions = generate(400)
    by_template = {q.template: [p.answers[0] for p in questions if p.template == q.template] for q in questions}
    result = []
    for question in random.sample(questions, len(questions)):
        candidates = list(dict.fromkeys([question.answers[0], *by_template[question.template]]))
        weights = [1 / (rank + 1) for rank in range(len(candidates))]
        values = random.choices(candidates, weights, k=N_ANSWERS)
        texts = tuple(random.choice(WORDINGS).format(value) for value in values)
        result.append(Answers(Asked(question.text), texts))
    return result


def measured(
    run: Callable[[EntailmentModel, Sequence[Answers]], None], path: Path, threads: int, queries: Sequence[Answers]
) -> tuple[float, float, float]:
    """Passes, seconds and processor seconds per query, with nothing remembered from before."""
    ours = run is rounds
    model = (EntailmentModel if ours else OneByOne).load(
        path, n_threads=threads, **({} if ours else {"batch_tokens": 1})
    )
    model.verdicts([("warm", "up", "!")])
    passes, start, processor = model.passes, time.perf_counter(), time.process_time()
    run(model, queries)
    seconds, busy, n = time.perf_counter() - start, time.process_time() - processor, len(queries)
    return (model.passes - passes) / n, seconds / n, busy / n


def pairwise(model: EntailmentModel, queries: Sequence[Answers]) -> None:
    for query in queries:
        for a, b in combinations(query.texts, 2):
            model.verdicts([(query.asked.text, a, b)])
            model.verdicts([(query.asked.text, b, a)])


def greedy(model: EntailmentModel, queries: Sequence[Answers]) -> None:
    combination = Combination.from_card(model.card)
    if combination is None:
        raise SystemExit("benchmarks.entailment: expected a model whose card has a combination")
    for query in queries:
        texts = query.texts

        def same(i: int, j: int, asked: Asked = query.asked, texts: tuple[str, ...] = texts) -> bool:
            score = combination.scores(pair_features(model, [AnswerPair(asked, texts[i], texts[j])]))[0]
            return bool(score >= combination.threshold)

        cluster(len(texts), same)


def rounds(model: EntailmentModel, queries: Sequence[Answers]) -> None:
    cluster_many(queries, EntailmentEquivalence(model))


def by_value(path: Path, directory: Path) -> None:
    """Pairs of different texts on questions whose answers have values: the same value is the same meaning."""
    with path.open(encoding="utf-8") as file:
        rows = [row for row in map(json.loads, file) if row.get("values")]
    pairs, same = [], []
    for row in rows:
        texts = {normalised(a): (a, v) for a, v in zip(row["answers"], row["values"], strict=True) if v and a.strip()}
        for (a, value), (b, other) in combinations(texts.values(), 2):
            pairs.append(AnswerPair(Asked(row["question"]), a, b))
            same.append(float(value == other))
    if not 0 < sum(same) < len(same):
        return
    features, truth = pair_features(EntailmentModel.load(directory), pairs), np.array(same)
    combination = Combination.from_card(EntailmentModel.load(directory).card)
    scores = {name: features[:, i] for i, name in enumerate(FEATURES)}
    if combination:
        scores["the card's combination"] = combination.scores(features)
        right = np.mean((scores["the card's combination"] >= combination.threshold) == (truth > 0.5))
        print(f"\nThe card's threshold is right on {right:.1%} of {len(pairs)} pairs; {truth.mean():.1%} are the same.")
    table = [[name, f"{auroc(values, truth):.3f}"] for name, values in scores.items()]
    print_table("Answers with values: AUROC of one value against two", ["", "AUROC"], table)


if __name__ == "__main__":
    main()
