"""Planes in numpy: what `wire.codec.device.Device` asks, done by the kernels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from wire.codec import kernels
from wire.codec.base import Blocks, Plane
from wire.codec.cut import Part
from wire.codec.kernels import go_on, products
from wire.codec.parallel import in_order
from wire.codec.part import F32, Planes, Update, Values32, encode_part

__all__ = [
    "add",
    "assign",
    "encode_parts",
    "first_not_finite",
    "gather",
    "go_on",
    "products",
    "scatter",
    "square_sum",
]


def first_not_finite(plane: Plane, blocks: Blocks) -> int:
    """Position in `blocks` of the first block with NaN or infinity in it, or -1."""
    return kernels.first_not_finite(plane, blocks.rows, blocks.lengths)


def encode_parts(
    parts: Sequence[Part], update: Update, planes: Planes[Plane], *, threads: int
) -> Iterator[bytes]:
    """The bytes of each part, made when it is asked for, with more than one thread `threads` ahead."""
    return in_order(lambda part: encode_part(part, update, planes), parts, threads=threads)


def add(decoded: Values32, into: Plane, *, factor: float = 1.0) -> None:
    """into += factor * values, each product rounded to float32, then added."""
    blocks = decoded.part.blocks
    values = decoded.values if factor == 1.0 else decoded.values * np.float32(factor)
    if decoded.indices is None:
        kernels.add_all(values, blocks.lengths, blocks.rows, into)
    else:
        kernels.scatter_add(decoded.indices, values, decoded.counts, blocks.rows, into)


def assign(decoded: Values32, into: Plane) -> None:
    """into = values; of whole blocks only."""
    kernels.set_all(decoded.values, decoded.part.blocks.lengths, decoded.part.blocks.rows, into)


def gather(plane: Plane, blocks: Blocks) -> F32:
    """float32[elements]: the real elements of `blocks`, in order."""
    values, flat, at = np.empty(blocks.elements, np.float32), plane.reshape(-1), 0
    for start, size in blocks.segments:
        values[at : at + size] = flat[start : start + size]
        at += size
    return values


def scatter(values: F32, plane: Plane, blocks: Blocks) -> None:
    """Set them."""
    flat, at = plane.reshape(-1), 0
    for start, size in blocks.segments:
        flat[start : start + size] = values[at : at + size]
        at += size


def square_sum(plane: Plane, blocks: Blocks) -> float:
    """Sum of the squares of their real elements in float64; not finite where one of them is not."""
    flat = plane.reshape(-1)
    return sum(kernels.square_sum(flat[start : start + size]) for start, size in blocks.segments)
