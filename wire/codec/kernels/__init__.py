"""The inner loops: state update, exact top-k, quantiser and feedback in one pass over each block, and the way back.

All arithmetic is fixed: plain float32 multiplications and adds without contraction for planes, integers for
every sum over elements, so that no order of summation shows. Legend: n blocks, k kept elements of one, K of all.
    rows, numbers int64[n] · lengths, kept int32[n] · counts uint16[n]
    scales uint16[n, L] (bfloat16 bits or exponents)
    gaps uint8[…] · signs uint8[…] · codes uint8[…]: sections, each block's bits begin at a byte

Modes, for the source s, the compressed c and what its codes stand for, C(c):
    PLAIN     c = s
    CARRY     c = s + state; state = 0
    RESIDUAL  state = decay state + s; c = state; state -= C(c)
    TRACK     c = s - state; state += C(c)
    MOMENTUM  momentum = (1 - eta) momentum + eta s; c = momentum - state; state += C(c)
Told in full in values.py (value kinds, random numbers), groups.py (mxint4), levels.py (sign codes), indices.py and
select.py.
Kernels release the GIL and are cached on disk; `python -m wire.codec.kernels` fills the cache.
"""

from __future__ import annotations

import numpy as np

from wire.codec.kernels.ahead import go_on, products
from wire.codec.kernels.decode import add_all, count_sent, read_values, scatter_add, set_all
from wire.codec.kernels.encode import (
    CARRY,
    MOMENTUM,
    PLAIN,
    RESIDUAL,
    TRACK,
    encode_blocks,
    first_not_finite,
)
from wire.codec.kernels.indices import ESCAPE, bitmap_from_gaps, read_bitmap, read_gaps
from wire.codec.kernels.kernel import LARGEST_BFLOAT16
from wire.codec.kernels.norm import square_sum
from wire.codec.kernels.values import BF16, FP16, FP32, INT4, INT8, MXINT4, SIGN, SIGN1, SIGN2

__all__ = [
    "BF16",
    "CARRY",
    "ESCAPE",
    "FP16",
    "FP32",
    "INT4",
    "INT8",
    "LARGEST_BFLOAT16",
    "MOMENTUM",
    "MXINT4",
    "PLAIN",
    "RESIDUAL",
    "SIGN",
    "SIGN1",
    "SIGN2",
    "TRACK",
    "add_all",
    "bitmap_from_gaps",
    "count_sent",
    "encode_blocks",
    "first_not_finite",
    "go_on",
    "products",
    "read_bitmap",
    "read_gaps",
    "read_values",
    "scatter_add",
    "set_all",
    "square_sum",
    "warm",
]


def warm() -> None:
    """Run each kernel once on one block, so that all are compiled or loaded from the cache.

    For each argument type of the codec: sections made here can be written to, those of a frame cannot.
    """
    plane, rows, lengths = np.ones((1, 4096), np.float32), np.zeros(1, np.int64), np.full(1, 4096, np.int32)
    counts, scales = np.empty(1, np.uint16), np.empty((1, 2), np.uint16)
    gaps, signs, codes = (np.empty(4096, np.uint8) for _ in range(3))
    first_not_finite(plane, rows, lengths)
    encode_blocks(
        PLAIN, np.ones(3, np.float32), plane, plane, plane, rows, lengths, np.full(1, 8, np.int32), SIGN1, 1.0,
        np.uint64(0), rows, counts, scales, gaps, signs, codes,
    )  # fmt: skip
    bitmap, indices, values = np.zeros(512, np.uint8), np.empty(8, np.uint16), np.empty(8, np.float32)
    bitmap_from_gaps(gaps[:8], counts, lengths, bitmap)
    wide = (scales.astype(np.uint32) << 16).view(np.float32)
    for locked in (False, True):
        for array in (gaps, bitmap, signs, codes, values, plane):
            array.flags.writeable = not locked
        read_gaps(gaps[:8], counts, lengths, indices)
        read_bitmap(bitmap, counts, lengths, indices)
        read_values(SIGN1, wide, counts, signs[:1], codes[:1], np.empty(8, np.float32))
        square_sum(values)
        scatter_add(indices, values, counts, rows, np.zeros((1, 4096), np.float32))
        count_sent(indices, counts, rows, np.zeros((1, 4096), np.uint16))
        add_all(plane[0], lengths, rows, np.zeros((1, 4096), np.float32))
        set_all(plane[0], lengths, rows, np.zeros((1, 4096), np.float32))
    moved, one = np.ones((1, 4096), np.float32), np.ones(1, np.float32)
    products(moved, moved, moved, rows, np.zeros(1), np.zeros(1))
    go_on(moved, moved, one, one, rows, moved)
