"""When a step closes, and with which units."""

from __future__ import annotations

import pytest

from coordinator.pace import LATEST, SLOTS, ArrivalPace, QuorumPace, Standing, SyncPace, pace_of
from coordinator.records import Segment, Switching

BOTH = frozenset({0, 1})


def standing(*complete: int, step: int = 5, oldest_owed: int | None = None, open_s: float = 0.0) -> Standing:
    accepted = {0: frozenset({1}), **dict.fromkeys(complete, BOTH)}
    return Standing(step, 4, 2, accepted, oldest_owed=oldest_owed, open_s=open_s)


def test_what_stands_on_some_shards_only_is_missing() -> None:
    assert standing(1, 3).complete == (1, 3) and standing(1, 3).missing == [0, 2]


def test_sync_waits_for_every_unit() -> None:
    units, reason = SyncPace().decide(standing(1, 2, 3, open_s=99.0))
    assert units is None and "waits for streams [0]" in reason
    assert SyncPace().decide(standing(0, 1, 2, 3))[0] == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("given", "units"),
    [
        (standing(0, 1, 2, 3), (0, 1, 2, 3)),  # all: no reason to wait
        (standing(1, 2, 3, open_s=0.9), None),  # before the deadline
        (standing(1, 2, 3, open_s=1.0), (1, 2, 3)),
        (standing(1, 2, open_s=1.0), (1, 2)),  # the quorum and no more
        (standing(3, open_s=99.0), None),  # below it, however late
        (standing(0, 1, 2, 3, step=5, oldest_owed=0), (0, 1, 2, 3)),
        (standing(0, 1, 2, 3, step=LATEST, oldest_owed=0), None),  # a late unit holds the steps up at last
        (standing(1, 2, step=LATEST, oldest_owed=1, open_s=1.0), (1, 2)),
    ],
)
def test_a_quorum_closes_at_its_deadline(given: Standing, units: tuple[int, ...] | None) -> None:
    assert QuorumPace(quorum=2, deadline_s=1.0).decide(given)[0] == units


def test_units_that_settle_on_arrival_close_no_step() -> None:
    assert ArrivalPace(3).decide(standing(0, 1, 2, 3))[0] is None


def test_only_async_is_cut_finely() -> None:
    assert [p.slots(4, 3) for p in (SyncPace(), QuorumPace(2, 1.0), ArrivalPace(3))] == [4, 4, 4]
    assert ArrivalPace(None).slots(4, 3) == SLOTS and ArrivalPace(None).slots(4, 100) == 400


def test_a_segment_has_its_pace() -> None:
    assert pace_of(Segment(0, 0, "sync", None, None, 2.0)) == SyncPace()
    assert pace_of(Segment(0, 0, "sync", None, 3, 2.0)) == QuorumPace(3, 2.0)
    assert pace_of(Segment(0, 0, "delayed", 1, None, 2.0)) == SyncPace(lag=1) != SyncPace()
    assert pace_of(Switching("ssp", 7, None, 2.0)) == ArrivalPace(7)
    assert pace_of(Switching("async", 7, None, 2.0)) == ArrivalPace(None)


def test_units_that_may_be_late_are_those_of_the_steps_that_it_runs_ahead_of_one() -> None:
    """The shards have room for them: at most so many are missing once a step has closed at the last moment."""
    pace = QuorumPace(3, 0.0)
    left = [LATEST - 1 - step for step in range(LATEST)]
    assert all(pace.decide(standing(0, 1, 2, step=LATEST - 1, oldest_owed=owed))[0] for owed in left)
    assert pace.decide(standing(0, 1, 2, step=LATEST, oldest_owed=0))[0] is None
    assert (pace.owed(4), SyncPace().owed(4), ArrivalPace(None).owed(4)) == (LATEST, 0, 0)
