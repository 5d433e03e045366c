"""What came of the faults: read from the run's own events, which nobody who injected them has written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Struck:
    """One fault as it happened. `at`: time stamp; `target`: None where there was nobody, and `note` says why."""

    number: int
    at: str
    kind: str
    role: str
    target: str | None
    lasts_s: float
    note: str = ""


def outcome(struck: Sequence[Struck], events: Sequence[Event], *, began: str, ended: str) -> dict[str, Any]:
    """Deaths and recoveries between two time stamps, and of each fault how long the run stood still around it.

    `stall_s`: the longest time between two steps, from the last one before the fault to the next fault; None where
    no step came after it.
    """
    during = [e for e in events if moment(began) <= moment(str(e["t"])) <= moment(ended)]
    count = {
        kind: sum(e["event"] == kind for e in during) for kind in ("died", "straggled", "left", "joined")
    }
    steps = [moment(str(e["t"])) for e in events if e["event"] == "step"]
    ends = [*(moment(fault.at) for fault in struck[1:]), moment(ended)]
    faults = [
        {**vars(fault), "stall_s": longest_stall(steps, moment(fault.at), end)}
        for fault, end in zip(struck, ends, strict=False)  # without faults there is one end too many
    ]
    stalls = [fault["stall_s"] for fault in faults if fault["target"] and fault["stall_s"] is not None]
    return {
        "faults": faults,
        "struck": sum(fault.target is not None for fault in struck),
        "deaths": count["died"],
        "straggled": count["straggled"],
        "left": count["left"],
        "joined": count["joined"],
        "longest_stall_s": max(stalls, default=None),
        "steps": sum(e["event"] == "step" for e in during),
    }


def moment(stamp: str) -> float:
    """Seconds of a time stamp; of one machine, so that differences mean something."""
    return datetime.fromisoformat(stamp).timestamp()


def longest_stall(steps: Sequence[float], fault: float, end: float) -> float | None:
    """The longest time between two of the steps, from the last one before `fault` to the first one after `end`."""
    before = [step for step in steps if step <= fault][-1:]
    after = [step for step in steps if fault < step]
    if not after:
        return None
    within = [step for step in after if step <= end]
    rest = [step for step in after if step > end][:1]
    gaps = [b - a for a, b in pairwise([*(before or [fault]), *within, *(rest if not within else [])])]
    return round(max(gaps), 3)
