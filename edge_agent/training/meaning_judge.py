"""Asks a language model whether two answers mean the same. Knows HTTP and one prompt; clusters nothing.

Any endpoint that speaks OpenAI's chat completions will do: a server on this machine, or a cloud.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests

from edge_agent.errors import CloudRejected, CloudUnavailable
from edge_agent.training.answer_overlap import normalised
from edge_agent.training.meaning import AnswerPair, Asked

PROMPT = (
    "Question: {question}\nAnswer 1: {a}\nAnswer 2: {b}\n"
    "Do both answers give the same answer to the question? Reply with one word, yes or no."
)
_VERDICT = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
_TRIES, _MAX_TOKENS = 3, 512  # a model that thinks before it speaks needs room; others stop by themselves


class JudgeEquivalence:
    """Yes or no from a language model; each unordered pair is asked about once."""

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        key: str | None = None,
        concurrency: int = 4,
        timeout_s: float = 60.0,
        session: requests.Session | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ):
        """
        :param base_url: ends in /v1, as in OpenAI's clients.
        :param key: sent as a bearer token; never logged.
        :param concurrency: requests in flight at the same time.
        """
        self._url, self._model = base_url.rstrip("/") + "/chat/completions", model
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._concurrency, self._timeout_s = concurrency, timeout_s
        self._session, self._sleep = session or requests.Session(), sleep
        self._known: dict[tuple[str, frozenset[str]], bool] = {}

    def key(self, asked: Asked, answer: str) -> str:
        return normalised(answer)

    def same(self, pairs: Sequence[AnswerPair]) -> list[bool]:
        """
        :raises CloudUnavailable: no connection, a timeout, 429 or 5xx, three times in a row.
        :raises CloudRejected: another status, or a reply that is neither yes nor no.
        """
        keys = [(pair.asked.text, frozenset((pair.a, pair.b))) for pair in pairs]
        new = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in self._known}
        with ThreadPoolExecutor(self._concurrency) as pool:
            tasks = {key: pool.submit(self._judged, pair) for key, pair in new.items()}
            try:
                self._known.update((key, task.result()) for key, task in tasks.items())
            finally:
                pool.shutdown(cancel_futures=True)  # after an error, ask no more
        return [self._known[key] for key in keys]

    def _judged(self, pair: AnswerPair) -> bool:
        prompt = PROMPT.format(question=pair.asked.text, a=pair.a, b=pair.b)
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": _MAX_TOKENS,
        }
        return self._verdict(self._reply(body))

    def _reply(self, body: dict[str, Any]) -> requests.Response:
        """The first response that is worth reading."""
        for attempt in range(1, _TRIES + 1):
            try:
                return self._posted(body)
            except CloudUnavailable:
                if attempt == _TRIES:
                    raise
                self._sleep(2.0**attempt)
        raise AssertionError("unreachable")

    def _posted(self, body: dict[str, Any]) -> requests.Response:
        try:
            response = self._session.post(self._url, json=body, headers=self._headers, timeout=self._timeout_s)
        except requests.RequestException as error:
            raise CloudUnavailable(f"judge at {self._url}: no answer: {error}; is the server up?") from error
        if response.status_code == 429 or response.status_code >= 500:
            raise CloudUnavailable(f"judge at {self._url}: HTTP {response.status_code}; try again later")
        if response.status_code != 200:
            said = " ".join(response.text.split())[:200]
            raise CloudRejected(
                f"judge at {self._url}: expected HTTP 200, found {response.status_code}: {said};"
                f" mend its URL, key or model {self._model!r}",
                upstream_status=response.status_code,
            )
        return response

    def _verdict(self, response: requests.Response) -> bool:
        """The last yes or no of the reply: a model that reasons ends with it."""
        try:
            text = response.json()["choices"][0]["message"]["content"]
            found = _VERDICT.findall(text)
        except (ValueError, LookupError, TypeError) as error:
            raise CloudRejected(
                f"judge at {self._url}: expected a chat completion, found {response.text[:200]!r}"
            ) from error
        if not found:
            raise CloudRejected(f"judge at {self._url}: expected yes or no, found {text[:200]!r}; take a larger model")
        return bool(found[-1].casefold() == "yes")
