"""Samples the answers of any OpenAI-compatible server. Clusters nothing, grades nothing.

The same method as the sampler of a GGUF in this process. What a server does not tell is left empty: the hidden state
always, log-probabilities where the server has none.
"""

from __future__ import annotations

import logging
import math
import random as random_module
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np
import requests

from edge_agent.errors import CloudRejected, CloudUnavailable
from edge_agent.training.sampling import Generation, Prompt, Sample, SamplingSettings

_LOGGER = logging.getLogger(__name__)
RETRIED = frozenset({408, 409, 429, 500, 502, 503, 504})
_ABOUT_THE_PROMPT = frozenset({400, 413, 422})
ATTEMPTS = 6
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
_NOTHING = np.empty(0, dtype=np.float16)


@dataclass(frozen=True, slots=True)
class Price:
    """Currency per million tokens."""

    input: float = 0.0
    output: float = 0.0

    def of(self, input_tokens: float, output_tokens: float) -> float:
        """What so many tokens cost, in the currency."""
        return (input_tokens * self.input + output_tokens * self.output) / 1e6


class ServedSampler:
    """:param base_url: with /v1, as for any OpenAI client.

    :param many: ask for all drawn answers in one request (`n=`); False sends a request each. None finds out.
    :param concurrency: requests at a time.
    :param max_cost: no new query is begun when its worst case would pass this; needs a price.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        many: bool | None = None,
        concurrency: int = 8,
        timeout_s: float = 120.0,
        price: Price | None = None,
        max_cost: float = math.inf,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.name = model
        self.price = price or Price()
        self.input_tokens = self.output_tokens = 0
        """Used up to now, as the server counts them."""
        self._url = base_url.rstrip("/") + "/chat/completions"
        self._many, self._concurrency, self._timeout_s = many, concurrency, timeout_s
        self._max_cost, self._sleep = max_cost, sleep
        self._session = requests.Session()
        self._session.mount(self._url, requests.adapters.HTTPAdapter(pool_maxsize=concurrency))
        if api_key:
            self._session.headers["Authorization"] = f"Bearer {api_key}"
        self._counting, self._finding_out = threading.Lock(), threading.Lock()
        self._has_logprobs = True
        """Until the server says it has none."""

    @property
    def cost(self) -> float:
        """Spent up to now, in the price's currency."""
        return self.price.of(self.input_tokens, self.output_tokens)

    def sample(self, prompts: Iterable[Prompt], settings: SamplingSettings) -> Iterator[Sample]:
        """Answers to each prompt, in the order in which they are complete; stops short of `max_cost`.

        :raises CloudUnavailable: when the server does not answer after several attempts.
        :raises CloudRejected: when it refuses the request or answers something else than a chat completion. A server
            that has answered others may refuse a prompt, which is left out: too long for it, or not to its taste.
        """
        waiting, running, answered = deque(prompts), dict[Future[Sample], tuple[Prompt, float]](), False
        with ThreadPoolExecutor(self._concurrency) as requests_at_a_time, ThreadPoolExecutor(self._concurrency) as pool:
            try:
                while waiting or running:
                    while waiting and len(running) < self._concurrency:
                        worst = self._worst_cost(waiting[0], settings)
                        if self.cost + worst + sum(cost for _, cost in running.values()) > self._max_cost:
                            break
                        prompt = waiting.popleft()
                        running[pool.submit(self._one, prompt, settings, requests_at_a_time)] = prompt, worst
                    if not running:
                        return
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        prompt, _ = running.pop(future)
                        try:
                            sample = future.result()
                        except CloudRejected as error:
                            if not answered or error.upstream_status not in _ABOUT_THE_PROMPT:
                                raise
                            _LOGGER.warning("query %s is left out: %s", prompt.query_id, error.message)
                        else:
                            answered = True
                            yield sample
            finally:
                pool.shutdown(cancel_futures=True, wait=False)

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def _worst_cost(self, prompt: Prompt, settings: SamplingSettings) -> float:
        return self.price.of(*worst_case(prompt, settings, many=bool(self._many)))

    def _one(self, prompt: Prompt, settings: SamplingSettings, pool: ThreadPoolExecutor) -> Sample:
        greedy = pool.submit(self._ask, prompt, {"temperature": 0.0})
        drawn = {"temperature": settings.temperature, "top_p": settings.top_p}
        if self._many is None:
            self._find_out_whether_many(prompt, drawn)
        if self._many:
            answers = self._several(prompt, drawn, settings.n)
        else:
            seeds = [settings.seed * 1000 + i for i in range(settings.n)]
            asked = [pool.submit(self._ask, prompt, drawn | {"seed": seed}) for seed in seeds]
            answers = [choice for future in asked for choice in future.result()["choices"][:1]]
        first = greedy.result()
        choices = [first["choices"][0], *answers]
        generations = [_generation(prompt.query_id, self.name, i, choice) for i, choice in enumerate(choices)]
        logprobs = np.array(_logprobs(choices[0]), dtype=np.float16)
        return Sample(prompt.query_id, generations, logprobs, _NOTHING, _NOTHING, _usage(first)[0] or 0)

    def _several(self, prompt: Prompt, options: dict[str, Any], n: int) -> list[dict[str, Any]]:
        """Servers may give fewer than asked for: ask again for the rest."""
        answers: list[dict[str, Any]] = []
        while len(answers) < n:
            answers += self._ask(prompt, options | {"n": n - len(answers)})["choices"]
        return answers[:n]

    def _find_out_whether_many(self, prompt: Prompt, options: dict[str, Any]) -> None:
        with self._finding_out:
            if self._many is None:
                try:
                    self._many = len(self._ask(prompt, options | {"n": 2})["choices"]) == 2
                except CloudRejected:
                    self._many = False

    def _ask(self, prompt: Prompt, options: dict[str, Any]) -> dict[str, Any]:
        body = {
            "model": self.name,
            "messages": [message.to_openai() for message in prompt.messages],
            "max_tokens": prompt.max_tokens,
            **({"stop": [prompt.stop]} if prompt.stop else {}),
            **options,
        }
        if self._has_logprobs:
            response = self._post(body | {"logprobs": True})
            if response.ok or "logprobs" not in response.text:
                return self._counted(self._read(response), body)
            self._has_logprobs = False
        return self._counted(self._read(self._post(body)), body)

    def _post(self, body: dict[str, Any]) -> requests.Response:
        """The response once it is no failure that may pass."""
        problem = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                self._sleep(random_module.uniform(0, min(FIRST_PAUSE_S * 2**attempt, LONGEST_PAUSE_S)))
            try:
                response = self._session.post(self._url, json=body, timeout=self._timeout_s)
            except requests.RequestException as error:
                problem = type(error).__name__
                continue
            if response.status_code not in RETRIED:
                return response
            problem = _status(response)
        raise CloudUnavailable(f"{self._url}: no answer after {ATTEMPTS} attempts ({problem}); run it again later")

    def _read(self, response: requests.Response) -> dict[str, Any]:
        if not response.ok:
            message = f"{self._url} refuses {self.name}: {_status(response)}; check model, key and limits"
            raise CloudRejected(message, upstream_status=response.status_code)
        try:
            answer = dict(response.json())
            read = [(choice["message"]["content"], _logprobs(choice)) for choice in answer["choices"]]
            _usage(answer)
        except (ValueError, LookupError, TypeError, AttributeError):
            read = []
        if not read:
            raise CloudRejected(
                f"{self._url}: expected a chat completion with choices, found {response.text[:100]!r}; is it an"
                " OpenAI-compatible endpoint?"
            )
        return answer

    def _counted(self, answer: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
        """What it says it used; the most it may have used when it does not say: money is spent all the same."""
        asked, answered = _usage(answer)
        with self._counting:
            self.input_tokens += round(_tokens(body["messages"])) if asked is None else asked
            self.output_tokens += body["max_tokens"] * body.get("n", 1) if answered is None else answered
        if len(answer["choices"]) == 1:
            answer["choices"][0]["n_tokens"] = answered or 0
        return answer


def worst_case(prompt: Prompt, settings: SamplingSettings, *, many: bool = False) -> tuple[float, float]:
    """(input, output) tokens a prompt may cost, from about three characters a token and answers as long as allowed.

    :param many: with `n=` the prompt of the drawn answers is counted once.
    """
    text = _tokens([message.to_openai() for message in prompt.messages])
    requests_sent = 2 if many else settings.n + 1
    return text * requests_sent, float(prompt.max_tokens * (settings.n + 1))


def _tokens(messages: Sequence[Mapping[str, Any]]) -> float:
    return sum(len(message["content"]) + 12 for message in messages) / 3


def _usage(answer: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """(input, output) tokens; None where the server does not say."""
    usage = answer.get("usage") or {}
    asked, answered = usage.get("prompt_tokens"), usage.get("completion_tokens")
    return None if asked is None else int(asked), None if answered is None else int(answered)


def _status(response: requests.Response) -> str:
    return f"HTTP {response.status_code}: {response.text[:200]}"


def _generation(query_id: str, model: str, index: int, choice: dict[str, Any]) -> Generation:
    logprobs = _logprobs(choice)
    return Generation(
        query_id,
        model,
        index,
        text=str(choice["message"]["content"] or "").encode("utf-8", "replace").decode().strip(),
        log_likelihood=float(np.mean(logprobs)) if logprobs else math.nan,
        n_tokens=len(logprobs) or choice.get("n_tokens", 0),
        finish_reason=str(choice.get("finish_reason") or "stop"),
    )


def _logprobs(choice: dict[str, Any]) -> list[float]:
    """Empty when the server gives none, or some that are no numbers."""
    tokens = (choice.get("logprobs") or {}).get("content") or []
    found = [float(token["logprob"]) for token in tokens]
    return found if all(map(math.isfinite, found)) else []
