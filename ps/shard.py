"""One shard of the model as a deterministic state machine: `apply(record)` is all that changes it.

A record is what the log holds: a push that was admitted, a fence, a close. Applying the same
records in the same order gives the same state, bit for bit; nothing here reads a clock, draws
a random number or depends on the order in which pushes arrived. Composes the ledger (what
counts), the aggregate, the optimizer and the delta log.

Legend: n = blocks of the shard; planes are float32 [n, 4096].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ps.aggregate import Aggregate
from ps.ledger import Ledger, Verdict
from ps.optimizer import Optimizer
from ps.publish import Delta, DeltaLog, Outcome
from wire.codec.base import Blocks, DeltaCodec, PushCodec
from wire.codec.dense import unpack
from wire.errors import BadUnit, ProtocolMismatch
from wire.ids import UnitId
from wire.layout import BLOCK, BlockRange, Layout, intersect
from wire.messages import Commit, OptimizerSpec

Plane = NDArray[np.float32]


@dataclass(frozen=True)
class ShardSpec:
    """All that a shard is made from; equal specs and equal records give equal shards."""

    shard: int
    timeline: int
    plan: int
    layout: Layout
    ranges: tuple[BlockRange, ...]
    optimizer: OptimizerSpec
    streams: int
    aggregate: str
    first_step: int


@dataclass(frozen=True)
class Accept:
    """A committed push that the ledger admitted. `frame` is empty for an empty unit."""

    unit: UnitId
    attempt: int
    incarnation: int
    commit: Commit
    frame: bytes


@dataclass(frozen=True)
class Fence:
    """Refuse attempts of `stream` below `attempt`."""

    step: int
    stream: int
    attempt: int


@dataclass(frozen=True)
class Close:
    """Settle exactly `streams` of `step`, in that order, and publish."""

    step: int
    streams: tuple[int, ...]
    deposit: bool
    final: bool
    retain_from: int
    pause: bool = False


Record = Accept | Fence | Close


@dataclass(frozen=True)
class Fenced:
    """Answer to a fence: whether the unit stands here all the same."""

    record: Fence
    accepted: bool


class Shard:
    """State of one shard. Not thread-safe: one owner applies records."""

    def __init__(self, spec: ShardSpec, push: PushCodec, pull: DeltaCodec) -> None:
        self.spec = spec
        rows = sum(r.blocks for r in spec.ranges)
        trainable = intersect(spec.ranges, spec.layout.select(trainable=True))
        self.blocks = Blocks.of(spec.layout, spec.ranges, local_to=spec.ranges)
        self.trainable = Blocks.of(spec.layout, trainable, local_to=spec.ranges)
        self._push, self._pull = push, pull
        self._x: Plane = np.zeros((rows, BLOCK), np.float32)
        self._published: Plane = np.zeros_like(self._x)
        self._aggregate = Aggregate(
            push, self.trainable, rows=rows, streams=spec.streams, rule=spec.aggregate
        )
        self._optimizer = Optimizer(spec.optimizer, _local_runs(spec), self._x)
        self.ledger = Ledger(spec.timeline, spec.streams, spec.first_step)
        self.deltas = DeltaLog(spec.first_step)
        self.held: dict[int, Accept] = {}

    @property
    def stream_planes(self) -> tuple[str, ...]:
        """Names of the planes of a stream's state, which this shard keeps as deposits."""
        return self._push.state_planes

    @property
    def max_frame_bytes(self) -> int:
        """Most bytes that a push to this shard can have."""
        return self._push.max_frame_bytes(self.trainable)

    def planes(self) -> Mapping[str, Plane]:
        """Every plane that a checkpoint holds, by name."""
        return {
            "x": self._x,
            "published": self._published,
            **self._optimizer.planes(),
            **self._aggregate.planes(),
        }

    def scalars(self) -> dict[str, float]:
        return self._optimizer.scalars()

    def load_scalars(self, scalars: dict[str, float]) -> None:
        self._optimizer.load_scalars(scalars)

    def apply(self, record: Record) -> Verdict | Fenced | Delta:
        """Change the state by one record.

        Returns:
            Of an accept its verdict (ADMIT: it is held now; anything else changed nothing), of
            a fence whether the unit stands here, of a close the delta that it published.

        Raises:
            DamagedFrame: the frame does not decode; nothing has changed.
            ProtocolMismatch: the record contradicts the state; nothing has changed.
            BadUnit: the close made the model infinite or NaN: the shard is of no use any more.
        """
        match record:
            case Accept():
                return self._accept(record)
            case Fence():
                return Fenced(record, self.ledger.fence(record.step, record.stream, record.attempt))
            case Close():
                return self._close(record)

    def _accept(self, record: Accept) -> Verdict:
        verdict = self.ledger.judge(record.unit, record.attempt)
        if verdict is not Verdict.ADMIT:
            return verdict
        if len(record.commit.learning_rates) != len(self.spec.optimizer.groups):
            raise ProtocolMismatch(
                f"{record.unit}: the commit carries {len(record.commit.learning_rates)} learning rates, "
                f"the optimizer has {len(self.spec.optimizer.groups)} parameter groups"
            )
        if not record.commit.empty_reason:
            self._push.validate(record.frame, self.trainable)
        self.ledger.accept(record.unit, record.attempt)
        self.held[record.unit.stream] = record
        return verdict

    def _close(self, record: Close) -> Delta:
        if record.step < self.ledger.step:
            return self._closed(record.step)
        missing = [s for s in record.streams if s not in self.held]
        if record.step > self.ledger.step or missing:
            raise ProtocolMismatch(
                f"close of step {record.step} with streams {list(record.streams)}: this shard is at step "
                f"{self.ledger.step} and holds {sorted(self.held)}"
            )
        units = [self.held[stream] for stream in record.streams]
        filled = [u for u in units if not u.commit.empty_reason]
        gradient = self._aggregate.gradient([u.frame for u in filled])
        if filled:  # the coordinator closes no step whose commits disagree on the learning rates
            self._optimizer.step(gradient, filled[0].commit.learning_rates)
        delta = Delta(
            version=self.deltas.version,
            step=record.step,
            outcomes=tuple(Outcome(u.unit, 1.0) for u in units),
            frame=self._publish(record.step),
            deposit=record.deposit,
            final=record.final,
            closes=True,
            clock=record.step + 1,
            pause=record.pause,
        )
        self.deltas.append(delta)
        self.deltas.trim_steps(record.retain_from)
        self.ledger.close(record.step)
        self.held.clear()
        return delta

    def _publish(self, step: int) -> bytes:
        try:
            return self._pull.publish(self._x, self._published, self.trainable)
        except FloatingPointError:
            raise BadUnit(
                f"step {step} made the model infinite or NaN on shard {self.spec.shard}, though every unit was finite; "
                "lower the learning rate or clip the gradients, and resume the newest checkpoint"
            ) from None

    def _closed(self, step: int) -> Delta:
        """The first answer to a close that is repeated."""
        delta = self.deltas.closing(step)
        if delta is None:
            raise ProtocolMismatch(f"close of step {step}: it is closed, and its delta is no longer retained")
        return delta

    def load(self, name: str, data: bytes) -> None:
        """Fill a plane from packed float32 (padding left out), before the first record.

        Raises: ProtocolMismatch once records have been applied, as by the late upload of a worker given up.
        """
        if self.held or self.deltas.version != self.spec.first_step:
            raise ProtocolMismatch(f"plane {name!r}: the run has begun, its initial planes are fixed")
        unpack(data, self.planes()[name], self.blocks)


def _local_runs(spec: ShardSpec) -> list[tuple[int, BlockRange]]:
    """The shard's parameter-group runs, as rows of its own planes."""
    runs: list[tuple[int, BlockRange]] = []
    offset = 0
    for owned in spec.ranges:
        for group, r in spec.layout.groups([owned]):
            start = offset + r.start - owned.start
            runs.append((group, BlockRange(start, start + r.blocks)))
        offset += owned.blocks
    return runs
