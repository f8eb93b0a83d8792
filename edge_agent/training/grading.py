"""Is an answer right? By value where there is one, by normalised text otherwise. Asks no model.

A grader is a name in GRADERS: `number`, `quantity`, `date`, `time`, `list` (order counts), `set` (it does not), `json`,
`digits`, `exact`, `label` (one of the question's options), `choice` (a letter or its text), `short_answer`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from fractions import Fraction

from edge_agent.training import answer_values as values
from edge_agent.training.answer_values import Answer, read_answer
from edge_agent.training.questions import Question

Grader = Callable[[Answer, str, Sequence[str]], bool]
"""(the model's answer, one accepted form, the question's options) -> is it right?"""

EXTRA_WORDS = 6
"""A short answer may say this many words more than the accepted form it contains: a sentence, not a list of guesses."""

_LEAD_IN = re.compile(r"^(?:the\s+)?(?:final\s+)?(?:answer|output|result|label)(?:\s+is)?\s*:?\s+", re.IGNORECASE)
_NEGATION = {"not", "no", "never", "isnt", "wasnt", "neither", "nor", "than"}


def grade(question: Question, answer_text: str, *, truncated: bool = False) -> bool | None:
    """Whether the answer is right; None when it cannot be graded because it was cut off at the format's max_tokens."""
    if truncated:
        return None
    answer = read_answer(answer_text)
    return any(GRADERS[question.grader](answer, form, question.options) for form in question.answers)


def answer_value(question: Question, answer_text: str) -> str | None:
    """What the answer says, in a form that is equal for equal answers; None when it says nothing that can be read.

    For clustering samples by value. Whether it is right does not matter here.
    """
    answer, grader = read_answer(answer_text), question.grader
    if grader == "quantity":
        value: object = values.quantity(answer, _gold_unit(question.answers[0]))
    elif grader in ("label", "choice"):
        value = (_label if grader == "label" else _letter)(answer, question.options)
    else:
        value = _READERS[grader](answer)
    return None if value is None else str(value)


def _number(answer: Answer, accepted: str, _: Sequence[str]) -> bool:
    given, gold = values.number(answer), _gold_number(accepted)
    return given is not None and (given == gold or _is_rounded(given, gold, accepted))


def _is_rounded(given: Fraction, gold: Fraction, accepted: str) -> bool:
    """Public sets hold quotients, cut off (83.33) or not (0.16666666666666666): one may be right with other decimals.

    A gold with two decimals and more accepts what rounds to it and has two decimals more at least (83.3333); a gold of
    four and more also accepts itself rounded to two or three.
    """
    decimals = min(len(accepted.partition(".")[2]), 6)
    if decimals < 2:
        return False
    longer = (given * 10 ** (decimals + 1)).denominator > 1 and 2 * abs(given - gold) <= Fraction(1, 10**decimals)
    shorter = decimals > 3 and abs(gold) >= Fraction(1, 10) and given in {round(gold, n) for n in range(2, decimals)}
    return longer or shorter


def _quantity(answer: Answer, accepted: str, _: Sequence[str]) -> bool:
    unit = _gold_unit(accepted)
    given = values.quantity(answer, unit)
    return given is not None and given == values.quantity(read_answer(accepted), unit)


def _gold_number(accepted: str) -> Fraction:
    value = values.number(read_answer(accepted))
    if value is None:
        raise ValueError(f"grader number: expected an accepted form with a number in it, found {accepted!r}")
    return value


def _gold_unit(accepted: str) -> str:
    """The last word of the accepted form: 3 h 20 min is graded in minutes."""
    unit = values.unit_named(accepted.rpartition(" ")[2])
    if unit is None:
        raise ValueError(f"grader quantity: expected an accepted form that ends in a unit, found {accepted!r}")
    return unit


def _equal(read: Callable[[Answer], object]) -> Grader:
    def equal(answer: Answer, accepted: str, _: Sequence[str]) -> bool:
        given = read(answer)
        return given is not None and given == read(read_answer(accepted))

    return equal


def _list(answer: Answer, accepted: str, _: Sequence[str]) -> bool:
    gold, given = values.items(read_answer(accepted)), values.items(answer)
    if gold and given and len(given) == 1 and len(gold) > 1 and not any(" " in item for item in gold):
        given = values.items(Answer(given[0].replace(" ", ","), answer.marked))  # separated by spaces alone
    return given is not None and given == gold


def _set(answer: Answer, accepted: str, options: Sequence[str]) -> bool:
    gold, given = values.items(read_answer(accepted)), values.items(answer)
    return given is not None and gold is not None and sorted(given) == sorted(gold)


def _bare(answer: Answer) -> str:
    """The text without what models wrap around it: a lead-in, a code fence, quotes."""
    text = re.sub(r"^```\w*\n?|\n?```$", "", answer.text)
    text = _LEAD_IN.sub("", text.strip())
    while len(text) > 1 and text[0] == text[-1] and text[0] in "'\"`":
        text = text[1:-1]
    return "\n".join(line.rstrip() for line in text.splitlines())


def _exact(answer: Answer, accepted: str, _: Sequence[str]) -> bool:
    text, gold = _bare(answer), _bare(read_answer(accepted))
    return gold in (text, _bare(Answer(text.removesuffix("."), False)))


def _digits(answer: Answer) -> str:
    """Phone numbers and the like: spaces, dashes and brackets do not count."""
    return "".join(re.findall(r"\d", answer.text))


def _label(answer: Answer, options: Sequence[str]) -> str | None:
    """The one option that is named. Several, or one behind a `not`, is none."""
    text, found = f" {' '.join(_words(answer.text))} ", set()
    for option in sorted(options, key=len, reverse=True):  # longest first: `not spam` is not also `spam`
        phrase = f" {' '.join(_words(option))} "
        while (at := text.find(phrase)) >= 0:
            if text[:at].rpartition(" ")[2] in _NEGATION:
                return None
            found.add(option)
            text = f"{text[:at]} | {text[at + len(phrase) :]}"
    return found.pop() if len(found) == 1 else None


def _is_label(answer: Answer, accepted: str, options: Sequence[str]) -> bool:
    return _label(answer, options) == accepted


def _letter(answer: Answer, options: Sequence[str]) -> str | None:
    """The chosen letter: `B`, `(b)`, `B) its text`, `The answer is B`, or the text of exactly one option."""
    letters = "ABCDEFGHIJ"[: len(options)]
    text = answer.text.strip().strip("*_ ")
    named = re.findall(rf"(?:answer|option|choice)(?:\s+is)?\s*:?\s*\(?([{letters}])\b(?!')", text, re.IGNORECASE)
    decorated = re.match(rf"[(\[]?([{letters}{letters.lower()}])(?:[)\].:,]|\s*$|\s+[-=]|\n)", text)
    by_letter = {letter.upper() for letter in [*named, *([decorated[1]] if decorated else [])]}
    others = {letter.upper() for letter in re.findall(rf"(?:\bor|\band)\s+\(?([{letters}])\b", text)}
    stated = [] if len(text.strip("()[].:")) == 1 else _words(_without_letter(text))  # an option may read `C` itself
    by_text = {letter for letter, option in zip(letters, options, strict=True) if stated and stated == _words(option)}
    if len(by_letter | others) > 1 or (by_letter and len(by_text) == 1 and by_text != by_letter):
        return None
    chosen = by_letter or by_text
    return chosen.pop() if len(chosen) == 1 else None


def _without_letter(text: str) -> str:
    return re.sub(r"^(?:the answer is:?\s+)?[(\[]?(?:[A-Ja-j][)\].:]+\s*)?", "", text, flags=re.IGNORECASE)


def _is_letter(answer: Answer, accepted: str, options: Sequence[str]) -> bool:
    return _letter(answer, options) == accepted.upper()


def _words(text: str) -> list[str]:
    """NFKC, case, accents, apostrophes, punctuation and articles removed; words of what is left."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(c for c in plain if not unicodedata.combining(c)).replace("'", "").replace("’", "")
    return [word for word in re.sub(r"[^\w\s]|_", " ", plain).split() if word not in ("a", "an", "the")]


def _short_text(answer: Answer) -> str | None:
    return " ".join(_words(_bare(answer))) or None


def _short_answer(answer: Answer, accepted: str, _: Sequence[str]) -> bool:
    """Equal after normalisation, or the accepted form as whole words inside an answer that is little longer.

    Of a list only the first entry counts, unless all of it is the accepted form. Not when the answer hedges (`or`) or
    negates it; a form of one or two characters must stand alone.
    """
    whole, gold = _words(_bare(answer)), _words(accepted)
    given = _words(re.split(r"[,;\n]", _bare(answer))[0])
    if not gold or gold in (whole, given):
        return bool(gold)
    if len("".join(gold)) < 3 or len(given) > len(gold) + EXTRA_WORDS or {"or", "either"} & set(whole) - set(gold):
        return False
    starts = [i for i in range(len(given) - len(gold) + 1) if given[i : i + len(gold)] == gold]
    return any(not _NEGATION & set(given[max(0, i - 2) : i]) for i in starts)


def _sorted_items(answer: Answer) -> tuple[str, ...] | None:
    found = values.items(answer)
    return None if found is None else tuple(sorted(found))


_READERS: dict[str, Callable[[Answer], object]] = {
    "number": values.number,
    "date": values.day,
    "time": values.minutes_of_day,
    "list": values.items,
    "set": _sorted_items,
    "json": values.json_value,
    "digits": _digits,
    "exact": _bare,
    "short_answer": _short_text,
}

GRADERS: dict[str, Grader] = {
    "number": _number,
    "quantity": _quantity,
    "date": _equal(values.day),
    "time": _equal(values.minutes_of_day),
    "list": _list,
    "set": _set,
    "json": _equal(values.json_value),
    "digits": _equal(_digits),
    "exact": _exact,
    "label": _is_label,
    "choice": _is_letter,
    "short_answer": _short_answer,
}
"""How an answer is compared, by the name a question gives."""
