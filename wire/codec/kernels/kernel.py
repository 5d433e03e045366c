"""What all kernels share: the decorator, the constants of bit patterns, the names of array types.

Numba looks for changes only in the file of the function that it loads from its cache, not in the files of those
which that one calls. So each cached kernel carries the digest of the whole package as its stamp, and of the constants
in `wire.codec.values`, which are compiled in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

BLOCK = 4096
SLACK = BLOCK + 8
MAGNITUDE = np.int32(0x7FFFFFFF)
SIGN_BIT = np.int32(-0x80000000)
INFINITY = np.int32(0x7F800000)
LARGEST_BFLOAT16 = 0x7F7F
SMALLEST_NORMAL_BFLOAT16 = 0x0080

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U16 = NDArray[np.uint16]
U8 = NDArray[np.uint8]
# To Numba a 64-bit integer, whatever the argument; numpy's own type would not pass for an int in annotations.
if TYPE_CHECKING:

    def int64(number: object) -> int: ...
else:
    int64 = np.int64

Function = TypeVar("Function", bound=Callable[..., object])

_SOURCES = [*sorted(Path(__file__).parent.glob("*.py")), Path(__file__).parents[1] / "values.py"]
SOURCE_DIGEST = hashlib.sha256(b"".join(path.read_bytes() for path in _SOURCES)).hexdigest()


def kernel(function: Function) -> Function:
    """Compiled on first use, cached, without the GIL; no fastmath, no threads."""
    dispatcher: Any = numba.njit(nogil=True, cache=True)(function)
    file = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if file is not None:
        file._source_stamp = SOURCE_DIGEST
    return cast(Function, dispatcher)
