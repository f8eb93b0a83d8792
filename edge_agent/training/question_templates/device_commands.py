"""What people say to a home, and the command that is meant, as JSON. The keys are explained in the prompt's format."""

from __future__ import annotations

from random import Random

from edge_agent.training.question_templates.family import Family, Made, at
from edge_agent.training.question_templates.words import COLOURS, NUMBER_WORDS, ROOMS

family = Family("device_command", "json")


def _command(device: str, action: str, room: str = "", value: object = None) -> dict[str, object]:
    fields = {"device": device, "room": room, "action": action, "value": value}
    return {key: field for key, field in fields.items() if field not in ("", None)}


@family.template()
def switch(rng: Random, level: int) -> Made:
    room, on = rng.choice(ROOMS), rng.random() < 0.5
    word = "on" if on else "off"
    text = at(
        level,
        f"turn {word} the {room} light",
        f"can you switch the light in the {room} {word} please",
        f"it is {'too dark' if on else 'bright enough'} in the {room}, we {'need' if on else 'do not need'} the light",
    )
    return text, _command("light", word, room)


@family.template()
def brightness(rng: Random, level: int) -> Made:
    room, share = rng.choice(ROOMS), rng.choice(list(NUMBER_WORDS))
    text = at(
        level,
        f"set the {room} light to {share} %",
        f"dim the light in the {room} to {NUMBER_WORDS[share]} percent",
        f"{NUMBER_WORDS[share]} percent is enough for the lamp in the {room}",
    )
    return text, _command("light", "set", room, share)


@family.template()
def heating(rng: Random, level: int) -> Made:
    room, degrees = rng.choice(ROOMS), rng.randint(15, 25)
    text = at(
        level,
        f"set the heating in the {room} to {degrees} degrees",
        f"make it {degrees} degrees in the {room}",
        f"the {room} has {degrees - 3} degrees now and should get {degrees}",
    )
    return text, _command("heating", "set", room, degrees)


@family.template()
def timer(rng: Random, level: int) -> Made:
    minutes = rng.randint(2, 55) if level < 3 else rng.choice((60, 75, 90, 105, 120))
    long = {
        60: "an hour",
        75: "an hour and a quarter",
        90: "one and a half hours",
        105: "an hour and 45 minutes",
        120: "two hours",
    }
    text = at(
        level,
        f"set a timer for {minutes} minutes",
        f"wake me in {minutes} minutes with the timer",
        f"start the timer, {long.get(minutes, '')}",
    )
    return text, _command("timer", "start", value=minutes)


@family.template()
def blinds(rng: Random, level: int) -> Made:
    room, opened = rng.choice(ROOMS), rng.random() < 0.5
    word = "open" if opened else "close"
    text = at(
        level,
        f"{word} the blinds in the {room}",
        f"could you {word} the {room} blinds for me",
        f"{'let some sun into' if opened else 'keep the sun out of'} the {room} with the blinds",
    )
    return text, _command("blinds", word, room)


@family.template()
def volume(rng: Random, level: int) -> Made:
    room, value = rng.choice(ROOMS), rng.choice(list(NUMBER_WORDS))
    text = at(
        level,
        f"set the speaker volume in the {room} to {value}",
        f"{room} speaker to {NUMBER_WORDS[value]} please",
        f"the music in the {room} should play at {NUMBER_WORDS[value]}, not at {value - 5}",
    )
    return text, _command("speaker", "set", room, value)


@family.template()
def colour(rng: Random, level: int) -> Made:
    room, tone, other = rng.choice(ROOMS), *rng.sample(COLOURS, 2)
    text = at(
        level,
        f"make the {room} light {tone}",
        f"I want {tone} light in the {room}",
        f"change the {room} light from {other} to {tone}",
    )
    return text, _command("light", "set", room, tone)


@family.template()
def lock(rng: Random, level: int) -> Made:
    room, locked = rng.choice(("garage", "cellar", "hallway", "attic")), rng.random() < 0.5
    word = "lock" if locked else "unlock"
    text = at(
        level,
        f"{word} the {room} door",
        f"please {word} the door of the {room}",
        f"{'nobody should get' if locked else 'somebody wants to come'} through the {room} door",
    )
    return text, _command("door", word, room)


@family.template()
def louder(rng: Random, level: int) -> Made:
    room, up, step = rng.choice(ROOMS), rng.random() < 0.5, rng.choice((5, 10, 15, 20))
    word = "increase" if up else "decrease"
    text = at(
        level,
        f"{word} the volume of the {room} speaker by {step}",
        f"turn the {room} speaker {'up' if up else 'down'} by {step}",
        f"the {room} speaker is {step} too {'quiet' if up else 'loud'}",
    )
    return text, _command("speaker", word, room, step)


@family.template()
def two_rooms(rng: Random, level: int) -> Made:
    (one, other), on = rng.sample(ROOMS, 2), rng.random() < 0.5
    first, second = ("on", "off") if on else ("off", "on")
    left, entered = (one, other) if first == "off" else (other, one)
    text = at(
        level,
        f"turn {first} the {one} light and the {other} light",
        f"light {first} in the {one} and {second} in the {other}",
        f"I go from the {left} to the {entered}, do the lights for me",
    )
    if level == 1:
        return text, [_command("light", first, one), _command("light", first, other)]
    return text, [_command("light", first, one), _command("light", second, other)]


@family.template()
def fan(rng: Random, level: int) -> Made:
    room, stage = rng.choice(ROOMS), rng.randint(1, 5)
    text = at(
        level,
        f"set the {room} fan to {stage}",
        f"fan in the {room} on stage {stage}",
        f"the {room} fan runs at {stage % 5 + 1}, put it to {stage}",
    )
    return text, _command("fan", "set", room, stage)
