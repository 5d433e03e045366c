"""Planes as packed bytes: every real element as little-endian float32, padding left out. The form of snapshots."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wire.codec.base import Blocks, DamagedFrame, Plane, check_plane

ELEMENT_BYTES = 4


def pack(plane: Plane, blocks: Blocks) -> bytes:
    """The real elements of `blocks`, little-endian float32, in block order."""
    check_plane(plane, blocks)
    return _gather(plane, blocks).tobytes()


def unpack(data: bytes | memoryview, plane: Plane, blocks: Blocks) -> None:
    """Set the real elements of `blocks` from `data`. Raises: DamagedFrame where the length does not fit."""
    check_plane(plane, blocks)
    if len(data) != ELEMENT_BYTES * blocks.elements:
        raise DamagedFrame(f"{len(data)} bytes, expected {ELEMENT_BYTES * blocks.elements} for these blocks")
    _scatter(np.frombuffer(data, dtype="<f4"), plane, blocks)


def _gather(plane: Plane, blocks: Blocks) -> NDArray[np.float32]:
    values, flat, at = np.empty(blocks.elements, dtype="<f4"), plane.reshape(-1), 0
    for start, size in blocks.segments:
        values[at : at + size] = flat[start : start + size]
        at += size
    return values


def _scatter(values: NDArray[np.float32], plane: Plane, blocks: Blocks) -> None:
    flat, at = plane.reshape(-1), 0
    for start, size in blocks.segments:
        flat[start : start + size] = values[at : at + size]
        at += size
