"""Levels of the sign codes on a device: the integers of `wire.codec.kernels.levels`, for all blocks of a group.

Lloyd's rounds are run until no block's boundary moves. A block that has come to rest stays there, so that its means
are those of the kernel, which stops block by block.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional

from wire.codec.kernels import LARGEST_BFLOAT16
from wire.codec.kernels.levels import BIN_BITS, LLOYD_ROUNDS, NUMBER, REACH, SUM

BINS = 1 << BIN_BITS


class Levels(NamedTuple):
    """means int64[n, classes]; least int64[n, classes - 1]: the least key of each class but the first."""

    means: torch.Tensor
    least: torch.Tensor


def power_of_two(exponent: torch.Tensor) -> torch.Tensor:
    """float64: 2^exponent, from bits: `torch.ldexp` forms the power in float32."""
    return ((exponent.long() + 1023) << 52).view(torch.float64)


def top_exponent(largest: torch.Tensor) -> torch.Tensor:
    """int64[n]: biased exponent of the largest magnitude, that of denormals the same as of the smallest normals."""
    return (largest.long() >> 23).clamp(min=1)


def fixed_point(x: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    """int32[n, W]: trunc(|x| 2^(30-e)), 2^e <= the largest < 2^(e+1). largest: int32[n], magnitudes as bits."""
    up = power_of_two(157 - top_exponent(largest))
    return (x.abs().double() * up[:, None]).to(torch.int32)


def _bits(number: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    """int64[n, …]: bits of the float32 that is nearest to each fixed-point number."""
    down = power_of_two(top_exponent(largest) - 157)
    return (number.double() * down[:, None]).float().view(torch.int32).long()


def lloyd(
    keys: torch.Tensor, fixed: torch.Tensor, valid: torch.Tensor | None, largest: torch.Tensor, classes: int
) -> Levels:
    """Of the magnitudes `keys` int32[n, W], and `fixed` int32[n, W], the same in fixed point, zero where not valid."""
    number = torch.full_like(largest, keys.shape[1]).long() if valid is None else valid.sum(1)
    overall = fixed.sum(1, dtype=torch.int64, keepdim=True) // number.clamp(min=1)[:, None]
    if classes == 1:
        return Levels(overall, overall[:, :0])
    return _Lloyd(keys, fixed, valid, largest).levels(overall, classes)


class _Lloyd:
    """The bins of each block, and what they tell of classes. All int64[n, …]."""

    def __init__(
        self, keys: torch.Tensor, fixed: torch.Tensor, valid: torch.Tensor | None, largest: torch.Tensor
    ) -> None:
        smallest = (keys if valid is None else torch.where(valid, keys, 0x7FFFFFFF)).amin(1)
        base = torch.maximum(smallest, largest - REACH)
        steps = torch.arange(32 - BIN_BITS, device=keys.device)
        shift = (((largest - base)[:, None] >> steps) >= BINS).sum(1, keepdim=True)
        bins = (keys - base[:, None]).clamp_(min=0) >> shift.int()
        held = fixed.long() + NUMBER
        held = held if valid is None else torch.where(valid, held, 0)
        sums = torch.zeros((keys.shape[0], BINS + 1), dtype=torch.int64, device=keys.device)
        self._below = sums.scatter_add_(1, bins.long() + 1, held).cumsum(1)
        self._largest, self._base, self._shift = largest, base.long()[:, None], shift
        self._last = (largest.long()[:, None] - self._base) >> shift

    def levels(self, overall: torch.Tensor, classes: int) -> Levels:
        """Means and boundaries. overall: mean of all."""
        edges = self._start(overall, classes)
        for _ in range(LLOYD_ROUNDS):
            means = self._means(edges, overall)
            moved = self._between((means[:, :-1] + means[:, 1:]) >> 1)
            if torch.equal(moved, edges):
                break
            edges = moved
        return Levels(self._means(edges, overall), self._base + (edges << self._shift))

    def _start(self, overall: torch.Tensor, classes: int) -> torch.Tensor:
        middle = self._between(overall)
        if classes == 2:
            return middle
        outer = self._between(self._means(middle, overall))
        return torch.cat([outer[:, :1], middle, outer[:, 1:]], 1)

    def _means(self, edges: torch.Tensor, overall: torch.Tensor) -> torch.Tensor:
        """Of the classes between edges; that of an empty class is that of the class before it."""
        held = self._below.gather(1, functional.pad(edges, (1, 0)))
        held = torch.cat([held, self._below[:, -1:]], 1).diff(dim=1)
        number = held >> 44
        means = (held & SUM) // number.clamp(min=1)
        before = overall[:, 0]
        for t in range(means.shape[1]):
            before = means[:, t] = torch.where(number[:, t] > 0, means[:, t], before)
        return means

    def _between(self, middle: torch.Tensor) -> torch.Tensor:
        """The bin boundaries that are nearest to these fixed-point numbers."""
        half = (1 << self._shift) >> 1
        at = (_bits(middle, self._largest) - self._base + half) >> self._shift
        return torch.minimum(at, self._last).clamp(min=1)


def round_levels(means: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    """int64[n, classes]: bfloat16 bits of the means, to nearest even, never infinite."""
    return nearest_bfloat16(_bits(means, largest)).clamp(max=LARGEST_BFLOAT16)


def nearest_bfloat16(bits: torch.Tensor) -> torch.Tensor:
    """The upper half of float32 bits, rounded to nearest even."""
    return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
