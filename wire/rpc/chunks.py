"""How frames are cut into messages: between parts, never inside one; small parts go together, large ones alone.

So neither side ever puts a frame together: what arrives is decoded from the buffers that it arrived in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

CHUNK_BYTES = 1 << 20
LEAST_BYTES = 24
"""Of a message: that of a frame without parts. Smaller ones would cost a reader many times their bytes to keep."""


def gathered(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces of a frame in messages of about `CHUNK_BYTES`."""
    waiting: list[bytes] = []
    size = 0
    for piece in pieces:
        if waiting and size + len(piece) > CHUNK_BYTES:
            yield _joined(waiting)
            waiting, size = [], 0
        waiting.append(piece)
        size += len(piece)
    if waiting:
        yield _joined(waiting)


def _joined(pieces: list[bytes]) -> bytes:
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
