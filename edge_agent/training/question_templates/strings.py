"""Letters and words, hard for models that see tokens. Answers are exact texts or numbers."""

from __future__ import annotations

from random import Random

from edge_agent.training.question_templates.family import Family, Made, at
from edge_agent.training.question_templates.words import (
    ANIMALS,
    COLOURS,
    FRUITS,
    NAMES,
    SHORT_WORDS,
    WORDS,
)

family = Family("strings", "exact")

_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")


def _word(rng: Random, level: int) -> str:
    long = [word for word in WORDS if len(word) > 6]
    return rng.choice(at(level, SHORT_WORDS, [word for word in WORDS if len(word) <= 6], long))


def _sentence(rng: Random, n: int) -> str:
    middle = rng.sample((*WORDS, *COLOURS, *FRUITS), n - 2)
    return " ".join([rng.choice(NAMES), rng.choice(("likes", "sees", "finds", "paints", "hides")), *middle])


@family.template()
def reverse_word(rng: Random, level: int) -> Made:
    word = _word(rng, level)
    return rng.choice((f"Write the word {word} backwards.", f"Reverse the string '{word}'.")), word[::-1]


@family.template("number")
def count_letter(rng: Random, level: int) -> Made:
    text = _word(rng, level) if level < 3 else " ".join(rng.sample(WORDS, 2))
    letter = rng.choice([c for c in text if c != " "])
    return f"How many times does the letter '{letter}' occur in '{text}'?", text.count(letter)


@family.template("number")
def word_length(rng: Random, level: int) -> Made:
    word = _word(rng, level)
    vowels = sum(c in "aeiou" for c in word)
    if level == 2:
        return f"How many vowels (a, e, i, o, u) does the word '{word}' have?", vowels
    return f"How many letters does the word '{word}' have?", len(word)


@family.template()
def capitals(rng: Random, level: int) -> Made:
    text = _sentence(rng, level + 2)
    if level == 3:
        text = " ".join(w.upper() if i % 2 else w for i, w in enumerate(text.split()))
        return f"Write this in lower case: {text}", text.lower()
    return f"Write this in capital letters: {text}", text.upper()


@family.template()
def initials(rng: Random, level: int) -> Made:
    words = rng.sample(SHORT_WORDS if level == 1 else WORDS, level + 1)
    answer = "".join(w[0] for w in words)
    return f"Join the first letters of these words: {' '.join(words)}", (answer, answer.upper())


@family.template()
def other_order(rng: Random, level: int) -> Made:
    words = rng.sample(SHORT_WORDS if level == 1 else WORDS, level + 1)
    if level == 1:
        return f"Swap these two words: {' '.join(words)}", " ".join(words[::-1])
    return f"Write these words in reverse order: {' '.join(words)}", " ".join(words[::-1])


@family.template()
def nth_letter(rng: Random, level: int) -> Made:
    word = _word(rng, level)
    i = rng.randrange(*at(level, (0, 3), (1, 4), (3, 6)))
    answer = word[i]
    return f"What is the {_ORDINALS[i]} letter of the word '{word}'?", (answer, answer.upper())


@family.template()
def replace_letter(rng: Random, level: int) -> Made:
    text = _word(rng, level) if level < 3 else " ".join(rng.sample(WORDS, 2))
    old = rng.choice([c for c in text if c != " "])
    new = rng.choice("xkzw#")
    return f"Replace every '{old}' in '{text}' by '{new}'.", text.replace(old, new)


@family.template()
def drop_vowels(rng: Random, level: int) -> Made:
    text = _word(rng, level) if level < 3 else " ".join(rng.sample(WORDS, 2))
    return f"Remove all vowels (a, e, i, o, u) from '{text}'.", "".join(c for c in text if c not in "aeiou")


@family.template()
def nth_word(rng: Random, level: int) -> Made:
    words = _sentence(rng, level + 4).split()
    i = at(level, -1, rng.randint(1, 3), -2)
    name = "last" if i == -1 else "second to last" if i == -2 else _ORDINALS[i]
    return f"What is the {name} word of this sentence: {' '.join(words)}.", words[i]


@family.template("number")
def count_words(rng: Random, level: int) -> Made:
    text = _sentence(rng, rng.randint(*at(level, (3, 4), (5, 7), (8, 12))))
    return f"How many words are in this sentence: {text}.", len(text.split())


@family.template()
def joined(rng: Random, level: int) -> Made:
    words, mark = rng.sample(WORDS, level + 1), rng.choice("-_+/")
    if level == 3:
        return f"Join these words in reverse order with '{mark}': {' '.join(words)}", mark.join(words[::-1])
    return f"Join these words with '{mark}': {' '.join(words)}", mark.join(words)


@family.template()
def repeated(rng: Random, level: int) -> Made:
    word, n = rng.choice((*FRUITS, *ANIMALS)), rng.randint(2, level + 2)
    if level == 3:
        word = rng.choice(SHORT_WORDS)
        return f"Double every letter of the word '{word}'.", "".join(c + c for c in word)
    return f"Write the word '{word}' {n} times without spaces.", word * n


@family.template("label", ("yes", "no"))
def contains(rng: Random, level: int) -> Made:
    word, other = rng.sample((*WORDS, *ANIMALS), 2)
    word = rng.choice((word, other))
    if level < 3:
        end, part = at(level, ("start", other[: level + 1]), ("end", other[-2:]))
        fits = word.startswith(part) if end == "start" else word.endswith(part)
        return f"Does the word '{word}' {end} with '{part}'? Yes or no?", "yes" if fits else "no"
    start = rng.randrange(len(word) - 3)
    part = word[start : start + 3]
    part = part[::-1] if rng.random() < 0.5 else part
    return f"Is '{part}' a part of the word '{word}'? Yes or no?", "yes" if part in word else "no"


@family.template()
def without_word(rng: Random, level: int) -> Made:
    words = _sentence(rng, level + 3).split()
    gone = rng.choice(words[2:])
    return f"Write this without the word '{gone}': {' '.join(words)}", " ".join(w for w in words if w != gone)
