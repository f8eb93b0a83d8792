"""Samples on disk: nothing twice, nothing lost, killed at any point."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edge_agent.errors import EdgeAgentError
from edge_agent.training import sample_store
from edge_agent.training.sample_store import JOURNAL, SampleStore, forget_samples
from edge_agent.training.sampling import Generation, Sample

DESCRIBES = {"model": "tiny", "n": 2, "temperature": 0.7}


def sample(query_id: str, text: str = "blé") -> Sample:
    generations = [Generation(query_id, "tiny", i, text, -0.5 if i else math.nan, 3, "stop") for i in range(3)]
    values = np.linspace(-1, 0, 4).astype(np.float16)
    return Sample(query_id, generations, values, values + 1, values * 2, n_prompt_tokens=7)


def test_what_was_kept_comes_back(tmp_path: Path) -> None:
    store = SampleStore(tmp_path, DESCRIBES)
    store.add(sample("a"), "p1")
    store.close()
    ((prompt, found),) = SampleStore(tmp_path, DESCRIBES).samples()
    expected = sample("a")
    assert prompt == "p1" and repr(found.generations) == repr(expected.generations)
    assert found.n_prompt_tokens == 7 and found.hidden_state.dtype == np.float16
    for name in ("logprobs", "entropies", "hidden_state"):
        assert getattr(found, name).tolist() == getattr(expected, name).tolist()


def test_other_settings_and_other_prompts_are_other_samples(tmp_path: Path) -> None:
    store = SampleStore(tmp_path, DESCRIBES)
    store.add(sample("a"), "p1")
    assert ("a", "p1") in store and ("a", "p2") not in store
    assert len(SampleStore(tmp_path, DESCRIBES | {"temperature": 1.0})) == 0


def test_parts_are_made_and_every_query_comes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_store, "ROWS_PER_PART", 4)
    store = SampleStore(tmp_path, DESCRIBES)
    for i in range(10):
        store.add(sample(f"q{i}"), "p")
    assert len(list(store.directory.glob("part-*.parquet"))) == 2
    journal = (store.directory / JOURNAL).read_text()
    store.close()
    with (store.directory / JOURNAL).open("a") as file:  # killed between writing a part and emptying the journal
        file.write(journal)
    again = SampleStore(tmp_path, DESCRIBES)
    assert sorted(found.query_id for _, found in again.samples()) == sorted(f"q{i}" for i in range(10))
    assert len(again) == 10


def test_a_torn_line_is_cut_and_the_rest_is_there(tmp_path: Path) -> None:
    store = SampleStore(tmp_path, DESCRIBES)
    store.add(sample("a"), "p")
    store.add(sample("b"), "p")
    store.close()
    journal = store.directory / JOURNAL
    journal.write_bytes(journal.read_bytes()[:-40])
    again = SampleStore(tmp_path, DESCRIBES)
    again.add(sample("c"), "p")
    assert [found.query_id for _, found in again.samples()] == ["a", "c"]


@pytest.mark.parametrize(
    "damage", [b'{"query_id": "b", "te', b"\0" * 40 + b"\n", b'{"query_id": 5}\n[]\n', b"\xff\xfe\n"]
)
def test_a_damaged_line_costs_its_query_and_does_not_keep_others_from_being_forgotten(
    tmp_path: Path, damage: bytes
) -> None:
    store = SampleStore(tmp_path, DESCRIBES)
    for name in ("a", "c"):
        store.add(sample(name, "a line\u2028or\x85three"), "p", [f"exchange-{name}"])
    store.close()
    journal = store.directory / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(lines[0] + (damage if damage.endswith(b"\n") else b"") + lines[1] + damage)
    assert forget_samples(store.directory, {"exchange-c"}) == 1
    assert [found.query_id for _, found in SampleStore(tmp_path, DESCRIBES).samples()] == ["a"]


def test_a_damaged_part_is_named_with_what_to_do(tmp_path: Path) -> None:
    store = SampleStore(tmp_path, DESCRIBES)
    store.close()
    (store.directory / "part-00001.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(EdgeAgentError, match=r"part-00001.parquet: expected samples, .*; remove it"):
        SampleStore(tmp_path, DESCRIBES)


def test_forgetting_removes_what_a_kill_left_half_written_and_others_may_not_look(tmp_path: Path) -> None:
    store = SampleStore(tmp_path, DESCRIBES)
    store.close()
    (store.directory / ".part-00001.parquet-k3j2").write_bytes(b"SECRET")
    assert forget_samples(store.directory, {"x"}) == 0
    assert sorted(path.name for path in store.directory.iterdir()) == [JOURNAL, "lock", "settings.json"]
    assert store.directory.stat().st_mode & 0o077 == 0


def test_only_one_process_writes(tmp_path: Path) -> None:
    store = SampleStore(tmp_path, DESCRIBES)
    with pytest.raises(EdgeAgentError, match="another process is adding samples"):
        SampleStore(tmp_path, DESCRIBES)
    store.close()
    SampleStore(tmp_path, DESCRIBES)


def test_forgotten_queries_leave_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_store, "ROWS_PER_PART", 3)
    store = SampleStore(tmp_path, DESCRIBES)
    for i in range(5):
        store.add(sample(f"q{i}", f"secret-{i}"), "p", [f"x{i}", f"y{i}"])
    with pytest.raises(EdgeAgentError, match="another process is adding samples"):
        forget_samples(store.directory, {"x1"})
    store.close()
    assert forget_samples(store.directory, {"x1", "y4", "unknown"}) == 2
    store = SampleStore(tmp_path, DESCRIBES)
    store.add(sample("q5"), "p")
    assert [found.query_id for _, found in store.samples()] == ["q0", "q2", "q3", "q5"]
    held = b"".join(path.read_bytes() for path in store.directory.iterdir())
    assert b"secret-4" not in held and ("q1", "p") not in store


WRITER = """
import sys
from pathlib import Path
from edge_agent.training import sample_store
from tests.training.test_sample_store import DESCRIBES, sample
sample_store.ROWS_PER_PART = 5
store = sample_store.SampleStore(Path(sys.argv[1]), DESCRIBES)
for i in range(len(store), 10_000):
    store.add(sample(f"q{i}"), "p")
    print(i, flush=True)
"""


def test_a_kill_loses_nothing_that_was_added(tmp_path: Path) -> None:
    last = -1
    for attempt in range(6):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        first = process.stdout.readline()
        assert int(first) <= last + 2, "what was kept before the kill is not sampled again"
        time.sleep(0.01 * attempt)
        os.kill(process.pid, signal.SIGKILL)
        lines = [first, *process.stdout.read().splitlines()]
        process.wait()
        last = max(int(line) for line in lines if line.strip())
    found = [s.query_id for _, s in SampleStore(tmp_path, DESCRIBES).samples()]
    assert found[: last + 1] == [f"q{i}" for i in range(last + 1)] and len(set(found)) == len(found)


def test_the_directory_says_what_it_holds(tmp_path: Path) -> None:
    store = SampleStore(tmp_path, DESCRIBES)
    assert json.loads((store.directory / "settings.json").read_text()) == DESCRIBES
    assert store.directory.name.startswith("tiny-")
