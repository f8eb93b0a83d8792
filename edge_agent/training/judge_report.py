"""Tables of what judges said, as text. Knows no server; decides nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from statistics import mean, median

from edge_agent.training.judge import Verdict
from edge_agent.training.judge_agreement import Agreement, Grades, agreement
from edge_agent.training.judge_protocols import Answered, Graded

FIGURES = ("pearson", "spearman", "same", "kappa", "decided")


def agreement_table(
    judge: Agreement,
    recorded: Grades,
    answered: Iterable[Answered],
    peers: Mapping[str, Mapping[str, Grades]],
    *,
    resamples: int = 1000,
) -> str:
    """A judge's agreement with recorded grades, beside what counting words reaches and other judges among each other.

    :param peers: kind -> judge -> its grades; shown as the least, the median and the most of all pairs of judges.
    """
    words = agreement(word_counts(answered), recorded, resamples=resamples)
    among = {kind: [agreement(*two, resamples=0) for two in combinations(judges.values(), 2)] for kind, judges in
             peers.items()}  # fmt: skip
    row = "".join(("{:<10}", "{:<24}", "{:<24}", *["{:<24}"] * len(among))).format
    lines = [row("", "judge", "number of words", *(f"judges, {kind}" for kind in among))]
    for name in FIGURES:
        values = [[getattr(pair, name).value for pair in pairs] for pairs in among.values()]
        spans = [f"{min(each):.2f} {median(each):.2f} {max(each):.2f}" for each in values]
        lines.append(row(name, str(getattr(judge, name)), str(getattr(words, name)), *spans))
    return "\n".join(line.rstrip() for line in lines)


def word_counts(answered: Iterable[Answered]) -> dict[Graded, float]:
    """The judge to beat: more words are better."""
    return {
        Graded(one.question_id, turn, one.model): float(len(text.split()))
        for one in answered
        for turn, text in enumerate(one.answers, start=1)
    }


def grade_table(verdicts: Mapping[Graded, Verdict[float]]) -> str:
    """Mean grade and number of grades of each model, by turn and in all."""
    row = "{:<40} {:>14} {:>14} {:>14}".format
    lines = [row("model", "turn 1", "turn 2", "both")]
    for model in sorted({what.model for what in verdicts}):
        turns = [
            [
                v.value
                for what, v in verdicts.items()
                if (what.model, what.turn) == (model, turn) and v.value is not None
            ]
            for turn in (1, 2)
        ]
        lines.append(row(model, *(_mean(grades) for grades in (*turns, turns[0] + turns[1]))))
    return "\n".join(lines)


def _mean(grades: Sequence[float]) -> str:
    return f"{mean(grades):.2f} ({len(grades)})" if grades else "-"
