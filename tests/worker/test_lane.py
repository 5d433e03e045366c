"""Mass is conserved: what a worker produced is in the model, or is held for later pushes."""

from __future__ import annotations

import random

import numpy as np
import pytest

from wire.codec.base import Blocks, Plane, PushCodec
from wire.codec.chain import FLUSH, push_codec
from wire.ids import UnitId
from wire.layout import BLOCK, BlockRange, Layout, Parameter
from worker.deltas import Delta, Outcome
from worker.lane import Lane

R = 4
LAYOUT = Layout((Parameter("a", (3, 3000), "float32", 0), Parameter("b", (5000,), "float32", 0)))
SHARDS = [Blocks.of(LAYOUT, [BlockRange(0, 2)]), Blocks.of(LAYOUT, [BlockRange(2, LAYOUT.blocks)])]


def codec(name: str) -> PushCodec:
    feedback = "none" if name == "dense" else "ef21" if name.startswith("ef21") else "ef"
    momentum = 0.3 if name.endswith("momentum") else 1.0
    kind = "dense" if name == "dense" else "topk"
    return push_codec(codec=kind, density=0.1, feedback=feedback, momentum=momentum, carries=True)


def zeros() -> Plane:
    return np.zeros((LAYOUT.blocks, BLOCK), np.float32)


class Servers:
    """What two shards do with frames: apply some factor of each, in any order, and tell it in a delta."""

    def __init__(self, codec: PushCodec, draw: random.Random) -> None:
        self._codec, self._draw = codec, draw
        self._held: list[tuple[int, int, bytes]] = []
        self._versions = [0, 0]
        self.applied = zeros()

    def accept(self, shard: int, unit: int, frame: bytes) -> None:
        self._held.append((shard, unit, frame))

    def publish(self, count: int) -> list[Delta]:
        """Settle up to `count` frames, each in a delta of its own."""
        deltas = []
        for _ in range(min(count, len(self._held))):
            shard, unit, frame = self._held.pop(self._draw.randrange(len(self._held)))
            factor = self._draw.choice([0.0, 1.0, 1.0, 0.25, self._draw.random()])
            self._codec.add(frame, self.applied, SHARDS[shard], factor=factor)
            outcome = Outcome(UnitId.of(1, unit, R), factor)
            deltas.append(Delta(shard, self._versions[shard], b"", step=0, closes=False, outcomes=(outcome,)))
            self._versions[shard] += 1
        return deltas


@pytest.mark.parametrize("name", ["dense", "topk"])
def test_what_is_on_its_way_is_what_was_sent_and_is_not_settled(name: str) -> None:
    lane, gradient, into = Lane(codec(name), zeros(), SHARDS, streams=R), zeros(), zeros()
    gradient[:] = np.random.default_rng(2).normal(size=gradient.shape)
    assert not lane.on_its_way(into)
    expected = zeros()
    for unit in (4, 5):
        for shard, blocks in enumerate(SHARDS):
            codec(name).add(b"".join(lane.encode(shard, unit, gradient)), expected, blocks)
    into += 7.0
    assert lane.on_its_way(into) and np.array_equal(into, expected) and into.any()
    for unit, shard in ((4, 0), (4, 1), (5, 1)):
        outcome = Outcome(UnitId.of(1, unit, R), 1.0)
        lane.settle(Delta(shard, 0, b"", step=0, closes=False, outcomes=(outcome,)))
    assert lane.on_its_way(into) and into[SHARDS[0].rows].any() and not into[SHARDS[1].rows].any()
    lane.settle(Delta(0, 1, b"", step=0, closes=False, outcomes=(Outcome(UnitId.of(1, 5, R), 0.5),)))
    assert not lane.on_its_way(into)


def run(name: str, *, units: int, seed: int) -> tuple[Lane, Plane, Plane]:
    """A worker that pushes while older units are settled in part. (lane, produced, applied)"""
    draw, noise = random.Random(seed), np.random.default_rng(seed)
    lane = Lane(codec(name), zeros(), SHARDS, streams=R)
    servers, produced = Servers(codec(name), draw), zeros()
    for unit in range(units):
        gradient = zeros()
        for blocks in SHARDS:
            for start, size in blocks.segments:
                gradient.reshape(-1)[start : start + size] = noise.normal(size=size)
        for shard in draw.choice([(0,), (1,), (0, 1), (0, 1)]):  # of some units only a part is needed
            produced[SHARDS[shard].rows] += gradient[SHARDS[shard].rows]
            servers.accept(shard, unit, b"".join(lane.encode(shard, unit, gradient)))
        for delta in servers.publish(draw.randrange(4)):
            lane.settle(delta)
    for delta in servers.publish(units * 2):
        lane.settle(delta)
    assert lane.unsettled == 0
    return lane, produced, servers.applied


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["ef", "dense"])
def test_produced_is_applied_and_held(name: str, seed: int) -> None:
    lane, produced, applied = run(name, units=60, seed=seed)
    (held,) = lane.planes.values()
    assert np.linalg.norm(produced.astype(np.float64) - applied - held) <= 1e-6 * np.linalg.norm(produced)
    assert lane.held_norm == pytest.approx(float(np.linalg.norm(held.astype(np.float64))), rel=1e-5)
    assert lane.held_norm > 0


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["ef21", "ef21-momentum"])
def test_an_estimate_is_what_the_servers_have_of_it(name: str, seed: int) -> None:
    lane, _, applied = run(name, units=60, seed=seed)
    estimate = lane.planes["estimate"].astype(np.float64)
    assert np.linalg.norm(estimate - applied) <= 1e-6 * np.linalg.norm(applied)
    assert lane.held_norm == 0.0


def test_what_is_settled_whole_changes_nothing_and_other_units_are_none_of_ours() -> None:
    lane = Lane(codec("ef"), zeros(), SHARDS, streams=R)
    assert list(lane.encode(0, 5, zeros() + 1))
    before = lane.planes["residual"].copy()
    others = tuple(Outcome(UnitId(1, *divmod(n, R)), 0.0) for n in (4, 6))
    lane.settle(Delta(0, 0, b"", step=0, closes=False, outcomes=others))
    lane.settle(Delta(1, 0, b"", step=0, closes=False, outcomes=(Outcome(UnitId(1, 1, 1), 0.0),)))
    assert lane.unsettled == 1, "that one stands on shard 0"
    lane.settle(Delta(0, 1, b"", step=0, closes=False, outcomes=(Outcome(UnitId(1, 1, 1), 1.0),)))
    assert lane.unsettled == 0
    assert np.array_equal(lane.planes["residual"], before)


@pytest.mark.parametrize("name", ["ef", "dense"])
def test_the_last_push_empties_the_lane_shard_by_shard(name: str) -> None:
    lane, produced, applied = run(name, units=20, seed=1)
    assert lane.held is not None and lane.holding == [0, 1]
    FLUSH.add(lane.rest(1), applied, SHARDS[1])
    assert lane.holding == [0, 1], "held until it is taken"
    lane.flushed(1)
    assert lane.holding == [0] and not lane.held[SHARDS[1].rows].any()
    FLUSH.add(lane.rest(0), applied, SHARDS[0])
    assert list(lane.encode(0, 99, zeros() + 1))
    lane.settle(Delta(0, 0, b"", step=0, closes=False, outcomes=(Outcome(UnitId.of(1, 99, R), 0.0),)))
    lane.flushed(0)
    produced[SHARDS[0].rows] += 1
    rest = produced.astype(np.float64) - applied - lane.held
    real = np.arange(BLOCK) < np.asarray(LAYOUT.lengths)[:, None]
    assert np.linalg.norm(rest[real]) <= 1e-6 * np.linalg.norm(produced), "what came back meanwhile is held"


def test_estimates_hold_nothing_back() -> None:
    lane, _, _ = run("ef21", units=5, seed=1)
    assert lane.holding == []


def test_what_nothing_was_applied_of_is_sent_again_whole() -> None:
    lane = Lane(codec("dense"), zeros(), SHARDS, streams=R)
    gradient = zeros()
    gradient[SHARDS[0].rows, :100] = 2.0
    frame = b"".join(lane.encode(0, 0, gradient))
    lane.settle(Delta(0, 0, b"", step=0, closes=False, outcomes=(Outcome(UnitId(1, 0, 0), 0.0),)))
    assert b"".join(lane.encode(0, 1, zeros())) == frame
