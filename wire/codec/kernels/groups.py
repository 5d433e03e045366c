"""mxint4: whole numbers times a power of two for each group of 64 elements.

Of each group that is not all 0: h = trunc(|c| 2^(22-t)), 2^t <= max |c| < 2^(t+1) (t = -126 where the maximum is less);
s = ((sum h^2 / sum h) / 2 - 5/16 (sum h / n)) coarse in float64, n its elements; the scale is 2^e, e the exponent of
s sqrt(2) 2^(t-22) (so that 2^e is the power of two nearest to s by ratio), at least -126, else at most 125 and so
that 2^e < 2 max |c|, which therefore is sent; -126 where all h are 0. q = |c| 2^-e rounded to nearest, ties to even, at
most 7, with the sign of c. The sums are of whole numbers below 2^53 and so exact in any order.
"""

from __future__ import annotations

import math

import numpy as np

from wire.codec.kernels.kernel import BLOCK, F32, I32, U8, U16, int64, kernel
from wire.codec.kernels.values import ROUNDER, pack_nibbles
from wire.codec.values import GROUP, GROUPS

ROOT_OF_TWO = math.sqrt(2.0)
MANTISSA = (1 << 23) - 1
MOST_EXPONENT = 252
"""Biased; 7 times the scale is still finite."""


@kernel
def _exponents(keys: I32, k: int, coarse: float, scales: U16) -> None:
    """The biased exponent of each group's scale, 0 where all is zero. keys are zero behind k, up to a whole group."""
    # Where GROUP stands, a constant, the loops below are unrolled and not vectorised, at a third of the speed.
    group = BLOCK // scales.size
    h, one = np.empty(group, np.int32), np.empty(1, np.float64)
    one_bits, lowest, furthest = one.view(np.int64), np.int32(1), np.int32(31)
    fraction, implicit = np.int32(MANTISSA), np.int32(MANTISSA + 1)
    for g in range((k + group - 1) // group):
        part, largest = keys[g * group : (g + 1) * group], np.int32(0)
        for j in range(group):
            largest = max(largest, part[j])
        if largest == 0:
            scales[g] = 0
            continue
        top = max(largest >> np.int32(23), lowest)
        for j in range(group):
            exponent, mantissa = part[j] >> np.int32(23), part[j] & fraction
            mantissa = mantissa | implicit if exponent else mantissa
            h[j] = mantissa >> min(top - max(exponent, lowest) + lowest, furthest)
        total, squares = np.int32(0), int64(0)
        for j in range(group):
            total += h[j]
        for j in range(group):
            squares += int64(h[j]) * int64(h[j])
        if total == 0:
            scales[g] = 1
            continue
        n = min(group, k - g * group)  # from here as int4_scale
        s = (np.float64(squares) / np.float64(total)) * 0.5 - (np.float64(total) / np.float64(n)) * 0.3125
        one[0] = s * coarse * ROOT_OF_TWO
        most = (int64(largest) + MANTISSA) >> 23
        scales[g] = max(min((int64(one_bits[0]) >> 52) - 1023 + int64(top) - 22, most, MOST_EXPONENT), 1)


@kernel
def encode_groups(
    coarse: float,
    x: F32,
    bits: I32,
    keys: I32,
    k: int,
    v: F32,
    whole: U8,
    scales: U16,
    codes: U8,
    at: int,
) -> int:
    """MXINT4; where the next block's codes begin. scales: of this block. x, keys are zeroed behind k."""
    groups = (k + GROUP - 1) // GROUP
    scale_bits, inverse_bits = np.empty(GROUPS, np.int32), np.empty(GROUPS, np.int32)
    scale, inverse = scale_bits.view(np.float32), inverse_bits.view(np.float32)
    zero, most, low = np.int32(0), np.float32(7.0), np.int32(15)
    for j in range(k, groups * GROUP):
        x[j], keys[j] = 0.0, 0
    _exponents(keys, k, coarse, scales)
    for g in range(groups):
        exponent = int64(scales[g])
        scale_bits[g], inverse_bits[g] = exponent << 23, (254 - exponent) << 23
    for g in range(groups):
        up, down = inverse[g], scale[g]
        for j in range(g * GROUP, (g + 1) * GROUP):
            q = np.int32(min((abs(x[j]) * up + ROUNDER) - ROUNDER, most))
            q = np.int32(-q) if bits[j] < zero else q
            whole[j] = np.uint8(q & low)
            v[j] = np.float32(q) * down
    return pack_nibbles(whole, k, codes, at)
