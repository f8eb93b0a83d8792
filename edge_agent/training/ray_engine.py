"""Relabelling on several machines: the stages of relabelling.py as a Ray Data pipeline, from a URL to a URL.

Knows Ray: how many workers, what they need, what their errors mean. What a sample or a label is, the stages know; where
queries and labels lie, fleet_files.py.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from edge_agent.errors import EdgeAgentError
from edge_agent.training import sample_store
from edge_agent.training.fleet_files import QUERIES, LabelParts, key, read_queries
from edge_agent.training.relabel_job import Job
from edge_agent.training.relabelling import LabelStage, Row, SampleStage, describe

_STORE_BYTES = 256 << 20
"""Of Ray's object store on this machine: only texts and small arrays pass through it."""
_SHARES = {"local": 0.45, "cloud": 0.3, "label": 0.2}
"""Of a worker's cores, by stage: Ray starts an actor only where its share is free."""
_SAMPLES = pa.struct(list(sample_store.SCHEMA))
_ONE_SIDE = QUERIES.append(pa.field("local", _SAMPLES))
_BOTH_SIDES = _ONE_SIDE.append(pa.field("cloud", _SAMPLES))


@dataclass(frozen=True, slots=True)
class Fleet:
    """The machines a run uses."""

    workers: int = 2
    """Each loads both models and what tells meanings apart; together they label `workers` parts at a time."""
    cores: float = 1.0
    """Of each worker: a model's `n_threads`, or more."""
    batch_rows: int = 64
    """Queries of a part: what is lost at most when a worker is."""
    address: str = "local"
    """Of a cluster, such as `auto` or `ray://head:10001`; `local` starts Ray on this machine for this run alone."""


@dataclass(frozen=True, slots=True)
class Stages:
    """What is done with each query; picklable, since each worker loads its models itself."""

    local: SampleStage
    cloud: SampleStage
    label: LabelStage
    recipe: str
    """Of the models, settings, clustering and rule."""


@dataclass(frozen=True, slots=True)
class Relabelled:
    """What one run on the fleet did."""

    labelled: int
    """In this run."""
    were_there: int
    unfinished: int
    """Queries without a label: the cost limit was reached."""


def stages_of(job: Job, fleet: Fleet) -> Stages:
    """The stages of a job of one machine; each worker may spend its share of the cost limit."""
    cloud = replace(job.cloud, max_cost=job.cloud.max_cost / fleet.workers)
    models = [describe(model.name, model.fingerprint, job.settings) for model in (job.local, job.cloud)]
    recipe = json.dumps([models, job.clustering, job.equivalence_fingerprint, job.rule], sort_keys=True)
    return Stages(
        SampleStage("local", job.local.sampler, job.settings),
        SampleStage("cloud", cloud.sampler, job.settings),
        LabelStage(job.make_equivalence, job.clustering, job.rule),
        hashlib.sha256(recipe.encode()).hexdigest(),
    )


def relabel(
    source: str,
    target: str,
    stages: Stages,
    fleet: Fleet | None = None,
    on_labels: Callable[[int], None] = lambda _: None,
) -> Relabelled:
    """Label each query of `source` (Parquet, fleet_files.QUERIES) into parts at `target`, which then has no others.

    What is labelled is kept: a run that was interrupted goes on with the queries that have no label, and when all have
    theirs, nothing is started.

    :param on_labels: called with the number of labels whenever a part is there.
    :raises EdgeAgentError: one sentence, whatever machine it went wrong on.
    """
    fleet = fleet or Fleet()
    wanted = {key(row, stages.recipe): row for row in read_queries(source)}
    parts = LabelParts(target, stages.recipe)
    there = {own for keys in parts.keys().values() for own in keys if own in wanted}
    if missing := [row for own, row in wanted.items() if own not in there]:
        for labelled in _label(missing, target, stages, fleet):
            on_labels(labelled)
    labels = parts.keep(wanted)
    return Relabelled(labels - len(there), len(there), len(wanted) - labels)


def _label(queries: Sequence[Row], target: str, stages: Stages, fleet: Fleet) -> Iterator[int]:
    """Label rows of queries; gives the number of labels of each part that is written.

    A part is one block all the way: Ray Data neither splits nor joins blocks of this size when no stage asks for it.
    """
    starts = range(0, len(queries), fleet.batch_rows)
    blocks = [pa.Table.from_pylist(queries[i : i + fleet.batch_rows], schema=QUERIES) for i in starts]
    with _ray(fleet) as ray, _one_sentence():
        rows = ray.data.from_arrow(blocks)
        for name, actor, *arguments in (
            ("local", _Sampled, stages.local, _ONE_SIDE),
            ("cloud", _Sampled, stages.cloud, _BOTH_SIDES),
            ("label", _Labelled, stages.label, target, stages.recipe),
        ):
            rows = rows.map_batches(
                actor, fn_constructor_args=arguments, num_cpus=_SHARES[name] * fleet.cores,
                compute=ray.data.ActorPoolStrategy(size=fleet.workers), batch_size=None, batch_format="pyarrow",
            )  # fmt: skip
        yield from (row["labels"] for row in rows.iter_rows())


class _Sampled:
    """An actor with one model."""

    def __init__(self, stage: SampleStage, schema: pa.Schema):
        self._stage, self._schema = stage, schema

    def __call__(self, batch: pa.Table) -> pa.Table:
        return pa.Table.from_pylist(self._stage(batch.to_pylist()), schema=self._schema)


class _Labelled:
    """An actor that tells meanings apart and writes what comes out as a part."""

    def __init__(self, stage: LabelStage, target: str, recipe: str):
        self._stage, self._parts, self._recipe = stage, LabelParts(target, recipe), recipe

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = batch.to_pylist()
        if rows:
            self._parts.add(self._stage(rows), [key(row, self._recipe) for row in rows])
        return pa.table({"labels": [len(rows)]})


@contextmanager
def _ray(fleet: Fleet) -> Iterator[Any]:
    """Ray, connected or started, and left as it was."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        message = f"this needs Ray ({error}): pip install 'edge-agent[fleet]', in a virtual environment of its own"
        raise EdgeAgentError(message, code="no_ray") from error
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it prints whole tracebacks of what is raised anyway
    try:
        ray.init(fleet.address, log_to_driver=False, logging_level="ERROR", **_here(fleet))
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        hint = "is this machine too busy?" if fleet.address == "local" else "is the cluster up?"
        raise EdgeAgentError(f"Ray at `{fleet.address}`: {text}; {hint}") from error
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.raise_original_map_exception = True  # wrapped, it would lose its class and its message
        yield ray
    finally:
        ray.shutdown()


def _here(fleet: Fleet) -> dict[str, Any]:
    """How Ray is started on this machine; nothing for a cluster, which is there. It listens to this machine alone."""
    if fleet.address != "local":
        return {}
    cores = math.ceil(fleet.workers * fleet.cores)
    here = {"num_cpus": cores, "object_store_memory": _STORE_BYTES, "include_dashboard": False}
    return here | {"_node_ip_address": "127.0.0.1"}


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Ray's errors carry a worker's whole traceback; the first cause says what went wrong."""
    try:
        yield
    except Exception as error:
        cause = _first_cause(error)
        text = cause.message if isinstance(cause, EdgeAgentError) else f"{type(cause).__name__}: {cause}"
        raise EdgeAgentError(f"a worker failed: {text}; what is labelled is kept, run it again") from error


def _first_cause(error: BaseException) -> BaseException:
    """The error of our own code, below those of Ray."""
    while (below := getattr(error, "cause", None) or error.__cause__) is not None:
        error = below
    return error
