"""The one lane of codec state that a worker has in an elastic segment, and what of its pushes is not settled.

It begins at zero and is never deposited. A frame is kept until the delta that settles its unit
tells how much of it is in the model; the rest goes back into the lane, so that mass is
conserved: produced = applied + held.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from wire.codec.base import Blocks, PushCodec
from wire.codec.chain import FLUSH
from wire.codec.device import device_of
from worker.deltas import Delta
from worker.outgoing import keeping
from worker.planes import Plane, norm, zeros_like


class Lane:
    """Codec state and unsettled frames.

    Args:
        like: a plane of the model's shape.
        trainable: of each shard, the blocks that its frames cover.
        streams: units of a step (R).
    """

    def __init__(self, codec: PushCodec, like: Plane, trainable: Sequence[Blocks], *, streams: int) -> None:
        self._codec = codec
        self._trainable = trainable
        self._streams = streams
        self.planes = {name: zeros_like(like) for name in codec.state_planes}
        self._frames: dict[tuple[int, int], list[bytes]] = {}
        self._rest: dict[int, tuple[bytes, ...]] = {}

    @property
    def held(self) -> Plane | None:
        """What was produced and waits for later pushes, in place; None where the codec holds nothing back."""
        names = () if self._codec.estimates else self._codec.state_planes
        return self.planes[names[-1]] if names else None

    def encode(self, shard: int, unit: int, gradient: Plane) -> Iterator[bytes]:
        """The pieces of the frame of unit number `unit` for one shard, kept until it is settled there."""
        frame = self._frames[shard, unit] = []
        return keeping(self._codec.encode(gradient, self.planes, self._trainable[shard], unit=unit), frame)

    def norm(self, frames: Mapping[int, Sequence[bytes]]) -> float:
        """L2 norm of what a unit's frames decode to; by shard."""
        return self._codec.norm((frame, self._trainable[shard]) for shard, frame in frames.items())

    def most_bytes(self, shard: int) -> int:
        """No frame for this shard is longer."""
        return self._codec.max_frame_bytes(self._trainable[shard])

    def on_its_way(self, into: Plane) -> bool:
        """The sum of what was pushed and is not settled, into `into`. Whether there is any; else nothing is written."""
        if not self._frames:
            return False
        into[:] = 0
        for (shard, _), frame in self._frames.items():
            self._codec.add(frame, into, self._trainable[shard])
        return True

    def settle(self, delta: Delta) -> bool:
        """What became of this worker's units on one shard: what was not applied goes back. Whether any was."""
        came_back = False
        for outcome in delta.outcomes:
            frame = self._frames.pop((delta.shard, outcome.unit.number(self._streams)), None)
            if frame is not None and outcome.factor != 1.0:
                blocks = self._trainable[delta.shard]
                self._codec.give_back(frame, self.planes, blocks, share=1.0 - outcome.factor)
                came_back = True
        return came_back

    # --- the last push ------------------------------------------------------------------------------

    @property
    def holding(self) -> list[int]:
        """The shards for which anything is held back."""
        held = self.held
        if held is None:
            return []
        gather = device_of(held).gather
        return [shard for shard, blocks in enumerate(self._trainable) if gather(held, blocks).any()]

    def rest(self, shard: int) -> tuple[bytes, ...]:
        """Frame of all that is held back for one shard, dense; it is held until it is `flushed`."""
        assert self.held is not None
        self._rest[shard] = tuple(FLUSH.encode(self.held, {}, self._trainable[shard]))
        return self._rest[shard]

    def flushed(self, shard: int) -> None:
        """What `rest` told of a shard is in the model. What came back since is held still."""
        assert self.held is not None
        FLUSH.add(self._rest.pop(shard), self.held, self._trainable[shard], factor=-1.0)

    @property
    def unsettled(self) -> int:
        """Frames whose outcome is not known yet."""
        return len(self._frames)

    @property
    def held_norm(self) -> float:
        """L2 norm of what was produced and waits for later pushes.

        An estimate (EF21) holds nothing back: the server's sum has the same estimate of this worker, and the next
        frame measures the whole gradient against it.
        """
        if self._codec.estimates:
            return 0.0
        return math.hypot(*(norm(plane, self._trainable) for plane in self.planes.values()))
