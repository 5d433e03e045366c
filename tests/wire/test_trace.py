"""Spans cost nothing while nobody listens; what is heard stands in a file that stays within its bound."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from wire import trace
from wire.clock import monotonic_clock
from wire.rounds import Rounds
from wire.trace_file import OLDER_FILE, TRACE_FILE, TraceFile, traced

Heard = list[tuple[str, str, float, float, dict[str, Any]]]


@pytest.fixture
def heard() -> Iterator[Heard]:
    found: Heard = []
    trace.listen(lambda *span: found.append(span))
    yield found
    trace.listen(None)


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_while_nobody_listens_nothing_is_made() -> None:
    assert trace.span("collect", step=1) is trace.span("apply", step=2)
    assert trace.begin() == 0.0
    with trace.span("collect") as span:
        span.know(bytes=3)
    trace.done("collect", trace.begin())


def test_a_span_knows_its_time_and_what_came_out(heard: Heard) -> None:
    before = monotonic_clock.now()
    with trace.span("push", track="push 1", step=3) as span:
        span.know(bytes=7)
    ((name, track, began, ended, known),) = heard
    assert (name, track, known) == ("push", "push 1", {"step": 3, "bytes": 7})
    assert before <= began <= ended <= monotonic_clock.now()


def test_a_span_that_fails_says_so_and_the_error_goes_on(heard: Heard) -> None:
    with pytest.raises(ValueError), trace.span("push"):
        raise ValueError
    assert heard[0][4] == {"failed": "ValueError"}


def test_what_began_before_anybody_listened_is_not_told(heard: Heard) -> None:
    trace.done("wait", 0.0)
    trace.done("wait", trace.begin(), step=1)
    assert [known for *_, known in heard] == [{"step": 1}]


def test_a_process_says_who_it_is_and_what_time_it_is(tmp_path: Path) -> None:
    with traced(tmp_path, role="ps", id="ps-0", run="r", rounds=Rounds(origin=4)):
        with trace.span("log", bytes=5):
            pass
        other = threading.Thread(target=lambda: trace.done("wait", trace.begin(), track="here"), name="t")
        other.start()
        other.join()
    header, anchor, log, wait = lines(tmp_path / TRACE_FILE)
    assert header["header"]["role"] == "ps" and header["header"]["rounds"]["origin"] == 4
    assert header["header"]["machine"] and header["header"]["pid"]
    assert abs(anchor["anchor"][0] - monotonic_clock.now()) < 60 and anchor["anchor"][1] > 1.7e9
    assert (log[:2], log[4]) == (["log", "MainThread"], {"bytes": 5})
    assert wait[:2] == ["wait", "here"]
    assert trace.begin() == 0.0, "nobody listens any more"


def test_one_that_is_started_again_writes_behind_the_other(tmp_path: Path) -> None:
    for _ in range(2):
        with traced(tmp_path, role="ps", id="ps-0", run="r", rounds=Rounds()), trace.span("log"):
            pass
    assert ["header" in line for line in lines(tmp_path / TRACE_FILE) if isinstance(line, dict)] == [
        True,
        False,
        True,
        False,
    ]


def test_the_files_stay_within_their_bound(tmp_path: Path) -> None:
    file = TraceFile(tmp_path, {"role": "ps"}, most_bytes=20_000)
    for number in range(1000):
        file.hear("log", "", 1.0, 2.0, {"number": number})
        if number % 100 == 0:
            file._write()  # as its thread does, as often as the disk would be filled
    file.close()
    newer, older = lines(tmp_path / TRACE_FILE), lines(tmp_path / OLDER_FILE)
    assert all("header" in part[0] and "anchor" in part[1] for part in (newer, older))
    assert (tmp_path / TRACE_FILE).stat().st_size < 20_000 and (tmp_path / OLDER_FILE).stat().st_size < 20_000
    numbers = [line[4]["number"] for part in (older, newer) for line in part if isinstance(line, list)]
    assert numbers == sorted(numbers) and numbers[-1] == 999, "the newest are there, in order"


def test_a_directory_that_takes_no_file_ends_nothing(tmp_path: Path) -> None:
    with traced(tmp_path / "none", role="ps", id="ps-0", run="r", rounds=Rounds()):
        assert trace.begin() == 0.0


def test_every_stage_of_the_path_is_told_somewhere() -> None:
    """By the name that ARCHITECTURE.md has for it."""
    root = Path(__file__).parents[2]
    sources = "".join(
        path.read_text()
        for package in ("worker", "ps", "coordinator")
        for path in (root / package).glob("*.py")
    )
    told = [name for name in (*trace.PATH, *trace.BESIDE) if f'"{name}"' not in sources]
    assert told == []
    architecture = (root / "ARCHITECTURE.md").read_text()
    assert [name for name in trace.PATH if f"| {name}" not in architecture] == []
