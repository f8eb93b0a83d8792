"""A router bundle on disk: finds it, reads its card, verifies its files. Opens no model and scores nothing.

router_models/encoders/<name>-<sha8>/{model.onnx, tokenizer.json}    stored once
router_models/<version>/{head.onnx, router.json}                     small, one per version
router_models/current -> <version>
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any, get_type_hints

from edge_agent.errors import RouterError
from edge_agent.onnx_file import read_facts

FORMAT = 1
CARD, HEAD, ENCODER_MODEL, TOKENIZER = "router.json", "head.onnx", "model.onnx", "tokenizer.json"
INPUTS = ("last_user_message", "last_user_message_in_context")
HEADS = ("score", "acceptable")
"""score: P(the cloud model does better). acceptable: P(the local answer is good enough)."""
NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}"
"""Of versions and encoders: what can be a directory and stand in a log row."""
RETAKE = "take the bundle again from where it came, or point router.path at another one"


@dataclass(frozen=True, slots=True)
class RouterCard:
    """`router.json`, field for field; fields of later formats that are not here are ignored."""

    format: int
    """Version of the bundle format."""
    version: str
    """Name of this router; the log keeps it beside every score."""
    input: str
    """What of a query is scored: one of INPUTS."""
    encoder: str
    """Directory of the encoder, relative to the bundle."""
    encoder_inputs: list[str]
    """Inputs of the encoder graph, int64 [batch, tokens]."""
    dimension: int
    """Length of the embedding, which is L2-normalised."""
    max_tokens: int
    """Longer texts keep their first and last half of this many tokens."""
    features: list[str]
    """Text features that follow the embedding, in order."""
    features_version: int
    """Version of the function that computes them."""
    heads: dict[str, str]
    """Outputs of the head, and in words what each estimates."""
    threshold: float
    """Escalate when the threshold's head is at least this."""
    threshold_head: str
    """Which head the threshold is on."""
    threshold_rule: str
    """In words: how the threshold was chosen."""
    calibration: dict[str, Any]
    metrics: dict[str, Any]
    trained_on: dict[str, Any]
    files: dict[str, str]
    """SHA-256 of every file, by its path relative to the bundle."""
    golden: list[dict[str, Any]]
    """{text, score} pairs that the bundle must reproduce on the device."""

    @property
    def encoder_model(self) -> str:
        return f"{self.encoder}/{ENCODER_MODEL}"

    @property
    def tokenizer(self) -> str:
        return f"{self.encoder}/{TOKENIZER}"


def find_bundle(configured: str | None, state_dir: Path, *, package_dir: Path | None = None) -> Path:
    """The router bundle to load: the configured one, else the device's, the clone's, the installed package's.

    :param state_dir: where bundles arrive on an installed device.
    :param package_dir: the directory of the edge_agent package.
    :raises RouterError: naming every place that was looked at.
    """
    if configured:
        return Path(configured).expanduser()
    package = package_dir or Path(__file__).resolve().parent
    places = [state_dir / "router_models" / "current", package.parent / "router_models" / "current"]
    for place in places:
        if place.is_symlink() or place.exists():  # a dangling link is an error to be told, not to be stepped over
            return place
    wheel = package / "_router_models"  # a wheel holds no symlinks, so no `current`
    versions = sorted(card.parent for card in wheel.glob(f"*/{CARD}"))
    if versions:
        return versions[-1]
    looked = ", ".join(str(place) for place in [*places, wheel])
    raise RouterError(f"no router bundle in {looked}; set router.path to one, or install the package again")


def read_card(bundle: Path) -> RouterCard:
    """The checked card of a bundle directory.

    :raises RouterError: naming the first field that is missing or wrong, what was expected and what was found.
    """
    path = bundle / CARD
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RouterError(f"{path}: expected a router's card, found none ({error.strerror}); {RETAKE}") from error
    except (ValueError, RecursionError) as error:
        raise RouterError(f"{path}: expected JSON, found something else ({error}); {RETAKE}") from error
    if not isinstance(loaded, dict):
        raise RouterError(f"{path}: expected a JSON object, found {type(loaded).__name__}; {RETAKE}")
    hints = get_type_hints(RouterCard)
    card = RouterCard(**{f.name: _typed(path, f.name, loaded, hints[f.name]) for f in fields(RouterCard)})
    _check_values(path, card)
    return card


def verify_files(bundle: Path, card: RouterCard) -> None:
    """Checks every file of a bundle before anything opens it.

    :raises RouterError: for a file that is missing, outside router_models, not the one the card names, or a graph that
        needs other files or other operators than ONNX's own.
    """
    for name in (HEAD, card.encoder_model, card.tokenizer):
        path = (bundle / name).resolve()
        data = _read(bundle, path, name)
        found = hashlib.sha256(data).hexdigest()
        if found != card.files[name]:
            raise RouterError(f"{path}: expected SHA-256 {card.files[name]} as on the card, found {found}; {RETAKE}")
        if name != card.tokenizer:
            _check_graph(path, data)


def _read(bundle: Path, path: Path, name: str) -> bytes:
    if PurePosixPath(name).is_absolute() or not path.is_relative_to(bundle.parent):
        where = f"{bundle / CARD}: encoder"
        raise RouterError(f"{where}: expected a directory inside {bundle.parent}, found {path}; {RETAKE}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise RouterError(f"{path}: expected a file of the bundle, found none ({error.strerror}); {RETAKE}") from error


def _check_graph(path: Path, model: bytes) -> None:
    try:
        facts = read_facts(model)
    except (ValueError, RecursionError) as error:
        raise RouterError(f"{path}: expected an ONNX model, found something else ({error}); {RETAKE}") from error
    if facts.external_data:
        raise RouterError(f"{path}: expected all weights inside the file, found external data; {RETAKE}")
    if facts.domains - {""}:
        raise RouterError(f"{path}: expected operators of ONNX itself, found domains {sorted(facts.domains)}; {RETAKE}")


def _typed(path: Path, name: str, loaded: Mapping[str, Any], hint: Any) -> Any:
    kind = getattr(hint, "__origin__", hint)
    if name not in loaded:
        raise RouterError(f"{path}: {name}: expected {_KINDS[kind]}, found nothing; {RETAKE}")
    value = loaded[name]
    if kind is float and type(value) is int and abs(value) < 2**53:  # a float holds no int of a thousand digits
        value = float(value)
    if type(value) is not kind:
        raise RouterError(f"{path}: {name}: expected {_KINDS[kind]}, found {json.dumps(value)[:80]}; {RETAKE}")
    return value


_KINDS = {int: "a whole number", float: "a number", str: "text", list: "a list", dict: "an object"}


def _check_values(path: Path, card: RouterCard) -> None:
    checks: dict[str, tuple[bool, str]] = {
        "format": (card.format == FORMAT, f"{FORMAT}"),
        "version": (re.fullmatch(NAME, card.version) is not None, "letters, digits and . _ + -, 64 at most"),
        "input": (card.input in INPUTS, " or ".join(INPUTS)),
        "encoder": (card.encoder.isprintable(), "a directory"),
        "encoder_inputs": (
            "input_ids" in card.encoder_inputs and _are_texts(card.encoder_inputs),
            "names, input_ids too",
        ),
        "features": (_are_texts(card.features), "names"),
        "dimension": (card.dimension > 0, "a positive number"),
        "max_tokens": (4 <= card.max_tokens <= 8192, "4 to 8192"),
        "heads": ("score" in card.heads and set(card.heads) <= set(HEADS), "score, and perhaps acceptable"),
        "threshold": (0 <= card.threshold <= 1, "a number in [0, 1]"),
        "threshold_head": (card.threshold_head == "score", "score"),
        "golden": (bool(card.golden) and all(map(_is_golden, card.golden)), "a list of {text, score}"),
    }
    for name in (HEAD, card.encoder_model, card.tokenizer):
        checks[f"files[{name!r}]"] = (isinstance(card.files.get(name), str), "a SHA-256")
    for name, (right, expected) in checks.items():
        if not right:
            found = card.files.get(name[7:-2]) if name.startswith("files") else getattr(card, name)
            raise RouterError(f"{path}: {name}: expected {expected}, found {json.dumps(found)[:80]}; {RETAKE}")


def _is_golden(pair: Any) -> bool:
    if not isinstance(pair, dict):
        return False
    score = pair.get("score")
    return isinstance(pair.get("text"), str) and isinstance(score, (int, float)) and 0 <= score <= 1


def _are_texts(values: list[Any], *needed: str) -> bool:
    return all(isinstance(value, str) for value in values) and set(needed) <= set(values)
