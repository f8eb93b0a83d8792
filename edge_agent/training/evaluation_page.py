"""Writes docs/evaluation.md from the numbers in docs/evaluation/evaluation.json, and from nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from edge_agent.training.evaluation_report import (
    BARS,
    ORACLE,
    QUESTIONS,
)
from edge_agent.training.published_results import published_rows

Report = Mapping[str, Any]
Cells = Sequence[str]

FOLDER = "evaluation"
"""Of the figures, beside the page."""

CPT_TARGETS = {"cpt50": "CPT(50 %)", "cpt80": "CPT(80 %)"}
TITLES = CPT_TARGETS | {
    "apgr": "APGR",
    "apgr_10": "APGR, ten-point",
    "auroc": "AUROC",
    "cost50": "cost, 50 %",
    "cost80": "cost, 80 %",
    "apgr_within": "APGR within groups",
    "auroc_within": "AUROC within groups",
}
LESS_IS_BETTER = frozenset({"cpt50", "cpt80", "cost50", "cost80"})

INTRODUCTION = """# What the routers are worth

Written by `python tools/evaluate_router.py`; every number is in [evaluation.json](evaluation/evaluation.json), the
curves are beside it as CSV. `--check` compares this page with those numbers.

**How to read it.** A router puts the questions in an order; the first go to the cloud. *CPT(50 %)* is the smallest
share of questions, in percent, that has to go there to recover half of the gap in quality between the two models;
*APGR* is the area under recovered gap against share: .5 for a random router. *APGR, ten-point* is RouteLLM's formula,
the mean at shares of 10, 20, ... 100 %: .55 for a random router. *AUROC*: how well the score tells the questions on
which the cloud's answer is the better one. *Cost*: US dollars for {questions:,} questions when 50 % or 80 % of the
gap is recovered, all calls counted. Questions of equal score go together, in random order. Brackets are 95 %
intervals over {resamples:,} resamples of the questions, the same for all rows, so that differences are paired. A
figure is **bold** when it is better than 97.5 % of {resamples:,} random routers, a difference when its interval
excludes zero.

*Within groups*: the same share of each group (data set, subject, category) goes to the cloud, so that telling the
groups apart gains nothing.

**The bars.** Counting the words of the prompt, and asking whether it is maths, code or reasoning (by patterns written
by hand, `edge_agent/task_type.py`), each in the direction that is better in hindsight. A router that does
not beat them is decoration.

**Selection.** {configurations} ever scored on the published sets ([ledger](evaluation/ledger.json)). Nothing is
trained, tuned or chosen on them.
"""


def page(report: Report) -> str:
    """The page, Markdown."""
    settings, count = report["settings"], report["configurations"]
    scored = f"{_count(count, 'router')} {'was' if count == 1 else 'were'}" if count else "No trained router was"
    head = INTRODUCTION.format(questions=QUESTIONS, resamples=settings["resamples"], configurations=scored)
    parts = [head, _summary(report), *(_set_section(one) for one in report["sets"]), _end(report)]
    return "\n".join(part for part in parts if part)


def difference(page_text: str, report: Report) -> str | None:
    """The first line in which a page is not the one of the numbers; None when they agree."""
    found, expected = page_text.splitlines(), page(report).splitlines()
    for number, (left, right) in enumerate(zip(found, expected, strict=False), 1):
        if left != right:
            return f"line {number}: expected {right[:160]!r}, found {left[:160]!r}"
    if len(found) != len(expected):
        return f"expected {len(expected)} lines, found {len(found)}"
    return None


def slug(name: str) -> str:
    """A set's name as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.casefold()).strip("-")


def shown(rows: Sequence[Report]) -> list[Report]:
    """Baselines, and the routers that were trained on all samples there are."""
    return [row for row in rows if not row.get("is_partial")]


def _summary(report: Report) -> str:
    rows = []
    for one in report["sets"]:
        for row in one["rows"]:
            if row.get("is_shipped"):
                over = [_difference_cell("apgr", row["over"][bar]["apgr"]) for bar in BARS]
                band = one["random"]["figures"]["apgr"]
                rows.append(
                    [
                        one["name"],
                        str(one["n"]),
                        _cell("apgr", row["figures"]["apgr"], band),
                        _band("apgr", band),
                        *over,
                    ]
                )
    if not rows:
        return ""
    header = ["", "questions", "APGR", "random routers", *(f"over {bar}" for bar in BARS)]
    return f"## The shipped router\n\n{_table(header, rows)}{_printed_summary(report)}"


def _printed_summary(report: Report) -> str:
    """One router of ours beside the best figure of each column that a paper printed, whichever router had it."""
    header, rows = [""], dict[str, list[str]]()
    for one in report["sets"]:
        printed = published_rows(one["name"])
        ours = next((row for row in one["rows"] if row.get("is_shipped")), None)
        if not printed or ours is None:
            continue
        for name, title in CPT_TARGETS.items():
            header.append(f"{one['name']}, {title}")
            rows.setdefault("shipped, one router", []).append(f"{ours['figures'][name][0]:.1f}")
            for paper in dict.fromkeys(row.paper for row in printed):
                best = min((row for row in printed if row.paper == paper), key=lambda row: getattr(row, name))
                cell = f"{getattr(best, name):.2f} ({best.router})"
                rows.setdefault(f"best printed in {paper}", []).append(cell)
    if not rows:
        return ""
    text = (
        "\nBeside what was printed, the best router of each column (for arXiv 2406.18665 those are trained on GPT-4's"
        " verdicts\nor on gold labels of MMLU). Neither paper gives intervals; arXiv 2502.11021 names gpt-4-0613, these"
        " outcomes are of\ngpt-4-1106-preview. Lower is better.\n\n"
    )
    return text + _table(header, [[name, *cells] for name, cells in rows.items()])


def _set_section(one: Report) -> str:
    title = f"## {one['name']}\n\n{_facts(one)}"
    if one["unusable"]:
        return f"{title}\nNo figures: {one['unusable']}.\n"
    parts = [title, _main_table(one), _difference_table(one)]
    if one["n_groups"] > 1:
        parts.append(_within_table(one))
    return "\n".join(part for part in (*parts, _figures(one)) if part)


def _facts(one: Report) -> str:
    weak, strong = one["models"]
    is_share = one["strong"] <= 1
    quality = [f"{100 * one[side]:.4f} %" if is_share else f"{one[side]:.4f}" for side in ("weak", "strong")]
    left_out = ", ".join(f"{count} {reason}" for reason, count in one["left_out"].items() if count)
    local, cloud = (" / ".join(f"{price:g}" for price in prices) for prices in one["prices"])
    lines = [
        f"{one['n']:,} questions in {_count(one['n_groups'], 'group')}{f' (left out: {left_out})' if left_out else ''}."
        f" Weak: {weak}, {quality[0]}; strong: {strong}, {quality[1]}. The strong one is better on"
        f" {one['strong_better']:,}, the weak one on {one['weak_better']:,}, they are equal on {one['equal']:,}.",
        f"Always local costs ${one['cost_always_local']:.4g} for {QUESTIONS:,} questions, always cloud"
        f" ${one['cost_always_cloud']:.4g}. Prices, US dollars for a million tokens read / written: local"
        f" {local}, cloud {cloud}; tokens: {one['tokens']}.",
        f"Origin: {one['origin']}.",
    ]
    return "\n\n".join(lines) + "\n"


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def _main_table(one: Report) -> str:
    columns = ("cpt50", "cpt80", "apgr", "apgr_10", "auroc", "cost50", "cost80")
    band = one["random"]["figures"]
    rows = [
        ["random router: mean, and 95 % of them", *(_band(name, band[name], mean=True) for name in columns)],
        _constant("always local", one["cost_always_local"]),
        _constant("always cloud", one["cost_always_cloud"]),
    ]
    for row in shown(one["rows"]):
        rows.append([_name(row), *(_cell(name, row["figures"][name], band[name]) for name in columns)])
    for printed in published_rows(one["name"]):
        apgr = _number("apgr", printed.apgr)
        figures = [f"{printed.cpt50:.2f}", f"{printed.cpt80:.2f}", apgr]
        rows.append([f"*as published, {printed.paper}: {printed.router}*", *figures, *["–"] * 4])
    table = _table(["", *(TITLES[name] for name in columns)], rows)
    sd = one["random"]
    note = (
        f"Random routers' APGR: standard deviation {sd['apgr_sd']:.4f}, in closed form {sd['apgr_sd_closed_form']:.4f}."
    )
    return f"{table}\n{note}\n"


def _constant(name: str, cost: float) -> Cells:
    return [name, *["–"] * 5, *[f"{cost:.4g}"] * 2]


def _difference_table(one: Report) -> str:
    columns = [(bar, name) for name in ("apgr", "cpt50", "cpt80", "auroc") for bar in BARS]
    header = ["", *(f"{TITLES[name]} over {bar}" for bar, name in columns)]
    rows = [
        [_name(row), *(_difference_cell(name, row["over"][bar][name]) for bar, name in columns)]
        for row in shown(one["rows"])
        if row["name"] not in (ORACLE, *(name for names in BARS.values() for name in names))
    ]
    used = " and ".join(f"“{name}”" for name in one["bars"].values())
    return f"Differences to the bars, here {used}:\n\n{_table(header, rows)}" if rows else ""


def _within_table(one: Report) -> str:
    columns, band = ("apgr_within", "auroc_within"), one["random"]["figures"]
    rows: list[Cells] = [
        ["random router: mean, and 95 % of them", *(_band(c, band[c], mean=True) for c in columns), "–"]
    ]
    for row in shown(one["rows"]):
        cells = [_cell(name, row["figures"][name], band[name]) for name in columns]
        rows.append([_name(row), *cells, _difference_cell("apgr", row["over"]["words"]["apgr_within"])])
    header = ["", *(TITLES[name] for name in columns), "APGR within groups, over words"]
    return f"Within its {one['n_groups']} groups:\n\n{_table(header, rows)}"


def _figures(one: Report) -> str:
    name = slug(one["name"])
    lines = [f"![Quality against the share of questions that go to the cloud]({FOLDER}/curve-{name}.png)"]
    for router, found in one["probabilities"].items():
        error, brier = (_number("apgr", found[figure]) for figure in ("ece", "brier"))
        lines += [
            f"{router} as the probability that the cloud does better: calibration error (ECE) {error}, Brier {brier}.",
            f"![Reliability, and scores by outcome]({FOLDER}/scores-{name}.png)",
        ]
    return "\n\n".join(lines) + "\n"


def _end(report: Report) -> str:
    if not report["has_samples_figure"]:
        return ""
    return f"## Quality against training samples\n\n![APGR against training samples]({FOLDER}/samples.png)\n"


def _name(row: Report) -> str:
    if "head" not in row:
        return str(row["name"])
    name = f"**{row['name']}**" if row["is_shipped"] else row["name"]
    return f"{name} ({row['n_train']:,} samples)" if row["n_train"] else name


def _table(header: Cells, rows: Sequence[Cells]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]
    return "\n".join(lines) + "\n"


def _cell(name: str, value: Sequence[float | None], band: Sequence[float | None]) -> str:
    """A figure with its interval; bold outside the random band, on its better side."""
    found, edge = value[0], band[1 if name in LESS_IS_BETTER else 2]
    if found is None or edge is None:
        return "–"
    text, better = _number(name, found), (found < edge if name in LESS_IS_BETTER else found > edge)
    return f"{f'**{text}**' if better else text} {_interval(name, value[1:])}"


def _band(name: str, band: Sequence[float | None], *, mean: bool = False) -> str:
    text = _interval(name, band[1:])
    return "–" if band[0] is None else f"{_number(name, band[0])} {text}" if mean else text


def _difference_cell(name: str, value: Sequence[float | None]) -> str:
    found, low, high = value
    if found is None or low is None or high is None:
        return "–"
    text = _number(name, found, sign=True)
    better = high < 0 if name in LESS_IS_BETTER else low > 0
    return f"{f'**{text}**' if better else text} {_interval(name, (low, high), sign=True)}"


def _interval(name: str, ends: Sequence[float | None], *, sign: bool = False) -> str:
    return f"[{', '.join(_number(name, end, sign=sign) for end in ends)}]"


def _number(name: str, value: float | None, *, sign: bool = False) -> str:
    """Percent with one place, dollars with four digits, everything else with three places and no leading zero."""
    if value is None:
        return "–"
    plus = "+" if sign and value > 0 else ""
    if name.startswith("cpt"):
        return f"{plus}{value:.1f}".replace("-", "−")
    if name.startswith("cost"):
        return f"{plus}{value:.4g}".replace("-", "−")
    return re.sub(r"^([+−]?)0\.", r"\1.", f"{plus}{value:.3f}".replace("-", "−"))
