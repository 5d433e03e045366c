"""One part of a frame as bytes: what the kernels make of a few blocks, in five sections, and back.

Sections:
    counts   uint16 a block          kept elements (top-k only): ceil(density * length), fewer where the rest is zero
    scales   numbers or exponents    as many a block as the values have (`wire.codec.scales`)
    indices  gaps, or a bitmap       gap = distance from the index before, less one; 255 = 255 and more to come
    signs    one bit an element      1 = negative; each block begins at a byte
    codes    bits of the values      each block begins at a byte
What the reader decodes are the same float32 numbers that the writer took out of its state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from wire.codec import kernels
from wire.codec.base import Blocks, DamagedFrame, Frame, Plane, buffers_of, expect_bytes, refuse_not_finite
from wire.codec.cut import Part
from wire.codec.feedback import Feedback
from wire.codec.frame import (
    PART_HEADER_BYTES,
    Content,
    Indices,
    Kind,
    Section,
    Shape,
    build_part,
    read_header,
    read_part,
    squeeze,
)
from wire.codec.parallel import in_order
from wire.codec.scales import pack_scales, read_scales
from wire.codec.values import Values

F32 = NDArray[np.float32]
U16 = NDArray[np.uint16]
U8 = NDArray[np.uint8]
P = TypeVar("P")
EMPTY: Section = (0, b"")


class Update(NamedTuple):
    """How a part's state moves: the mode, its weights, and the key of random rounding (0: round to nearest).

    decay: of the residual. eta: weight of the new gradient in the momentum. density: of what is sent (top-k), where
    it is not the chain's.
    """

    feedback: Feedback
    decay: float = 1.0
    eta: float = 1.0
    key: int = 0
    density: float | None = None

    @property
    def weights(self) -> F32:
        return np.array([self.decay, 1.0 - self.eta, self.eta], dtype=np.float32)


class Planes(NamedTuple, Generic[P]):
    """What a part is encoded from: planes [rows, 4096]. `momentum` and `state` may be the same, or the source."""

    source: P
    momentum: P
    state: P


class Raw(NamedTuple):
    """What an encoder makes of a part: counts uint16[n], scales uint16[n, L] (bits of bfloat16 numbers, or exponents),
    and the bytes of the other sections."""

    counts: U16
    scales: U16
    gaps: U8
    signs: U8
    codes: U8


@dataclass(frozen=True)
class Values32:
    """A decoded part: values float32[K], in the order of the blocks; indices uint16[K] where not all are there."""

    part: Part
    counts: U16
    indices: U16 | None
    values: F32

    @property
    def memory_bytes(self) -> int:
        """Beside the frame, whose bytes values in fp32 are read from."""
        own = 0 if self.part.chain.exact else self.values.nbytes
        return own + (0 if self.indices is None else self.indices.nbytes)


def max_part_bytes(part: Part) -> int:
    """No part of this shape is longer."""
    return PART_HEADER_BYTES + sum(part.raw_limits)


def encode_part(part: Part, update: Update, planes: Planes[Plane]) -> bytes:
    """The part's bytes; moves the state in its rows.

    Raises: FloatingPointError where what is to be compressed is not finite.
    """
    chain, blocks = part.chain, part.blocks
    if chain.exact and update.feedback is Feedback.PLAIN:
        return build_part(_shape(part), Indices.NONE, [EMPTY] * 4 + [_floats_of(planes.source, blocks)])
    _, _, gap_limit, sign_limit, code_limit = part.raw_limits
    counts = np.empty(blocks.count, np.uint16)
    scales = np.empty((blocks.count, chain.values.scales), np.uint16)
    gaps, signs, codes = (np.empty(size, np.uint8) for size in (gap_limit, sign_limit, code_limit))
    gap_bytes, sign_bytes, code_bytes, bad = kernels.encode_blocks(
        int(update.feedback), update.weights, *planes, blocks.rows, blocks.lengths,
        part.kept_at(update.density),
        int(chain.values), chain.coarse, np.uint64(update.key), blocks.numbers, counts, scales, gaps, signs, codes,
    )  # fmt: skip
    refuse_not_finite(bad, blocks)
    return part_bytes(part, Raw(counts, scales, gaps[:gap_bytes], signs[:sign_bytes], codes[:code_bytes]))


def part_bytes(part: Part, raw: Raw) -> bytes:
    """A part's bytes from its raw sections, whoever made them."""
    chain = part.chain
    indices, index_section = (
        (Indices.NONE, EMPTY) if chain.whole else _indices(raw.gaps, raw.counts, part.blocks)
    )
    sections = [
        EMPTY if chain.whole else _section(raw.counts, squeezed=True),
        _section(pack_scales(chain.values, raw.scales, raw.counts), squeezed=True),
        index_section,
        _section(raw.signs),
        _section(raw.codes, squeezed=chain.values.entropy),
    ]
    return build_part(_shape(part), indices, sections)


def decode_parts(frame: Frame, kind: Kind, parts: Sequence[Part], *, threads: int) -> list[Values32]:
    """All parts of a frame of that cut. Raises: DamagedFrame."""
    blocks = sum(part.blocks.count for part in parts)
    buffers = deque(memoryview(buffer) for buffer in buffers_of(frame))
    rest = read_header(_next(buffers), kind, parts=len(parts), blocks=blocks)
    found: list[tuple[Part, Content]] = []
    for part in parts:
        content, rest = read_part(rest or _next(buffers), _shape(part), part.raw_limits)
        found.append((part, content))
    if behind := len(rest) + sum(map(len, buffers)):
        raise DamagedFrame(f"{behind} bytes behind the last part: fetch the frame again")
    return list(in_order(lambda pair: _decode_part(*pair), found, threads=threads))


def _next(buffers: deque[memoryview]) -> memoryview:
    return buffers.popleft() if buffers else memoryview(b"")


def _decode_part(part: Part, content: Content) -> Values32:
    """A part from its checked envelope. Raises: DamagedFrame."""
    chain, blocks = part.chain, part.blocks
    indices, sections = content.open()
    counts_raw, scales_raw, indices_raw, signs, codes = sections
    if chain.whole != (indices is Indices.NONE):
        raise DamagedFrame(
            f"indices {indices.name} in a part of {'whole blocks' if chain.whole else 'top-k'}"
        )
    counts = blocks.lengths.astype(np.uint16) if chain.whole else _counts(counts_raw, part)
    found = None if chain.whole else _read_indices(indices_raw, indices, counts, blocks)
    scales = read_scales(chain.values, scales_raw, counts)
    return Values32(part, counts, found, _values(chain.values, scales, signs, codes, counts))


def _shape(part: Part) -> Shape:
    return Shape(part.first, part.blocks.count, 0 if part.chain.whole else 1, int(part.chain.values))


def _section(values: U8 | U16, *, squeezed: bool = False) -> Section:
    raw = values.reshape(-1).view(np.uint8).data if values.size else memoryview(b"")
    return len(raw), squeeze(raw) if squeezed else raw


def _floats_of(plane: Plane, blocks: Blocks) -> Section:
    """The section of real elements as they stand in the plane; not copied where they stand in one stretch."""
    flat = plane.reshape(-1)
    stretches = [flat[start : start + size] for start, size in blocks.segments]
    raw = (stretches[0] if len(stretches) == 1 else np.concatenate(stretches)).astype("<f4", copy=False)
    return raw.nbytes, raw.view(np.uint8).data


def _indices(gaps: U8, counts: U16, blocks: Blocks) -> tuple[Indices, Section]:
    """The gaps, or a bitmap where that is shorter."""
    section = _section(gaps, squeezed=True)
    if len(section[1]) <= blocks.bitmap_bytes:
        return Indices.GAPS, section
    bitmap = np.zeros(blocks.bitmap_bytes, np.uint8)
    kernels.bitmap_from_gaps(gaps, counts, blocks.lengths, bitmap)
    return Indices.BITMAP, _section(bitmap, squeezed=True)


def _counts(raw: memoryview, part: Part) -> U16:
    expect_bytes("counts", raw, 2 * part.blocks.count)
    counts: U16 = np.frombuffer(raw, dtype="<u2").astype(np.uint16)
    if (counts > part.most_kept).any():
        raise DamagedFrame(
            f"a block keeps more than density = {part.chain.densest or part.chain.density} allows: use one "
            "configuration everywhere"
        )
    return counts


def _read_indices(raw: memoryview, kind: Indices, counts: U16, blocks: Blocks) -> U16:
    """uint16[K]."""
    indices = np.empty(int(counts.sum(dtype=np.int64)), np.uint16)
    data = np.frombuffer(raw, dtype=np.uint8)
    if kind is Indices.BITMAP:
        expect_bytes("bitmap", raw, blocks.bitmap_bytes)
        fits = kernels.read_bitmap(data, counts, blocks.lengths, indices)
    else:
        fits = kernels.read_gaps(data, counts, blocks.lengths, indices)
    if not fits:
        raise DamagedFrame("indices that leave their block or do not match its count: fetch the frame again")
    return indices


def _values(kind: Values, scales: F32, signs: memoryview, codes: memoryview, counts: U16) -> F32:
    """float32[K]."""
    wide = counts.astype(np.int64)
    expect_bytes("signs", signs, int(((wide + 7) >> 3).sum()) if kind.signed_apart else 0)
    expect_bytes("codes", codes, int(((wide * kind.code_bits + 7) >> 3).sum()))
    if kind is Values.FP32:
        return _floats(codes)
    values = np.empty(int(wide.sum()), np.float32)
    sign_bytes, code_bytes = (np.frombuffer(raw, dtype=np.uint8) for raw in (signs, codes))
    if not kernels.read_values(int(kind), scales, counts, sign_bytes, code_bytes, values):
        raise DamagedFrame(
            "codes that no writer makes, or bits behind the end of a block: use one build everywhere"
        )
    return values


def _floats(codes: memoryview) -> F32:
    """float32[K] without a copy, where the machine can read them in place."""
    values: F32 = np.frombuffer(codes, dtype="<f4")
    if not values.flags.aligned:
        values = values.copy()
    if not np.isfinite(values).all():
        raise DamagedFrame("NaN or infinity among the values: the frame was not made by this codec")
    return values
