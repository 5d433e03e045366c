"""What changes with the clock does so by a unit's own step: learning rates, and how dense the first steps are sent."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cluster.conftest import Starter, slow
from tests.cluster.running import Train
from tests.cluster.scripts.scheduled import LENGTH, optimizer_of, scheduler_of
from tests.cluster.test_digests import DIGESTS, equal_runs
from tests.cluster.test_kill import kill_workers

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
SCRIPT = Path(__file__).parent / "scripts" / "scheduled.py"
Rates = list[tuple[float, float]]


def plain(scheduler: str) -> Rates:
    """The oracle: one process, one step after the other."""
    inner, rates = optimizer_of(torch.nn.Linear(8, 1)), []
    followed = scheduler_of(scheduler, inner)
    for _ in range(LENGTH):
        rates.append((inner.param_groups[0]["lr"], inner.param_groups[1]["lr"]))
        inner.step()
        followed.step()
    return rates


def check_rates(run: Train, expected: Rates, *, steps: range) -> None:
    """Each unit was computed with the rates of its step."""
    logged = [(e["step"], (e["lr0"], e["lr1"])) for e in run.events("scalars")]
    assert {step for step, _ in logged} == set(steps)
    assert [(step, found) for step, found in logged if found != expected[step]] == []


@pytest.mark.parametrize(
    ("mode", "scheduler"), [("sync", "sequential"), slow("sync", "one_cycle"), slow("async", "sequential")]
)
def test_rates_are_those_of_a_plain_loop(train: Starter, mode: str, scheduler: str, seed: int) -> None:
    """A worker is killed and comes back as another process; the second half is resumed from a checkpoint."""
    expected, half = plain(scheduler), LENGTH // 2
    script = [SCRIPT, "--scheduler", scheduler, "--pause", "0.03"]
    first = train({"run.steps": half, "sync.mode": mode}, flags=["--servers", "1"], script=script)
    kill_workers(first, [3], random.Random(seed)) if mode == "sync" else first.wait_for_step(0)
    first.finish()
    check_rates(first, expected, steps=range(half))

    second = train({"run.steps": LENGTH}, out=first.out, flags=["--workers", "3"])
    second.finish()
    check_rates(second, expected, steps=range(half, LENGTH))


WARM = {
    "push.codec": "topk",
    "push.warmup_density": 1,
    "push.warmup_steps": 12,
    "pull.codec": "topk",
    "pull.warmup_density": 0.5,
    "pull.warmup_steps": 7,
    "durability.stream_state_every": 5,
}


@pytest.mark.slow
def test_denser_first_steps_change_no_bit_whoever_computes_them(
    train: Starter, undisturbed: Callable[[str], dict[str, Any]], seed: int
) -> None:
    """Killed workers are replaced by heirs who replay; a server more; the second half resumed. And it costs bytes."""
    alone = train(WARM, flags=["--servers", "1", "--workers", "1"])
    whole = alone.finish()
    steady = undisturbed("topk")
    assert whole["params_digest"] != steady["params_digest"]
    assert whole["bytes_pushed"] > steady["bytes_pushed"]

    draw = random.Random(seed)
    run = train(WARM, flags=["--workers", "3"])
    kill_workers(run, sorted(draw.sample(range(12), 2)), draw)
    equal_runs(whole, run.finish())

    first = train({**WARM, "run.steps": 6}, flags=["--workers", "2"])
    first.finish()
    resumed = train({"run.steps": 20}, out=first.out, flags=["--servers", "3"]).finish()
    for key in DIGESTS:
        assert resumed[key] == whole[key], key
