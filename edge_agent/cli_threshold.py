"""`edge-agent threshold`: which threshold, by cloud share, money, quality or a guarantee. Publishes nothing.

Reads the log, or a label set with the router's own scores of it, and shows what thresholds would have done.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_agent.cli_options import Where, json_option, print_value, where_options
from edge_agent.errors import ThresholdError

if TYPE_CHECKING:
    from edge_agent.past_questions import PastQuestion, Prices
    from edge_agent.router_card import RouterCard
    from edge_agent.thresholds import Labelled, Traffic

_GOALS = ("cloud_share", "money_per_day", "quality", "pgr", "max_local_error")
_WEEK_DAYS = 7.0


class _Number(click.FloatRange):
    """A finite number of a range; click lets NaN into every range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"expected a number, found {value}", param, ctx)
        return number


_SHARE = _Number(0, 1)
_INSIDE = _Number(0, 1, min_open=True, max_open=True)
_PRICE = _Number(min=0)


@dataclass(frozen=True)
class _Source:
    """What a threshold is chosen by."""

    bundle: Path
    card: RouterCard
    past: list[PastQuestion]
    left_out: dict[str, int]
    """Questions of the log that other routers scored, by version."""
    labels: Labelled | None
    labels_of: str | None
    """SHA-256 of the local model whose answers the label set is about."""
    prices: Prices | None
    now: datetime

    def traffic(self, days: float | None = None) -> Traffic:
        """The log's questions, or those of the last `days`."""
        from edge_agent.past_questions import days_between, traffic

        if days is None:
            return traffic(self.past, self.prices, days_between(self.past, self.now))
        since = _utc(self.now - timedelta(days=days))
        return traffic([question for question in self.past if question.created_utc >= since], self.prices, days)

    def try_traffic(self, days: float | None = None) -> Traffic | None:
        """None when there was none."""
        try:
            return self.traffic(days)
        except ThresholdError:
            return None

    def labelled(self) -> Labelled:
        from edge_agent.past_questions import check_both_kinds, labelled

        if self.labels is None:
            return labelled(self.past)
        check_both_kinds(self.labels.local)
        return self.labels

    def try_labelled(self) -> Labelled | None:
        try:
            return self.labelled()
        except ThresholdError:
            return None

    def scores(self) -> Any:
        """Of the questions that cloud shares are about."""
        return self.labels.scores if self.labels else self.traffic().scores

    def facts(self) -> dict[str, Any]:
        """Where the figures come from, for people and programs."""
        read = {"router": self.card.version, "log_questions": len(self.past), "left_out": self.left_out}
        return read | {"label_set_questions": len(self.labels.scores) if self.labels else 0}


@click.command()
@click.option("--cloud-share", type=_SHARE, metavar="N", help="At most this share to the cloud, 0 to 1.")
@click.option("--money-per-day", type=_PRICE, metavar="N", help="The cloud costs at most so much a day; needs prices.")
@click.option("--price-input", type=_PRICE, metavar="N", help="What a million tokens of questions cost in the cloud.")
@click.option("--price-output", type=_PRICE, metavar="N", help="What a million tokens of answers cost in the cloud.")
@click.option("--quality", type=_SHARE, metavar="N", help="Answers this good, as a share of always asking the cloud.")
@click.option("--pgr", type=_SHARE, metavar="N", help="This part of the gap between the two models is recovered.")
@click.option("--max-local-error", type=_INSIDE, metavar="N", help="A guarantee: accepted local answers wrong at most.")
@click.option("--confidence", type=_INSIDE, default=0.95, show_default=True, metavar="N", help="Of the guarantee.")
@click.option("--marginal", is_flag=True, help="Guarantee the share of all questions instead, on average.")
@click.option("--labels", type=click.Path(path_type=Path), metavar="DIR", help="A label set; default: the log.")
@click.option("--split", type=click.Choice(["test", "dev", "train"]), default="test", show_default=True, help="Of it.")
@click.option("--since", default="90d", show_default=True, metavar="TIME", help="Questions of the log from then on.")
@click.option("--write", is_flag=True, help="Put the guarantee on the card of a new bundle beside the current one.")
@json_option
@where_options
def threshold(
    price_input: float | None,
    price_output: float | None,
    confidence: float,
    marginal: bool,
    labels: Path | None,
    split: str,
    since: str,
    write: bool,
    as_json: bool,
    where: Where,
    **goals: float | None,
) -> None:
    """Chooses a threshold by one goal and shows what it would have done; see docs/thresholds.md."""
    from edge_agent.display import since_utc
    from edge_agent.past_questions import Prices

    goal, wanted = _one_goal(goals)
    if (price_input is None) != (price_output is None):
        raise click.UsageError("give both --price-input and --price-output, per million tokens")
    prices = None if price_input is None or price_output is None else Prices(price_input, price_output)
    if goal == "money_per_day" and (prices is None or labels is not None):
        raise click.UsageError("--money-per-day needs --price-input and --price-output, and the log (no --labels)")
    if goal != "max_local_error" and (write or marginal):
        raise click.UsageError("--write and --marginal are for --max-local-error")
    try:
        earliest = since_utc(since)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--since") from error
    source = _source(where, earliest, labels, split, prices)
    if goal == "max_local_error":
        _guarantee(source, where, wanted, None if marginal else 1 - confidence, write, as_json)
    else:
        _by_score(source, where, goal, wanted, as_json)


def _one_goal(goals: dict[str, float | None]) -> tuple[str, float]:
    given = {name: value for name, value in goals.items() if value is not None}
    if len(given) != 1:
        names = ", ".join("--" + name.replace("_", "-") for name in _GOALS)
        raise click.UsageError(f"name one goal out of {names}")
    ((goal, wanted),) = given.items()
    return goal, wanted


def _source(where: Where, since: str, labels: Path | None, split: str, prices: Prices | None) -> _Source:
    """The log may be missing where a label set is given."""
    from edge_agent.config import xdg_dir
    from edge_agent.errors import LogError
    from edge_agent.past_questions import of_router, read_past
    from edge_agent.router_card import find_bundle, read_card

    bundle = find_bundle(where.settings().router.path, xdg_dir("state")).resolve()
    card, now = read_card(bundle), datetime.now(timezone.utc)
    try:
        past, left_out = of_router(read_past(where.log(), since, _utc(now + timedelta(days=1))), card.version)
    except LogError:
        if labels is None:
            raise
        past, left_out = [], {}
    scored, labels_of = _read_labels(labels, bundle, split) if labels else (None, None)
    return _Source(bundle, card, past, left_out, scored, labels_of, prices, now)


def _read_labels(directory: Path, bundle: Path, split: str) -> tuple[Labelled, str]:
    from edge_agent.router import RouterModel

    try:
        from edge_agent.training.label_scores import scored_labels
    except ImportError as error:
        message = f"--labels needs a package that is not installed ({error}); pip install 'edge-agent[training]'"
        raise ThresholdError(message) from error
    try:
        return scored_labels(directory, RouterModel.load(bundle), split)
    except (OSError, ValueError, KeyError) as error:
        raise ThresholdError(f"{directory}: cannot be used as a label set: {error}") from error


def _by_score(source: _Source, where: Where, goal: str, wanted: float, as_json: bool) -> None:
    from edge_agent.threshold_lines import score_lines
    from edge_agent.thresholds import outcomes, shown_beside

    chosen = _chosen(source, goal, wanted)
    traffic, labelled, week = source.try_traffic(), source.try_labelled(), source.try_traffic(_WEEK_DAYS)
    scores = source.scores()
    configured = where.settings().router.threshold
    now = source.card.threshold if configured is None else configured
    shown = sorted({*shown_beside(chosen, scores), now})
    rows = [
        asdict(outcome)
        | {"chosen": outcome.threshold == chosen, "now": outcome.threshold == now}
        | {"last_week": _last_week(week, outcome.threshold)}
        for outcome in outcomes(shown, scores, traffic, labelled)
    ]
    facts = {
        "goal": {goal: wanted},
        **source.facts(),
        "labels": len(labelled.scores) if labelled else 0,
        "candidates": rows,
        "chosen": next(row for row in rows if row["chosen"]),
        "config": {"router": {"threshold": chosen}},
    }
    print_value(facts, as_json, lambda: score_lines(facts))


def _chosen(source: _Source, goal: str, wanted: float) -> float:
    from edge_agent.thresholds import by_cloud_share, by_money, by_quality

    if goal == "cloud_share":
        return by_cloud_share(source.scores(), wanted)
    if goal == "money_per_day":
        return by_money(source.traffic(), wanted)
    return by_quality(source.labelled(), wanted, "pgr" if goal == "pgr" else "quality")


def _last_week(week: Traffic | None, threshold: float) -> dict[str, Any] | None:
    """What the threshold would have done to the last seven days."""
    if week is None:
        return None
    escalated = week.scores >= threshold
    cost = None if week.costs is None else float(week.costs[escalated].sum()) + week.fixed_cost
    return {"questions": len(escalated), "escalated": int(escalated.sum()), "cost": cost}


def _guarantee(source: _Source, where: Where, alpha: float, delta: float | None, write: bool, as_json: bool) -> None:
    from edge_agent.config import xdg_dir
    from edge_agent.guarantee_facts import facts_in_use
    from edge_agent.guarantees import guarantee, steps
    from edge_agent.model_store import resolve
    from edge_agent.threshold_lines import guarantee_lines

    acceptable, wrong = _judged(source)
    model = resolve(where.settings().local.model, xdg_dir("cache") / "models")
    valid_for = facts_in_use(model, source.card)
    if source.labels_of not in (None, valid_for["local_model_sha256"]):
        found = f"{source.labels_of:.16}, this device runs {valid_for['local_model_sha256']:.16}"
        raise ThresholdError(f"the label set is of the local model {found} ({model.name}); label the answers of that")
    delta = None if delta is None else round(delta, 10)
    made = guarantee(acceptable, wrong, alpha=alpha, delta=delta, valid_for=valid_for, date_utc=_utc(source.now))
    looked_at = [asdict(step) for step in steps(acceptable, wrong, alpha=alpha, delta=delta)]
    bundle = _write(source.bundle, made) if write else None
    facts = {
        **source.facts(),
        "labels_from": "ratings" if source.labels is None else "label set",
        "guarantee": made.to_card(),
        "steps": looked_at,
        "last_week": _last_week_accepted(source, made.threshold),
        "bundle": str(bundle) if bundle else None,
    }
    print_value(facts, as_json, lambda: guarantee_lines(facts))


def _judged(source: _Source) -> tuple[Any, Any]:
    """(`acceptable` of each labelled local answer, whether it was wrong)."""
    from edge_agent.past_questions import accepted_or_wrong, check_both_kinds

    if source.labels is None:
        return accepted_or_wrong(source.past)
    if source.labels.acceptable is None:
        message = f"router {source.card.version}: expected a head `acceptable`, found {sorted(source.card.heads)}"
        raise ThresholdError(f"{message}; take a router that has one, or promise nothing and use --quality")
    local = source.labels.local
    check_both_kinds(local)
    return source.labels.acceptable, local < 0.5


def _last_week_accepted(source: _Source, threshold: float) -> dict[str, Any] | None:
    """How many of last week's questions would have stayed local; None when their `acceptable` is not in the log."""
    since = _utc(source.now - timedelta(days=_WEEK_DAYS))
    known = [q.acceptable for q in source.past if q.decided and q.created_utc >= since and q.acceptable is not None]
    if not known:
        return None
    local = sum(value > threshold for value in known)
    return {"questions": len(known), "escalated": len(known) - local}


def _write(bundle: Path, made: Any) -> Path:
    from edge_agent.guarantee_bundle import write_with

    try:
        return write_with(bundle, made)
    except OSError as error:
        message = f"{bundle.parent}: cannot hold a new bundle ({error.strerror or error})"
        raise ThresholdError(f"{message}; point router.path at a bundle in a directory you may write") from error


def _utc(moment: datetime) -> str:
    """As the log writes times."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
