"""A new router reaches a running daemon, or is refused and the old one stays; a candidate watches before it decides."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edge_agent import __version__, router_store
from edge_agent.agent import Agent
from edge_agent.checks import check_status
from edge_agent.decision_log import DecisionLog, open_for_writing
from edge_agent.display import status_lines
from edge_agent.errors import RouterError
from edge_agent.files import point
from edge_agent.log_reader import LogReader
from edge_agent.router_archive import pack
from edge_agent.router_comparison import COLUMNS, compare
from edge_agent.router_signature import new_private_key, public_key_of, sign
from edge_agent.types import Chunk, Completion, Estimate, Message, Query
from tests.asking import ask, events, eventually, get
from tests.conftest import StartDaemon, cloud_settings
from tests.daemon_process import TOKEN, DaemonProcess, running_daemon
from tests.misbehaving_cloud import answering, misbehaving_cloud
from tests.tiny_router import edit_card, make_tiny_router, replace_file

REPOSITORY = Path(__file__).parent.parent
HARD, EASY = "this is hard", "turn on the light"


def reload(daemon: DaemonProcess) -> dict[str, Any]:
    """Send SIGHUP; what the status says of the router once the daemon has loaded anew."""
    before = get(daemon, "/v1/status")["router"]["loads"]
    daemon.process.send_signal(signal.SIGHUP)
    eventually(lambda: get(daemon, "/v1/status")["router"]["loads"] > before)
    router: dict[str, Any] = get(daemon, "/v1/status")["router"]
    return router


def edge_agent(daemon: DaemonProcess, *words: str) -> subprocess.CompletedProcess[str]:
    """The command, with the daemon's settings and directories."""
    command = [sys.executable, "-m", "edge_agent", *words]
    return subprocess.run(command, env=daemon.environ, capture_output=True, text=True, timeout=60, cwd=REPOSITORY)


# What a running daemon refuses


class Signed:
    """A daemon that takes signed bundles only, its tree, and the keys."""

    def __init__(self, directory: Path):
        self.tree, self.key, self.other_key = directory / "router_models", directory / "key", directory / "other"
        for key in (self.key, self.other_key):
            new_private_key(key)
        self.make("good")
        self.daemon: DaemonProcess

    def make(self, version: str) -> Path:
        bundle = make_tiny_router(self.tree, version=version).resolve()
        sign(bundle, self.key)
        return bundle


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory, tiny_gguf: Path) -> Iterator[Signed]:
    made = Signed(tmp_path_factory.mktemp("signed"))
    settings = {"router": {"public_key": public_key_of(made.key)}}
    with running_daemon(made.tree.parent / "d", tiny_gguf, made.tree / "current", settings) as made.daemon:
        yield made


def symlink_loop(bundle: Path, signed: Signed) -> None:
    point(signed.tree / "current", "current")  # pathlib raises a RuntimeError


def missing_head(bundle: Path, signed: Signed) -> None:
    (bundle / "head.onnx").unlink()


def missing_card(bundle: Path, signed: Signed) -> None:
    (bundle / "router.json").unlink()


def wrong_hash(bundle: Path, signed: Signed) -> None:
    (bundle / "head.onnx").write_bytes((bundle / "head.onnx").read_bytes() + b"\0")


def truncated_head(bundle: Path, signed: Signed) -> None:
    replace_file(bundle, "head.onnx", (bundle / "head.onnx").read_bytes()[:-40])
    sign(bundle, signed.key)


def no_encoder(bundle: Path, signed: Signed) -> None:
    files = json.loads((bundle / "router.json").read_text())["files"]
    gone = {name.replace("/tiny-", "/gone-"): value for name, value in files.items()}
    edit_card(bundle, encoder=next(name for name in gone if "gone" in name).rsplit("/", 1)[0], files=gone)
    sign(bundle, signed.key)


def no_signature(bundle: Path, signed: Signed) -> None:
    (bundle / "router.json.sig").unlink()


def bad_signature(bundle: Path, signed: Signed) -> None:
    sign(bundle, signed.other_key)


def changed_card(bundle: Path, signed: Signed) -> None:
    edit_card(bundle, threshold=0.0)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (symlink_loop, "current"),
        (missing_head, "bad/head.onnx: expected a file of the bundle, found none"),
        (missing_card, "bad/router.json: expected a router's card, found none"),
        (wrong_hash, "bad/head.onnx: expected SHA-256"),
        (truncated_head, "bad/head.onnx: expected an ONNX model, found something else (cut short)"),
        (no_encoder, "model.onnx: expected a file of the bundle, found none"),
        (no_signature, "bad/router.json.sig: expected a signature, since router.public_key is set, found none"),
        (bad_signature, "bad/router.json.sig: expected a signature of router.json by router.public_key"),
        (changed_card, "bad/router.json.sig: expected a signature of router.json by router.public_key"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_bad_bundle_changes_nothing_and_is_named(
    signed: Signed, damage: Callable[[Path, Signed], None], named: str
) -> None:
    daemon = signed.daemon
    score = daemon.chat(HARD).json()["edge_agent"]["score"]
    damage(signed.make("bad"), signed)
    router = reload(daemon)
    assert router["version"] == "good" and named in router["error"]
    assert named in daemon.output and "router good stays in use" in daemon.output
    answer = daemon.chat(HARD).json()["edge_agent"]
    assert (answer["score"], answer["router_version"]) == (score, "good")
    check = next(c for c in check_status(get(daemon, "/v1/status"), __version__) if c.name == "daemon.router")
    assert check.ok == "fail" and named in check.found  # what doctor says
    point(signed.tree / "current", "good")
    assert reload(daemon)["error"] is None


def test_reloads_one_after_another_drop_no_answer(start_daemon: StartDaemon, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for version in ("v1", "v2"):
        make_tiny_router(tree, version=version)
    ended: list[tuple[str, str, str]] = []

    def stream(daemon: DaemonProcess, model: str, text: str) -> None:
        body = {"model": model, "messages": [{"role": "user", "content": text}], "stream": True, "max_tokens": 16}
        with daemon.http() as client, client.stream("POST", "/v1/chat/completions", json=body) as answer:
            *_, final, done = events(answer.iter_lines())
        told = json.loads(final)["edge_agent"]
        ended.append((told["id"], told["router_version"], done))

    with misbehaving_cloud(answering(*"abcdefgh", pause_s=0.1)) as cloud:
        settings = {"base_url": str(cloud), "model": "big", "api_key_env": None}
        daemon = start_daemon(cloud=settings, router={"path": str(tree / "current")})
        asking = [threading.Thread(target=stream, args=(daemon, *q)) for q in [("auto", HARD), ("local", EASY)] * 4]
        for number, thread in enumerate(asking):
            thread.start()
            point(tree / "current", ("v1", "v2")[number % 2])
            daemon.process.send_signal(signal.SIGHUP)
        for thread in asking:
            thread.join()
    assert [done for _, _, done in ended] == ["[DONE]"] * 8
    rows = {row["id"]: row for row in daemon.log.rows()}
    assert {id: rows[id]["router_version"] for id, _, _ in ended} == {id: version for id, version, _ in ended}
    assert {row["error"] for row in rows.values()} == {None}


# The command


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, tiny_gguf: Path) -> Iterator[tuple[DaemonProcess, Path]]:
    """A daemon on a tree of its own that has `v1`."""
    tree = tmp_path_factory.mktemp("published") / "router_models"
    make_tiny_router(tree, version="v1")
    with running_daemon(tree.parent / "d", tiny_gguf, tree / "current") as daemon:
        yield daemon, tree


def test_a_version_is_installed_used_and_taken_back_while_the_daemon_answers(
    published: tuple[DaemonProcess, Path], tmp_path: Path
) -> None:
    daemon, tree = published
    archive = pack(make_tiny_router(tmp_path / "a", version="v2"), tmp_path / "v2.tar.gz")
    where = ["--root", str(tree), "--config", str(daemon.config_file), "--reload"]
    run = edge_agent(daemon, "router", "install", str(archive), "--use", *where)
    assert run.stdout.splitlines() == [
        f"v2 is installed in {tree} and current",
        f"the daemon decides by v2 in {tree / 'v2'}",
    ], run.stderr
    assert daemon.chat(EASY).json()["edge_agent"]["router_version"] == "v2"
    told = json.loads(edge_agent(daemon, "router", "rollback", *where, "--json").stdout)
    assert (told["current"], told["before"], told["daemon"]["version"]) == ("v1", "v2", "v1")
    listed = json.loads(edge_agent(daemon, "router", "list", "--root", str(tree), "--json").stdout)
    assert [(bundle["version"], bundle["current"]) for bundle in listed] == [("v1", True), ("v2", False)]


def test_a_daemon_that_looks_elsewhere_is_no_success(published: tuple[DaemonProcess, Path], tmp_path: Path) -> None:
    daemon, tree = published
    make_tiny_router(tmp_path / "other", version="v7")
    where = ["--root", str(tmp_path / "other"), "--config", str(daemon.config_file), "--reload"]
    run = edge_agent(daemon, "router", "use", "v7", *where)
    assert run.returncode == 3
    assert f"the daemon decides by v1 in {tree / 'v1'}, not by v7; give its tree with --root" in run.stderr


def test_without_a_daemon_what_was_done_is_told_too(tmp_path: Path, published: tuple[DaemonProcess, Path]) -> None:
    make_tiny_router(tmp_path / "other", version="v7")
    where = ["--root", str(tmp_path / "other"), "--socket", str(tmp_path / "none.sock"), "--reload"]
    run = edge_agent(published[0], "router", "use", "v7", *where)
    assert (run.returncode, "current is v7, was v7; but nobody took it up: " in run.stderr) == (4, True), run.stderr


def test_the_tool_signs_what_the_key_of_the_tool_lets_through(
    published: tuple[DaemonProcess, Path], tmp_path: Path
) -> None:
    tool = [sys.executable, "tools/publish_router.py"]
    make_tiny_router(tmp_path / "tree", version="v1")
    root, key = ["--root", str(tmp_path / "tree")], str(tmp_path / "key.pem")
    environ = published[0].environ

    def run(*words: str) -> str:
        done = subprocess.run([*tool, *words], env=environ, capture_output=True, text=True, timeout=60, cwd=REPOSITORY)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    public_key = run("keygen", key).removeprefix("router.public_key: ")
    run("sign", "v1", "--key", key, *root)
    size = int(json.loads(run("pack", "v1", *root, "--output", str(tmp_path / "v1.tar.gz"), "--json"))["bytes"])
    assert size < 100_000
    assert router_store.switch(tmp_path / "tree", "v1", public_key=public_key) == "v1"


# A candidate that watches


@pytest.fixture(scope="module")
def watched(
    tmp_path_factory: pytest.TempPathFactory, tiny_gguf: Path, cloud_daemon: DaemonProcess
) -> Iterator[DaemonProcess]:
    """A daemon whose candidate, `eager`, has a threshold that everything reaches."""
    tree = tmp_path_factory.mktemp("watched") / "router_models"
    edit_card(make_tiny_router(tree, version="eager"), threshold=0.0)
    make_tiny_router(tree, version="v1")
    settings = {"router": {"shadow": "eager"}, "cloud": cloud_settings(cloud_daemon)}
    environ = {"EDGE_AGENT_CLOUD_API_KEY": TOKEN}
    with running_daemon(tree.parent / "d", tiny_gguf, tree / "current", settings, environ) as daemon:
        yield daemon


@pytest.mark.parametrize(
    ("text", "model", "route"), [(HARD, "auto", "cloud"), (EASY, "auto", "local"), (HARD, "local", "local")]
)
def test_a_candidate_scores_what_the_router_scores_and_decides_nothing(
    watched: DaemonProcess, text: str, model: str, route: str
) -> None:
    told = ask(watched, text, model=model).edge_agent
    row = watched.log.row(told["id"])
    assert (row["route"], row["router_version"], row["threshold"]) == (route, "v1", 0.5)
    assert (row["shadow_router_version"], row["shadow_threshold"]) == ("eager", 0.0)
    assert row["shadow_score"] == pytest.approx(row["score"])  # the same head
    assert not any(name.startswith("shadow") for name in told)


def test_a_private_question_is_not_shown_to_a_candidate(watched: DaemonProcess) -> None:
    row = watched.log.row(ask(watched, HARD, private=True).edge_agent["id"])
    assert (row["shadow_router_version"], row["shadow_score"], row["shadow_threshold"]) == (None, None, None)


def test_status_and_doctor_tell_who_watches(watched: DaemonProcess) -> None:
    shadow = get(watched, "/v1/status")["router"]["shadow"]
    assert shadow == {"version": "eager", "threshold": 0.0, "error": None}
    assert any("shadow version eager, threshold 0" in line for line in status_lines(get(watched, "/v1/status")))
    found = edge_agent(watched, "doctor", "--config", str(watched.config_file)).stdout
    assert "eager can watch" in found and "eager watches; see `edge-agent compare`" in found


def test_the_command_compares_what_both_said(watched: DaemonProcess) -> None:
    ids = [ask(watched, text).edge_agent["id"] for text in (HARD, EASY, EASY)]
    with watched.http() as client:
        client.post("/v1/feedback", json={"id": ids[1], "rating": "bad"}).raise_for_status()
    config = ["--config", str(watched.config_file)]
    found = json.loads(edge_agent(watched, "compare", *config, "--since", "1h", "--json").stdout)
    assert (found["router_version"], found["shadow_router_version"]) == ("v1", "eager")
    assert found["shadow_cloud_share"] == 1.0 and 0 < found["cloud_share"] < 1
    assert found["cells"]["only the candidate"]["bad"] == 1 and found["cells"]["both local"]["questions"] == 0
    assert {difference["question"] for difference in found["differences"]} == {EASY}
    shown = edge_agent(watched, "compare", *config).stdout
    assert "candidate  eager: 100.0% to the cloud" in shown and "too few to tell" in shown and EASY in shown


def test_a_candidate_that_does_not_load_is_told_and_otherwise_ignored(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    candidate = make_tiny_router(tree, version="new").resolve()
    make_tiny_router(tree, version="v1")
    head = (candidate / "head.onnx").read_bytes()
    (candidate / "head.onnx").write_bytes(b"")
    daemon = start_daemon(router={"path": str(tree / "current"), "shadow": str(candidate)})
    shadow = get(daemon, "/v1/status")["router"]["shadow"]
    assert shadow["version"] is None and "new/head.onnx: expected SHA-256" in shadow["error"]
    check = next(c for c in check_status(get(daemon, "/v1/status"), __version__) if c.name == "daemon.shadow")
    assert check.ok == "warn" and "no candidate watches: " in check.found
    assert daemon.log.row(ask(daemon, EASY).edge_agent["id"])["shadow_router_version"] is None
    (candidate / "head.onnx").write_bytes(head)
    assert reload(daemon)["shadow"] == {"version": "new", "threshold": 0.5, "error": None}
    assert daemon.log.row(ask(daemon, EASY).edge_agent["id"])["shadow_router_version"] == "new"
    point(tree / "current", "new")
    router = reload(daemon)
    assert router["version"] == "new" and "found the router in use" in router["shadow"]["error"]


class Local:
    """A local model that answers with three words."""

    name, n_ctx, broken = "tiny", 512, None

    def __init__(self, told: list[str]):
        self._told = told

    def prompt_tokens(self, query: Query) -> int:
        return 1

    def generate(self, query: Query, cancelled: threading.Event) -> Generator[Chunk, None, Completion]:
        for word in ("one", "two", "three"):
            self._told.append(word)
            yield Chunk(word)
        return Completion("one two three", self.name, "stop")


class Scorer:
    def __init__(self, version: str, told: list[str], problem: Exception | None = None):
        self.version, self.threshold, self._told, self._problem = version, 0.5, told, problem

    def estimate(self, query: Query) -> Estimate:
        self._told.append(self.version)
        if self._problem:
            raise self._problem
        return Estimate(0.25)


@pytest.mark.parametrize("problem", [None, RouterError("cannot score"), ValueError("a bug")])
def test_a_candidate_is_asked_when_the_answer_is_over_and_spoils_nothing(
    tmp_path: Path, problem: Exception | None
) -> None:
    told: list[str] = []
    with closing(DecisionLog(tmp_path / "log.db", max_wait_ms=5000)) as log:
        agent = Agent(
            router=Scorer("in use", told),
            shadow=Scorer("candidate", told, problem),
            local=Local(told),
            cloud="cloud_disabled",
            log=log,
        )
        list(agent.answer(Query((Message("user", "hi"),)), threading.Event()))
    assert told == ["in use", "one", "two", "three", "candidate"]
    (row,) = LogReader(tmp_path / "log.db").rows()
    assert (row["answer"], row["error"], row["score"]) == ("one two three", None, 0.25)
    assert (row["shadow_router_version"], row["shadow_score"]) == ("candidate", None if problem else 0.25)


# A log that travels


def test_a_log_of_the_version_before_gains_the_columns_and_keeps_its_rows(tmp_path: Path) -> None:
    from sqlite_utils import Database

    from edge_agent.migrations import migrations

    path = tmp_path / "log.db"
    with closing(open_for_writing(path)) as connection:
        names = [row[1] for row in connection.execute("PRAGMA table_info(exchanges)")]
    path.unlink()
    old = [name for name in names if name != "acceptable" and not name.startswith("shadow")]
    database = Database(path)
    migrations.apply(database, stop_before="m004_shadow")
    assert [column.name for column in database["exchanges"].columns] == old
    database.execute(
        "INSERT INTO exchanges (id, created_utc, wish, private, reason, prompt_bytes, answer_bytes)"
        " VALUES ('a', '2026-01-01T00:00:00.000Z', 'auto', 0, 'below_threshold', 1, 1)"
    )
    database.conn.commit()
    database.conn.close()
    (row,) = LogReader(path).with_ratings(COLUMNS, "", "9999")  # also before a daemon has brought it up to date
    assert row["shadow_score"] is None and compare([row]) is None
    open_for_writing(path).close()
    (row,) = LogReader(path).rows_to_send("exchanges", 0, 10, 1 << 20)
    assert (row["id"], row["acceptable"], row["shadow_score"]) == ("a", None, None)
