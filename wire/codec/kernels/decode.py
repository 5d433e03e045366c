"""From sections to numbers, and from numbers into planes.

What was read is judged here, down to the lengths of the sections. What is added or set is taken as it is: indices
below the row's length, as `read_gaps` and `read_bitmap` leave them, and as many values as counts or lengths ask for.
"""

from __future__ import annotations

import numpy as np

from wire.codec.kernels.kernel import BLOCK, F32, I32, I64, INFINITY, MAGNITUDE, SLACK, U8, U16, int64, kernel
from wire.codec.kernels.select import BITS_OF
from wire.codec.kernels.values import (
    BF16,
    FP16,
    FP32,
    INT4,
    INT8,
    MXINT4,
    SIGN,
    SIGN2,
    copy_bytes,
    expand_halves,
)

EIGHT_OF = np.ascontiguousarray(BITS_OF).view(np.uint64).reshape(256)
"""The bits of a byte, one a byte."""
FOUR_OF = np.ascontiguousarray(BITS_OF[:, ::2] + 2 * BITS_OF[:, 1::2]).view(np.uint32).reshape(256)
"""The four two-bit codes of a byte, one a byte."""


@kernel
def _bytes_of(counts: U16, bits: int) -> int:
    """Bytes of a section of so many bits an element, each block beginning at a byte."""
    total = int64(0)
    for b in range(counts.size):
        total += (int64(counts[b]) * bits + 7) >> 3
    return total


@kernel
def _largest(bits: I32) -> np.int32:
    largest = np.int32(0)
    for j in range(bits.size):
        largest = max(largest, bits[j] & MAGNITUDE)
    return largest


@kernel
def _read_halves(scales: F32, counts: U16, codes: U8, out: F32, out_bits: I32) -> bool:
    halves, at, fine = np.empty(SLACK, np.uint16), 0, True
    for b in range(counts.size):
        k = int64(counts[b])
        copy_bytes(codes, 2 * at, halves.view(np.uint8), 0, 2 * k)
        fine = expand_halves(halves, k, scales[b, 0], out[at : at + k], out_bits[at : at + k]) and fine
        at += k
    return fine


@kernel
def _read_int8(scales: F32, counts: U16, codes: U8, out: F32) -> bool:
    at, least = 0, np.int8(0)
    for b in range(counts.size):
        end, scale = at + int64(counts[b]), scales[b, 0]
        numbers, into = codes[at:end].view(np.int8), out[at:end]
        for j in range(end - at):
            q = numbers[j]
            least = min(least, q)
            into[j] = np.float32(q) * scale
        at = end
    return bool(least > np.int8(-128))


@kernel
def _read_nibbles(scales: F32, counts: U16, codes: U8, out: F32) -> bool:
    """INT4, and MXINT4: each number of a block's scales is that of as many elements in order."""
    nibbles, code_at, at, group = np.empty(SLACK, np.uint8), 0, 0, BLOCK // scales.shape[1]
    pairs, low, high, eights = nibbles.view(np.uint16), np.uint16(0x0F), np.uint16(0x0F00), np.uint16(0x0808)
    for b in range(counts.size):
        k = int64(counts[b])
        size = (k + 1) >> 1
        own, into = codes[code_at : code_at + size], out[at : at + k]
        for p in range(size):
            w = np.uint16(own[p])
            pairs[p] = ((w & low) | ((w << np.uint16(4)) & high)) ^ eights
        if k & 1 and nibbles[k] != np.uint8(8):
            return False
        least = np.uint8(15)
        for j in range(k):
            least = min(least, nibbles[j])
        if least == 0:
            return False
        for first in range(0, k, group):
            some, to, scale = nibbles[first : min(first + group, k)], into[first:], scales[b, first // group]
            for j in range(some.size):
                to[j] = np.float32(np.int32(some[j]) - np.int32(8)) * scale
        code_at += size
        at += k
    return True


@kernel
def _spread(packed: U8, code_bits: int, spread: U8) -> None:
    """Codes of one or two bits, one a byte."""
    if code_bits == 1:
        words = spread.view(np.uint64)
        for p in range(packed.size):
            words[p] = EIGHT_OF[packed[p]]
    else:
        quarters = spread.view(np.uint32)
        for p in range(packed.size):
            quarters[p] = FOUR_OF[packed[p]]


@kernel
def _read_signs(code_bits: int, scales: F32, counts: U16, signs: U8, codes: U8, out_bits: I32) -> bool:
    levels, at, sign_at, code_at = scales.view(np.int32), 0, 0, 0
    negative, code = np.empty(SLACK, np.uint8), np.zeros(SLACK, np.uint8)
    for b in range(counts.size):
        k = int64(counts[b])
        sign_end, code_end = sign_at + ((k + 7) >> 3), code_at + ((k * code_bits + 7) >> 3)
        if k & 7 and signs[sign_end - 1] >> np.uint8(k & 7):
            return False
        used = (k * code_bits) & 7
        if used and codes[code_end - 1] >> np.uint8(used):
            return False
        into, level = out_bits[at : at + k], levels[b]
        _spread(signs[sign_at:sign_end], 1, negative)
        if code_bits:
            _spread(codes[code_at:code_end], code_bits, code)
        first, places = level[0], np.int32(31)
        if code_bits == 0:
            for j in range(k):
                into[j] = first ^ (np.int32(negative[j]) << places)
        elif code_bits == 1:
            second = level[1]
            for j in range(k):
                chosen = second if code[j] else first
                into[j] = chosen ^ (np.int32(negative[j]) << places)
        else:
            second, third, fourth = level[1], level[2], level[3]
            two = np.uint8(2)
            for j in range(k):
                lower = second if code[j] & np.uint8(1) else first
                upper = fourth if code[j] & np.uint8(1) else third
                chosen = upper if code[j] >= two else lower
                into[j] = chosen ^ (np.int32(negative[j]) << places)
        at, sign_at, code_at = at + k, sign_end, code_end
    return True


@kernel
def read_values(values: int, scales: F32, counts: U16, signs: U8, codes: U8, out: F32) -> bool:
    """out float32[K] from scales float32[n, L], finite and not negative.

    False where sections or `out` are not as long as the counts ask for, bits stand behind the end of a block,
    int8 is -128, int4 or mxint4 -8, or a number is infinite or NaN.
    """
    code_bits = (32, 16, 16, 8, 4, 0, 1, 2, 4)[values]
    sign_bits = 1 if SIGN <= values <= SIGN2 else 0
    if out.size != _bytes_of(counts, 8):
        return False
    if signs.size != _bytes_of(counts, sign_bits) or codes.size != _bytes_of(counts, code_bits):
        return False
    bits = out.view(np.int32)
    fine = True
    if values == FP32:
        copy_bytes(codes, 0, out.view(np.uint8), 0, codes.size)
    elif values == BF16:
        halves = out.view(np.uint16)
        for j in range(out.size):
            halves[2 * j] = 0
            halves[2 * j + 1] = np.uint16(codes[2 * j]) | (np.uint16(codes[2 * j + 1]) << np.uint16(8))
    elif values == FP16:
        return _read_halves(scales, counts, codes, out, bits)
    elif values == INT8:
        fine = _read_int8(scales, counts, codes, out)
    elif values in (INT4, MXINT4):
        fine = _read_nibbles(scales, counts, codes, out)
    else:
        return _read_signs(code_bits, scales, counts, signs, codes, bits)
    return bool(fine and _largest(bits) < INFINITY)


@kernel
def scatter_add(indices: U16, values: F32, counts: U16, rows: I64, into: F32) -> None:
    """into[row, index] += value, in element order."""
    at = 0
    for b in range(counts.size):
        row, end = into[rows[b]], at + int64(counts[b])
        where, what = indices[at:end], values[at:end]
        for j in range(end - at):
            row[where[j]] += what[j]
        at = end


@kernel
def count_sent(indices: U16, counts: U16, rows: I64, into: U16) -> None:
    """into[row, index] += 1."""
    at = 0
    for b in range(counts.size):
        row, end = into[rows[b]], at + int64(counts[b])
        where = indices[at:end]
        for j in range(end - at):
            row[where[j]] += np.uint16(1)
        at = end


@kernel
def add_all(values: F32, lengths: I32, rows: I64, into: F32) -> None:
    """into[row, :length] += values, block after block."""
    at = 0
    for b in range(rows.size):
        row, n = into[rows[b]], int64(lengths[b])
        what = values[at : at + n]
        for i in range(n):
            row[i] += what[i]
        at += n


@kernel
def set_all(values: F32, lengths: I32, rows: I64, into: F32) -> None:
    """into[row, :length] = values, block after block."""
    at = 0
    for b in range(rows.size):
        row, n = into[rows[b]], int64(lengths[b])
        what = values[at : at + n]
        for i in range(n):
            row[i] = what[i]
        at += n
