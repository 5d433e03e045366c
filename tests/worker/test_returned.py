"""What a close counts in part comes back once, before the unit that is computed with that close in x̂."""

from __future__ import annotations

import random

import numpy as np
import pytest

from wire.codec.base import Blocks, Plane, PushCodec
from wire.codec.chain import push_codec
from wire.ids import UnitId
from wire.layout import BLOCK, BlockRange, Layout, Parameter
from worker.deltas import Delta, Outcome
from worker.returned import Returned

LAYOUT = Layout((Parameter("a", (3, 3000), "float32", 0), Parameter("b", (5000,), "float32", 0)))
SHARDS = [Blocks.of(LAYOUT, [BlockRange(0, 2)]), Blocks.of(LAYOUT, [BlockRange(2, LAYOUT.blocks)])]
STREAM, STEPS = 2, 9
Planes = dict[str, Plane]


def codec_of(feedback: str) -> PushCodec:
    kind = "dense" if feedback == "none" else "topk"
    return push_codec(codec=kind, density=0.1, feedback=feedback, carries=True)


def zeros() -> Plane:
    return np.zeros((LAYOUT.blocks, BLOCK), np.float32)


def gaussian(seed: int) -> Plane:
    made = np.random.default_rng(seed).standard_normal((LAYOUT.blocks, BLOCK)).astype(np.float32)
    return np.where(np.arange(BLOCK) < np.array(LAYOUT.lengths)[:, None], made, np.float32(0))


class Stream:
    """One stream in somebody's hands."""

    def __init__(self, codec: PushCodec, planes: Planes, step: int) -> None:
        self.codec, self.planes, self.step = codec, planes, step
        self.returned = Returned(codec, SHARDS, on=True)

    def compute(self, *, lag: int = 0) -> list[bytes]:
        """The next unit, computed on x̂ as the step `lag` before it began."""
        self.returned.take_back(STREAM, self.planes, before=self.step - lag)
        frames = [b"".join(self.codec.encode(gaussian(self.step), self.planes, b)) for b in SHARDS]
        self.returned.keep(STREAM, self.step, [[frame] for frame in frames])
        self.step += 1
        return frames

    def settle(self, *steps: int, position: int = 0) -> None:
        for step in steps:
            self.returned.hear(deltas(step), position=position)


def factor(step: int) -> float:
    return (1.0, 0.25, 1.0, 0.0, 0.7)[step % 5]


def deltas(step: int) -> list[Delta]:
    """The closing ones of a step, one a shard; another stream's unit in them is clipped too."""
    outcomes = tuple(Outcome(UnitId(1, step, stream), factor(step)) for stream in (STREAM - 1, STREAM))
    return [Delta(shard, step, b"", step, closes=True, outcomes=outcomes) for shard in range(2)]


def begun(feedback: str) -> Stream:
    codec = codec_of(feedback)
    return Stream(codec, {name: zeros() for name in codec.state_planes}, 0)


@pytest.mark.parametrize("feedback", ["ef", "none"])
@pytest.mark.parametrize("lag", [0, 1])
def test_produced_is_applied_and_held(feedback: str, lag: int) -> None:
    stream, applied = begun(feedback), zeros()
    for step in range(STEPS):
        for blocks, frame in zip(SHARDS, stream.compute(lag=lag), strict=True):
            stream.codec.add(frame, applied, blocks, factor=factor(step))
        stream.settle(step, position=step)
    stream.returned.take_back(STREAM, stream.planes, before=STEPS)
    (held,) = stream.planes.values()
    produced = sum(gaussian(step).astype(np.float64) for step in range(STEPS))
    assert np.linalg.norm(produced - applied - held) <= 1e-6 * np.linalg.norm(produced)


def test_an_estimate_is_what_the_servers_have_of_it() -> None:
    stream, applied = begun("ef21"), zeros()
    for step in range(STEPS):
        for blocks, frame in zip(SHARDS, stream.compute(), strict=True):
            stream.codec.add(frame, applied, blocks, factor=factor(step))
        stream.settle(step)
    stream.returned.take_back(STREAM, stream.planes, before=STEPS)
    assert np.linalg.norm(stream.planes["estimate"] - applied) <= 1e-6 * np.linalg.norm(applied)


@pytest.mark.parametrize("feedback", ["ef", "ef21", "none"])
@pytest.mark.parametrize("deposit", [0, 3])
@pytest.mark.parametrize("seed", range(2))
def test_an_heir_who_replays_has_the_same_bits(feedback: str, deposit: int, seed: int) -> None:
    """It hears all of the history at once, with repeats; the first holder heard each close when it came."""
    first, kept, frames = begun(feedback), {}, []
    for step in range(STEPS):
        first.returned.take_back(STREAM, first.planes, before=step)
        kept[step] = {name: plane.copy() for name, plane in first.planes.items()}
        frames.append(first.compute())
        first.settle(step, position=step)

    heir = Stream(first.codec, {name: plane.copy() for name, plane in kept[deposit].items()}, deposit)
    history = list(range(deposit, STEPS - 1))
    heir.settle(*history, *random.Random(seed).sample(history, len(history)), position=deposit)
    for step in range(deposit, STEPS):
        assert heir.compute() == frames[step], step
        heir.settle(*range(deposit, step + 1), position=step)
    for holder in (first, heir):
        holder.returned.take_back(STREAM, holder.planes, before=STEPS)
    for name, plane in first.planes.items():
        np.testing.assert_array_equal(heir.planes[name].view(np.uint32), plane.view(np.uint32))


def test_when_a_delta_arrives_does_not_matter_but_which_close_x_holds() -> None:
    """Units that lag by one: the outcome of step t comes back before step t + 2, be it known before or not."""
    early, late = begun("ef"), begun("ef")
    for step in range(STEPS):
        if step > 0:
            early.settle(step - 1, position=step - 1)
        if step > 1:
            late.settle(step - 2, position=step - 1)
        assert early.compute(lag=1) == late.compute(lag=1), step


def test_nothing_piles_up_and_off_keeps_nothing() -> None:
    stream = begun("ef")
    for step in range(50):
        stream.compute()
        stream.settle(step, position=step)
    assert len(stream.returned._frames[STREAM]) == 1 and len(stream.returned._factors) <= 2
    stream.returned.forget(STREAM)
    stream.settle(50, position=50)
    before = {name: plane.copy() for name, plane in stream.planes.items()}
    stream.returned.take_back(STREAM, stream.planes, before=99)
    off = Returned(stream.codec, SHARDS, on=False)
    off.keep(STREAM, 1, [[b"x"], [b"y"]])
    off.hear(deltas(1), position=1)
    off.take_back(STREAM, stream.planes, before=99)
    assert not off._frames and not off._factors
    for name, plane in stream.planes.items():
        np.testing.assert_array_equal(plane, before[name])
