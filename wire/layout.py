"""Blocks: how a model's parameters are cut into the unit of placement and selection.

A model is the list of its parameters in `named_parameters()` order. Each is cut into
blocks of 4,096 consecutive elements, the last one padded with zeros in memory and never
on the wire. A *plane* is a float32 array of shape [blocks, 4096] that holds one value an
element (x, the published model, a moment, a residual …). Both ends of a connection hold
the same layout, so that no size on the wire is taken on trust.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

BLOCK = 4096
DTYPES = ("float32", "bfloat16", "float16")
FROZEN = -1


class BlockRange(NamedTuple):
    """Blocks `start` ≤ b < `stop` of the layout."""

    start: int
    stop: int

    @property
    def blocks(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Parameter:
    """One named parameter.

    `group` is the index of its optimizer parameter group, or `FROZEN` for a parameter
    that no optimizer steps (it is placed, saved and sent to joiners, never pushed).
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    group: int

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def blocks(self) -> int:
        return -(-self.numel // BLOCK)

    @property
    def trainable(self) -> bool:
        return self.group != FROZEN


@dataclass(frozen=True)
class Layout:
    """The block table of one model, the same on every process of a run."""

    parameters: tuple[Parameter, ...]

    @cached_property
    def first_block(self) -> tuple[int, ...]:
        """First block of each parameter, and the number of all blocks at the end."""
        return tuple(accumulate((p.blocks for p in self.parameters), initial=0))

    @property
    def blocks(self) -> int:
        return self.first_block[-1]

    @cached_property
    def numel(self) -> int:
        return sum(p.numel for p in self.parameters)

    @cached_property
    def digest(self) -> str:
        """sha256 over names, shapes, dtypes and groups: two processes that agree on it agree on every block."""
        table = [[p.name, list(p.shape), p.dtype, p.group] for p in self.parameters]
        return hashlib.sha256(json.dumps(table).encode()).hexdigest()

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Number of real elements of each block (4,096, or fewer in a parameter's last block)."""
        return tuple(min(BLOCK, p.numel - i * BLOCK) for p in self.parameters for i in range(p.blocks))

    @cached_property
    def _first_element(self) -> tuple[int, ...]:
        return tuple(accumulate(self.lengths, initial=0))

    def first_element(self, block: int) -> int:
        """Index of the block's first element in the padding-free concatenation of all blocks."""
        return self._first_element[block]

    def elements(self, ranges: Iterable[BlockRange]) -> int:
        """Number of real elements in `ranges`."""
        return sum(self._first_element[r.stop] - self._first_element[r.start] for r in ranges)

    def select(self, *, trainable: bool) -> list[BlockRange]:
        """The block ranges of all trainable (or all frozen) parameters, adjacent ones merged."""
        return merge(
            BlockRange(start, start + p.blocks)
            for p, start in zip(self.parameters, self.first_block, strict=False)
            if p.trainable is trainable
        )

    def groups(self, ranges: Sequence[BlockRange]) -> list[tuple[int, BlockRange]]:
        """`ranges` cut at parameter-group changes: (group, range) in block order, frozen ones left out."""
        cut: list[tuple[int, BlockRange]] = []
        for p, start in zip(self.parameters, self.first_block, strict=False):
            if not p.trainable:
                continue
            for r in intersect(ranges, [BlockRange(start, start + p.blocks)]):
                if cut and cut[-1][0] == p.group and cut[-1][1].stop == r.start:
                    cut[-1] = (p.group, BlockRange(cut[-1][1].start, r.stop))
                else:
                    cut.append((p.group, r))
        return cut


def merge(ranges: Iterable[BlockRange]) -> list[BlockRange]:
    """Sorted ranges with empty ones dropped and touching ones joined."""
    merged: list[BlockRange] = []
    for r in sorted(r for r in ranges if r.blocks > 0):
        if merged and merged[-1].stop >= r.start:
            merged[-1] = BlockRange(merged[-1].start, max(merged[-1].stop, r.stop))
        else:
            merged.append(r)
    return merged


def intersect(a: Sequence[BlockRange], b: Sequence[BlockRange]) -> list[BlockRange]:
    """The blocks in both of two sorted lists of ranges."""
    common, i, j = [], 0, 0
    while i < len(a) and j < len(b):
        start, stop = max(a[i].start, b[j].start), min(a[i].stop, b[j].stop)
        if start < stop:
            common.append(BlockRange(start, stop))
        if a[i].stop < b[j].stop:
            i += 1
        else:
            j += 1
    return common
