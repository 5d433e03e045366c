"""A small model with every awkward shape, and shards of it fed with the units of a few steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from coordinator.placement import place
from ps.records import Accept, Close, Segment, ShardSpec
from ps.shard import Shard
from wire.codec.base import Blocks, DeltaCodec, PushCodec
from wire.codec.chain import delta_codec, push_codec
from wire.codec.dense import pack
from wire.ids import UnitId
from wire.layout import BLOCK, FROZEN, BlockRange, Layout, Parameter, intersect
from wire.messages import Commit, OptimizerSpec

Plane = NDArray[np.float32]
LAYOUT = Layout(
    (
        Parameter("embedding", (5, 1000), "float32", 0),
        Parameter("bias", (7,), "float32", 1),
        Parameter("frozen", (4100,), "float32", FROZEN),
        Parameter("scale", (), "float32", 1),
        Parameter("weight", (130, 130), "float32", 0),
        Parameter("tail", (4097,), "float32", 1),
    )
)
WHOLE = (BlockRange(0, LAYOUT.blocks),)
TRAINABLE = LAYOUT.select(trainable=True)
STREAMS = 3
ADAMW = OptimizerSpec(
    "adamw",
    tuple(
        {"lr": lr, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": decay, "maximize": 0.0}
        for lr, decay in ((3e-3, 0.1), (1e-2, 0.0))
    ),
)


def sgd(*, momentum: float = 0.0, nesterov: bool = False, decay: float = 0.0) -> OptimizerSpec:
    """SGD with two groups that differ in learning rate."""
    options = {"momentum": momentum, "weight_decay": decay, "nesterov": float(nesterov), "maximize": 0.0}
    return OptimizerSpec("sgd", tuple({"lr": lr, **options} for lr in (0.1, 0.03)))


def dense() -> tuple[PushCodec, DeltaCodec]:
    return (
        push_codec(codec="dense"),
        delta_codec(codec="dense"),
    )


def topk() -> tuple[PushCodec, DeltaCodec]:
    return (
        push_codec(codec="topk", density=0.25, feedback="ef21", momentum=0.5, values="sign2"),
        delta_codec(codec="topk", density=0.25, values="sign2"),
    )


def returning() -> tuple[PushCodec, DeltaCodec]:
    """Dense both ways, for units that may be given back in part."""
    return (
        push_codec(codec="dense", carries=True),
        dense()[1],
    )


def plane(seed: int) -> Plane:
    """Noise in all real elements of the model, zeros in the padding: [blocks, 4096]."""
    values = np.random.default_rng(seed).standard_normal((LAYOUT.blocks, BLOCK)).astype(np.float32)
    real = np.arange(BLOCK) < np.asarray(LAYOUT.lengths)[:, None]
    return np.where(real, values, np.float32(0))


def gradient(step: int, stream: int) -> Plane:
    return plane(1000 + 10 * step + stream)


def commit(rates: Sequence[float] = (3e-3, 1e-2), *, empty: str = "") -> Commit:
    return Commit(empty, 8, 64, 1.0, 1.0, tuple(rates))


def close(step: int, *, streams: int = STREAMS, final: bool = False, retain_from: int = 0) -> Close:
    return Close(step, tuple(range(streams)), False, final, retain_from)


EXACT = Segment(0, 0)
NAMED = Segment(0, 0, elastic=True)
ARRIVAL = Segment(0, 0, elastic=True, arrival=True)


def spec_of(
    shard: int,
    ranges: tuple[BlockRange, ...],
    optimizer: OptimizerSpec = ADAMW,
    aggregate: str = "mean",
    segment: Segment = EXACT,
    *,
    streams: int = STREAMS,
) -> ShardSpec:
    return ShardSpec(
        shard, 1, 1, LAYOUT, ranges, optimizer, streams, aggregate, segment, damping=0.5, max_staleness=2.0
    )


class Cluster:
    """The model on `servers` shards, initialised; streams encode for all of them."""

    def __init__(
        self,
        servers: int = 1,
        *,
        optimizer: OptimizerSpec = ADAMW,
        codecs: tuple[PushCodec, DeltaCodec] | None = None,
        aggregate: str = "mean",
        segment: Segment | None = None,
    ) -> None:
        self.push, self.pull = codecs or dense()
        self.ranges = place(LAYOUT, servers)
        self.shards = [
            Shard(spec_of(i, ranges, optimizer, aggregate, segment or EXACT), self.push, self.pull)
            for i, ranges in enumerate(self.ranges)
        ]
        self.states = [
            {name: np.zeros((LAYOUT.blocks, BLOCK), np.float32) for name in self.push.state_planes}
            for _ in range(STREAMS)
        ]
        for shard in self.shards:
            for name in ("x", "published"):
                shard.load(name, pack(plane(1), Blocks.of(LAYOUT, shard.spec.ranges)))

    def blocks(self, shard: int) -> Blocks:
        """The trainable blocks of a shard as rows of whole-model planes."""
        ranges = [r for owned in self.ranges[shard] for r in _cut(owned)]
        return Blocks.of(LAYOUT, ranges)

    def unit(self, shard: int, step: int, stream: int, *, attempt: int = 0, empty: str = "") -> Accept:
        frame = b""
        if not empty:
            frame = b"".join(
                self.push.encode(gradient(step, stream), self.states[stream], self.blocks(shard))
            )
        return Accept(UnitId(1, step, stream), attempt, 7, commit(empty=empty), frame)

    def step(self, step: int, *, order: Sequence[int] = (0, 1, 2), empty: Sequence[int] = ()) -> None:
        """One whole step; `order`: of arrival."""
        for index, shard in enumerate(self.shards):
            units = [self.unit(index, step, s, empty="epoch_end" * (s in empty)) for s in range(STREAMS)]
            for stream in order:
                shard.apply(units[stream])
            shard.apply(close(step))

    def whole(self, name: str) -> Plane:
        """A plane of all shards, in block order."""
        whole = np.full((LAYOUT.blocks, BLOCK), np.nan, np.float32)
        for shard in self.shards:
            whole[Blocks.of(LAYOUT, shard.spec.ranges).rows] = shard.planes()[name]
        return whole


class Worker:
    """A worker of an elastic segment: codec state of its own, one frame a unit and shard, kept until settled."""

    def __init__(self, cluster: Cluster, incarnation: int) -> None:
        self.cluster, self.incarnation = cluster, incarnation
        self.state = {
            name: np.zeros((LAYOUT.blocks, BLOCK), np.float32) for name in cluster.push.state_planes
        }

    def unit(
        self,
        number: int,
        *,
        base: int = 0,
        shard: int = 0,
        gradient: Plane | None = None,
        rates: Sequence[float] = (0.1, 0.1),
        empty: str = "",
    ) -> Accept:
        frame = b""
        if not empty:
            values = plane(number) if gradient is None else gradient
            frame = b"".join(self.cluster.push.encode(values, self.state, self.cluster.blocks(shard)))
        unit = UnitId.of(1, number, STREAMS)
        return Accept(unit, 0, self.incarnation, commit(rates, empty=empty), frame, base)

    def give_back(self, push: Accept, factor: float) -> None:
        blocks = self.cluster.blocks(0)
        self.cluster.push.give_back(push.frame, self.state, blocks, share=1.0 - factor)


def _cut(owned: BlockRange) -> list[BlockRange]:
    return intersect([owned], TRAINABLE)


def bits(values: Plane) -> bytes:
    return values.tobytes()
