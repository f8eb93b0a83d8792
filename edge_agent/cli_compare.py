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

    comparison = router_comparison.compare(where.log().scored_twice(since))
    if comparison is None:
        print_value(None, as_json, lambda: [comparison_lines.NOTHING])
        return
    facts = comparison_lines.facts(comparison, examples)
    print_value(facts, as_json, lambda: comparison_lines.lines(facts))
