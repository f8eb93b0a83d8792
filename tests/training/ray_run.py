"""A relabelling job of tiny models, and the program that runs it on Ray: in the virtual environment that has Ray.

`python -m tests.training.ray_run SOURCE TARGET LOCAL.gguf CLOUD.gguf` prints what was done as JSON, or one sentence.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

from edge_agent.errors import EdgeAgentError
from edge_agent.training.equivalences import ExactEquivalence
from edge_agent.training.label_queries import LabelQuery, of_exchanges, of_questions
from edge_agent.training.model_specs import ModelSpec
from edge_agent.training.questions import generate
from edge_agent.training.ray_engine import Fleet, Stages, relabel, stages_of
from edge_agent.training.relabel_job import Job
from edge_agent.training.sampling import SamplingSettings
from edge_agent.types import Message

FLEET = Fleet(workers=2, batch_rows=2)


def queries() -> list[LabelQuery]:
    """Three graded questions and three from a log; of one token each, so that answers are met again."""
    asked = [(f"exchange-{text[0]}", [Message("user", text)]) for text in ("turn on the light", "how warm is it", "hi")]
    found = [*of_questions(generate(3)), *of_exchanges(asked)]
    return [replace(query, prompt=replace(query.prompt, max_tokens=1)) for query in found]


def job(local: Path, cloud: Path, folder: Path) -> Job:
    """Both models on all queries, six answers each."""
    models = [ModelSpec(f"tiny-{side}", side, path=path, n_threads=1) for side, path in (("a", local), ("b", cloud))]
    settings = SamplingSettings(n=6, temperature=0.06, seed=5)
    return Job(
        queries(), *models, settings, "exact", ExactEquivalence, "", "z", folder / "samples", folder / "labels"
    )  # fmt: skip


def stages(local: Path, cloud: Path) -> Stages:
    return stages_of(job(local, cloud, Path("unused")), FLEET)


if __name__ == "__main__":
    source, target, *models = sys.argv[1:]
    try:
        print(json.dumps(asdict(relabel(source, target, stages(*map(Path, models)), FLEET))))
    except EdgeAgentError as error:
        sys.exit(error.message)
