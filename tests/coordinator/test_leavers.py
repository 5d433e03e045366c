"""Who leaves an elastic segment: when each is let go, and what waits for them."""

from __future__ import annotations

import pytest

from coordinator import actions as a
from coordinator import events as e
from coordinator import records as r
from coordinator.leavers import FLUSH_S
from tests.coordinator.ground import EXACT
from tests.coordinator.runs import Run
from tests.coordinator.test_elastic import ASYNC, QUORUM, SSP, accept, answer, closes

FLUSHED = e.Flushed(3, 0, 0.0)


def leaves(mode: r.Switching = SSP, **changes: int) -> Run:
    """Worker 3 has given everything back and owes nothing."""
    run = Run(mode=mode, **changes).begin()
    plan = run.plans(run.hear(e.WorkerLeaving(3, "SIGTERM")))[3]
    assert plan.leave
    run.hold(3, plan)
    return run


def ends(run: Run, actions: list[a.Action]) -> dict[int, str]:
    tells = run.only(a.Tell, actions)
    return {tell.incarnation: tell.order.reason for tell in tells if isinstance(tell.order, a.End)}


def test_it_is_told_once_and_again_on_a_new_line() -> None:
    run = leaves()
    assert not ends(run, run.hear(e.Beat(3), e.Flushed(3, 1, 0.0)))
    assert ends(run, run.hear(FLUSHED)) == {3: "it asked to leave and owes nothing any more"}
    assert not ends(run, run.hear(e.Beat(3), FLUSHED))
    again = run.hear(e.Attending(3))
    assert run.plans(again)[3].leave and 3 in ends(run, again)


def test_it_is_waited_for_ten_seconds_after_its_last_unit() -> None:
    run = Run(mode=SSP).begin()
    plan = run.plans(run.hear(e.WorkerLeaving(3, "SIGTERM")))[3]
    run.hold(3, plan, 1)
    run.now = 40.0
    accept(run, 0)
    run.now += FLUSH_S - 0.1
    assert not ends(run, run.hear(e.Beat(3), e.Beat(4), e.Tick()))
    run.now += 0.2
    assert "has not flushed" in ends(run, run.hear(e.Beat(3), e.Beat(4), e.Tick()))[3]


def test_who_never_had_work_has_nothing_to_flush() -> None:
    run = Run(mode=ASYNC).begin()
    joined = run.join("w9").incarnation
    assert joined in ends(run, run.hear(e.WorkerLeaving(joined, "SIGTERM")))


def test_what_it_held_is_lost_only_where_no_shard_took_it() -> None:
    for left, lost in ((0.0, 0.0), (0.5, 0.5)):
        run = leaves()
        run.hear(e.Progressed(3, 0.0, 2.0), e.Flushed(3, 0, left), e.BeatsEnded(3))
        run.now += 1.0
        run.hear(e.Beat(4), e.Tick())
        assert run.core.state.totals.lost == lost
        assert not run.core.state.members[3].dead


def test_who_dies_in_the_middle_of_it_loses_what_it_told_last() -> None:
    run = leaves()
    run.hear(e.Progressed(3, 0.0, 2.0), e.Progressed(3, 0.0, 0.75), e.BeatsEnded(3))
    run.now += 1.0
    run.hear(e.Beat(4), e.Tick())
    assert run.core.state.totals.lost == 0.75


# --- boundaries --------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [SSP, ASYNC])
def test_a_boundary_waits_for_those_who_flush(mode: r.Switching) -> None:
    run = leaves(mode)
    answer(run, run.hear(e.SetAsked("k", EXACT)), 1)
    assert run.core.state.barred == 1
    assert not closes(run, accept(run, *range(4)))
    assert "w0 must push what they hold back" in run.core.work.waits_for
    assert [c.pause for c in closes(run, run.hear(FLUSHED))] == [True]


def test_the_end_waits_for_those_who_flush_but_not_for_ever() -> None:
    run = leaves(ASYNC, steps=1)
    assert not closes(run, accept(run, *range(4)))
    run.now += FLUSH_S + 0.1
    assert [c.final for c in closes(run, run.hear(e.Beat(4), e.Beat(3)))] == [True]


def test_nobody_waits_for_a_leaver_that_died() -> None:
    run = leaves(ASYNC, steps=1)
    accept(run, *range(4))
    run.hear(e.BeatsEnded(3))
    run.now += 1.0
    assert [c.final for c in closes(run, run.hear(e.Beat(4), e.Tick()))] == [True]


def test_under_a_quorum_no_close_waits_for_it_is_a_close_that_settles_what_it_pushed() -> None:
    run = leaves(QUORUM)
    answer(run, run.hear(e.SetAsked("k", SSP)), 1)
    assert [c.pause for c in closes(run, accept(run, *range(4)))] == [True]


@pytest.mark.parametrize(("to", "goes"), [(EXACT, True), (SSP, False)])
def test_behind_the_end_of_a_segment_it_goes_on_only_where_it_can_still_flush(
    to: r.Switching, goes: bool
) -> None:
    run = leaves(QUORUM)
    answer(run, run.hear(e.SetAsked("k", to)), 1)
    accept(run, *range(4))
    assert (3 in ends(run, run.hear(e.Beat(3), e.Tick()))) == goes
    if goes:
        return
    run.settle(0)
    assert not ends(run, run.hear(e.Attending(3))), "the shards are still told of the next segment"
    begun = run.hear(e.SegmentBegun(0, 1), e.SegmentBegun(1, 1))
    assert run.plans(begun)[3].leave and run.plans(begun)[3].segment == 1
    assert not ends(run, run.hear(FLUSHED)), "that was in the segment before"
    assert 3 in ends(run, run.hear(e.Flushed(3, 1, 0.0)))


def test_at_the_end_of_the_run_nobody_is_kept() -> None:
    run = leaves(QUORUM, steps=1)
    accept(run, *range(4))
    assert 3 in ends(run, run.hear(e.Beat(3), e.Tick()))
