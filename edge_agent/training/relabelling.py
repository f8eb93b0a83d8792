"""From queries to labels: two models sample, answers are clustered by meaning, entropies become a label.

The stages take rows and give rows. In one process each stage sees all rows, and samples are kept as they come; a
cluster of machines gives the same stages batches of rows (ray_engine.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from edge_agent.training.label_queries import LabelQuery
from edge_agent.training.label_rows import label_row
from edge_agent.training.labels import LabelRule
from edge_agent.training.meaning import Answers, Asked, Equivalence, cluster_many
from edge_agent.training.sample_store import SampleStore, from_row, to_row
from edge_agent.training.sampling import Prompt, Sample, SamplingSettings

Row = dict[str, Any]
Side = Literal["local", "cloud"]


class Sampler(Protocol):
    """A model that answers each prompt several times: a GGUF in this process, or any OpenAI-compatible server."""

    name: str

    def sample(self, prompts: Iterable[Prompt], settings: SamplingSettings) -> Iterator[Sample]:
        """Answers to each prompt, in the order in which they are complete."""
        ...

    def close(self) -> None:
        """Free the model or its connections."""
        ...


def describe(model: str, fingerprint: str, settings: SamplingSettings) -> Row:
    """What samples depend on besides the prompt: written beside them, and the name of their directory."""
    return {"model": model, "fingerprint": fingerprint, **asdict(settings)}


def missing(queries: Iterable[LabelQuery], store: SampleStore) -> list[LabelQuery]:
    """The queries that are not sampled yet."""
    return [query for query in queries if (query.id, query.prompt.sha256) not in store]


def sample_into(
    store: SampleStore,
    queries: Sequence[LabelQuery],
    sampler: Sampler,
    settings: SamplingSettings,
    on_sample: Callable[[Sample], None] = lambda _: None,
) -> int:
    """Sample what is missing; how many queries that were. A rerun does nothing."""
    wanted = missing(queries, store)
    by_id = {query.id: query for query in wanted}
    for sample in sampler.sample([query.prompt for query in wanted], settings):
        query = by_id[sample.query_id]
        store.add(sample, query.prompt.sha256, query.exchange_ids)
        on_sample(sample)
    return len(wanted)


@dataclass(slots=True)
class SampleStage:
    """Rows of queries -> those the model answered, with its samples under `side`; it is made at the first call."""

    side: Side
    make_sampler: Callable[[], Sampler]
    settings: SamplingSettings
    _sampler: Sampler | None = None

    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        if self._sampler is None:
            self._sampler = self.make_sampler()
        queries = {row["query_id"]: LabelQuery.from_row(row) for row in rows}
        prompts = [query.prompt for query in queries.values()]
        found = {sample.query_id: sample for sample in self._sampler.sample(prompts, self.settings)}
        return [with_sample(row, self.side, found[row["query_id"]]) for row in rows if row["query_id"] in found]


def with_sample(row: Row, side: Side, sample: Sample) -> Row:
    """The query's row with a model's samples."""
    return row | {side: to_row(sample, LabelQuery.from_row(row).prompt.sha256)}


@dataclass(slots=True)
class LabelStage:
    """Rows with both models' samples -> rows of labels (label_rows.SCHEMA)."""

    make_equivalence: Callable[[], Equivalence]
    clustering: str
    """The equivalence's name, for the rows."""
    rule: LabelRule = "z"
    _equivalence: Equivalence | None = None

    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        if self._equivalence is None:
            self._equivalence = self.make_equivalence()
        queries = [LabelQuery.from_row(row) for row in rows]
        samples = [(from_row(row["local"]), from_row(row["cloud"])) for row in rows]
        answers = [_drawn(query, sample) for query, both in zip(queries, samples, strict=True) for sample in both]
        meanings = cluster_many(answers, self._equivalence)
        pairs = zip(meanings[::2], meanings[1::2], strict=True)
        return [
            label_row(query, *both, own, clustering=self.clustering, rule=self.rule)
            for query, both, own in zip(queries, samples, pairs, strict=True)
        ]


def _drawn(query: LabelQuery, sample: Sample) -> Answers:
    """The drawn answers: the near-greedy one is no sample of what the model may say."""
    return Answers(Asked(query.text, query.question), tuple(g.text for g in sample.generations if g.index > 0))


def rows_with_samples(
    queries: Sequence[LabelQuery], stores: Mapping[Side, SampleStore]
) -> tuple[list[Row], list[LabelQuery]]:
    """(rows with both models' samples, queries that lack one), from what is kept."""
    rows = {query.id: query.to_row() for query in queries}
    wanted = {query.id: query.prompt.sha256 for query in queries}
    for side, store in stores.items():
        for prompt_sha256, sample in store.samples():
            if wanted.get(sample.query_id) == prompt_sha256:
                rows[sample.query_id][side] = to_row(sample, prompt_sha256)
    whole = [rows[query.id] for query in queries if all(side in rows[query.id] for side in stores)]
    known = {row["query_id"] for row in whole}
    return whole, [query for query in queries if query.id not in known]


def recipe_sha256(
    queries: Iterable[LabelQuery], stores: Iterable[SampleStore], clustering: str, fingerprint: str, rule: str
) -> str:
    """Changes whenever the labels might: a label file that carries it needs no work.

    :param fingerprint: of the equivalence's model.
    """
    parts = [f"{query.id} {query.prompt.sha256} {','.join(query.exchange_ids)}" for query in queries]
    parts += [store.directory.name for store in stores]
    return hashlib.sha256("\n".join([*parts, clustering, fingerprint, rule]).encode()).hexdigest()
