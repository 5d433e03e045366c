"""From numbers to codes on a device, and to what the codes stand for: `wire.codec.kernels.values` for many blocks.

Every operation is one rounding, written as one torch operation: torch never joins two of them, as a compiler would
that makes a multiply-add of them. Divisors are tensors: by a number from the host, torch multiplies with its
reciprocal on CUDA, which has other bits.
Legend: x float32[n, W], zero where nothing is kept; keys int32[n, W], magnitudes as bits; largest int32[n] of them;
v float32[n, W], what a reader decodes; codes uint8[n, B], each block's behind each other, zero behind its end.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from wire.codec.cuda.levels import (
    fixed_point,
    lloyd,
    nearest_bfloat16,
    power_of_two,
    round_levels,
    top_exponent,
)
from wire.codec.kernels.groups import MANTISSA, MOST_EXPONENT, ROOT_OF_TWO
from wire.codec.kernels.kernel import LARGEST_BFLOAT16, SMALLEST_NORMAL_BFLOAT16
from wire.codec.values import GROUP, Values

LOW_32 = 0xFFFFFFFF
SIGN_BIT = -0x80000000
ROUNDER = 12582912.0
"""1.5 * 2^23, as in the kernels."""


class Kept(NamedTuple):
    """What is to be coded. places int64[n, W]: indices in the block, None where all are kept; valid bool[n, W] or None:
    all; numbers int64[n]: the blocks'."""

    x: torch.Tensor
    keys: torch.Tensor
    largest: torch.Tensor
    places: torch.Tensor | None
    valid: torch.Tensor | None
    numbers: torch.Tensor


class Coded(NamedTuple):
    """scales int[n, L]: bfloat16 bits, or exponents, zero where all is zero; signs uint8[n, …], codes, v."""

    scales: torch.Tensor
    signs: torch.Tensor
    codes: torch.Tensor
    v: torch.Tensor


def encode(kept: Kept, values: Values, coarse: float, key: int) -> Coded:
    """Codes of a kind. coarse: of int4's and mxint4's steps. key: of the random rounding of int8; 0: to nearest."""
    none = torch.empty((kept.x.shape[0], 0), dtype=torch.uint8, device=kept.x.device)
    if values.signed_apart:
        return _signs(kept, values)
    if values in (Values.INT8, Values.INT4):
        scales, codes, v = _integers(kept, values, coarse, key)
    elif values is Values.MXINT4:
        scales, codes, v = _grouped(kept, coarse)
    elif values is Values.FP16:
        scales, codes, v = _halves(kept)
    elif values is Values.BF16:
        scales, codes, v = none, *_bfloats(kept)
    else:
        scales, codes, v = none, kept.x.contiguous().view(torch.uint8), kept.x
    return Coded(scales, none, codes, v)


def _bfloats(kept: Kept) -> tuple[torch.Tensor, torch.Tensor]:
    """(codes, v)."""
    rounded = nearest_bfloat16(kept.keys).clamp_(max=LARGEST_BFLOAT16) << 16
    bits = rounded | (kept.x.view(torch.int32) & SIGN_BIT)
    return (bits >> 16).to(torch.int16).view(torch.uint8), bits.view(torch.float32)


def _halves(kept: Kept) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(scales, codes, v)."""
    exponent = ((kept.largest >> 23) - 14).clamp(min=1)
    some = kept.largest > 0
    scale = float_of(torch.where(some, exponent << 23, 0))[:, None]
    inverse = float_of((254 - exponent) << 23)[:, None]
    most = torch.where(kept.largest >> 23 == 254, 0x77FF, 0x7800)[:, None]
    code = (kept.x.abs() * inverse).to(torch.float16).view(torch.int16)
    code = torch.minimum(code, most.to(torch.int16))
    code = torch.where(kept.x.view(torch.int32) < 0, code | -0x8000, code)
    return (
        torch.where(some, exponent << 7, 0)[:, None],
        code.view(torch.uint8),
        code.view(torch.float16).float() * scale,
    )


def _integers(
    kept: Kept, values: Values, coarse: float, key: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(scales, codes, v)."""
    steps = 127 if values is Values.INT8 else 7
    if values is Values.INT8:
        scale = scale_up(kept.largest, steps)
    else:
        scale = scale_up(kept.largest, max(steps / coarse, 1.0)).clamp(max=_most_finite(steps))
        scale = torch.minimum(scale, _int4_scale(kept, scale, coarse))
    y = kept.x.abs() * inverse_of(scale)[:, None]
    q = _stochastic(y, kept, key) if values is Values.INT8 and key else (y + ROUNDER) - ROUNDER
    whole = _signed(q.clamp(max=steps), kept.x)
    scale = torch.where(kept.largest > 0, scale, 0)[:, None]
    v = whole.float() * float_of(scale << 16)
    return (
        scale,
        whole.view(torch.uint8) if values is Values.INT8 else pack(whole.view(torch.uint8) & 15, 4),
        v,
    )


def _grouped(kept: Kept, coarse: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(scales, codes, v), a group of 64 a row in between."""
    blocks, width = kept.x.shape
    wide = -width % GROUP
    x = functional.pad(kept.x, (0, wide)).view(-1, GROUP)
    valid = None if kept.valid is None else functional.pad(kept.valid, (0, wide)).view(-1, GROUP)
    largest = functional.pad(kept.keys, (0, wide)).view(-1, GROUP).amax(1)
    exponent = _group_exponent(x, valid, largest, coarse)
    q = (x.abs() * float_of((254 - exponent) << 23)[:, None] + ROUNDER) - ROUNDER
    whole = _signed(q.clamp(max=7), x)
    v = whole.float() * float_of(exponent << 23)[:, None]
    nibbles = whole.view(torch.uint8).view(blocks, -1) & 15
    return exponent.view(blocks, -1), pack(nibbles, 4), v.view(blocks, -1)[:, :width]


def _group_exponent(
    x: torch.Tensor, valid: torch.Tensor | None, largest: torch.Tensor, coarse: float
) -> torch.Tensor:
    """int64[rows]: biased, 0 where all is zero."""
    h = (fixed_point(x, largest) >> 8).long()
    number = torch.full_like(largest, GROUP) if valid is None else valid.sum(1).clamp(min=1)
    top = top_exponent(largest)
    s = _of_least_error(h, number) * coarse * ROOT_OF_TWO
    exponent = (s.view(torch.int64) >> 52) - 1023 + top - 22
    most = ((largest.long() + MANTISSA) >> 23).clamp(max=MOST_EXPONENT)
    return torch.where(largest == 0, 0, torch.minimum(exponent, most).clamp(min=1))


def _signed(q: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """int8: magnitudes q with the signs of x."""
    whole = q.to(torch.int8)
    return torch.where(x.view(torch.int32) < 0, -whole, whole)


def _signs(kept: Kept, values: Values) -> Coded:
    classes = 1 << values.code_bits
    fixed = fixed_point(kept.x, kept.largest)
    means, least = lloyd(kept.keys, fixed, kept.valid, kept.largest, classes)
    scales = round_levels(means, kept.largest)
    sign = kept.x.view(torch.int32) & SIGN_BIT
    of_class = torch.zeros_like(kept.keys, dtype=torch.uint8)
    for t in range(classes - 1):
        of_class += kept.keys >= least[:, t, None]
    level = (scales << 16).int().gather(1, of_class.long())
    codes = pack(of_class, values.code_bits) if values.code_bits else of_class[:, :0]
    return Coded(scales, pack((sign < 0).to(torch.uint8), 1), codes, (level | sign).view(torch.float32))


def pack(numbers: torch.Tensor, bits: int) -> torch.Tensor:
    """uint8[n, B]: numbers uint8[n, W] of so many bits, the first ones lowest in their byte."""
    together = 8 // bits
    padded = functional.pad(numbers, (0, -numbers.shape[1] % together))
    weights = 1 << torch.arange(0, 8, bits, dtype=torch.uint8, device=numbers.device)
    return (padded.view(numbers.shape[0], -1, together) * weights).sum(2, dtype=torch.uint8)


def float_of(bits: torch.Tensor) -> torch.Tensor:
    """float32 numbers with these bits."""
    return bits.int().view(torch.float32)


def scale_up(largest: torch.Tensor, steps: float) -> torch.Tensor:
    """int32[n]: bfloat16 bits of largest / steps rounded up, at least 2^-126, at most what times `steps` is finite."""
    least = (float_of(largest) / torch.full_like(largest, steps, dtype=torch.float32)).view(torch.int32)
    return ((least + 0xFFFF) >> 16).clamp(SMALLEST_NORMAL_BFLOAT16, _most_finite(steps))


def _most_finite(steps: float) -> int:
    """bfloat16 bits of the largest scale that is finite times `steps`."""
    return int((np.finfo(np.float32).max / np.float32(steps)).view(np.int32)) >> 16


def inverse_of(scale: torch.Tensor) -> torch.Tensor:
    """float32[n]: the largest not above 1 / scale, for the bits of bfloat16 numbers that are not denormal."""
    s = float_of(scale << 16).double()
    inverse = (torch.ones_like(s) / s).float()
    return float_of(inverse.view(torch.int32) - (inverse.double() * s > 1.0).int())


def _int4_scale(kept: Kept, most: torch.Tensor, coarse: float) -> torch.Tensor:
    """int32[n]: bfloat16 bits nearest to `coarse` times the scale of least error, `most` where nothing tells it."""
    h = (fixed_point(kept.x, kept.largest) >> 8).long()
    number = (
        torch.full_like(kept.numbers, h.shape[1]) if kept.valid is None else kept.valid.sum(1).clamp(min=1)
    )
    total = h.sum(1)
    s = _of_least_error(h, number)
    bits = (s * coarse * power_of_two(top_exponent(kept.largest) - 149)).float().view(torch.int32)
    return torch.where(total == 0, most, nearest_bfloat16(bits).clamp(min=SMALLEST_NORMAL_BFLOAT16))


def _of_least_error(h: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
    """float64[rows]: about the step of least squared error, of magnitudes h int64[rows, …], `number` a row."""
    total, squares = h.sum(1), h.square().sum(1)
    sums = total.clamp(min=1).double()
    return (squares.double() / sums) * 0.5 - (total.double() / number.double()) * 0.3125


def _stochastic(y: torch.Tensor, kept: Kept, key: int) -> torch.Tensor:
    """y rounded up with the probability of what is behind the point."""
    places = kept.places
    if places is None:
        places = torch.arange(y.shape[1], device=y.device)
    random = _mix((seeds(key, kept.numbers)[:, None] + 0x9E3779B9 * places) & LOW_32) >> 8
    down = y.floor()
    return down + ((y - down) * 16777216.0 > random.float()).float()


def seeds(key: int, numbers: torch.Tensor) -> torch.Tensor:
    """int64[n]: the seed of each block's random numbers."""
    h = _mix(torch.full_like(numbers, key & LOW_32))
    h = _mix(h ^ (key >> 32))
    h = _mix(h ^ (numbers & LOW_32))
    return _mix(h ^ (numbers >> 32))


def _mix(x: torch.Tensor) -> torch.Tensor:
    """The kernels' hash of 32 bits, in int64. The second factor is less 2^32: that stays below 2^63."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & LOW_32
    x = x ^ (x >> 15)
    x = (x * (0x846CA68B - (1 << 32))) & LOW_32
    return x ^ (x >> 16)
