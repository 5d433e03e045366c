"""Stalls and deaths, from events."""

from __future__ import annotations

from sparsync.faults.outcome import Struck, longest_stall, outcome


def at(second: float) -> str:
    return f"2026-01-01T00:00:{second:06.3f}+00:00"


def test_the_longest_time_between_two_steps() -> None:
    steps = [1.0, 2.0, 3.0, 6.0, 7.0, 12.0]
    assert longest_stall(steps, 3.5, 6.5) == 3.0
    assert longest_stall(steps, 3.5, 4.0) == 3.0, "the first step after it counts, however late"
    assert longest_stall(steps, 1.5, 13.0) == 5.0
    assert longest_stall(steps, 12.5, 13.0) is None
    assert longest_stall([5.0], 3.0, 4.0) == 2.0, "the run had not begun"


def test_an_outcome() -> None:
    struck = [
        Struck(0, at(3.5), "kill", "worker", "w-0 (pid 7)", 0.0),
        Struck(1, at(8), "kill", "ps", None, 0.0, "no ps was there"),
    ]
    events = [{"t": at(s), "event": "step"} for s in (1, 2, 3, 6, 7)]
    events += [{"t": at(s), "event": "died"} for s in (0.5, 4)] + [{"t": at(5), "event": "joined"}]
    found = outcome(struck, events, began=at(1.5), ended=at(9))
    assert [fault["stall_s"] for fault in found["faults"]] == [3.0, None]
    assert (found["struck"], found["deaths"], found["joined"], found["steps"]) == (1, 1, 1, 4)
    assert found["longest_stall_s"] == 3.0


def test_nothing_happened() -> None:
    found = outcome([], [], began=at(1), ended=at(2))
    assert (found["faults"], found["longest_stall_s"]) == ([], None)
