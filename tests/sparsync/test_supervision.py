"""Exits and interrupts in, actions out: every path ends with all processes gone, and with the right code."""

from __future__ import annotations

import random
from signal import SIGKILL, SIGTERM

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsync.cluster_events import (
    Action,
    Event,
    Exited,
    Joined,
    RequestStop,
    Say,
    Seen,
    Send,
    Serving,
    Start,
    StopAnswered,
    Tick,
    UserInterrupt,
)
from sparsync.exits import FINAL, Role
from sparsync.supervision import (
    CHECKPOINT_LIMIT_S,
    DESERTED_LIMIT_S,
    QUIET_END_LIMIT_S,
    SERVER_END_LIMIT_S,
    START_LIMIT_S,
    STOP_LIMIT_S,
    TERM_LIMIT_S,
    WORKER_END_LIMIT_S,
    Supervisor,
)

ROLES: dict[str, Role] = {
    "coordinator": "coordinator",
    "ps-0": "ps",
    "ps-1": "ps",
    "worker-0": "worker",
    "worker-1": "worker",
}
ALL = tuple(sorted(ROLES))


class Run:
    """A supervisor with a hand on its clock; `step` closed steps are seen from the start."""

    def __init__(
        self,
        *,
        restarts: int = 3,
        first_step: int = 0,
        step: int = 5,
        serving: bool = True,
        durable: bool = True,
        shards: int = 2,
    ) -> None:
        self.now = 100.0
        self.supervisor = Supervisor(
            ROLES, restarts=restarts, first_step=first_step, now=self.now, shards=shards, durable=durable
        )
        if serving:
            self.tell(Serving(), Joined("worker-0"), Joined("worker-1"), Seen("running", step))

    def tell(self, *events: Event) -> list[Action]:
        """Actions, without what is merely said."""
        actions = [a for event in events for a in self.supervisor.handle(event, self.now)]
        self.said = [a.text for a in actions if isinstance(a, Say)]
        return [a for a in actions if not isinstance(a, Say)]

    def after(self, seconds: float) -> list[Action]:
        self.now += seconds
        return self.tell(Tick())

    def exits(self, code: int, *processes: str) -> list[Action]:
        return self.tell(*(Exited(p, code) for p in processes))


def test_a_run_that_ends_well() -> None:
    run = Run()
    assert run.exits(0, "coordinator") == []
    assert run.exits(0, "ps-0", "worker-0", "worker-1", "ps-1") == []
    assert run.supervisor.ended and run.supervisor.exit_code == 0


def test_who_has_not_joined_when_the_run_ends_is_not_waited_for() -> None:
    run = Run()
    run.exits(-9, "worker-1")
    assert run.after(0.6) == [Start("worker-1")]
    assert run.exits(0, "coordinator") == [Send(SIGTERM, ("worker-1",))]
    assert run.exits(0, "ps-0", "ps-1", "worker-0") == []
    assert run.exits(-15, "worker-1") == []
    assert run.supervisor.ended and run.supervisor.exit_code == 0


def test_a_restarted_worker_that_joined_is_waited_for() -> None:
    run = Run()
    run.exits(-9, "worker-1")
    run.after(0.6)
    assert run.tell(Joined("worker-1"), Exited("coordinator", 0)) == []


def test_a_killed_worker_starts_again_after_a_pause() -> None:
    run = Run()
    assert run.exits(-9, "worker-0") == []
    assert run.said == ["worker-0 was killed by SIGKILL; starting it again in 0.5 s (1 of 3)"]
    assert run.after(0.4) == []
    assert run.after(0.2) == [Start("worker-0")]
    assert run.supervisor.restarts == 1 and not run.supervisor.ended


def test_pauses_grow_and_restarts_end_while_others_go_on() -> None:
    run = Run(restarts=2)
    for pause in (0.5, 1.0):
        assert run.exits(1, "worker-1") == []
        assert run.after(pause + 0.01) == [Start("worker-1")]
    assert run.exits(1, "worker-1") == []
    assert run.said == [
        "worker-1 ended with exit code 1, after 2 restarts (cluster.restarts); the others go on without it"
    ]
    assert run.after(60) == []
    assert run.supervisor.failure is None


def test_the_last_worker_out_of_restarts_ends_the_run_with_a_checkpoint() -> None:
    run = Run(restarts=0)
    run.exits(-9, "worker-0")
    assert run.exits(-9, "worker-1") == [RequestStop("no worker is left")]
    assert run.supervisor.exit_code == 1
    assert run.supervisor.failure is not None and run.supervisor.failure.process == "worker-1"


@pytest.mark.parametrize("code", sorted(FINAL))
def test_a_final_error_of_a_worker_is_not_met_twice(code: int) -> None:
    run = Run()
    assert run.exits(code, "worker-1") == [RequestStop("worker-1 failed")]
    run.exits(0, "coordinator", "ps-0", "ps-1", "worker-0")
    assert run.supervisor.ended
    assert run.supervisor.exit_code == code and run.supervisor.restarts == 0


def test_a_final_error_before_the_first_step_does_not_wait_for_a_checkpoint() -> None:
    run = Run(step=0)
    assert run.exits(70, "worker-0") == []
    assert run.after(3.1) == [Send(SIGTERM, ("coordinator", "ps-0", "ps-1", "worker-1"))]
    assert run.supervisor.exit_code == 70


def test_a_resumed_run_has_closed_nothing_at_its_first_step() -> None:
    run = Run(first_step=40, step=40)
    assert run.tell(UserInterrupt()) == [Send(SIGTERM, ALL)]


def test_a_script_that_fails_after_the_run_still_fails() -> None:
    run = Run()
    run.exits(0, "coordinator", "ps-0", "ps-1")
    run.exits(70, "worker-0")
    run.exits(0, "worker-1")
    assert run.supervisor.ended and run.supervisor.exit_code == 70


# --- the coordinator and the servers, started again ---------------------------------------------------


@pytest.mark.parametrize(("process", "title"), [("coordinator", "coordinator"), ("ps-1", "server ps-1")])
def test_a_killed_coordinator_or_server_starts_again_at_once_then_with_pauses(
    process: str, title: str
) -> None:
    run = Run()
    assert run.exits(-9, process) == []
    assert run.said == [f"{title} was killed by SIGKILL; starting it again (1 of 3)"]
    assert run.after(0) == [Start(process)]
    assert run.exits(-6, process) == []
    assert run.said == [f"{title} was killed by SIGABRT; starting it again in 1 s (2 of 3)"]
    assert run.after(0.9) == []
    assert run.after(0.2) == [Start(process)]
    assert run.exits(1, process) == []
    assert run.said == [f"{title} ended with exit code 1; starting it again in 2 s (3 of 3)"]
    assert run.after(2) == [Start(process)]
    assert run.supervisor.failure is None and run.supervisor.restarts == 3


def test_both_at_once_start_again_and_nobody_else_is_touched() -> None:
    run = Run()
    assert run.exits(-9, "coordinator", "ps-0", "worker-1") == []
    assert run.after(0) == [Start("coordinator"), Start("ps-0")]
    assert run.after(0.5) == [Start("worker-1")]
    assert run.tell(Seen("running", 5)) == [], "it answers again"
    assert run.after(START_LIMIT_S) == []


@pytest.mark.parametrize("process", ["coordinator", "ps-1"])
def test_one_that_has_had_its_restarts_ends_the_run(process: str) -> None:
    run = Run(restarts=1)
    run.exits(-9, process)
    run.after(0)
    assert run.exits(-9, process) == []
    assert run.said == [f"{process} was killed by SIGKILL, after 1 restarts (cluster.restarts); the run ends"]
    assert run.supervisor.exit_code == 81


def test_without_restarts_and_with_shards_in_memory_alone_a_loss_ends_the_run() -> None:
    for process, run in (
        ("coordinator", Run(restarts=0)),
        ("ps-1", Run(restarts=0)),
        ("ps-1", Run(durable=False)),
    ):
        assert run.exits(-9, process) == []
        assert run.said == [f"{process} was killed by SIGKILL; the run ends"]
        others = tuple(p for p in ALL if p != process)
        assert run.after(3.1) == [Send(SIGTERM, others)]
        assert run.after(TERM_LIMIT_S) == [Send(SIGKILL, others)]
        run.exits(-9, *others)
        assert run.supervisor.ended and run.supervisor.exit_code == 81


def test_a_server_without_restarts_is_done_without_while_every_shard_may_have_another() -> None:
    run = Run(restarts=0, shards=1)
    assert run.exits(-9, "ps-0") == []
    assert run.said == ["server ps-0 was killed by SIGKILL; its shard has another server"]
    assert run.supervisor.failure is None
    run.exits(-9, "ps-1")
    assert run.supervisor.exit_code == 81


def test_a_fenced_server_begins_again_at_once() -> None:
    run = Run()
    for _ in range(3):
        run.exits(83, "ps-0")
        assert run.after(0) == [Start("ps-0")]


@pytest.mark.parametrize("process", ["coordinator", "ps-1"])
def test_damage_is_told_as_such_where_no_restart_heals_it(process: str) -> None:
    run = Run(restarts=1)
    run.exits(74, process)
    assert run.after(0) == [Start(process)], "a log or a journal that could not be written is gone on from"
    run.exits(74, process)
    assert run.supervisor.exit_code == 74


@pytest.mark.parametrize("code", sorted(FINAL))
def test_a_final_error_of_a_server_ends_the_run_as_that_error(code: int) -> None:
    run = Run()
    run.exits(code, "ps-1")
    assert run.supervisor.restarts == 0 and run.supervisor.exit_code == code


@pytest.mark.parametrize("code", [64, 65, 69, 78, 80, 81, 83])
def test_a_coordinator_that_tells_how_the_run_ended_is_not_started_again(code: int) -> None:
    run = Run()
    run.exits(code, "coordinator")
    assert run.supervisor.restarts == 0 and run.supervisor.exit_code == code


@pytest.mark.parametrize("code", [-9, 1])
def test_a_coordinator_that_dies_before_it_serves_ends_the_run(code: int) -> None:
    run = Run(serving=False)
    run.exits(code, "coordinator")
    assert run.supervisor.ended and run.supervisor.exit_code == 81


def test_an_interrupt_while_the_coordinator_is_away_ends_all_in_time() -> None:
    run = Run()
    for _ in range(2):
        run.exits(-9, "coordinator")
        run.after(0)
    assert run.tell(UserInterrupt()) == [Send(SIGTERM, tuple(p for p in ALL if p != "coordinator"))]
    assert run.after(2) == [], "it is started no more"


def test_an_interrupt_while_it_is_being_started_asks_for_a_checkpoint() -> None:
    run = Run()
    run.exits(-9, "coordinator")
    assert run.after(0) == [Start("coordinator")]
    assert run.tell(UserInterrupt()) == [RequestStop("interrupted by the user")]


def test_a_coordinator_that_dies_while_it_stops_is_not_started_again() -> None:
    run = Run()
    run.tell(UserInterrupt())
    run.exits(-9, "coordinator")
    assert run.after(3.1) == [Send(SIGTERM, tuple(p for p in ALL if p != "coordinator"))]
    assert run.supervisor.restarts == 0


@pytest.mark.parametrize(("state", "started"), [("running", True), ("waiting", True), ("finishing", False)])
def test_a_server_that_ends_as_if_the_run_were_over_starts_again_unless_it_is(
    state: str, started: bool
) -> None:
    run = Run()
    run.exits(0, "ps-1")
    run.tell(Seen(state, 6))
    assert run.after(QUIET_END_LIMIT_S - 0.1) == []
    assert run.after(0.2) == ([Start("ps-1")] if started else [])
    assert run.supervisor.restarts == started


def test_a_server_that_ends_before_the_coordinator_does_is_left_alone() -> None:
    run = Run()
    run.exits(0, "ps-1", "ps-0")
    assert run.after(1) == []
    assert run.exits(0, "coordinator") == []
    assert run.after(QUIET_END_LIMIT_S) == []
    run.exits(0, "worker-0", "worker-1")
    assert run.supervisor.ended and run.supervisor.exit_code == 0


def test_a_server_that_ended_while_the_coordinator_was_away_is_not_forgotten() -> None:
    run = Run()
    run.exits(0, "ps-1")
    for _ in range(2):
        run.exits(-9, "coordinator")
        started = run.after(1.1)
    assert started == [Start("coordinator")]
    assert run.after(1.0) == [Start("ps-1")]


# --- the end --------------------------------------------------------------------------------------------


def test_what_the_coordinator_ends_with_is_what_the_run_ends_with() -> None:
    run = Run(serving=False)
    run.exits(78, "coordinator")
    assert run.supervisor.ended and run.supervisor.exit_code == 78


def test_workers_that_the_coordinator_takes_along_do_not_hide_the_cause() -> None:
    run = Run()
    run.exits(69, "worker-0")
    run.exits(80, "coordinator")
    assert run.after(1.0) == []
    assert run.supervisor.restarts == 1 and run.supervisor.exit_code == 80


def test_an_interrupt_asks_for_a_checkpoint_and_waits_for_it() -> None:
    run = Run()
    assert run.tell(UserInterrupt()) == [RequestStop("interrupted by the user")]
    run.tell(StopAnswered(6))
    assert run.said == ["stopping after step 6, a checkpoint follows; Ctrl-C again to kill"]
    assert run.after(CHECKPOINT_LIMIT_S - 0.1) == []
    assert run.after(0.1) == [Send(SIGTERM, ALL)]
    assert run.after(TERM_LIMIT_S) == [Send(SIGKILL, ALL)]
    run.exits(-9, *ALL)
    assert run.supervisor.ended and run.supervisor.exit_code == 130


def test_an_interrupt_that_nobody_answers_is_over_within_ten_seconds() -> None:
    run = Run()
    run.tell(UserInterrupt())
    assert run.after(STOP_LIMIT_S - 0.1) == []
    assert run.after(0.1) == [Send(SIGTERM, ALL)]
    assert STOP_LIMIT_S + TERM_LIMIT_S < 10


@pytest.mark.parametrize("gone", [("ps-0",), ("worker-0", "worker-1"), ("coordinator",)])
def test_a_checkpoint_that_cannot_come_is_not_waited_for(gone: tuple[str, ...]) -> None:
    run = Run()
    run.tell(UserInterrupt())
    run.tell(StopAnswered(6))
    run.exits(0, *gone)
    left = tuple(name for name in ALL if name not in gone)
    assert run.after(STOP_LIMIT_S - 0.1) == []
    assert run.after(0.1) == [Send(SIGTERM, left)]


def test_a_worker_that_dies_leaves_the_checkpoint_to_the_others() -> None:
    run = Run()
    run.tell(UserInterrupt())
    run.tell(StopAnswered(6))
    run.exits(-9, "worker-0")
    assert run.after(CHECKPOINT_LIMIT_S - 0.1) == []


def test_an_interrupted_run_restarts_nobody() -> None:
    run = Run()
    run.exits(-9, "worker-0")
    run.tell(UserInterrupt())
    run.exits(-9, "worker-1")
    assert run.after(5) == []
    run.exits(130, "coordinator", "ps-0", "ps-1")
    assert run.supervisor.ended and run.supervisor.exit_code == 130 and run.supervisor.failure is None


def test_a_second_interrupt_kills_at_once() -> None:
    run = Run()
    run.tell(UserInterrupt())
    assert run.tell(UserInterrupt()) == [Send(SIGKILL, ALL)]
    run.exits(-9, *ALL)
    assert run.supervisor.ended and run.supervisor.exit_code == 130


def test_an_interrupt_before_anything_is_closed_ends_all() -> None:
    assert Run(step=0).tell(UserInterrupt()) == [Send(SIGTERM, ALL)]
    assert Run(serving=False).tell(UserInterrupt()) == [Send(SIGTERM, ("coordinator",))]


def test_a_coordinator_that_does_not_answer_is_not_waited_for() -> None:
    run = Run()
    run.tell(UserInterrupt())
    assert run.tell(StopAnswered(None)) == [Send(SIGTERM, ALL)]


def test_a_run_stopped_by_an_operator_ends_as_stopped() -> None:
    run = Run()
    assert run.exits(130, "worker-0", "ps-0", "coordinator", "ps-1", "worker-1") == []
    assert run.supervisor.ended and run.supervisor.restarts == 0
    assert run.supervisor.exit_code == 130 and not run.supervisor.interrupted


def test_a_coordinator_that_never_serves_is_given_up() -> None:
    run = Run(serving=False)
    assert run.after(START_LIMIT_S - 1) == []
    assert run.after(1) == [Send(SIGTERM, ("coordinator",))]
    assert run.supervisor.exit_code == 69


def test_a_run_that_all_workers_have_left_ends() -> None:
    run = Run()
    run.exits(0, "worker-0", "worker-1")
    assert run.after(DESERTED_LIMIT_S - 1) == []
    assert run.after(1) == [RequestStop("no worker is left")]
    assert run.supervisor.exit_code == 70


def test_workers_may_leave_while_the_run_is_finishing() -> None:
    run = Run()
    run.exits(0, "worker-0", "worker-1")
    run.tell(Seen("finishing", 60))
    assert run.after(DESERTED_LIMIT_S) == []
    run.exits(0, "coordinator", "ps-0", "ps-1")
    assert run.supervisor.ended and run.supervisor.exit_code == 0


def test_scripts_may_work_on_after_the_run_but_servers_may_not() -> None:
    run = Run()
    run.exits(0, "coordinator", "worker-0")
    assert run.after(SERVER_END_LIMIT_S) == [Send(SIGTERM, ("ps-0", "ps-1"))]
    assert run.said == ["the run has ended; waiting for worker-1 (Ctrl-C ends it)"]
    run.exits(-15, "ps-0", "ps-1")
    assert run.after(WORKER_END_LIMIT_S) == [Send(SIGTERM, ("worker-1",))]
    run.exits(-15, "worker-1")
    assert run.supervisor.ended and run.supervisor.exit_code == 0


@given(st.integers(min_value=0, max_value=2**32))
def test_every_history_with_an_interrupt_ends_in_time(seed: int) -> None:
    """Random exits, answers and ticks; SIGKILL always works, SIGTERM never. Ten seconds, if no checkpoint follows."""
    rng = random.Random(seed)
    run = Run(step=rng.choice([0, 5]))
    alive = set(ALL)
    interrupt_at = run.now + rng.uniform(0, 20)
    answers: list[int | None] = []

    def carry_out(actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, RequestStop) and rng.random() < 0.5:
                answers.append(rng.choice([None, 7]))
                carry_out(run.tell(StopAnswered(answers[-1])))
            elif isinstance(action, Start):
                assert not run.supervisor.interrupted and action.process not in alive
                alive.add(action.process)
            elif isinstance(action, Send):
                assert set(action.processes) == alive or action.signal is SIGTERM
                if action.signal is SIGKILL:
                    alive.clear()
                    carry_out(run.exits(-9, *action.processes))

    while not run.supervisor.ended:
        carry_out(run.after(0.1))
        if run.now >= interrupt_at and not run.supervisor.interrupted:
            carry_out(run.tell(UserInterrupt()))
        if rng.random() < 0.02 and alive:
            victim = rng.choice(sorted(alive))
            alive.discard(victim)
            carry_out(run.exits(rng.choice([0, 1, -9, 69, 70, 81, 83, 130]), victim))
        assert run.now < interrupt_at + 10.2 + (CHECKPOINT_LIMIT_S if 7 in answers else 0.0)
    assert not alive


def test_a_coordinator_that_was_started_again_and_answers_nobody_is_killed() -> None:
    run = Run()
    run.exits(-9, "coordinator")
    assert Start("coordinator") in run.after(2.0)
    assert run.after(START_LIMIT_S - 0.1) == []
    assert run.after(0.2) == [Send(SIGKILL, ("coordinator",))]
    assert run.said == ["the coordinator did not serve within 30 s of its restart; killing it"]
    assert run.after(1.0) == [], "once"
    run.exits(-9, "coordinator")
    assert Start("coordinator") in run.after(2.0)
    assert run.tell(Seen("running", 6)) == []
    assert run.after(2 * START_LIMIT_S) == [], "it answers"
    assert run.supervisor.failure is None
