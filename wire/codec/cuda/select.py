"""Exact top-k on a device, and the gaps of what it chose.

Each element's magnitude and, below it, its index counted from the end make one number of 43 bits. No two are equal,
so that the k largest are one set, however `torch.topk` breaks ties: equal magnitudes go to the lowest index.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional

from wire.codec.kernels import ESCAPE
from wire.layout import BLOCK


class Chosen(NamedTuple):
    """places int64[n, W]: indices in their block, no two of a block equal, the kept ones first and ascending.

    valid bool[n, W]: whether kept. counts int64[n].
    """

    places: torch.Tensor
    valid: torch.Tensor
    counts: torch.Tensor


def select(keys: torch.Tensor, kept: torch.Tensor, width: int) -> Chosen:
    """The kept[b] largest of keys int32[n, 4096] (magnitudes) in each block b, ties to the lowest index, zero never."""
    backwards = torch.arange(BLOCK - 1, -1, -1, device=keys.device)
    ranked = torch.add(backwards, keys, alpha=BLOCK).topk(width, dim=1).values
    wanted = torch.arange(width, device=keys.device) < kept[:, None]
    counts = (wanted & (ranked >= BLOCK)).sum(1)
    valid = torch.arange(width, device=keys.device) < counts[:, None]
    places = (BLOCK - 1) - (ranked & (BLOCK - 1))
    # What is not kept goes behind what is; it still has its own place, so that writing places back never collides.
    order = torch.where(valid, places, places + BLOCK).to(torch.int16).sort(1).values
    return Chosen(order.long() & (BLOCK - 1), valid, counts)


def gaps_of(chosen: Chosen) -> tuple[torch.Tensor, torch.Tensor]:
    """Distances of the kept indices, less one, 255 = 255 and more to come: (uint8[…], bytes of each block int64[n]).

    Block follows block; what is behind the last has no meaning.
    """
    before = functional.pad(chosen.places[:, :-1], (1, 0), value=-1)
    gaps = chosen.places - before - 1
    sizes = torch.where(chosen.valid, torch.div(gaps, ESCAPE, rounding_mode="floor") + 1, 0)
    of_block = sizes.sum(1)
    ends = sizes.cumsum(1) + (of_block.cumsum(0) - of_block)[:, None]
    blocks, width = gaps.shape
    most = blocks * (width + (BLOCK - width) // ESCAPE)
    packed = torch.full((most + 1,), ESCAPE, dtype=torch.uint8, device=gaps.device)
    packed[torch.where(chosen.valid, ends - 1, most)] = (gaps % ESCAPE).to(torch.uint8)
    return packed[:most], of_block
