"""The squared norm of a gradient, in float64 and a fixed order: eight sums side by side, then a pairwise tree."""

from __future__ import annotations

import numpy as np

from wire.codec.kernels.kernel import F32, kernel


@kernel
def square_sum(values: F32) -> float:
    """Sum of the squares of float32[n]; not finite where an element is not."""
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = 0.0
    whole = values.size & ~7
    for i in range(0, whole, 8):
        s0 += np.float64(values[i]) * np.float64(values[i])
        s1 += np.float64(values[i + 1]) * np.float64(values[i + 1])
        s2 += np.float64(values[i + 2]) * np.float64(values[i + 2])
        s3 += np.float64(values[i + 3]) * np.float64(values[i + 3])
        s4 += np.float64(values[i + 4]) * np.float64(values[i + 4])
        s5 += np.float64(values[i + 5]) * np.float64(values[i + 5])
        s6 += np.float64(values[i + 6]) * np.float64(values[i + 6])
        s7 += np.float64(values[i + 7]) * np.float64(values[i + 7])
    for i in range(whole, values.size):
        s0 += np.float64(values[i]) * np.float64(values[i])
    return float(((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7)))
