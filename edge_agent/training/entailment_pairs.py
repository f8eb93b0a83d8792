"""Pairs of texts with verdicts, to train and test an entailment model. Knows the public sets' formats; runs no model.

Two answers to one question are one premise and one hypothesis. Human verdicts say which answers are right: two right
answers mean the same, a right and a wrong one do not, two wrong ones may do either and are left out.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any, get_args

from edge_agent.training.answer_overlap import overlap, token_f1, words
from edge_agent.training.semantic_entropy import Verdict

ALIASES = 4
"""Of a reference with dozens of names, those most like the answer are learnt; the rest are misspellings and scripts."""
TRIED = 2
"""Of these, so many are tried when an answer is tested; the best counts."""
SENTENCE_SOURCES = {
    "mnli_dev": "MultiNLI development sets (OANC and others)",
    "snli_dev": "SNLI development set (CC BY-SA 4.0)",
    "breaking_nli": "Breaking NLI (CC BY-SA 4.0)",
}
ANSWER_SOURCES = {
    "evouna_nq": "EVOUNA, human verdicts on answers to Natural Questions: wangcunxiang/QA-Eval (Apache-2.0)",
    "evouna_tq": "EVOUNA, human verdicts on answers to TriviaQA: the same (Apache-2.0)",
}
TAUGHT_WORDS = 30
"""Of sentences; longer ones cost more than they teach about answers."""
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


@dataclass(frozen=True, slots=True)
class Pair:
    """A premise and a hypothesis, both answers to `question` ("" for plain sentences)."""

    question: str
    a: str
    b: str
    verdict: Verdict
    source: str

    @property
    def n_words(self) -> int:
        return len(f"{self.a} {self.b}".split())


@dataclass(frozen=True, slots=True)
class GradedAnswer:
    """One system's answer and whether people found it equivalent to the reference."""

    question: str
    references: tuple[str, ...]
    text: str
    right: bool
    source: str


@dataclass(frozen=True, slots=True)
class Judged:
    """Two answers, whether they mean the same, and to which question: what an equivalence is tested on."""

    question: str
    a: str
    """A reference, when there is one."""
    b: str
    same: bool
    group: int
    """Pairs of one group are one case with several references: the best counts."""


def read_nli(path: Path) -> list[Pair]:
    """The sentence pairs of all sets; `not_entailment`, in sets of two classes, is read as neutral."""
    named: dict[str, Verdict] = {"entailment": "entailment", "contradiction": "contradiction"}
    return [
        Pair("", row["premise"], row["hypothesis"], named.get(row["label"], "neutral"), row["dataset"])
        for row in _rows(path)
    ]


def read_answers(path: Path) -> list[GradedAnswer]:
    """The answers of EVOUNA: {question, reference, answer, equivalent, dataset}; a reference is a list of aliases."""
    return [
        GradedAnswer(
            row["question"], _aliases(row["reference"]), row["answer"].strip(), row["equivalent"], row["dataset"]
        )
        for row in _rows(path)
        if _key(row["answer"])
    ]


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:  # not splitlines, which splits at U+2028 as well
        yield from map(json.loads, file)


def _aliases(reference: str) -> tuple[str, ...]:
    """The names in a '/'-joined list that can be read: no other scripts, no encyclopedia's (disambiguation)."""
    names = [re.sub(r"\s*\([^)]*\)$", "", name).strip() for name in reference.split("/")]
    readable = {_key(name): name for name in names if re.search(r"[A-Za-z0-9]", name)}
    return tuple(readable.values()) or (reference,)


def _key(text: str) -> str:
    """Equal for spellings of one question. The splits hang on it: it must not change."""
    return " ".join(words(text))


def split_of(question: str) -> str:
    """train (70 %), dev (10 %) or test (20 %), by a hash of the normalised question."""
    digest = hashlib.sha256(f"entailment:{_key(question)}".encode()).digest()
    share = int.from_bytes(digest[:6], "big") / 2**48
    return "test" if share < 0.2 else "dev" if share < 0.3 else "train"


def closest_aliases(answer: GradedAnswer, n: int = ALIASES) -> list[str]:
    """The n references most like the answer."""
    given = words(answer.text)

    def likeness(alias: str) -> tuple[float, float]:
        return overlap(words(alias), given), token_f1(words(alias), given)

    return sorted(answer.references, key=likeness, reverse=True)[:n]


def by_question(answers: Iterable[GradedAnswer]) -> Mapping[str, list[GradedAnswer]]:
    """The answers to each question; spellings of one question are one."""
    groups: dict[str, list[GradedAnswer]] = defaultdict(list)
    for answer in answers:
        groups[_key(answer.question)].append(answer)
    return groups


def training_epochs(
    answers: Sequence[GradedAnswer], sentences: Sequence[Pair], *, epochs: int, seed: int
) -> list[list[Pair]]:
    """The pairs of each epoch: other pairs of the same train questions every time, and its share of the sentences."""
    taught = [answer for answer in answers if split_of(answer.question) == "train"]
    mixed = _thinned([p for p in sentences if p.source in SENTENCE_SOURCES and p.n_words <= TAUGHT_WORDS])
    Random(seed).shuffle(mixed)
    return [training_pairs(taught, Random(seed + i)) + mixed[i::epochs] for i in range(epochs)]


def unseen_sentences(sentences: Sequence[Pair], *, most: int = 500) -> list[Pair]:
    """Some of each set that are not trained on: the sets of two classes, and pairs a little longer than the taught."""
    unseen: dict[str, list[Pair]] = defaultdict(list)
    for pair in Random(0).sample(list(sentences), len(sentences)):
        if pair.source not in SENTENCE_SOURCES or TAUGHT_WORDS < pair.n_words <= TAUGHT_WORDS + 10:
            unseen[pair.source].append(pair)
    return [pair for pairs in unseen.values() for pair in pairs[:most]]


def _thinned(sentences: Sequence[Pair], most: int = 2000) -> list[Pair]:
    """At most so many contradictions of the one set that is nearly all contradictions."""
    lopsided = [p for p in sentences if p.source == "breaking_nli" and p.verdict == "contradiction"]
    left_out = set(lopsided[most:])
    return [p for p in sentences if p not in left_out]


def training_pairs(answers: Sequence[GradedAnswer], random: Random, *, answer_pairs: int = 3) -> list[Pair]:
    """Reference and answer, answer and answer, alias and alias, and wrong short answers; equal texts are left out.

    Different answers to one question exclude each other, so they are contradictions, not neutral. Both orders of a
    pair occur, one of them at random: the wanted verdict is symmetric.
    """
    groups = by_question(answers)
    rivals: dict[str, list[str]] = defaultdict(list)
    for group in groups.values():
        rivals[_kind(group[0].question)] += group[0].references[:1]
    pairs: list[Pair] = []
    for group in groups.values():
        pairs += _against_references(group, random)
        both = list(answer_cases(group))
        pairs += random.sample(both, min(answer_pairs, len(both)))
        pairs += _short_pairs(group[0], rivals[_kind(group[0].question)], random)
    return [_turned(pair, random) for pair in pairs if _key(pair.a) != _key(pair.b)]


def answer_cases(group: Sequence[GradedAnswer]) -> Iterator[Pair]:
    """All pairs of two systems' answers to one question of which at least one is right."""
    for one, other in combinations(group, 2):
        if one.right or other.right:
            verdict: Verdict = "entailment" if one.right and other.right else "contradiction"
            yield Pair(one.question, one.text, other.text, verdict, "answer_answer")


def _against_references(group: Sequence[GradedAnswer], random: Random) -> Iterator[Pair]:
    """The closest alias mostly, as at test time, so that a wrong answer's closest one is learnt to be no match."""
    for answer in group:
        closest = closest_aliases(answer)
        alias = closest[0] if random.random() < 0.7 else random.choice(closest)
        yield Pair(answer.question, alias, answer.text, "entailment" if answer.right else "contradiction", "reference")


def _short_pairs(answer: GradedAnswer, rivals: Sequence[str], random: Random) -> Iterator[Pair]:
    """What sampled answers look like: a few words each. Two aliases, another question's answer, a changed number."""
    name = random.choice(closest_aliases(answer))
    if len(answer.references) > 1:
        yield Pair(answer.question, answer.references[0], name, "entailment", "alias")
    rival = random.choice(rivals)
    if not overlap(words(name), words(rival)):
        yield Pair(answer.question, name, rival, "contradiction", "rival")
    if changed := _other_number(name, random):
        yield Pair(answer.question, name, changed, "contradiction", "number")


def _other_number(text: str, random: Random) -> str:
    """The text with one number changed a little; "" when it has none."""
    found = re.search(r"\d+", text)
    if not found or len(found[0]) > 9:
        return ""
    step = random.choice((-2, -1, 1, 2, 10))
    return f"{text[: found.start()]}{abs(int(found[0]) + step)}{text[found.end() :]}"


def _kind(question: str) -> str:
    """Who, when, where ...: questions of one kind have answers that could be taken for one another."""
    found = re.search(r"\b(who|when|where|how many|how|which \w+|what \w+|what)\b", question.casefold())
    kind = found[1] if found else ""
    return kind if kind in ("who", "when", "where", "how many") else kind.split(" ")[0]


def _turned(pair: Pair, random: Random) -> Pair:
    if random.random() < 0.5:
        return pair
    return Pair(pair.question, pair.b, pair.a, pair.verdict, pair.source)


def reference_cases(answers: Sequence[GradedAnswer]) -> list[Judged]:
    """Every answer against its references, one group each."""
    return [
        Judged(answer.question, alias, answer.text, answer.right, group)
        for group, answer in enumerate(answers)
        for alias in closest_aliases(answer, TRIED)
    ]


def answer_pair_cases(answers: Sequence[GradedAnswer], *, most: int = 4) -> list[Judged]:
    """Two systems' answers to one question with a known verdict, one group each; at most so many of a question."""
    random, pairs = Random(0), []
    for group in by_question(answers).values():
        both = list(answer_cases(group))
        pairs += random.sample(both, min(most, len(both)))
    return [Judged(p.question, p.a, p.b, p.verdict == "entailment", i) for i, p in enumerate(pairs)]
