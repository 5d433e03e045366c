"""From sections to numbers, and from numbers into planes: every kernel checks what it is given before it writes."""

from __future__ import annotations

import numpy as np

from wire.codec.kernels.kernel import F32, I32, I64, INFINITY, MAGNITUDE, SLACK, U8, U16, kernel
from wire.codec.kernels.values import BF16, FP16, FP32, INT4, INT8, SIGN, copy_bytes, expand_halves


@kernel
def _bytes_of(counts: U16, bits: int) -> int:
    """Bytes of a section of so many bits an element, each block beginning at a byte."""
    total = np.int64(0)
    for b in range(counts.size):
        total += (np.int64(counts[b]) * bits + 7) >> 3
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
        k = np.int64(counts[b])
        copy_bytes(codes, 2 * at, halves.view(np.uint8), 0, 2 * k)
        fine = expand_halves(halves, k, scales[b, 0], out[at : at + k], out_bits[at : at + k]) and fine
        at += k
    return fine


@kernel
def _read_int8(scales: F32, counts: U16, codes: U8, out: F32) -> bool:
    numbers, at, least = codes.view(np.int8), 0, np.int8(0)
    for b in range(counts.size):
        scale = scales[b, 0]
        for j in range(at, at + np.int64(counts[b])):
            q = numbers[j]
            least = min(least, q)
            out[j] = np.float32(q) * scale
        at += np.int64(counts[b])
    return least > np.int8(-128)


@kernel
def _read_int4(scales: F32, counts: U16, codes: U8, out: F32) -> bool:
    nibbles, code_at, at, worst = np.empty(SLACK, np.uint8), 0, 0, False
    pairs, low = nibbles.view(np.uint16), np.uint16(0x0F)
    for b in range(counts.size):
        k, scale = np.int64(counts[b]), scales[b, 0]
        size = (k + 1) >> 1
        for p in range(size):
            w = np.uint16(codes[code_at + p])
            pairs[p] = np.uint16((w & low) | ((w << np.uint16(4)) & np.uint16(0x0F00)))
        if k & 1 and nibbles[k]:
            return False
        for j in range(k):
            q = np.int32(np.int32(nibbles[j] ^ np.uint8(8)) - np.int32(8))
            worst = worst or q == np.int32(-8)
            out[at + j] = np.float32(q) * scale
        code_at += size
        at += k
    return not worst


@kernel
def _read_signs(code_bits: int, scales: F32, counts: U16, signs: U8, codes: U8, out_bits: I32) -> bool:
    levels, out, sign_at, code_at = scales.view(np.int32), 0, 0, 0
    buffer = np.empty(8, np.int32)
    for b in range(counts.size):
        k = np.int64(counts[b])
        sign_size, code_size = (k + 7) >> 3, (k * code_bits + 7) >> 3
        if k & 7 and signs[sign_at + sign_size - 1] >> np.uint8(k & 7):
            return False
        used = (k * code_bits) & 7
        if used and codes[code_at + code_size - 1] >> np.uint8(used):
            return False
        first = levels[b, 0]
        second = levels[b, 1] if code_bits else first
        for p in range(sign_size):
            sign = np.int32(signs[sign_at + p])
            if code_bits == 1:
                code = np.int32(codes[code_at + p])
                for u in range(8):
                    level = second if code & np.int32(1 << u) else first
                    buffer[u] = level ^ ((sign << np.int32(31 - u)) & np.int32(-0x80000000))
            else:
                wide = np.int32(0)
                if code_bits == 2:
                    wide = np.int32(codes[code_at + 2 * p])
                    if 2 * p + 1 < code_size:
                        wide |= np.int32(codes[code_at + 2 * p + 1]) << np.int32(8)
                for u in range(8):
                    level = (
                        levels[b, np.uint32((wide >> np.int32(2 * u)) & np.int32(3))] if code_bits else first
                    )
                    buffer[u] = level ^ ((sign << np.int32(31 - u)) & np.int32(-0x80000000))
            for u in range(min(8, k - 8 * p)):
                out_bits[out + 8 * p + u] = buffer[u]
        out += k
        sign_at += sign_size
        code_at += code_size
    return True


@kernel
def read_values(values: int, scales: F32, counts: U16, signs: U8, codes: U8, out: F32) -> bool:
    """out float32[K] from scales float32[n, L], finite and not negative.

    False where sections or `out` are not as long as the counts ask for, bits stand behind the end of a block,
    int8 is -128, int4 -8, or a number is infinite or NaN.
    """
    code_bits = (32, 16, 16, 8, 4, 0, 1, 2)[values]
    sign_bits = 1 if values >= SIGN else 0
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
    elif values == INT4:
        fine = _read_int4(scales, counts, codes, out)
    else:
        return _read_signs(code_bits, scales, counts, signs, codes, bits)
    return fine and _largest(bits) < INFINITY


@kernel
def scatter_add(indices: U16, values: F32, counts: U16, rows: I64, into: F32) -> None:
    """into[row, index] += value, in element order."""
    at = 0
    for b in range(counts.size):
        row = into[rows[b]]
        end = at + np.int64(counts[b])
        for j in range(at, end):
            row[indices[j]] += values[j]
        at = end


@kernel
def add_all(values: F32, lengths: I32, rows: I64, into: F32) -> None:
    """into[row, :length] += values, block after block."""
    at = 0
    for b in range(rows.size):
        row, n = into[rows[b]], np.int64(lengths[b])
        for i in range(n):
            row[i] += values[at + i]
        at += n


@kernel
def set_all(values: F32, lengths: I32, rows: I64, into: F32) -> None:
    """into[row, :length] = values, block after block."""
    at = 0
    for b in range(rows.size):
        row, n = into[rows[b]], np.int64(lengths[b])
        for i in range(n):
            row[i] = values[at + i]
        at += n
