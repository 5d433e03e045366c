"""A coordinator that comes back: what it says again, what it asks first, and whom it waits for."""

from __future__ import annotations

from typing import Any

from coordinator import actions as a
from coordinator import events as e
from coordinator import records as r
from coordinator.core import Core
from coordinator.membership import FIRST_BEAT_GRACE_S
from coordinator.state import State
from tests.coordinator.ground import EXACT, beginning
from tests.coordinator.runs import Run
from wire.ids import UnitId
from wire.messages import Commit

ASYNC = r.Switching("async", None, None, 1.0)
COMMIT = Commit("", 8, 64, 2.0, 1.0, (0.1,))


class Killed(Run):
    """A run whose coordinator is killed, and comes back with `again`."""

    def __init__(self, mode: r.Switching = EXACT, **changes: Any) -> None:
        self.journal: list[r.Record] = list(beginning(mode=mode))
        super().__init__(mode=mode, **changes)

    def hear(self, *events: e.Event) -> list[a.Action]:
        actions = super().hear(*events)
        self.journal += [action.record for action in actions if isinstance(action, a.Journal)]
        return actions

    def again(self) -> list[a.Action]:
        """What the new coordinator does first."""
        state = State(self.core.state.streams)
        self.journal.append(r.Reopened(self.core.state.term + 1, "cd"))
        for record in self.journal:
            state.apply(r.from_json(r.to_json(record)))
        self.core = Core(self.core.desk.rules, state)
        return self.core.reopen(self.now)

    def attach(self, shard: int, *accepted: e.UnitAccepted, segment: int = 0) -> list[a.Action]:
        step = self.core.state.closed
        return self.hear(e.ShardAttached(shard, shard + 1, True, step, segment, accepted))

    def ends(self, actions: list[a.Action]) -> list[tuple[int, str]]:
        tells = self.only(a.Tell, actions)
        return [(t.incarnation, t.order.error) for t in tells if isinstance(t.order, a.End)]


def accepted(shard: int, number: int, streams: int = 4) -> e.UnitAccepted:
    return e.UnitAccepted(shard, UnitId(1, *divmod(number, streams)), 0, 3, COMMIT)


def test_it_opens_the_lines_and_says_the_last_close_to_those_that_have_not_settled_it() -> None:
    run = Killed().begin()
    run.accept(0, 0, 1, 2, 3)
    assert run.again() == [a.OpenShards()]
    closes = run.only(a.Command, run.hear(e.ShardAttached(0, 1, True, 0)))
    assert [c.command.step for c in closes if isinstance(c.command, a.CloseStep)] == [0]
    assert not run.only(a.Command, run.hear(e.ShardAttached(1, 2, True, 1)))


def test_a_worker_that_tells_again_that_it_is_ready_is_told_what_it_holds() -> None:
    run = Killed().begin()
    before = {lane.stream: lane.holder for lane in run.core.state.lanes}
    run.again()
    told = run.plans(run.hear(e.Attending(3)))
    assert {s.stream for s in told[3].assignments} == {s for s, holder in before.items() if holder == 3}
    assert run.plans(run.ready(3))[3].assignments == told[3].assignments
    assert {lane.stream: lane.holder for lane in run.core.state.lanes} == before


def test_who_is_not_heard_is_waited_for() -> None:
    run = Killed().begin()
    run.now = 100.0
    run.again()
    run.hear(e.Beat(3))
    for _ in range(int(FIRST_BEAT_GRACE_S)):
        run.now += 0.9
        run.hear(e.Beat(3), e.Tick())
    assert len(run.core.state.present("worker")) == 2
    run.now = 100.1 + FIRST_BEAT_GRACE_S
    run.hear(e.Beat(3), e.Tick())
    assert [m.incarnation for m in run.core.state.present("worker")] == [3]


def test_a_fence_that_was_not_answered_is_asked_for_again() -> None:
    run = Killed().begin()
    run.hear(e.WorkerFailed(4, "ScriptFailed", "no"))
    run.hear(e.FenceAnswered(0, 0, 2, 1, False))
    run.again()
    fences = [c.command for c in run.only(a.Command, run.attach(0)) if isinstance(c.command, a.FenceStream)]
    assert [(f.stream, f.attempt) for f in fences] == [(2, 1), (3, 1)]
    assert [lane.holder for lane in run.core.state.lanes[2:]] == [0, 0]
    run.attach(1)
    run.hear(*(e.FenceAnswered(shard, 0, stream, 1, False) for shard in (0, 1) for stream in (2, 3)))
    assert [lane.holder for lane in run.core.state.lanes[2:]] == [3, 3]


def test_a_drain_outlives_the_coordinator() -> None:
    run = Killed().begin()
    run.hear(e.DrainAsked("d", "w1"))
    run.again()
    plan = run.plans(run.hear(e.Attending(4)))[4]
    assert plan.assignments and all(s.release for s in plan.assignments)


def test_leases_are_told_once_every_shard_has_told_what_it_holds() -> None:
    """A unit that one shard holds is pushed to the other one only."""
    run = Killed(ASYNC).begin()
    run.again()
    assert not run.plans(run.hear(e.Attending(3), e.Attending(4)))
    assert not run.plans(run.attach(0, accepted(0, 5)))
    plans = run.plans(run.attach(1))
    assert set(plans) == {3, 4}
    partial = [p for plan in plans.values() for lease in plan.leases for p in lease.partial]
    assert partial == [(5, (1,))]
    assert all(plan.number > 1 << 32 for plan in plans.values())


def test_a_retirement_that_was_answered_is_not_asked_for_again() -> None:
    run = Killed(ASYNC).begin()
    run.hear(e.WorkerFailed(4, "ScriptFailed", "no"))
    run.hear(e.WorkerRetired(0, 4))
    run.again()
    retire = a.RetireWorker(4)
    assert a.Command(0, retire) in run.attach(0) and a.Command(1, retire) in run.attach(1)
    run.hear(e.WorkerRetired(0, 4), e.WorkerRetired(1, 4))
    assert all(lease.holder == 3 for lease in run.core.state.leases.values())
    run.again()
    assert a.Command(0, retire) not in run.attach(0)


def test_an_end_that_not_everybody_heard_is_told_to_whoever_comes() -> None:
    run = Killed().begin()
    run.hear(e.ShardRefused(0, "ServerLost", "gone"))
    assert run.kinds(run.again()) == ["OpenShards", "Quit"]
    assert run.core.lingering()
    assert run.ends(run.hear(e.Attending(3))) == [(3, "ServerLost")]
    assert run.only(a.Command, run.attach(1)) == [a.Command(1, a.FinishShard("server 0 refuses: gone"))]
    for worker in (3, 4):
        run.hear(e.Beat(worker))
        assert run.core.lingering()
        run.hear(e.BeatsEnded(worker))
    assert not run.core.lingering()


def test_a_coordinator_that_a_server_refuses_decides_nothing_any_more() -> None:
    run = Killed().begin()
    before = len(run.journal)
    (abdicates,) = run.hear(e.Fenced(1, "it obeys term 3"))
    assert isinstance(abdicates, a.Abdicate) and "it obeys term 3" in abdicates.reason
    assert run.accept(0, 0, 1, 2, 3) == [] and run.hear(e.Attending(3)) == []
    assert len(run.journal) == before and run.core.state.ended is None


def test_what_a_worker_dropped_is_lost_once() -> None:
    run = Killed(ASYNC).begin()
    run.hear(e.Progressed(3, 0.1, 1.0, 0.1), e.Progressed(3, 0.1, 1.0, 0.3))
    run.again()
    run.hear(e.Progressed(3, 0.1, 1.0, 0.3))
    assert abs(run.core.state.totals.lost - 0.3) < 1e-12
