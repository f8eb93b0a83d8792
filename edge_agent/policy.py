"""Who answers: pure functions from facts to a Decision. Knows no models, no clock and no log.

Order: privacy, offline, explicit wish, capability, health, uncertainty. docs/decisions.md is this table in words.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.errors import CloudRejected, CloudUnavailable, EdgeAgentError, LocalModelError, RequestError
from edge_agent.types import Decision, Route, Wish

REASONS = {
    "private": "private: it never leaves the device",
    "asked_local": "the client asked for the local model",
    "asked_cloud": "the client asked for the cloud model",
    "below_threshold": "the score is below the threshold: the local answer is expected to be good enough",
    "above_threshold": "the score reaches the threshold: the cloud model is expected to do better",
    "context_exceeded": "the question is too long for the local model's context",
    "local_incapable": "the local model cannot honour the request (tools, schema or order of messages)",
    "local_unavailable": "the local model cannot answer",
    "router_error": "the router could not score the question, so the configured default route was taken",
    "cloud_disabled": "the cloud is switched off (cloud.enabled: false)",
    "cloud_not_configured": "no cloud model is configured",
    "cloud_no_key": "the environment variable with the cloud's key is not set",
    "cloud_unavailable": "the cloud did not answer",
    "cloud_rejected": "the cloud refused the key or the account",
    "unanswerable": "the request failed before anything could be decided",
}
"""The closed list of reasons, each with its words for people."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the decision depends on, besides the question."""

    wish: Wish
    private: bool
    score: float | None
    """None when there is no router or it failed."""
    threshold: float | None
    router_version: str | None
    cloud_problem: str | None
    """cloud_disabled, cloud_not_configured, cloud_no_key, or cloud_unavailable (open breaker); None when usable."""
    prompt_tokens: int
    n_ctx: int
    local_broken: bool = False
    local_refusal: RequestError | None = None
    """What the local model cannot honour in this request."""
    on_router_error: Route = "local"
    acceptable: float | None = None
    """The router's second head, if it has one."""


def decide(facts: Facts) -> Decision:
    """The route and its reason; a route of None when nobody may or can answer (see `refusal`)."""
    local_problem = local_problem_of(facts)
    if facts.private:
        return _decision(facts, None if local_problem else "local", local_problem or "private")
    if facts.wish == "local":
        return _decision(facts, None if local_problem else "local", local_problem or "asked_local")
    route, reason = _preferred(facts, local_problem)
    if route == "cloud" and facts.cloud_problem:
        if local_problem:
            return _decision(facts, None, local_problem)
        return _decision(facts, "local", facts.cloud_problem, degraded=_degraded(facts))
    return _decision(facts, route, reason)


def _preferred(facts: Facts, local_problem: str | None) -> tuple[Route, str]:
    """What a question that is not private and not held to the local model asks for, were the cloud in reach."""
    if facts.wish == "cloud":
        return "cloud", "asked_cloud"
    if local_problem:
        return "cloud", local_problem
    if facts.score is None or facts.threshold is None:
        return facts.on_router_error, "router_error"
    return ("cloud", "above_threshold") if escalates(facts.score, facts.threshold) else ("local", "below_threshold")


def local_problem_of(facts: Facts) -> str | None:
    """Why the local model cannot answer this; None when it can. The prompt must leave room for a token of answer."""
    if facts.local_broken:
        return "local_unavailable"
    if facts.local_refusal is not None:
        return "local_incapable"
    return "context_exceeded" if facts.prompt_tokens >= facts.n_ctx else None


def escalates(score: float, threshold: float) -> bool:
    """The rule, written once: escalate when score >= threshold."""
    return score >= threshold


def _degraded(facts: Facts) -> str | None:
    """Falling back is worth a mark when a cloud is set up and out of reach, or was asked for by name."""
    if facts.cloud_problem == "cloud_unavailable" or facts.wish == "cloud":
        return facts.cloud_problem
    return "cloud_no_key" if facts.cloud_problem == "cloud_no_key" else None


def after_cloud_failure(decision: Decision, facts: Facts, error: EdgeAgentError) -> Decision | None:
    """What to do when the cloud failed before any text: answer locally and say so, or None: report the error.

    Unavailable: the local model answers. Rejected for the key or the account (401, 402, 403) under `auto`: the local
    model answers too, and `doctor` names it. Any other rejection is the client's to see.
    """
    if local_problem_of(facts):
        return None
    if isinstance(error, CloudUnavailable):
        return _decision(facts, "local", decision.reason, degraded="cloud_unavailable")
    account = isinstance(error, CloudRejected) and error.upstream_status in (401, 402, 403)
    if account and facts.wish == "auto":
        return _decision(facts, "local", decision.reason, degraded="cloud_rejected")
    return None


def refusal(decision: Decision, facts: Facts) -> EdgeAgentError:
    """The error for a decision without a route."""
    if decision.reason == "context_exceeded":
        return RequestError(
            f"messages: the local model's context is {facts.n_ctx} tokens, the prompt has {facts.prompt_tokens}"
            f" and {_why_no_cloud(facts)}; shorten it",
            code="context_exceeded",
            param="messages",
        )
    if facts.local_refusal is not None and decision.reason == "local_incapable":
        return facts.local_refusal
    return LocalModelError(f"the local model cannot answer and {_why_no_cloud(facts)}; see `edge-agent doctor`")


def _why_no_cloud(facts: Facts) -> str:
    if facts.private:
        return "a private question never goes to the cloud"
    if facts.wish == "local":
        return "model: local keeps it from the cloud"
    return REASONS.get(facts.cloud_problem or "", "the cloud failed")


def _decision(facts: Facts, route: Route | None, reason: str, degraded: str | None = None) -> Decision:
    return Decision(
        route, reason, facts.score, facts.threshold, facts.router_version, degraded, acceptable=facts.acceptable
    )
