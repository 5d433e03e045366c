"""A worker's update: selection, values and feedback composed, block by block, part by part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from wire.codec import kernels
from wire.codec.base import AnyPlane, Blocks, Frame, check_plane, refuse_not_finite
from wire.codec.cut import Chain, Classes, Cuts
from wire.codec.device import device_of
from wire.codec.feedback import Feedback
from wire.codec.frame import HEADER, Kind, build_header
from wire.codec.norm import norm_of
from wire.codec.part import Planes, Update, Values32, decode_parts, max_part_bytes
from wire.codec.warmup import Warmup


@dataclass(frozen=True)
class DecodedPush:
    """A push's frame, checked as a whole."""

    parts: Sequence[Values32]
    blocks: Blocks

    @property
    def memory_bytes(self) -> int:
        """Of what was decoded, beside the frame."""
        return sum(part.memory_bytes for part in self.parts)

    def add_to(self, into: AnyPlane, *, factor: float = 1.0) -> None:
        """into += factor * values: each product rounded to float32, then added, in element order."""
        check_plane(into, self.blocks)
        device = device_of(into)
        for part in self.parts:
            device.add(part, into, factor=factor)

    def count_to(self, into: NDArray[np.uint16]) -> None:
        """into[row, element] += 1 for each element that the frame carries, zeros included where a block is whole."""
        for part in self.parts:
            if part.indices is None:
                into[part.part.blocks.rows] += np.uint16(1)
            else:
                kernels.count_sent(part.indices, part.counts, part.part.blocks.rows, into)


@dataclass(frozen=True)
class Push:
    """The composed push codec.

    decay: of the residual at each unit. eta: weight of a new gradient in EF21-SGDM. threads: parts that are encoded
    side by side. warmup: density by the step of a unit, and `streams`, the units of a step.
    """

    chain: Chain
    feedback: Feedback
    decay: float = 1.0
    eta: float = 1.0
    classes: Classes | None = None
    threads: int = 1
    warmup: Warmup | None = None
    streams: int = 1
    _cuts: Cuts = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, value in (("decay", self.decay), ("momentum", self.eta)):
            if not 0 < value <= 1:
                raise ValueError(f"{name} = {value}: expected a weight, above 0 and at most 1")
        object.__setattr__(self, "_cuts", Cuts(self.chain, self.classes))

    @property
    def name(self) -> str:
        return "dense" if self.chain.whole else "topk"

    @property
    def state_planes(self) -> tuple[str, ...]:
        return self.feedback.planes

    @property
    def estimates(self) -> bool:
        return self.feedback.estimates

    def encode(
        self, gradient: AnyPlane, state: Mapping[str, AnyPlane], blocks: Blocks, *, unit: int = 0
    ) -> Iterator[bytes]:
        """The pieces of a frame in order; see `wire.codec.base.PushCodec`."""
        planes = [state[name] for name in self.state_planes]
        for plane in (gradient, *planes):
            check_plane(plane, blocks)
        refuse_not_finite(device_of(gradient).first_not_finite(gradient, blocks), blocks)
        sources = Planes(gradient, *((planes[0], planes[-1]) if planes else (gradient, gradient)))
        update = Update(self.feedback, self.decay, self.eta, self._key(unit), self._density(unit))
        return self._pieces(blocks, update, sources)

    def _key(self, unit: int) -> int:
        """Random rounding where nothing takes the error back, never key 0."""
        return unit + 1 if self.feedback <= Feedback.CARRY else 0

    def _density(self, unit: int) -> float | None:
        """By the unit's own step, whoever computes it and whenever."""
        return None if self.warmup is None else self.warmup.density(unit // self.streams)

    def _pieces(self, blocks: Blocks, update: Update, sources: Planes[AnyPlane]) -> Iterator[bytes]:
        parts = self._cuts.of(blocks)
        yield build_header(Kind.PUSH, parts=len(parts), blocks=blocks.count)
        yield from device_of(sources.source).encode_parts(parts, update, sources, threads=self.threads)

    def decode(self, frame: Frame, blocks: Blocks) -> DecodedPush:
        """Raises: DamagedFrame."""
        return DecodedPush(
            decode_parts(frame, Kind.PUSH, self._cuts.of(blocks), threads=self.threads), blocks
        )

    def add(self, frame: Frame, into: AnyPlane, blocks: Blocks, *, factor: float = 1.0) -> None:
        """into += factor * decoded values. Raises: DamagedFrame, before `into` is touched."""
        self.decode(frame, blocks).add_to(into, factor=factor)

    def give_back(self, frame: Frame, state: Mapping[str, AnyPlane], blocks: Blocks, *, share: float) -> None:
        """held += share * values; an estimate, which had run ahead of the server's, goes back by as much."""
        sign = -1.0 if self.estimates else 1.0
        self.add(frame, state[self.state_planes[-1]], blocks, factor=sign * share)

    def norm(self, frames: Iterable[tuple[Frame, Blocks]]) -> float:
        """L2 norm of what the frames of one push decode to, all shards together. Raises: DamagedFrame."""
        return norm_of(part for frame, blocks in frames for part in self.decode(frame, blocks).parts)

    def validate(self, frame: Frame, blocks: Blocks) -> None:
        """Raises: DamagedFrame."""
        self.decode(frame, blocks)

    def max_frame_bytes(self, blocks: Blocks) -> int:
        """No frame of these blocks is longer."""
        return HEADER.size + sum(map(max_part_bytes, self._cuts.of(blocks)))
