"""The rates of a unit are those of its step: as torch's own loop has them, in whatever order units come."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from wire.errors import UsageError
from worker.parameters import learning_rates
from worker.schedule import Schedule, check_scheduler

STEPS = 60
Optimizer = torch.optim.Optimizer
SCHEDULERS: dict[str, Callable[[Optimizer], Any]] = {
    "lambda": lambda inner: lr_scheduler.LambdaLR(inner, [lambda s: 1 / (1 + s), lambda s: 0.9**s]),
    "one_cycle": lambda inner: lr_scheduler.OneCycleLR(
        inner, max_lr=[0.1, 0.3], total_steps=STEPS, cycle_momentum=False
    ),
    "warm_restarts": lambda inner: lr_scheduler.CosineAnnealingWarmRestarts(inner, T_0=7, T_mult=2),
    "sequential": lambda inner: lr_scheduler.SequentialLR(
        inner,
        [
            lr_scheduler.LinearLR(inner, start_factor=0.1, total_iters=10),
            lr_scheduler.CosineAnnealingLR(inner, T_max=STEPS - 10, eta_min=1e-4),
        ],
        milestones=[10],
    ),
    "chained": lambda inner: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ExponentialLR(inner, 0.95), lr_scheduler.MultiStepLR(inner, [11, 40])], optimizer=inner
    ),
    "constant": lambda inner: lr_scheduler.ConstantLR(inner, factor=1.0),
}
every_scheduler = pytest.mark.parametrize("name", SCHEDULERS)


def optimizer(*, tensors: bool = False) -> Optimizer:
    """Two groups, with a rate each."""
    rates = [torch.tensor(0.1), torch.tensor(0.02)] if tensors else [0.1, 0.02]
    groups = [{"params": [torch.nn.Parameter(torch.zeros(2))], "lr": rate} for rate in rates]
    inner = torch.optim.AdamW(groups, foreach=not tensors, capturable=False)
    inner._opt_called = True  # type: ignore[attr-defined]
    return inner


def plain(name: str, *, tensors: bool = False) -> list[tuple[float, ...]]:
    """The oracle: the rates of each step in an ordinary loop."""
    inner = optimizer(tensors=tensors)
    scheduler, rates = SCHEDULERS[name](inner), []
    for _ in range(STEPS):
        rates.append(learning_rates(inner))
        inner.step()
        scheduler.step()
    return rates


@every_scheduler
@pytest.mark.parametrize("seed", range(2))
def test_a_unit_has_the_rates_of_its_step_in_whatever_order_units_come(name: str, seed: int) -> None:
    inner = optimizer()
    schedule, expected = Schedule(inner, SCHEDULERS[name](inner)), plain(name)
    steps = list(range(STEPS)) * 2
    random.Random(seed).shuffle(steps)
    for step in steps:
        schedule.stand_at(step)
        assert learning_rates(inner) == expected[step], step


@every_scheduler
@pytest.mark.parametrize("begin", [1, 37])
def test_a_new_process_is_brought_to_where_the_run_is(name: str, begin: int) -> None:
    inner, expected = optimizer(), plain(name)
    schedule = Schedule(inner, SCHEDULERS[name](inner))
    for step in range(begin, STEPS):
        schedule.stand_at(step)
        assert learning_rates(inner) == expected[step], step


def test_rates_that_are_tensors_stay_the_tensors_that_they_are() -> None:
    inner = optimizer(tensors=True)
    held = [group["lr"] for group in inner.param_groups]
    schedule, expected = Schedule(inner, SCHEDULERS["lambda"](inner)), plain("lambda", tensors=True)
    for step in (5, 2, 9, 0):
        schedule.stand_at(step)
        assert learning_rates(inner) == expected[step]
    assert all(group["lr"] is rate for group, rate in zip(inner.param_groups, held, strict=True))


def test_without_a_scheduler_rates_are_the_loops_own() -> None:
    inner = optimizer()
    schedule = Schedule(inner, None)
    inner.param_groups[0]["lr"] = 7.0
    schedule.stand_at(3)
    schedule.stand_at(1)
    assert learning_rates(inner) == (7.0, 0.02)


def test_what_the_loop_sets_beside_a_scheduler_that_multiplies_stays() -> None:
    """As in plain torch: ExponentialLR goes on from the rate that it finds."""
    inner = optimizer()
    schedule = Schedule(inner, lr_scheduler.ExponentialLR(inner, 0.5))
    schedule.stand_at(0)
    inner.param_groups[0]["lr"] = 8.0
    schedule.stand_at(1)
    assert learning_rates(inner) == (4.0, 0.01)


def test_schedulers_of_more_than_the_clock_are_refused() -> None:
    inner = optimizer()
    check_scheduler(None)
    for make in SCHEDULERS.values():
        check_scheduler(make(inner))
    with pytest.raises(UsageError, match="ReduceLROnPlateau depends on a metric"):
        check_scheduler(lr_scheduler.ReduceLROnPlateau(inner))
    for cyclic in (
        lr_scheduler.OneCycleLR(inner, max_lr=0.1, total_steps=9),
        lr_scheduler.ChainedScheduler(
            [lr_scheduler.ExponentialLR(inner, 0.9), lr_scheduler.OneCycleLR(inner, 0.1, 9)], optimizer=inner
        ),
    ):
        with pytest.raises(
            UsageError, match=r"OneCycleLR with cycle_momentum=True.*use cycle_momentum=False"
        ):
            check_scheduler(cyclic)
