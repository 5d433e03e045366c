"""Many pushes of one step -> one gradient, in stream order whatever the order of arrival.

`mean`: the sum in stream order, then one division. `sum`: no division. With a codec that
sends estimates (EF21) the sum lives on across steps, a unit's frame adds its change, and
the divisor is the number of streams, since an empty unit leaves its stream's estimate as
it was; otherwise the sum starts at zero and the divisor is the number of non-empty units.

Legend: n = blocks of the shard; planes are float32 [n, 4096].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wire.codec.base import Blocks, PushCodec
from wire.layout import BLOCK

Plane = NDArray[np.float32]


class Aggregate:
    def __init__(self, codec: PushCodec, blocks: Blocks, *, rows: int, streams: int, rule: str) -> None:
        self._codec = codec
        self._blocks = blocks
        self._streams = streams
        self._rule = rule
        self._sum: Plane = np.zeros((rows, BLOCK), np.float32)
        self._gradient = np.empty_like(self._sum) if codec.estimates else self._sum

    def planes(self) -> dict[str, Plane]:
        """What must survive between steps."""
        return {"aggregate": self._sum} if self._codec.estimates else {}

    def gradient(self, frames: Sequence[bytes]) -> Plane:
        """The step's gradient [n, 4096] from the frames of its non-empty units, in stream order.

        The result is valid until the next call.
        """
        if not self._codec.estimates:
            self._sum.fill(0.0)
        for frame in frames:
            self._codec.add(frame, self._sum, self._blocks)
        count = self._streams if self._codec.estimates else len(frames)
        divisor = np.float32(1 if self._rule == "sum" else max(count, 1))
        return np.divide(self._sum, divisor, out=self._gradient)
