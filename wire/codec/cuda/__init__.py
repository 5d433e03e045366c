"""Planes as tensors: what `wire.codec.device.Device` asks, in torch operations on the device of the planes.

Bytes and bits are those of the kernels. No operation here depends on the device: on torch's CPU device tests prove
the equality everywhere. Work goes in groups of parts (`group.py`), the sections of one are on their way to the host
while the next is made; frames and zstd are the shared code of part.py and frame.py. On CUDA the current stream must
be the one that wrote the planes, and planes may change once the last piece is out.
"""

from __future__ import annotations

from wire.codec.cuda.ahead import go_on, products, square_sum
from wire.codec.cuda.decode import add, assign, gather, scatter
from wire.codec.cuda.group import first_not_finite
from wire.codec.cuda.parts import encode_parts

__all__ = [
    "add",
    "assign",
    "encode_parts",
    "first_not_finite",
    "gather",
    "go_on",
    "products",
    "scatter",
    "square_sum",
]
