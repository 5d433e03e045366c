"""The section of scales: as many numbers a block as its values have, bfloat16, or an exponent a group.

A group is 64 kept elements of a block, in order, the last one what is left. Its byte e stands for 2^(e - 127), 0 for 0;
255 is refused, as are bfloat16 numbers that are negative, infinite or NaN. This module does not import numba.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wire.codec.base import DamagedFrame, expect_bytes
from wire.codec.values import GROUP, Values

U16 = NDArray[np.uint16]
INFINITY_BFLOAT16 = 0x7F80
NO_EXPONENT = 255
REFUSED = "a scale that is negative, infinite or NaN: the frame was not made by this codec"


def scale_bytes(values: Values, counts: NDArray[Any]) -> int:
    """Of the section, where int[n] elements are kept of each block."""
    return int(_groups_of(counts).sum()) if values.grouped else 2 * values.scales * counts.size


def pack_scales(values: Values, scales: U16, counts: U16) -> U16 | NDArray[np.uint8]:
    """The section, of scales uint16[n, L]: all of them, or a byte for each group that the block has."""
    if not values.grouped:
        return scales
    return scales[_there(counts, scales.shape[1])].astype(np.uint8)


def read_scales(values: Values, raw: memoryview, counts: U16) -> NDArray[np.float32]:
    """float32[n, L]; of groups that a block does not have, 0. Raises: DamagedFrame."""
    expect_bytes("scales", raw, scale_bytes(values, counts))
    if not values.grouped:
        bits = np.frombuffer(raw, dtype="<u2").reshape(counts.size, values.scales)
        if (bits >= INFINITY_BFLOAT16).any():
            raise DamagedFrame(REFUSED)
        return (bits.astype(np.uint32) << 16).view(np.float32)
    exponents = np.frombuffer(raw, dtype=np.uint8)
    if (exponents == NO_EXPONENT).any():
        raise DamagedFrame(REFUSED)
    scales = np.zeros((counts.size, values.scales), np.uint32)
    scales[_there(counts, values.scales)] = exponents.astype(np.uint32) << 23
    return scales.view(np.float32)


def _there(counts: U16, most: int) -> NDArray[np.bool_]:
    """bool[n, most]: which groups a block has."""
    return np.arange(most) < _groups_of(counts)[:, None]


def _groups_of(counts: NDArray[Any]) -> NDArray[np.int64]:
    """int64[n]: groups of each block."""
    return (counts.astype(np.int64) + GROUP - 1) // GROUP
