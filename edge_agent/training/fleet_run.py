"""One relabelling job on several machines: queries go to a store that all of them reach, labels come back from it."""

from __future__ import annotations

from collections.abc import Callable

from edge_agent.training.fleet_files import LabelParts, put_queries
from edge_agent.training.ray_engine import Fleet, relabel, stages_of
from edge_agent.training.relabel_job import Job, Result, write_labels


def run_on_fleet(job: Job, url: str, fleet: Fleet, on_labels: Callable[[int], None]) -> Result:
    """Label the job's queries with Ray, and write its files here. What is labelled already is kept.

    :param url: a folder or an object store (s3://...), for queries/ and labels/.
    :raises EdgeAgentError: one sentence, whatever machine it went wrong on.
    """
    stages = stages_of(job, fleet)
    queries, labels = f"{url.rstrip('/')}/queries", f"{url.rstrip('/')}/labels"
    put_queries(job.queries, queries)
    done = relabel(queries, labels, stages, fleet, on_labels)
    rows = sorted(LabelParts(labels, stages.recipe).rows(), key=lambda row: str(row["query_id"]))
    summary = write_labels(job, rows, stages.recipe)
    return Result(len(rows), done.labelled, done.unfinished, done.labelled == 0, summary)
