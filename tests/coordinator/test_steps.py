"""When a step closes, when a checkpoint is taken, and what keeps either back."""

from __future__ import annotations

import pytest

from coordinator import actions as a
from coordinator import events as e
from coordinator import records as r
from coordinator.pace import Standing, SyncPace
from tests.coordinator.runs import Run
from wire.ids import UnitId
from wire.messages import BAD_UNIT, Commit


def closes(run: Run, actions: list[a.Action]) -> list[r.Closed]:
    return [j.record for j in run.only(a.Journal, actions) if isinstance(j.record, r.Closed)]


def test_the_sync_pace_says_what_it_waits_for() -> None:
    accepted = {0: {0, 1}, 2: {1}}
    decision, reason = SyncPace().decide(Standing(7, 3, 2, accepted))
    assert decision is None and reason == "step 7 waits for streams [1, 2]"
    accepted |= {1: {0, 1}, 2: {0, 1}}
    assert SyncPace().decide(Standing(7, 3, 2, accepted))[0] == (0, 1, 2)


def test_the_accounts_of_a_step() -> None:
    run = Run().begin()
    run.accept(0, 0, loss=1.0)
    run.accept(0, 1, loss=3.0)
    run.accept(0, 2, empty_reason="epoch_end", samples=0, tokens=0, loss=0.0)
    (closed,) = closes(run, run.accept(0, 3, loss=5.0))
    assert (closed.empty, closed.samples, closed.tokens, closed.loss) == (1, 24, 192, 3.0)
    assert (run.core.state.totals.units, run.core.state.totals.empty) == (3, 1)


def test_a_step_of_empty_units_has_no_loss() -> None:
    run = Run().begin()
    (closed,) = closes(run, run.accept(0, 0, 1, 2, 3, empty_reason="epoch_end"))
    assert closed.loss is None and closed.empty == 4


def test_units_of_other_steps_count_for_nothing() -> None:
    run = Run().begin()
    assert run.accept(1, 0, 1, 2, 3) == []
    run.accept(0, 0, 1, 2, 3)
    assert run.accept(0, 0, 1, 2, 3) == [] and run.core.state.open_step == 1


def test_a_close_that_a_shard_missed_is_sent_again() -> None:
    run = Run().begin()
    run.accept(0, 0, 1, 2, 3)
    (again,) = run.only(a.Command, run.hear(e.ShardAttached(1, 2, True, 0)))
    assert again == a.Command(1, a.CloseStep(0, (0, 1, 2, 3), False, False, 0))
    assert run.only(a.Command, run.hear(e.ShardAttached(1, 2, True, 1))) == []


def test_learning_rates_that_disagree_end_the_run_before_the_close() -> None:
    run = Run().begin()
    run.accept(0, 0, 1, 2)
    actions = run.accept(0, 3, learning_rates=(0.2,))
    assert closes(run, actions) == []
    assert run.core.state.ended is not None and run.core.state.ended.error == "ModelMismatch"
    assert "stream 3 [0.2]" in run.core.state.ended.reason


def test_empty_units_have_no_say_on_learning_rates() -> None:
    run = Run().begin()
    run.accept(0, 0, empty_reason="epoch_end", learning_rates=(9.0,))
    assert closes(run, run.accept(0, 1, 2, 3))


@pytest.mark.parametrize("second", [{"learning_rates": (0.2,)}, {"empty_reason": f"{BAD_UNIT}NaN"}])
def test_a_unit_that_is_torn_between_two_attempts_is_not_settled(second: dict[str, object]) -> None:
    """The dead worker's frame stands on one shard, its heir's on the other: they must mean the same."""
    run = Run().begin()
    run.accept(0, 0, shards=(0,))
    run.accept(0, 0, shards=(1,), **second)
    assert run.core.state.ended is not None and "stream 0" in run.core.state.ended.reason


@pytest.mark.parametrize(("policy", "final"), [("skip", False), ("stop", True)])
def test_bad_units(policy: str, final: bool) -> None:
    run = Run(on_bad_unit=policy).begin()
    run.accept(0, 0, 1, 2)
    actions = run.accept(0, 3, empty_reason=f"{BAD_UNIT}loss is NaN")
    (closed,) = closes(run, actions)
    assert closed.final is final and closed.empty == 1
    assert any(n.event == "bad_unit" for n in run.only(a.Note, actions))
    assert (run.core.state.stopping is not None) is final
    if final:
        assert run.core.state.stopping == r.Stopping("step 0: loss is NaN", "BadUnit")


def checkpointing() -> Run:
    """Step 0 is closed, a checkpoint of version 1 is due."""
    run = Run(checkpoint_every=1).begin()
    run.accept(0, 0, 1, 2, 3)
    return run


def test_a_checkpoint_waits_for_every_deposit_and_every_shard() -> None:
    run = checkpointing()
    run.hear(e.StepSettled(0, 0))
    actions = run.deposit(1)
    assert run.only(a.WriteCheckpoint, actions) == []
    assert run.only(a.WriteCheckpoint, run.hear(e.StepSettled(1, 0))) == [a.WriteCheckpoint(1)]
    assert run.only(a.WriteCheckpoint, run.hear(e.Tick())) == []


def test_the_next_close_waits_for_the_checkpoint() -> None:
    run = checkpointing()
    assert closes(run, run.accept(1, 0, 1, 2, 3)) == []
    run.hear(e.StepSettled(0, 0), e.StepSettled(1, 0))
    run.deposit(1)
    assert closes(run, run.hear(e.CheckpointWritten(1, "p", "x", "y")))
    assert run.core.state.checkpointed == r.Checkpointed(1, "p", "x", "y")


def test_a_stop_while_a_checkpoint_is_written_ends_with_the_open_step() -> None:
    run = checkpointing()
    run.hear(e.StepSettled(0, 0), e.StepSettled(1, 0))
    run.deposit(1)
    run.hear(e.StopAsked("s", "why"))
    run.accept(1, 0, 1, 2, 3)
    (closed,) = closes(run, run.hear(e.CheckpointFailed(1, "disk full")))
    assert closed.final and closed.deposit


def test_the_last_checkpoint_that_fails_is_an_error() -> None:
    run = Run(steps=1).begin()
    run.accept(0, 0, 1, 2, 3)
    run.hear(e.CheckpointFailed(1, "disk full"))
    assert run.core.state.ended is not None and "disk full" in run.core.state.ended.reason


def test_the_streams_that_the_run_waits_for() -> None:
    run = checkpointing()
    assert run.core.work.steps.owed() == {0, 1, 2, 3}
    run.hear(*(e.StreamDeposited(3 + s // 2, s, 1, False) for s in range(3)))
    run.accept(1, 1, 2, 3)
    assert run.core.work.steps.owed() == {0, 3}, "0 owes its unit, 3 its deposit"
    run.hear(e.StreamDeposited(4, 3, 1, False))
    run.accept(1, 0)
    assert run.core.work.steps.owed() == set()


# --- where units lag --------------------------------------------------------------------------

DELAYED = r.Switching("delayed", None, None, 1.0)


def delayed(**changes: object) -> Run:
    return Run(mode=DELAYED, **({"stream_state_every": 50} | changes)).begin()  # type: ignore[arg-type]


def closed(run: Run, step: int) -> r.Closed:
    (record,) = closes(run, run.accept(step, 0, 1, 2, 3))
    assert record.step == step
    run.settle(step)
    return record


def test_units_of_the_next_step_are_kept_until_their_turn() -> None:
    run = delayed()
    assert closes(run, run.accept(1, 0, 1, 2, 3)) == []
    assert closes(run, run.accept(2, 0)) == [], "that one cannot have been computed yet"
    assert run.core.work.steps.standing_on(0) == {4, 5, 6, 7}
    assert [c.step for c in closes(run, run.accept(0, 0, 1, 2, 3))] == [0]
    assert run.core.work.steps.standing_on(0) == {4, 5, 6, 7}
    assert [c.step for c in closes(run, run.settle(0))] == [1]
    assert run.core.work.steps.standing_on(0) == set()


def test_a_shard_misses_one_close_at_most() -> None:
    """Its line may break behind each command: the next close waits until all have settled the one before."""
    run = delayed()
    run.accept(1, 0, 1, 2, 3)
    run.accept(0, 0, 1, 2, 3)
    assert closes(run, run.hear(e.StepSettled(0, 0))) == [], "shard 1 may not have heard of it"
    assert "closed on every shard" in run.core.work.waits_for
    heard = run.core.work.steps.standing_on(1)
    held = tuple(
        e.UnitAccepted(1, UnitId(1, *divmod(n, 4)), 0, 3, Commit("", 8, 64, 2.0, 1.0, (0.1,))) for n in heard
    )
    again = run.only(a.Command, run.hear(e.ShardAttached(1, 2, True, 0, 0, held)))
    assert [c.command.step for c in again if isinstance(c.command, a.CloseStep)] == [0]
    assert [c.step for c in closes(run, run.hear(e.StepSettled(1, 0)))] == [1]


def test_deposits_are_announced_two_closes_before() -> None:
    run = delayed(stream_state_every=4)
    told = [closed(run, step) for step in range(6)]
    assert [c.drain for c in told] == [False, False, True, False, False, False]
    assert [c.deposit for c in told] == [False, False, False, True, False, False]
    assert [c.staleness for c in told] == [((0, 4),), *[((1, 4),)] * 3, ((0, 4),), ((1, 4),)]


def test_the_second_step_needs_no_announcement() -> None:
    run = delayed(stream_state_every=1)
    assert [closed(run, step).deposit for step in range(3)] == [True, True, True]
    assert run.core.state.drained == [2, 3, 4]


def test_the_plan_tells_what_was_announced() -> None:
    run = delayed(stream_state_every=5)
    for step in range(4):
        closed(run, step)
    plan = run.plans(run.hear(e.Attending(3)))[3]
    assert (plan.lag, plan.drained) == (1, (5,))
    plan = delayed(stream_state_every=1).plans(run.hear(e.Attending(3)))[3]
    sync = Run().begin()
    assert sync.plans(sync.hear(e.Attending(3)))[3].drained == ()


@pytest.mark.parametrize(
    "ask",
    [e.StopAsked("", "why"), e.CheckpointAsked("k"), e.SetAsked("", r.Switching("sync", None, None, 1.0))],
)
def test_what_is_asked_for_happens_a_step_later(ask: e.Event) -> None:
    run = delayed()
    closed(run, 0)
    run.hear(ask)
    first = closed(run, 1)
    assert first.drain and not (first.final or first.pause or first.checkpoint or first.deposit)
    second = closed(run, 2)
    assert second.deposit and not second.drain and (second.final or second.pause or second.checkpoint)


def test_a_stop_tells_the_step_that_it_comes_with() -> None:
    run = delayed(stream_state_every=4)
    closed(run, 0)
    assert run.answer(run.hear(e.StopAsked("", "why"))) == a.Stopped(2)
    run = delayed(stream_state_every=2)
    assert closed(run, 0).drain
    assert run.answer(run.hear(e.StopAsked("", "why"))) == a.Stopped(1), "a boundary is on its way"
    assert closed(run, 1).final


def test_a_mode_that_is_set_back_before_the_boundary_ends_nothing() -> None:
    run = delayed()
    closed(run, 0)
    run.hear(e.SetAsked("", r.Switching("sync", None, None, 1.0)))
    assert closed(run, 1).drain
    run.hear(e.SetAsked("", DELAYED))
    assert not closed(run, 2).pause and not closed(run, 3).drain


def test_from_one_exact_segment_to_the_next_streams_keep_their_state() -> None:
    run = Run(stream_state_every=50).begin()
    closed(run, 0)
    run.hear(e.SetAsked("", DELAYED))
    pausing = closed(run, 1)
    assert pausing.pause and pausing.deposit
    assert run.core.state.segment.number == 0, "their deposits are waited for"
    actions = run.hear(*(e.StreamDeposited(3 + s // 2, s, 2, False) for s in range(4)))
    (begin, _) = [c.command for c in run.only(a.Command, actions) if isinstance(c.command, a.BeginSegment)]
    assert begin == a.BeginSegment(1, 2, elastic=False, arrival=False, lag=1)
    plan = run.plans(run.hear(*(e.SegmentBegun(shard, 1) for shard in range(2))))[3]
    assert {s.deposit for s in plan.assignments} == {2} and not plan.drained
    assert [closed(run, step).drain for step in (2, 3)] == [False, False]
