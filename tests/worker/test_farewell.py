"""A worker that leaves an elastic segment: it settles, pushes what it holds back, and says so."""

from __future__ import annotations

import numpy as np
import pytest

from tests.worker.toy import Pushed, Worker, worker
from wire.clock import ManualClock
from wire.codec.chain import FLUSH
from worker.farewell import SETTLE_S
from worker.leases import Lease
from worker.mailbox import End, Flushed, Mailbox, Plan
from worker.streams import Kind


def plan(
    number: int,
    *leases: Lease,
    segment: int = 0,
    begins: int = 0,
    leave: bool = False,
    ahead: int | None = None,
) -> Plan:
    return Plan((), 10, number, segment, True, leases, ahead, False, begins, leave)


def mailbox(w: Worker) -> Mailbox:
    return w.attached.transfer.mailbox


def tell(w: Worker, told: Plan) -> None:
    mailbox(w).put_plan(told)


def turn(w: Worker) -> Kind:
    return w.driver._turn().kind


def computed(w: Worker, count: int) -> list[Pushed]:
    """Compute so many units; their pushes to shard 0."""
    for _ in range(count):
        task = w.driver._turn()
        assert task.kind is Kind.COMPUTE
        w.driver.task = task
        w.compute()
    return [p for p in w.toy.pushes if p.shard == 0]


def leaver(clock: ManualClock | None = None) -> Worker:
    """It holds three quarters of its first unit for shard 0, nothing for shard 1, and was asked to leave."""
    w = worker()
    tell(w, plan(1, Lease(1, 0, 8, 1)))
    (first,) = computed(w, 1)
    if clock is not None:
        w.driver._segment._farewell._clock = clock  # type: ignore[union-attr]
    tell(w, plan(2, Lease(1, 0, 0, 1), leave=True))
    assert turn(w) is Kind.WAIT and not w.toy.rests, "the outcome of its unit is not known"
    w.toy.publish(0, [(first, 0.25)], clock=0)
    return w


def second(w: Worker) -> Pushed:
    """What shard 1 has of the first unit."""
    return next(p for p in w.toy.pushes if p.shard == 1)


def settled(w: Worker) -> Worker:
    w.toy.publish(1, [(second(w), 1.0)], clock=0)
    return w


def rest(w: Worker) -> list[float]:
    """The first parameter's part of what was pushed last."""
    (pushed,) = w.toy.rests
    plane = np.zeros_like(w.toy.shards[0].x)
    FLUSH.add(pushed.frame, plane, w.toy.shards[pushed.shard].blocks)
    return [float(v) for v in plane[0, :4]]


def test_what_it_holds_is_pushed_and_told_once_all_is_settled() -> None:
    w = settled(leaver())
    assert turn(w) is Kind.WAIT
    (pushed,) = w.toy.rests
    assert (pushed.shard, pushed.segment, rest(w)) == (0, 0, [0.75] * 4)
    assert pushed.commit.learning_rates == (1.0,) and pushed.commit.samples == 0
    assert not w.toy.told("flushed") and w.toy.told("progress")[-1]["residual_norm"] == pytest.approx(1.5)
    mailbox(w).put_flushed(0, Flushed.TAKEN)
    assert turn(w) is Kind.WAIT
    assert w.toy.told("flushed") == [{"segment": 0, "residual_norm": 0.0}]
    assert w.toy.told("progress")[-1]["residual_norm"] == 0.0
    tell(w, plan(3, Lease(1, 0, 0, 1), leave=True))
    assert turn(w) is Kind.WAIT and len(w.toy.rests) == len(w.toy.told("flushed")) == 1


def test_who_holds_nothing_only_says_so() -> None:
    w = worker()
    tell(w, plan(1, leave=True))
    assert turn(w) is Kind.WAIT
    assert not w.toy.rests and w.toy.told("flushed") == [{"segment": 0, "residual_norm": 0.0}]


def test_units_that_the_plan_still_names_come_first() -> None:
    """One that stands on a shard already was begun by another worker: it must be finished."""
    w = worker()
    tell(w, plan(1, Lease(1, 2, 3, 1, {2: (1,)}), ahead=0, leave=True))
    assert turn(w) is Kind.WAIT and not w.toy.told("flushed"), "step 1 may not begin yet"
    tell(w, plan(2, Lease(1, 2, 3, 1, {2: (1,)}), leave=True))
    computed(w, 1)
    assert [p.shard for p in w.toy.pushes] == [1]
    w.toy.publish(1, [(w.toy.pushes[0], 1.0)])
    assert turn(w) is Kind.WAIT and len(w.toy.told("flushed")) == 1


def test_outcomes_are_waited_for_while_the_coordinator_is_away() -> None:
    """Closes wait for it, and so does being let go: what comes back afterwards could not be pushed any more."""
    clock = ManualClock()
    w = leaver(clock)
    w.attached.transfer.attended = False  # type: ignore[misc]
    for _ in range(3):
        clock.advance(2 * SETTLE_S)
        assert turn(w) is Kind.WAIT and not w.toy.rests
    w.attached.transfer.attended = True  # type: ignore[misc]
    assert turn(w) is Kind.WAIT and not w.toy.rests
    settled(w)
    assert turn(w) is Kind.WAIT and turn(w) is Kind.WAIT
    assert rest(w) == [0.75] * 4


def test_outcomes_are_not_waited_for_without_end() -> None:
    clock = ManualClock()
    w = leaver(clock)
    clock.advance(SETTLE_S - 0.1)
    assert turn(w) is Kind.WAIT and turn(w) is Kind.WAIT and not w.toy.rests
    clock.advance(SETTLE_S)
    turn(w)
    assert rest(w) == [0.75] * 4
    w.toy.publish(1, [(second(w), 0.5)])
    mailbox(w).put_flushed(0, Flushed.TAKEN)
    turn(w)
    assert w.toy.told("flushed") == [{"segment": 0, "residual_norm": pytest.approx(1.0)}], (
        "four halves came too late"
    )


def test_what_is_not_known_to_be_taken_is_lost_and_told() -> None:
    w = settled(leaver())
    turn(w)
    mailbox(w).put_flushed(0, Flushed.FAILED)
    turn(w)
    assert w.toy.told("flushed") == [{"segment": 0, "residual_norm": pytest.approx(1.5)}]
    assert w.toy.told("progress")[-1]["residual_norm"] == pytest.approx(1.5)
    held = w.driver._segment.held
    assert held is not None and not held.any(), "it must not be pushed again"


@pytest.mark.parametrize(
    ("answer", "again"), [(Flushed.REFUSED, [0.75] * 4), (Flushed.TAKEN, None), (Flushed.FAILED, None)]
)
def test_what_was_refused_goes_into_the_next_segment_and_nothing_else(
    answer: Flushed, again: list[float] | None
) -> None:
    """The answer may come when the plan of the next segment is here already."""
    w = settled(leaver())
    turn(w)
    for shard in range(2):
        w.toy.publish(shard, step=0, closes=True, pause=True, clock=1)
    tell(w, plan(3, segment=1, begins=1, leave=True))
    mailbox(w).put_flushed(0, answer)
    w.toy.rests.clear()
    turn(w)
    if again is None:
        assert not w.toy.rests
        assert w.toy.told("flushed")[-1] == {"segment": 1, "residual_norm": 0.0}
    else:
        assert rest(w) == again and w.toy.rests[0].segment == 1
    assert w.driver._route.dropped_norm == pytest.approx(1.5 if answer is Flushed.FAILED else 0.0)


def test_behind_a_close_that_ends_the_segment_no_flush_begins() -> None:
    w = leaver()
    w.toy.publish(1, [(second(w), 1.0)], step=0, closes=True, pause=True, clock=1)
    w.toy.publish(0, step=0, closes=True, pause=True, clock=1)
    assert turn(w) is Kind.WAIT and not w.toy.rests and not w.toy.told("flushed")


def test_a_drained_worker_that_is_given_up_meanwhile_does_not_come_back() -> None:
    w = settled(leaver())
    turn(w)
    mailbox(w).put_end(End("silent for 5.0 s", "StaleIncarnation"))
    assert list(w.driver.tasks()) == []
    assert w.attached.rejoins == 0


def test_a_loop_that_ended_early_flushes_too() -> None:
    w = settled(leaver())
    answers = iter([Flushed.TAKEN])
    begin = w.attached.transfer.begin_flush

    def answered(shard: int, *args: object, **more: object) -> None:
        begin(shard, *args, **more)  # type: ignore[arg-type]
        mailbox(w).put_flushed(shard, next(answers))

    w.attached.transfer.begin_flush = answered  # type: ignore[method-assign, assignment]
    report = w.attached.transfer.report

    def reported(**fields: object) -> None:
        report(**fields)
        if "flushed" in fields:
            mailbox(w).put_end(End("it asked to leave and owes nothing any more", ""))

    w.attached.transfer.report = reported  # type: ignore[method-assign, assignment]
    w.driver.leave("its loop ended before the run")
    assert w.toy.told("flushed") == [{"segment": 0, "residual_norm": 0.0}]
    assert w.driver.end is not None
