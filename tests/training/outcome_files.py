"""A data folder with published outcomes and questions, and a label set, all made up and small."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_agent.text_features import text_features
from edge_agent.training.label_set import quantized, write_label_set
from edge_agent.training.outcomes import PUBLISHED_MODELS
from edge_agent.training.question_sets import load
from edge_agent.training.questions import Question, generate

CATEGORIES = ("writing", "math", "coding", "roleplay")
N_MMLU, N_GSM8K, N_MT_BENCH, N_OWN, N_PUBLIC, N_TRAIN = 60, 40, 16, 60, 20, 128


def write_data(data: Path, seed: int = 0) -> Path:
    """The folder; one question of each published set is contaminated, and longer ones are harder for the weak model."""
    random_ = random.Random(seed)
    (data / "routellm").mkdir(parents=True)
    (data / "mt_bench").mkdir()
    (data / "questions").mkdir()
    _mmlu(data / "routellm", random_)
    _gsm8k(data / "routellm", random_)
    _mt_bench(data, random_)
    lines = [
        {"dataset": "mawps", "question": f"{_words(random_, i)} {i} and {i + 1} apples. How many?", "answers": [str(i)]}
        for i in range(N_PUBLIC)
    ]
    _jsonl(data / "questions" / "math.jsonl", lines)
    return data


Encoder = tuple[str, Callable[[str], Any]]
"""The name of an encoder, and text to embedding."""


def write_labels(directory: Path, data: Path, encoder: Encoder | None = None, seed: int = 0) -> Path:
    """A label set of our own and of the folder's questions in the split `test`, two rows of which are not graded.

    :param encoder: adds questions of our own in the split `train`, and everything a head learns from.
    """
    random_ = random.Random(seed)
    questions = [*generate(N_OWN), *load(data / "questions")]
    rows = [_label(question, "test", *_outcome(random_, len(question.text.split()), 20)) for question in questions]
    for row in rows[:2]:
        row["correct_cloud"] = None
    if encoder:
        more = generate(N_OWN + N_TRAIN)[N_OWN:]
        rows += [_label(question, "train", *_outcome(random_, len(question.text.split()), 12)) for question in more]
        texts = [question.text for question in (*questions, *more)]
        rows = [{**row, **_inputs(text, encoder, random_)} for row, text in zip(rows, texts, strict=True)]
    models = {"local": {"name": "small"}, "cloud": {"name": "large"}}
    return write_label_set(directory, rows, {"models": models, "sources": {"own": "ours", "mawps": "MAWPS, MIT"}})


def _inputs(text: str, encoder: Encoder, random_: random.Random) -> dict[str, Any]:
    """What a head reads, and answers of one meaning or of many to learn entropies from."""
    name, embed = encoder
    embedding, scale = quantized(embed(text))
    meanings = {"local": random_.choice((1, 9)), "cloud": random_.choice((1, 9))}
    ids = {f"semantic_ids_{side}": [random_.randrange(n) for _ in range(10)] for side, n in meanings.items()}
    shares = {f"correct_share_{side}": random_.random() for side in ("local", "cloud")}
    columns = {"text_features": text_features(text).tolist(), "strong_wins_soft": random_.random(), "template": text}
    return {**columns, **ids, **shares, f"embedding_{name}": embedding, f"embedding_{name}_scale": scale}


def _label(question: Question, split: str, weak: bool, strong: bool) -> dict[str, Any]:
    own = question.dataset == "own"
    return {
        "query_id": question.id, "dataset": question.dataset, "row": str(question.row), "split": split,
        "question_sha256": question.sha256, "text": question.text if own else None, "insufficient": False,
        "question": json.dumps(question.to_row()) if own else None, "strong_wins": 0.5, "entropy_local": 0.1,
        "entropy_cloud": 0.1, "correct_local": weak, "correct_cloud": strong, "greedy_n_tokens_local": 4,
        "greedy_n_tokens_cloud": 8, "greedy_log_likelihood_local": -0.1 if weak else -0.4,
    }  # fmt: skip


def _outcome(random_: random.Random, words: int, hard_from: int) -> tuple[bool, bool]:
    return random_.random() < (0.4 if words >= hard_from else 0.8), random_.random() < 0.9


def _words(random_: random.Random, i: int) -> str:
    return " ".join(random_.choice(("red", "oak", "lamp", "sea", "jam")) for _ in range(3 + i % 20))


def _mmlu(folder: Path, random_: random.Random) -> None:
    rows = []
    for i in range(N_MMLU + 1):
        asked = _words(random_, i)
        prompt = f"{asked}?\nA. one\nB. two\nC. three\nD. four\nAnswer:"
        subject = ("anatomy", "college_mathematics")[i % 2]
        rows.append([subject, i, prompt, "A", *_outcome(random_, len(asked.split()), 12), int(i == 0)])
    _csv(folder / "mmlu_joined.csv", ["subject", "row", "prompt", "gold", *_RIGHT], rows)


_RIGHT = ("mixtral_correct", "gpt4_correct", "contaminated")


def _gsm8k(folder: Path, random_: random.Random) -> None:
    prompts = [f"{_words(random_, i)} {i}?" for i in range(N_GSM8K + 1)]
    rows = [[i, p, 1, *_outcome(random_, len(p.split()), 12), int(i == 0)] for i, p in enumerate(prompts)]
    _csv(folder / "gsm8k_joined.csv", ["row", "prompt", "gold", *_RIGHT], rows)
    answers = [f"{model}_response" for model in PUBLISHED_MODELS]
    responses = [[p, "x" * 40, "x" * 80] for p in prompts]
    _csv(folder / "gsm8k__gsm8k_responses.csv", ["prompt", *answers], responses)


def _mt_bench(data: Path, random_: random.Random) -> None:
    questions = [
        {"question_id": 81 + i, "category": CATEGORIES[i % 4], "turns": [_words(random_, i) + f" {i}", "And then?"]}
        for i in range(N_MT_BENCH + 1)
    ]
    _jsonl(data / "routellm" / "mt_bench__question.jsonl", questions)
    _jsonl(data / "mt_bench" / "question.jsonl", questions)
    _jsonl(data / "mt_bench" / "reference_answers_gpt-4.jsonl", [])
    known = [{"eval_prompt": questions[0]["turns"][0]}]
    _jsonl(data / "routellm" / "mt_bench__contaminated_prompts.jsonl", known)
    verdicts = [
        {"question_id": question["question_id"], "turn": turn, "model": model, "user_prompt": _judged(turn),
         "score": random_.randint(4, 7) + 3 * strong}
        for question in questions for strong, model in enumerate(PUBLISHED_MODELS) for turn in (1, 2)
    ]  # fmt: skip
    _jsonl(data / "routellm" / "mt_bench__judgements.jsonl", verdicts)


def _judged(turn: int) -> str:
    if turn == 1:
        return "[The Start of Assistant's Answer]\n" + "x" * 40 + "\n[The End of Assistant's Answer]"
    return "?\n\n### Assistant A:\n" + "x" * 40 + "\n\n<|The End of Assistant A's Conversation with User|>"


def _csv(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def _jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
