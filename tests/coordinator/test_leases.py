"""Leases: dealt, levelled, asked back, taken over from the dead."""

from __future__ import annotations

from collections import Counter

import pytest

from coordinator import actions as a
from coordinator import events as e
from coordinator import records as r
from coordinator.pace import SLOTS
from tests.coordinator.runs import Run
from wire.ids import UnitId
from wire.messages import Commit

ASYNC = r.Switching("async", None, None, 1.0)
SSP = r.Switching("ssp", 1, None, 1.0)


def accepted(run: Run, *numbers: int, shards: tuple[int, ...] = (0, 1), by: int = 3) -> list[a.Action]:
    told = Commit("", 8, 64, 2.0, 1.0, (0.1,))
    return run.hear(
        *(e.UnitAccepted(s, UnitId(1, *divmod(n, 4)), 0, by, told) for n in numbers for s in shards)
    )


def gone(run: Run, incarnation: int) -> list[a.Action]:
    """A worker ends; nobody has retired it yet."""
    run.hear(e.BeatsEnded(incarnation))
    run.now += 1.0
    others = run.core.crew.ready - {incarnation}
    return run.hear(*(e.Beat(i) for i in others), e.Tick())


def slots(run: Run) -> Counter[int]:
    return Counter(lease.holder for lease in run.core.state.leases.values())


# --- dealing


def test_streams_are_dealt_in_ssp_and_fine_slots_in_async() -> None:
    assert Run(mode=SSP).begin().held() == {3: [(0, 40, 4), (2, 40, 4)], 4: [(1, 40, 4), (3, 40, 4)]}
    run = Run(mode=ASYNC, steps=1000, workers_to_begin=3).begin(3)
    assert sum(slots(run).values()) == SLOTS and max(slots(run).values()) - min(slots(run).values()) <= 1


def test_a_plan_is_the_whole_of_what_a_worker_holds() -> None:
    run = Run(mode=SSP)
    for name in ("w0", "w1"):
        run.declare(run.join(name).incarnation)
    run.configure()
    run.hear(e.Uploaded(3))
    run.ready(3)
    plans = run.plans(run.ready(4))
    assert {w: [o.span.start for o in p.leases] for w, p in plans.items()} == {3: [0, 2], 4: [1, 3]}
    assert all(p.elastic and p.ahead == 1 and p.total_steps == 10 for p in plans.values())
    assert [p.first for p in plans.values()] == [True, False]


# --- levelling


def run_unevenly(seconds: dict[int, float], *, rounds: int = 12) -> Run:
    """An async run whose workers tell these times, and answer each plan having begun nothing new."""
    run = Run(mode=ASYNC, steps=100_000, workers_to_begin=len(seconds)).begin(len(seconds))
    for _ in range(rounds):
        run.now += 6.0
        told = (e.Progressed(w, s) for w, s in seconds.items())
        actions = run.hear(*(e.Beat(w) for w in seconds), *told, e.Tick())
        while plans := run.plans(actions):
            actions = [action for w, plan in plans.items() for action in run.hold(w, plan)]
    return run


@pytest.mark.parametrize("times", [(1.0, 1.0, 4.0), (1.0, 2.0, 3.0), (0.2, 0.2, 0.2), (5.0, 1.0)])
def test_slots_go_to_the_workers_as_fast_as_these_are(times: tuple[float, ...]) -> None:
    run = run_unevenly({3 + i: s for i, s in enumerate(times)})
    rate = sum(1 / s for s in times)
    fair = {3 + i: SLOTS / s / rate for i, s in enumerate(times)}
    # Nothing moves while the first is done within 85% of the last one's time.
    assert all(abs(slots(run)[w] - want) <= 2 + 0.15 * want for w, want in fair.items()), (slots(run), fair)


def test_one_to_one_to_four_is_levelled_to_a_slot_or_two() -> None:
    """The slow one does not hold the others' data back, and they do not wait for it."""
    shares = slots(run_unevenly({3: 1.0, 4: 1.0, 5: 4.0}))
    assert sum(shares.values()) == SLOTS
    assert abs(shares[5] - SLOTS / 9) <= 2 and abs(shares[3] - shares[4]) <= 3


def test_a_joiner_gets_its_share_at_once() -> None:
    run = Run(mode=ASYNC, steps=1000).begin(2)
    joined = run.join("w9").incarnation
    run.declare(joined)
    run.hear(e.Beat(joined))
    actions = run.ready(joined)
    for worker, plan in run.plans(actions).items():
        run.hold(worker, plan)
    assert abs(slots(run)[joined] - SLOTS / 3) <= 2


# --- asking back


def test_what_is_given_back_is_dealt_from_the_unit_that_was_not_begun() -> None:
    run = Run(mode=SSP).begin()
    asked = run.plans(run.hear(e.WorkerLeaving(3, "SIGTERM")))[3]
    assert [(o.span.start, bool(o.span)) for o in asked.leases] == [(0, False), (2, False)], (
        "it ends where it began"
    )
    run.hear(e.Holding(3, asked.number, ((1, 4), (3, 6))))
    assert run.held() == {3: [(0, 4, 4), (2, 6, 4)], 4: [(1, 40, 4), (3, 40, 4), (4, 40, 4), (6, 40, 4)]}


def test_an_answer_to_an_older_plan_gives_nothing_back() -> None:
    run = Run(mode=SSP)
    run.begin()
    older = run.plans(run.hear(e.Attending(3)))[3]
    asked = run.plans(run.hear(e.WorkerLeaving(3, "SIGTERM")))[3]
    assert run.hold(3, older, 0) == [] and run.held()[3] == [(0, 40, 4), (2, 40, 4)]
    assert run.hold(3, asked, 8) != [] and run.held()[3] == [(0, 8, 4), (2, 10, 4)]


def test_a_leaver_is_let_go_when_all_that_it_began_stands_everywhere_and_it_flushed() -> None:
    run = Run(mode=SSP).begin()
    asked = run.plans(run.hear(e.WorkerLeaving(3, "SIGTERM")))[3]
    run.hear(e.Holding(3, asked.number, ((1, 4), (3, 2))), e.Flushed(3, 0, 0.0))
    assert not run.only(a.Tell, accepted(run, 0, shards=(0,)))
    (told,) = run.only(a.Tell, accepted(run, 0, shards=(1,)))
    assert told.incarnation == 3 and isinstance(told.order, a.End) and not told.order.error


# --- the dead


def test_the_dead_are_retired_before_their_units_are_dealt_again() -> None:
    run = Run(mode=SSP).begin()
    assert {type(c.command) for c in run.only(a.Command, gone(run, 4))} == {a.RetireWorker}
    assert run.held()[3] == [(0, 40, 4), (2, 40, 4)]
    run.hear(e.WorkerRetired(0, 4), e.WorkerRetired(0, 4))
    assert 4 in run.held()
    run.hear(e.WorkerRetired(1, 4))
    assert sorted(run.held()[3]) == [(0, 40, 4), (1, 40, 4), (2, 40, 4), (3, 40, 4)] and 4 not in run.held()


def test_the_heir_sends_only_where_a_unit_is_missing() -> None:
    run = Run(mode=SSP).begin()
    accepted(run, 1, by=4)
    accepted(run, 5, shards=(1,), by=4)
    accepted(run, 3, shards=(0,), by=4)
    gone(run, 4)
    plan = run.plans(run.hear(e.WorkerRetired(0, 4), e.WorkerRetired(1, 4)))[3]
    assert {o.span.start: o.partial for o in plan.leases}[5] == ((5, (0,)),)
    assert {o.span.start: o.partial for o in plan.leases}[3] == ((3, (1,)),)
    assert sorted(n for o in plan.leases for n in o.span) == [n for n in range(40) if n != 1]


def test_leases_of_the_dead_wait_for_a_worker() -> None:
    run = Run(mode=SSP).begin()
    for worker in (3, 4):
        gone(run, worker)
        run.hear(e.WorkerRetired(0, worker), e.WorkerRetired(1, worker))
    assert not run.core.state.leases and sum(v.count for v in run.core.state.vacant) == 40
    joined = run.join("w9").incarnation
    run.declare(joined)
    run.ready(joined)
    assert sorted(n for s in run.held()[joined] for n in range(*s)) == list(range(40))
