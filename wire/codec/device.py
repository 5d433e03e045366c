"""Where planes lie, and who works on them: the kernels on those of numpy, torch on tensors, on their own device.

The choice is made here. Both do the same: the same bytes, the same bits in every plane.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from wire.codec import host
from wire.codec.base import AnyPlane, Blocks
from wire.codec.cut import Part
from wire.codec.part import F32, Planes, Update, Values32


class Device(Protocol):
    """What is done with planes; they are checked before."""

    def first_not_finite(self, plane: Any, blocks: Blocks) -> int:
        """Position in `blocks` of the first block with NaN or infinity in it, or -1."""
        ...

    def encode_parts(
        self, parts: Sequence[Part], update: Update, planes: Planes[Any], *, threads: int
    ) -> Iterator[bytes]:
        """The bytes of each part, in order; moves the state in its rows.

        Raises: FloatingPointError where what is to be compressed is not finite.
        """
        ...

    def add(self, decoded: Values32, into: Any, *, factor: float = 1.0) -> None:
        """into += factor * values, each product rounded to float32, then added."""
        ...

    def assign(self, decoded: Values32, into: Any) -> None:
        """into = values; of whole blocks only."""
        ...

    def gather(self, plane: Any, blocks: Blocks) -> F32:
        """float32[elements]: the real elements of `blocks`, in order."""
        ...

    def scatter(self, values: F32, plane: Any, blocks: Blocks) -> None:
        """Set them."""
        ...


def device_of(plane: AnyPlane) -> Device:
    """Who works on a plane. torch is imported where the first tensor comes in."""
    if isinstance(plane, np.ndarray):
        return host
    from wire.codec import cuda

    return cuda
