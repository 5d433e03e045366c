"""Decoded values into planes on a device, and planes as arrays in host memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wire.codec.base import Blocks
from wire.codec.cuda.group import inside_of, put, rows_of
from wire.codec.part import F32, U16, Values32
from wire.layout import BLOCK


def add(decoded: Values32, into: torch.Tensor, *, factor: float = 1.0) -> None:
    """into += factor * values, each product rounded to float32, then added.

    An element comes at most once, so that their order does not show. They are read, added and written: an atomic
    add would flush denormal sums to zero on CUDA.
    """
    if decoded.indices is None:
        rows, inside, values = _rows_of_values(decoded, into.device)
        put(into, rows, inside, into[rows] + _times(values, factor))
        return
    flat, where = into.view(-1), _places(decoded, decoded.indices, into.device)
    values = _times(_sent(decoded.values, into.device), factor)
    flat.index_copy_(0, where, flat.index_select(0, where) + values)


def assign(decoded: Values32, into: torch.Tensor) -> None:
    """into = values; of whole blocks only."""
    rows, inside, values = _rows_of_values(decoded, into.device)
    put(into, rows, inside, values)


def gather(plane: torch.Tensor, blocks: Blocks) -> F32:
    """float32[elements]: the real elements of `blocks`, in order."""
    flat = plane.detach().view(-1)
    stretches = [flat[start : start + size] for start, size in blocks.segments]
    together = torch.cat(stretches) if stretches else flat[:0]
    values: F32 = together.cpu().numpy()
    return values


def scatter(values: F32, plane: torch.Tensor, blocks: Blocks) -> None:
    """Set them."""
    flat, sent, at = plane.view(-1), _sent(values, plane.device), 0
    for start, size in blocks.segments:
        flat[start : start + size] = sent[at : at + size]
        at += size


def _rows_of_values(
    decoded: Values32, device: torch.device
) -> tuple[slice | torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """(rows, inside, values float32[n, 4096]) of whole blocks."""
    blocks = decoded.part.blocks
    values = decoded.values
    if values.size < blocks.count * BLOCK:
        values = np.zeros(blocks.count * BLOCK, np.float32)
        values.reshape(-1, BLOCK)[np.arange(BLOCK) < blocks.lengths[:, None]] = decoded.values
    return (
        rows_of(blocks.rows, device),
        inside_of(blocks.lengths, device),
        _sent(values, device).view(-1, BLOCK),
    )


def _places(decoded: Values32, indices: U16, device: torch.device) -> torch.Tensor:
    """int64[K]: where in the flat plane each value belongs."""
    first = _sent(decoded.part.blocks.rows * BLOCK, device)
    counts = _sent(decoded.counts.astype(np.int64), device)
    return first.repeat_interleave(counts, output_size=indices.size) + _sent(indices.view(np.int16), device)


def _sent(values: NDArray[Any], device: torch.device) -> torch.Tensor:
    """On the device; torch warns of arrays that cannot be written to, as those of frames are."""
    return torch.from_numpy(values if values.flags.writeable else values.copy()).to(device)


def _times(values: torch.Tensor, factor: float) -> torch.Tensor:
    return values if factor == 1.0 else values * float(np.float32(factor))
