"""How frames are cut into messages: between parts, never inside one; small parts go together, large ones alone.

So neither side ever puts a frame together: what arrives is decoded from the buffers that it arrived in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

CHUNK_BYTES = 1 << 20
LEAST_BYTES = 24
"""Of a message: that of a frame without parts. Smaller ones would cost a reader many times their bytes to keep."""

Data = tuple[bytes, ...]
"""The pieces that go into one message."""


def gathered(pieces: Iterable[bytes]) -> Iterator[Data]:
    """The pieces of a frame, by the messages of about `CHUNK_BYTES` that carry them."""
    waiting: list[bytes] = []
    size = 0
    for piece in pieces:
        if waiting and size + len(piece) > CHUNK_BYTES:
            yield tuple(waiting)
            waiting, size = [], 0
        waiting.append(piece)
        size += len(piece)
    if waiting:
        yield tuple(waiting)
