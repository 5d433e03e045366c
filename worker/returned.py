"""What of an exact segment's pushes comes back: kept until x̂ tells how much of each unit counts. Pure.

A unit that a close counts in part (`push.clip`) goes back for the rest into its stream's state, *before the stream's
first unit that is computed with that close in x̂*: a moment that does not depend on when the delta arrived, nor on who
computes. An heir that replays keeps what it compresses, hears the same deltas, and takes the same back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wire.codec.base import Blocks, PushCodec
from worker.deltas import Delta
from worker.planes import Plane

Frames = Sequence[Sequence[bytes]]
"""A unit's frame for each shard."""


class Returned:
    """Frames of units whose outcome is not taken in yet, and the outcomes that are no whole ones.

    Args:
        trainable: of each shard, the blocks that its frames cover.
        on: whether anything can come back; where not, nothing is kept.
    """

    def __init__(self, codec: PushCodec, trainable: Sequence[Blocks], *, on: bool) -> None:
        self._codec = codec
        self._trainable = trainable
        self.on = on
        self._frames: dict[int, dict[int, Frames]] = {}
        self._factors: dict[tuple[int, int], dict[int, float]] = {}

    def keep(self, stream: int, step: int, frames: Frames) -> None:
        """The unit of `step` was compressed to these."""
        if self.on:
            self._frames.setdefault(stream, {})[step] = frames

    def hear(self, deltas: Sequence[Delta], *, position: int) -> None:
        """What became of the units that `deltas` settle; a repeat changes nothing.

        position: step that x̂ stands at. Whoever loads a stream from before that has the deltas since fetched again.
        """
        for delta in deltas:
            for outcome in delta.outcomes:
                if self.on and outcome.factor != 1.0:
                    unit = outcome.unit
                    self._factors.setdefault((unit.stream, unit.step), {})[delta.shard] = outcome.factor
        oldest = min((step for kept in self._frames.values() for step in kept), default=position)
        for known in [known for known in self._factors if known[1] < min(oldest, position)]:
            del self._factors[known]

    def take_back(self, stream: int, planes: Mapping[str, Plane], *, before: int) -> None:
        """Put into a stream's state what its units of earlier steps have too much, in their order; each once."""
        kept = self._frames.get(stream, {})
        for step in sorted(step for step in kept if step < before):
            frames = kept.pop(step)
            for shard, factor in sorted(self._factors.pop((stream, step), {}).items()):
                blocks = self._trainable[shard]
                self._codec.give_back(frames[shard], planes, blocks, share=1.0 - factor)

    def forget(self, stream: int) -> None:
        """The stream is loaded anew: what was computed of it here before says nothing any more."""
        self._frames.pop(stream, None)
