"""Exact top-k of a block: the k largest magnitudes, ties to the lowest index, zero never.

The threshold is found by bisection of the upper 16 bits of the magnitudes, a count of all elements in each step,
which the compiler makes a vector loop; the lower 16 bits are bisected among the few elements that share the upper.
The result does not depend on where the bisection begins.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wire.codec.kernels.kernel import I32, U8, U16, int64, kernel

I16 = NDArray[np.int16]
U64 = NDArray[np.uint64]

GATHER_BITS = np.uint64(0x0102040810204080)
"""Eight bytes of 0 or 1 times this have their eight bits in the top byte, the first byte's the lowest."""
TOP_BYTE = np.uint64(56)
BITS_OF = (np.arange(256)[:, None] >> np.arange(8) & 1).astype(np.uint8)
ONES = BITS_OF.sum(axis=1).astype(np.uint16)
"""Set bits of each byte."""
PLACES = np.argsort(BITS_OF == 0, axis=1, kind="stable").astype(np.uint16)
"""uint16[256, 8]: positions of the set bits of each byte, ascending; what follows them has no meaning."""


@kernel
def _count_upper(upper: I16, n: int, bound: int) -> int:
    """How many are not below `bound`."""
    least, count = np.int16(bound), np.int16(0)
    for i in range(n):
        count = np.int16(count + np.int16(upper[i] >= least))
    return int64(count)


@kernel
def _count_lower(lower: I32, n: int, bound: int) -> int:
    """How many are not below `bound`."""
    least, count = np.int32(bound), np.int32(0)
    for i in range(n):
        count = np.int32(count + np.int32(lower[i] >= least))
    return int64(count)


@kernel
def _bisect_upper(upper: I16, n: int, k: int, largest: int, guess: int) -> int:
    """The largest bound that at least k of the n are not below; the search begins around `guess`."""
    low, high = 0, largest + 1
    step = 2
    at = min(max(guess, 1), largest)
    if _count_upper(upper, n, at) >= k:
        low = at
        while low + step < high:
            if _count_upper(upper, n, low + step) < k:
                high = low + step
                break
            low += step
            step *= 4
    else:
        high = at
        while high - step > low:
            if _count_upper(upper, n, high - step) >= k:
                low = high - step
                break
            high -= step
            step *= 4
    while high - low > 1:
        middle = (low + high) >> 1
        if _count_upper(upper, n, middle) >= k:
            low = middle
        else:
            high = middle
    return low


@kernel
def _bisect_lower(lower: I32, n: int, k: int) -> int:
    """The largest 16-bit bound that at least k of the n are not below."""
    bound = 0
    for bit in range(15, -1, -1):
        trial = bound | (1 << bit)
        if _count_lower(lower, n, trial) >= k:
            bound = trial
    return bound


@kernel
def _collect(keys: I32, n: int, upper: int, flags: U8, tied: I32) -> int:
    """The lower 16 bits of those keys whose upper bits are `upper`, into `tied`. How many."""
    wanted, words, found = np.int32(upper), flags.view(np.uint64), 0
    for i in range(n):
        flags[i] = (keys[i] >> np.int32(16)) == wanted
    for w in range(n >> 3):
        if words[w]:
            for i in range(8 * w, 8 * w + 8):
                tied[found] = keys[i] & np.int32(0xFFFF)
                found += flags[i]
    return found


@kernel
def _flag(keys: I32, n: int, least: int, flags: U8) -> None:
    """flags[i] = keys[i] >= least."""
    bound = np.int32(least)
    for i in range(n):
        flags[i] = keys[i] >= bound


@kernel
def indices_of(flags: U8, n: int, chosen: U16) -> int:
    """Positions of the ones among n flags, n a multiple of 8, ascending; `chosen` has 8 to spare. How many."""
    words, found = flags.view(np.uint64), 0
    for w in range(n >> 3):
        byte = (words[w] * GATHER_BITS) >> TOP_BYTE
        base = np.uint16(8 * w)
        for u in range(8):
            chosen[found + u] = base + PLACES[byte, u]
        found += int64(ONES[byte])
    return found


@kernel
def select(
    keys: I32, upper: I16, n: int, k: int, largest: int, guess: int, flags: U8, tied: I32, chosen: U16
) -> tuple[int, int]:
    """Indices of the k largest of n keys, ascending, into `chosen`: (how many, a guess for a block like this).

    keys int32[…], float32 magnitudes, zero from n to the next multiple of 8; upper int16[…] = keys >> 16.
    largest: the largest key. guess: upper bits of a threshold that may be near.
    """
    padded = (n + 7) & ~7
    if k >= n:
        _flag(keys, padded, 1, flags)
        return indices_of(flags, padded, chosen), guess
    high = _bisect_upper(upper, padded, k, largest >> 16, guess)
    candidates = _collect(keys, padded, high, flags, tied)
    rank = k - _count_upper(upper, padded, high + 1)
    low = 0
    if rank < candidates:
        low = _bisect_lower(tied, candidates, rank)
    threshold = (high << 16) | low
    if threshold == 0:
        _flag(keys, padded, 1, flags)
        return indices_of(flags, padded, chosen), high
    equal = _count_lower(tied, candidates, low) - _count_lower(tied, candidates, low + 1)
    spare = equal - (rank - _count_lower(tied, candidates, low + 1))
    _flag(keys, padded, threshold, flags)
    i = padded - 1
    while spare > 0:
        if keys[i] == threshold:
            flags[i] = 0
            spare -= 1
        i -= 1
    return indices_of(flags, padded, chosen), high
