"""Deltas as they arrive: one queue a shard, and which of them may be entered now. Pure; no sockets, no threads.

A delta that closes no step is entered on its own. Closing ones are entered together, once every
shard's next delta is the closing one of the same step: a worker computes on a step of all
shards or of none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from wire.codec.base import Buffer, DecodedDelta, Frame, frame_bytes
from wire.ids import UnitId
from wire.messages import unit_from_proto
from wire.v1 import shard_pb2


@dataclass(frozen=True)
class Outcome:
    """`factor` of a unit is in the model, the rest goes back to its sender."""

    unit: UnitId
    factor: float


@dataclass(frozen=True)
class Delta:
    """One shard's delta from `version` to `version` + 1, with what its header says."""

    shard: int
    version: int
    frame: Frame
    step: int
    closes: bool
    clock: int = 0
    deposit: bool = False
    final: bool = False
    pause: bool = False
    drain: bool = False
    outcomes: tuple[Outcome, ...] = ()
    move: DecodedDelta | None = None
    """The frame, decoded ahead of its turn."""

    @property
    def told_step(self) -> int:
        """What a trace says: those that close nothing all have the first step of their segment."""
        return self.step if self.closes else self.clock


def delta_from_proto(header: shard_pb2.DeltaHeader, frame: tuple[Buffer, ...]) -> Delta:
    return Delta(
        shard=header.shard,
        version=header.version,
        frame=frame,
        step=header.step,
        closes=header.closes,
        clock=header.clock,
        deposit=header.deposit,
        final=header.final,
        pause=header.pause,
        drain=header.drain,
        outcomes=tuple(Outcome(unit_from_proto(o.unit), o.factor) for o in header.outcomes),
    )


class DeltaQueues:
    """What has arrived of each shard, in the order of its versions, and was not taken yet."""

    def __init__(self, shards: int) -> None:
        self.begin([0] * shards)

    def begin(self, steps: Sequence[int]) -> None:
        """Forget all. What arrives from now on follows on shard i's state before `steps[i]` is closed."""
        self._queues: list[deque[Delta]] = [deque() for _ in steps]
        self._steps = list(steps)

    def put(self, delta: Delta) -> None:
        self._queues[delta.shard].append(delta)

    def waiting_bytes(self, shard: int) -> int:
        """Of the frames of a shard that were not taken yet."""
        return sum(frame_bytes(delta.frame) for delta in self._queues[shard])

    @property
    def ready(self) -> bool:
        """Whether `take` has something to give."""
        return bool(self._next())

    def take(self) -> Sequence[Delta]:
        """The next deltas that are entered together, by shard; none when they are not all here."""
        taken = [self._queues[shard].popleft() for shard in self._next()]
        for delta in taken:
            if delta.closes:
                self._steps[delta.shard] = delta.step + 1
        return taken

    def _next(self) -> list[int]:
        heads = {shard: queue[0] for shard, queue in enumerate(self._queues) if queue}
        for shard, head in heads.items():
            if not head.closes:
                return [shard]
        if not heads:
            return []
        step = min(head.step for head in heads.values())
        closing = [shard for shard, head in heads.items() if head.step == step]
        # A shard that was pulled as it was may have stood behind that step already.
        behind = (self._steps[s] > step for s in range(len(self._queues)) if s not in closing)
        return closing if all(behind) else []
