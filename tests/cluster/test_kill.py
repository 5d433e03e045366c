"""A killed worker costs seconds, not bits: digests and counts are those of the undisturbed run (P1 to P3, P6)."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.cluster.conftest import Starter
from tests.cluster.running import Train, seconds_until
from tests.cluster.test_digests import equal_runs

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
NOTICED_S = 1.5
"""P6 promises a second from the closed stream on; the rest is for a busy machine."""


def kill_workers(run: Train, at_steps: list[int], draw: random.Random) -> None:
    """`kill -9` a worker, drawn at random, after each of these steps; each death is noticed in time.

    One that carries a stream: the run cannot end before the death of such a one is noticed.
    """
    for step in at_steps:
        run.wait_for_step(step)
        deaths = len(run.events("died"))
        run.wait_for("assigned", lambda e: bool(run.carriers()))
        name = draw.choice(run.carriers())
        at = run.kill_worker(name)
        died = run.wait_for_another("died", deaths, limit_s=10)
        assert died["name"] == name
        assert seconds_until(died, at) <= NOTICED_S, died


def check_events(run: Train, summary: dict[str, Any], kills: int) -> None:
    """Each step was closed once, each stream of a dead worker was given to another attempt."""
    steps = summary["steps"]
    assert Counter(e["step"] for e in run.events("step")) == Counter(range(steps))
    died = run.events("died")
    assert len(died) == kills
    assert summary["restarts"] >= kills - 1, "all but a worker that died in the last moment are started again"
    assert summary["recoveries"] == sum(bool(e["streams"]) for e in died)
    for event in died:
        after = run.events()[run.events().index(event) :]
        for stream in event["streams"]:
            heirs = [e for e in after if e["event"] == "assigned" and e["stream"] == stream and e["worker"]]
            assert heirs and heirs[0]["attempt"] > 0, f"stream {stream} of {event['name']} found no heir"


def test_a_worker_that_dies_as_it_has_joined_is_missed_as_soon(train: Starter) -> None:
    run = train(flags=["--workers", "2", "--servers", "1"])
    name = run.wait_for("joined", lambda e: e["role"] == "worker")["name"]
    time.sleep(0.3)  # it was sent on its way to the first beat
    at = run.kill_worker(name)
    died = run.wait_for("died", limit_s=10)
    assert died["name"] == name
    assert seconds_until(died, at) <= NOTICED_S, died
    assert run.finish()["steps"] == 20


@pytest.mark.slow
def test_three_killed_workers_change_no_bit(
    train: Starter, undisturbed: Callable[[str], dict[str, Any]], seed: int
) -> None:
    draw = random.Random(seed)
    run = train(
        {"durability.stream_state_every": draw.choice([1, 3, 7])}, flags=["--workers", "3", "--servers", "2"]
    )
    kill_workers(run, sorted(draw.sample(range(18), 3)), draw)
    summary = run.finish()
    equal_runs(undisturbed("auto"), summary)
    check_events(run, summary, kills=3)


@pytest.mark.slow
def test_a_worker_that_leaves_hands_its_streams_over(
    train: Starter, undisturbed: Callable[[str], dict[str, Any]]
) -> None:
    """SIGTERM: the state goes to the others at a boundary; nothing is replayed, no bit changes."""
    run = train()
    run.wait_for_step(3)
    os.kill(run.pids("worker")["worker-1"], signal.SIGTERM)
    left = run.wait_for("left", limit_s=20)
    summary = run.finish()
    assert left["name"] == "worker-1" and not left["streams"], "it carries nothing any more"
    assert not run.events("died")
    assert summary["replayed"] == 0
    equal_runs(undisturbed("auto"), summary)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_three_killed_workers_of_the_default_run(train: Starter, seed: int) -> None:
    changes = {
        "run.steps": 60,
        "model.layers": 4,
        "model.width": 256,
        "data.seq_len": 128,
        "data.batch_size": 8,
    }
    undisturbed = train(changes).finish(300)
    draw = random.Random(seed)
    run = train({**changes, "durability.stream_state_every": 8})
    kill_workers(run, sorted(draw.sample(range(55), 3)), draw)
    summary = run.finish(300)
    equal_runs(undisturbed, summary)
    check_events(run, summary, kills=3)
