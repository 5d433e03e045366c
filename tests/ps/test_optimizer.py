"""The fused kernels give the same bits however a plane is cut: what lets blocks live anywhere."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ps.optimizer import Optimizer
from tests.ps.models import ADAMW, sgd
from wire.errors import ModelMismatch
from wire.layout import BLOCK, BlockRange
from wire.messages import OptimizerSpec

ROWS = 7
ONE = OptimizerSpec("adamw", ADAMW.groups[:1])
SPECS = {"adamw": ONE, "momentum": sgd(momentum=0.9), "nesterov": sgd(momentum=0.9, nesterov=True)}


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((ROWS, BLOCK)).astype(np.float32) ** 3


def stepped(spec: OptimizerSpec, cuts: list[int]) -> list[bytes]:
    x = noise(0)
    bounds = [0, *cuts, ROWS]
    runs = [(0, BlockRange(a, b)) for a, b in itertools.pairwise(bounds)]
    optimizer = Optimizer(spec, runs, x)
    for step in range(3):
        optimizer.step(noise(step + 1), [1e-2 * (step + 1)] * len(spec.groups))
    return [x.tobytes(), *(p.tobytes() for p in optimizer.planes().values())]


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("cuts", [[1], [3], [1, 2, 3, 4, 5, 6], [2, 5]])
def test_cuts_change_nothing(spec: OptimizerSpec, cuts: list[int]) -> None:
    assert stepped(spec, cuts) == stepped(spec, [])


def test_state_that_is_saved_and_loaded_goes_on_with_the_same_bits() -> None:
    runs = [(0, BlockRange(0, ROWS))]
    through, x = noise(0), noise(0)
    first, second = Optimizer(ONE, runs, through), Optimizer(ONE, runs, x)
    for step in range(4):
        first.step(noise(step), [1e-2])
    for step in range(2):
        second.step(noise(step), [1e-2])
    y = x.copy()
    third = Optimizer(ONE, runs, y)
    for name, plane in third.planes().items():
        plane[:] = second.planes()[name]
    third.load_scalars(second.scalars())
    for step in (2, 3):
        third.step(noise(step), [1e-2])
    assert y.tobytes() == through.tobytes() and third.scalars() == {"step": 4.0}


def test_a_group_without_blocks_here_is_no_matter() -> None:
    x = noise(0)
    optimizer = Optimizer(ADAMW, [(1, BlockRange(2, 4))], x)
    optimizer.step(noise(1), [1e9, 1e-2])
    assert np.abs(x[2:4] - noise(0)[2:4]).max() < 0.1
    assert x[:2].tobytes() == noise(0)[:2].tobytes()


def test_plain_sgd_keeps_no_planes() -> None:
    assert Optimizer(sgd(), [(0, BlockRange(0, 1))], noise(0)).planes() == {}


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises((ModelMismatch, KeyError)):
        Optimizer(OptimizerSpec("lion", ADAMW.groups), [(0, BlockRange(0, 1))], noise(0))


@pytest.mark.parametrize("spec", [sgd(), sgd(momentum=0.9), ONE], ids=["plain", "momentum", "adamw"])
def test_parts_of_a_step_move_as_far_as_a_step(spec: OptimizerSpec) -> None:
    """Of a constant gradient, once the moments have settled; however the step is cut."""
    moved = []
    for share in (1.0, 0.5, 0.25):
        x = np.zeros((1, BLOCK), np.float32)
        optimizer = Optimizer(spec, [(0, BlockRange(0, 1))], x)
        for _ in range(int(200 / share)):
            optimizer.step(np.full_like(x, 0.5), [1e-3] * len(spec.groups), share=share)
        before = x.copy()
        for _ in range(int(4 / share)):
            optimizer.step(np.full_like(x, 0.5), [1e-3] * len(spec.groups), share=share)
        moved.append(float((x - before)[0, 0]))
    assert moved[0] < 0
    assert np.allclose(moved, moved[0], rtol=1e-3)


def test_bias_correction_counts_in_whole_steps() -> None:
    """Two halves with one gradient leave the moments of a whole step with it."""
    x = np.zeros((1, BLOCK), np.float32)
    whole, halves = (Optimizer(ONE, [(0, BlockRange(0, 1))], x.copy()) for _ in range(2))
    gradient = np.full_like(x, 0.5)
    whole.step(gradient, [1e-3])
    for _ in range(2):
        halves.step(gradient, [1e-3], share=0.5)
    assert whole.scalars() == halves.scalars() == {"step": 1.0}
    for name, plane in whole.planes().items():
        assert np.allclose(plane, halves.planes()[name], rtol=1e-5)


def test_adamw_makes_up_for_the_noise_of_a_smaller_mean() -> None:
    x = np.zeros((1, BLOCK), np.float32)
    optimizer = Optimizer(ONE, [(0, BlockRange(0, 1))], x)
    optimizer.step(np.full_like(x, 0.5), [1e-3], share=0.25, averaged=0.25)
    assert np.allclose(x[0, 0], -1e-3 * 0.5, rtol=1e-3)
