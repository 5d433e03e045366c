"""Elastic segments: boundaries, switches, late units, and what a broken line may not undo."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator import actions as a
from coordinator import events as e
from coordinator import records as r
from tests.coordinator.ground import EXACT
from tests.coordinator.runs import Run
from wire.errors import Busy
from wire.ids import UnitId
from wire.messages import BAD_UNIT, Commit

ASYNC = r.Switching("async", None, None, 1.0)
SSP = r.Switching("ssp", 1, None, 1.0)
QUORUM = r.Switching("sync", None, 3, 1.0)


def accept(run: Run, *numbers: int, shards: tuple[int, ...] = (0, 1), reason: str = "") -> list[a.Action]:
    """The holder of each unit has pushed it."""
    told = Commit(reason, 0 if reason else 8, 64, 2.0, 1.0, (0.1,))
    leases = run.core.state.leases.values()
    by = {n: next((x.holder for x in leases if n in x.span), 3) for n in numbers}
    return run.hear(
        *(e.UnitAccepted(s, UnitId(1, *divmod(n, 4)), 0, by[n], told) for n in numbers for s in shards)
    )


def answer(run: Run, actions: list[a.Action], following: int) -> list[a.Action]:
    """Every worker that is told a plan has begun what lies before `following`, and no more."""
    return [done for w, plan in run.plans(actions).items() for done in run.hold(w, plan, following)]


def closes(run: Run, actions: list[a.Action]) -> list[a.CloseStep]:
    commands = (c.command for c in run.only(a.Command, actions) if c.shard == 0)
    return [c for c in commands if isinstance(c, a.CloseStep)]


def records(actions: list[a.Action], kind: type) -> list[Any]:
    return [x.record for x in actions if isinstance(x, a.Journal) and isinstance(x.record, kind)]


# --- what counts


def test_whole_steps_are_counted_once_every_unit_stands_everywhere() -> None:
    run = Run(mode=SSP).begin()
    assert not records(accept(run, 0, 1, 2, 4), r.Counted)
    assert not records(accept(run, 3, shards=(1,)), r.Counted)
    (counted,) = records(accept(run, 3, shards=(0,)), r.Counted)
    assert (counted.low, counted.units, counted.samples) == (4, 4, 32)
    assert run.core.state.open_step == 1 and not records(accept(run, 3), r.Counted)


def test_units_that_come_too_late_are_told_once() -> None:
    """From the units of enough steps; those of one step's lateness are what workers allow for."""
    for behind, told in ((4, []), (8, [2.0])):
        run, notes = Run(mode=ASYNC, steps=1000).begin(), []
        for number in range(4 * 120):
            unit, commit = UnitId(1, *divmod(number, 4)), Commit("", 8, 64, 2.0, 1.0, (0.1,))
            done = run.hear(*(e.UnitAccepted(s, unit, 0, 3, commit, behind=behind) for s in (0, 1)))
            notes += [note for note in run.only(a.Note, done) if note.event == "late_units"]
        assert run.core.state.open_step == 120
        assert [note.fields["steps"] for note in notes] == told
        assert all(note.fields["units_per_step"] == 4 for note in notes)


def test_a_bad_unit_stops_a_run_that_is_to_stop() -> None:
    run = Run(mode=ASYNC, on_bad_unit="stop", workers_to_begin=2).begin()
    accept(run, 0, 1, 2)
    actions = accept(run, 3, reason=f"{BAD_UNIT}the loss is nan")
    (stopping,) = records(actions, r.Stopping)
    assert (stopping.error, stopping.reason) == ("BadUnit", "step 0: the loss is nan")


# --- boundaries


def test_a_boundary_lies_beyond_all_that_is_begun_and_is_closed_once() -> None:
    run = Run(mode=SSP, checkpoint_every=2).begin()
    asked = accept(run, *range(8))
    barred = answer(run, asked, 13)
    assert records(barred, r.Barred) == [r.Barred(4)], "unit 12 of step 3 may be begun"
    assert max(lease.span.last for lease in run.core.state.leases.values()) < 16
    (close,) = closes(run, accept(run, *range(8, 16)))
    assert (close.step, close.streams, close.pause, close.final) == (3, (), False, False)
    run.settle(3)
    after = run.hear(e.CheckpointWritten(4, "step-4", "x", "p"))
    assert not closes(run, after) and records(after, r.Barred) == [r.Barred(None)]
    assert sorted(n for spans in run.held().values() for s in spans for n in range(*s)) == list(range(16, 40))


def test_a_boundary_waits_for_the_dead() -> None:
    run = Run(mode=SSP, checkpoint_every=1).begin()
    asked = accept(run, *range(4))
    run.hear(e.BeatsEnded(4))
    run.now += 1.0
    run.hear(e.Beat(3), e.Tick())
    assert not records(run.hold(3, run.plans(asked)[3], 4), r.Barred)
    assert not records(run.hear(e.WorkerRetired(0, 4)), r.Barred)
    assert records(run.hear(e.WorkerRetired(1, 4)), r.Barred) == [r.Barred(1)]
    assert len(closes(run, run.hear(e.Beat(3), e.Tick()))) == 1, "all below the bar stands already"


def test_an_asked_lease_that_is_finished_is_not_waited_for() -> None:
    """What the coordinator hears of the shards may come before the worker's answer."""
    run = Run(mode=SSP, checkpoint_every=9, steps=10).begin()
    asked = accept(run, *range(36))
    assert run.plans(asked)
    actions = accept(run, *range(36, 40))
    assert [c.final for c in closes(run, actions)] == [True]
    assert run.core.work._leases.settled  # type: ignore[attr-defined]


def test_units_beyond_the_bar_are_dealt_when_every_shard_has_closed() -> None:
    run = Run(mode=SSP).begin()
    run.hear(e.SetAsked("k", ASYNC))
    answer(run, run.hear(e.Attending(3), e.Attending(4)), 1)
    run.hear(e.SetAsked("k", SSP))
    assert run.core.state.switching is None and run.core.state.barred == 1
    assert [c.pause for c in closes(run, accept(run, *range(4)))] == [False]
    run.hear(e.StepSettled(0, 0))
    assert run.core.state.barred == 1, "there units of step 1 would come before the close"
    run.hear(e.StepSettled(1, 0))
    assert run.core.state.barred is None and len(run.core.state.leases) == 4


# --- switches


def switched(mode: r.Switching, to: r.Switching, **changes: Any) -> Run:
    """A run of step 0 in one mode, paused for the other one."""
    run = Run(mode=mode, **changes).begin()
    actions = run.hear(e.SetAsked("k", to))
    if mode is not EXACT:
        answer(run, actions, 1)
        actions = accept(run, *range(4))
    else:
        actions = run.accept(0, 0, 1, 2, 3)
    assert [c.pause for c in closes(run, actions)] == [True]
    if mode is EXACT:
        run.deposit(1)
    return run


@pytest.mark.parametrize("mode", [EXACT, QUORUM, SSP, ASYNC])
@pytest.mark.parametrize("to", [EXACT, QUORUM, SSP, ASYNC])
def test_the_next_segment_begins_where_every_shard_stands(mode: r.Switching, to: r.Switching) -> None:
    if mode is to:
        return
    run = switched(mode, to)
    assert not records(run.hear(e.StepSettled(0, 0)), r.Segment)
    (segment,) = records(run.hear(e.StepSettled(1, 0)), r.Segment)
    assert (segment.number, segment.step, segment.mode) == (1, 1, to.mode)
    assert not run.plans(run.hear(e.SegmentBegun(0, 1)))
    plans = run.plans(run.hear(e.SegmentBegun(1, 1)))
    assert set(plans) == {3, 4} and all(
        p.segment == 1 and p.elastic == (to is not EXACT) for p in plans.values()
    )
    if to is EXACT:
        assert sorted((s.stream, s.step, s.deposit) for p in plans.values() for s in p.assignments) == [
            (s, 1, None) for s in range(4)
        ]
    else:
        assert min(o.span.start for p in plans.values() for o in p.leases) == 4


def test_a_segment_waits_until_nobody_who_is_gone_can_push() -> None:
    run = switched(EXACT, ASYNC)
    run.hear(e.BeatsEnded(4))
    run.now += 1.0
    run.hear(e.Beat(3), e.Tick())
    run.settle(0)
    run.hear(e.WorkerRetired(0, 4))
    assert run.core.state.segment.number == 0
    run.hear(e.WorkerRetired(1, 4))
    assert run.core.state.segment.number == 1


def heirs(run: Run, actions: list[a.Action]) -> dict[int, tuple[int, ...]]:
    return {worker: plan.inherits for worker, plan in run.plans(actions).items()}


def test_who_carried_a_stream_goes_on_with_what_it_held_back() -> None:
    run = switched(EXACT, ASYNC)
    (segment,) = records(run.settle(0), r.Segment)
    assert segment.heirs == (3, 3, 4, 4)
    actions = run.hear(e.SegmentBegun(0, 1), e.SegmentBegun(1, 1))
    assert heirs(run, actions) == {3: (0, 1), 4: (2, 3)}
    joined = run.join("w9").incarnation
    run.declare(joined)
    assert heirs(run, run.ready(joined))[joined] == ()


def test_others_go_on_with_what_the_dead_held_back() -> None:
    """What they deposited at the boundary is theirs no more, and there is nothing left of it to compute."""
    run = switched(EXACT, ASYNC)
    joined = run.join("w9").incarnation
    run.declare(joined)
    run.ready(joined)
    run.hear(e.BeatsEnded(4))
    run.now += 1.0
    run.hear(e.Beat(3), e.Beat(joined), e.Tick())
    run.settle(0)
    run.hear(*(e.FenceAnswered(shard, 1, stream, 1, False) for stream in (2, 3) for shard in range(2)))
    (segment,) = records(run.hear(e.WorkerRetired(0, 4), e.WorkerRetired(1, 4)), r.Segment)
    assert segment.heirs == (3, 3, 3, joined)


@pytest.mark.parametrize("to", [ASYNC, QUORUM])
def test_an_exact_segment_ends_once_every_stream_has_left_its_state(to: r.Switching) -> None:
    """An heir that is still on its way would go on with what was held back, and pushed since."""
    run = Run().begin()
    run.hear(e.SetAsked("k", to))
    (close,) = closes(run, run.accept(0, 0, 1, 2, 3))
    assert close.deposit and close.pause
    run.settle(0)
    assert not records(run.deposit(1, 0, 1, 2), r.Segment)
    assert records(run.deposit(1, 3), r.Segment)


def test_what_streams_held_back_waits_for_somebody() -> None:
    run = switched(EXACT, ASYNC)
    run.hear(e.BeatsEnded(3), e.BeatsEnded(4))
    run.now += 1.0
    run.hear(e.Tick())
    run.settle(0)
    run.hear(*(e.FenceAnswered(shard, 1, stream, 1, False) for stream in range(4) for shard in range(2)))
    retired = run.hear(*(e.WorkerRetired(shard, worker) for shard in range(2) for worker in (3, 4)))
    assert not records(retired, r.Segment)
    joined = run.join("w9").incarnation
    run.declare(joined)
    (segment,) = records(run.ready(joined), r.Segment)
    assert segment.heirs == (joined,) * 4


def test_who_leaves_takes_on_nothing() -> None:
    """It may have been told that it is done, and follow no plan any more."""
    run = switched(EXACT, ASYNC)
    run.hear(e.WorkerLeaving(4, "SIGTERM"))
    (segment,) = records(run.settle(0), r.Segment)
    assert segment.heirs == (3, 3, 3, 3)


def test_only_deposits_are_owed_at_the_end_of_a_segment() -> None:
    run = Run().begin()
    run.hear(e.SetAsked("k", ASYNC))
    run.accept(0, 0, 1, 2, 3)
    run.deposit(1, 0, 1)
    assert run.core.work.owing() == {4}


def test_an_heir_that_dies_on_its_way_is_told() -> None:
    run = switched(EXACT, ASYNC)
    run.settle(0)
    plans = run.plans(run.hear(e.SegmentBegun(0, 1), e.SegmentBegun(1, 1)))
    run.hold(3, plans[3])
    run.hear(e.BeatsEnded(3), e.BeatsEnded(4))
    run.now += 1.0
    notes = [note for note in run.only(a.Note, run.hear(e.Tick())) if note.event == "heir_lost"]
    assert [note.fields["streams"] for note in notes] == [[2, 3]]


def test_a_segment_does_not_end_before_its_heirs_are_in_it() -> None:
    """All its units may be done by others, or told by the shards before."""
    run = switched(EXACT, ASYNC, steps=2)
    run.settle(0)
    plans = run.plans(run.hear(e.SegmentBegun(0, 1), e.SegmentBegun(1, 1)))
    run.hold(3, plans[3], 8)
    assert not closes(run, accept(run, 4, 5, 6, 7))
    assert run.core.work.waits_for == "a boundary: w1 must take on what streams held back"
    assert [close.final for close in closes(run, run.hold(4, plans[4], 8))] == [True]


def test_the_shards_keep_what_was_held_back_until_it_was_taken_on() -> None:
    run = switched(EXACT, QUORUM)
    run.settle(0)
    plans = run.plans(run.hear(e.SegmentBegun(0, 1), e.SegmentBegun(1, 1)))
    (close,) = closes(run, accept(run, *range(4, 8)))
    assert close.retain_from == 1
    run.settle(1)
    run.hold(3, plans[3])
    (close,) = closes(run, accept(run, *range(8, 12)))
    assert close.retain_from == 1, "the other one may be on its way"
    run.settle(2)
    run.hold(4, plans[4])
    (close,) = closes(run, accept(run, *range(12, 16)))
    assert close.retain_from == 4


def test_who_comes_while_the_shards_enter_a_segment_is_dealt_to_when_it_begins() -> None:
    run = switched(EXACT, SSP)
    run.settle(0)
    joined = run.join("w9").incarnation
    run.declare(joined)
    run.hear(e.Beat(joined))
    assert not run.plans(run.ready(joined)) and not run.plans(run.hear(e.Attending(3)))
    assert not run.only(a.Tell, run.hear(e.WorkerLeaving(4, "SIGTERM")))
    plans = run.plans(run.hear(e.SegmentBegun(0, 1), e.SegmentBegun(1, 1)))
    assert {w: len(p.leases) for w, p in plans.items()} == {3: 2, 4: 0, joined: 2}
    assert {w: p.leave for w, p in plans.items()} == {3: False, 4: True, joined: False}


def test_an_exact_segment_without_a_worker_waits_for_one() -> None:
    run = switched(SSP, EXACT)
    for worker in (3, 4):
        run.hear(e.BeatsEnded(worker))
    run.now += 1.0
    run.hear(e.Tick())
    run.settle(0)
    run.hear(*(e.WorkerRetired(shard, worker) for shard in range(2) for worker in (3, 4)))
    run.hear(e.SegmentBegun(0, 1), e.SegmentBegun(1, 1))
    joined = run.join("w9").incarnation
    run.declare(joined)
    assert len(run.plans(run.ready(joined))[joined].assignments) == 4


def test_a_stream_whose_segment_is_over_is_given_to_nobody() -> None:
    """Its heir would pull x̂ behind the close that paused, and go on."""
    run = Run(stream_state_every=1).begin()
    run.hear(e.SetAsked("k", ASYNC))
    run.accept(0, 0, 1, 2, 3)
    run.deposit(1)
    run.hear(e.BeatsEnded(4))
    run.now += 1.0
    run.hear(e.Beat(3), e.Tick())
    fences = (e.FenceAnswered(shard, 1, s, 1, False) for s in (2, 3) for shard in range(2))
    assert not run.plans(run.hear(*fences))
    joined = run.join("w9").incarnation
    run.declare(joined)
    assert not run.plans(run.ready(joined))


def test_a_switch_is_not_taken_back_while_the_run_stands_still_for_it() -> None:
    run = switched(SSP, ASYNC)
    refusal = run.answer(run.hear(e.SetAsked("k", SSP)))
    assert isinstance(refusal, Busy) and "step 1" in str(refusal)
    run.settle(0)
    assert run.core.state.segment.mode == "async"
    assert isinstance(run.answer(run.hear(e.SetAsked("k", SSP))), a.Done)


def test_keys_that_do_not_matter_to_the_mode_switch_nothing() -> None:
    run = Run().begin()
    for harmless in (r.Switching("sync", None, None, 9.0), r.Switching("sync", 7, None, 1.0)):
        assert not records(run.hear(e.SetAsked("k", harmless)), r.Switching)
    run.hear(e.SetAsked("k", ASYNC))
    run.hear(e.SetAsked("k", r.Switching("sync", None, None, 9.0)))
    assert run.core.state.switching is None
    assert [c.pause for c in closes(run, run.accept(0, 0, 1, 2, 3))] == [False]


def test_under_a_quorum_leases_end_at_the_boundary_before_it_is_closed() -> None:
    run = Run(mode=QUORUM).begin()
    asked = run.hear(e.SetAsked("k", ASYNC))
    accept(run, 0, 1, 2, 3)
    assert run.core.state.last_close is not None and not run.core.state.last_close.pause
    answer(run, asked, 5)
    assert run.core.state.barred == 2
    assert max(lease.span.last for lease in run.core.state.leases.values()) == 7
    assert [(c.step, c.pause) for c in closes(run, accept(run, 4, 5, 6, 7))] == [(1, True)]


# --- late units


def test_a_late_unit_is_settled_with_a_later_step() -> None:
    run = Run(mode=QUORUM).begin()
    assert not closes(run, accept(run, 0, 1, 2))
    run.now = 1.1
    (close,) = closes(run, run.hear(e.Beat(3), e.Beat(4), e.Tick()))
    assert (close.streams, close.late) == ((0, 1, 2), ())
    assert run.core.state.owed == {3} and run.core.state.low == 3
    (close,) = closes(run, accept(run, 3, 4, 5, 6, 7))
    assert (close.step, close.streams, close.late) == (1, (0, 1, 2, 3), (3,))
    assert run.core.state.totals.units == 8 and not run.core.state.owed and run.core.state.low == 8


def test_what_a_later_step_has_settled_is_not_computed_again() -> None:
    """Though a unit before it is owed still."""
    run = Run(mode=QUORUM).begin()
    holder = {n: lease.holder for lease in run.core.state.leases.values() for n in lease.span}
    accept(run, *(n for n in (1, 2, 3)))
    run.now = 1.1
    run.hear(e.Beat(3), e.Beat(4), e.Tick())
    accept(run, 4, 5, 6, 7)
    run.hear(e.BeatsEnded(holder[0]))
    run.now = 2.1
    run.hear(e.Beat(7 - holder[0]), e.Tick())
    run.hear(*(e.WorkerRetired(shard, holder[0]) for shard in range(2)))
    leased = sorted(
        n for spans in run.held().values() for s in spans for n in range(*s) if n < 8 and n in (0, 4)
    )
    assert run.core.state.owed == {0} and leased == [0]


def test_the_run_ends_only_with_its_late_units() -> None:
    run = Run(mode=QUORUM, steps=2).begin()
    accept(run, 0, 1, 2)
    run.now = 1.1
    run.hear(e.Beat(3), e.Beat(4), e.Tick())
    run.settle(0)
    assert not closes(run, accept(run, 4, 5, 6, 7))
    (close,) = closes(run, accept(run, 3))
    assert close.final and close.late == (3,)


# --- broken lines, early orders


def test_a_drained_worker_that_attends_again_before_the_run_began_is_told_again() -> None:
    run = Run(mode=ASYNC)
    worker = run.join("w0").incarnation
    run.hear(e.DrainAsked("k", "w0"))
    (told,) = run.only(a.Tell, run.hear(e.Attending(worker)))
    assert isinstance(told.order, a.End) and "before the run began" in told.order.reason


def test_who_goes_before_the_run_began_is_not_retired() -> None:
    """Nobody had a plan, so nobody can push; and a server without its shard would refuse."""
    run = Run()
    for i in range(2):
        run.declare(run.join(f"w{i}").incarnation)
    run.hear(e.Beat(3), e.Beat(4), e.BeatsEnded(4))
    run.now = 1.0
    gone = run.hear(e.Beat(3), e.Tick())
    again = run.hear(e.ShardAttached(0, 1, False, 0))
    assert [c.command for c in run.only(a.Command, [*gone, *again])] == [a.ConfigureShard()]


def test_a_shard_that_comes_back_is_told_what_it_missed_in_order() -> None:
    run = switched(EXACT, ASYNC)
    run.hear(e.StepSettled(0, 0))
    again = run.only(a.Command, run.hear(e.ShardAttached(1, 2, True, 0, 0)))
    assert [type(c.command) for c in again] == [a.CloseStep]
    run.hear(e.StepSettled(1, 0))
    again = run.only(a.Command, run.hear(e.ShardAttached(1, 2, True, 1, 0)))
    assert [c.command for c in again] == [a.BeginSegment(1, 1, elastic=True, arrival=True)]
