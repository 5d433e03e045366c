"""The run's data: how many steps they make, and which are refused."""

from __future__ import annotations

import pytest

from coordinator import actions as a
from coordinator import events as e
from coordinator.dataset import Data
from coordinator.desk import Desk
from tests.coordinator.ground import began, rules
from tests.coordinator.runs import Run
from wire.errors import DataRefused


@pytest.mark.parametrize(
    ("samples", "batch_size", "accumulate", "epochs", "steps"),
    [(100, 2, 1, 1, 13), (96, 2, 1, 1, 12), (97, 2, 1, 2, 26), (1, 8, 4, 3, 3), (100, 2, 2, 1, 7)],
)
def test_steps_of_epochs(samples: int, batch_size: int, accumulate: int, epochs: int, steps: int) -> None:
    """ceil(samples / (batch · accumulate · streams)) steps an epoch: units never span two."""
    run = Run(steps=None, epochs=epochs)
    run.declare(run.join("w").incarnation)
    run.ready(3, samples=samples, batch_size=batch_size, accumulate=accumulate)
    assert run.core.state.dataset is not None and run.core.state.dataset.total_steps == steps


@pytest.mark.parametrize(
    ("changes", "data", "told"),
    [
        ({}, {"samples": 0}, "the dataset is empty"),
        ({"steps": None, "epochs": 1}, {"samples": 0, "batch_size": 0}, "run.epochs needs a dataset"),
        ({"first_step": 10, "checkpoint": "c"}, {}, "nothing is left to do"),
        ({}, {"digest": "d" * 256}, "more than 255 characters ('dddd"),
    ],
)
def test_data_that_gives_no_run(changes: dict[str, object], data: dict[str, object], told: str) -> None:
    run = Run(**changes)  # type: ignore[arg-type]
    run.declare(run.join("w").incarnation)
    run.ready(3, **data)
    assert run.core.state.ended is not None and told in run.core.state.ended.reason
    assert run.core.state.ended.error == DataRefused.__name__


def test_other_data_is_refused_by_name_and_the_run_goes_on() -> None:
    run = Run().begin()
    run.declare(run.join("w9").incarnation)
    (order,) = run.only(a.Tell, run.ready(5, digest="e"))
    assert order.incarnation == 5 and isinstance(order.order, a.End) and "w9" in order.order.reason
    assert run.core.state.ended is None


@pytest.mark.parametrize("key", ["samples", "digest", "batch_size", "accumulate"])
def test_a_checkpoint_is_resumed_with_its_own_data_only(key: str) -> None:
    trained = {"samples": 100, "digest": "d", "batch_size": 2, "accumulate": 1}
    told = e.Ready(3, **trained, evaluates=True, evaluate_every=0)  # type: ignore[arg-type]
    assert Data(Desk(rules(), began(4)), trained).take(told) == ""
    other = {**trained, key: "e" if key == "digest" else 7}
    refusal = Data(Desk(rules(), began(4)), other).take(told)
    assert f"trained on data with {key} {other[key]!r}, found {trained[key]!r}" in refusal
