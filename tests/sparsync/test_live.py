"""Progress in words, whatever of the status is known yet; and where it is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sparsync.live import (
    LINE_EVERY_S,
    NOTED,
    EventTail,
    LiveTable,
    NoDisplay,
    Pace,
    PlainLines,
    event_line,
    open_display,
    progress_line,
)
from tests.sparsync.statuses import SYNC


def test_progress_in_one_line() -> None:
    assert progress_line(SYNC) == (
        "step 120/400  loss 2.9134  val 2.8700 (step 100)  18.2k tokens/s  sent 24.1 MB  received 20.9 MB  "
        "24.0x fewer bytes than dense  1 worker (worker-1 dead)"
    )


def test_a_state_other_than_running_is_said_first() -> None:
    status = {"state": "waiting", "reason": "1 of 2 servers [here]"}
    assert progress_line(status).startswith("[waiting: 1 of 2 servers [here]]  step 0/–  loss –")


def test_a_worker_that_was_started_again_is_shown_once() -> None:
    twice = {"workers": [{"name": "worker-0", "state": "dead"}, {"name": "worker-0", "state": "computing"}]}
    assert progress_line(twice).endswith("1 worker")


@pytest.mark.parametrize("missing", SYNC)
def test_any_key_may_be_missing_or_null(missing: str) -> None:
    assert progress_line({**SYNC, missing: None})
    assert progress_line({key: value for key, value in SYNC.items() if key != missing})


def test_an_elastic_pace_is_told_in_the_line() -> None:
    status = {
        **SYNC,
        "staleness": {"0": 90, "1": 10},
        "units_owed": 2,
        "workers": [{"name": "worker-0", "state": "computing", "straggler": True}],
    }
    line = progress_line(status)
    assert "staleness █▁ 0 to 1, mean 0.10  2 late units owed  1 worker (worker-0 straggler)" in line


def test_time_to_go_follows_the_recent_pace() -> None:
    pace = Pace()
    assert pace.remaining_s(100) is None
    for second in range(11):
        pace.observe(float(second), 2 * second)
    assert pace.remaining_s(100) == pytest.approx(40)
    assert pace.remaining_s(None) is None
    for second in range(100, 161):
        pace.observe(float(second), 20 + second - 100)
    assert pace.remaining_s(100) == pytest.approx(20)


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            {"event": "evaluated", "step": 50, "model": "published", "loss": 3.25},
            "validation loss at step 50: 3.2500",
        ),
        (
            {"event": "evaluated", "step": 60, "model": "x", "loss": 3.0},
            "validation loss of x at step 60: 3.0000",
        ),
        ({"event": "checkpoint", "step": 60, "path": "c/step-60"}, "checkpoint of step 60: c/step-60"),
        (
            {"event": "died", "name": "worker-1", "reason": "its heartbeats ended", "streams": [2, 3]},
            "worker-1 died: its heartbeats ended; streams 2 3 go to others",
        ),
        ({"event": "left", "name": "worker-1", "reason": "SIGTERM"}, "worker-1 left: SIGTERM"),
        (
            {"event": "straggled", "name": "worker-1", "streams": [1]},
            "worker-1 is too slow; streams 1 go to others",
        ),
        (
            {"event": "switching", "mode": "async", "step": 7},
            "the run goes over to async at the next boundary",
        ),
        ({"event": "segment", "mode": "async", "step": 8, "number": 1}, "mode async from step 8 on"),
        ({"event": "step", "step": 3, "loss": 1.0}, None),
        ({}, None),
    ],
)
def test_events_of_note(event: dict[str, Any], line: str | None) -> None:
    assert event_line(event) == line


@pytest.mark.parametrize("name", NOTED)
def test_an_event_without_its_fields_is_still_told(name: str) -> None:
    assert event_line({"event": name})


def test_a_tail_reads_each_whole_line_once(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(json.dumps({"event": "old"}) + "\n")
    tail = EventTail(path)
    assert tail.read() == []
    with path.open("a") as file:
        file.write('{"event": "a"}\nnot json\n[1]\n{"event"')
        file.flush()
        assert tail.read() == [{"event": "a"}]
        file.write(': "b"}\n')
        file.flush()
    assert tail.read() == [{"event": "b"}]
    assert tail.read() == []


def test_a_tail_waits_for_its_file(tmp_path: Path) -> None:
    tail = EventTail(tmp_path / "events.jsonl")
    assert tail.read() == []
    (tmp_path / "events.jsonl").write_text('{"event": "a"}\n')
    assert tail.read() == [{"event": "a"}]


def test_plain_lines_keep_their_pace_and_leave_standard_output_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    display = PlainLines()
    for tenth in range(int(LINE_EVERY_S * 10) * 2):
        display.update(SYNC, 1000 + tenth / 10)
    display.note("a note")
    display.close()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("step 120/400") == 2 and err.endswith("a note\n")


def test_which_display_is_opened() -> None:
    assert isinstance(open_display("auto", terminal=False, json_out=False), PlainLines)
    assert isinstance(open_display("auto", terminal=True, json_out=True), PlainLines)
    assert isinstance(open_display("plain", terminal=True, json_out=False), PlainLines)
    assert isinstance(open_display("off", terminal=True, json_out=False), NoDisplay)
    table = open_display("auto", terminal=True, json_out=False)
    table.close()
    assert isinstance(table, LiveTable)


def test_a_table_that_json_needs_out_of_the_way_goes_to_standard_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = open_display("table", terminal=True, json_out=True)
    table.note("[run] is not markup")
    table.update(SYNC, 1.0)
    table.note("a note over the table")
    table.close()
    out, err = capsys.readouterr()
    assert "[bold]" not in err and out == "" and "[run] is not markup" in err and "worker-0" in err
