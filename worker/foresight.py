"""Where x̂ will be when a unit that lags counts: it goes on as it went, and the stream's unit on its way moves it. Pure.

The unit of step t is computed on x̂ₜ₋₁, moved on by an offset that each block has its own of:

    β (x̂ₜ₋₁ - x̂ₜ₋₂) - a γ g        g: what the stream's unit of step t - 1 was sent as; β: the optimizer's momentum
    γ = Σ <β (x̂ₛ - x̂ₛ₋₁) - (x̂ₛ₊₁ - x̂ₛ), gₛ> / Σ <gₛ, gₛ>        sums that fade, a unit s that has counted at a time

γ is how far x̂ was seen to go along what this stream sent, beside going on: by least squares, whatever the optimizer.
All of it is the stream's: whoever carries it computes the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wire.codec.base import Blocks, PushCodec
from wire.codec.device import device_of
from wire.layout import FROZEN, Layout
from wire.messages import OptimizerSpec
from worker.planes import Plane
from worker.returned import Frames
from worker.state import dump, parse

KEPT = 0.97
"""Of the sums, a unit."""


@dataclass(frozen=True)
class Course:
    """What a stream knows of how x̂ answers to it.

    sums: float64 [3, blocks]: what x̂ moved along what was sent, the squares of what was sent, and of the unit on its
    way <x̂ₜ₋₁ - x̂ₜ₋₂, g>. met: whether the last is known. units: the newest two, oldest first.
    """

    sums: NDArray[np.float64]
    met: bool = False
    units: tuple[Frames, ...] = ()

    @classmethod
    def of(cls, blob: bytes, *, blocks: int) -> Course:
        """As `bytes` of it tells; of a stream that nothing is known of where that is empty."""
        if not blob:
            return cls(np.zeros((3, blocks)))
        tree: dict[str, Any] = parse(blob)
        units = tuple(
            tuple((_bytes(frame),) if len(frame) else () for frame in unit) for unit in tree["units"]
        )
        return cls(tree["sums"].numpy(), tree["met"], units)

    def __bytes__(self) -> bytes:
        units = [[_tensor(b"".join(pieces)) for pieces in unit] for unit in self.units]
        return dump({"sums": torch.from_numpy(self.sums), "met": self.met, "units": units})

    def sent(self, unit: Frames) -> Course:
        """One more unit is on its way."""
        return replace(self, units=(*self.units[-1:], unit))

    def arrived(self) -> Course:
        """None is on its way: the pipeline has drained."""
        return replace(self, met=False, units=())


class Foresight:
    """One worker's, in one segment.

    Args:
        trainable: of each shard, the blocks that frames cover.
        momentum: float32 [blocks], what of its last move x̂ goes on by (`momentum_of`).
        weight: a.
    """

    def __init__(
        self, codec: PushCodec, trainable: Sequence[Blocks], *, momentum: NDArray[np.float32], weight: float
    ) -> None:
        self._codec = codec
        self._trainable = trainable
        self._momentum = momentum
        self._weight = weight

    def look(self, course: Course, now: Plane, before: Plane | None, into: Plane) -> Course:
        """The offset from x̂ `now`, into the trainable blocks of `into`; the stream's course, x̂ having come here.

        before: x̂ as it was before it moved last; None where nobody knows, across a boundary.
        """
        momentum, past = (self._momentum, before) if before is not None else (0 * self._momentum, now)
        moved, sent, carried = course.sums.copy()
        along, squares = np.zeros_like(moved), np.zeros_like(moved)
        if before is not None and course.met and len(course.units) == 2:
            self._decode(course.units[0], into)
            self._products(now, before, into, along, squares)
            moved = KEPT * moved + (1 - KEPT) * (momentum * carried - along)
            sent = KEPT * sent + (1 - KEPT) * squares
        self._decode(course.units[-1] if course.units else (), into)
        if before is not None:
            self._products(now, before, into, carried, squares)
        gains = np.divide(moved, sent, out=np.zeros_like(moved), where=sent > 0)
        weighted = (self._weight * gains).astype(np.float32)
        for blocks in self._trainable:
            device_of(into).go_on(now, past, momentum, weighted, blocks.rows, into)
        return replace(course, sums=np.stack([moved, sent, carried]), met=before is not None)

    def _decode(self, unit: Frames, into: Plane) -> None:
        into[:] = 0
        for blocks, pieces in zip(self._trainable, unit or itertools.repeat(()), strict=False):
            if pieces:
                self._codec.add(tuple(pieces), into, blocks)

    def _products(self, now: Plane, before: Plane, into: Plane, along: Any, squares: Any) -> None:
        for blocks in self._trainable:
            device_of(into).products(now, before, into, blocks.rows, along, squares)


def momentum_of(specification: OptimizerSpec, layout: Layout) -> NDArray[np.float32]:
    """float32 [blocks]: what of its last move an optimizer goes on by, of each block."""
    groups = [group.get("beta1", group.get("momentum", 0.0)) for group in specification.groups]
    each = [0.0 if p.group == FROZEN else groups[p.group] for p in layout.parameters]
    return np.repeat(np.array(each, np.float32), [p.blocks for p in layout.parameters])


def _tensor(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.numpy().tobytes()
