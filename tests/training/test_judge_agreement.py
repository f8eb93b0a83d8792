"""Is a judge to be trusted? Figures by hand, a made-up MT-Bench, and the tool with a judge behind a real socket."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_agent.errors import ConfigError
from edge_agent.training import judge_agreement, judge_trust, mt_bench
from edge_agent.training.judge import Judge, KeptReplies
from edge_agent.training.judge_agreement import agreement
from edge_agent.training.judge_protocols import Graded
from edge_agent.training.judge_report import word_counts
from edge_agent.training.relabelling import Sampler
from tests.misbehaving_cloud import Request, Wire, misbehaving_cloud

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("EDGE_AGENT_DATA", ROOT.parent / "shared" / "data"))
needs_mt_bench = pytest.mark.skipif(
    not (DATA / mt_bench.JUDGEMENTS).exists(), reason=f"{DATA} has no {mt_bench.JUDGEMENTS}; set EDGE_AGENT_DATA"
)


def signs(*values: int) -> np.ndarray:
    return np.array(values, dtype=float)


def grades_of(*by_question: tuple[float, float]) -> dict[Graded, float]:
    """Grades of a weak and a strong model, a question each."""
    return {
        Graded(i, 1, model): value
        for i, both in enumerate(by_question)
        for model, value in zip(("weak", "strong"), both, strict=True)
    }


def unused() -> Sampler:
    raise AssertionError("nobody is to be asked")


def noisy(recorded: dict[Graded, float], share: float) -> dict[Graded, float]:
    """A judge that is right but for a share of its grades, which are anything."""
    draw = random.Random(1)
    return {what: float(draw.randint(1, 10)) if draw.random() < share else value for what, value in recorded.items()}


def recorded_grades(questions: int = 80) -> dict[Graded, float]:
    draw = random.Random(0)
    return {
        Graded(question, turn, model): float(draw.choice(values))
        for question in range(questions)
        for turn in (1, 2)
        for model, values in (("weak", (2, 7, 8, 9, 10)), ("strong", (8, 9, 10, 10, 10)))
    }


def test_figures_by_hand() -> None:
    a, b = signs(1, 1, 0, 0, -1), signs(1, 0, 0, 0, -1)
    assert judge_agreement.same(a, b) == pytest.approx(0.8)
    assert judge_agreement.kappa(a, b) == pytest.approx((0.8 - 0.36) / (1 - 0.36))
    assert judge_agreement.decided(signs(1, -1, 0, 1), signs(1, 1, 1, 0)) == 0.5
    assert judge_agreement.spearman(signs(1, 2, 2, 3), signs(1, 2, 3, 40)) == pytest.approx(4.5 / np.sqrt(22.5))
    assert judge_agreement.pearson(signs(1, 2, 3), signs(3, 2, 1)) == pytest.approx(-1)


def test_winners_are_compared_within_a_question_and_ties_are_winners_too() -> None:
    recorded = grades_of((2, 10), (10, 10), (10, 9), (5, 6))
    judge = grades_of((1, 2), (3, 3), (4, 9), (7, 7)) | {Graded(99, 1, "weak"): 1.0}
    found = agreement(judge, recorded, resamples=0)
    assert (found.n, found.pairs, found.same.value, found.decided.value) == (8, 4, 0.5, 0.5)


def test_always_the_same_grade_is_worth_nothing_however_often_it_agrees() -> None:
    recorded = recorded_grades()
    found = agreement(dict.fromkeys(recorded, 8.0), recorded, resamples=50)
    assert found.same.value > 0.15 and found.kappa.value == 0 and np.isnan(found.spearman.value) and not found.trusted


def test_always_the_strong_model_is_what_chance_gives() -> None:
    recorded = recorded_grades()
    found = agreement({what: 9.0 if what.model == "strong" else 3.0 for what in recorded}, recorded, resamples=50)
    assert found.same.value > 0.5 and found.kappa.value == pytest.approx(0) and not found.trusted


@pytest.mark.parametrize(("noise", "trusted"), [(0.0, True), (0.15, True), (0.6, False), (1.0, False)])
def test_a_judge_is_trusted_when_its_intervals_lie_above_the_bounds(noise: float, trusted: bool) -> None:
    recorded = recorded_grades()
    found = agreement(noisy(recorded, noise), recorded, resamples=200)
    assert found.trusted is trusted and found.kappa.low <= found.kappa.value <= found.kappa.high


def test_a_judge_that_was_right_a_few_times_is_not_trusted_yet() -> None:
    recorded = recorded_grades(questions=40)
    found = agreement(recorded, recorded, resamples=50)
    assert found.kappa.low == 1 and found.pairs == 80 and not found.trusted


def test_nothing_in_common_has_no_figures() -> None:
    found = agreement({}, recorded_grades(), resamples=50)
    assert found.n == 0 and np.isnan(found.kappa.value) and np.isnan(found.pearson.low) and not found.trusted


@needs_mt_bench
def test_the_recorded_verdicts_are_read_with_the_answers_they_are_about() -> None:
    recorded, answered = mt_bench.read_judgements(DATA)
    assert len(recorded) == 320 and len(answered) == 160
    assert all(len(a.answers) == 2 and all(a.answers) for a in answered)
    assert sum(bool(a.task.references) for a in answered) == 60, "30 questions of mathematics, reasoning, coding"
    differences = np.array([recorded[w._replace(model="gpt-4-1106-preview")] - value
                            for w, value in recorded.items() if "Mixtral" in w.model])  # fmt: skip
    assert [int(np.sum(np.sign(differences) == sign)) for sign in (-1, 0, 1)] == [12, 95, 53]


@needs_mt_bench
def test_counting_words_is_no_judge_to_trust_and_gpt_4_itself_is() -> None:
    recorded, answered = mt_bench.read_judgements(DATA)
    words = agreement(word_counts(answered), recorded, resamples=100)
    assert words.kappa.value == pytest.approx(0.0427, abs=1e-4) and not words.trusted
    assert agreement(recorded, recorded, resamples=100).trusted


@needs_mt_bench
def test_a_grade_that_six_judges_did_not_give_is_left_out() -> None:
    peers = mt_bench.read_peer_grades(DATA)
    assert {kind: len(judges) for kind, judges in peers.items()} == {"no reference": 6, "reference": 6}
    values = [value for judges in peers.values() for grades in judges.values() for value in grades.values()]
    assert len(values) == 2 * 3924 - 1052 - 8 and min(values) == 1


@pytest.mark.parametrize(("noise", "said"), [(0.0, "j is trusted: kappa 1.00 [1.00, 1.00]"), (1.0, "j is NOT trusted")])
def test_what_was_found_of_a_judge_is_remembered_for_it_alone(tmp_path: Path, noise: float, said: str) -> None:
    path, recorded = tmp_path / "new" / "judges.json", recorded_grades()
    checked, another = (Judge("j", url, unused, KeptReplies()) for url in ("http://a", "http://b"))
    judge_trust.remember(path, checked, agreement(noisy(recorded, noise), recorded, resamples=50), clock=lambda: 0.0)
    assert said in judge_trust.recall(path, checked) and "1970-01-01" in judge_trust.recall(path, checked)
    assert "was not checked" in judge_trust.recall(path, another)


def test_a_file_of_something_else_is_not_what_is_known_of_judges(tmp_path: Path) -> None:
    (tmp_path / "judges.json").write_text("[1, 2]")
    with pytest.raises(ConfigError, match="expected what is known of judges"):
        judge_trust.recall(tmp_path / "judges.json", Judge("j", "http://a", unused, KeptReplies()))


# the tool


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder as MT-Bench's, of which every answer says what it is worth."""
    draw = random.Random(0)
    files: dict[Path, list[str]] = {mt_bench.QUESTIONS: [], mt_bench.REFERENCES: [], mt_bench.JUDGEMENTS: []}
    for i in range(60):
        files[mt_bench.QUESTIONS].append(json.dumps({"question_id": i, "turns": [f"First {i}?", f"Second {i}?"]}))
        for model in ("weak", "strong"):
            worth = [draw.randint(1, 10 if model == "weak" else 30) for _ in (1, 2)]
            files[mt_bench.JUDGEMENTS] += [judgement(i, model, turn, worth) for turn in (1, 2)]
    peers = "judge,mode,model,question_id,score_turn1,score_turn2\n" + "".join(
        f"x/judge_{judge},{mode},{model},{i},{(i + len(judge)) % 9 + 1},-1.0\n"
        for judge in ("a", "bb") for mode in ("single_grade", "single_grade_ref") for model in ("m", "n")
        for i in range(9)
    )  # fmt: skip
    for name, lines in {**files, mt_bench.PEER_GRADES: [peers]}.items():
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_text("\n".join(lines))
    return tmp_path / "data"


def judgement(question: int, model: str, turn: int, worth: list[int]) -> str:
    answers = [f"worth {min(value, 10)} by {model}" for value in worth]
    if turn == 1:
        asked = f"[Question]\n..\n\n[The Start of Assistant's Answer]\n{answers[0]}\n[The End of Assistant's Answer]"
    else:
        both = "".join(f"### User:\n..\n\n### Assistant A:\n{answer}\n\n" for answer in answers)
        asked = f"{both}<|The End of Assistant A's Conversation with User|>"
    row = {"question_id": question, "model": model, "turn": turn, "user_prompt": asked}
    return json.dumps(row | {"score": min(worth[turn - 1], 10), "judgment": "..", "judge": ["gpt-4", "single"]})


def judge(material: str) -> str:
    """Right: reads what the answers say they are worth."""
    worth = re.findall(r"worth (\d+)", material)
    if "<LLM_1>" in material:
        return " and ".join(f"LLM {i}" for i, value in enumerate(worth, 1) if value == max(worth, key=int))
    if "<answer_A_1>" in material:
        a, b = (int(re.findall(rf"<answer_{who}_\d>\nworth (\d+)", material)[-1]) for who in "AB")
        return "[[A]]" if a > b else "[[B]]" if b > a else "[[tie]]"
    return f"[[{worth[-1]}]]"


def run_tool(data: Path, says: Callable[[str], str], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    def behave(request: Request, wire: Wire) -> None:
        text = says(request.json["messages"][-1]["content"])
        choice = {"message": {"content": text}, "finish_reason": "stop"}
        wire.whole(200, json.dumps({"choices": [choice]}).encode())

    with misbehaving_cloud(behave) as cloud:
        command = [sys.executable, str(ROOT / "tools" / "judge_answers.py"), arguments[0], "--judge", f"{cloud}#j",
                   "--verdicts", str(data.parent / "kept" / "replies.jsonl"), *map(str, arguments[1:])]  # fmt: skip
        environment = {**os.environ, "EDGE_AGENT_DATA": str(data)}
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, cwd=ROOT)


def test_the_tool_says_how_far_a_judge_agrees_and_whether_to_trust_it(data: Path) -> None:
    run = run_tool(data, judge, "agreement")
    assert run.returncode == 0, run.stderr
    assert "240 grades, 120 pairs of models; 0 missing" in run.stdout and "trusted: yes (when" in run.stdout
    assert re.search(r"kappa +1\.000 \[1\.000, 1\.000\] +-?\d", run.stdout)
    (known,) = json.loads((data.parent / "kept" / "judges.json").read_text()).values()
    assert known["judge"] == "j" and known["trusted"] is True


def test_the_tool_refuses_a_judge_who_answers_nonsense(data: Path) -> None:
    run = run_tool(data, lambda _: "LLM 9", "agreement", "--questions", "3")
    assert run.returncode == 1 and "12 of 12 verdicts are missing" in run.stderr and "Traceback" not in run.stderr
    assert not (data.parent / "kept" / "judges.json").exists()


def answers_file(path: Path, model: str, *worth: tuple[int, int]) -> Path:
    rows = [
        {"question_id": i, "model_id": model, "choices": [{"turns": [f"worth {value} by {model}" for value in both]}]}
        for i, both in enumerate(worth)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_the_tool_grades_and_says_that_nobody_checked_the_judge(data: Path, tmp_path: Path) -> None:
    run = run_tool(data, judge, "grade", answers_file(tmp_path / "a.jsonl", "tiny", (4, 7), (5, 10)))
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[1].split() == ["tiny", "4.50", "(2)", "8.50", "(2)", "6.50", "(4)"]
    assert "judge j was not checked" in run.stderr


def test_the_tool_compares_in_both_orders(data: Path, tmp_path: Path) -> None:
    a = answers_file(tmp_path / "a.jsonl", "tiny", (4, 7), (5, 10))
    b = answers_file(tmp_path / "b.jsonl", "large", (8, 7), (9, 2))
    run = run_tool(data, judge, "compare", a, b)
    assert run.returncode == 0, run.stderr
    assert "A tiny wins 1, B large wins 2, 1 ties, 0 without a verdict" in run.stdout
    assert "the same place won both times in 0%" in run.stdout


def test_the_tool_scores_who_is_among_the_best(data: Path, tmp_path: Path) -> None:
    rows = [
        {
            "id": i,
            "question": "?",
            "truth": "9",
            "answers": dict(zip("abc", (f"worth {w} {i}" for w in worth), strict=True)),
        }
        for i, worth in enumerate([(9, 9, 1), (2, 3, 1), (1, 1, 1), (5, 4, 3)])
    ]
    (tmp_path / "contests.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run = run_tool(data, judge, "best-of", tmp_path / "contests.jsonl")
    assert run.returncode == 0, run.stderr
    assert [line.split(" [")[0] for line in run.stdout.splitlines()[:3]] == ["a: 75.00", "b: 75.00", "c: 25.00"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "line 1: this is not what the file should hold.*docs/judging.md"),
        ("", "expected a line a question and model, found none"),
        ("\udcff\udcfe", "line 1: this is not what the file should hold"),
        (
            '{"question_id": 1, "model_id": "m", "choices": [{"turns": [null]}]}',
            "expected an answer as text, found None",
        ),
        ("[1]", "line 1: this is not what"),
        ('{"question_id": 777, "model_id": "m", "choices": [{"turns": ["a"]}]}', "line 1.*KeyError: 777"),
        ('{"question_id": 1, "model_id": "m", "choices": [{"turns": []}]}', "expected 1 to 2 turns, found 0"),
    ],
)
def test_a_file_that_holds_no_answers_is_one_sentence(data: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "file.jsonl").write_text(text, errors="surrogateescape")
    with pytest.raises(ValueError, match=message):
        mt_bench.read_answers(tmp_path / "file.jsonl", mt_bench.read_tasks(data))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a line a question, found none"),
        (
            '{"id": 1, "question": "q", "truth": "t", "answers": {"a": 5, "b": ""}}',
            "expected an answer as text, found 5",
        ),
        ('{"id": 1, "question": "?", "truth": "4", "answers": {"a": "4"}}', "two or more systems.*found a for 1"),
        ('{"id": 1, "question": "?", "answers": {}}', "KeyError: 'truth'"),
    ],
)
def test_a_file_that_holds_no_contests_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "file.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        mt_bench.read_contests(tmp_path / "file.jsonl")


def test_without_the_data_the_tool_says_where_it_looked(tmp_path: Path) -> None:
    run = run_tool(tmp_path / "nowhere", judge, "agreement")
    assert run.returncode == 1 and "Traceback" not in run.stderr
    assert f"{tmp_path}/nowhere/mt_bench: expected MT-Bench's files, found no" in run.stderr
