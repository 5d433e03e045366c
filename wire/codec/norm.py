"""The norm of a push: of what its frames decode to, all shards together.

Squares are added up inside each block, and the sums of blocks exactly rounded, so that neither their order nor how they
are spread over servers shows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from wire.codec import kernels
from wire.codec.part import Values32


def norm_of(parts: Iterable[Values32]) -> float:
    """L2 norm of the decoded parts of all frames of a push."""
    return math.sqrt(math.fsum(total for part in parts for total in _square_sums(part)))


def _square_sums(part: Values32) -> Iterator[float]:
    """Of each block."""
    ends = np.cumsum(part.counts, dtype=np.int64).tolist()
    for start, stop in zip([0, *ends], ends, strict=False):
        yield kernels.square_sum(part.values[start:stop])
