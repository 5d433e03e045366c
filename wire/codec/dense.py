"""Every element as little-endian float32, padding left out: the exact codec, and the form of snapshots.

A dense push is added like any other. A dense delta *sets* the published model to x, since
x̂ + (x − x̂) is not x in floating point. Frame: one section, the packed elements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wire.codec.base import Blocks, DamagedFrame, Plane, check_plane
from wire.codec.frame import Kind, build, envelope_bytes, take_apart

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


@dataclass(frozen=True)
class DensePush:
    """The gradient itself. State only where a push may be returned in part: `carry` is what came back.

    carries: whether it may.
    """

    carries: bool = False
    name: str = "dense"
    estimates: bool = False

    @property
    def state_planes(self) -> tuple[str, ...]:
        return ("carry",) if self.carries else ()

    def encode(self, gradient: Plane, state: Mapping[str, Plane], blocks: Blocks) -> bytes:
        """Frame of the gradient and all that is carried. Raises: FloatingPointError where it is not finite."""
        if not self.carries:
            return _encode(Kind.DENSE_PUSH, gradient, blocks)
        whole = np.zeros_like(gradient)
        whole[blocks.rows] = gradient[blocks.rows] + state["carry"][blocks.rows]
        frame = _encode(Kind.DENSE_PUSH, whole, blocks)
        state["carry"][blocks.rows] = 0.0
        return frame

    def add(self, frame: bytes, into: Plane, blocks: Blocks, *, factor: float = 1.0) -> None:
        """into += factor * gradient. Raises: DamagedFrame."""
        check_plane(into, blocks)
        values, flat, at = _decode(Kind.DENSE_PUSH, frame, blocks), into.reshape(-1), 0
        if factor != 1.0:
            values = values * np.float32(factor)
        for start, size in blocks.segments:
            flat[start : start + size] += values[at : at + size]
            at += size

    def give_back(self, frame: bytes, state: Mapping[str, Plane], blocks: Blocks, *, share: float) -> None:
        """carry += share * gradient."""
        self.add(frame, state["carry"], blocks, factor=share)

    def validate(self, frame: bytes, blocks: Blocks) -> None:
        """Raises: DamagedFrame."""
        _decode(Kind.DENSE_PUSH, frame, blocks)

    def max_frame_bytes(self, blocks: Blocks) -> int:
        """The exact length of each frame of these blocks."""
        return _frame_bytes(blocks)


@dataclass(frozen=True)
class DenseDelta:
    """x̂ := x."""

    name: str = "dense"

    def publish(self, x: Plane, published: Plane, blocks: Blocks) -> bytes:
        """Frame of x, and x̂ := x. Raises: FloatingPointError where x is not finite."""
        check_plane(published, blocks)
        frame = _encode(Kind.DENSE_DELTA, x, blocks)
        from_, to = x.reshape(-1), published.reshape(-1)
        for start, size in blocks.segments:
            to[start : start + size] = from_[start : start + size]
        return frame

    def apply(self, frame: bytes, published: Plane, blocks: Blocks) -> None:
        """x̂ := x. Raises: DamagedFrame."""
        check_plane(published, blocks)
        _scatter(_decode(Kind.DENSE_DELTA, frame, blocks), published, blocks)

    def max_frame_bytes(self, blocks: Blocks) -> int:
        """The exact length of each frame of these blocks."""
        return _frame_bytes(blocks)


def _frame_bytes(blocks: Blocks) -> int:
    return envelope_bytes(1) + ELEMENT_BYTES * blocks.elements


def _encode(kind: Kind, plane: Plane, blocks: Blocks) -> bytes:
    check_plane(plane, blocks)
    values = _gather(plane, blocks)
    if not np.isfinite(values).all():
        raise FloatingPointError("NaN or infinity in what is to be sent: commit the unit empty with a reason")
    raw = values.tobytes()
    return build(kind, 0, blocks.count, [(len(raw), raw)])


def _decode(kind: Kind, frame: bytes, blocks: Blocks) -> NDArray[np.float32]:
    content = take_apart(frame, kind, blocks.count, [ELEMENT_BYTES * blocks.elements])
    raw = content.sections[0]
    if content.option or len(raw) != ELEMENT_BYTES * blocks.elements:
        raise DamagedFrame(
            f"{len(raw)} bytes, option {content.option}, expected {ELEMENT_BYTES * blocks.elements} and 0"
        )
    values = np.frombuffer(raw, dtype="<f4")
    if not np.isfinite(values).all():
        raise DamagedFrame("NaN or infinity in a dense frame: the sender must commit such a unit empty")
    return values


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
