"""Planes as packed bytes: every real element as little-endian float32, padding left out. The form of snapshots."""

from __future__ import annotations

import numpy as np

from wire.codec.base import AnyPlane, Blocks, DamagedFrame, check_plane
from wire.codec.device import device_of

ELEMENT_BYTES = 4


def pack(plane: AnyPlane, blocks: Blocks) -> bytes:
    """The real elements of `blocks`, little-endian float32, in block order."""
    check_plane(plane, blocks)
    return device_of(plane).gather(plane, blocks).astype("<f4", copy=False).tobytes()


def unpack(data: bytes | memoryview, plane: AnyPlane, blocks: Blocks) -> None:
    """Set the real elements of `blocks` from `data`. Raises: DamagedFrame where the length does not fit."""
    check_plane(plane, blocks)
    if len(data) != ELEMENT_BYTES * blocks.elements:
        raise DamagedFrame(f"{len(data)} bytes, expected {ELEMENT_BYTES * blocks.elements} for these blocks")
    device_of(plane).scatter(np.frombuffer(data, dtype="<f4"), plane, blocks)
