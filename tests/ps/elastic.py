"""What tests of elastic segments do to a shard: closes of both kinds, publications, and what they moved."""

from __future__ import annotations

from collections.abc import Sequence

from ps.publish import Delta
from ps.records import Close, Publish
from ps.shard import Shard
from tests.ps.models import (
    LAYOUT,
    TRAINABLE,
    Cluster,
    Plane,
    plane,
)
from wire.codec.base import Blocks

ROWS = Blocks.of(LAYOUT, TRAINABLE).rows
PUBLISH = Publish("it is time")


def barrier(step: int, *, pause: bool = False, final: bool = False) -> Close:
    return Close(step, (), False, final, 0, pause=pause)


def named(step: int, streams: Sequence[int], late: Sequence[int] = ()) -> Close:
    return Close(step, tuple(streams), False, False, 0, late=tuple(late))


def only(cluster: Cluster) -> Shard:
    (shard,) = cluster.shards
    return shard


def publish(shard: Shard) -> Delta:
    delta = shard.apply(PUBLISH)
    assert isinstance(delta, Delta)
    return delta


def moved(cluster: Cluster) -> Plane:
    return (cluster.whole("x") - plane(1))[ROWS]


def deltas(shard: Shard) -> list[Delta]:
    found = [shard.deltas.get(version) for version in range(shard.deltas.base, shard.deltas.version)]
    assert None not in found
    return [delta for delta in found if delta is not None]
