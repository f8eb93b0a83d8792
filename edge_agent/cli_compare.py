"""`edge-agent compare`: where the candidate router differs from the one in use. Promotes nothing."""

from __future__ import annotations

import click

from edge_agent.cli_options import Where, json_option, print_value, since_option, where_options


@click.command()
@since_option
@click.option("--examples", type=click.IntRange(min=0), default=10, show_default=True, help="Questions shown.")
@json_option
@where_options
def compare(since: str | None, examples: int, as_json: bool, where: Where) -> None:
    """What the candidate (router.shadow) would have done with the questions of the log; see docs/publishing.md."""
    from edge_agent import comparison_lines, router_comparison
    from edge_agent.display import first_words
    from edge_agent.types import utc_now

    log = where.log()
    rows = log.with_ratings(router_comparison.COLUMNS, since or "", utc_now())
    comparison = router_comparison.compare(rows)
    if comparison is None:
        print_value(None, as_json, lambda: [comparison_lines.NOTHING])
        return
    facts = comparison_lines.facts(comparison, examples, lambda id: first_words(log.row(id)))
    print_value(facts, as_json, lambda: comparison_lines.lines(facts))
