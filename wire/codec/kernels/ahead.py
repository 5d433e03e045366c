"""How far a plane has moved, against what was sent: of whole blocks, in float64 and a fixed order."""

from __future__ import annotations

import numpy as np

from wire.codec.kernels.kernel import BLOCK, F32, F64, I64, kernel


@kernel
def products(now: F32, before: F32, sent: F32, rows: I64, along: F64, squares: F64) -> None:
    """Of each row into float64[rows of the planes]: along = <now - before, sent>, squares = <sent, sent>."""
    for row in rows:
        a0 = a1 = a2 = a3 = s0 = s1 = s2 = s3 = 0.0
        for i in range(0, BLOCK, 4):
            g0, g1, g2, g3 = sent[row, i], sent[row, i + 1], sent[row, i + 2], sent[row, i + 3]
            a0 += np.float64(now[row, i] - before[row, i]) * np.float64(g0)
            a1 += np.float64(now[row, i + 1] - before[row, i + 1]) * np.float64(g1)
            a2 += np.float64(now[row, i + 2] - before[row, i + 2]) * np.float64(g2)
            a3 += np.float64(now[row, i + 3] - before[row, i + 3]) * np.float64(g3)
            s0 += np.float64(g0) * np.float64(g0)
            s1 += np.float64(g1) * np.float64(g1)
            s2 += np.float64(g2) * np.float64(g2)
            s3 += np.float64(g3) * np.float64(g3)
        along[row] = (a0 + a1) + (a2 + a3)
        squares[row] = (s0 + s1) + (s2 + s3)


@kernel
def go_on(now: F32, before: F32, moves: F32, gains: F32, rows: I64, into: F32) -> None:
    """Of each row: into = moves (now - before) - gains into, each operation rounded to float32."""
    for row in rows:
        move, gain = moves[row], gains[row]
        for i in range(BLOCK):
            sent = gain * into[row, i] if gain != 0 else np.float32(0)
            into[row, i] = move * (now[row, i] - before[row, i]) - sent
