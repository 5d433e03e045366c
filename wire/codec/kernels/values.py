"""From numbers to codes, and to what the codes stand for: one function for each value kind.

x float32[…], its first k elements are coded; `bits` is the same memory as int32, `keys` its magnitudes; v float32[…],
what the decoder makes of the codes, `v_bits` the same memory. largest: the largest key. Each returns where the next
block's codes begin. Multi-byte codes are little-endian, as the hosts are.

fp16   e = exponent(max |c|) - 14, at least -126; scale 2^e (0 for a block of zeros); the code is the half-precision
       number nearest to c 2^-e, ties to even (where 2^15 2^e overflows: at most the one below 2^15)
bf16   nearest, ties to even, at most the largest finite
int8   scale = float32(max |c| / 127) rounded up to bfloat16, at least 2^-126, at most the largest with 127 scale
       finite (0 for a block of zeros); y = |c| inverse, inverse = the largest float32 not above 1 / scale;
       q = y rounded to nearest, ties to even, or stochastically: floor(y), + 1 where (y - floor(y)) 2^24 > r;
       at most 127, with the sign of c
int4   h = trunc(|c| 2^(22-e)), 2^e <= max |c| (levels.py);
       s = ((sum h^2 / sum h) / 2 - 5/16 (sum h / k)) coarse, in float64; scale = the lesser of bfloat16 nearest to
       s 2^(e-22), and of max |c| / max(7 / coarse, 1) rounded up (the latter where all h are 0); limits, inverse and
       nearest as int8, at most 7; two's complement nibbles, low one first
mxint4 as int4, with a scale a group: groups.py
sign…  the signs; classes of levels.py, 0, 1, 2 bits an element, low bits first

r = hash(seed + 0x9E3779B9 i) >> 8 for element i of its block, all mod 2^32, where
seed = hash(hash(hash(hash(key low) ^ key high) ^ number low) ^ number high), low and high the halves of 64 bits,
hash(x): x ^= x >> 16; x *= 0x7FEB352D; x ^= x >> 15; x *= 0x846CA68B; x ^= x >> 16.
"""

from __future__ import annotations

import math

import numpy as np

from wire.codec.kernels.kernel import (
    F32,
    I32,
    INFINITY,
    LARGEST_BFLOAT16,
    SIGN_BIT,
    SMALLEST_NORMAL_BFLOAT16,
    U8,
    U16,
    int64,
    kernel,
)
from wire.codec.kernels.levels import fixed_point
from wire.codec.values import Values

FP32, FP16, BF16, INT8, INT4, SIGN, SIGN1, SIGN2, MXINT4 = (int(kind) for kind in Values)

ROUNDER = np.float32(12582912.0)
"""1.5 * 2^23: added and taken away, it rounds what is below 2^22 to nearest, ties to even."""
NEAREST_HALF = np.int32(112 << 23)
TWO_TO_24 = np.float32(16777216.0)


@kernel
def float_of(bits: int) -> np.float32:
    """The float32 with these bits."""
    one = np.empty(1, np.int32)
    one[0] = bits
    return np.float32(one.view(np.float32)[0])


@kernel
def _bits_of(number: np.float32) -> int:
    one = np.empty(1, np.float32)
    one[0] = number
    return int64(one.view(np.int32)[0])


@kernel
def copy_bytes(source: U8, at: int, target: U8, to: int, size: int) -> None:
    """target[to : to + size] = source[at : at + size], at any alignment."""
    into, out_of = target[to : to + size], source[at : at + size]
    for i in range(size):
        into[i] = out_of[i]


@kernel
def encode_fp32(x: F32, bits: I32, k: int, v_bits: I32, codes: U8, at: int) -> int:
    """The numbers themselves."""
    for j in range(k):
        v_bits[j] = bits[j]
    copy_bytes(x.view(np.uint8), 0, codes, at, 4 * k)
    return at + 4 * k


@kernel
def encode_bf16(keys: I32, bits: I32, k: int, v_bits: I32, halves: U16, codes: U8, at: int) -> int:
    """Rounded to nearest even; what would become infinite stays the largest finite."""
    one, half, most = np.int32(1), np.int32(0x7FFF), np.int32(LARGEST_BFLOAT16 << 16)
    low, places = np.int32(-0x10000), np.int32(16)
    for j in range(k):
        key = keys[j]
        rounded = np.int32(min(np.int32(key + half + ((key >> places) & one)) & low, most))
        v_bits[j] = rounded | (bits[j] & SIGN_BIT)
    for j in range(k):
        halves[j] = np.uint16((v_bits[j] >> places) & np.int32(0xFFFF))
    copy_bytes(halves.view(np.uint8), 0, codes, at, 2 * k)
    return at + 2 * k


@kernel
def encode_fp16(
    x: F32, bits: I32, k: int, largest: int, v: F32, v_bits: I32, halves: U16, scales: U16, codes: U8, at: int
) -> int:
    """Half-precision numbers after a scaling by a power of two that loses nothing."""
    exponent = max((largest >> 23) - 14, 1)
    scale, inverse = float_of(exponent << 23), float_of((254 - exponent) << 23)
    if largest == 0:
        scales[0], scale = 0, np.float32(0.0)
    else:
        scales[0] = exponent << 7
    most = np.int32(0x77FF if largest >> 23 == 254 else 0x7800)
    for j in range(k):
        v[j] = abs(x[j]) * inverse
    round_halves(v, v_bits, k, most)
    for j in range(k):
        halves[j] = np.uint16(v_bits[j] | ((bits[j] >> np.int32(16)) & np.int32(0x8000)))
    copy_bytes(halves.view(np.uint8), 0, codes, at, 2 * k)
    expand_halves(halves, k, scale, v, v_bits)
    return at + 2 * k


@kernel
def round_halves(y: F32, y_bits: I32, k: int, most: np.int32) -> None:
    """y_bits = half-precision bits nearest to the magnitudes y, ties to even, at most `most`."""
    small, unit, half = np.float32(0.5), np.int32(0x3F000000), np.int32(0xFFF)
    places, one = np.int32(13), np.int32(1)
    denormals = np.empty(k, np.float32)
    for j in range(k):
        denormals[j] = min(y[j], small) + small
    rounded = denormals.view(np.int32)
    for j in range(k):
        b = np.int32(y_bits[j] - NEAREST_HALF)
        normal = np.int32(b + half + ((b >> places) & one)) >> places
        code = normal if b >= np.int32(1 << 23) else np.int32(rounded[j] - unit)
        y_bits[j] = min(code, most)


@kernel
def expand_halves(halves: U16, k: int, scale: np.float32, v: F32, v_bits: I32) -> bool:
    """v = number * scale, each with its sign; False where one is infinite or NaN."""
    up, code, worst = np.float32(2.0**112), np.int32(0), np.int32(0)
    for j in range(k):
        b = np.int32(halves[j]) & np.int32(0x7FFF)
        code = max(code, b)
        v_bits[j] = b << np.int32(13)
    for j in range(k):
        v[j] = (v[j] * up) * scale
    for j in range(k):
        b = v_bits[j]
        worst = max(worst, b)
        v_bits[j] = b | ((np.int32(halves[j]) & np.int32(0x8000)) << np.int32(16))
    return bool(code < np.int32(0x7C00) and worst < INFINITY)


@kernel
def scale_up(largest: int, steps: float) -> int:
    """bfloat16 bits: largest / steps rounded up, at least 2^-126, at most what times `steps` is finite."""
    least = _bits_of(float_of(largest) / np.float32(steps))
    most = _bits_of(float_of(int64(INFINITY) - 1) / np.float32(steps)) >> 16
    return min(max((least + 0xFFFF) >> 16, SMALLEST_NORMAL_BFLOAT16), most)


@kernel
def inverse_of(scale: int) -> np.float32:
    """The largest float32 not above 1 / scale, for the bfloat16 bits of a scale that is not denormal."""
    s = np.float64(float_of(scale << 16))
    inverse = np.float32(1.0 / s)
    if np.float64(inverse) * s > 1.0:
        inverse = float_of(_bits_of(inverse) - 1)
    return inverse


@kernel
def mix(x: np.uint32) -> np.uint32:
    """hash(x)."""
    x = np.uint32(x ^ (x >> np.uint32(16)))
    x = np.uint32(x * np.uint32(0x7FEB352D))
    x = np.uint32(x ^ (x >> np.uint32(15)))
    x = np.uint32(x * np.uint32(0x846CA68B))
    return np.uint32(x ^ (x >> np.uint32(16)))


@kernel
def seed_of(key: np.uint64, number: int) -> np.uint32:
    """The seed of a block's random numbers."""
    block, low, places = np.uint64(number), np.uint64(0xFFFFFFFF), np.uint64(32)
    h = mix(np.uint32(key & low))
    h = mix(np.uint32(h ^ np.uint32(key >> places)))
    h = mix(np.uint32(h ^ np.uint32(block & low)))
    return mix(np.uint32(h ^ np.uint32(block >> places)))


@kernel
def round_nearest(x: F32, k: int, inverse: np.float32, most: np.float32, v: F32) -> None:
    """v = q, the whole number nearest to |x| * inverse, at most `most`."""
    for j in range(k):
        v[j] = min((abs(x[j]) * inverse + ROUNDER) - ROUNDER, most)


@kernel
def round_stochastically(
    x: F32, k: int, inverse: np.float32, most: np.float32, seed: np.uint32, chosen: U16, v: F32
) -> None:
    """v = q, |x| * inverse rounded up with the probability of what is behind the point, at most `most`."""
    one, zero = np.float32(1.0), np.float32(0.0)
    for j in range(k):
        y = abs(x[j]) * inverse
        r = mix(np.uint32(seed + np.uint32(np.uint32(chosen[j]) * np.uint32(0x9E3779B9))))
        down = np.float32(np.int32(y))
        up = one if (y - down) * TWO_TO_24 > np.float32(np.int32(r >> np.uint32(8))) else zero
        v[j] = min(down + up, most)


@kernel
def finish_integers(bits: I32, k: int, scale: np.float32, mask: int, v: F32, whole: U8) -> None:
    """whole = two's complement of q with the sign of x, in `mask` bits; v = q * scale."""
    cut = np.int32(mask)
    for j in range(k):
        q = np.int32(v[j])
        q = np.int32(-q) if bits[j] < np.int32(0) else q
        whole[j] = np.uint8(q & cut)
        v[j] = np.float32(q) * scale


@kernel
def int4_scale(fixed: I32, k: int, largest: int, coarse: float) -> int:
    """bfloat16 bits of `coarse` times the scale of about the least squared error, for bell-shaped and for
    heavy-tailed blocks; never more than the largest element, which would round to 0 for ever."""
    most = min(scale_up(largest, max(7.0 / coarse, 1.0)), scale_up(int64(INFINITY) - 1, 7.0))
    total, squares = int64(0), int64(0)
    for j in range(k):
        h = int64(fixed[j] >> np.int32(8))
        total += h
        squares += h * h
    if total == 0:
        return most
    s = (np.float64(squares) / np.float64(total)) * 0.5 - (np.float64(total) / np.float64(k)) * 0.3125
    s *= coarse
    b = _bits_of(np.float32(s * math.ldexp(1.0, max(largest >> 23, 1) - 149)))
    nearest = max((b + 0x7FFF + ((b >> 16) & 1)) >> 16, SMALLEST_NORMAL_BFLOAT16)
    return min(nearest, most)


@kernel
def encode_integers(
    values: int,
    coarse: float,
    key: np.uint64,
    number: int,
    x: F32,
    bits: I32,
    chosen: U16,
    k: int,
    largest: int,
    fixed: I32,
    v: F32,
    whole: U8,
    scales: U16,
    codes: U8,
    at: int,
) -> int:
    """INT8, stochastically where there is a key, and INT4. chosen: the elements' places in block `number`."""
    scale = 0
    for j in range(k):
        v[j] = 0.0
    if largest and values == INT8:
        scale = scale_up(largest, 127.0)
        if key:
            seed = seed_of(key, number)
            round_stochastically(x, k, inverse_of(scale), np.float32(127.0), seed, chosen, v)
        else:
            round_nearest(x, k, inverse_of(scale), np.float32(127.0), v)
    elif largest:
        fixed_point(x, k, largest, fixed)
        scale = int4_scale(fixed, k, largest, coarse)
        round_nearest(x, k, inverse_of(scale), np.float32(7.0), v)
    scales[0] = scale
    finish_integers(bits, k, float_of(scale << 16), 255 if values == INT8 else 15, v, whole)
    if values == INT8:
        copy_bytes(whole, 0, codes, at, k)
        return at + k
    whole[k] = 0
    return pack_nibbles(whole, k, codes, at)


@kernel
def pack_nibbles(whole: U8, k: int, codes: U8, at: int) -> int:
    """Two codes a byte, the first one low. `whole` is zero at k."""
    pairs, size = whole.view(np.uint16), (k + 1) >> 1
    into = codes[at : at + size]
    for p in range(size):
        into[p] = np.uint8((pairs[p] | (pairs[p] >> np.uint16(4))) & np.uint16(0xFF))
    return at + size
