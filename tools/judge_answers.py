"""Lets a language model judge answers: MT-Bench's grades and pairs, and the best of several with a known truth.

Check a judge before you believe it: `agreement` lets it grade what GPT-4 has graded. Its replies are kept as they come:
stop at any time and run it again. See docs/judging.md.
"""

import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from edge_agent.config import xdg_dir
from edge_agent.errors import EdgeAgentError
from edge_agent.training import judge_protocols, judge_report, judge_trust, mt_bench
from edge_agent.training.judge import Judge, KeptReplies, problems_of
from edge_agent.training.judge_agreement import RULE
from edge_agent.training.judge_agreement import agreement as agreement_of
from edge_agent.training.model_specs import model_spec
from edge_agent.training.served_sampling import Price

PATH: Any = click.Path(path_type=Path)
FILE: Any = click.Path(path_type=Path, exists=True, dir_okay=False)
COMMON = [
    click.option("--judge", "judge_name", required=True, help="URL#model of a server, a pulled model, or a GGUF file"),
    click.option("--data", type=PATH, envvar="EDGE_AGENT_DATA", default=Path("../shared/data"), help="data folder"),
    click.option("--verdicts", type=PATH, help="where replies are kept; default the user's cache"),
    click.option("--seed", type=int, default=0, help="decides the orders and the intervals"),
    click.option("--key-env", help="variable with the server's key"),
    click.option("--price-input", type=click.FloatRange(0), default=0.0, help="of a million tokens, in your currency"),
    click.option("--price-output", type=click.FloatRange(0), default=0.0),
    click.option("--max-cost", type=click.FloatRange(0), default=float("inf"), help="stop before more is spent"),
    click.option("--threads", type=click.IntRange(1), default=os.cpu_count() or 2, help="for a model in this process"),
]


def common(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(COMMON):
        command = option(command)
    return command


@click.group(help=__doc__, context_settings={"show_default": True})
def main() -> None: ...


@main.command()
@common
@click.option("--questions", type=click.IntRange(1), help="only so many of the 80 questions, for a first look")
def agreement(questions: int | None, **chosen: Any) -> None:
    """How far the judge agrees with the grades GPT-4 gave to the same answers, and whether it may be trusted."""
    recorded, answered = mt_bench.read_judgements(chosen["data"])
    peers = mt_bench.read_peer_grades(chosen["data"])
    ids = sorted({a.question_id for a in answered})
    taken = set(random.Random(chosen["seed"]).sample(ids, min(questions or len(ids), len(ids))))
    answered = [a for a in answered if a.question_id in taken]
    with judging(chosen, sum(len(a.answers) for a in answered)) as (judge, bar):
        verdicts = judge_protocols.grade(judge, answered, bar)
        grades = {what: verdict.value for what, verdict in verdicts.items() if verdict.value is not None}
        found = agreement_of(grades, recorded, seed=chosen["seed"])
        if questions is None:
            judge_trust.remember(trust_file(chosen), judge, found)
    click.echo(f"{found.n} grades, {found.pairs} pairs of models; {missing(verdicts.values())}")
    click.echo(judge_report.agreement_table(found, recorded, answered, peers))
    click.echo(f"trusted: {'yes' if found.trusted else 'no'} (when {RULE})")


@main.command()
@common
@click.argument("answers", type=FILE)
def grade(answers: Path, **chosen: Any) -> None:
    """Grades from 1 to 10 for the ANSWERS of models to MT-Bench's questions, both turns."""
    answered = mt_bench.read_answers(answers, mt_bench.read_tasks(chosen["data"]))
    with judging(chosen, sum(len(a.answers) for a in answered)) as (judge, bar):
        verdicts = judge_protocols.grade(judge, answered, bar)
        say_trust(chosen, judge)
    click.echo(judge_report.grade_table(verdicts))
    click.echo(missing(verdicts.values()))


@main.command()
@common
@click.argument("answers_a", type=FILE)
@click.argument("answers_b", type=FILE)
def compare(answers_a: Path, answers_b: Path, **chosen: Any) -> None:
    """Which of two models answers better: every pair is judged in both orders, a win has to survive the swap."""
    tasks = mt_bench.read_tasks(chosen["data"])
    pairs = mt_bench.pairs_of(mt_bench.read_answers(answers_a, tasks), mt_bench.read_answers(answers_b, tasks))
    with judging(chosen, 2 * sum(len(a.answers) for a, _ in pairs)) as (judge, bar):
        found = judge_protocols.compare(judge, pairs, seed=chosen["seed"], on_verdicts=bar)
        say_trust(chosen, judge)
    won = Counter(comparison.winner for comparison in found)
    click.echo(f"A {pairs[0][0].model} wins {won['A']}, B {pairs[0][1].model} wins {won['B']}, {won['tie']} ties, "
               f"{won[None]} without a verdict")  # fmt: skip
    click.echo(f"the same place won both times in {judge_protocols.position_bias(found):.0%} (counted as ties)")


@main.command()
@common
@click.argument("contests", type=FILE)
def best_of(contests: Path, **chosen: Any) -> None:
    """How often each system is among the best of several, given the truth; ties count for all."""
    read = mt_bench.read_contests(contests)
    with judging(chosen, judge_protocols.askings_of(read)) as (judge, bar):
        best = judge_protocols.best_of(judge, read, seed=chosen["seed"], on_verdicts=bar)
        say_trust(chosen, judge)
    for name, score in judge_protocols.scores(best, list(read[0].answers), seed=chosen["seed"]).items():
        click.echo(f"{name}: {score.value:.2f} [{score.low:.2f}, {score.high:.2f}]")
    click.echo(f"{sum(not one.orders for one in best)} of {len(best)} questions without a verdict")


@contextmanager
def judging(chosen: dict[str, Any], n: int) -> Iterator[tuple[Judge, Callable[[int], object]]]:
    spec = model_spec(
        chosen["judge_name"], xdg_dir("cache") / "models", os.environ, key_env=chosen["key_env"],
        price=Price(chosen["price_input"], chosen["price_output"]), max_cost=chosen["max_cost"],
        n_threads=chosen["threads"],
    )  # fmt: skip
    judge = Judge.of(spec, KeptReplies(chosen["verdicts"] or xdg_dir("cache") / "judge" / "replies.jsonl"))
    with tqdm(total=n, desc=judge.name, unit=" verdicts", file=sys.stderr) as bar:
        try:
            yield judge, bar.update
        finally:
            judge.close()
    if judge.cost:
        click.echo(f"spent at most {judge.cost:.2f} in your currency", err=True)


def trust_file(chosen: dict[str, Any]) -> Path:
    return (chosen["verdicts"] or xdg_dir("cache") / "judge" / "replies.jsonl").with_name("judges.json")


def say_trust(chosen: dict[str, Any], judge: Judge) -> None:
    click.echo(judge_trust.recall(trust_file(chosen), judge), err=True)


def missing(verdicts: Any) -> str:
    problems = problems_of(verdicts)
    return f"{problems.total()} missing" + "".join(f", {n} {kind}" for kind, n in problems.most_common())


if __name__ == "__main__":
    try:
        main()
    except (EdgeAgentError, ValueError, OSError) as error:
        sys.exit(f"judge_answers: {error}")
