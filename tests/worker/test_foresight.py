"""Where x̂ will be when a unit that lags counts, on a quadratic whose servers keep momentum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from wire.codec.base import Blocks, PushCodec
from wire.codec.chain import push_codec
from wire.codec.cut import Classes
from wire.layout import BLOCK, FROZEN, BlockRange, Layout, Parameter
from wire.messages import OptimizerSpec
from worker.foresight import Course, Foresight, momentum_of
from worker.returned import Frames

LAYOUT = Layout((Parameter("a", (BLOCK,), "float32", 0), Parameter("b", (2, BLOCK), "float32", 0)))
SHARDS = [Blocks.of(LAYOUT, [BlockRange(0, 1)]), Blocks.of(LAYOUT, [BlockRange(1, 3)])]
MOMENTUM, RATE = 0.9, 8.0
"""Stable up to 38 where nothing is late, up to 1 where units are late by one step and look nowhere."""


def exact() -> PushCodec:
    return push_codec(codec="dense", values="fp32", classes=Classes.by_policy(LAYOUT, ()))


@dataclass
class Descent:
    """One stream, computed one step late: x follows momentum down a quadratic of curvature 1 with its minimum at 1."""

    foresight: Foresight
    course: Course
    codec: PushCodec = field(default_factory=exact)
    x: np.ndarray = field(default_factory=lambda: np.zeros((3, BLOCK), np.float32))
    momentum: np.ndarray = field(default_factory=lambda: np.zeros((3, BLOCK), np.float32))

    def __post_init__(self) -> None:
        self.past = [self.x.copy(), self.x.copy()]
        """x̂ₜ₋₂ and x̂ₜ₋₁."""
        self.steps = 0

    def frames(self, gradient: np.ndarray) -> Frames:
        return [list(self.codec.encode(gradient, {}, blocks)) for blocks in SHARDS]

    def apply(self, gradient: np.ndarray) -> None:
        self.momentum = np.float32(MOMENTUM) * self.momentum + np.float32(1 - MOMENTUM) * gradient
        self.past = [self.past[1], self.x]
        self.x = self.x - np.float32(RATE) * self.momentum

    def step(self, *, drained: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """A unit; what it was computed on, and x as it counted."""
        before, now = self.past
        if drained or self.steps == 0:
            self.course, stands = self.course.arrived(), self.x
        else:
            offset = np.full_like(self.x, np.nan)
            known = self.steps > 1
            self.course = self.foresight.look(self.course, now, before if known else None, offset)
            stands = now + offset
        gradient = stands - 1
        self.course = self.course.sent(self.frames(gradient))
        at = self.x
        self.apply(gradient)
        self.steps = 1 if drained else self.steps + 1
        return stands, at


def descent(weight: float = 1.0, course: Course | None = None) -> Descent:
    momentum = np.full(3, MOMENTUM, np.float32)
    foresight = Foresight(exact(), SHARDS, momentum=momentum, weight=weight)
    return Descent(foresight, course or Course.of(b"", blocks=3))


def test_a_stream_alone_foresees_where_x_will_be() -> None:
    down = descent()
    ways = [down.step() for _ in range(12)]
    assert all(stands == pytest.approx(at, abs=1e-4) for stands, at in ways[4:]), "as if nothing were late"
    for _ in range(150):
        stands, _ = down.step()
    assert stands == pytest.approx(np.ones_like(stands), abs=1e-3)


def test_without_it_that_rate_diverges() -> None:
    down = descent()
    blind = np.zeros_like(down.x)
    down.foresight.look = lambda course, now, before, into: (np.copyto(into, blind), course)[1]  # type: ignore[method-assign]
    for _ in range(60):
        down.step()
    assert np.abs(down.x).min() > 100


def test_each_block_has_a_gain_of_its_own() -> None:
    down = descent()
    down.apply = lambda gradient, apply=down.apply: apply(gradient * np.array([[1], [0.5], [0]], np.float32))  # type: ignore[misc]
    for _ in range(8):
        down.step()
    moved, sent, _ = down.course.sums
    assert moved / sent == pytest.approx(RATE * (1 - MOMENTUM) * np.array([1, 0.5, 0]), abs=1e-5)


@pytest.mark.parametrize("after", range(5))
def test_an_heir_goes_on_bit_for_bit(after: int) -> None:
    down = descent()
    for _ in range(after):
        down.step()
    heir = descent(course=Course.of(bytes(down.course), blocks=3))
    heir.x, heir.momentum, heir.past, heir.steps = down.x, down.momentum, list(down.past), down.steps
    for _ in range(4):
        own, its = down.step()[0], heir.step()[0]
        assert np.array_equal(own, its)


def test_behind_a_boundary_only_what_was_learned_is_left() -> None:
    down = descent()
    for _ in range(6):
        down.step()
    learned = down.course.sums[:2].copy()
    stands, at = down.step(drained=True)
    assert np.array_equal(stands, at) and np.array_equal(down.course.sums[:2], learned)
    stands, at = down.step()
    assert down.past[1] is at or np.isfinite(stands).all()
    moved = stands - down.past[0]  # nothing is known of the last move: only what the unit on its way does
    gain = (learned[0] / learned[1]).astype(np.float32)[:, None]
    assert moved == pytest.approx(-gain * (down.past[0] - 1), rel=1e-4)
    down.step()
    assert np.array_equal(down.course.sums[:2], learned), "the unit before the boundary says nothing any more"
    down.step()
    assert not np.array_equal(down.course.sums[:2], learned)


def test_a_unit_that_contributes_nothing_moves_nothing() -> None:
    down = descent()
    for _ in range(6):
        down.step()
    now, offset = down.x, np.full_like(down.x, np.nan)
    empty = down.course.sent([(), ()])
    empty = Course.of(bytes(empty), blocks=3)
    down.foresight.look(empty, now, down.past[1], offset)
    assert offset == pytest.approx(np.float32(MOMENTUM) * (now - down.past[1]), rel=1e-6)


def test_a_rising_optimizer_is_followed_too() -> None:
    down = descent()
    down.apply = lambda gradient, apply=down.apply: apply(-gradient)  # type: ignore[misc]
    for _ in range(5):
        down.step()
    moved, sent, _ = down.course.sums
    assert moved / sent == pytest.approx([-RATE * (1 - MOMENTUM)] * 3, rel=1e-3)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (
            OptimizerSpec("adamw", ({"beta1": 0.9, "beta2": 0.95}, {"beta1": 0.5, "beta2": 0.9})),
            [0.9, 0.5, 0.5, 0],
        ),
        (OptimizerSpec("sgd", ({"momentum": 0.8}, {"momentum": 0.0})), [0.8, 0, 0, 0]),
    ],
)
def test_the_momentum_is_that_of_the_blocks_group(spec: OptimizerSpec, expected: Sequence[float]) -> None:
    layout = Layout(
        (
            Parameter("a", (5,), "float32", 0),
            Parameter("b", (2, BLOCK), "float32", 1),
            Parameter("frozen", (1,), "float32", FROZEN),
        )
    )
    assert momentum_of(spec, layout).tolist() == pytest.approx(expected)
