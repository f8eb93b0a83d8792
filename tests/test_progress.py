"""What a transfer prints on a terminal and elsewhere."""

from __future__ import annotations

import io

from edge_agent.progress import Progress

MB = 1_000_000


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def show(stream: io.StringIO, *steps: tuple[float, int]) -> str:
    now = [0.0]
    progress = Progress("tiny", stream=stream, clock=lambda: now[0])
    for now[0], megabytes in steps:
        progress(megabytes * MB, 100 * MB)
    progress.say("done")
    return stream.getvalue()


def test_a_log_gets_a_line_every_five_seconds_and_the_last_one() -> None:
    assert show(io.StringIO(), (0, 0), (1, 5), (4, 20), (5, 25), (9, 45), (10, 100)).splitlines() == [
        "tiny: 0%, 0 of 100 MB",
        "tiny: 25%, 25 of 100 MB, 5.0 MB/s, 0:15 left",
        "tiny: 100%, 100 of 100 MB, 10.0 MB/s",
        "tiny: done",
    ]


def test_a_terminal_gets_one_bar_that_is_redrawn() -> None:
    lines = show(Terminal(), (0, 0), (0.01, 1), (2, 50)).split("\r\x1b[K")
    assert lines[1:] == [
        "tiny [........................] 0%, 0 of 100 MB",
        "tiny [############............] 50%, 50 of 100 MB, 25.0 MB/s, 0:02 left\ntiny: done\n",
    ]


def test_the_rate_of_a_continued_download_counts_only_what_came_now() -> None:
    assert "60 of 100 MB, 2.0 MB/s, 0:20 left" in show(io.StringIO(), (0, 50), (5, 60))
