"""The sign codes and their levels: Lloyd's for the magnitudes of one block, in integers.

A magnitude is m = trunc(|c| 2^(30-e)), 2^e <= max |c| < 2^(e+1) (e = -126 where max |c| is below that), so < 2^31.
One level is the mean, floor(sum m / k). For more, magnitudes are counted in at most 512 bins of their float32 bit
patterns: base = max(min key, max key - 2^27), shift = max(0, bits(max key - base) - 9),
bin = max(0, key - base) >> shift. The class of an element goes by its bin alone: class t is bins B_t .. B_t+1 - 1.
A class' mean is floor(sum m / number); that of an empty class is that of the class before it. The boundary between
means a and b is B = (bits(float32((a + b) >> 1)) - base + (2^shift >> 1)) >> shift, not above the last bin, then not
below 1; the float32 stands for the fixed-point number. Start: the boundary in the middle is that of the mean of all
(a = b), then each half is cut at its own mean. LLOYD_ROUNDS rounds of means and boundaries, or until no boundary
moves; then the means. A level is its mean as bfloat16, to nearest even, at most the largest finite.
"""

from __future__ import annotations

import math

import numpy as np

from wire.codec.kernels.kernel import F32, I32, I64, LARGEST_BFLOAT16, SIGN_BIT, U8, U16, int64, kernel
from wire.codec.kernels.select import GATHER_BITS, TOP_BYTE

LLOYD_ROUNDS = 16
BIN_BITS = 9
REACH = 1 << 27
"""16 octaves, in float32 bit patterns."""
NUMBER = 1 << 44
"""A bin holds number * 2^44 + sum: at most 4,096 magnitudes below 2^31."""
SUM = NUMBER - 1


@kernel
def fixed_point(x: F32, k: int, largest: int, fixed: I32) -> int:
    """m of each of x[:k]; the sum."""
    up, total = math.ldexp(1.0, 157 - max(largest >> 23, 1)), 0
    for j in range(k):
        fixed[j] = np.int32(np.float64(abs(x[j])) * up)
    for j in range(k):
        total += int64(fixed[j])
    return total


@kernel
def _fill(keys: I32, fixed: I32, k: int, base: int, shift: int, bins: I32, sums: I64) -> None:
    """sums[t] = what the bins below t hold."""
    first, by, zero = np.int32(base), np.int32(shift), np.int32(0)
    for j in range(k):
        bins[j] = max(keys[j] - first, zero) >> by
    for t in range(sums.size):
        sums[t] = 0
    for j in range(k):
        sums[np.uint32(bins[j]) + np.uint32(1)] += NUMBER + int64(fixed[j])
    held = int64(0)
    for t in range(sums.size):
        held += sums[t]
        sums[t] = held


@kernel
def _mean(sums: I64, low: int, high: int, otherwise: int) -> int:
    """Mean of the magnitudes in bins low .. high - 1."""
    held = sums[high] - sums[low]
    number = held >> 44
    return (held & SUM) // number if number else otherwise


@kernel
def _boundary(middle: int, down: float, base: int, shift: int, last: int, one: F32) -> int:
    """The bin boundary that is nearest to the fixed-point number `middle`."""
    one[0] = np.float32(middle * down)
    bits = int64(one.view(np.int32)[0])
    return max(min((bits - base + ((1 << shift) >> 1)) >> shift, last), 1)


@kernel
def _lloyd(
    keys: I32, fixed: I32, k: int, largest: int, total: int, bins: I32, sums: I64, means: I64, least: I32
) -> None:
    """Means of the classes, and the least key of each class but the first.

    keys, fixed int32[k]; total: sum of fixed; bins int32[k], sums int64[513]: scratch.
    """
    classes = means.size
    means[0] = total // k
    if classes == 1:
        return
    down, one = math.ldexp(1.0, max(largest >> 23, 1) - 157), np.empty(1, np.float32)
    smallest = np.int32(0x7FFFFFFF)
    for j in range(k):
        smallest = min(smallest, keys[j])
    base, shift = max(int64(smallest), largest - REACH), 0
    while (largest - base) >> shift >= 1 << BIN_BITS:
        shift += 1
    _fill(keys, fixed, k, base, shift, bins, sums)
    last, end = (largest - base) >> shift, sums.size - 1
    edges = np.empty(classes + 1, np.int64)
    edges[0], edges[classes] = 0, end
    half = classes >> 1
    edges[half] = _boundary(means[0], down, base, shift, last, one)
    if half == 2:
        below = _mean(sums, 0, edges[2], means[0])
        above = _mean(sums, edges[2], end, means[0])
        edges[1] = _boundary(below, down, base, shift, last, one)
        edges[3] = _boundary(above, down, base, shift, last, one)
    for _ in range(LLOYD_ROUNDS):
        moved = False
        for t in range(classes):
            means[t] = _mean(sums, edges[t], edges[t + 1], means[max(t - 1, 0)])
        for t in range(1, classes):
            at = _boundary((means[t - 1] + means[t]) >> 1, down, base, shift, last, one)
            moved = moved or at != edges[t]
            edges[t] = at
        if not moved:
            break
    for t in range(classes):
        means[t] = _mean(sums, edges[t], edges[t + 1], means[max(t - 1, 0)])
    for t in range(1, classes):
        least[t - 1] = base + (edges[t] << shift)


@kernel
def _round_levels(means: I64, largest: int, levels: U16, bits: I32) -> None:
    """bfloat16 bits of the means (to nearest even, never to infinity), and the same as float32 bits."""
    down, one = math.ldexp(1.0, max(largest >> 23, 1) - 157), np.empty(1, np.float32)
    for level in range(means.size):
        one[0] = np.float32(means[level] * down)
        b = int64(one.view(np.int32)[0])
        short = min((b + 0x7FFF + ((b >> 16) & 1)) >> 16, LARGEST_BFLOAT16)
        levels[level] = short
        bits[level] = short << 16


@kernel
def _pack_bits(ones: U8, k: int, packed: U8, at: int) -> int:
    """Eight ones or zeros a byte, the first one lowest. `ones` is zero from k to the next multiple of 8."""
    words, size = ones.view(np.uint64), (k + 7) >> 3
    into = packed[at : at + size]
    for p in range(size):
        into[p] = np.uint8((words[p] * GATHER_BITS) >> TOP_BYTE)
    return at + size


@kernel
def _pack_pairs(twos: U8, k: int, packed: U8, at: int) -> int:
    """Four two-bit codes a byte, the first one lowest. `twos` is zero from k to the next multiple of 4."""
    words, size = twos.view(np.uint32), (k + 3) >> 2
    into = packed[at : at + size]
    for p in range(size):
        w = words[p]
        w = np.uint32(w | (w >> np.uint32(6)))
        into[p] = np.uint8((w | (w >> np.uint32(12))) & np.uint32(0xFF))
    return at + size


@kernel
def _classify(keys: I32, bits: I32, k: int, least: I32, level_bits: I32, twos: U8, v_bits: I32) -> None:
    """Class of each magnitude, and its level with the sign of x. least[t]: least key of class t + 1."""
    lowest = level_bits[0]
    for j in range(k):
        twos[j] = 0
        v_bits[j] = lowest
    for t in range(least.size):
        bound, level, one = least[t], level_bits[t + 1], np.uint8(1)
        for j in range(k):
            above = keys[j] >= bound
            twos[j] += one if above else np.uint8(0)
            v_bits[j] = level if above else v_bits[j]
    for j in range(k):
        v_bits[j] = v_bits[j] | (bits[j] & SIGN_BIT)


@kernel
def encode_signs(
    levels: U16,
    x: F32,
    bits: I32,
    keys: I32,
    k: int,
    largest: int,
    fixed: I32,
    bins: I32,
    sums: I64,
    small: U8,
    v_bits: I32,
    signs: U8,
    sign_at: int,
    codes: U8,
    code_at: int,
) -> tuple[int, int]:
    """Signs, and classes where there are `levels` for more than one; where both sections go on.

    x float32[k], its bits and its magnitudes `keys`; v_bits: what the decoder makes of it, as bits.
    fixed, bins int32[k], sums int64[513], small uint8[k + 8]: scratch.
    """
    classes, padded = levels.size, (k + 7) & ~7
    means, least = np.empty(classes, np.int64), np.empty(classes - 1, np.int32)
    level_bits = np.empty(classes, np.int32)
    total = fixed_point(x, k, largest, fixed)
    _lloyd(keys, fixed, k, largest, total, bins, sums, means, least)
    _round_levels(means, largest, levels, level_bits)
    for j in range(k, padded):
        small[j] = 0
    _classify(keys, bits, k, least, level_bits, small, v_bits)
    if classes == 2:
        code_at = _pack_bits(small, k, codes, code_at)
    elif classes == 4:
        code_at = _pack_pairs(small, k, codes, code_at)
    for j in range(k):
        small[j] = np.uint8((bits[j] >> np.int32(31)) & np.int32(1))
    return _pack_bits(small, k, signs, sign_at), code_at
