"""docs/decisions.md is the table of who answers when wishes collide: every row of it, against real daemons."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_agent import policy
from edge_agent.policy import REASONS, Facts, decide, escalates
from tests.conftest import cloud_settings, free_port
from tests.daemon_process import TOKEN, DaemonProcess, running_daemon
from tests.misbehaving_cloud import answering, misbehaving_cloud, status

PAGE = (Path(__file__).parent.parent / "docs" / "decisions.md").read_text()
ROWS = [
    tuple(cell.strip() for cell in line.strip("|").split("|"))
    for line in PAGE.splitlines()
    if re.match(r"\| (auto|local|cloud) \|", line)
]
BAD_SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "string", "pattern": "a+"}}}
QUESTIONS: dict[str, dict[str, Any]] = {
    "easy": {"messages": [{"role": "user", "content": "an easy one"}]},
    "hard": {"messages": [{"role": "user", "content": "a hard one"}]},
    "too long": {"messages": [{"role": "user", "content": "long " * 180}]},
    "bad schema": {"messages": [{"role": "user", "content": "an easy one"}], "response_format": BAD_SCHEMA},
}


class Situations:
    """Starts the daemon of a situation when it is first needed."""

    def __init__(self, directory: Path, gguf: Path, router: Path, cloud: DaemonProcess, stack: ExitStack):
        self._directory, self._gguf, self._router, self._cloud, self._stack = directory, gguf, router, cloud, stack
        self._running: dict[str, DaemonProcess] = {}

    def daemon(self, situation: str) -> DaemonProcess:
        if situation not in self._running:
            directory = self._directory / str(len(self._running))
            environ = {} if situation == "no key" else {"EDGE_AGENT_CLOUD_API_KEY": TOKEN}
            settings = self._settings(situation)
            daemon = self._stack.enter_context(running_daemon(directory, self._gguf, self._router, settings, environ))
            self._running[situation] = daemon
            if situation == "breaker open":
                daemon.chat("a hard one")
        return self._running[situation]

    def _settings(self, situation: str) -> dict[str, Any]:
        cloud = cloud_settings(self._cloud)
        local: dict[str, Any] = {"n_ctx": 512, "max_tokens": 4}
        if situation == "no cloud.base_url":
            cloud = {}
        elif situation == "cloud.enabled: false":
            cloud["enabled"] = False
        elif situation in ("cloud down", "breaker open"):
            failures = 1 if situation == "breaker open" else 1000
            cloud |= {"base_url": f"http://127.0.0.1:{free_port()}/v1", "breaker_failures": failures}
        elif match := re.fullmatch(r"cloud says (\d+)", situation):
            cloud["base_url"] = self._stack.enter_context(misbehaving_cloud(status(int(match[1]))))
        elif situation == "cloud honours it":
            cloud["base_url"] = self._stack.enter_context(misbehaving_cloud(answering("ok")))
        cloud = {key: str(value) if isinstance(value, str) else value for key, value in cloud.items()}
        router = {"path": str(self._directory / "missing")} if situation == "router broken" else {}
        return {"cloud": cloud, "local": local} | ({"router": router} if router else {})


@pytest.fixture(scope="module")
def situations(
    tmp_path_factory: pytest.TempPathFactory, tiny_gguf: Path, tiny_router: Path, cloud_daemon: DaemonProcess
) -> Iterator[Situations]:
    with ExitStack() as stack:
        yield Situations(tmp_path_factory.mktemp("decisions"), tiny_gguf, tiny_router, cloud_daemon, stack)


@pytest.mark.parametrize("row", [r for r in ROWS if r[3] != "local model broken"], ids=" / ".join)
def test_a_daemon_decides_as_the_table_says(situations: Situations, row: tuple[str, ...]) -> None:
    wish, private, question, situation, who, reason, degraded = row
    body = QUESTIONS[question] | {"model": wish, "private": private == "yes", "max_tokens": 4}
    daemon = situations.daemon(situation)
    with daemon.http() as client:
        response = client.post("/v1/chat/completions", json=body)
    logged = daemon.log.rows(limit=1)[0]
    assert logged["reason"] == reason
    assert_answered_by(response, who)
    if not who.startswith("error"):
        told = response.json()["edge_agent"]
        assert (told["route"], told["reason"], told["degraded"] or "") == (who, reason, degraded)
        assert (logged["route"], logged["degraded"] or "") == (who, degraded)


def assert_answered_by(response: httpx.Response, who: str) -> None:
    if who.startswith("error"):
        _, status, code = who.split()
        assert (response.status_code, response.json()["error"]["code"]) == (int(status), code)
    else:
        assert response.status_code == 200, response.text
        assert response.json()["edge_agent"]["route"] == who


@pytest.mark.parametrize("row", [r for r in ROWS if r[3] == "local model broken"], ids=" / ".join)
def test_a_broken_local_model_decides_as_the_table_says(row: tuple[str, ...]) -> None:
    wish, private, _, _, who, reason, degraded = row
    facts = make_facts(wish=wish, private=private == "yes", local_broken=True)
    decision = decide(facts)
    assert (decision.reason, decision.degraded or "") == (reason, degraded)
    if who.startswith("error"):
        error = policy.refusal(decision, facts)
        assert decision.route is None and who == f"error {error.status} {error.code}"
    else:
        assert decision.route == who


def make_facts(**changes: Any) -> Facts:
    usual: dict[str, Any] = {
        "wish": "auto", "private": False, "score": 0.2, "threshold": 0.5, "router_version": "v",
        "cloud_problem": None, "prompt_tokens": 10, "n_ctx": 100,
    }  # fmt: skip
    return Facts(**(usual | changes))


def test_a_score_equal_to_the_threshold_escalates() -> None:
    assert escalates(0.5, 0.5) and not escalates(0.4999, 0.5)
    assert decide(make_facts(score=0.5)).route == "cloud"


@pytest.mark.parametrize("route", ["local", "cloud"])
def test_without_a_score_the_configured_route_is_taken(route: Any) -> None:
    decision = decide(make_facts(score=None, on_router_error=route))
    assert (decision.route, decision.reason) == (route, "router_error")


def test_a_prompt_needs_room_for_one_token_of_answer() -> None:
    assert decide(make_facts(prompt_tokens=99)).route == "local"
    assert decide(make_facts(prompt_tokens=100)).reason == "context_exceeded"


def test_no_combination_sends_a_private_question_to_the_cloud() -> None:
    problems = [None, "cloud_disabled", "cloud_not_configured", "cloud_no_key", "cloud_unavailable"]
    for wish in ("auto", "local", "cloud"):
        for problem in problems:
            for broken in (False, True):
                for tokens in (10, 1000):
                    facts = make_facts(
                        wish=wish, private=True, score=1.0, cloud_problem=problem, local_broken=broken,
                        prompt_tokens=tokens, on_router_error="cloud",
                    )  # fmt: skip
                    assert decide(facts).route in ("local", None)


def test_every_reason_is_documented_and_every_documented_one_exists() -> None:
    documented = set(re.findall(r"^\| (\w+) \| [a-z]", PAGE[PAGE.index("## The reasons") :], flags=re.M)) - {"reason"}
    assert documented == set(REASONS)
    assert {row[5] for row in ROWS} <= set(REASONS)
