"""What kind of task a text is, from the text alone: maths, code, reasoning or other. Written by hand, not trained.

A baseline every router has to beat, so it was written once, without looking at any outcome; also a text feature.
"""

from __future__ import annotations

import re
from typing import Literal

TaskType = Literal["maths", "code", "reasoning", "other"]

CODE = re.compile(r"```|</\w|[{};]\s*$|=>|->|==|\w\(.*\)|\b(?:def|class|import|return|SELECT|void) ", re.MULTILINE)
MATHS = re.compile(r"\d\s*[-+*/^=×÷]\s*[\dx(]|\\(?:frac|sum|int|sqrt)|[√∑∫≤≥π]|\$\d|\d\s*%")
CODE_WORDS = re.compile(
    r"\b(?:python|java|javascript|typescript|c\+\+|html|css|sql|bash|regex|github|json|algorithm|recursion|array"
    r"|linked list|binary (?:tree|search)|dynamic programming|source code|pseudocode|compiler|debug"
    r"|(?:write|implement|create|complete|fix|refactor)\b[^.?!\n]{0,60}\b(?:function|program|script|class|method|code)"
    r"|this (?:function|program|script|code|snippet))(?!\w)"
)
MATHS_WORDS = re.compile(
    r"\b(?:how (?:many|much)|calculate|compute|solve|equation|inequality|polynomial|integer|prime number|factorial"
    r"|divisor|remainder|percent(?:age)?|probability|derivative|integral|matrix|determinant|vector space|triangle"
    r"|perimeter|circumference|radius|square root|logarithm|arithmetic|algebra|geometry|average speed|sum of|product of"
    r"|vertex|vertices|theorem|prove that|standard deviation|subtract|divide|multiply|convert|average|plus|minus|times"
    r"|power of|add \d|(?:years|times) (?:older|younger|more|as)|does .{1,40} cost)\b"
)
REASONING_WORDS = re.compile(
    r"\b(?:riddle|puzzle|logic(?:al|ally)?|deduce|infer|premise|syllogism|fallacy|argument|conclusion|step by step"
    r"|true or false|statement 1|which of the following (?:must|follows)|explain (?:why|your reasoning)"
    r"|what (?:can|must|should) (?:be|i|you|we|one) (?:conclude|true|do next)|who is (?:the )?(?:\w+er|\w+est)\b"
    r"|(?:taller|older|faster|heavier|to the (?:left|right|north|south|east|west)) (?:than|of))\b"
)
SUPPOSITION = re.compile(
    r"\b(?:if|suppose|imagine|given|assume)\b.{3,400}\b(?:what|who|which|where|how|does|is|are)\b",
    re.DOTALL,
)
SUPPOSITION_CHARACTERS = 2000
"""Looked at for a supposition: backtracking over more would take too long."""


def task_type(text: str) -> TaskType:
    """Code before maths before reasoning: the first that the text shows signs of."""
    lower = text.lower()  # patterns that ignore case take three times as long
    if CODE_WORDS.search(lower) or CODE.search(text):
        return "code"
    has_maths_words = MATHS_WORDS.search(lower) is not None
    if MATHS.search(text) or (has_maths_words and ("?" not in text or len(re.findall(r"\d+", text)) >= 2)):
        return "maths"
    if REASONING_WORDS.search(lower) or ("?" in text and SUPPOSITION.search(lower[:SUPPOSITION_CHARACTERS])):
        return "reasoning"
    return "maths" if has_maths_words else "other"
