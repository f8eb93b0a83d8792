"""Names by hash what answers and what scores, so that a guarantee can tell whether it still holds. Loads neither."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edge_agent.gguf_file import chat_template_of
from edge_agent.router_card import HEAD, RouterCard


def facts_in_use(model: Path, card: RouterCard) -> dict[str, str]:
    """What a guarantee is valid for, by the names in guarantees.VALID_FOR; reads the model's file once, whole.

    :param model: the local model's GGUF file.
    :param card: of the router in use, whose files were verified.
    """
    return {
        "local_model_sha256": _sha256(model),
        "prompt_template_sha256": hashlib.sha256(chat_template_of(model) or b"").hexdigest(),
        "head_sha256": card.files[HEAD],
        "encoder_sha256": card.files[card.encoder_model],
        "router_version": card.version,
    }


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
