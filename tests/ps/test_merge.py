"""Merges against the equation of algorithms written out in float64, element by element."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from ps.aggregate import Aggregate, LaneAggregate
from ps.merge import Merge
from tests.ps.models import LAYOUT, TRAINABLE, Plane, plane
from wire.codec.base import Blocks, Decoded, PushCodec
from wire.codec.chain import push_codec
from wire.codec.cut import Classes
from wire.layout import BLOCK

BLOCKS = Blocks.of(LAYOUT, TRAINABLE)
TOKENS = (64, 16, 48)
MERGES = [
    Merge("mean"),
    Merge("mean", by_tokens=True),
    Merge("count", 0.0),
    Merge("count", 0.5),
    Merge("count", 1.0, by_tokens=True),
    Merge("sum"),
]


def sparse() -> PushCodec:
    """Top-k; vectors go whole."""
    classes = Classes.by_policy(LAYOUT, ("1d=fp16",))
    return push_codec(codec="topk", density=1 / 16, values="sign1", feedback="ef", classes=classes)


def pushed(codec: PushCodec, seed: int) -> bytes:
    state = {name: np.zeros((LAYOUT.blocks, BLOCK), np.float32) for name in codec.state_planes}
    return b"".join(codec.encode(plane(seed), state, BLOCKS))


def expected(merge: Merge, codec: PushCodec, pushes: Sequence[Decoded], tokens: Sequence[int]) -> Plane:
    """Σ_r w_r Δ_rj R / (n_j^γ R^(1-γ)), from what each frame decodes to alone."""
    shape = (LAYOUT.blocks, BLOCK)
    total, sent, units = np.zeros(shape), np.zeros(shape), len(pushes)
    for push, own in zip(pushes, tokens, strict=True):
        part, count = np.zeros(shape, np.float32), np.zeros(shape, np.uint16)
        push.add_to(part)
        push.count_to(count)
        assert set(np.unique(count)) <= {0, 1}
        assert not part[count == 0].any(), "what was not sent moves nothing"
        weight = own / sum(tokens) if merge.by_tokens else 1 / units
        total += (1.0 if merge.rule == "sum" else weight * units) * part
        sent += count
    if merge.rule == "sum":
        return total
    gamma = merge.power if merge.rule == "count" else 0.0
    return total / (np.maximum(sent, 1) ** gamma * units ** (1 - gamma))


@pytest.mark.parametrize("merge", MERGES, ids=str)
def test_units_of_a_step(merge: Merge) -> None:
    codec = sparse()
    pushes = [codec.decode(pushed(codec, seed), BLOCKS) for seed in (1, 2, 3)]
    aggregate = Aggregate(codec, rows=LAYOUT.blocks, streams=3, merge=merge)
    for _ in range(2):  # nothing of the first one is left in the second
        found = aggregate.gradient([(push, 1.0) for push in pushes], TOKENS)
        assert np.allclose(found, expected(merge, codec, pushes, TOKENS), rtol=1e-6, atol=0)


@pytest.mark.parametrize("merge", MERGES, ids=str)
def test_units_that_a_close_names(merge: Merge) -> None:
    """As in an exact segment, and each with its factor."""
    codec = sparse()
    frames = [pushed(codec, seed) for seed in (1, 2, 3)]
    lanes = LaneAggregate(codec, BLOCKS, rows=LAYOUT.blocks, merge=merge, counting=True)
    for _ in range(2):
        for worker, (frame, share) in enumerate(zip(frames, merge.shares(TOKENS), strict=True)):
            lanes.add(worker, frame, share)
        want = expected(merge, codec, [codec.decode(f, BLOCKS) for f in frames], TOKENS)
        assert np.allclose(lanes.gradient(3), want, rtol=1e-6, atol=0)


def test_units_on_arrival_count_by_the_power_of_their_number() -> None:
    """α R^(γ-1) Δ̂ each: with the share k / R of a step that k units are."""
    codec, merge, streams = sparse(), Merge("count", 0.5), 4
    lanes = LaneAggregate(
        codec, BLOCKS, rows=LAYOUT.blocks, merge=merge, counting=False, gain=merge.gain(streams)
    )
    total = np.zeros((LAYOUT.blocks, BLOCK))
    for worker in range(2):
        part = np.zeros((LAYOUT.blocks, BLOCK), np.float32)
        codec.add(pushed(codec, worker), part, BLOCKS)
        lanes.add(worker, pushed(codec, worker), 1.0)
        total += part
    assert np.allclose(lanes.gradient(2) * 2 / streams, total * streams**-0.5, rtol=1e-6, atol=0)


def test_a_mean_is_one_division_by_a_whole_number() -> None:
    """To the bit what it was before there were other merges: shares of 1, then the sum over R."""
    codec = push_codec(codec="dense")
    pushes = [codec.decode(pushed(codec, seed), BLOCKS) for seed in (1, 2, 3)]
    total = np.zeros((LAYOUT.blocks, BLOCK), np.float32)
    for push in pushes:
        push.add_to(total)
    for merge in (Merge("mean"), Merge("mean", by_tokens=True)):
        aggregate = Aggregate(codec, rows=LAYOUT.blocks, streams=3, merge=merge)
        found = aggregate.gradient([(push, 1.0) for push in pushes], (7, 7, 7))
        assert np.array_equal(found, total / np.float32(3))
