"""The contract's messages as plain values, and the way to and from protobuf.

The deciding code sees only these; servicers and clients convert at the edge.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wire.ids import Term, UnitId
from wire.layout import BlockRange, Layout, Parameter
from wire.v1 import common_pb2, shard_pb2

BAD_UNIT = "bad: "
"""Begins the `empty_reason` of a unit that is empty because something was wrong with it."""


@dataclass(frozen=True)
class OptimizerSpec:
    """What a worker's `inner` optimizer specifies: kind and hyperparameters by torch's names, a mapping a group."""

    kind: str
    groups: tuple[dict[str, float], ...]


@dataclass(frozen=True)
class Commit:
    """What holds for a whole push, the same on every shard. `empty_reason` not empty: it contributes nothing."""

    empty_reason: str
    samples: int
    tokens: int
    loss: float
    norm_sq: float
    learning_rates: tuple[float, ...]
    inner_rates: tuple[float, ...] = ()
    """With local steps those of the worker's own optimizer, at the unit's last step."""
    push_norm: float = 0.0

    @property
    def contributes(self) -> bool:
        return not self.empty_reason


@dataclass(frozen=True)
class ShardPlacement:
    """Where a shard lives and which blocks it owns."""

    shard: int
    address: str
    incarnation: int
    ranges: tuple[BlockRange, ...]
    term: int = 1


def unit_to_proto(unit: UnitId) -> common_pb2.Unit:
    return common_pb2.Unit(timeline=unit.timeline, step=unit.step, stream=unit.stream)


def unit_from_proto(unit: common_pb2.Unit) -> UnitId:
    return UnitId(unit.timeline, unit.step, unit.stream)


def term_to_proto(term: Term, *, journal_seq: int) -> common_pb2.Term:
    return common_pb2.Term(number=term.number, nonce=term.nonce, journal_seq=journal_seq)


def commit_to_proto(commit: Commit) -> shard_pb2.Commit:
    return shard_pb2.Commit(
        empty_reason=commit.empty_reason,
        samples=commit.samples,
        tokens=commit.tokens,
        loss=commit.loss,
        norm_sq=commit.norm_sq,
        learning_rates=commit.learning_rates,
        inner_rates=commit.inner_rates,
        push_norm=commit.push_norm,
    )


def commit_from_proto(commit: shard_pb2.Commit) -> Commit:
    return Commit(
        empty_reason=commit.empty_reason,
        samples=commit.samples,
        tokens=commit.tokens,
        loss=commit.loss,
        norm_sq=commit.norm_sq,
        learning_rates=tuple(commit.learning_rates),
        inner_rates=tuple(commit.inner_rates),
        push_norm=commit.push_norm,
    )


def ranges_to_proto(ranges: Iterable[BlockRange]) -> list[common_pb2.BlockRange]:
    return [common_pb2.BlockRange(start=r.start, stop=r.stop) for r in ranges]


def ranges_from_proto(ranges: Iterable[common_pb2.BlockRange]) -> tuple[BlockRange, ...]:
    return tuple(BlockRange(r.start, r.stop) for r in ranges)


def layout_to_proto(layout: Layout) -> list[common_pb2.Parameter]:
    return [
        common_pb2.Parameter(name=p.name, shape=p.shape, dtype=p.dtype, group=p.group)
        for p in layout.parameters
    ]


def layout_from_proto(parameters: Iterable[common_pb2.Parameter]) -> Layout:
    return Layout(tuple(Parameter(p.name, tuple(p.shape), p.dtype, p.group) for p in parameters))


def optimizer_to_proto(spec: OptimizerSpec) -> common_pb2.OptimizerSpec:
    groups = [common_pb2.OptimizerGroup(options=g) for g in spec.groups]
    return common_pb2.OptimizerSpec(kind=spec.kind, groups=groups)


def optimizer_from_proto(spec: common_pb2.OptimizerSpec) -> OptimizerSpec:
    return OptimizerSpec(spec.kind, tuple(dict(g.options) for g in spec.groups))


def placement_to_proto(placement: Sequence[ShardPlacement]) -> list[common_pb2.ShardPlacement]:
    return [
        common_pb2.ShardPlacement(
            shard=s.shard,
            address=s.address,
            incarnation=s.incarnation,
            ranges=ranges_to_proto(s.ranges),
            term=s.term,
        )
        for s in placement
    ]


def placement_from_proto(placement: Iterable[common_pb2.ShardPlacement]) -> tuple[ShardPlacement, ...]:
    return tuple(
        ShardPlacement(s.shard, s.address, s.incarnation, ranges_from_proto(s.ranges), s.term)
        for s in placement
    )
