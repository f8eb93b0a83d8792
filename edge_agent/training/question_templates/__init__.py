"""The question templates of our own, one file per family. Every question can be graded by construction.

A template is a function of a random generator and a level (1 easy, 2 medium, 3 hard) that gives a text and its answer.
"""

from edge_agent.training.question_templates import (
    arithmetic,
    classification,
    code_output,
    dates,
    device_commands,
    extraction,
    formatting,
    lists,
    strings,
    units,
    word_problems,
)
from edge_agent.training.question_templates.family import Family, Made, Template

FAMILIES: tuple[Family, ...] = (
    arithmetic.family,
    word_problems.family,
    dates.family,
    units.family,
    lists.family,
    strings.family,
    code_output.family,
    extraction.family,
    classification.family,
    formatting.family,
    device_commands.family,
)

TEMPLATES: tuple[Template, ...] = tuple(template for family in FAMILIES for template in family.templates)

__all__ = ["FAMILIES", "TEMPLATES", "Family", "Made", "Template"]
