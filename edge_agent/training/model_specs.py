"""Names of models to sample, and the samplers they stand for: a catalogue name, a GGUF file, or URL#model."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_agent import model_store
from edge_agent.errors import ConfigError
from edge_agent.training.relabelling import Sampler
from edge_agent.training.served_sampling import Price, ServedSampler


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model that can be sampled; picklable, so that other machines can make its sampler."""

    name: str
    """In samples and labels."""
    fingerprint: str
    """SHA-256 of the file, or the base URL."""
    path: Path | None = None
    base_url: str | None = None
    api_key: str | None = None
    price: Price = Price()
    max_cost: float = math.inf
    concurrency: int = 8
    n_threads: int = 2

    def sampler(self) -> Sampler:
        """Load the file, or get ready to ask the server."""
        if self.path is not None:
            from edge_agent.training.sampling import LlamaSampler

            return LlamaSampler(self.path, name=self.name, n_threads=self.n_threads)
        assert self.base_url is not None
        return ServedSampler(
            self.base_url, self.name, api_key=self.api_key, price=self.price, max_cost=self.max_cost,
            concurrency=self.concurrency,
        )  # fmt: skip


def model_spec(
    text: str,
    store: Path,
    environ: Mapping[str, str],
    *,
    key_env: str | None = None,
    price: Price | None = None,
    max_cost: float = math.inf,
    concurrency: int = 8,
    n_threads: int = 2,
) -> ModelSpec:
    """The model behind what a user typed.

    :param text: a name of `edge-agent pull --list`, the path of a GGUF file, or `https://host/v1#model`.
    :param store: where pulled models are.
    :param key_env: variable with the server's key.
    :raises ConfigError: for a URL without a model or a variable that is not set.
    :raises ModelError: when the model is not here.
    """
    if not text.startswith(("http://", "https://")):
        path = model_store.resolve(text, store)
        model_store.verify(path, store)
        name = text if not text.endswith(".gguf") else path.stem
        return ModelSpec(name, _sha256(path), path=path, n_threads=n_threads)
    url, _, model = text.partition("#")
    if not model:
        raise ConfigError(f"{text}: expected URL#model, such as https://api.example.com/v1#gpt-4o, found no model")
    if key_env and not environ.get(key_env):
        raise ConfigError(f"the variable {key_env} is not set: export the key of {url} there, or name another one")
    key = environ[key_env] if key_env else None
    return ModelSpec(model, url, None, url, key, price or Price(), max_cost, concurrency)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
