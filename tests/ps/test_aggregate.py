"""Lanes: whose estimates are in the sum, and what is left when they go."""

from __future__ import annotations

import numpy as np
import pytest

from ps.aggregate import LaneAggregate
from ps.merge import Merge
from tests.ps.models import LAYOUT, TRAINABLE, Plane, bits, dense, plane, topk
from wire.codec.base import Blocks, DamagedFrame, PushCodec
from wire.layout import BLOCK

BLOCKS = Blocks.of(LAYOUT, TRAINABLE)


def aggregate(codec: PushCodec, rule: str = "mean") -> LaneAggregate:
    return LaneAggregate(codec, BLOCKS, rows=LAYOUT.blocks, merge=Merge(rule), counting=False)


class Lane:
    """A worker's codec state, and its estimate as float64 sum of factored frames."""

    def __init__(self, codec: PushCodec, lanes: LaneAggregate, incarnation: int) -> None:
        self.codec, self.lanes, self.incarnation = codec, lanes, incarnation
        self.state = {name: np.zeros((LAYOUT.blocks, BLOCK), np.float32) for name in codec.state_planes}
        self.total = np.zeros((LAYOUT.blocks, BLOCK))

    def send(self, seed: int, factor: float = 1.0) -> None:
        frame = b"".join(self.codec.encode(plane(seed), self.state, BLOCKS))
        self.lanes.add(self.incarnation, frame, factor)
        part = np.zeros((LAYOUT.blocks, BLOCK), np.float32)
        self.codec.add(frame, part, BLOCKS, factor=factor)
        self.total += part


def test_estimates_leave_with_their_worker() -> None:
    codec, _ = topk()
    lanes = aggregate(codec, "sum")
    workers = [Lane(codec, lanes, incarnation) for incarnation in (1, 2, 3)]
    for seed in range(9):
        workers[seed % 3].send(seed, factor=1.0 if seed % 2 else 0.5)
    lanes.retire(2)
    left = workers[0].total + workers[2].total
    assert np.allclose(lanes.gradient(1), left, atol=1e-5)
    lanes.retire(1)
    assert np.allclose(lanes.gradient(1), workers[2].total, atol=1e-5)
    lanes.retire(3)
    assert bits(lanes.gradient(1)) == bytes(4 * left.size), "zero to the bit"


def test_a_retired_worker_leaves_no_estimate_behind() -> None:
    """A unit that it pushed before may be settled after."""
    codec, _ = topk()
    lanes = aggregate(codec)
    gone, there = Lane(codec, lanes, 1), Lane(codec, lanes, 2)
    gone.send(1)
    there.send(2)
    lanes.retire(1)
    gone.send(3)
    assert np.allclose(lanes.gradient(1), there.total, atol=1e-5), "one lane, the divisor is 1"


def test_the_mean_is_over_the_lanes_that_have_an_estimate() -> None:
    codec, _ = topk()
    lanes = aggregate(codec)
    workers = [Lane(codec, lanes, incarnation) for incarnation in (1, 2)]
    workers[0].send(1)
    assert np.allclose(lanes.gradient(1), workers[0].total, atol=1e-5)
    workers[0].send(2)
    workers[1].send(3)
    want: Plane = (workers[0].total + workers[1].total) / 2
    assert np.allclose(lanes.gradient(2), want, atol=1e-5)


@pytest.mark.parametrize(("rule", "divisor"), [("mean", 2), ("sum", 1)])
def test_sums_without_estimates_begin_at_zero_again(rule: str, divisor: int) -> None:
    codec, _ = dense()
    lanes = aggregate(codec, rule)
    for _ in range(2):
        workers = [Lane(codec, lanes, incarnation) for incarnation in (1, 2)]
        for seed, worker in enumerate(workers):
            worker.send(seed, factor=0.25)
        lanes.retire(1)
        want = (workers[0].total + workers[1].total) / divisor
        assert np.allclose(lanes.gradient(2), want, atol=1e-6), "what is no estimate stays"


def test_a_damaged_frame_makes_no_lane() -> None:
    codec, _ = topk()
    lanes = aggregate(codec)
    Lane(codec, lanes, 1).send(1)
    before = bits(lanes.gradient(1))
    with pytest.raises(DamagedFrame):
        lanes.add(2, b"", 1.0)
    assert bits(lanes.gradient(1)) == before
