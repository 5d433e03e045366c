"""A few tensors, and the data section that they make."""

from __future__ import annotations

import numpy as np

WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)
MASK = np.arange(5, dtype=np.uint8)
ENTRIES = [("weight", "F32", (3, 4)), ("scalar", "F32", ()), ("mask", "U8", (5,)), ("none", "U8", (0,))]
DATA = WEIGHT.tobytes() + np.float32(7).tobytes() + MASK.tobytes()
