"""The run's life: strangers, bad news, the end. Scripts tell the rest (tests/scenarios)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from coordinator import actions as a
from coordinator import events as e
from coordinator import records as r
from tests.coordinator.runs import Run
from wire.errors import DamagedFile, RunOver, SparsyncError, StaleIncarnation


def test_the_coordinator_stays_light() -> None:
    """Resident memory ≤ 120 MB: the deciding code brings neither torch nor numba nor numpy."""
    heavy = ["torch", "numba", "numpy"]
    code = f"import coordinator.core, sys; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_incarnations_are_never_given_twice() -> None:
    run = Run()
    first = run.join("w").incarnation
    run.hear(e.BeatsEnded(first))
    run.now = 1.0
    run.hear(e.Tick())
    assert run.join("w").incarnation == first + 1 == 4


@pytest.mark.parametrize("event", [e.Attending, e.Progressed, e.WorkerLeaving, e.WorkerFailed, e.Ready])
def test_who_is_out_of_the_run_is_told_so(event: type) -> None:
    run = Run().begin()
    rest = {e.Progressed: (1.0,), e.WorkerLeaving: ("",), e.WorkerFailed: ("ScriptFailed", "")}
    arguments = rest.get(event, (1, "d", 2, 1, True, 0) if event is e.Ready else ())
    before = run.core.state.ended
    with pytest.raises(StaleIncarnation, match="never joined"):
        run.hear(event(99, *arguments))
    assert run.core.state.ended == before


# --- heartbeats


def flushing() -> Run:
    """A worker that leaves has had its ten seconds to flush, and both beat: whatever is handled whole lets it go."""
    run = Run(mode=r.Switching("ssp", 1, None, 1.0)).begin()
    plan = run.plans(run.hear(e.WorkerLeaving(3, "SIGTERM")))[3]
    run.hold(3, plan, 0)
    while run.now < 10.0:
        run.now += 0.5
        run.hear(e.Beat(3), e.Beat(4))
    run.now += 0.1
    return run


def let_go(actions: list[a.Action]) -> bool:
    return any(isinstance(x, a.Tell) and isinstance(x.order, a.End) for x in actions)


def test_a_heartbeat_like_those_before_it_decides_nothing_and_time_is_left_to_the_tick() -> None:
    run = flushing()
    assert run.hear(e.Beat(3), e.Beat(4)) == []
    assert let_go(run.hear(e.Tick()))


def by_nobody(run: Run) -> e.Event:
    return e.Beat(99)


def by_a_newcomer(run: Run) -> e.Event:
    run.core.liveness.expect(5, run.now)
    return e.Beat(5)


def by_one_on_another_line(run: Run) -> e.Event:
    return e.Beat(4, line=1)


def by_one_whose_line_had_ended(run: Run) -> e.Event:
    run.core.liveness.close(4, run.now, line=0)
    return e.Beat(4)


def by_a_suspect(run: Run) -> e.Event:
    run.now += run.core.desk.rules.suspect_s + 0.1
    assert 4 in run.core.liveness.suspects(run.now)
    return e.Beat(4)


@pytest.mark.parametrize(
    "beat", [by_nobody, by_a_newcomer, by_one_on_another_line, by_one_whose_line_had_ended, by_a_suspect]
)
def test_a_heartbeat_by_which_something_is_learned_goes_the_whole_way(
    beat: Callable[[Run], e.Event],
) -> None:
    run = flushing()
    assert let_go(run.hear(beat(run)))


def test_heartbeats_keep_alive_who_sends_them_and_nobody_else() -> None:
    run = Run().begin()
    for _ in range(100):
        run.now += 0.1
        run.hear(e.Beat(3), e.Tick())
    members = run.core.state.members
    assert members[3].present and members[4].dead
    assert "silent for" in members[4].gone


def test_whose_state_moves_is_neither_a_straggler_nor_stuck() -> None:
    """Two workers owe units; one of them tells that its state is on its way."""
    run = Run().begin()
    limit = run.core.desk.rules.progress_timeout_s
    for _ in range(int(limit) + 2):
        run.now += 1.0
        run.hear(e.Beat(3), e.Beat(4), e.Moving(3), e.Tick())
    members = run.core.state.members
    assert members[3].present and members[4].dead
    assert "no progress for" in members[4].gone


# --- the end


def test_a_server_started_anew_has_lost_its_shard() -> None:
    run = Run().begin()
    run.hear(e.ShardAttached(1, 77, False, 0))
    assert run.core.state.ended is not None and run.core.state.ended.error == "ServerLost"


@pytest.mark.parametrize(("joined", "there"), [((), "none"), (("w1", "w0"), "w0, w1")])
def test_who_is_to_be_drained_and_is_not_there_is_named_beside_those_who_are(
    joined: tuple[str, ...], there: str
) -> None:
    run = Run()
    for name in joined:
        run.join(name)
    refusal = run.answer(run.hear(e.DrainAsked("k", "w9")))
    assert str(refusal) == f"no worker named 'w9' is in the run; there are {there}"


def test_a_worker_that_fails_alone_is_a_death() -> None:
    run = Run().begin()
    run.hear(e.WorkerFailed(3, "ScriptFailed", "boom"))
    assert run.core.state.ended is None and run.core.state.members[3].dead


def test_nobody_joins_what_is_over() -> None:
    run = Run().begin()
    run.hear(e.ShardRefused(0, "DamagedFile", "disk"))
    assert isinstance(run.join("late"), RunOver)
    assert run.hear(e.Tick(), e.Progressed(3, 1.0)) == []


def test_who_declares_too_late_learns_how_it_ended() -> None:
    run = Run().begin()
    run.hear(e.ShardRefused(0, "DamagedFile", "disk"))
    (answer,) = run.only(a.Answer, run.declare(3))
    assert isinstance(answer.value, DamagedFile) and answer.key == "d3"


def test_a_shard_whose_line_broke_at_the_end_is_told_to_finish() -> None:
    run = Run().begin()
    run.hear(e.StopAsked("s", "why"))
    assert run.hear(e.ShardAttached(1, 2, True, 0)) == [
        a.Command(1, a.FinishShard("stopped before the first closed step: why"))
    ]


@pytest.mark.parametrize("asked_before", [False, True])
def test_a_run_whose_workers_are_gone_before_the_last_deposits_can_be_ended(*, asked_before: bool) -> None:
    run = Run().begin()
    last = run.core.state.dataset
    assert last is not None
    for step in range(last.total_steps):
        run.accept(step, 0, 1, 2, 3)
        run.settle(step)
    assert run.core.state.final and not run.core.state.deposited
    if asked_before:
        run.hear(e.StopAsked("", "first"))
    run.hear(*(e.WorkerFailed(worker, "Unreachable", "gone") for worker in (3, 4)))
    assert run.core.state.ended is None, "they may come back"
    run.hear(e.StopAsked("", "why"))
    assert run.core.state.ended == r.Ended(
        "stopped without a worker to take a last checkpoint with: why", "Interrupted"
    )


def test_who_waits_when_the_run_ends_gets_the_error() -> None:
    run = Run()
    run.join("w")
    run.declare(3)
    actions = run.hear(e.StopAsked("s", "why"))
    (answer,) = [x for x in run.only(a.Answer, actions) if x.key == "d3"]
    assert isinstance(answer.value, SparsyncError) and "before the first closed step" in str(answer.value)


def test_the_deciding_code_reveals_nothing_before_it_is_journaled() -> None:
    run = Run().begin()
    kinds = run.kinds(run.accept(0, 0, 1, 2, 3))
    assert kinds[:2] == ["Journal", "Command"]
