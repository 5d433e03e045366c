"""The inner loops: state update, exact top-k, quantiser and feedback in one pass over each block.

All arithmetic is fixed: plain float32 multiplications and adds without contraction for planes, integers for
everything else, so that no order of summation shows. Legend: n blocks, k kept elements of one, K of all.
    rows int64[n] · lengths, kept int32[n] · counts uint16[n] · levels uint16[n, L] (bfloat16 bits)
    gaps uint8[…] · signs uint8[…] · codes uint8[…]: sections, each block's bits begin at a byte

Levels are Lloyd's for the kept magnitudes of one block, held as 31-bit fixed point relative to the largest
(m = trunc(|c| 2^(30-e)), 2^e ≤ max |c| < 2^(e+1)); starting thresholds split at means; `LLOYD_ROUNDS` rounds.
Kernels release the GIL and are cached on disk; `python -m wire.codec.kernels` fills the cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

TRACK, MOMENTUM, RESIDUAL = 0, 1, 2
LLOYD_ROUNDS = 8
ESCAPE = 255
MAGNITUDE = 0x7FFFFFFF
INFINITY = 0x7F800000
LARGEST_BFLOAT16 = 0x7F7F

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U16 = NDArray[np.uint16]
U8 = NDArray[np.uint8]
Function = TypeVar("Function", bound=Callable[..., object])


def kernel(function: Function) -> Function:
    """Compiled on first use, cached, without the GIL; no fastmath, no threads."""
    return cast(Function, numba.njit(nogil=True, cache=True)(function))


@kernel
def first_not_finite(plane: F32, rows: I64, lengths: I32) -> int:
    """Position in `rows` of the first block with NaN or infinity in it, or -1."""
    bits = plane.view(np.int32)
    for b in range(rows.size):
        row, worst = bits[rows[b]], 0
        for i in range(lengths[b]):
            worst = max(worst, int(row[i] & MAGNITUDE))
        if worst >= INFINITY:
            return b
    return -1


@kernel
def _load(
    mode: int, keep: float, take: float, source: F32, momentum: F32, state: F32, c: F32, n: int
) -> None:
    """c[:n], what is to be compressed: TRACK source - state; MOMENTUM (momentum updated) - state; RESIDUAL the sum.

    Here and below `source`, `momentum`, `state` are one block's rows.
    """
    if mode == TRACK:
        for i in range(n):
            c[i] = source[i] - state[i]
    elif mode == MOMENTUM:
        for i in range(n):
            v = keep * momentum[i] + take * source[i]
            momentum[i] = v
            c[i] = v - state[i]
    else:
        for i in range(n):
            e = state[i] + source[i]
            state[i] = e
            c[i] = e


@kernel
def _rank(histogram: I32, buckets: int, k: int) -> tuple[int, int]:
    """The bucket, counted from the top, that holds the k-th largest, and its rank in there."""
    b = buckets - 1
    while histogram[b] < k:
        k -= histogram[b]
        b -= 1
    return b, k


@kernel
def _select(keys: I32, n: int, k: int, histogram: I32, tied: I32, chosen: I32) -> int:
    """Indices of the k largest keys into `chosen`, ascending; ties to the lowest index, zero never. How many."""
    if k >= n:
        return _above(keys, n, 0, chosen)
    histogram[:] = 0
    for i in range(n):
        histogram[keys[i] >> 20] += 1
    high, rank = _rank(histogram, 2048, k)
    candidates = 0
    for i in range(n):
        tied[candidates] = keys[i] & 0xFFFFF
        candidates += (keys[i] >> 20) == high
    histogram[:1024] = 0
    for j in range(candidates):
        histogram[tied[j] >> 10] += 1
    middle, rank = _rank(histogram, 1024, rank)
    histogram[:1024] = 0
    for j in range(candidates):
        if (tied[j] >> 10) == middle:
            histogram[tied[j] & 1023] += 1
    low, rank = _rank(histogram, 1024, rank)
    threshold = (high << 20) | (middle << 10) | low
    if threshold == 0:
        return _above(keys, n, 0, chosen)
    if histogram[low] == rank:
        return _above(keys, n, threshold - 1, chosen)
    found = 0
    for i in range(n):
        take = keys[i] > threshold
        if keys[i] == threshold and rank > 0:
            rank -= 1
            take = True
        chosen[found] = i
        found += take
    return found


@kernel
def _above(keys: I32, n: int, bound: int, chosen: I32) -> int:
    """Indices of the keys above `bound`, ascending. How many."""
    found = 0
    for i in range(n):
        chosen[found] = i
        found += keys[i] > bound
    return found


@kernel
def _split(fixed: I64, k: int, thresholds: I64, counts: I64, sums: I64) -> None:
    """Number and sum of the magnitudes in each class that the ascending `thresholds` make."""
    classes = thresholds.size + 1
    total = 0
    for j in range(k):
        total += fixed[j]
    counts[0], sums[0] = k, total
    for t in range(classes - 1):
        bound, number, part = thresholds[t], 0, 0
        for j in range(k):
            above = fixed[j] > bound
            number += above
            part += fixed[j] * above
        counts[t + 1], sums[t + 1] = number, part
        counts[t] -= number
        sums[t] -= part


@kernel
def _mean_between(fixed: I64, k: int, low: int, high: int) -> int:
    """Mean of the magnitudes with low < m <= high; `high` where there is none."""
    number, part = 0, 0
    for j in range(k):
        m = int(fixed[j])
        inside = int((m > low) & (m <= high))
        number += inside
        part += m * inside
    return part // number if number else high


@kernel
def _lloyd(fixed: I64, k: int, thresholds: I64, means: I64, counts: I64, sums: I64) -> None:
    """Class means and the thresholds between them; a class without members takes its lower threshold."""
    top = 1 << 31
    if thresholds.size:
        thresholds[thresholds.size // 2] = _mean_between(fixed, k, -1, top)
    if thresholds.size == 3:
        thresholds[0] = _mean_between(fixed, k, -1, int(thresholds[1]))
        thresholds[2] = _mean_between(fixed, k, int(thresholds[1]), top)
    for _ in range(LLOYD_ROUNDS if thresholds.size else 1):
        _split(fixed, k, thresholds, counts, sums)
        for level in range(means.size):
            if counts[level]:
                means[level] = sums[level] // counts[level]
            else:
                means[level] = thresholds[max(level - 1, 0)]
        for t in range(thresholds.size):
            thresholds[t] = (means[t] + means[t + 1]) >> 1


@kernel
def _round_levels(means: I64, exponent: int, levels: U16, values: F32) -> None:
    """bfloat16 bits of the means (to nearest even, never to infinity) and the float32 numbers that they stand for."""
    scale = math.ldexp(1.0, exponent - 157)
    bits = values.view(np.int32)
    for level in range(means.size):
        values[level] = np.float32(means[level] * scale)
        b = int(bits[level])
        short = min((b + 0x7FFF + ((b >> 16) & 1)) >> 16, LARGEST_BFLOAT16)
        levels[level] = short
        bits[level] = short << 16


@kernel
def encode_blocks(
    mode: int,
    keep: F32,
    source: F32,
    momentum: F32,
    state: F32,
    rows: I64,
    lengths: I32,
    kept: I32,
    magnitude_bits: int,
    counts: U16,
    levels: U16,
    gaps: U8,
    signs: U8,
    codes: U8,
) -> tuple[int, int, int, int]:
    """Fill the sections for `rows` of the planes. (bytes of gaps, of signs, of codes, bad block or -1).

    keep: float32[2], 1 - eta and eta. A block whose value to compress overflows ends the work.
    """
    c, fixed = np.empty(4096, np.float32), np.empty(4096, np.int64)
    keys, tied, chosen = np.empty(4096, np.int32), np.empty(4097, np.int32), np.empty(4097, np.int32)
    histogram, c_bits = np.empty(2048, np.int32), c.view(np.int32)
    classes = 1 << magnitude_bits
    thresholds, means = np.empty(classes - 1, np.int64), np.empty(classes, np.int64)
    class_counts, class_sums = np.empty(classes, np.int64), np.empty(classes, np.int64)
    values = np.empty(classes, np.float32)
    gap_at, sign_at, code_at = 0, 0, 0
    for b in range(rows.size):
        row, n = rows[b], lengths[b]
        _load(mode, keep[0], keep[1], source[row], momentum[row], state[row], c, n)
        largest = 0
        for i in range(n):
            keys[i] = c_bits[i] & MAGNITUDE
            largest = max(largest, int(keys[i]))
        if largest >= INFINITY:
            return gap_at, sign_at, code_at, b
        k = _select(keys, n, kept[b], histogram, tied, chosen) if largest else 0
        counts[b] = k
        levels[b] = 0
        if k == 0:
            continue
        exponent = max(largest >> 23, 1)
        up = math.ldexp(1.0, 157 - exponent)
        for j in range(k):
            fixed[j] = np.int64(abs(np.float64(c[chosen[j]])) * up)
        _lloyd(fixed, k, thresholds, means, class_counts, class_sums)
        _round_levels(means, exponent, levels[b], values)
        gap_at = _write_gaps(chosen, k, gaps, gap_at)
        out, sign_byte, code_byte, code_fill = state[row], 0, 0, 0
        for j in range(k):
            i = chosen[j]
            negative = (c_bits[i] >> 31) & 1
            code = 0
            for t in range(classes - 1):
                code += fixed[j] > thresholds[t]
            value = -values[code] if negative else values[code]
            out[i] = out[i] - value if mode == RESIDUAL else out[i] + value
            sign_byte |= negative << (j & 7)
            if j & 7 == 7:
                signs[sign_at] = sign_byte
                sign_at, sign_byte = sign_at + 1, 0
            if magnitude_bits:
                code_byte |= code << code_fill
                code_fill += magnitude_bits
                if code_fill == 8:
                    codes[code_at] = code_byte
                    code_at, code_byte, code_fill = code_at + 1, 0, 0
        if k & 7:
            signs[sign_at] = sign_byte
            sign_at += 1
        if code_fill:
            codes[code_at] = code_byte
            code_at += 1
    return gap_at, sign_at, code_at, -1


@kernel
def _write_gaps(chosen: I32, k: int, gaps: U8, at: int) -> int:
    """Distance of each index from the one before, less one; 255 stands for 255 more to come."""
    expected = 0
    for j in range(k):
        gap = chosen[j] - expected
        while gap >= ESCAPE:
            gaps[at] = ESCAPE
            at += 1
            gap -= ESCAPE
        gaps[at] = gap
        at += 1
        expected = chosen[j] + 1
    return at


@kernel
def bitmap_from_gaps(gaps: U8, counts: U16, lengths: I32, bitmap: U8) -> None:
    """The same indices as one bit an element; each block begins at a byte. `bitmap` comes zeroed."""
    at, start = 0, 0
    for b in range(counts.size):
        i = 0
        for _ in range(counts[b]):
            while gaps[at] == ESCAPE:
                i += ESCAPE
                at += 1
            i += gaps[at]
            at += 1
            bitmap[start + (i >> 3)] |= 1 << (i & 7)
            i += 1
        start += (lengths[b] + 7) >> 3


@kernel
def read_gaps(gaps: U8, counts: U16, lengths: I32, indices: U16) -> bool:
    """indices uint16[K] of all blocks; False where they leave their block or the section does not fit."""
    at, out = 0, 0
    for b in range(counts.size):
        i, n = 0, lengths[b]
        for _ in range(counts[b]):
            while at < gaps.size and gaps[at] == ESCAPE and i < n:
                i += ESCAPE
                at += 1
            if at >= gaps.size:
                return False
            i += gaps[at]
            at += 1
            if i >= n:
                return False
            indices[out] = i
            out += 1
            i += 1
    return at == gaps.size


@kernel
def read_bitmap(bitmap: U8, counts: U16, lengths: I32, indices: U16) -> bool:
    """indices uint16[K] of all blocks; False where a block has another count or a bit beyond its length."""
    start, out = 0, 0
    for b in range(counts.size):
        n, found = lengths[b], 0
        for i in range((n + 7) >> 3 << 3):
            if (bitmap[start + (i >> 3)] >> (i & 7)) & 1:
                if i >= n or found == counts[b]:
                    return False
                indices[out + found] = i
                found += 1
        if found != counts[b]:
            return False
        out += found
        start += (n + 7) >> 3
    return True


@kernel
def read_values(levels: F32, counts: U16, signs: U8, codes: U8, magnitude_bits: int, values: F32) -> bool:
    """values float32[K] from levels float32[n, L]; False where bits stand behind the end of a block."""
    out, sign_at, code_at, mask = 0, 0, 0, (1 << magnitude_bits) - 1
    for b in range(counts.size):
        k = int(counts[b])
        for j in range(k):
            negative = (signs[sign_at + (j >> 3)] >> (j & 7)) & 1
            place = j * magnitude_bits
            code = (codes[code_at + (place >> 3)] >> (place & 7)) & mask if magnitude_bits else 0
            value = levels[b, code]
            values[out] = -value if negative else value
            out += 1
        sign_end, code_end = (k + 7) >> 3, (k * magnitude_bits + 7) >> 3
        if k & 7 and signs[sign_at + sign_end - 1] >> (k & 7):
            return False
        used = (k * magnitude_bits) & 7
        if used and codes[code_at + code_end - 1] >> used:
            return False
        sign_at += sign_end
        code_at += code_end
    return True


@kernel
def scatter_add(indices: U16, values: F32, counts: U16, rows: I64, into: F32) -> None:
    """into[row, index] += value, in element order."""
    at = 0
    for b in range(counts.size):
        row = into[rows[b]]
        for j in range(at, at + counts[b]):
            row[indices[j]] += values[j]
        at += counts[b]


def warm() -> None:
    """Run each kernel once on one block, so that all are compiled or loaded from the cache.

    Through the codec, for the sake of the exact argument types; at density 1/4 the indices are gaps, at 1/2 a bitmap.
    """
    from wire.codec.base import Blocks
    from wire.codec.topk import Feedback, TopkPush

    blocks = Blocks(np.zeros(1, np.int64), np.full(1, 4096, np.int32))
    gradient = np.random.default_rng(0).standard_normal((1, 4096)).astype(np.float32)
    for density in (0.25, 0.5):
        push = TopkPush(density=density, magnitude_bits=1, feedback=Feedback.RESIDUAL)
        frame = push.encode(gradient, {"residual": np.zeros_like(gradient)}, blocks)
        push.add(frame, np.zeros_like(gradient), blocks)


if __name__ == "__main__":
    warm()
