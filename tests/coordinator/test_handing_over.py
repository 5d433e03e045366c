"""What a worker keeps beside the parameters is handed over at the boundaries of elastic segments, before they count."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator import actions as a
from coordinator import events as e
from coordinator import records as r
from tests.coordinator.ground import EXACT, began
from tests.coordinator.runs import Run
from tests.coordinator.test_elastic import ASYNC, QUORUM, SSP, accept, answer, closes, records


def standing(mode: r.Switching, *, to: r.Switching | None = None, keeps: bool = True, **changes: Any) -> Run:
    """A run at its first boundary, before step 1: for a checkpoint, or at the end of a segment."""
    run = Run(mode=mode, **changes)
    for i in range(2):
        run.declare(run.join(f"w{i}").incarnation)
    run.configure()
    run.hear(e.Uploaded(3))
    for worker in (3, 4):
        run.hear(e.Beat(worker))
        run.ready(worker, keeps=keeps)
    asked = run.hear(e.SetAsked("k", to) if to else e.CheckpointAsked("k"))
    actions = [*answer(run, asked, 1), *accept(run, *range(4))]
    assert [close.step for close in closes(run, actions)] == [0]
    return run


def asked_of(run: Run, actions: list[a.Action]) -> dict[int, int | None]:
    return {worker: plan.hand_over for worker, plan in run.plans(actions).items()}


def written(run: Run, actions: list[a.Action]) -> list[a.WriteCheckpoint]:
    return run.only(a.WriteCheckpoint, actions)


@pytest.mark.parametrize("mode", [SSP, ASYNC, QUORUM])
def test_a_checkpoint_waits_for_whoever_evaluates(mode: r.Switching) -> None:
    run = standing(mode)
    assert not written(run, run.hear(e.StepSettled(0, 0)))
    actions = run.hear(e.StepSettled(1, 0))
    assert asked_of(run, actions) == {3: 1} and not written(run, actions)
    assert run.core.work.owing() == {3}
    actions = run.hear(e.HandedOver(3, 1))
    assert records(actions, r.HandedOver) == [r.HandedOver(1)]
    assert written(run, actions) == [a.WriteCheckpoint(1)]
    kinds = run.kinds(actions)
    assert kinds.index("Journal") < kinds.index("WriteCheckpoint")
    run.hear(e.CheckpointWritten(1, "step-1", "x", "p"))
    assert not records(run.hear(e.HandedOver(3, 1)), r.HandedOver), "a repeat"
    assert asked_of(run, run.hear(e.Attending(3))) == {3: None}, "the run goes on"


def test_nothing_is_waited_for_where_nothing_is_kept() -> None:
    run = standing(ASYNC, keeps=False)
    actions = run.settle(0)
    assert written(run, actions) == [a.WriteCheckpoint(1)]
    assert not any(step for step in asked_of(run, actions).values())


def test_another_one_hands_over_where_the_first_is_gone() -> None:
    run = standing(SSP)
    assert asked_of(run, run.settle(0)) == {3: 1}
    run.hear(e.BeatsEnded(3))
    run.now += 1.0
    actions = run.hear(e.Beat(4), e.Tick())
    assert asked_of(run, actions)[4] == 1 and not written(run, actions)
    assert written(run, run.hear(e.HandedOver(4, 1))) == [a.WriteCheckpoint(1)]


def test_with_nobody_left_the_checkpoint_is_written_without() -> None:
    run = standing(SSP)
    run.settle(0)
    run.hear(e.BeatsEnded(3), e.BeatsEnded(4))
    run.now += 1.0
    assert written(run, run.hear(e.Tick())) == [a.WriteCheckpoint(1)]


def test_it_is_asked_again_on_a_new_line() -> None:
    run = standing(SSP)
    run.settle(0)
    assert asked_of(run, run.hear(e.Attending(3))) == {3: 1}


@pytest.mark.parametrize("to", [EXACT, SSP])
def test_a_segment_begins_with_what_was_handed_over(to: r.Switching) -> None:
    run = standing(ASYNC, to=to)
    assert not records(run.settle(0), r.Segment)
    assert run.core.state.handed_here is None
    assert len(records(run.hear(e.HandedOver(3, 1)), r.Segment)) == 1
    assert run.core.state.handed_here == 1


def test_what_was_handed_over_long_ago_begins_no_exact_segment() -> None:
    """Only what is of the segment's first step is what its first units follow on."""
    state = began(4, first_step=2, mode=EXACT)
    state.handed = 1
    assert state.handed_here is None
    state.handed = 2
    assert state.handed_here == 2
    state.handed = 3
    assert state.handed_here is None


def test_a_run_that_resumes_begins_with_it_as_its_journal_says() -> None:
    state = began(4, first_step=0, mode=ASYNC)
    state.apply(r.Began("r", 2, 1, "n", first_step=8, checkpoint="c", handed=True))
    state.apply(r.Segment(0, 8, "async", None, None, 1.0))
    assert state.handed_here == 8
    state.apply(r.HandedOver(12))
    assert state.handed_here == 12
