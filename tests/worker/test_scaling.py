"""A GradScaler whose optimizer runs elsewhere."""

from __future__ import annotations

import pytest
import torch

from sparsync.optim import CombinedOptimizer
from wire.errors import UsageError
from worker.scaling import unscale


def scaled(value: float) -> tuple[torch.amp.GradScaler, torch.optim.Optimizer, torch.nn.Parameter]:
    parameter = torch.nn.Parameter(torch.ones(2))
    inner = torch.optim.SGD([parameter], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1)
    scaler.scale((parameter * value).sum()).backward()
    return scaler, inner, parameter


def test_gradients_are_unscaled_and_the_scale_moves_on() -> None:
    scaler, inner, parameter = scaled(3.0)
    assert not unscale(scaler, inner)
    assert parameter.grad is not None
    assert parameter.grad.tolist() == [3.0, 3.0]
    assert scaler.get_scale() == 8.0


def test_a_loop_may_have_unscaled_to_clip() -> None:
    scaler, inner, parameter = scaled(3.0)
    scaler.unscale_(inner)
    assert not unscale(scaler, inner)
    assert parameter.grad is not None
    assert parameter.grad.tolist() == [3.0, 3.0]


def test_a_part_of_the_optimizer_is_never_unscaled_alone() -> None:
    scaler, part, _ = scaled(3.0)
    whole = CombinedOptimizer(part)
    scaler.unscale_(part)
    with pytest.raises(UsageError, match=r"expected that of sparsync\.join.*Here inner is CombinedOptimizer"):
        unscale(scaler, whole)


def test_an_overflow_is_told_and_lowers_the_scale() -> None:
    scaler, inner, _ = scaled(float("inf"))
    assert unscale(scaler, inner)
    assert scaler.get_scale() == 2.0


def test_without_a_scaler_nothing_happens() -> None:
    _, inner, parameter = scaled(3.0)
    assert not unscale(None, inner)
    assert not unscale(torch.amp.GradScaler("cpu", enabled=False), inner)
    assert parameter.grad is not None
    assert parameter.grad.tolist() == [12.0, 12.0]
