"""State update, selection, quantiser and feedback in one pass over each block."""

from __future__ import annotations

import numpy as np

from wire.codec.kernels.groups import encode_groups
from wire.codec.kernels.indices import write_gaps
from wire.codec.kernels.kernel import BLOCK, F32, I32, I64, INFINITY, MAGNITUDE, SLACK, U8, U16, int64, kernel
from wire.codec.kernels.levels import BIN_BITS, encode_signs
from wire.codec.kernels.select import I16, select
from wire.codec.kernels.values import (
    BF16,
    FP16,
    FP32,
    INT4,
    INT8,
    MXINT4,
    encode_bf16,
    encode_fp16,
    encode_fp32,
    encode_integers,
)

PLAIN, CARRY, RESIDUAL, TRACK, MOMENTUM = range(5)


@kernel
def first_not_finite(plane: F32, rows: I64, lengths: I32) -> int:
    """Position in `rows` of the first block with NaN or infinity in it, or -1."""
    bits = plane.view(np.int32)
    for b in range(rows.size):
        row, worst = bits[rows[b]], np.int32(0)
        for i in range(lengths[b]):
            worst = max(worst, row[i] & MAGNITUDE)
        if worst >= INFINITY:
            return b
    return -1


@kernel
def _load(mode: int, weights: F32, source: F32, momentum: F32, state: F32, c: F32, n: int) -> None:
    """c[:n], what is to be compressed; the momentum is updated. Planes are one block's rows here and below."""
    if mode == PLAIN:
        for i in range(n):
            c[i] = source[i]
    elif mode == CARRY:
        for i in range(n):
            c[i] = source[i] + state[i]
    elif mode == RESIDUAL:
        decay = weights[0]
        for i in range(n):
            c[i] = decay * state[i] + source[i]
    elif mode == TRACK:
        for i in range(n):
            c[i] = source[i] - state[i]
    else:
        keep, take = weights[1], weights[2]
        for i in range(n):
            momentum[i] = keep * momentum[i] + take * source[i]
        for i in range(n):
            c[i] = momentum[i] - state[i]


@kernel
def _measure(bits: I32, n: int, keys: I32) -> int:
    """Magnitudes, zero up to a multiple of 8; the largest."""
    largest = np.int32(0)
    for i in range(n):
        key = bits[i] & MAGNITUDE
        keys[i] = key
        largest = max(largest, key)
    for i in range(n, (n + 7) & ~7):
        keys[i] = 0
    return int64(largest)


@kernel
def _upper_halves(keys: I32, n: int, upper: I16) -> None:
    """Of magnitudes, up to a multiple of 8."""
    for i in range((n + 7) & ~7):
        upper[i] = np.int16(keys[i] >> np.int32(16))


@kernel
def _pick(bits: I32, chosen: U16, k: int, x_bits: I32, keys: I32) -> None:
    """The chosen elements, and their magnitudes."""
    for j in range(k):
        x_bits[j] = bits[chosen[j]]
    for j in range(k):
        keys[j] = x_bits[j] & MAGNITUDE


@kernel
def _settle(mode: int, state: F32, c: F32, n: int) -> None:
    """What the state is before the values are taken out of it or added."""
    if mode == CARRY:
        for i in range(n):
            state[i] = 0.0
    elif mode == RESIDUAL:
        for i in range(n):
            state[i] = c[i]


@kernel
def _feed_back(mode: int, state: F32, chosen: U16, v: F32, k: int) -> None:
    """RESIDUAL: state -= values; TRACK and MOMENTUM: state += values."""
    if mode == RESIDUAL:
        for j in range(k):
            state[chosen[j]] -= v[j]
    elif mode >= TRACK:
        for j in range(k):
            state[chosen[j]] += v[j]


@kernel
def _feed_back_whole(mode: int, state: F32, c: F32, v: F32, n: int) -> None:
    """What `_settle` and `_feed_back` do, where all elements are sent."""
    if mode == CARRY:
        for i in range(n):
            state[i] = 0.0
    elif mode == RESIDUAL:
        for i in range(n):
            state[i] = c[i] - v[i]
    elif mode >= TRACK:
        for i in range(n):
            state[i] += v[i]


@kernel
def encode_blocks(
    mode: int,
    weights: F32,
    source: F32,
    momentum: F32,
    state: F32,
    rows: I64,
    lengths: I32,
    kept: I32,
    values: int,
    coarse: float,
    key: np.uint64,
    numbers: I64,
    counts: U16,
    scales: U16,
    gaps: U8,
    signs: U8,
    codes: U8,
) -> tuple[int, int, int, int]:
    """Fill the sections for `rows` of the planes. (bytes of gaps, of signs, of codes, bad block or -1).

    A block with NaN or infinity in what is to be compressed ends the work.
    weights: float32[3], decay of the residual, 1 - eta, eta. kept: k of each block; below 0 the block is sent whole.
    coarse: of int4's and mxint4's steps. key: of the stochastic rounding of int8 (0: to nearest), with the blocks'
    global `numbers`.
    """
    c, x, v = np.empty(SLACK, np.float32), np.empty(SLACK, np.float32), np.empty(SLACK, np.float32)
    keys, picked = np.empty(SLACK, np.int32), np.empty(SLACK, np.int32)
    tied, fixed = np.empty(SLACK, np.int32), np.empty(SLACK, np.int32)
    upper, halves = np.empty(SLACK, np.int16), np.empty(SLACK, np.uint16)
    flags, small = np.empty(SLACK, np.uint8), np.empty(SLACK, np.uint8)
    chosen, every = np.empty(SLACK, np.uint16), np.arange(BLOCK).astype(np.uint16)
    sums = np.empty((1 << BIN_BITS) + 1, np.int64)
    c_bits, x_bits, v_bits = c.view(np.int32), x.view(np.int32), v.view(np.int32)
    gap_at, sign_at, code_at, guess = 0, 0, 0, 0
    for b in range(rows.size):
        row, n, k = rows[b], int64(lengths[b]), int64(kept[b])
        _load(mode, weights, source[row], momentum[row], state[row], c, n)
        largest = _measure(c_bits, n, keys)
        if largest >= INFINITY:
            return gap_at, sign_at, code_at, b
        whole = k < 0
        if not whole:
            _settle(mode, state[row], c, n)
        if whole:
            k = n
        elif largest:
            _upper_halves(keys, n, upper)
            k, guess = select(keys, upper, n, k, largest, guess, flags, tied, chosen)
        else:
            k = 0
        counts[b] = k
        for level in range(scales.shape[1]):
            scales[b, level] = 0
        if k == 0:
            continue
        places, u, u_bits, u_keys = every, c, c_bits, keys
        if not whole:
            gap_at = write_gaps(chosen, k, gaps, gap_at)
            _pick(c_bits, chosen, k, x_bits, picked)
            places, u, u_bits, u_keys = chosen, x, x_bits, picked
        if values == FP32:
            code_at = encode_fp32(u, u_bits, k, v_bits, codes, code_at)
        elif values == BF16:
            code_at = encode_bf16(u_keys, u_bits, k, v_bits, halves, codes, code_at)
        elif values == FP16:
            code_at = encode_fp16(u, u_bits, k, largest, v, v_bits, halves, scales[b], codes, code_at)
        elif values in (INT8, INT4):
            code_at = encode_integers(
                values, coarse, key, numbers[b], u, u_bits, places, k, largest, fixed, v, small, scales[b], codes,
                code_at,
            )  # fmt: skip
        elif values == MXINT4:
            code_at = encode_groups(coarse, u, u_bits, u_keys, k, v, small, scales[b], codes, code_at)
        else:
            sign_at, code_at = encode_signs(
                scales[b], u, u_bits, u_keys, k, largest, fixed, tied, sums, small, v_bits, signs, sign_at,
                codes, code_at,
            )  # fmt: skip
        if whole:
            _feed_back_whole(mode, state[row], c, v, n)
        else:
            _feed_back(mode, state[row], places, v, k)
    return gap_at, sign_at, code_at, -1
