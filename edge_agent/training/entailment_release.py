"""From fine-tuned weights to router_models/entailment/<version>: export, measure, choose, write a card. Trains nothing.

What tells meanings apart best on the dev questions becomes the card's combination, and is confirmed once on the test
questions. The cross-encoder saw neither.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.files import sha256, write_directory
from edge_agent.training.encoder_export import INPUTS, Array
from edge_agent.training.entailment import CARD, MODEL, TOKENIZER, VERDICTS, EntailmentModel
from edge_agent.training.entailment_evaluation import (
    COMBINATIONS,
    TASKS,
    Cases,
    balanced,
    best_threshold,
    cases_of,
    figures,
    fit,
    gain,
    rivals,
)
from edge_agent.training.entailment_export import cross_encoder_graph
from edge_agent.training.entailment_pairs import (
    ANSWER_SOURCES,
    SENTENCE_SOURCES,
    GradedAnswer,
    Pair,
    by_question,
    split_of,
)
from edge_agent.training.equivalences import Combination, EmbeddingEquivalence, pair_features
from edge_agent.training.evaluation import auroc

Floats = npt.NDArray[np.float64]
Scores = dict[str, dict[str, Floats]]
"""By task, then by method: one score for each case."""

PARITY_PAIRS = 1000
STRICT = "cross-encoder, strict"
"""P(entailment) in the less certain direction."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What the card says of meanings, and why."""

    name: str
    combination: Combination
    metrics: dict[str, Any]
    """By task, then by method: figures on the test questions."""


def write_graphs(weights: dict[str, Array], source: Path, work: Path, *, max_tokens: int) -> tuple[Path, Path]:
    """The int8 model and its float32 twin as directories in `work`, to be measured."""
    config = json.loads((source / "config.json").read_text())
    directories = []
    for name, quantized in (("int8", True), ("float32", False)):
        directory = work / name
        directory.mkdir(parents=True, exist_ok=True)
        (directory / MODEL).write_bytes(cross_encoder_graph(weights, config, quantized=quantized))
        (directory / TOKENIZER).write_bytes((source / TOKENIZER).read_bytes())
        (directory / CARD).write_text(json.dumps(facts(max_tokens)))
        directories.append(directory)
    return directories[0], directories[1]


def facts(max_tokens: int) -> dict[str, Any]:
    """What the model is read by."""
    labels = {str(i): verdict for i, verdict in enumerate(VERDICTS)}
    return {"id2label": labels, "inputs": INPUTS, "max_tokens": max_tokens, "pad_token_id": 0}


def base(source: Path, name: str) -> dict[str, Any]:
    """Card fields: what was fine-tuned, on what."""
    return {
        "base": {"name": name, "sha256": sha256((source / "model.safetensors").read_bytes()), "license": "Apache-2.0"},
        "quantization": "int8 weights per channel, activations at run time; embeddings int8 per row",
        "sources": SENTENCE_SOURCES | ANSWER_SOURCES,
    }


def counts(epochs: Sequence[Sequence[Pair]], answers: Sequence[GradedAnswer]) -> dict[str, Any]:
    """Card fields: pairs per epoch by source and verdict, and questions per split."""
    pairs = Counter(f"{pair.source} {pair.verdict}" for pair in epochs[0])
    return {
        "pairs_per_epoch": dict(pairs.most_common()),
        "questions": dict(Counter(split_of(question) for question in by_question(answers))),
    }


def parity(model: EntailmentModel, twin: EntailmentModel, answers: Sequence[GradedAnswer]) -> dict[str, Any]:
    """How closely the int8 model follows its float32 twin on dev questions, in batches as it is used."""
    dev = [answer for answer in answers if split_of(answer.question) == "dev"]
    pairs = [(answer.question, answer.references[0], answer.text) for answer in dev[:PARITY_PAIRS]]
    found, wanted = model.probabilities(pairs), twin.probabilities(pairs)
    difference = np.abs(found - wanted)[:, 0]
    return {
        "n_pairs": len(pairs),
        "same_verdict": round(float(np.mean(found.argmax(axis=1) == wanted.argmax(axis=1))), 4),
        "entailment_difference_mean": round(float(difference.mean()), 4),
        "entailment_difference_95": round(float(np.quantile(difference, 0.95)), 4),
    }


def nli_accuracy(model: EntailmentModel, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Share of right verdicts on plain sentences, by source; two classes count as entailment or not."""
    verdicts = model.verdicts([(pair.question, pair.a, pair.b) for pair in pairs])
    result: dict[str, Any] = {}
    for source in sorted({pair.source for pair in pairs}):
        known = [(v, p.verdict) for v, p in zip(verdicts, pairs, strict=True) if p.source == source]
        three = len({wanted for _, wanted in known}) == len(VERDICTS)
        right = [v == w if three else (v == "entailment") == (w == "entailment") for v, w in known]
        result[source] = {"n": len(known), "classes": 3 if three else 2, "accuracy": round(float(np.mean(right)), 4)}
    return result


def choose(
    model: EntailmentModel,
    answers: Sequence[GradedAnswer],
    embedding: EmbeddingEquivalence,
    *,
    resamples: int = 1000,
) -> Choice:
    """Fits the combinations and sets every threshold on dev, picks the best there, measures all on test."""
    cases = {split: cases_of([a for a in answers if split_of(a.question) == split]) for split in ("dev", "test")}
    features = {s: {t: pair_features(model, c.pairs) for t, c in own.items()} for s, own in cases.items()}
    fitted = {
        name: fit([(cases["dev"][t], features["dev"][t]) for t in ("reference", "answers")], columns)
        for name, columns in COMBINATIONS.items()
    }
    scores = {s: _scores(cases[s], features[s], fitted, embedding) for s in cases}
    dev = {t: {n: auroc(v, cases["dev"][t].same) for n, v in methods.items()} for t, methods in scores["dev"].items()}
    thresholds = {
        task: {name: best_threshold(values, cases["dev"][task].same) for name, values in methods.items()}
        for task, methods in scores["dev"].items()
    }
    name = max(fitted, key=lambda each: sum(dev[task][each] for task in TASKS))
    shipped = replace(fitted[name], threshold=_card_threshold(cases["dev"], scores["dev"], name))
    metrics: dict[str, Any] = {
        task: _compared(scores["test"][task], cases["test"][task], thresholds[task], name, shipped.threshold, resamples)
        for task in TASKS
    }
    metrics["dev_auroc"] = {t: {n: round(v, 4) for n, v in methods.items()} for t, methods in dev.items()}
    return Choice(name, shipped, metrics)


def _card_threshold(cases: Mapping[str, Cases], scores: Scores, name: str) -> float:
    """Where both kinds of mistake weigh the same, on answers and short answers of dev questions.

    Not where most are right: three quarters of these pairs are the same, but few of a small model's samples are.
    """
    tasks = ("short", "answers")
    same = np.concatenate([cases[task].same for task in tasks])
    weights = np.concatenate([balanced(cases[task].same) for task in tasks])
    return round(best_threshold(np.concatenate([scores[task][name] for task in tasks]), same, weights), 4)


def _scores(
    cases: Mapping[str, Cases],
    features: Mapping[str, Floats],
    fitted: Mapping[str, Combination],
    embedding: EmbeddingEquivalence,
) -> Scores:
    scores: Scores = {}
    for task, own in cases.items():
        scores[task] = rivals(own, embedding)
        scores[task][STRICT] = own.best(features[task][:, 0])
        scores[task] |= {name: own.best(made.scores(features[task])) for name, made in fitted.items()}
    return scores


def _compared(
    scores: Mapping[str, Floats],
    cases: Cases,
    thresholds: Mapping[str, float],
    name: str,
    shipped: float,
    resamples: int,
) -> dict[str, Any]:
    """One task's figures, what the card's threshold gives, and the gain over the best methods that need no model."""
    table = {n: figures(v, cases, thresholds[n], resamples=resamples) for n, v in scores.items()}
    simple = [other for other in table if other != STRICT and other not in COMBINATIONS]
    wordy = [*simple, "words, fitted"]
    over = dict.fromkeys(max(names, key=lambda n: float(table[n]["auroc"])) for names in (simple, wordy))
    return {
        "n": len(cases.same),
        "n_questions": len(set(cases.question.tolist())),
        "same": round(float(cases.same.mean()), 4),
        "methods": table,
        "card": figures(scores[name], cases, shipped, resamples=resamples),
        "gain_over": {other: gain(scores[name], scores[other], cases, resamples=resamples) for other in over},
    }


def write_release(int8: Path, output: Path, version: str, choice: Choice, about: Mapping[str, Any]) -> Path:
    """Writes `output`/<version>/{model.onnx, tokenizer.json, card.json}; it gets that name once it has loaded.

    :param about: further fields of the card.
    """
    files = {name: (int8 / name).read_bytes() for name in (MODEL, TOKENIZER)}
    card = {
        "format": 1,
        "version": version,
        **facts(json.loads((int8 / CARD).read_text())["max_tokens"]),
        "equivalence": asdict(choice.combination) | {"name": choice.name},
        **about,
        "metrics": choice.metrics,
        "files": {name: sha256(data) for name, data in files.items()},
    }
    files[CARD] = (json.dumps(card, indent=1) + "\n").encode()
    return write_directory(output / version, files, check=EntailmentModel.load)


def table(choice: Choice) -> str:
    """The figures on the test questions, as Markdown."""
    lines = ["| | " + " | ".join(f"{task}: AUROC | accuracy" for task in TASKS) + " |", "|---" * 7 + "|"]
    for name in choice.metrics[TASKS[0]]["methods"]:
        cells = [choice.metrics[task]["methods"][name] for task in TASKS]
        lines.append(f"| {name} | " + " | ".join(f"{_cell(c, 'auroc')} | {_cell(c, 'accuracy')}" for c in cells) + " |")
    for task in TASKS:
        found = choice.metrics[task]
        card, gains = found["card"], found["gain_over"].items()
        lines += [
            f"{task}: {found['n']} cases, {found['n_questions']} questions, {found['same']:.1%} the same",
            f"  card's threshold: accuracy {_cell(card, 'accuracy')}, balanced {card['balanced_accuracy']:.3f}",
            "  AUROC gain over " + "; ".join(f"{other}: {_cell(value, 'auroc')}" for other, value in gains),
        ]
    return "\n".join([*lines, f"card: {choice.name}, threshold {choice.combination.threshold}"])


def _cell(figure: Mapping[str, Any], name: str) -> str:
    low, high = figure[f"{name}_95"]
    return f"{figure[name]:.3f} [{low:.3f}, {high:.3f}]"
