"""The published model's step: d = C(x - x̂), x̂ += d. x - x̂ is the residual, there is no other state (EF21-P).

Parts that lose nothing (whole blocks in fp32) *set* x̂ to x, since x̂ + (x - x̂) is not x in floating point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from wire.codec import kernels
from wire.codec.base import Blocks, Plane, check_plane, refuse_not_finite
from wire.codec.cut import Chain, Classes, Cuts, Part
from wire.codec.feedback import Feedback
from wire.codec.frame import HEADER, Kind, build_header
from wire.codec.parallel import in_order
from wire.codec.part import Planes, Update, Values32, decode_parts, encode_part, max_part_bytes

SET, ADD = Update(Feedback.PLAIN), Update(Feedback.TRACK)


@dataclass(frozen=True)
class DecodedDelta:
    """A delta's frame, checked as a whole."""

    parts: Sequence[Values32]
    blocks: Blocks

    def apply_to(self, published: Plane) -> None:
        """x̂ += d; in parts that lose nothing x̂ := x."""
        check_plane(published, self.blocks)
        for part in self.parts:
            if part.part.chain.exact:
                part.set_in(published)
            else:
                part.add_to(published)


@dataclass(frozen=True)
class Delta:
    """The composed delta codec. threads: parts that are encoded side by side."""

    chain: Chain
    classes: Classes | None = None
    threads: int = 1
    _cuts: Cuts = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_cuts", Cuts(self.chain, self.classes))

    @property
    def name(self) -> str:
        return "dense" if self.chain.whole else "topk"

    def publish(self, x: Plane, published: Plane, blocks: Blocks) -> bytes:
        """The frame of d, and x̂ += d.

        Raises: FloatingPointError where x is not finite (x̂ is then as it was), or where x - x̂ overflows.
        """
        for plane in (x, published):
            check_plane(plane, blocks)
        refuse_not_finite(kernels.first_not_finite(x, blocks.rows, blocks.lengths), blocks)
        parts = self._cuts.of(blocks)
        pieces = in_order(lambda part: _publish(part, x, published), parts, threads=self.threads)
        return b"".join([build_header(Kind.DELTA, parts=len(parts), blocks=blocks.count), *pieces])

    def decode(self, frame: bytes, blocks: Blocks) -> DecodedDelta:
        """Raises: DamagedFrame."""
        return DecodedDelta(
            decode_parts(frame, Kind.DELTA, self._cuts.of(blocks), threads=self.threads), blocks
        )

    def apply(self, frame: bytes, published: Plane, blocks: Blocks) -> None:
        """x̂ += d. Raises: DamagedFrame, before x̂ is touched."""
        self.decode(frame, blocks).apply_to(published)

    def max_frame_bytes(self, blocks: Blocks) -> int:
        """No frame of these blocks is longer."""
        return HEADER.size + sum(map(max_part_bytes, self._cuts.of(blocks)))


def _publish(part: Part, x: Plane, published: Plane) -> bytes:
    if not part.chain.exact:
        return encode_part(part, ADD, Planes(x, published, published))
    piece = encode_part(part, SET, Planes(x, x, x))
    published[part.blocks.rows] = x[part.blocks.rows]
    return piece
