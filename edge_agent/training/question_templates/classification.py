"""Short texts put together from phrases, and the label they were made for. The answer is one of the stated labels."""

from __future__ import annotations

from random import Random

from edge_agent.training.question_templates.family import Family, Made, at
from edge_agent.training.question_templates.words import ANIMALS, CITIES, FRUITS, GOODS, NAMES, THINGS, WORDS

family = Family("classification", "label")

_MOODS = ("positive", "negative", "neutral")
_TOPICS = ("sports", "cooking", "travel", "technology", "health")
_TEAMS = ("billing", "shipping", "technical support")
_KINDS = ("question", "command", "statement")
_TENSES = ("past", "present", "future")
_LANGUAGES = ("English", "German", "French", "Spanish", "Italian")
_CLASSES = ("animal", "fruit", "tool", "person")
_YES_NO = ("yes", "no")


def _ask(instruction: str, options: tuple[str, ...], text: str) -> str:
    return f"{text}\n{instruction}: {', '.join(options[:-1])} or {options[-1]}?"


@family.template(options=_MOODS)
def mood(rng: Random, level: int) -> Made:
    item, label = rng.choice(GOODS), rng.choice(_MOODS)
    phrases = {
        "positive": at(
            level,
            ["I love it", "It works wonderfully"],
            ["I would buy it again", "Nothing to complain about"],
            ["I expected little, and was wrong", "My old one cannot compete with it"],
        ),
        "negative": at(
            level,
            ["I hate it", "It is awful"],
            ["I sent it back", "It broke within a week"],
            ["I wish I could say it lasted", "It would be fine, if only it worked"],
        ),
        "neutral": at(
            level,
            ["It arrived on Monday", "It is grey"],
            ["It has two handles", "It weighs a kilo"],
            ["I have not tried it yet", "It looks like the one in the picture"],
        ),
    }
    text = f"{rng.choice(NAMES)} about a {item}: '{rng.choice(phrases[label])}.'"
    return _ask("What is the mood of this review", _MOODS, text), label


@family.template(options=_TOPICS)
def topic(rng: Random, level: int) -> Made:
    label, name = rng.choice(_TOPICS), rng.choice(NAMES)
    phrases = {
        "sports": ["won the final in extra time", "missed the penalty", "paced the last lap badly"],
        "cooking": [
            "lets the dough rest overnight",
            "adds salt before the onions brown",
            "reduced the sauce for an hour",
        ],
        "travel": ["missed the ferry to the island", "packed two suitcases", "extended the visa at the border"],
        "technology": ["updated the firmware", "replaced the battery of the phone", "lost the password for the server"],
        "health": ["has had a fever since Friday", "takes the tablets after meals", "got the stitches out today"],
    }
    text = f"{name} {phrases[label][level - 1]}, {rng.choice(NAMES)} says."
    return _ask("Which topic fits best", _TOPICS, text), label


@family.template(options=_TEAMS)
def team(rng: Random, level: int) -> Made:
    item, label = rng.choice(GOODS), rng.choice(_TEAMS)
    phrases = {
        "billing": [
            "I was charged twice for my {}",
            "The price on the invoice for the {} is wrong",
            "I sent the {} back three weeks ago and still wait for my money",
        ],
        "shipping": [
            "My {} has not arrived",
            "The parcel with the {} went to my old street",
            "The tracking page of my {} has said 'tomorrow' for six days",
        ],
        "technical support": [
            "My {} does not switch on",
            "The {} shows an error since the update",
            "Since the last firmware the {} forgets its settings",
        ],
    }
    text = phrases[label][level - 1].format(item) + "."
    return _ask("Which team should read this message", _TEAMS, text), label


@family.template(options=_KINDS)
def kind_of_sentence(rng: Random, level: int) -> Made:
    label, item = rng.choice(_KINDS), rng.choice(GOODS)
    phrases = {
        "question": [f"Where is the {item}?", f"did somebody see the {item}", f"i wonder, is that your {item}"],
        "command": [
            f"Bring me the {item}!",
            f"put the {item} away",
            f"{rng.choice(NAMES).lower()}, the {item} goes back now",
        ],
        "statement": [
            f"The {item} is on the shelf.",
            f"the {item} was here a minute ago",
            f"what a {item} costs is no secret",
        ],
    }
    return _ask("What kind of sentence is this", _KINDS, phrases[label][level - 1]), label


@family.template(options=_TENSES)
def tense(rng: Random, level: int) -> Made:
    label, name, item = rng.choice(_TENSES), rng.choice(NAMES), rng.choice(GOODS)
    phrases = {
        "past": [
            f"{name} sold the {item} yesterday",
            f"{name} had wanted a {item}",
            f"Once {name} put down the {item}, all was quiet",
        ],
        "present": [
            f"{name} is looking for the {item} now",
            f"{name} owns a {item}",
            f"{name} has to repair the {item}",
        ],
        "future": [
            f"{name} will buy a {item} tomorrow",
            f"{name} is going to paint the {item}",
            f"The {item} is to be delivered to {name} next week",
        ],
    }
    return _ask("Which time does this sentence speak of", _TENSES, phrases[label][level - 1] + "."), label


@family.template(options=_LANGUAGES)
def language(rng: Random, level: int) -> Made:
    label = rng.choice(_LANGUAGES)
    phrases = {
        "English": ["Where is the station?", "I come later", "the red hat"],
        "German": ["Wo ist der Bahnhof?", "Ich komme später", "der rote Hut"],
        "French": ["Où est la gare ?", "J'arrive plus tard", "le chapeau rouge"],
        "Spanish": ["¿Dónde está la estación?", "Llego más tarde", "el sombrero rojo"],
        "Italian": ["Dov'è la stazione?", "Arrivo più tardi", "il cappello rosso"],
    }
    text = f"{rng.choice(NAMES)}: '{phrases[label][level - 1]}'"
    return _ask("In which language does this person speak", _LANGUAGES, text), label


@family.template(options=_CLASSES)
def what_is_it(rng: Random, level: int) -> Made:
    label = rng.choice(_CLASSES)
    pools = {
        "animal": ANIMALS,
        "fruit": FRUITS,
        "tool": ["hammer", "drill", "saw", "chisel", "wrench"],
        "person": NAMES,
    }
    word = rng.choice(pools[label])
    hint = at(level, "{}", "the {} from the story", "my neighbour's friend calls it the best one: {}").format(word)
    return _ask("What kind of thing is named here", _CLASSES, hint), label


@family.template(options=_YES_NO)
def urgent(rng: Random, level: int) -> Made:
    name, label = rng.choice(NAMES), rng.choice(_YES_NO)
    now = [
        "Water is running through the ceiling, come at once",
        f"{name} fell and cannot get up",
        "I smell gas in the stairwell",
    ]
    later = [
        "No hurry, call when you have time",
        f"Tell {name} the book is back some day",
        "The gas bill can wait until the holidays are over",
    ]
    text = (now if label == "yes" else later)[level - 1]
    return f"'{text}, {rng.choice(NAMES)}.'\nIs this message urgent? Yes or no?", label


@family.template(options=_YES_NO)
def advertising(rng: Random, level: int) -> Made:
    item, label = rng.choice(GOODS), rng.choice(_YES_NO)
    spam = [
        f"WIN a free {item} now, click here!!!",
        f"Only today: {item}s at half price for our best friends",
        f"You were chosen to test our {item}, just confirm your card",
    ]
    mail = [
        f"I put your {item} back on the shelf",
        f"The {item} you asked about is out of stock",
        f"Can you confirm that you have my {item}? I need it on Friday",
    ]
    text = (spam if label == "yes" else mail)[level - 1]
    return f"'{text}'\nIs this message advertising or spam? Yes or no?", label


@family.template(options=_YES_NO)
def follows(rng: Random, level: int) -> Made:
    a, b, c = rng.sample(NAMES, 3)
    label, quality = rng.choice(_YES_NO), rng.choice(("taller", "older", "faster"))
    if level == 1:
        claim = f"{a} is {quality} than {b}" if label == "yes" else f"{b} is {quality} than {a}"
        return f"{a} is {quality} than {b}. Is it true that {claim}? Yes or no?", label
    claim = f"{a} is {quality} than {c}" if label == "yes" else f"{c} is {quality} than {a}"
    facts = [f"{a} is {quality} than {b}.", f"{b} is {quality} than {c}."]
    if level == 3:
        facts = facts[::-1]
    return f"{' '.join(facts)} Does it follow that {claim}? Yes or no?", label


@family.template("short_answer")
def odd_one_out(rng: Random, level: int) -> Made:
    pools = [ANIMALS, FRUITS, THINGS, CITIES] if level < 3 else [ANIMALS, WORDS, FRUITS, CITIES]
    many, one = rng.sample(pools, 2)
    words, odd = [w.lower() for w in rng.sample(many, level + 2)], rng.choice(one).lower()
    words.insert(rng.randrange(level + 3), odd)
    return f"{', '.join(words)}\nWhich one of these does not belong to the others?", odd
