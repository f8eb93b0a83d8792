"""Fine-tunes a small BERT to say what one answer entails of another. Needs torch; whoever uses the model does not.

The encoder's token types are all 0, as it was trained itself; [SEP] parts the two answers. Its word vectors stay as
they are: most words of the answers it will meet are in no training pair. Resumable: a checkpoint every few minutes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch  # type: ignore[import-not-found,unused-ignore]
from transformers import (  # type: ignore[import-not-found,unused-ignore]
    BertConfig,
    BertForSequenceClassification,
)

from edge_agent.training.encoder_export import read_safetensors
from edge_agent.training.entailment_pairs import VERDICTS, Pair
from edge_agent.training.pair_tokens import PairTokenizer

Tensors = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run is made of; a checkpoint of other settings is not continued."""

    seed: int = 0
    epochs: int = 2
    learning_rate: float = 1e-4
    warmup: float = 0.06
    """Share of the steps in which the learning rate rises; then it falls in a straight line to 0."""
    weight_decay: float = 0.01
    dropout: float = 0.1
    """Of the hidden states; none on attention weights, which costs a third of the time."""
    batch_tokens: int = 2048
    max_tokens: int = 96


@dataclass(frozen=True, slots=True)
class Batch:
    """Pairs of about one length."""

    ids: list[list[int]]
    labels: list[int]


def train(
    source: Path,
    epochs: Sequence[Sequence[Pair]],
    settings: Settings,
    *,
    checkpoint: Path,
    n_threads: int = 1,
    say: Callable[[str], None] = print,
) -> Tensors:
    """The weights, named as in a safetensors file of the encoder, plus `classifier`, after all epochs.

    :param source: a sentence-transformers directory of a BERT: config.json, model.safetensors, tokenizer.json.
    :param epochs: the pairs of each epoch.
    :param checkpoint: written every 200 steps; continued when it is there and of the same settings.
    """
    torch.set_num_threads(n_threads)
    torch.manual_seed(settings.seed)
    tokenizer = PairTokenizer(source / "tokenizer.json", max_tokens=settings.max_tokens)
    batches = [b for i, pairs in enumerate(epochs) for b in _batches(tokenizer, pairs, settings, settings.seed + i)]
    model = _model(source, settings)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _triangle(len(batches), settings.warmup))
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    first = _restored(checkpoint, parts, settings, len(batches))
    model.train()
    start, total = time.monotonic(), 0.0
    for step, batch in enumerate(batches[first:], first + 1):
        total += _step(model, batch, optimizer)
        schedule.step()
        if step % 50 == 0:
            rate = (time.monotonic() - start) / (step - first)
            say(f"step {step}/{len(batches)} loss {total / 50:.3f} {rate:.2f} s a step")
            total = 0.0
        if step % 200 == 0 or step == len(batches):
            _save(checkpoint, parts, settings, step, len(batches))
    return weights_of(model)


def _step(model: BertForSequenceClassification, batch: Batch, optimizer: torch.optim.Optimizer) -> float:
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in batch.ids], batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(row), dtype=torch.long) for row in batch.ids], True)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=ids, attention_mask=mask).logits
    loss = torch.nn.functional.cross_entropy(logits.float(), torch.tensor(batch.labels))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.item())


def _model(source: Path, settings: Settings) -> BertForSequenceClassification:
    config = BertConfig.from_pretrained(
        source,
        num_labels=len(VERDICTS),
        hidden_dropout_prob=settings.dropout,
        classifier_dropout=settings.dropout,
        attention_probs_dropout_prob=0.0,
    )
    model = BertForSequenceClassification(config)
    weights = {
        f"bert.{k}": torch.from_numpy(v.copy()) for k, v in read_safetensors(source / "model.safetensors").items()
    }
    missing, unknown = model.load_state_dict(weights, strict=False)
    if unknown or set(missing) != {"classifier.weight", "classifier.bias"}:
        raise ValueError(
            f"{source}: expected the weights of a BERT with a pooler, found {missing} missing, {unknown} new"
        )
    for parameter in model.bert.embeddings.parameters():
        parameter.requires_grad = False
    return model


def weights_of(model: BertForSequenceClassification) -> Tensors:
    """The weights as arrays; the encoder's under the names they had."""
    return {name.removeprefix("bert."): value.detach().numpy() for name, value in model.state_dict().items()}


def _batches(tokenizer: PairTokenizer, pairs: Sequence[Pair], settings: Settings, seed: int) -> Iterator[Batch]:
    """Batches of pairs of one length and at most `batch_tokens` tokens with padding, in random order."""
    random = Random(seed)
    shuffled = random.sample(list(pairs), len(pairs))  # so that pairs of one length meet others in each epoch
    rows = [(tokenizer.encode(p.question, p.a, p.b)[0], VERDICTS.index(p.verdict)) for p in shuffled]
    rows.sort(key=lambda row: len(row[0]))
    batches, batch = [], Batch([], [])
    for ids, label in rows:
        if batch.ids and len(ids) * (len(batch.ids) + 1) > settings.batch_tokens:
            batches.append(batch)
            batch = Batch([], [])
        batch.ids.append(ids)
        batch.labels.append(label)
    batches.append(batch)
    random.shuffle(batches)
    yield from batches


def _triangle(n_steps: int, warmup: float) -> Callable[[int], float]:
    rise = max(1, round(warmup * n_steps))
    return lambda step: min((step + 1) / rise, (n_steps - step) / max(1, n_steps - rise))


def _save(path: Path, parts: dict[str, Any], settings: Settings, step: int, n_steps: int) -> None:
    state = {name: part.state_dict() for name, part in parts.items()}
    beside = path.with_suffix(".part")
    torch.save(state | {"step": step, "run": _run(settings, n_steps), "random": torch.get_rng_state()}, beside)
    beside.replace(path)


def _restored(path: Path, parts: dict[str, Any], settings: Settings, n_steps: int) -> int:
    """How many steps the checkpoint has behind it; 0 without one."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    if state["run"] != _run(settings, n_steps):
        raise ValueError(f"{path}: expected a run of {_run(settings, n_steps)}, found {state['run']}; remove it first")
    for name, part in parts.items():
        part.load_state_dict(state[name])
    torch.set_rng_state(state["random"])
    return int(state["step"])


def _run(settings: Settings, n_steps: int) -> str:
    return json.dumps(asdict(settings) | {"steps": n_steps})
