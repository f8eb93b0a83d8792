"""Decision logs made for tests: many real rows at once, and what arrived where they were sent."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from edge_agent.decision_log import open_for_writing, to_row
from edge_agent.log_batches import decode, parse_object_name
from edge_agent.types import Completion, Decision, Exchange, Message, Query, new_id, utc_now

DECISION = Decision("local", "below_threshold", score=0.25, threshold=0.5, router_version="tiny-1")


def exchange(question: str = "hi", answer: str = "hello", **query: Any) -> Exchange:
    """An exchange of one question and its answer."""
    completion = Completion(answer, "tiny", "stop", 7, 3, 12.5, 40.0, None)
    return Exchange(Query((Message("user", question),), **query), DECISION, completion, duration_ms=50.0)


def write_log(path: Path, exchanges: Iterable[Exchange]) -> list[str]:
    """Append exchanges to a log nobody else writes, in one transaction; the ids of those that may leave."""
    rows = [to_row(one) for one in exchanges]
    with closing(open_for_writing(path)) as connection, connection:
        for row in rows:
            marks = ", ".join(f":{name}" for name in row)
            connection.execute(f"INSERT INTO exchanges ({', '.join(row)}) VALUES ({marks})", row)
    return [row["id"] for row in rows if not row["private"]]


def numbered(count: int, *, private_every: int = 7, first: int = 0) -> list[Exchange]:
    """`count` exchanges, some of them private: those say `secret`."""
    return [
        exchange(f"question {i}", f"answer {i}")
        if i % private_every
        else exchange(f"secret {i}", f"secret answer {i}", private=True)
        for i in range(first, first + count)
    ]


def rate(path: Path, exchange_id: str, comment: str | None = None) -> str:
    """Append feedback to a log nobody else writes; its id."""
    feedback_id = new_id()
    with closing(open_for_writing(path)) as connection, connection:
        connection.execute(
            "INSERT INTO feedback (id, exchange_id, rating, comment, created_utc) VALUES (?, ?, 'good', ?, ?)",
            [feedback_id, exchange_id, comment, utc_now()],
        )
    return feedback_id


def objects(directory: Path) -> dict[str, list[dict[str, Any]]]:
    """Name -> rows of every object below a directory; anything else there fails the test."""
    found = {}
    for path in sorted(p for p in directory.rglob("*") if p.is_file()):
        name = str(path.relative_to(directory))
        assert parse_object_name(name), f"{name} is no object"
        header, found[name] = decode(path.read_bytes())
        assert header.rows == len(found[name])
    return found


def ids_of(directory: Path, table: str = "exchanges") -> list[str]:
    """The ids that arrived, in the order of their objects, as often as they are there."""
    return [row["id"] for name, rows in objects(directory).items() if f"/{table}-" in name for row in rows]
