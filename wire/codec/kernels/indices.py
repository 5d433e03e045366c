"""Indices of the kept elements: distances in bytes, or a bitmap.

A gap is the distance of an index from the one before, less one (of the first: the index); 255 stands for 255 more to
come. A bitmap has one bit an element, low bits first; each block begins at a byte.
"""

from __future__ import annotations

import numpy as np

from wire.codec.kernels.kernel import I32, U8, U16, int64, kernel
from wire.codec.kernels.select import ONES, PLACES

ESCAPE = 255


@kernel
def write_gaps(chosen: U16, k: int, gaps: U8, at: int) -> int:
    """Gaps of the ascending chosen[:k], k > 0, from gaps[at]; where they end."""
    most, one = chosen[0], np.uint16(1)
    gaps[at] = np.uint8(most)
    into, later = gaps[at + 1 : at + k], chosen[1:k]
    for j in range(k - 1):
        gap = np.uint16(later[j] - chosen[j] - one)
        most = max(most, gap)
        into[j] = np.uint8(gap)
    if most < ESCAPE:
        return at + k
    expected = 0
    for j in range(k):
        left = int64(chosen[j]) - expected
        while left >= ESCAPE:
            gaps[at] = ESCAPE
            at += 1
            left -= ESCAPE
        gaps[at] = left
        at += 1
        expected = int64(chosen[j]) + 1
    return at


@kernel
def bitmap_from_gaps(gaps: U8, counts: U16, lengths: I32, bitmap: U8) -> None:
    """The same indices as one bit an element; each block begins at a byte. `bitmap` comes zeroed."""
    at, start = 0, 0
    for b in range(counts.size):
        i = 0
        for _ in range(int64(counts[b])):
            while gaps[at] == ESCAPE:
                i += ESCAPE
                at += 1
            i += int64(gaps[at])
            at += 1
            bitmap[start + (i >> 3)] |= np.uint8(1 << (i & 7))
            i += 1
        start += (int64(lengths[b]) + 7) >> 3


@kernel
def _escapes(gaps: U8) -> bool:
    """Whether one of them is an escape."""
    largest = np.uint8(0)
    for j in range(gaps.size):
        largest = max(largest, gaps[j])
    return bool(largest == np.uint8(ESCAPE))


@kernel
def read_gaps(gaps: U8, counts: U16, lengths: I32, indices: U16) -> bool:
    """indices uint16[K] of all blocks; False where they leave their block or the section does not fit."""
    at, out = 0, 0
    for b in range(counts.size):
        i, n, k = -1, int64(lengths[b]), int64(counts[b])
        if at + k > gaps.size:
            return False
        own, into = gaps[at : at + k], indices[out : out + k]
        if k <= n and not _escapes(own):
            for j in range(k):
                i += int64(own[j]) + 1
                into[j] = np.uint16(i)
            at += k
        else:
            for j in range(k):
                while at < gaps.size and gaps[at] == ESCAPE and i < n:
                    i += ESCAPE
                    at += 1
                if at >= gaps.size or i >= n:
                    return False
                i += int64(gaps[at]) + 1
                at += 1
                into[j] = np.uint16(i)
        if i >= n:
            return False
        out += k
    return at == gaps.size


@kernel
def read_bitmap(bitmap: U8, counts: U16, lengths: I32, indices: U16) -> bool:
    """indices uint16[K] of all blocks; False where a block has another count or a bit beyond its length."""
    start, out = 0, 0
    for b in range(counts.size):
        n, found = int64(lengths[b]), 0
        size = (n + 7) >> 3
        for p in range(start, start + size):
            found += int64(ONES[bitmap[p]])
        if found != int64(counts[b]):
            return False
        if n & 7 and bitmap[start + size - 1] >> (n & 7):
            return False
        for p in range(size):
            byte, base = bitmap[start + p], np.uint16(8 * p)
            ones = int64(ONES[byte])
            for u in range(ones):
                indices[out + u] = base + PLACES[byte, u]
            out += ones
        start += size
    return True
