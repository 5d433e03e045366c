"""`sparsync train` starts dead coordinators and servers again: the run goes on to the same bits (P1 to P3, P9, P11).

Workers are not started again, and nobody is given up: they wait, and send again what was not acknowledged.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.cluster.conftest import Starter, slow
from tests.cluster.test_digests import equal_runs

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
Undisturbed = Callable[[str], dict[str, Any]]


def killed(process: str) -> str:
    """What the user is told."""
    title = f"server {process}" if process.startswith("ps-") else process
    return f"{title} was killed by SIGKILL; starting it again"


VICTIMS = [
    ("coordinator", "ps-0", "ps-1", "worker-1"),
    slow(("coordinator",)),
    slow(("ps-1",)),
    slow(("coordinator", "ps-0")),
    slow(("ps-0", "ps-1")),
    slow(("coordinator", "ps-0", "ps-1")),
]


@pytest.mark.parametrize("victims", VICTIMS, ids="+".join)
def test_whoever_is_killed_the_bits_stay(
    train: Starter, undisturbed: Undisturbed, victims: tuple[str, ...], seed: int
) -> None:
    """Twice, at moments that are drawn; all at once."""
    draw = random.Random(seed)
    run = train({"durability.stream_state_every": draw.choice([1, 3, 7])})
    for step in sorted(draw.sample(range(18), 2)):
        run.wait_for_step(step)
        time.sleep(draw.uniform(0.0, 0.2))
        for pid in [run.pid_of(process) for process in victims]:
            run.kill(pid)
    summary = run.finish(200.0)
    equal_runs(undisturbed("auto"), summary)
    assert summary["restarts"] == 2 * len(victims)
    for process in victims:
        assert run.talk().count(killed(process)) == 2
    assert bool(run.events("died")) == ("worker-1" in victims), run.story()


@pytest.mark.slow
def test_with_a_standby_a_server_is_replaced_and_begins_again_as_one(
    train: Starter, undisturbed: Undisturbed, seed: int
) -> None:
    draw = random.Random(seed)
    run = train({"durability.replicas": 1, "cluster.servers": 1}, flags=["--servers", "1"])
    assert run.pid_of("ps-1")
    for step in sorted(draw.sample(range(3, 18), 2)):
        run.wait_for_step(step)
        run.kill(run.pid_of(draw.choice(["ps-0", "ps-1"])))
    summary = run.finish(200.0)
    equal_runs(undisturbed("auto"), summary)
    assert summary["restarts"] == 2
    assert not run.events("died"), run.story()


# --- where it does not go on -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"durability.ack": "memory"}, "ps-0 was killed by SIGKILL; the run ends"),
        slow({"cluster.restarts": 0}, "ps-0 was killed by SIGKILL; the run ends"),
    ],
    ids=["in memory alone", "no restarts"],
)
def test_a_server_that_is_not_started_again_ends_the_run(
    train: Starter, changes: dict[str, object], told: str
) -> None:
    run = train(changes)
    run.wait_for_step(3)
    run.kill(run.pid_of("ps-0"))
    ended = run.wait(30.0)
    assert ended.code == 81
    assert told in ended.talk


@pytest.mark.parametrize("pause_s", [0.0, slow(1.0)])
def test_an_interrupt_while_the_coordinator_is_being_started_is_over_in_time(
    train: Starter, pause_s: float
) -> None:
    run = train({"run.steps": 100_000})
    run.wait_for_step(3)
    run.kill(run.pid_of("coordinator"))
    time.sleep(pause_s)
    began = time.monotonic()
    run.launcher.send_signal(signal.SIGINT)
    ended = run.wait(30.0)
    assert time.monotonic() - began < 10.0 + 2.0, "and what a busy machine takes"
    assert ended.code == 130, ended.talk
