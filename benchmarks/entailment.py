"""Clustering answers by meaning: in rounds over all queries, against one pair at a time. Passes and seconds per query.

python -m benchmarks.entailment [--samples FILE] [--queries N]

FILE holds lines of {"question": ..., "answers": [...]}; without it, ten answers to each of our own questions are drawn
from a long-tailed distribution over right and wrong ones in several wordings. "Pairwise" compares every two answers in
both directions, one pass at a time, as the paper's reference code does; "greedy" compares with first members only, also
one pass at a time. All three ask the same int8 model.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from random import Random

from benchmarks.table import print_table
from edge_agent.training.entailment import AskedPair, EntailmentModel, find_model
from edge_agent.training.equivalences import EntailmentEquivalence
from edge_agent.training.meaning import AnswerPair, Answers, Asked, cluster_many
from edge_agent.training.questions import generate
from edge_agent.training.semantic_entropy import cluster

WORDINGS = ("{}", "{}.", "It is {}.", "The answer is {}", "{} I think")
N_ANSWERS = 10


class OneByOne(EntailmentModel):
    """The same model, asked about one pair at a time and remembering nothing."""

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
        [name, f"{passes:.1f}", f"{seconds:.4f}", f"{passes / ours[0]:.1f}x", f"{seconds / ours[1]:.1f}x"]
        for name, (passes, seconds) in found.items()
    ]
    print_table("Entailment", ["", "passes a query", "seconds a query", "passes to ours", "seconds to ours"], rows)


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
) -> tuple[float, float]:
    """Passes and seconds per query, with nothing remembered from before."""
    ours = run is rounds
    model = (EntailmentModel if ours else OneByOne).load(path, n_threads=threads, batch_size=64 if ours else 1)
    model.verdicts([("warm", "up", "!")])
    passes, start = model.passes, time.perf_counter()
    run(model, queries)
    return (model.passes - passes) / len(queries), (time.perf_counter() - start) / len(queries)


def pairwise(model: EntailmentModel, queries: Sequence[Answers]) -> None:
    for query in queries:
        for a, b in combinations(query.texts, 2):
            model.verdicts([(query.asked.text, a, b)])
            model.verdicts([(query.asked.text, b, a)])


def greedy(model: EntailmentModel, queries: Sequence[Answers]) -> None:
    equivalence = EntailmentEquivalence(model)
    for query in queries:
        texts = query.texts

        def same(i: int, j: int, asked: Asked = query.asked, texts: tuple[str, ...] = texts) -> bool:
            return equivalence.same([AnswerPair(asked, texts[i], texts[j])])[0]

        cluster(len(texts), same)


def rounds(model: EntailmentModel, queries: Sequence[Answers]) -> None:
    cluster_many(queries, EntailmentEquivalence(model))


if __name__ == "__main__":
    main()
