"""What roles wrote down becomes one picture: one time, lines that can be drawn, arrows from push to close to apply."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sparsync.cli import root
from sparsync.tracing import picture, read_processes, within
from wire.errors import DamagedFile, NoInput, ProtocolMismatch
from wire.rounds import Rounds
from wire.trace_file import OLDER_FILE, TRACE_FILE

Span = tuple[str, str, float, float, dict[str, Any]]
STEP_ROUNDS = Rounds()


def write(
    directory: Path,
    role: str,
    id: str,
    spans: Iterable[Span],
    *,
    machine: str = "m",
    ahead_s: float = 1000.0,
    rounds: Rounds = STEP_ROUNDS,
    name: str = TRACE_FILE,
    pid: int = 7,
    version: int = 1,
) -> Path:
    """A role's file: at monotonic second 0 the wall clock shows `ahead_s`."""
    directory.mkdir(parents=True, exist_ok=True)
    header = {"version": version, "role": role, "id": id, "run": "r", "pid": pid, "machine": machine}
    told = [{"header": {**header, "rounds": asdict(rounds)}}, {"anchor": [0.0, ahead_s]}, *spans]
    path = directory / name
    path.write_text("".join(json.dumps(line) + "\n" for line in told))
    return path


def path_of_a_unit(directory: Path, *, step: int = 0, at: float = 0.0) -> None:
    """One unit of one worker, closed and applied, as three roles tell it."""
    known = {"step": step, "stream": 1}
    write(
        directory,
        "coordinator",
        "coordinator",
        [
            ("close", "MainThread", at + 3, at + 4, {"step": step}),
            ("journal", "MainThread", at + 3.1, at + 3.5, {}),
        ],
    )
    write(
        directory / "worker-0",
        "worker",
        "worker-0",
        [
            ("unit", "MainThread", at + 0, at + 2, known),
            ("collect", "MainThread", at + 1, at + 1.2, known),
            ("push", "push 0", at + 1.5, at + 3.5, {**known, "shard": 0}),
            ("push", "push 1", at + 1.6, at + 3.2, {**known, "shard": 1}),
            ("apply", "MainThread", at + 5, at + 6, {"step": step, "closes": True, "versions": {"0": 0}}),
        ],
    )
    write(directory / "ps-0", "ps", "ps-0", [("admit", "admit", at + 1.6, at + 2.5, known)])


def drawn(events: Sequence[dict[str, Any]], phase: str) -> list[dict[str, Any]]:
    return [event for event in events if event["ph"] == phase]


def names(events: Sequence[dict[str, Any]], kind: str) -> list[str]:
    return [event["args"]["name"] for event in drawn(events, "M") if event["name"] == kind]


def test_roles_are_processes_and_their_threads_are_lines(tmp_path: Path) -> None:
    path_of_a_unit(tmp_path)
    events = picture(read_processes([tmp_path]))["traceEvents"]
    assert names(events, "process_name") == [
        "coordinator (pid 7)",
        "ps-0 (pid 7)",
        "worker-0 (pid 7)",
    ]
    assert names(events, "thread_name") == ["event loop", "admit", "training", "push 0", "push 1"]
    (collect,) = (event for event in drawn(events, "X") if event["name"] == "collect")
    assert (collect["ts"], collect["dur"], collect["cat"]) == (1e6, 0.2e6, "path")
    assert collect["args"] == {"step": 0, "stream": 1}


def test_an_arrow_leads_from_push_to_close_to_apply(tmp_path: Path) -> None:
    path_of_a_unit(tmp_path)
    events = picture(read_processes([tmp_path]))["traceEvents"]
    arrow = [event for event in events if event["ph"] in "stf"]
    assert [(event["ph"], event["ts"]) for event in arrow] == [("s", 1.5e6), ("t", 3e6), ("f", 5e6)]
    assert len({event["id"] for event in arrow}) == 1
    slices = drawn(events, "X")
    for event, name in zip(arrow, ("push", "close", "apply"), strict=True):
        assert any(
            (s["name"], s["pid"], s["tid"], s["ts"]) == (name, event["pid"], event["tid"], event["ts"])
            for s in slices
        ), "each end lies in what it is of"


def test_where_units_settle_on_arrival_the_delta_that_names_them_is_their_close(tmp_path: Path) -> None:
    push = {"step": 4, "stream": 2, "shard": 1}
    write(tmp_path / "w", "worker", "w", [
        ("push", "push 1", 1.0, 2.0, push),
        ("apply", "MainThread", 5.0, 6.0, {"step": 4, "closes": False, "versions": {"1": 8}}),
        ("apply", "MainThread", 7.0, 8.0, {"step": 4, "closes": False, "versions": {"1": 9}}),
    ])  # fmt: skip
    publish = {"step": 4, "version": 9, "shard": 1, "units": [[4, 2], [3, 0]]}
    write(tmp_path / "p", "ps", "p", [("publish", "shard_0", 3.0, 4.0, publish)])
    events = picture(read_processes([tmp_path]))["traceEvents"]
    assert [(e["ph"], e["ts"]) for e in events if e["ph"] in "stf"] == [("s", 0.0), ("t", 2e6), ("f", 6e6)]


def test_machines_are_laid_beside_each_other_by_their_wall_clocks(tmp_path: Path) -> None:
    write(tmp_path / "a", "ps", "a", [("log", "log", 10.0, 11.0, {})], machine="a", ahead_s=1000.0)
    write(tmp_path / "b", "ps", "b", [("log", "log", 500.0, 501.0, {})], machine="b", ahead_s=512.0)
    told = picture(read_processes([tmp_path / "a", tmp_path / "b"]))
    assert [event["ts"] for event in drawn(told["traceEvents"], "X")] == [0.0, 2e6]
    assert told["otherData"] == {"run": "r", "began_utc_s": 1010.0}


def test_processes_of_one_machine_keep_their_order_whatever_the_wall_clock_did(tmp_path: Path) -> None:
    write(tmp_path / "a", "ps", "a", [("log", "log", 10.0, 11.0, {})], ahead_s=1000.0)
    write(tmp_path / "b", "ps", "b", [("log", "log", 10.5, 11.0, {})], ahead_s=900.0)
    events = picture(read_processes([tmp_path]))["traceEvents"]
    assert [event["ts"] for event in drawn(events, "X")] == [0.0, 0.5e6]


def test_what_overlaps_gets_lines_of_its_own(tmp_path: Path) -> None:
    spans = [
        ("admit", "admit", 0.0, 4.0, {}),
        ("admit", "admit", 1.0, 5.0, {}),
        ("admit", "admit", 2.0, 3.0, {}),
    ]
    write(tmp_path, "ps", "a", [*spans, ("admit", "admit", 4.0, 6.0, {})])
    events = picture(read_processes([tmp_path]))["traceEvents"]
    assert names(events, "thread_name") == ["admit", "admit (2)"]
    assert [(e["ts"], e["tid"]) for e in drawn(events, "X")] == [(0.0, 1), (2e6, 1), (4e6, 1), (1e6, 2)]


def test_steps_are_told_as_people_count_them(tmp_path: Path) -> None:
    rounds = Rounds(local_steps=8, total=60)
    write(tmp_path, "worker", "w", [
        ("unit", "MainThread", 0.0, 1.0, {"step": 2, "stream": 0}),
        ("evaluate", "MainThread", 1.0, 2.0, {"at": 16}),
        ("wait", "MainThread", 2.0, 3.0, {}),
        ("unit", "MainThread", 3.0, 4.0, {"step": 7, "stream": 0}),
        ("publish", "MainThread", 4.0, 5.0, {"step": 2, "units": [[1, 3], [2, 0]]}),
    ], rounds=rounds)  # fmt: skip
    processes = read_processes([tmp_path])
    told = {e["ts"]: e["args"] for e in drawn(picture(processes)["traceEvents"], "X")}
    assert told[0.0] == {"step": 16, "last_step": 23, "stream": 0}
    assert told[1e6] == {"step": 16} and told[2e6] == {}
    assert told[3e6] == {"step": 56, "last_step": 59, "stream": 0}
    assert told[4e6]["units"] == [[8, 3], [16, 0]]
    processes = read_processes([tmp_path])
    within(processes, range(20, 30))
    assert [span.name for span in processes[0].spans] == ["unit", "wait", "publish"]


def test_some_steps_and_what_went_on_meanwhile(tmp_path: Path) -> None:
    spans = [("unit", "MainThread", float(s), s + 0.9, {"step": s, "stream": 0}) for s in range(10)]
    waits = [("wait", "wait", s + 0.5, s + 0.6, {}) for s in range(10)]
    write(tmp_path, "worker", "w", [*spans, *waits])
    processes = read_processes([tmp_path])
    within(processes, range(3, 5))
    assert [(s.name, s.begin) for s in processes[0].spans] == [
        ("unit", 3.0), ("unit", 4.0), ("wait", 3.5), ("wait", 4.5)
    ]  # fmt: skip


def test_both_files_of_a_process_are_one_and_starts_are_apart(tmp_path: Path) -> None:
    write(tmp_path, "ps", "a", [("log", "log", 0.0, 1.0, {})], name=OLDER_FILE)
    newer = write(tmp_path, "ps", "a", [("log", "log", 2.0, 3.0, {})])
    again = write(tmp_path / "again", "ps", "a", [("log", "log", 4.0, 5.0, {})], pid=8)
    newer.write_text(newer.read_text() + again.read_text())
    again.unlink()
    found = read_processes([tmp_path])
    assert [(process.pid, len(process.spans)) for process in found] == [(7, 2), (8, 1)]


def test_what_a_killed_process_left_is_read_up_to_its_end(tmp_path: Path) -> None:
    path = write(tmp_path, "ps", "a", [("log", "log", 0.0, 1.0, {})])
    path.write_text(path.read_text() + '["log","lo')
    assert len(read_processes([tmp_path])[0].spans) == 1


def test_what_is_no_trace_is_told(tmp_path: Path) -> None:
    with pytest.raises(NoInput, match=r"telemetry\.trace"):
        read_processes([tmp_path])
    path = write(tmp_path, "ps", "a", [], version=9)
    with pytest.raises(ProtocolMismatch, match="version 9"):
        read_processes([tmp_path])
    path.write_text("nonsense\n{}\n")
    with pytest.raises(DamagedFile, match="line 1"):
        read_processes([tmp_path])


# --- the command --------------------------------------------------------------------------------------


def run(*words: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(root, ["trace", *map(str, words)])
    return result.exit_code, result.stdout, result.stderr


def test_the_command_writes_beside_the_run_unless_told_where(tmp_path: Path) -> None:
    path_of_a_unit(tmp_path, step=12)
    code, out, told = run(tmp_path)
    assert (code, out) == (0, "") and "8 spans of 3 processes" in told
    assert len(json.loads((tmp_path / "trace.json").read_text())["traceEvents"]) > 8
    code, out, _ = run(tmp_path, "--steps", "12:13", "-o", tmp_path / "other.json", "--json")
    assert json.loads(out) == {
        "out": str(tmp_path / "other.json"),
        "spans": 8,
        "processes": ["coordinator", "ps-0", "worker-0"],
    }


@pytest.mark.parametrize("steps", ["5", "a:b", "1:2:3"])
def test_steps_that_are_none_are_refused(steps: str, tmp_path: Path) -> None:
    code, _, told = run(tmp_path, "--steps", steps)
    assert code == 2 and "expected A:B" in told


def test_steps_that_nobody_told_of(tmp_path: Path) -> None:
    path_of_a_unit(tmp_path, step=12)
    for asked, shown in (("500:", "500:"), ("500:510", "500:510"), (":3", "0:3")):
        result = CliRunner().invoke(root, ["trace", str(tmp_path), "--steps", asked])
        assert str(result.exception) == (
            f"--steps {shown} finds no spans, what was written is of steps 12 to 12; "
            "give some of these, as in --steps 12:13"
        )


def test_a_run_that_has_taken_no_step_yet(tmp_path: Path) -> None:
    write(tmp_path, "coordinator", "coordinator", [])
    for more in ([], ["--steps", "5:"]):
        result = CliRunner().invoke(root, ["trace", str(tmp_path), *more])
        assert "no spans there yet; try again" in str(result.exception)
