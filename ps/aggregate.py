"""Many pushes -> one gradient.

Exact segments: those of one step, in stream order whatever the order of arrival: their sum, each with its share, then
one division as `ps/merge.py` says. With a codec that sends estimates (EF21)
the sum lives on across steps, a unit's frame adds its change, and the divisor is the number of
streams, since an empty unit leaves its stream's estimate as it was; otherwise the sum starts at
zero and the divisor is the number of non-empty units.

Elastic segments: those settled together, each with its factor. Estimates are the workers' own, one a
worker (a lane), and leave the sum with it; the divisor is the number of lanes that have one. What a leaver flushes
is added beside them, and counts in no divisor.

Legend: n = blocks of the shard; planes are float32 [n, 4096].
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ps.merge import Counts, Merge, divide
from ps.trees import State, copies, fill, fill_all
from wire.codec.base import Blocks, Decoded, Frame, PushCodec
from wire.codec.chain import FLUSH
from wire.layout import BLOCK

Plane = NDArray[np.float32]


class Aggregate:
    """Memory: a plane, with estimates two; where elements are counted half a plane more."""

    def __init__(self, codec: PushCodec, *, rows: int, streams: int, merge: Merge) -> None:
        self._codec = codec
        self._streams = streams
        self._merge = merge
        self._counts: Counts | None = np.zeros((rows, BLOCK), np.uint16) if merge.counts else None
        self._sum: Plane = np.zeros((rows, BLOCK), np.float32)
        self._gradient = np.empty_like(self._sum) if codec.estimates else self._sum

    def planes(self) -> dict[str, Plane]:
        """What must survive between steps."""
        return {"aggregate": self._sum} if self._codec.estimates else {}

    def image(self) -> State:
        return dict(copies(self.planes()))

    def restore(self, tree: State) -> None:
        fill_all(self.planes(), tree)

    def gradient(self, pushes: Iterable[tuple[Decoded, float]], tokens: Sequence[int]) -> Plane:
        """The step's gradient [n, 4096] from its non-empty units, each with its factor, and the tokens of each.

        They come in stream order. The result is valid until the next call.
        """
        if not self._codec.estimates:
            self._sum.fill(0.0)
        if self._counts is not None:
            self._counts.fill(0)
        for (push, factor), share in zip(pushes, self._merge.shares(tokens), strict=True):
            push.add_to(self._sum, factor=factor * share)
            if self._counts is not None:
                push.count_to(self._counts)
        if self._counts is not None:
            return divide(self._sum, self._merge.divisors(len(tokens)), self._counts, self._gradient)
        units = self._streams if self._codec.estimates else len(tokens)
        return np.divide(self._sum, self._merge.divisor(units), out=self._gradient)


class LaneAggregate:
    """Factored pushes of an elastic segment. Begins at zero.

    Memory: two planes; with estimates one more a worker; where elements are counted half a plane more.

    Args:
        counting: whether all that is added between two gradients is added at once, and so is counted by element.
        gain: what every unit counts more than its share.
    """

    def __init__(
        self, codec: PushCodec, blocks: Blocks, *, rows: int, merge: Merge, counting: bool, gain: float = 1.0
    ) -> None:
        self._codec = codec
        self._blocks = blocks
        self._merge = merge
        self._gain = gain
        self._counts: Counts | None = (
            np.zeros((rows, BLOCK), np.uint16) if counting and merge.counts else None
        )
        self._sum: Plane = np.zeros((rows, BLOCK), np.float32)
        self._gradient = np.zeros_like(self._sum)
        self._lanes: dict[int, Plane] = {}
        self._retired: set[int] = set()

    def add(self, incarnation: int, frame: Frame, factor: float) -> None:
        """Add `factor` of a frame; of the estimate of a worker that was retired nothing is kept.

        Raises: DamagedFrame, before anything has changed.
        """
        if self._codec.estimates:
            if incarnation in self._retired:
                self._codec.validate(frame, self._blocks)
                return
            lane = self._lanes.get(incarnation)
            lane = np.zeros_like(self._sum) if lane is None else lane
            self._codec.add(frame, lane, self._blocks, factor=factor)
            self._lanes[incarnation] = lane
        decoded = self._codec.decode(frame, self._blocks)
        decoded.add_to(self._sum, factor=factor)
        if self._counts is not None:
            decoded.count_to(self._counts)

    def flush(self, frame: Frame) -> None:
        """Add a dense frame. Raises: DamagedFrame, before anything has changed."""
        FLUSH.add(frame, self._sum, self._blocks)

    def gradient(self, count: int) -> Plane:
        """The gradient [n, 4096] from all that was added, which were `count` frames since the last call.

        The result is valid until the next call. Sums of estimates stay, others begin at zero again.
        """
        if self._counts is not None:
            divide(self._sum, self._merge.divisors(count), self._counts, self._gradient)
            self._counts.fill(0)
        else:
            divisor = np.float32(self._merge.divisor(self.averaged(count)) / self._gain)
            np.divide(self._sum, divisor, out=self._gradient)
        if not self._codec.estimates:
            self._sum.fill(0.0)
        return self._gradient

    def averaged(self, count: int) -> int:
        """Units that the gradient of `count` frames is a mean of: with estimates the newest one of each worker.

        At least 1, also where every worker of these units was retired before they were settled.
        """
        return max(len(self._lanes) if self._codec.estimates else count, 1)

    def retire(self, incarnation: int) -> None:
        """Take the estimate of a worker out of the sum; without any it is zero to the bit."""
        self._retired.add(incarnation)
        lane = self._lanes.pop(incarnation, None)
        if lane is None:
            return
        self._sum -= lane
        if not self._lanes:
            self._sum.fill(0.0)

    def image(self) -> State:
        return {
            "sum": self._sum.copy(),
            "lanes": [[incarnation, self._lanes[incarnation].copy()] for incarnation in sorted(self._lanes)],
            "retired": sorted(self._retired),
        }

    def restore(self, tree: State) -> None:
        fill(self._sum, tree["sum"])
        self._retired = set(tree["retired"])
        self._lanes = {}
        for incarnation, values in tree["lanes"]:
            self._lanes[incarnation] = np.empty_like(self._sum)
            fill(self._lanes[incarnation], values)
