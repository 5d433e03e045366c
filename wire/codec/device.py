"""Where planes lie, and who works on them: the kernels on those of numpy, torch on tensors, on their own device.

The choice is made here. Both do the same: the same bytes, the same bits in every plane.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wire.codec import host
from wire.codec.base import AnyPlane, Blocks, Rows
from wire.codec.cut import Part
from wire.codec.part import F32, Planes, Update, Values32

F64 = NDArray[np.float64]


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

    def square_sum(self, plane: Any, blocks: Blocks) -> float:
        """Sum of the squares of their real elements in float64, in an order of the device's own.

        Not finite where one of them is not.
        """
        ...

    def products(self, now: Any, before: Any, sent: Any, rows: Rows, along: F64, squares: F64) -> None:
        """Of each row into float64[rows of the planes]: along = <now - before, sent>, squares = <sent, sent>."""
        ...

    def go_on(self, now: Any, before: Any, moves: F32, gains: F32, rows: Rows, into: Any) -> None:
        """Of each row: into = moves (now - before) - gains into, each operation rounded to float32.

        moves, gains: float32[rows of the planes].
        """
        ...


def device_of(plane: AnyPlane) -> Device:
    """Who works on a plane. torch is imported where the first tensor comes in."""
    if isinstance(plane, np.ndarray):
        return host
    from wire.codec import cuda

    return cuda
