"""The blocks that are worked on at once, and their rows of the planes.

Legend: n blocks of a group · W the most elements that one of them keeps (4,096 where blocks go whole).
    rows: a slice where the blocks follow each other in the plane, so that a gather is a view; else int64[n]
    inside bool[n, 4096]: real elements, None where no block is short
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from wire.codec.base import Blocks
from wire.codec.cut import Chain, Part
from wire.layout import BLOCK

GROUP_BLOCKS = 512
"""Blocks on the way at once: 50 to 90 MiB of temporary memory, 165 MiB where top-k keeps every element."""
MAGNITUDE, INFINITY = 0x7FFFFFFF, 0x7F800000


@dataclass(frozen=True)
class Group:
    """Parts of one chain that are encoded together, their blocks one after the other, and where they lie."""

    parts: Sequence[Part]
    numbers: torch.Tensor
    kept: torch.Tensor
    width: int
    rows: slice | torch.Tensor
    inside: torch.Tensor | None

    @classmethod
    def of(cls, parts: Sequence[Part], device: torch.device, density: float | None = None) -> Group:
        """The group of these parts, its few numbers a block copied to the device; `density`: see `Update`."""
        lengths = np.concatenate([part.blocks.lengths for part in parts])
        kept = lengths if parts[0].chain.whole else np.concatenate([part.kept_at(density) for part in parts])
        rows = np.concatenate([part.blocks.rows for part in parts])
        numbers = np.concatenate([part.blocks.numbers for part in parts])
        return cls(
            parts,
            torch.from_numpy(numbers).to(device),
            torch.from_numpy(kept.astype(np.int64)).to(device),
            BLOCK if parts[0].chain.whole else int(kept.max()),
            rows_of(rows, device),
            inside_of(lengths, device),
        )

    @property
    def chain(self) -> Chain:
        return self.parts[0].chain


def groups(parts: Sequence[Part], device: torch.device, density: float | None = None) -> Iterator[Group]:
    """All parts in order, as many at once as fit."""
    ahead: list[Part] = []
    for part in parts:
        full = sum(p.blocks.count for p in ahead) + part.blocks.count > GROUP_BLOCKS
        if ahead and (full or part.chain != ahead[0].chain):
            yield Group.of(ahead, device, density)
            ahead = []
        ahead.append(part)
    if ahead:
        yield Group.of(ahead, device, density)


def rows_of(rows: np.ndarray[tuple[int], np.dtype[np.int64]], device: torch.device) -> slice | torch.Tensor:
    """Rows of a plane."""
    if rows.size and (np.diff(rows) == 1).all():
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return torch.from_numpy(rows).to(device)


def inside_of(
    lengths: np.ndarray[tuple[int], np.dtype[np.int32]], device: torch.device
) -> torch.Tensor | None:
    """Which elements are no padding, None where all are real."""
    if (lengths == BLOCK).all():
        return None
    return torch.arange(BLOCK, device=device) < torch.from_numpy(lengths).to(device)[:, None]


def put(
    plane: torch.Tensor, rows: slice | torch.Tensor, inside: torch.Tensor | None, new: torch.Tensor
) -> None:
    """plane[rows] = new; padding stays as it is."""
    plane[rows] = new if inside is None else torch.where(inside, new, plane[rows])


def first_not_finite(plane: torch.Tensor, blocks: Blocks) -> int:
    """Position in `blocks` of the first block with NaN or infinity in it, or -1."""
    found = []
    for start in range(0, blocks.count, GROUP_BLOCKS):
        stop = start + GROUP_BLOCKS
        x = plane[rows_of(blocks.rows[start:stop], plane.device)]
        inside = inside_of(blocks.lengths[start:stop], plane.device)
        least, most = torch.aminmax(x if inside is None else torch.where(inside, x, 0.0), dim=1)
        found.append(torch.isfinite(least) & torch.isfinite(most))
    bad = np.flatnonzero(~torch.cat(found).cpu().numpy()) if found else np.empty(0, np.int64)
    return int(bad[0]) if bad.size else -1
