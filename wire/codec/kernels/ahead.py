"""How far a plane has moved, against what was sent: of whole blocks, in float64, summed by halves.

The second half of what is to be summed is added to the first, until one number is left.
"""

from __future__ import annotations

import numpy as np

from wire.codec.kernels.kernel import BLOCK, F32, F64, I64, kernel


@kernel
def products(now: F32, before: F32, sent: F32, rows: I64, along: F64, squares: F64) -> None:
    """Of each row into float64[rows of the planes]: along = <now - before, sent>, squares = <sent, sent>."""
    half = BLOCK // 2
    a, s = np.empty(half), np.empty(half)
    for row in rows:
        for i in range(half):
            j = half + i
            g, h = np.float64(sent[row, i]), np.float64(sent[row, j])
            a[i] = np.float64(now[row, i] - before[row, i]) * g + np.float64(now[row, j] - before[row, j]) * h
            s[i] = g * g + h * h
        width = half // 2
        while width:
            for i in range(width):
                a[i] += a[width + i]
                s[i] += s[width + i]
            width //= 2
        along[row], squares[row] = a[0], s[0]


@kernel
def go_on(now: F32, before: F32, moves: F32, gains: F32, rows: I64, into: F32) -> None:
    """Of each row: into = moves (now - before) - gains into, each operation rounded to float32."""
    for row in rows:
        move, gain = moves[row], gains[row]
        for i in range(BLOCK):
            sent = gain * into[row, i] if gain != 0 else np.float32(0)
            into[row, i] = move * (now[row, i] - before[row, i]) - sent
