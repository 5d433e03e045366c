"""The synthetic model of `bench wire`: matrices of random numbers whose gradients are views, and so cost nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wire.layout import BLOCK, Layout, Parameter

BLOCK_BYTES = 4 * BLOCK
MATRIX_BLOCKS = 256
LEARNING_RATE = 1e-3
WARM_UP = 3
"""Steps before the measured ones."""
SLACK = 1 << 16
"""Numbers beyond the model's, so that each step's gradients can begin elsewhere."""
STRIDE = 4_112
"""Between the offsets of two steps; no multiple of a block, so that each block sees other numbers."""


def whole_blocks(megabytes: float) -> int:
    """Bytes of the smallest model of whole blocks that has at least that many MB (10^6 bytes)."""
    return -(-round(megabytes * 1e6) // BLOCK_BYTES) * BLOCK_BYTES


def shapes(elements: int) -> list[tuple[int, int]]:
    """Matrices of 4 MiB, the last one smaller, with `elements` (a multiple of 4,096) in all."""
    blocks = elements // BLOCK
    return [(min(MATRIX_BLOCKS, blocks - start), BLOCK) for start in range(0, blocks, MATRIX_BLOCKS)]


def layout(elements: int) -> Layout:
    """The blocks of that model."""
    return Layout(tuple(Parameter(str(i), shape, "float32", 0) for i, shape in enumerate(shapes(elements))))


def numbers(elements: int) -> NDArray[np.float32]:
    """float32[elements + SLACK], normal; the gradients of step t begin at `offset(t)`."""
    drawn: NDArray[np.float32] = np.random.default_rng(0).standard_normal(elements + SLACK, dtype=np.float32)
    return drawn


def offset(step: int) -> int:
    """Where the gradients of a step begin in `numbers`."""
    return step * STRIDE % SLACK
