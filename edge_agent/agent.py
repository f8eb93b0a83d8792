"""The straight line: score -> decide -> generate -> log. Knows its collaborators by what they do."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Protocol, cast

from edge_agent import policy
from edge_agent.errors import CloudError, EdgeAgentError, RequestError, RouterError
from edge_agent.policy import Facts
from edge_agent.types import Chunk, Completion, Decision, Estimate, Exchange, Query, Route, ShadowScore

_LOGGER = logging.getLogger(__name__)

Answer = Generator[Chunk, None, Completion]


class Model(Protocol):
    """The local and the cloud model: one method.

    `generate` raises before any text, or returns an iterator of Chunk whose return value is the Completion. Setting
    `cancelled` ends it soon, with finish_reason `cancelled`.
    """

    @property
    def name(self) -> str: ...

    def generate(self, query: Query, cancelled: threading.Event) -> Answer: ...


class LocalModel(Model, Protocol):
    n_ctx: int
    broken: str | None

    def prompt_tokens(self, query: Query) -> int: ...


class CloudModel(Model, Protocol):
    @property
    def available(self) -> bool: ...


class Router(Protocol):
    version: str
    threshold: float

    def estimate(self, query: Query) -> Estimate: ...


class Log(Protocol):
    def append(self, exchange: Exchange) -> None: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What `/v1/route` answers: the decision and the facts behind it, before anything is generated."""

    decision: Decision
    facts: Facts
    router_ms: float | None


class Agent:
    """:param cloud: the cloud model, or the reason there is none: cloud_disabled, cloud_not_configured, cloud_no_key.
    :param threshold: overrides the one on the router's card.
    :param on_router_error: the route when there is no score.
    :param show_prompts: log lines carry the question's text, unless it is private.
    """

    def __init__(
        self,
        *,
        router: Router | None,
        shadow: Router | None = None,
        local: LocalModel,
        cloud: CloudModel | str,
        log: Log,
        threshold: float | None = None,
        on_router_error: Route = "local",
        show_prompts: bool = False,
    ):
        self.router = router
        """Replaced whole when a new bundle is loaded; one answer uses one router."""
        self.shadow = shadow
        """A candidate that scores what the router scores, for the log alone; replaced whole, too."""
        self._local, self._cloud, self._log = local, cloud, log
        self._threshold, self._on_router_error, self._show_prompts = threshold, on_router_error, show_prompts

    def plan(self, query: Query) -> Plan:
        """Score and decide."""
        started = time.perf_counter()
        router, estimate = self.router, None
        if router is not None and not query.private:
            try:
                estimate = router.estimate(query)
            except RouterError as error:
                _LOGGER.warning("router %s could not score: %s", router.version, error)
        router_ms = _ms_since(started) if estimate is not None else None
        threshold = self._threshold if router is None else self._threshold_of(router)
        prompt_tokens, refused = self._prompt_tokens(query)
        facts = Facts(
            wish=query.wish,
            private=query.private,
            score=estimate.score if estimate else None,
            acceptable=estimate.acceptable if estimate else None,
            threshold=threshold,
            router_version=router.version if router else None,
            cloud_problem=self._cloud_problem(),
            prompt_tokens=prompt_tokens,
            n_ctx=self._local.n_ctx,
            local_broken=self._local.broken is not None,
            local_refusal=refused,
            on_router_error=self._on_router_error,
        )
        return Plan(policy.decide(facts), facts, router_ms)

    def _threshold_of(self, router: Router) -> float:
        return router.threshold if self._threshold is None else self._threshold

    def _shadow_score(self, query: Query, decision: Decision) -> ShadowScore | None:
        """The candidate's opinion, asked for when the answer is over: it costs no query a millisecond."""
        shadow = self.shadow
        if shadow is None or decision.score is None:
            return None
        try:
            score = shadow.estimate(query).score
        except Exception as error:  # whatever is wrong with a candidate, the answer and its row stand
            problem = error.message if isinstance(error, RouterError) else type(error).__name__  # no text of a question
            _LOGGER.warning("candidate router %s could not score: %s", shadow.version, problem)
            score = None
        return ShadowScore(shadow.version, score, self._threshold_of(shadow))

    def _prompt_tokens(self, query: Query) -> tuple[int, RequestError | None]:
        try:
            return self._local.prompt_tokens(query), None
        except RequestError as refused:
            return 0, refused

    def answer(self, query: Query, cancelled: threading.Event) -> Generator[Decision | Chunk, None, Exchange]:
        """Yield the Decision once it is final, then Chunks; return the Exchange, which is in the log by then.

        :raises EdgeAgentError: when there is no answer or it broke off; the row says so.
        """
        started = time.perf_counter()
        shown: list[str] = []
        exchange = Exchange(query, Decision(None, "unanswerable"))
        try:
            plan = self.plan(query)
            exchange = replace(exchange, decision=plan.decision, router_ms=plan.router_ms)
            chunks, decision = self._start(query, plan, cancelled)
            exchange = replace(exchange, decision=decision)
            yield decision
            completion = yield from _completed(chunks, shown)
            exchange = replace(exchange, completion=completion)
        except BaseException as error:
            code = error.code if isinstance(error, EdgeAgentError) else EdgeAgentError.code
            exchange = replace(exchange, error=code, completion=self._broken_off(exchange.decision, shown))
            raise
        finally:  # before the end is told: a client that saw it may read the log at once
            exchange = replace(exchange, duration_ms=_ms_since(started))
            exchange = replace(exchange, shadow=self._shadow_score(query, exchange.decision))
            self._log.append(exchange)
            _LOGGER.info("exchange %s", query.id, extra={"facts": facts_of(exchange, self._show_prompts)})
        return exchange

    def _start(self, query: Query, plan: Plan, cancelled: threading.Event) -> tuple[Answer, Decision]:
        decision, facts = plan.decision, plan.facts
        if decision.route is None:
            raise policy.refusal(decision, facts)
        if decision.route == "local" or isinstance(self._cloud, str):
            return self._local.generate(query, cancelled), decision
        try:
            return self._cloud.generate(query, cancelled), decision
        except CloudError as error:
            fallback = policy.after_cloud_failure(decision, facts, error)
            if fallback is None:
                raise
            _LOGGER.warning("cloud failed, the local model answers: %s", error.message)
        return self._local.generate(query, cancelled), fallback

    def _broken_off(self, decision: Decision, shown: list[str]) -> Completion | None:
        """What the client saw of an answer that broke off; None when that is nothing."""
        if not shown:
            return None
        model = self._local if decision.route == "local" or isinstance(self._cloud, str) else self._cloud
        return Completion("".join(shown), model.name, "error")

    def _cloud_problem(self) -> str | None:
        if isinstance(self._cloud, str):
            return self._cloud
        return None if self._cloud.available else "cloud_unavailable"


def facts_of(exchange: Exchange, show_prompts: bool = False) -> dict[str, object]:
    """What a log line says of an exchange: no text, unless asked for and not private."""
    decision, completion = exchange.decision, exchange.completion
    facts: dict[str, object] = {
        "route": decision.route,
        "reason": decision.reason,
        "degraded": decision.degraded,
        "error": exchange.error,
        "finish_reason": completion.finish_reason if completion else None,
        "output_tokens": completion.output_tokens if completion else None,
        "duration_ms": round(exchange.duration_ms or 0.0, 1),
    }
    if not exchange.query.private:
        facts |= {"score": decision.score} | ({"prompt": exchange.query.text} if show_prompts else {})
    return {name: value for name, value in facts.items() if value is not None}


def _completed(chunks: Answer, shown: list[str]) -> Answer:
    """Pass the chunks on, their texts kept in `shown`; return the generator's Completion."""
    while True:
        try:
            chunk = next(chunks)
        except StopIteration as end:
            return cast(Completion, end.value)
        shown.append(chunk.text)
        yield chunk


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000.0
