"""One relabelling job on one machine: sample what is missing, label everything, write the result. Resumable.

Samples are kept in the user's cache as they come; labels are made anew from them, in minutes, whenever the queries,
the clustering or the rule changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from edge_agent.files import write_file
from edge_agent.training.label_plots import entropy_histograms
from edge_agent.training.label_queries import LabelQuery
from edge_agent.training.label_rows import summary, to_table
from edge_agent.training.labels import LabelRule
from edge_agent.training.meaning import Equivalence
from edge_agent.training.model_specs import ModelSpec
from edge_agent.training.relabelling import (
    LabelStage,
    Row,
    Side,
    describe,
    missing,
    recipe_sha256,
    rows_with_samples,
    sample_into,
)
from edge_agent.training.sample_store import SampleStore, write_parquet
from edge_agent.training.sampling import Sample, SamplingSettings
from edge_agent.training.served_sampling import worst_case

LABELS, SUMMARY, HISTOGRAMS = "labels.parquet", "summary.json", "entropies.png"
_BATCH = 512
"""Queries clustered together: enough to fill an entailment model's batches."""

OnStart = Callable[[str, int], Callable[[Sample], None]]
"""(model, queries to sample) -> what to call for each sample that came."""


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that decides which labels come out, and where they go."""

    queries: Sequence[LabelQuery]
    local: ModelSpec
    cloud: ModelSpec
    settings: SamplingSettings
    clustering: str
    make_equivalence: Callable[[], Equivalence]
    equivalence_fingerprint: str
    rule: LabelRule
    samples: Path
    """Where samples are kept between runs."""
    output: Path

    def store(self, side: Side) -> SampleStore:
        """Where one model's samples are kept. :raises EdgeAgentError: when another process is adding to them."""
        model = self.local if side == "local" else self.cloud
        return SampleStore(self.samples, describe(model.name, model.fingerprint, self.settings))


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a model's missing samples may cost at most."""

    model: str
    queries: int
    input_tokens: int
    output_tokens: int
    cost: float
    """In the currency of the price; 0 without one."""
    remote: bool
    """A server answers: queries leave this process, and may cost money."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one run did, and what its labels are like."""

    labelled: int
    sampled: int
    """Queries a model was asked about in this run."""
    unfinished: int
    """Queries without samples of both models: the cost limit was reached."""
    was_done: bool
    """The labels were there already."""
    summary: dict[str, Any]


def estimates(job: Job) -> Iterator[Estimate]:
    """For each model, before anything is asked of it."""
    for side in _SIDES:
        model, store = _model(job, side), job.store(side)
        wanted = missing(job.queries, store)
        store.close()
        worst = [worst_case(query.prompt, job.settings) for query in wanted]
        asked, answered = (round(sum(tokens[i] for tokens in worst)) for i in (0, 1))
        yield Estimate(model.name, len(wanted), asked, answered, model.price.of(asked, answered), bool(model.base_url))


def run(job: Job, on_start: OnStart) -> Result:
    """Sample, label, write labels.parquet, summary.json and entropies.png. A rerun with nothing new does nothing."""
    with ExitStack() as stack:
        stores: dict[Side, SampleStore] = {side: job.store(side) for side in _SIDES}
        for store in stores.values():
            stack.callback(store.close)
        sampled = sum(_sample(job, side, stores[side], on_start) for side in _SIDES)
        rows, unfinished = rows_with_samples(job.queries, stores)
        whole = {row["query_id"] for row in rows}
        recipe = recipe_sha256(
            [query for query in job.queries if query.id in whole],
            list(stores.values()), job.clustering, job.equivalence_fingerprint, job.rule,
        )  # fmt: skip
        done = _done_before(job.output, recipe)
        if done is not None:
            return Result(len(rows), sampled, len(unfinished), True, done)
        labels = _labelled(job, rows)
    return Result(len(labels), sampled, len(unfinished), False, write_labels(job, labels, recipe))


_SIDES: tuple[Side, Side] = ("local", "cloud")


def _model(job: Job, side: Side) -> ModelSpec:
    return job.local if side == "local" else job.cloud


def _sample(job: Job, side: Side, store: SampleStore, on_start: OnStart) -> int:
    model = _model(job, side)
    wanted = missing(job.queries, store)
    if not wanted:
        return 0
    on_sample = on_start(model.name, len(wanted))
    sampler = model.sampler()
    try:
        return sample_into(store, wanted, sampler, job.settings, on_sample)
    finally:
        sampler.close()


def _labelled(job: Job, rows: Sequence[Row]) -> list[Row]:
    stage = LabelStage(job.make_equivalence, job.clustering, job.rule)
    return [label for start in range(0, len(rows), _BATCH) for label in stage(rows[start : start + _BATCH])]


def write_labels(job: Job, labels: Sequence[Row], recipe: str) -> dict[str, Any]:
    """The three files; labels.parquet, which says that the job is done, comes last."""
    job.output.mkdir(parents=True, exist_ok=True)
    found = summary(labels) | {
        "local": job.local.name,
        "cloud": job.cloud.name,
        "settings": asdict(job.settings),
        "clustering": job.clustering,
        "rule": job.rule,
    }
    write_file(job.output / SUMMARY, json.dumps(found, indent=1).encode())
    write_file(job.output / HISTOGRAMS, entropy_histograms(labels))
    table = to_table(labels)
    metadata = {**(table.schema.metadata or {}), b"recipe": recipe.encode()}
    write_parquet(job.output / LABELS, table.replace_schema_metadata(metadata))
    return found


def _done_before(output: Path, recipe: str) -> dict[str, Any] | None:
    """The summary of the labels that are there, when they were made from the same."""
    try:
        metadata = pq.read_schema(output / LABELS).metadata or {}
        if metadata.get(b"recipe") != recipe.encode():
            return None
        return dict(json.loads((output / SUMMARY).read_text()))
    except (OSError, ValueError):  # not there, or not whole: pyarrow's errors are of both kinds
        return None
