"""The published model's step: d = C(x - x̂), x̂ += d. x - x̂ is the residual, there is no other state (EF21-P).

Parts that lose nothing (whole blocks in fp32) *set* x̂ to x, since x̂ + (x - x̂) is not x in floating point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from wire.codec import kernels
from wire.codec.base import AnyPlane, Blocks, Frame, Plane, check_plane, refuse_not_finite
from wire.codec.cut import Chain, Classes, Cuts, Part
from wire.codec.device import device_of
from wire.codec.feedback import Feedback
from wire.codec.frame import HEADER, Kind, build_header
from wire.codec.parallel import in_order
from wire.codec.part import Planes, Update, Values32, decode_parts, encode_part, max_part_bytes
from wire.codec.warmup import Warmup

SET, ADD = Update(Feedback.PLAIN), Update(Feedback.TRACK)


@dataclass(frozen=True)
class DecodedDelta:
    """A delta's frame, checked as a whole."""

    parts: Sequence[Values32]
    blocks: Blocks

    def apply_to(self, published: AnyPlane) -> None:
        """x̂ += d; in parts that lose nothing x̂ := x."""
        check_plane(published, self.blocks)
        device = device_of(published)
        for part in self.parts:
            if part.part.chain.exact:
                device.assign(part, published)
            else:
                device.add(part, published)


@dataclass(frozen=True)
class Delta:
    """The composed delta codec. threads: parts that are encoded side by side. warmup: density by step."""

    chain: Chain
    classes: Classes | None = None
    threads: int = 1
    warmup: Warmup | None = None
    _cuts: Cuts = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_cuts", Cuts(self.chain, self.classes))

    @property
    def name(self) -> str:
        return "dense" if self.chain.whole else "topk"

    def publish(self, x: Plane, published: Plane, blocks: Blocks, *, step: int = 0) -> tuple[bytes, ...]:
        """The pieces of the frame of d, and x̂ += d; see `wire.codec.base.DeltaCodec`.

        Raises: FloatingPointError where x is not finite (x̂ is then as it was), or where x - x̂ overflows.
        """
        for plane in (x, published):
            check_plane(plane, blocks)
        refuse_not_finite(kernels.first_not_finite(x, blocks.rows, blocks.lengths), blocks)
        parts = self._cuts.of(blocks)
        add = ADD if self.warmup is None else ADD._replace(density=self.warmup.density(step))
        pieces = in_order(lambda part: _publish(part, add, x, published), parts, threads=self.threads)
        return (build_header(Kind.DELTA, parts=len(parts), blocks=blocks.count), *pieces)

    def decode(self, frame: Frame, blocks: Blocks) -> DecodedDelta:
        """Raises: DamagedFrame."""
        return DecodedDelta(
            decode_parts(frame, Kind.DELTA, self._cuts.of(blocks), threads=self.threads), blocks
        )

    def apply(self, frame: Frame, published: AnyPlane, blocks: Blocks) -> None:
        """x̂ += d. Raises: DamagedFrame, before x̂ is touched."""
        self.decode(frame, blocks).apply_to(published)

    def max_frame_bytes(self, blocks: Blocks) -> int:
        """No frame of these blocks is longer."""
        return HEADER.size + sum(map(max_part_bytes, self._cuts.of(blocks)))


def _publish(part: Part, add: Update, x: Plane, published: Plane) -> bytes:
    if not part.chain.exact:
        return encode_part(part, add, Planes(x, published, published))
    piece = encode_part(part, SET, Planes(x, x, x))
    source, target = x.reshape(-1), published.reshape(-1)
    for start, size in part.blocks.segments:
        target[start : start + size] = source[start : start + size]
    return piece
