"""Puts a guarantee on a router's card, in a new version of the bundle beside the old one. Publishes nothing."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_agent.errors import ThresholdError
from edge_agent.files import write_directory
from edge_agent.guarantees import Guarantee, void_reason
from edge_agent.router import RouterModel
from edge_agent.router_card import CARD, HEAD


def write_with(bundle: Path, guarantee: Guarantee) -> Path:
    """The new bundle: the same head, a card that also has this guarantee; it gets its name once it has loaded.

    Guarantees of the old card stay where they hold for the same models; one of the same kind, alpha and delta goes.

    :raises ThresholdError: when the old card's guarantees are none.
    :raises OSError: when the directory cannot be written. :raises RouterError: when the result does not load.
    """
    bundle = bundle.resolve()
    card: dict[str, Any] = json.loads((bundle / CARD).read_text(encoding="utf-8"))
    version = _next_version(bundle)
    facts = {**guarantee.valid_for}
    entries = card.get("guarantees", [])
    if not isinstance(entries, list):
        raise ThresholdError(
            f"{bundle / CARD}: guarantees: expected a list, found {entries!r:.80}; take the bundle again"
        )
    kept = [old for old in map(Guarantee.from_card, entries) if _stays(old, guarantee, facts)]
    card["version"] = version
    card["guarantees"] = [
        replace(one, valid_for={**one.valid_for, "router_version": version}).to_card() for one in [*kept, guarantee]
    ]
    data = (json.dumps(card, indent=1, ensure_ascii=False) + "\n").encode()
    return write_directory(bundle.parent / version, {CARD: data, HEAD: (bundle / HEAD).read_bytes()}, check=_load)


def _stays(old: Guarantee, new: Guarantee, facts: dict[str, str]) -> bool:
    same = (old.kind, old.alpha, old.delta) == (new.kind, new.alpha, new.delta)
    return not same and void_reason(old, facts) is None


def _next_version(bundle: Path) -> str:
    """<version>-g1, -g2 ...: the first name that is free."""
    base, number = re.sub(r"-g\d+$", "", bundle.name), 1
    while (bundle.parent / f"{base}-g{number}").exists():
        number += 1
    return f"{base}-g{number}"


def _load(directory: Path) -> RouterModel:
    return RouterModel.load(directory)
