"""The routers of a daemon: the one in use, and a candidate that only watches. Loads them, scores nothing.

A bundle that is refused changes nothing: the router in use stays, and the reason is kept for whoever asks. A candidate
that is refused is left out.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from edge_agent.config_keys import Router
from edge_agent.errors import RouterError
from edge_agent.router import RouterModel, find_bundle
from edge_agent.router_card import RETAKE

_LOGGER = logging.getLogger("edge_agent")


class RouterSlots:
    """:param state_dir: where bundles arrive on an installed device."""

    def __init__(self, settings: Router, state_dir: Path):
        self._settings, self._state_dir = settings, state_dir
        self.active: RouterModel | None = None
        self.error: str | None = None
        """Why the last load of the router was refused."""
        self.loads = 0
        """How often bundles were loaded or refused: who asks for a reload sees when it is over."""
        self.shadow: RouterModel | None = None
        self.shadow_error: str | None = None

    def load(self) -> None:
        """Load both; called again, load them anew."""
        try:
            self.active, self.error = load_active(self._settings, self._state_dir), None
        except Exception as error:  # whatever a bundle makes its readers raise: the next signal finds this thread alive
            self.error = _reason(error)
            _LOGGER.error("no router: %s", self.error)
        if self._settings.shadow is not None:
            self._load_shadow()
        self.loads += 1

    def status(self) -> dict[str, Any]:
        """The router's part of GET /v1/status."""
        settings, shadow = self._settings, self.shadow
        return {
            "version": self.active.version if self.active else None,
            "threshold": self._threshold(self.active),
            "path": str(self.active.path) if self.active else None,
            "error": self.error,
            "loads": self.loads,
            "on_error": settings.on_error,
            "shadow": None
            if settings.shadow is None
            else {
                "version": shadow.version if shadow else None,
                "threshold": self._threshold(shadow) if shadow else None,
                "error": self.shadow_error,
            },
        }

    def _threshold(self, router: RouterModel | None) -> float | None:
        if self._settings.threshold is not None or router is None:
            return self._settings.threshold
        return router.threshold

    def _load_shadow(self) -> None:
        try:
            self.shadow, self.shadow_error = load_shadow(self._settings, self._state_dir, self.active), None
            _LOGGER.info("candidate router %s is watching", self.shadow.version)
        except Exception as error:
            self.shadow, self.shadow_error = None, _reason(error)
            _LOGGER.error("no candidate router: %s", self.shadow_error)


def load_active(settings: Router, state_dir: Path) -> RouterModel:
    """The router that the settings name. :raises RouterError: when it is refused."""
    return _load(find_bundle(settings.path, state_dir), settings)


def load_shadow(settings: Router, state_dir: Path, active: RouterModel | None) -> RouterModel:
    """The candidate that `router.shadow` names: by a path, or by its version beside the router in use.

    :raises RouterError: when it is refused, or is the router in use.
    """
    named = str(settings.shadow)
    places = [active.path.parent] if active else []
    places.append(state_dir / "router_models")
    if "/" in named:
        bundle = Path(named).expanduser()
    else:
        bundle = next((place / named for place in places if (place / named).exists()), places[0] / named)
    if active is not None and bundle.resolve() == active.path:
        raise RouterError(f"router.shadow: expected a candidate, found the router in use ({named}); set it to null")
    return _load(bundle, settings, beside=active)


def _load(bundle: Path, settings: Router, *, beside: RouterModel | None = None) -> RouterModel:
    return RouterModel.load(bundle, n_threads=settings.n_threads, public_key=settings.public_key, beside=beside)


def _reason(error: Exception) -> str:
    return error.message if isinstance(error, RouterError) else f"{type(error).__name__}: {error}; {RETAKE}"
