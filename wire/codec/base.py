"""What the codecs share: the blocks of a frame, the error of every decoder, the two interfaces.

A *plane* is a C-contiguous float32 array [rows, 4096], one row a block: of numpy, or a torch.Tensor on any device,
which is then worked on there (`wire.codec.device`); the bytes and the bits are the same. A *frame* is one shard's
part of a push or of a delta, as bytes. A codec works block by block: nothing of one block reaches another, so that
one server or four give the same bits. This module imports neither numba nor torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wire.errors import ProtocolMismatch
from wire.layout import BLOCK, BlockRange, Layout

Plane = NDArray[np.float32]


class Tensor(Protocol):
    """What is asked of a torch.Tensor here, told without torch."""

    @property
    def dtype(self) -> Any: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def is_contiguous(self) -> bool: ...


AnyPlane = Plane | Tensor
"""All planes of one call are of one kind, tensors on one device."""
Rows = NDArray[np.int64]
Lengths = NDArray[np.int32]


Buffer = bytes | memoryview
Frame = bytes | Sequence[Buffer]
"""A frame whole, or in buffers that each begin where a part begins (the first one with the header)."""


class DamagedFrame(ProtocolMismatch):
    """A frame that is cut, altered, or does not fit the blocks that both sides know."""


def buffers_of(frame: Frame) -> Sequence[Buffer]:
    """The buffers of a frame."""
    return (frame,) if isinstance(frame, bytes) else frame


def frame_bytes(frame: Frame) -> int:
    """Bytes of a frame."""
    return sum(map(len, buffers_of(frame)))


@dataclass(frozen=True, eq=False)
class Blocks:
    """Which blocks a frame covers.

    rows: int64[n], rows of the planes at hand. lengths: int32[n], real elements of each block, 1..4096.
    numbers: int64[n], numbers of the blocks in the layout, the same on every process.
    Raises: ValueError where they are not that.
    """

    rows: Rows
    lengths: Lengths
    numbers: Rows

    def __post_init__(self) -> None:
        if self.rows.dtype != np.int64 or self.lengths.dtype != np.int32 or self.numbers.dtype != np.int64:
            raise ValueError(
                f"rows {self.rows.dtype}, lengths {self.lengths.dtype}, numbers {self.numbers.dtype}: expected "
                "int64[n], int32[n] and int64[n]"
            )
        if not (self.rows.ndim == 1 and self.rows.shape == self.lengths.shape == self.numbers.shape):
            raise ValueError(
                f"{self.rows.size} rows, but {self.lengths.size} lengths and {self.numbers.size} numbers: expected "
                "as many of each"
            )
        if self.count and (self.rows.min() < 0 or self.lengths.min() < 1 or self.lengths.max() > BLOCK):
            raise ValueError(f"a row below 0 or a length outside 1..{BLOCK}: take the blocks from the layout")

    @classmethod
    def of(
        cls, layout: Layout, ranges: Sequence[BlockRange], *, local_to: Sequence[BlockRange] | None = None
    ) -> Blocks:
        """The blocks of `ranges`, in that order.

        Rows are global block numbers. With `local_to`, the ranges of a shard, they are positions in the shard's
        own planes, where the blocks of those ranges are stacked in order.
        Raises: ValueError for a block that is not in the layout or not in `local_to`.
        """
        rows = _numbers(ranges)
        if rows.size and (rows.min() < 0 or rows.max() >= layout.blocks):
            raise ValueError(f"blocks {rows.min()}..{rows.max()} of a layout of {layout.blocks}")
        lengths = np.asarray(layout.lengths, dtype=np.int32)[rows]
        return cls(rows if local_to is None else _positions(rows, _numbers(local_to)), lengths, rows)

    def take(self, positions: Rows) -> Blocks:
        """Some of the blocks, in the order of `positions`."""
        return Blocks(self.rows[positions], self.lengths[positions], self.numbers[positions])

    @property
    def count(self) -> int:
        """Number of blocks."""
        return int(self.rows.size)

    @cached_property
    def elements(self) -> int:
        """Number of real elements."""
        return int(self.lengths.sum(dtype=np.int64))

    @cached_property
    def bitmap_bytes(self) -> int:
        """Of one bit an element, each block beginning at a byte."""
        return int(((self.lengths + 7) >> 3).sum(dtype=np.int64))

    @cached_property
    def segments(self) -> tuple[tuple[int, int], ...]:
        """(first element of the flattened plane, number of elements) of each stretch without padding in it."""
        if not self.count:
            return ()
        joined = (self.lengths[:-1] == BLOCK) & (np.diff(self.rows) == 1)
        first = np.flatnonzero(np.concatenate(([True], ~joined)))
        sizes = np.add.reduceat(self.lengths.astype(np.int64), first)
        return tuple(zip((self.rows[first] * BLOCK).tolist(), sizes.tolist(), strict=True))

    def kept(self, density: float) -> NDArray[np.int32]:
        """int32[n]: k = ceil(density * length) of each block, at least 1."""
        kept: NDArray[np.int32] = np.maximum(np.ceil(self.lengths * density), 1).astype(np.int32)
        return kept


class Decoded(Protocol):
    """A frame taken apart and found good as a whole; it holds on to the frame."""

    @property
    def memory_bytes(self) -> int:
        """Of what was decoded, beside the frame."""
        ...

    def add_to(self, into: AnyPlane, *, factor: float = 1.0) -> None:
        """into += factor * values: each product rounded to float32, then added, in element order."""
        ...

    def count_to(self, into: NDArray[np.uint16]) -> None:
        """into[row, element] += 1 for each element that the frame carries, zeros included where a block is whole."""
        ...


class PushCodec(Protocol):
    """A worker's update for one shard: gradient in, frame out, frame summed on the server.

    state_planes: names of the float32 planes of stream state that `encode` reads and writes.
    estimates: True where the server keeps a persistent sum of decoded frames (EF21); False where the sum
    starts at zero in each step.
    """

    @property
    def name(self) -> str: ...

    @property
    def state_planes(self) -> tuple[str, ...]: ...

    @property
    def estimates(self) -> bool: ...

    def encode(
        self, gradient: AnyPlane, state: Mapping[str, AnyPlane], blocks: Blocks, *, unit: int = 0
    ) -> Iterator[bytes]:
        """The pieces of a frame of `gradient` in order, each made when it is asked for; joined they are the frame.

        Planes on a device are encoded there, a few pieces ahead of what is asked for.

        Changes `state` in place, in the rows of `blocks` only. `unit`: its number, the key of random rounding, from
        which its step and so its density follows.
        Raises: FloatingPointError where the gradient is not finite (at once; state is then as it was), or, on
        the way, where gradient and state together overflow (state is then damaged in these rows).
        """
        ...

    def decode(self, frame: Frame, blocks: Blocks) -> Decoded:
        """Raises: DamagedFrame."""
        ...

    def add(self, frame: Frame, into: AnyPlane, blocks: Blocks, *, factor: float = 1.0) -> None:
        """`decode` and `add_to`. Raises: DamagedFrame, before `into` is touched."""
        ...

    def give_back(self, frame: Frame, state: Mapping[str, AnyPlane], blocks: Blocks, *, share: float) -> None:
        """Put `share` of what a frame took out of `state` back into it, so that a later frame carries it.

        What the server applied of it, (1 - share), and what is given back sum to the frame: mass is conserved.
        """
        ...

    def norm(self, frames: Iterable[tuple[Frame, Blocks]]) -> float:
        """L2 norm of what the frames of one push decode to, all shards together. Raises: DamagedFrame."""
        ...

    def validate(self, frame: Frame, blocks: Blocks) -> None:
        """Everything that `decode` checks. Raises: DamagedFrame."""
        ...

    def max_frame_bytes(self, blocks: Blocks) -> int:
        """No frame of these blocks is longer."""
        ...


class DecodedDelta(Protocol):
    """A delta's frame taken apart and found good as a whole."""

    def apply_to(self, published: AnyPlane) -> None:
        """Do to `published`, bit for bit, what `publish` did."""
        ...


class DeltaCodec(Protocol):
    """A shard's step of the published model: x in, frame out, the same bits in every replica."""

    @property
    def name(self) -> str: ...

    def publish(self, x: Plane, published: Plane, blocks: Blocks, *, step: int = 0) -> tuple[bytes, ...]:
        """The pieces of a frame that moves `published` towards `x`, and the move itself. `step`: its density's.

        Raises: FloatingPointError where x is not finite (`published` is then as it was).
        """
        ...

    def decode(self, frame: Frame, blocks: Blocks) -> DecodedDelta:
        """Raises: DamagedFrame."""
        ...

    def apply(self, frame: Frame, published: AnyPlane, blocks: Blocks) -> None:
        """`decode` and `apply_to`. Raises: DamagedFrame, before `published` is touched."""
        ...

    def max_frame_bytes(self, blocks: Blocks) -> int:
        """No frame of these blocks is longer."""
        ...


def check_plane(plane: AnyPlane, blocks: Blocks) -> None:
    """Raises: ValueError where `plane` is no C-contiguous float32 [rows, 4096] that holds the blocks."""
    contiguous = plane.flags.c_contiguous if isinstance(plane, np.ndarray) else plane.is_contiguous()
    dtype = str(plane.dtype).removeprefix("torch.")
    if dtype != "float32" or len(plane.shape) != 2 or plane.shape[1] != BLOCK or not contiguous:
        raise ValueError(f"{dtype}{list(plane.shape)}: expected a C-contiguous float32 plane [rows, {BLOCK}]")
    if blocks.count and int(blocks.rows.max()) >= plane.shape[0]:
        raise ValueError(f"block row {int(blocks.rows.max())} of a plane of {plane.shape[0]} rows")


def refuse_not_finite(bad: int, blocks: Blocks) -> None:
    """Raises: FloatingPointError where `bad`, a position in `blocks`, is not -1."""
    if bad >= 0:
        raise FloatingPointError(
            f"NaN or infinity in block {int(blocks.numbers[bad])} of what is to be sent: commit the unit empty with a "
            "reason"
        )


def expect_bytes(section: str, raw: memoryview, expected: int) -> None:
    """Raises: DamagedFrame where a section is not as long as blocks and counts ask for."""
    if len(raw) != expected:
        raise DamagedFrame(f"{section}: {len(raw)} bytes, expected {expected} for these blocks and counts")


def check_density(density: float) -> None:
    """Raises: ValueError outside 0 < density <= 1."""
    if not (math.isfinite(density) and 0 < density <= 1):
        raise ValueError(f"density = {density}: expected a share of each block, above 0 and at most 1")


def _numbers(ranges: Sequence[BlockRange]) -> Rows:
    """All block numbers of `ranges`, in order."""
    if not ranges:
        return np.empty(0, dtype=np.int64)
    return np.concatenate([np.arange(r.start, r.stop, dtype=np.int64) for r in ranges])


def _positions(rows: Rows, owned: Rows) -> Rows:
    """Where each of `rows` stands in `owned` (which need not be sorted)."""
    order = np.argsort(owned, kind="stable")
    at = np.searchsorted(owned, rows, sorter=order)
    found = order[np.minimum(at, owned.size - 1)] if owned.size else np.zeros(rows.size, dtype=np.int64)
    if rows.size and (not owned.size or not np.array_equal(owned[found], rows)):
        raise ValueError("a block that the shard does not own: intersect the ranges with the shard's first")
    return found.astype(np.int64)
