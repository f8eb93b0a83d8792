"""The prompt of each kind of question: what is said before it, three worked examples, how long an answer may be.

Knows no model. Answers are short by prompt: small models copy the form of the examples, in about 15 tokens, where
"think briefly" makes them write 140. Everything before the question is the same for all questions of a task: samplers
keep its KV prefix. The question alone is the last user message: what the router scores is the text that is asked.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from edge_agent.training.questions import Question
from edge_agent.types import Message


@dataclass(frozen=True, slots=True)
class PromptFormat:
    name: str
    """task@version: recorded with every sample. Another text is another version."""
    system: str
    examples: tuple[tuple[str, str], ...]
    """(question, answer), shown as earlier turns of the conversation."""
    max_tokens: int
    """An answer that is cut off here is marked as truncated and not graded."""

    @property
    def sha256(self) -> str:
        """Changes with every character of the format."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()


def prompt_format(question: Question) -> PromptFormat:
    """The format of the question's task. :raises ValueError: when the task has none."""
    try:
        return FORMATS[question.task]
    except KeyError:
        raise ValueError(
            f"question {question.id}: expected a task out of {', '.join(FORMATS)}, found {question.task!r}"
        ) from None


def messages(question: Question) -> tuple[Message, ...]:
    """The conversation that asks the question: system, examples as turns, the question alone as the last message."""
    chosen = prompt_format(question)
    turns = [Message("system", chosen.system)]
    for asked, answered in chosen.examples:
        turns += [Message("user", asked), Message("assistant", answered)]
    return (*turns, Message("user", question.text))


_BRIEFLY = "Work it out in one short line, then write #### and the result."
_BARE = "Answer with the result alone: no sentence, no explanation."

_ALL = (
    PromptFormat(
        "arithmetic@1",
        _BRIEFLY,
        (
            ("What is 3 * 4 - 2?", "3*4=12; 12-2=10 #### 10"),
            ("What is 20 % of 45?", "45/100=0.45; 0.45*20=9 #### 9"),
            ("What is 58 + 67?", "58+67=125 #### 125"),
        ),
        max_tokens=96,
    ),
    PromptFormat(
        "word_problem@1",
        _BRIEFLY,
        (
            ("A rope of 30 m is cut into 5 equal parts. How long is one part, in metres?", "30/5=6 #### 6"),
            (
                "Nora fills 3 crates with 4 melons each and eats 2 of them. How many are left?",
                "3*4=12; 12-2=10 #### 10",
            ),
            ("Ole has 7 coins, Pia has 5 more. How many coins has Pia?", "7+5=12 #### 12"),
        ),
        max_tokens=96,
    ),
    PromptFormat(
        "dates@1",
        _BRIEFLY + " Dates as year-month-day, times as 24-hour times.",
        (
            ("What date is 3 days after 30 May 2023?", "30+3=33; May has 31 days; 33-31=2 #### 2023-06-02"),
            ("Which weekday comes 2 days after Saturday?", "1 Sunday, 2 Monday #### Monday"),
            ("A walk starts at 11:50 and takes 25 minutes. When does it end?", "50+25=75; 75-60=15 #### 12:15"),
            ("How many days are there from 3 May to 9 May?", "9-3=6 #### 6"),
        ),
        max_tokens=96,
    ),
    PromptFormat(
        "units@1",
        _BRIEFLY,
        (
            ("Convert 250 g to kg.", "250/1000=0.25 #### 0.25 kg"),
            ("What is 10 °C in °F?", "10*9/5=18; 18+32=50 #### 50 °F"),
            ("How many minutes are 2 hours and 5 minutes?", "2*60=120; 120+5=125 #### 125 min"),
            ("How many metres are 1.5 km?", "1.5*1000=1500 #### 1500 m"),
        ),
        max_tokens=96,
    ),
    PromptFormat(
        "lists@1",
        _BARE,
        (
            ("Sort these numbers from smallest to largest: 7, 3, 5", "3, 5, 7"),
            ("How many items are in this list: oak, elm, ash?", "3"),
            ("Keep only the words that start with b: bell, rope, bowl", "bell, bowl"),
        ),
        max_tokens=64,
    ),
    PromptFormat(
        "strings@1",
        _BARE,
        (
            ("Write the word 'moon' backwards.", "noom"),
            ("How many times does the letter 'o' occur in 'moon'?", "2"),
            ("Replace every 'e' in 'tree' by 'x'.", "trxx"),
            ("How many words are in this sentence: Rita likes soup.", "3"),
        ),
        max_tokens=48,
    ),
    PromptFormat(
        "code_output@1",
        "Follow the program in one short line, then write #### and exactly what it prints.",
        (
            (
                "What does this Python code print?\nn = 0\nfor i in range(1, 4):\n    n += i\nprint(n)",
                "0+1+2+3=6 #### 6",
            ),
            ("What does this Python code print?\nx = [3, 1]\nx.append(2)\nprint(x)", "#### [3, 1, 2]"),
            ("What does this Python code print?\nif 5 > 3:\n    print('yes')\nelse:\n    print('no')", "5>3 #### yes"),
            ("What does this Python code print?\nprint('kiwi'[:2])", "#### ki"),
            ("What does this Python code print?\nprint(2 + 3 * 4)", "3*4=12; 2+12=14 #### 14"),
        ),
        max_tokens=80,
    ),
    PromptFormat(
        "extraction@1",
        "Answer with the words of the text alone: no sentence, no explanation. Dates as year-month-day.",
        (
            ("Ole sold the canoe to Pia in Oslo.\nWho bought the canoe?", "Pia"),
            ("The roof was mended on 4 May 2021.\nOn which date was the roof mended?", "2021-05-04"),
            ("Rita (Oslo) will bring 12 chairs.\nGive name and chairs as JSON.", '{"name": "Rita", "chairs": 12}'),
        ),
        max_tokens=64,
    ),
    PromptFormat(
        "classification@1",
        "Answer with one of the given labels alone.",
        (
            ("Rita paints the wall dark blue.\nWhich kind of colour is this: warm or cold?", "cold"),
            ("'Come to us on Sunday!'\nIs this an invitation? Yes or no?", "yes"),
            ("The stars are out and the owls hunt.\nWhich part of the day is it: morning, noon or night?", "night"),
        ),
        max_tokens=16,
    ),
    PromptFormat(
        "formatting@1",
        "Answer with the rewritten text alone: no sentence, no explanation.",
        (
            ("Write this in kebab-case: Blue Wooden Door", "blue-wooden-door"),
            ("Write this date as year-month-day: 2 June 1999", "1999-06-02"),
            ("Write this as a JSON object: title=Rain; pages=12", '{"title": "Rain", "pages": 12}'),
        ),
        max_tokens=64,
    ),
    PromptFormat(
        "device_command@1",
        "Translate what a person says at home into JSON with the keys device (light, heating, timer, blinds, speaker,"
        " door, fan), room, action (on, off, set, start, open, close, lock, unlock, increase, decrease) and value."
        " Leave out keys that were not said. Timers are in minutes. Several commands are a JSON array.",
        (
            ("turn off the pantry light", '{"device": "light", "room": "pantry", "action": "off"}'),
            (
                "it should be 19 degrees in the nursery",
                '{"device": "heating", "room": "nursery", "action": "set", "value": 19}',
            ),
            (
                "close the nursery blinds and set a timer for half an hour",
                '[{"device": "blinds", "room": "nursery", "action": "close"},'
                ' {"device": "timer", "action": "start", "value": 30}]',
            ),
        ),
        max_tokens=80,
    ),
    PromptFormat(
        "short_answer@1",
        "Answer with a name, a date or a few words: no sentence.",
        (
            ("Which metal is liquid at room temperature?", "Mercury"),
            ("Who painted the ceiling of the Sistine Chapel?", "Michelangelo"),
            ("In which year did people first walk on the moon?", "1969"),
        ),
        max_tokens=32,
    ),
    PromptFormat(
        "multiple_choice@1",
        "Answer with the letter of the right choice.",
        (
            ("Which of these is a mammal?\nA) Trout\nB) Sparrow\nC) Whale\nD) Lizard", "C"),
            ("What is 7 * 6?\nA) 42\nB) 36\nC) 48\nD) 13", "A"),
            ("Water freezes at which temperature?\nA) 50 °C\nB) 0 °C\nC) 100 °C\nD) 20 °C", "B"),
        ),
        max_tokens=16,
    ),
)

FORMATS: dict[str, PromptFormat] = {chosen.name.partition("@")[0]: chosen for chosen in _ALL}
"""The format of each task."""
