"""How far planes on a device have moved, against what was sent, and how they go on: the bits of kernels/ahead.py."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from wire.codec.base import Blocks, Rows
from wire.codec.cuda.group import GROUP_BLOCKS, rows_of
from wire.codec.part import F32

F64 = NDArray[np.float64]


def square_sum(plane: torch.Tensor, blocks: Blocks) -> float:
    """Sum of the squares of their real elements in float64; not finite where one of them is not."""
    flat = plane.view(-1)
    norms = [
        torch.linalg.vector_norm(flat[start : start + size], dtype=torch.float64)
        for start, size in blocks.segments
    ]
    return float(torch.stack(norms).square().sum()) if norms else 0.0


def products(
    now: torch.Tensor, before: torch.Tensor, sent: torch.Tensor, rows: Rows, along: F64, squares: F64
) -> None:
    """Of each row into float64[rows of the planes]: along = <now - before, sent>, squares = <sent, sent>."""
    found = []
    for some in _groups(rows):
        at = rows_of(some, sent.device)
        wide = sent[at].double()
        moved = (now[at] - before[at]).double()
        found.append(torch.stack([_by_halves(moved.mul_(wide)), _by_halves(wide * wide)]))
    if found:
        along[rows], squares[rows] = torch.cat(found, dim=1).cpu().numpy()


def go_on(
    now: torch.Tensor, before: torch.Tensor, moves: F32, gains: F32, rows: Rows, into: torch.Tensor
) -> None:
    """Of each row: into = moves (now - before) - gains into, each operation rounded to float32."""
    for some in _groups(rows):
        at = rows_of(some, into.device)
        move, gain = (torch.from_numpy(w[some]).to(into.device)[:, None] for w in (moves, gains))
        sent = torch.where(gain != 0, gain * into[at], 0.0)
        into[at] = (move * (now[at] - before[at])).sub_(sent)


def _groups(rows: Rows) -> Iterator[Rows]:
    for start in range(0, rows.size, GROUP_BLOCKS):
        yield rows[start : start + GROUP_BLOCKS]


def _by_halves(values: torch.Tensor) -> torch.Tensor:
    """float64[n]: the sums of the rows of float64[n, 4096]."""
    while (width := values.shape[1] // 2) > 0:
        values = values[:, :width] + values[:, width:]
    return values[:, 0]
