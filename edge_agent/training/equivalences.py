"""The equivalences by name: exact, value, embedding, entailment, judge. Clusters nothing.

Each says of pairs of answers whether they mean the same (meaning.Equivalence). The judge, a language model behind an
endpoint, is in meaning_judge.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.errors import ConfigError, ModelError
from edge_agent.router import Encoder
from edge_agent.training.answer_overlap import contained, new_words, normalised, overlap, token_f1, words
from edge_agent.training.entailment import VERDICTS, AskedPair, EntailmentModel
from edge_agent.training.grading import answer_value
from edge_agent.training.meaning import AnswerPair, Asked, Equivalence
from edge_agent.training.router_export import load_encoder
from edge_agent.training.semantic_entropy import Rule, equivalent

Floats = npt.NDArray[np.float64]

TEXTUAL = ("short_answer",)
"""Graders of answers in free words, which have no value to compare."""

COSINE = 0.9
"""Threshold of `embedding`, for short answers: on dev questions the best one was .89 for answers of at most eight words
and .83 for whole sentences."""


class ExactEquivalence:
    """Equal after normalisation."""

    def key(self, asked: Asked, answer: str) -> str:
        return normalised(answer)

    def same(self, pairs: Sequence[AnswerPair]) -> list[bool]:
        return [normalised(pair.a) == normalised(pair.b) for pair in pairs]


class ValueEquivalence:
    """Numbers, dates, choices, lists by value: 3.0 is 3, `B) Paris` is B. Other answers are left to another one.

    On a question with values an answer that says none equals only its own text.
    """

    def __init__(self, otherwise: Equivalence):
        self._otherwise = otherwise

    def key(self, asked: Asked, answer: str) -> str:
        if not _has_values(asked):
            return self._otherwise.key(asked, answer)
        assert asked.question is not None
        value = answer_value(asked.question, answer)
        return f"text {normalised(answer)}" if value is None else f"value {value}"

    def same(self, pairs: Sequence[AnswerPair]) -> list[bool]:
        others = iter(self._otherwise.same([pair for pair in pairs if not _has_values(pair.asked)]))
        return [
            self.key(pair.asked, pair.a) == self.key(pair.asked, pair.b) if _has_values(pair.asked) else next(others)
            for pair in pairs
        ]


class EmbeddingEquivalence:
    """Cosine of the router encoder's embeddings of question + answer, at least a threshold."""

    def __init__(self, encoder: Encoder, *, threshold: float = COSINE):
        self._encoder, self.threshold = encoder, threshold
        self._known: dict[str, npt.NDArray[np.float32]] = {}

    def key(self, asked: Asked, answer: str) -> str:
        return normalised(answer)

    def same(self, pairs: Sequence[AnswerPair]) -> list[bool]:
        return [score >= self.threshold for score in self.scores(pairs)]

    def scores(self, pairs: Sequence[AnswerPair]) -> list[float]:
        """The cosines, in [-1, 1]."""
        return [float(self._embedding(p.asked.text, p.a) @ self._embedding(p.asked.text, p.b)) for p in pairs]

    def _embedding(self, question: str, answer: str) -> npt.NDArray[np.float32]:
        text = f"{question} {answer}"
        if text not in self._known:
            self._known[text] = self._encoder.embed(text)
        return self._known[text]


@dataclass(frozen=True, slots=True)
class Combination:
    """P(same meaning) = sigmoid(weights . features + bias), and from which probability on two answers count as same."""

    features: tuple[str, ...]
    """Names in FEATURES."""
    weights: tuple[float, ...]
    bias: float
    threshold: float

    @classmethod
    def from_card(cls, card: Mapping[str, Any]) -> Combination | None:
        """What a model's card says of it; None where it says nothing. :raises ModelError: when it makes no sense."""
        if (found := card.get("equivalence")) is None:
            return None
        try:
            names, weights = tuple(found["features"]), tuple(float(w) for w in found["weights"])
            made = cls(names, weights, float(found["bias"]), float(found["threshold"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"card.json: equivalence: {error!r}; take the model again") from error
        if len(names) != len(weights) or not set(names) <= set(FEATURES):
            raise ModelError(
                f"card.json: equivalence: expected one weight for each of its features out of {list(FEATURES)},"
                f" found {list(names)}, {len(weights)} weights; take the model again"
            )
        return made

    def scores(self, features: Floats) -> Floats:
        """P(same meaning), shape (n,), from all FEATURES, shape (n, len(FEATURES))."""
        return self.bounds(features, features)[0]

    def bounds(self, lowest: Floats, highest: Floats) -> tuple[Floats, Floats]:
        """The least and the greatest P(same meaning) of features that lie between these."""
        weights, columns = np.array(self.weights), [FEATURES.index(name) for name in self.features]
        low, high = lowest[:, columns], highest[:, columns]
        least = np.where(weights > 0, low, high) @ weights + self.bias
        most = np.where(weights > 0, high, low) @ weights + self.bias
        return np.asarray(0.5 * (1 + np.tanh(0.5 * least))), np.asarray(0.5 * (1 + np.tanh(0.5 * most)))


class EntailmentEquivalence:
    """What a entails of b and b of a, by a rule on the verdicts or by the combination on the model's card.

    The card's combination (the default, where there is one) weighs both directions' probabilities and shared words.
    The second direction is asked only where it can still change the outcome.
    """

    def __init__(self, model: EntailmentModel, *, rule: Rule | None = None, threshold: float | None = None):
        """
        :param rule: on the likeliest verdicts; None takes the card's combination, and `strict` where there is none.
        :param threshold: instead of the combination's own.
        """
        self._model = model
        self._combination = None if rule else Combination.from_card(model.card)
        self._rule: Rule = rule or "strict"
        self._threshold = threshold

    def key(self, asked: Asked, answer: str) -> str:
        return normalised(answer)

    def same(self, pairs: Sequence[AnswerPair]) -> list[bool]:
        if self._combination is None:
            return self._by_rule(pairs)
        threshold = self._combination.threshold if self._threshold is None else self._threshold
        return self._by_combination(pairs, self._combination, threshold)

    def _by_rule(self, pairs: Sequence[AnswerPair]) -> list[bool]:
        forward = self._model.verdicts(_asked(pairs))
        outcomes = [{equivalent(there, back, self._rule) for back in VERDICTS} for there in forward]
        unsettled = [i for i, possible in enumerate(outcomes) if len(possible) > 1]
        backward = self._model.verdicts(_asked([pairs[i] for i in unsettled], turned=True))
        for i, back in zip(unsettled, backward, strict=True):
            outcomes[i] = {equivalent(forward[i], back, self._rule)}
        return [possible.pop() for possible in outcomes]

    def _by_combination(self, pairs: Sequence[AnswerPair], made: Combination, threshold: float) -> list[bool]:
        likeness, shape = word_features(pairs), (2, len(pairs), len(VERDICTS))
        low, high = np.zeros(shape), np.ones(shape)  # what is known of the probabilities in both directions
        for way in (0, 1):
            least, most = made.bounds(_features(low, likeness), _features(high, likeness))
            unsettled = np.flatnonzero((least < threshold) & (most >= threshold)).tolist()
            found = self._model.probabilities(_asked([pairs[i] for i in unsettled], turned=way == 1))
            low[way, unsettled] = high[way, unsettled] = found
        least, _ = made.bounds(_features(low, likeness), _features(high, likeness))
        return [bool(score >= threshold) for score in least]


FEATURES = (
    "entails_least",
    "entails_most",
    "contradicts",
    "token_f1",
    "overlap",
    "contained",
    "new_token_f1",
    "new_overlap",
)
"""Of a pair, equal for both orders: logits of P(entailment) in the less and the more certain direction, of the mean
P(contradiction); F1 and share of words in common, containment; the same two without the question's words. The first
three grow with the probabilities they are made of."""


def pair_features(model: EntailmentModel, pairs: Sequence[AnswerPair]) -> Floats:
    """FEATURES of each pair, shape (n, len(FEATURES))."""
    probabilities = model.probabilities([*_asked(pairs), *_asked(pairs, turned=True)])
    return _features(probabilities.reshape(2, len(pairs), len(VERDICTS)), word_features(pairs))


def word_features(pairs: Sequence[AnswerPair]) -> Floats:
    """The FEATURES that need no model, shape (n, len(FEATURES) - 3)."""
    return np.array([_likeness(pair) for pair in pairs]).reshape(len(pairs), len(FEATURES) - 3)


def _features(probabilities: Floats, likeness: Floats) -> Floats:
    """
    :param probabilities: of the verdicts on (a, b) and on (b, a), shape (2, n, 3).
    """
    entails = _logit(probabilities[:, :, VERDICTS.index("entailment")])
    contradicts = _logit(probabilities[:, :, VERDICTS.index("contradiction")].mean(axis=0))
    return np.column_stack([entails.min(axis=0), entails.max(axis=0), contradicts, likeness])


def _asked(pairs: Sequence[AnswerPair], *, turned: bool = False) -> list[AskedPair]:
    return [(pair.asked.text, pair.b, pair.a) if turned else (pair.asked.text, pair.a, pair.b) for pair in pairs]


def _likeness(pair: AnswerPair) -> tuple[float, ...]:
    asked, a, b = words(pair.asked.text), words(pair.a), words(pair.b)
    new_a, new_b = new_words(a, asked), new_words(b, asked)
    return token_f1(a, b), overlap(a, b), float(contained(a, b)), token_f1(new_a, new_b), overlap(new_a, new_b)


def _logit(probabilities: Floats) -> Floats:
    clipped = np.clip(probabilities, 1e-4, 1 - 1e-4)  # beyond that, int8 says nothing
    return np.asarray(np.log(clipped / (1 - clipped)))


def _has_values(asked: Asked) -> bool:
    return asked.question is not None and asked.question.grader not in TEXTUAL


def named(
    name: str,
    *,
    model: Path | None = None,
    rule: Rule | None = None,
    cache: Path | None = None,
    encoder: Path | None = None,
    judge: Callable[[], Equivalence] | None = None,
) -> Equivalence:
    """The equivalence of a name, or of several in turn: `value+entailment` compares by value where there are values.

    :param model: directory of the entailment model; `rule` and `cache` are its own.
    :param encoder: directory of the router's encoder, for `embedding`.
    :param judge: makes the judge, for `judge`.
    :raises ConfigError: for an unknown name, or one whose model is not given.
    """
    first, plus, rest = name.partition("+")
    if first == "value":
        return ValueEquivalence(
            named(rest or "exact", model=model, rule=rule, cache=cache, encoder=encoder, judge=judge)
        )
    if first == "exact" and not plus:
        return ExactEquivalence()
    if first == "entailment" and not plus:
        return EntailmentEquivalence(EntailmentModel.load(_given(model, name, "model"), cache=cache), rule=rule)
    if first == "embedding" and not plus:
        return EmbeddingEquivalence(load_encoder(_given(encoder, name, "encoder")))
    if first == "judge" and not plus:
        made: Equivalence = _given(judge, name, "judge")()
        return made
    raise ConfigError(
        f"equivalence: expected entailment, exact, embedding or judge, alone or behind `value+`, found {name!r}"
    )


def _given(value: Any, name: str, what: str) -> Any:
    if value is None:
        raise ConfigError(f"equivalence {name}: expected a {what}, found none; name one")
    return value
