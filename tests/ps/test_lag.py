"""A shard of a segment in which units lag: those of the next step come early, and wait for their turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from ps.ledger import Verdict
from ps.publish import Delta
from ps.records import Accept, Close, Segment
from ps.shard import Shard
from tests.ps.models import STREAMS, Cluster, bits, close, dense, spec_of, topk
from wire.codec.base import DeltaCodec, PushCodec
from wire.errors import ProtocolMismatch

Codecs = tuple[PushCodec, DeltaCodec]
LAGGING = Segment(0, 0, lag=1)
BOTH = pytest.mark.parametrize("codecs", [dense(), topk()], ids=["dense", "topk"])


def units(cluster: Cluster, steps: int) -> list[list[Accept]]:
    """Of each step, by stream."""
    return [[cluster.unit(0, step, stream) for stream in range(STREAMS)] for step in range(steps)]


def state(shard: Shard) -> Mapping[str, bytes]:
    return {name: bits(plane) for name, plane in shard.planes().items()}


@BOTH
def test_units_that_come_early_change_no_bit(codecs: Codecs) -> None:
    cluster, later = Cluster(codecs=codecs, segment=LAGGING), Cluster(codecs=codecs)
    (shard,), (expected,) = cluster.shards, later.shards
    first, second, third = units(cluster, 3)
    for unit in (*first[:2], *second[1:], *first[2:]):
        assert shard.apply(unit) is Verdict.ADMIT
    assert shard.judge(third[0].unit, 0, 7) is Verdict.EARLY
    assert shard.apply(replace(second[1], attempt=3)) is Verdict.ACCEPTED, "by whichever attempt"
    assert shard.apply(close(0)) is not None and sorted(shard.held) == [STREAMS + 1, STREAMS + 2]
    assert [unit.unit.step for unit in shard.accepted_from(0)] == [1, 1]

    again = Shard(spec_of(0, shard.spec.ranges, segment=LAGGING), *codecs)
    again.restore(shard.image())
    for one in (shard, again):
        with pytest.raises(ProtocolMismatch, match="close of step 1"):
            one.apply(close(1))
        for unit in (second[0], *third):
            assert one.apply(unit) is Verdict.ADMIT
        for step in (1, 2):
            one.apply(close(step))
    for step in range(3):
        later.step(step)
    assert state(shard) == state(again) == state(expected)
    assert not shard.held and not shard.accepted


def test_room_is_kept_for_what_is_still_to_come_of_the_open_step() -> None:
    cluster = Cluster(segment=LAGGING)
    (shard,) = cluster.shards
    first, second = units(cluster, 2)
    most = shard.max_frame_bytes
    assert shard.bytes_before(first[0].unit) == 0
    assert shard.bytes_before(second[0].unit) == STREAMS * most
    shard.apply(first[0])
    shard.apply(second[1])
    assert shard.bytes_before(second[0].unit) == (STREAMS - 1) * most


def test_that_the_step_after_next_drains_is_handed_on() -> None:
    cluster = Cluster(segment=LAGGING)
    (shard,) = cluster.shards
    for unit in units(cluster, 1)[0]:
        shard.apply(unit)
    delta = shard.apply(Close(0, tuple(range(STREAMS)), False, False, 0, drain=True))
    assert isinstance(delta, Delta) and delta.drain
    again = Cluster(segment=LAGGING).shards[0]
    again.restore(shard.image())
    assert again.deltas.get(0) == delta


@BOTH
def test_from_one_exact_segment_to_the_next_estimates_go_on(codecs: Codecs) -> None:
    """The streams' state does, so the sum of what the servers know of it must."""
    cluster, straight = Cluster(codecs=codecs), Cluster(codecs=codecs)
    (shard,), (expected,) = cluster.shards, straight.shards
    first, second, third = units(cluster, 3)
    for step, of_step in enumerate((first, second)):
        for unit in of_step:
            shard.apply(unit)
        shard.apply(replace(close(step), pause=step == 1, deposit=step == 1))
    shard.apply(Segment(1, 2, lag=1))
    assert shard.apply(replace(third[0], unit=third[0].unit._replace(step=4))) is Verdict.EARLY
    for unit in third:
        assert shard.apply(unit) is Verdict.ADMIT
    assert shard.apply(replace(third[0], unit=third[0].unit._replace(step=3))) is Verdict.ADMIT
    shard.apply(close(2))
    for step in range(3):
        straight.step(step)
    assert state(shard) == state(expected)
