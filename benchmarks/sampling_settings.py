"""Which sampling settings make semantic entropy say something: python -m benchmarks.sampling_settings

Samples dev questions of the mix at several temperatures and top-p, clusters the answers, and asks how well each measure
of uncertainty tells wrong near-greedy answers from right ones (AUROC, 0.5 is chance). Samples are kept in the user's
cache: a second run only computes. `--split` confirms a choice on questions that were not looked at.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import numpy as np
from tqdm import tqdm

from edge_agent.config import xdg_dir
from edge_agent.training import semantic_entropy as entropy
from edge_agent.training.equivalences import ExactEquivalence, ValueEquivalence
from edge_agent.training.evaluation import auroc, bootstrap
from edge_agent.training.grading import grade
from edge_agent.training.label_queries import LabelQuery, of_questions
from edge_agent.training.meaning import Answers, Asked, Equivalence, cluster_many
from edge_agent.training.model_specs import model_spec
from edge_agent.training.question_sets import training_mix
from edge_agent.training.questions import split_of
from edge_agent.training.relabelling import describe, missing, sample_into
from edge_agent.training.sample_store import SampleStore
from edge_agent.training.sampling import Sample, SamplingSettings

Graded = tuple[LabelQuery, Sample, bool]
"""A query, a model's answers, and whether the near-greedy one is right."""


def main() -> None:
    chosen = parse()
    queries = chosen_queries(chosen)
    print(f"{chosen.model}, {len(queries)} questions of split {chosen.split}, AUROC for a wrong near-greedy answer")
    print("| temperature, top-p | wrong | certain | measure | n = 5 | n = 10 | 95 % |")
    print("|---|---|---|---|---|---|---|")
    for setting in chosen.settings:
        temperature, top_p = map(float, setting.split(","))
        graded = sampled(chosen, queries, SamplingSettings(10, temperature, top_p, seed=0))
        for row in rows(graded):
            print(f"| {temperature:g}, {top_p:g} {row}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default="qwen2.5-coder-0.5b")
    add("--settings", nargs="+", default=["1,1", "0.7,1", "1,0.9", "0.5,1"], metavar="TEMPERATURE,TOP_P")
    add("--questions", type=int, default=120)
    add("--mix", type=int, default=1560, help="the mix they are taken from")
    add("--data", type=Path, default=Path(os.environ.get("EDGE_AGENT_DATA", "../shared/data")) / "questions")
    add("--split", default="dev", choices=["dev", "train", "test"])
    add("--threads", type=int, default=os.cpu_count() or 2)
    return parser.parse_args()


def chosen_queries(chosen: argparse.Namespace) -> list[LabelQuery]:
    questions = [q for q in training_mix(chosen.data, chosen.mix, seed=0) if split_of(q) == chosen.split]
    Random(5).shuffle(questions)
    return of_questions(questions[: chosen.questions])


def sampled(chosen: argparse.Namespace, queries: Sequence[LabelQuery], settings: SamplingSettings) -> list[Graded]:
    """The queries with gradable near-greedy answers; what is missing is sampled first."""
    spec = model_spec(chosen.model, xdg_dir("cache") / "models", os.environ, n_threads=chosen.threads)
    store = SampleStore(xdg_dir("cache") / "samples", describe(spec.name, spec.fingerprint, settings))
    if wanted := missing(queries, store):
        sampler = spec.sampler()
        with tqdm(total=len(wanted), desc=f"{settings.temperature}, {settings.top_p}") as bar:
            sample_into(store, queries, sampler, settings, lambda _: bool(bar.update(1)) and None)
        sampler.close()
    by_id = {query.id: query for query in queries}
    found = []
    for _, sample in store.samples():
        greedy = sample.generations[0]
        if sample.query_id in by_id and (question := by_id[sample.query_id].question):
            right = grade(question, greedy.text, truncated=greedy.finish_reason == "length")
            if right is not None:
                found.append((by_id[sample.query_id], sample, right))
    store.close()
    return found


def rows(graded: Sequence[Graded]) -> list[str]:
    """Cells of the table for one setting, one row a measure."""
    wrong = np.array([not right for _, _, right in graded], dtype=float)
    kinds: list[tuple[str, Equivalence]] = [
        ("exact", ExactEquivalence()),
        ("value", ValueEquivalence(ExactEquivalence())),
    ]
    by_value = cluster_many([_answers(query, sample, 10) for query, sample, _ in graded], kinds[1][1])
    certain = np.mean([len(set(meanings.semantic_ids)) == 1 for meanings in by_value])
    head = f"| {wrong.mean():.3f} | {certain:.2f} |"
    found = []
    for name, equivalence in kinds:
        for measure, function in MEASURES.items():
            scores = [np.array(_scores(graded, equivalence, n, function)) for n in (5, 10)]
            found.append(_row(head, f"{measure}, {name}", wrong, *scores))
    for name, score in RIVALS.items():
        scores = [np.array([score(sample, n) for _, sample, _ in graded]) for n in (5, 10)]
        found.append(_row(head, name, wrong, *scores))
    return found


MEASURES: dict[str, Callable[[Sequence[int], Sequence[float]], float]] = {
    "discrete": lambda ids, _: entropy.discrete_entropy(ids),
    "likelihood": entropy.likelihood_entropy,
    "Kuhn": entropy.kuhn_entropy,
    "number of sets": lambda ids, _: float(len(set(ids))),
}
RIVALS: dict[str, Callable[[Sample, int], float]] = {
    "SNNE, ROUGE-L": lambda sample, n: entropy.snne(_similarities(sample, n)),
    "pairwise distance": lambda sample, n: entropy.degree_uncertainty(_similarities(sample, n)),
    "-log-likelihood, near-greedy": lambda sample, _: -sample.generations[0].log_likelihood,
    "mean token entropy, near-greedy": lambda sample, _: float(np.mean(sample.entropies)),
}


def _scores(
    graded: Sequence[Graded],
    equivalence: Equivalence,
    n: int,
    measure: Callable[[Sequence[int], Sequence[float]], float],
) -> list[float]:
    meanings = cluster_many([_answers(query, sample, n) for query, sample, _ in graded], equivalence)
    likelihoods = [[g.log_likelihood for g in sample.generations[1 : n + 1]] for _, sample, _ in graded]
    return [measure(own.semantic_ids, values) for own, values in zip(meanings, likelihoods, strict=True)]


def _answers(query: LabelQuery, sample: Sample, n: int) -> Answers:
    return Answers(Asked(query.text, query.question), tuple(g.text for g in sample.generations[1 : n + 1]))


def _similarities(sample: Sample, n: int) -> list[list[float]]:
    words = [g.text.casefold().split() for g in sample.generations[1 : n + 1]]
    return [[entropy.rouge_l(a, b) for b in words] for a in words]


def _row(head: str, name: str, wrong: np.ndarray, five: np.ndarray, ten: np.ndarray) -> str:
    low, high = bootstrap(lambda chosen: auroc(ten[chosen], wrong[chosen]), len(wrong), resamples=500)
    return f"{head} {name} | {auroc(five, wrong):.3f} | {auroc(ten, wrong):.3f} | [{low:.3f}, {high:.3f}] |"


if __name__ == "__main__":
    main()
