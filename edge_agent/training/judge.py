"""Asks a language model for verdicts, and keeps its replies. Knows neither a protocol nor what a verdict is worth.

A reply that cannot be read is asked for once more, then it is counted as unreadable; nothing is guessed. A judge of
whom too many replies cannot be read is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

from edge_agent.errors import CloudRejected, ConfigError
from edge_agent.training.judge_prompts import Asking, Unreadable, V
from edge_agent.training.model_specs import ModelSpec
from edge_agent.training.relabelling import Sampler
from edge_agent.training.sampling import Prompt, SamplingSettings
from edge_agent.training.served_sampling import ServedSampler

MOST_UNREADABLE = 0.2
"""A larger share than this, after a second try each, and the judge is not usable."""
_BATCH = 64
_GREEDY = SamplingSettings(n=0)
"""One answer a prompt, at temperature 0."""


@dataclass(frozen=True, slots=True)
class Verdict(Generic[V]):
    """What the judge decided, or why that is not known."""

    value: V | None
    problem: str = ""
    """Of an unreadable one: no verdict, several verdicts, out of range, cut off, or no answer."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a judge said to one prompt."""

    text: str
    finish_reason: str
    """stop, or length when it was cut off: then its last word is not known."""


class KeptReplies:
    """Replies by the hash of what was asked and of whom: in memory, and a line each in a file.

    Replies are kept and not verdicts: a better reader reads them anew, and nobody is asked twice.
    """

    def __init__(self, path: Path | None = None):
        """:raises ConfigError: when the file holds something else."""
        self._path = path
        self._known: dict[str, Reply] = {}
        if path is not None and path.exists():
            self._load(path)

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: str) -> Reply | None:
        """The reply, when it was given before."""
        return self._known.get(key)

    def add(self, key: str, judge: str, reply: Reply) -> None:
        """Keep it; it is safe from a kill when this returns."""
        self._known[key] = reply
        if self._path is None:
            return
        row = {"key": key, "judge": judge, "finish_reason": reply.finish_reason, "reply": reply.text}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a", encoding="utf-8") as f:
            f.write(json.dumps(row, ensure_ascii=False) + "\n")

    def _load(self, path: Path) -> None:
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                row = json.loads(line)
                self._known[row["key"]] = Reply(row["reply"], row["finish_reason"])
            except (ValueError, LookupError, TypeError) as error:
                raise ConfigError(
                    f"{path}, line {number}: expected a judge's reply with its key, found {line[:60]!r};"
                    " name another file for the replies"
                ) from error
        if len(whole) < len(data):  # a kill while a line was written leaves its beginning
            os.truncate(path, len(whole))


class Judge:
    """:param name: of the model, for people.

    :param fingerprint: of the model's file or server; another one is another judge.
    :param make_sampler: called once, when something has to be asked that is not kept.
    :param most_unreadable: share of verdicts that may be missing.
    """

    def __init__(
        self,
        name: str,
        fingerprint: str,
        make_sampler: Callable[[], Sampler],
        kept: KeptReplies,
        *,
        most_unreadable: float = MOST_UNREADABLE,
    ):
        self.name, self.fingerprint = name, fingerprint
        self._make_sampler, self._kept, self._most_unreadable = make_sampler, kept, most_unreadable
        self._sampler: Sampler | None = None

    @classmethod
    def of(cls, spec: ModelSpec, kept: KeptReplies) -> Judge:
        """The judge behind a name of a model, a GGUF file or URL#model."""
        return cls(spec.name, spec.fingerprint, lambda: _sampler(spec), kept)

    @property
    def cost(self) -> float:
        """Spent in this run, in the price's currency."""
        return float(getattr(self._sampler, "cost", 0.0))

    def verdicts(
        self, askings: Sequence[Asking[V]], on_verdicts: Callable[[int], object] = lambda n: None
    ) -> list[Verdict[V]]:
        """A verdict for each, in their order; what is kept is not asked again.

        :param on_verdicts: called with how many more there are now.
        :raises CloudRejected: when too many cannot be read, or when the server refuses.
        :raises CloudUnavailable: when the server does not answer.
        """
        found: list[Verdict[V]] = []
        for start in range(0, len(askings), _BATCH):
            batch = askings[start : start + _BATCH]
            found += self._batch(batch, on_verdicts)
            self._refuse_nonsense(found, len(askings))
        return found

    def close(self) -> None:
        """Free the model or its connections."""
        if self._sampler is not None:
            self._sampler.close()

    def _batch(self, askings: Sequence[Asking[V]], on_verdicts: Callable[[int], object]) -> list[Verdict[V]]:
        asked = self._ask((asking.prompt for asking in askings), on_verdicts)
        on_verdicts(len(askings) - asked)  # kept before, the same as another, or without an answer
        first = [_read(asking, self._reply(asking.prompt)) for asking in askings]
        self._ask(a.reminded() for a, verdict in zip(askings, first, strict=True) if _worth_a_reminder(verdict))
        return [
            _read(asking, self._reply(asking.reminded())) if _worth_a_reminder(verdict) else verdict
            for asking, verdict in zip(askings, first, strict=True)
        ]

    def _ask(self, prompts: Iterable[Prompt], on_reply: Callable[[int], object] = lambda n: None) -> int:
        """Ask what is not kept; how many replies came."""
        wanted = {prompt.sha256: prompt for prompt in prompts if self._reply(prompt) is None}
        if not wanted:
            return 0
        if self._sampler is None:
            self._sampler = self._make_sampler()
        by_id = {prompt.query_id: prompt for prompt in wanted.values()}
        replies = 0
        for sample in self._sampler.sample(list(wanted.values()), _GREEDY):
            answer = sample.generations[0]
            key = self._key(by_id[sample.query_id])
            self._kept.add(key, self.name, Reply(answer.text, answer.finish_reason))
            replies += 1
            on_reply(1)
        return replies

    def _reply(self, prompt: Prompt) -> Reply | None:
        return self._kept.get(self._key(prompt))

    def _key(self, prompt: Prompt) -> str:
        return hashlib.sha256(json.dumps([self.name, self.fingerprint, prompt.sha256]).encode()).hexdigest()

    def _refuse_nonsense(self, found: Sequence[Verdict[V]], of: int) -> None:
        problems = problems_of(found)
        if problems.total() > self._most_unreadable * of:
            kinds = ", ".join(f"{n} {kind}" for kind, n in problems.most_common())
            raise CloudRejected(
                f"judge {self.name}: {problems.total()} of {len(found)} verdicts are missing after a second try each"
                f" ({kinds}), at most {self._most_unreadable:.0%} of {of} may be: not usable as a judge; take a larger"
                " model, or raise the cost limit if there is one",
                code="judge_not_usable",
            )


def problems_of(verdicts: Iterable[Verdict[V]]) -> Counter[str]:
    """How many verdicts are missing, by the reason."""
    return Counter(verdict.problem for verdict in verdicts if verdict.value is None)


def _sampler(spec: ModelSpec) -> Sampler:
    if spec.base_url is None:
        return spec.sampler()
    return ServedSampler(
        spec.base_url, spec.name, api_key=spec.api_key, many=False, concurrency=spec.concurrency, price=spec.price,
        max_cost=spec.max_cost,
    )  # fmt: skip


def _read(asking: Asking[V], reply: Reply | None) -> Verdict[V]:
    if reply is None:
        return Verdict(None, "no answer")
    if reply.finish_reason == "length":
        return Verdict(None, "cut off")
    try:
        return Verdict(asking.read(reply.text))
    except Unreadable as error:
        return Verdict(None, error.kind)


def _worth_a_reminder(verdict: Verdict[V]) -> bool:
    return verdict.value is None and verdict.problem != "no answer"
