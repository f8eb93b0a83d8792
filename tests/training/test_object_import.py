"""Objects that devices wrote, imported: once, each good one, the others named."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import fsspec
import pytest
from moto.server import ThreadedMotoServer

from edge_agent.decision_log import DecisionLog
from edge_agent.log_batches import BatchHeader, encode, object_name
from edge_agent.log_reader import LogReader
from edge_agent.redaction import redactor
from edge_agent.sync import Sync
from edge_agent.sync_files import FileDestination
from edge_agent.sync_state import SyncState
from edge_agent.training.inbox import Inbox
from edge_agent.training.object_import import Imported, ObjectStoreError, import_objects
from tests.log_rows import numbered, rate, write_log
from tests.training.receiving import OTHER_LOG, exchange_row, exchanges, header, run_tool, stored_ids, tombstone


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[Inbox]:
    inbox = Inbox(tmp_path / "inbox.db")
    yield inbox
    inbox.close()


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """Where devices write."""
    (tmp_path / "there").mkdir()
    return tmp_path / "there"


def put(there: Path, where: BatchHeader, rows: list[dict[str, object]] | None = None) -> Path:
    path = there / object_name(where)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(where, exchanges(where.after_seq, where.last_seq) if rows is None else rows))
    return path


def imported(there: Path, inbox: Inbox) -> list[Imported]:
    return list(import_objects(there.as_uri(), inbox))


def test_objects_are_imported_once(there: Path, inbox: Inbox) -> None:
    put(there, header(0, 3))
    put(there, header(3, 5, device="cellar"))
    assert [(one.accepted, one.known) for one in imported(there, inbox)] == [(2, False), (3, False)]
    assert [(one.accepted, one.known) for one in imported(there, inbox)] == [(0, True), (0, True)]
    assert stored_ids(inbox) == ["exchange-4", "exchange-5", "exchange-1", "exchange-2", "exchange-3"]


def test_one_device_may_be_imported_alone(there: Path, inbox: Inbox) -> None:
    put(there, header(0, 3))
    put(there, header(0, 3, device="cellar"))
    assert len(imported(there / "cellar", inbox)) == 1


def truncated(there: Path) -> None:
    path = put(there, header(3, 6))
    path.write_bytes(path.read_bytes()[:-9])


def renamed(there: Path) -> None:
    path = put(there, header(3, 6))
    path.rename(path.with_name(path.name.replace("000006", "000007")))


def foreign(there: Path) -> None:
    (there / "holiday.jpg").write_bytes(b"\xff\xd8")


def copied_card(there: Path) -> None:
    put(there, header(2, 4), [exchange_row(3, id="another"), exchange_row(4)])


def of_other_rows(there: Path) -> None:
    put(there, header(3, 6)).write_bytes(b"not gzip")


@pytest.mark.parametrize(
    ("spoil", "name", "words"),
    [
        (truncated, "exchanges-000000000004-000000000006.ndjson.gz", "truncated"),
        (renamed, "exchanges-000000000004-000000000007.ndjson.gz", "was it renamed?"),
        (foreign, "holiday.jpg", "not that of a batch"),
        (copied_card, "exchanges-000000000003-000000000004.ndjson.gz", "with a copy of this log"),
        (of_other_rows, "exchanges-000000000004-000000000006.ndjson.gz", "expected gzip"),
    ],
)
def test_what_cannot_be_imported_is_named_and_keeps_no_other_out(
    there: Path, inbox: Inbox, spoil: object, name: str, words: str
) -> None:
    put(there, header(0, 3))
    put(there, header(6, 9))
    spoil(there)  # type: ignore[operator]
    skipped = [one for one in imported(there, inbox) if one.problem]
    assert [one.name.rpartition("/")[2] for one in skipped] == [name]
    assert words in str(skipped[0].problem)
    assert stored_ids(inbox) == [f"exchange-{seq}" for seq in (1, 2, 3, 7, 8, 9)]


def test_an_object_that_was_cut_is_imported_once_it_is_whole(there: Path, inbox: Inbox) -> None:
    truncated(there)
    assert imported(there, inbox)[0].problem
    put(there, header(3, 6))
    assert imported(there, inbox)[0].accepted == 3


def test_an_object_nobody_may_read_is_named(there: Path, inbox: Inbox) -> None:
    path = put(there, header(0, 3))
    path.unlink()
    os.symlink(there / "nothing", path)  # root may read everything, but not what is not there
    assert "cannot be read" in str(imported(there, inbox)[0].problem)


def test_the_logs_of_a_device_that_was_set_up_anew_are_imported_in_any_order(there: Path, inbox: Inbox) -> None:
    put(there, header(0, 2, log_id=OTHER_LOG), [exchange_row(seq, id=f"new-{seq}") for seq in (1, 2)])
    put(there, header(0, 3))
    assert [one.problem for one in imported(there, inbox)] == [None, None]
    put(there, header(3, 4))
    assert [one.accepted for one in imported(there, inbox)] == [0, 1, 0]


def test_a_tombstone_among_the_objects_deletes(there: Path, inbox: Inbox) -> None:
    put(there, header(0, 3))
    put(there, header(0, 1, "forgotten"), [tombstone(1, "exchange-2")])
    imported(there, inbox)
    assert stored_ids(inbox) == ["exchange-1", "exchange-3"]


def test_objects_in_a_bucket_are_imported(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        environ = {"AWS_ENDPOINT_URL": "http://{}:{}".format(*server.get_host_and_port())}
        environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        store = fsspec.filesystem("s3")
        store.mkdir("logs")
        whole = encode(header(0, 3), exchanges(0, 3))
        store.pipe_file(f"logs/fleet/{object_name(header(0, 3))}", whole)
        store.pipe_file(f"logs/fleet/{object_name(header(3, 6))}", whole[:-9])
        found = list(import_objects("s3://logs/fleet", inbox))
        assert [(one.accepted, one.problem is None) for one in found] == [(3, True), (0, False)]
        with pytest.raises(ObjectStoreError, match="s3://elsewhere/x: cannot be read"):
            list(import_objects("s3://elsewhere/x", inbox))
    finally:
        server.stop()


def test_a_place_that_is_not_there_is_named(tmp_path: Path, inbox: Inbox) -> None:
    with pytest.raises(ObjectStoreError, match="nowhere: cannot be read: .*then import again"):
        imported(tmp_path / "nowhere", inbox)
    with pytest.raises(ObjectStoreError, match="gopher://x: cannot be read: .*gopher"):
        list(import_objects("gopher://x", inbox))


def test_the_command_imports_names_what_it_skipped_and_ends_with_1(there: Path, inbox: Inbox) -> None:
    put(there, header(0, 3))
    assert "1 objects: 0 imported before, 0 skipped; 3 rows new" in run_tool(
        "import", "--inbox", inbox.path, there.as_uri()
    )
    foreign(there)
    printed = run_tool("import", "--inbox", inbox.path, there.as_uri(), expect=1)
    assert "skipped holiday.jpg: its name is not that of a batch" in printed
    assert "2 objects: 1 imported before, 1 skipped; 0 rows new" in printed


def test_what_a_device_syncs_to_a_directory_is_imported_exactly_once(tmp_path: Path, there: Path, inbox: Inbox) -> None:
    log = LogReader(tmp_path / "log.db")
    ids = write_log(log.path, numbered(700))
    feedback = rate(log.path, ids[3])
    sync_to(there, log, tmp_path / "state.json")
    (there / "kitchen" / log.log_id() / "exchanges-000000000900-000000000999.ndjson.gz.part").write_bytes(b"begun")
    assert not any(one.problem for one in imported(there, inbox))
    with closing(DecisionLog(log.path)) as written:
        written.forget(ids[5])
    ids += write_log(log.path, numbered(20, first=700))
    sync_to(there, log, tmp_path / "state.json")
    assert not any(one.problem for one in imported(there, inbox))
    assert stored_ids(inbox) == [one for one in ids if one != ids[5]]
    assert stored_ids(inbox, "feedback") == [feedback]


def sync_to(there: Path, log: LogReader, state: Path) -> None:
    Sync(log, FileDestination(there.as_uri()), SyncState(state), device_id="kitchen", redact=redactor(())).run()
