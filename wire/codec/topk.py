"""Per-block top-k with sign and few-bit magnitudes: the pushes and the deltas that save bytes.

Frame: option = magnitude bits, + 128 where the indices are a bitmap. Sections:
    counts   uint16 a block          kept elements: ceil(density * length), fewer where the rest is zero
    levels   2^bits bfloat16 a block values of the magnitude codes, finite, not negative
    indices  gaps, or a bitmap       gap = distance from the index before, less one; 255 = 255 and more to come
    signs    one bit an element      1 = negative; each block begins at a byte
    codes    `bits` bits an element  which level; each block begins at a byte
Decoded values are bfloat16 numbers on both sides. Feedback: EF21-SGDM (arXiv 2305.15155), error feedback
(1809.07599), and EF21-P (2209.15218) for deltas.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wire.codec import kernels
from wire.codec.base import Blocks, DamagedFrame, Plane, check_density, check_plane
from wire.codec.frame import Kind, build, envelope_bytes, squeeze, take_apart

BITMAP = 128
SECTIONS = 5


class Feedback(enum.Enum):
    """What becomes of the part that is not sent.

    TRACK: c = C(grad - g), g += c. MOMENTUM: v = (1 - eta) v + eta grad, c = C(v - g), g += c.
    RESIDUAL: e += grad, c = C(e), e -= c.
    """

    TRACK = kernels.TRACK
    MOMENTUM = kernels.MOMENTUM
    RESIDUAL = kernels.RESIDUAL

    @property
    def planes(self) -> tuple[str, ...]:
        """Names of the state planes; the last one holds what the frames' sum is measured against."""
        return {"TRACK": ("estimate",), "MOMENTUM": ("momentum", "estimate"), "RESIDUAL": ("residual",)}[
            self.name
        ]


class Sparse(NamedTuple):
    """A decoded frame: counts uint16[n], indices uint16[K], values float32[K]."""

    counts: NDArray[np.uint16]
    indices: NDArray[np.uint16]
    values: NDArray[np.float32]


@dataclass(frozen=True)
class TopkPush:
    """Top-k of the gradient with feedback; `eta` is used by MOMENTUM alone."""

    density: float
    magnitude_bits: int
    feedback: Feedback
    eta: float = 1.0

    def __post_init__(self) -> None:
        _check(self.density, self.magnitude_bits)
        if not 0 < self.eta <= 1:
            raise ValueError(
                f"momentum = {self.eta}: expected the weight of a new gradient, above 0 and at most 1"
            )

    @property
    def name(self) -> str:
        return "topk"

    @property
    def state_planes(self) -> tuple[str, ...]:
        return self.feedback.planes

    @property
    def estimates(self) -> bool:
        return self.feedback is not Feedback.RESIDUAL

    def encode(self, gradient: Plane, state: Mapping[str, Plane], blocks: Blocks) -> bytes:
        """Frame of what the feedback selects; changes the state's rows of `blocks`.

        Raises: FloatingPointError for NaN or infinity in the gradient (state is as it was), or where gradient
        and state together overflow (state is then damaged in these rows).
        """
        planes = [state[name] for name in self.state_planes]
        return _encode(
            Kind.TOPK_PUSH,
            self.feedback,
            self.eta,
            gradient,
            planes,
            blocks,
            self.density,
            self.magnitude_bits,
        )

    def add(self, frame: bytes, into: Plane, blocks: Blocks, *, factor: float = 1.0) -> None:
        """into += factor * decoded values. Raises: DamagedFrame."""
        _add(Kind.TOPK_PUSH, frame, into, blocks, self.density, self.magnitude_bits, factor)

    def give_back(self, frame: bytes, state: Mapping[str, Plane], blocks: Blocks, *, share: float) -> None:
        """residual += share * values; an estimate, which had run ahead of the server's, goes back by as much."""
        sign = -1.0 if self.estimates else 1.0
        self.add(frame, state[self.state_planes[-1]], blocks, factor=sign * share)

    def validate(self, frame: bytes, blocks: Blocks) -> None:
        """Raises: DamagedFrame."""
        _decode(Kind.TOPK_PUSH, frame, blocks, self.density, self.magnitude_bits)

    def max_frame_bytes(self, blocks: Blocks) -> int:
        """No frame of these blocks is longer."""
        return envelope_bytes(SECTIONS) + sum(_raw_limits(blocks, self.density, self.magnitude_bits))


@dataclass(frozen=True)
class TopkDelta:
    """d = C(x − x̂), x̂ += d: x − x̂ is the residual, there is no other state."""

    density: float
    magnitude_bits: int

    def __post_init__(self) -> None:
        _check(self.density, self.magnitude_bits)

    @property
    def name(self) -> str:
        return "topk"

    def publish(self, x: Plane, published: Plane, blocks: Blocks) -> bytes:
        """Frame of d; published += d. Raises: FloatingPointError as `TopkPush.encode`."""
        return _encode(
            Kind.TOPK_DELTA, Feedback.TRACK, 1.0, x, [published], blocks, self.density, self.magnitude_bits
        )

    def apply(self, frame: bytes, published: Plane, blocks: Blocks) -> None:
        """published += d. Raises: DamagedFrame."""
        _add(Kind.TOPK_DELTA, frame, published, blocks, self.density, self.magnitude_bits)

    def max_frame_bytes(self, blocks: Blocks) -> int:
        """No frame of these blocks is longer."""
        return envelope_bytes(SECTIONS) + sum(_raw_limits(blocks, self.density, self.magnitude_bits))


def _check(density: float, magnitude_bits: int) -> None:
    check_density(density)
    if magnitude_bits not in (0, 1, 2):
        raise ValueError(f"magnitude_bits = {magnitude_bits}: expected 0, 1 or 2")


def _raw_limits(blocks: Blocks, density: float, magnitude_bits: int) -> list[int]:
    """Largest raw bytes of each section of a frame of these blocks."""
    kept = blocks.kept(density).astype(np.int64)
    gaps = int((kept + (blocks.lengths - kept) // kernels.ESCAPE).sum())
    return [
        2 * blocks.count,
        (2 << magnitude_bits) * blocks.count,
        max(gaps, _bitmap_bytes(blocks)),
        int(((kept + 7) >> 3).sum()),
        int(((kept * magnitude_bits + 7) >> 3).sum()),
    ]


def _bitmap_bytes(blocks: Blocks) -> int:
    return int(((blocks.lengths + 7) >> 3).sum(dtype=np.int64))


def _encode(
    kind: Kind,
    feedback: Feedback,
    eta: float,
    source: Plane,
    planes: list[Plane],
    blocks: Blocks,
    density: float,
    magnitude_bits: int,
) -> bytes:
    for plane in (source, *planes):
        check_plane(plane, blocks)
    _refuse_not_finite(kernels.first_not_finite(source, blocks.rows, blocks.lengths), blocks)
    limits = _raw_limits(blocks, density, magnitude_bits)
    counts = np.empty(blocks.count, np.uint16)
    levels = np.empty((blocks.count, 1 << magnitude_bits), np.uint16)
    gaps, signs, codes = (np.empty(size, np.uint8) for size in limits[2:])
    weights = np.array([1.0 - eta, eta], dtype=np.float32)
    gap_bytes, sign_bytes, code_bytes, bad = kernels.encode_blocks(
        feedback.value, weights, source, planes[0], planes[-1], blocks.rows, blocks.lengths, blocks.kept(density),
        magnitude_bits, counts, levels, gaps, signs, codes,
    )  # fmt: skip
    _refuse_not_finite(bad, blocks)
    bitmap, indices = _indices(gaps[:gap_bytes], counts, blocks)
    sections = [
        _section(counts, squeezed=True),
        _section(levels, squeezed=True),
        indices,
        _section(signs[:sign_bytes], squeezed=False),
        _section(codes[:code_bytes], squeezed=True),
    ]
    return build(kind, magnitude_bits | bitmap, blocks.count, sections)


def _section(values: NDArray[np.uint8] | NDArray[np.uint16], *, squeezed: bool) -> tuple[int, bytes]:
    """(raw length, stored bytes)."""
    raw = values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
    return len(raw), squeeze(raw) if squeezed else raw


def _indices(
    gaps: NDArray[np.uint8], counts: NDArray[np.uint16], blocks: Blocks
) -> tuple[int, tuple[int, bytes]]:
    """(option flag, section): the gaps, or a bitmap where that is shorter."""
    section = _section(gaps, squeezed=True)
    if len(section[1]) <= _bitmap_bytes(blocks):
        return 0, section
    bitmap = np.zeros(_bitmap_bytes(blocks), np.uint8)
    kernels.bitmap_from_gaps(gaps, counts, blocks.lengths, bitmap)
    return BITMAP, _section(bitmap, squeezed=True)


def _refuse_not_finite(bad: int, blocks: Blocks) -> None:
    if bad >= 0:
        raise FloatingPointError(
            f"NaN or infinity in block row {int(blocks.rows[bad])} of what is to be sent: "
            "commit the unit empty with a reason"
        )


def _add(
    kind: Kind,
    frame: bytes,
    into: Plane,
    blocks: Blocks,
    density: float,
    magnitude_bits: int,
    factor: float = 1.0,
) -> None:
    check_plane(into, blocks)
    found = _decode(kind, frame, blocks, density, magnitude_bits)
    values = found.values if factor == 1.0 else found.values * np.float32(factor)
    kernels.scatter_add(found.indices, values, found.counts, blocks.rows, into)


def _decode(kind: Kind, frame: bytes, blocks: Blocks, density: float, magnitude_bits: int) -> Sparse:
    content = take_apart(frame, kind, blocks.count, _raw_limits(blocks, density, magnitude_bits))
    if content.option & ~BITMAP != magnitude_bits:
        raise DamagedFrame(f"option {content.option}, expected {magnitude_bits} magnitude bits as configured")
    counts = _counts(content.sections[0], blocks, density)
    levels = _levels(content.sections[1], blocks, magnitude_bits)
    indices = _read_indices(content.sections[2], content.option, counts, blocks)
    return Sparse(
        counts, indices, _values(content.sections[3], content.sections[4], levels, counts, magnitude_bits)
    )


def _counts(raw: memoryview, blocks: Blocks, density: float) -> NDArray[np.uint16]:
    _expect_bytes("counts", raw, 2 * blocks.count)
    counts = np.frombuffer(raw, dtype="<u2")
    if (counts > blocks.kept(density)).any():
        raise DamagedFrame(
            f"a block keeps more than density = {density} allows: use one configuration everywhere"
        )
    return counts


def _levels(raw: memoryview, blocks: Blocks, magnitude_bits: int) -> NDArray[np.float32]:
    """float32[n, L]."""
    _expect_bytes("levels", raw, (2 << magnitude_bits) * blocks.count)
    bits = np.frombuffer(raw, dtype="<u2").reshape(blocks.count, 1 << magnitude_bits)
    if (bits > kernels.LARGEST_BFLOAT16).any():
        raise DamagedFrame("a level that is negative, infinite or NaN: the frame was not made by this codec")
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _read_indices(
    raw: memoryview, option: int, counts: NDArray[np.uint16], blocks: Blocks
) -> NDArray[np.uint16]:
    """uint16[K]."""
    indices = np.empty(int(counts.sum(dtype=np.int64)), np.uint16)
    data = np.frombuffer(raw, dtype=np.uint8)
    if option & BITMAP:
        _expect_bytes("bitmap", raw, _bitmap_bytes(blocks))
        fits = kernels.read_bitmap(data, counts, blocks.lengths, indices)
    else:
        fits = kernels.read_gaps(data, counts, blocks.lengths, indices)
    if not fits:
        raise DamagedFrame("indices that leave their block or do not match its count: fetch the frame again")
    return indices


def _values(
    signs: memoryview,
    codes: memoryview,
    levels: NDArray[np.float32],
    counts: NDArray[np.uint16],
    magnitude_bits: int,
) -> NDArray[np.float32]:
    """float32[K]."""
    wide = counts.astype(np.int64)
    _expect_bytes("signs", signs, int(((wide + 7) >> 3).sum()))
    _expect_bytes("codes", codes, int(((wide * magnitude_bits + 7) >> 3).sum()))
    values = np.empty(int(wide.sum()), np.float32)
    sign_bytes, code_bytes = (np.frombuffer(raw, dtype=np.uint8) for raw in (signs, codes))
    if not kernels.read_values(levels, counts, sign_bytes, code_bytes, magnitude_bits, values):
        raise DamagedFrame("bits behind the end of a block: the frame was not made by this codec")
    return values


def _expect_bytes(section: str, raw: memoryview, expected: int) -> None:
    if len(raw) != expected:
        raise DamagedFrame(f"{section}: {len(raw)} bytes, expected {expected} for these blocks and counts")
