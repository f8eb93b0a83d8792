"""Where the queries to label come from: an inbox, a questions file, or the mix of our own questions and public ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from edge_agent.errors import ConfigError
from edge_agent.training.inbox import Inbox
from edge_agent.training.inbox_queries import InboxQuery
from edge_agent.training.label_queries import LabelQuery, of_exchanges, of_questions, read_questions
from edge_agent.training.question_sets import training_mix
from edge_agent.types import Message


def queries_of(
    inbox: Path | None, questions: Path | None, mix: int | None, data: Path | None, mix_seed: int = 0
) -> list[LabelQuery]:
    """The queries of the one source that is given.

    :param data: folder of public question sets, for the mix.
    :raises ConfigError: for none or several sources, and for one without queries.
    """
    if sum(source is not None for source in (inbox, questions, mix)) != 1:
        raise ConfigError("expected one of --inbox, --questions and --mix; `tools/relabel.py --help` says what each is")
    if mix is not None:
        return of_questions(training_mix(data, mix, mix_seed))
    if questions is not None:
        found = of_questions(read_questions(questions))
    else:
        assert inbox is not None
        found = of_inbox(inbox)
    if not found:
        raise ConfigError(f"{inbox or questions}: expected queries to label, found none with text")
    return found


def of_inbox(path: Path) -> list[LabelQuery]:
    """The queries devices were asked, each conversation once. :raises ConfigError: when there is no inbox."""
    if not path.is_file():
        raise ConfigError(f"{path}: there is no inbox; `tools/receive_logs.py serve` makes one, `import` fills one")
    inbox = Inbox(path)
    try:
        return of_exchanges(_conversations(inbox.queries()))
    finally:
        inbox.close()


def forgotten_of(path: Path) -> set[str]:
    """The exchanges that owners forgot."""
    inbox = Inbox(path)
    try:
        return inbox.forgotten_ids()
    finally:
        inbox.close()


def _conversations(queries: Iterable[InboxQuery]) -> Iterator[tuple[str, tuple[Message, ...]]]:
    """Those that can be asked again as they were: an earlier turn that is not here would change the question."""
    for query in queries:
        if query.complete and any(message.role == "user" for message in query.messages):
            yield query.id, query.messages
