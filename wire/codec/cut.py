"""How a frame is cut: blocks into classes by policy, classes into parts that are encoded and sent one by one.

A *chain* is one choice of selection and values. Class 0 is the codec's main chain; the classes after it
belong to parameters that a policy sends whole. Both ends make the same cut from the configuration and the
layout, so that a frame only repeats what its reader knows. This module imports neither numba nor torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from wire.codec.base import Blocks, check_density
from wire.codec.policy import rules
from wire.codec.scales import scale_bytes
from wire.codec.values import AUTO, COARSEST, Values
from wire.layout import BLOCK, Layout

PART_VALUES = 32_768
"""About so many elements are kept in a part: enough to hide its header and table, few enough to overlap."""
LEAST_BLOCKS, MOST_BLOCKS = 64, 512
"""Of a part."""
ESCAPE = 255
"""A gap of so much and more to come."""


class Chain(NamedTuple):
    """density: share of each block that is kept, None = whole blocks. values: their code.

    densest: share that is kept at most, where the first frames of a run are denser; else None. coarse: of int4 and
    mxint4, by how much steps are longer than those of least error: fewer bits, which readers need not know of.
    """

    density: float | None
    values: Values
    densest: float | None = None
    coarse: float = 1.0

    @property
    def whole(self) -> bool:
        """Whether every element is sent."""
        return self.density is None

    @property
    def exact(self) -> bool:
        """Whether nothing is lost."""
        return self.whole and self.values is Values.FP32

    @property
    def unbiased(self) -> bool:
        """Whether it can do without feedback: what is lost is lost in both directions alike."""
        return self.whole and self.values.unbiased

    @property
    def part_blocks(self) -> int:
        """Most blocks of a part."""
        kept = BLOCK if self.density is None else max(math.ceil(self.density * BLOCK), 1)
        return min(max(PART_VALUES // kept, LEAST_BLOCKS), MOST_BLOCKS)

    def kept(self, blocks: Blocks, density: float | None = None) -> NDArray[np.int32]:
        """int32[n]: elements kept of each block, at `density` where it is given; -1: sent whole, zeros included."""
        if self.density is None:
            return np.full(blocks.count, -1, np.int32)
        return blocks.kept(self.density if density is None else density)


@dataclass(frozen=True, eq=False)
class Part:
    """One part of a frame: `blocks`, which begin at position `first` of the frame's order, in one chain."""

    first: int
    chain: Chain
    blocks: Blocks

    @cached_property
    def kept(self) -> NDArray[np.int32]:
        """int32[n]: elements kept of each block; -1 where it is sent whole, zeros included."""
        return self.chain.kept(self.blocks)

    @cached_property
    def most_kept(self) -> NDArray[np.int32]:
        """int32[n]: the same of the densest frame, more than which no reader accepts."""
        return self.kept if self.chain.densest is None else self.kept_at(self.chain.densest)

    def kept_at(self, density: float | None) -> NDArray[np.int32]:
        """int32[n]: the same of a frame of this density; None: of the chain's own."""
        return self.kept if density is None else self.chain.kept(self.blocks, density)

    @cached_property
    def raw_limits(self) -> tuple[int, ...]:
        """Largest raw bytes of each section: counts, scales, indices, signs, codes."""
        chain, blocks = self.chain, self.blocks
        kept = (blocks.lengths if chain.whole else self.most_kept).astype(np.int64)
        gaps = 0 if chain.whole else int((kept + (blocks.lengths - kept) // ESCAPE).sum())
        return (
            0 if chain.whole else 2 * blocks.count,
            scale_bytes(chain.values, kept),
            0 if chain.whole else max(gaps, blocks.bitmap_bytes),
            int(((kept + 7) >> 3).sum()) if chain.values.signed_apart else 0,
            int(((kept * chain.values.code_bits + 7) >> 3).sum()),
        )


@dataclass(frozen=True, eq=False)
class Classes:
    """Which chain each block of a layout has.

    of_block: uint8 by global block number, 0 = the main chain. chains: of the classes 1, 2, ….
    """

    of_block: NDArray[np.uint8]
    chains: tuple[Chain, ...]

    @classmethod
    def by_policy(cls, layout: Layout, policy: Sequence[str]) -> Classes | None:
        """The classes of a policy (`wire.codec.policy`); None where no rule fits any parameter.

        Raises: ValueError for a rule that is not one.
        """
        found = rules(policy)
        chosen = [next((rule.values for rule in found if rule.fits(p)), None) for p in layout.parameters]
        values = sorted({v for v in chosen if v is not None})
        if not values:
            return None
        of_parameter = np.array([0 if v is None else values.index(v) + 1 for v in chosen], np.uint8)
        of_block = np.repeat(of_parameter, [p.blocks for p in layout.parameters])
        return cls(of_block, tuple(Chain(None, v) for v in values))


def unbiased(main: Chain, classes: Classes | None) -> bool:
    """Whether all chains can do without feedback."""
    return all(chain.unbiased for chain in (main, *(classes.chains if classes else ())))


class Cuts:
    """The parts of frames, by the blocks that they cover; each cut is made once.

    Args:
        main: the chain of class 0.
    """

    def __init__(self, main: Chain, classes: Classes | None) -> None:
        self._main, self._classes = main, classes
        self._made: WeakKeyDictionary[Blocks, tuple[Part, ...]] = WeakKeyDictionary()

    def of(self, blocks: Blocks) -> tuple[Part, ...]:
        """The parts of a frame over `blocks`: class by class, in each the blocks in the order given."""
        parts = self._made.get(blocks)
        if parts is None:
            parts = self._made[blocks] = tuple(_parts(blocks, self._main, self._classes))
        return parts


def _parts(blocks: Blocks, main: Chain, classes: Classes | None) -> Iterator[Part]:
    if classes is None:
        yield from _slices(blocks, np.arange(blocks.count), main, 0)
        return
    of_block, first = classes.of_block[blocks.numbers], 0
    for number, chain in enumerate((main, *classes.chains)):
        chosen = np.flatnonzero(of_block == number)
        yield from _slices(blocks, chosen, chain, first)
        first += chosen.size


def _slices(blocks: Blocks, chosen: NDArray[np.int64], chain: Chain, first: int) -> Iterator[Part]:
    for start in range(0, chosen.size, chain.part_blocks):
        yield Part(first + start, chain, blocks.take(chosen[start : start + chain.part_blocks]))


def main_chain(
    *, codec: str, density: float, values: str, densest: float | None = None, coarse: float = 1.0
) -> Chain:
    """The chain of `codec` ("dense" or "topk"); `values` "auto": fp32 and sign1. densest: where it is not `density`.

    Raises: ValueError for a value out of range.
    """
    if codec not in AUTO:
        raise ValueError(f"codec {codec!r}: expected 'dense' or 'topk'")
    code = Values.named(values, codec=codec)
    if not 1 <= coarse <= COARSEST or (coarse != 1 and not code.stepped):
        raise ValueError(
            f"coarse = {coarse:g} of {code.name.lower()} values: expected 1, or of int4 and mxint4 1 to {COARSEST:g}"
        )
    if codec == "dense":
        return Chain(None, code, coarse=coarse)
    check_density(density)
    if densest is not None and not density <= densest <= 1:
        raise ValueError(
            f"densest = {densest}: expected a share of each block, at least {density:g} and at most 1"
        )
    return Chain(density, code, densest, coarse)
