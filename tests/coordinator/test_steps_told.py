"""With local steps people are told steps, whatever the deciding code counts."""

from __future__ import annotations

import pytest

from coordinator.event_log import in_steps
from coordinator.pace import ArrivalPace, QuorumPace, SyncPace, pace_of
from coordinator.records import Switching
from wire.rounds import Rounds

ROUNDS = Rounds(local_steps=4, total=10)


@pytest.mark.parametrize(
    ("event", "told"),
    [("step", 3), ("step", 9), ("checkpoint", 10), ("segment", 4), ("assigned", 0), ("evaluated", 7)],
)
def test_events(event: str, told: int) -> None:
    """A round that is over by its last step, any other by its first; evaluations are told by workers, in steps."""
    rounds = {("step", 3): 0, ("step", 9): 2, ("checkpoint", 10): 3, ("segment", 4): 1, ("evaluated", 7): 7}
    fields = {"step": rounds.get((event, told), 0), "name": "x"}
    assert in_steps(event, fields, ROUNDS) == {"step": told, "name": "x"}
    assert in_steps(event, {"name": "x"}, ROUNDS) == {"name": "x"}
    assert in_steps(event, fields, Rounds()) == fields


@pytest.mark.parametrize(
    ("wanted", "pace"),
    [
        (Switching("local", None, None, 1.0), SyncPace()),
        (Switching("local", None, 3, 1.0), QuorumPace(3, 1.0)),
        (Switching("local", 2, None, 1.0), ArrivalPace(2)),
        (Switching("async", None, None, 1.0), ArrivalPace(None)),
    ],
)
def test_local_steps_keep_any_pace(wanted: Switching, pace: object) -> None:
    assert pace_of(wanted) == pace
