"""Labels queries with semantic entropy: samples two models, clusters their answers by meaning, compares the entropies.

Queries come from an inbox (what devices were asked), from a questions file, or from the mix of our own questions and
public ones. Samples are kept in the user's cache as they come: stop it at any time and run it again. See
docs/retraining.md.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from edge_agent.config import xdg_dir
from edge_agent.errors import EdgeAgentError
from edge_agent.training.clusterings import DEFAULT, NAMES, clustering
from edge_agent.training.forgetting import forget, remember_output
from edge_agent.training.model_specs import model_spec
from edge_agent.training.query_sources import forgotten_of, queries_of
from edge_agent.training.relabel_job import Job, Result, estimates, run
from edge_agent.training.sampling import Sample, SamplingSettings
from edge_agent.training.served_sampling import Price

DEFAULTS = SamplingSettings()
option = click.option


@click.command(help=__doc__, context_settings={"show_default": True})
@option("--inbox", type=click.Path(path_type=Path), help="an inbox of tools/receive_logs.py")
@option("--questions", type=click.Path(path_type=Path), help="JSON lines of questions with their answers")
@option("--mix", type=click.IntRange(1), help="this many questions of our own and of --data, as in docs/questions.md")
@option("--data", type=click.Path(path_type=Path), help="folder of public question sets for --mix")
@option("--mix-seed", type=int, default=0, help="which questions --mix takes")
@option("--output", type=click.Path(path_type=Path), default=Path("labels"), help="where the labels go")
@option("--local", default="qwen2.5-coder-0.5b", help="the weak model: a pulled model, a GGUF file or URL#model")
@option("--cloud", default="qwen2.5-coder-1.5b", help="the strong model, likewise")
@option("--key-env", help="variable with the key of the servers among them")
@option("--n", type=click.IntRange(2, 200), default=DEFAULTS.n, help="drawn answers a query and model")
@option("--temperature", type=click.FloatRange(0.01, 5), default=DEFAULTS.temperature)
@option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=DEFAULTS.top_p)
@option("--seed", type=int, default=DEFAULTS.seed)
@option("--clustering", "how", type=click.Choice(NAMES), default=DEFAULT, help="which answers mean the same")
@option("--entailment", type=click.Path(path_type=Path), help="directory of another entailment model")
@option("--entailment-rule", type=click.Choice(["strict", "non_strict"]), help="instead of what its card says")
@option("--judge", help="URL#model for --clustering judge")
@option("--rule", type=click.Choice(["z", "sym", "paper"]), default="z", help="from two entropies to a label")
@option("--price-input", type=click.FloatRange(0), default=0.0, help="of a million tokens asked, in your currency")
@option("--price-output", type=click.FloatRange(0), default=0.0, help="of a million tokens answered")
@option("--max-cost", type=click.FloatRange(0), default=float("inf"), help="stop before more than this is spent")
@option("--yes", is_flag=True, help="do not ask before spending")
@option("--threads", type=click.IntRange(1), default=os.cpu_count() or 2, help="for a model in this process")
@option("--models", type=click.Path(path_type=Path), default=Path("router_models"))
@option("--samples", type=click.Path(path_type=Path), help="where samples are kept; default the user's cache")
@option("--engine", type=click.Choice(["local", "ray"]), default="local", help="ray: on a cluster, extra [fleet]")
@option("--store", help="of --engine ray: folder or s3:// URL that all machines reach; default OUTPUT/fleet")
@option("--workers", type=click.IntRange(1), default=2, help="of --engine ray")
@option("--ray-address", default="local", help="of a running cluster; local starts one here")
def main(**chosen: Any) -> None:
    job = job_of(chosen)
    if chosen["inbox"]:
        remember_output(job.samples, job.output)
    forget_what_owners_forgot(job, chosen["inbox"])
    confirm(job, chosen)
    result = run(job, progress()) if chosen["engine"] == "local" else on_fleet(job, chosen)
    forget_what_owners_forgot(job, chosen["inbox"])  # meanwhile: the receiver could not, the samples were locked
    facts = [f"{name} {value}" for name, value in result.summary.items() if not isinstance(value, dict)]
    click.echo(f"{job.output}: {'nothing to do, ' if result.was_done else ''}{result.labelled} labels; "
               + ", ".join(facts))  # fmt: skip
    if result.unfinished and chosen["max_cost"] == float("inf"):
        click.echo(f"{result.unfinished} queries could not be asked and have no label; see the warnings", err=True)
    elif result.unfinished:
        raise click.ClickException(
            f"{result.unfinished} queries lack samples (cost limit); raise --max-cost, run again"
        )


def forget_what_owners_forgot(job: Job, inbox: Path | None) -> None:
    if inbox:
        forget(forgotten_of(inbox), job.samples)


def job_of(chosen: dict[str, Any]) -> Job:
    cache = xdg_dir("cache")
    price = Price(chosen["price_input"], chosen["price_output"])
    queries = queries_of(chosen["inbox"], chosen["questions"], chosen["mix"], chosen["data"], chosen["mix_seed"])
    local, cloud = (
        model_spec(chosen[side], cache / "models", os.environ, key_env=chosen["key_env"], price=price,
                   max_cost=chosen["max_cost"], n_threads=chosen["threads"])
        for side in ("local", "cloud")
    )  # fmt: skip
    judge = chosen["judge"] and model_spec(chosen["judge"], cache / "models", os.environ, key_env=chosen["key_env"])
    answers = clustering(
        chosen["how"], models=chosen["models"], entailment=chosen["entailment"], rule=chosen["entailment_rule"],
        judge=(judge.base_url, judge.name, judge.api_key) if judge else None, cache=cache / "entailment.db",
    )  # fmt: skip
    settings = SamplingSettings(chosen["n"], chosen["temperature"], chosen["top_p"], chosen["seed"])
    return Job(
        queries, local, cloud, settings, answers.name, answers.make, answers.fingerprint, chosen["rule"],
        chosen["samples"] or cache / "samples", chosen["output"],
    )  # fmt: skip


def on_fleet(job: Job, chosen: dict[str, Any]) -> Result:
    from edge_agent.training.fleet_run import run_on_fleet
    from edge_agent.training.ray_engine import Fleet

    bar = tqdm(total=len(job.queries), desc="labels", unit=" queries", file=sys.stderr)
    fleet = Fleet(workers=chosen["workers"], cores=chosen["threads"], address=chosen["ray_address"])
    return run_on_fleet(
        job, chosen["store"] or str(job.output / "fleet"), fleet, lambda labels: bool(bar.update(labels)) and None
    )


def confirm(job: Job, chosen: dict[str, Any]) -> None:
    """Ask before money is spent; say what is about to happen otherwise."""
    asked = [estimate for estimate in estimates(job) if estimate.queries]
    for e in asked:
        cost = f", at most {e.cost:.2f} in your currency" if e.cost else ""
        click.echo(f"{e.model}: {e.queries} of {len(job.queries)} queries to sample, at most {e.input_tokens:,} tokens "
                   f"asked and {e.output_tokens:,} answered{cost}", err=True)  # fmt: skip
    judged = bool(chosen["judge"]) and chosen["how"].endswith("judge")
    if judged:
        click.echo(
            f"{chosen['judge'].partition('#')[2]} judges pairs of answers; --max-cost does not count it", err=True
        )
    if (judged or any(e.remote for e in asked)) and not chosen["yes"]:
        click.confirm("These queries leave this machine, and may cost money. Go on?", abort=True, err=True)


def progress() -> Callable[[str, int], Callable[[Sample], None]]:
    def start(model: str, queries: int) -> Callable[[Sample], None]:
        bar = tqdm(total=queries, desc=model, unit=" queries", smoothing=0.05, file=sys.stderr)
        return lambda sample: bool(bar.update(1)) and None

    return start


if __name__ == "__main__":
    try:
        main()
    except (EdgeAgentError, ValueError, LookupError, OSError) as error:
        sys.exit(f"relabel: {error}")
