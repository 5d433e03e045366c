"""Planes and blobs on the wire: a header with size and CRC-32, then data in chunks.

The receiver knows how large a plane may be before the first byte of data is kept, so a
length in a header is never taken on trust.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

from wire.errors import ProtocolMismatch
from wire.v1 import common_pb2

CHUNK_BYTES = 1 << 20
"""None is larger."""
PIECE_BYTES = 1 << 18
"""They are made so large: at 1 Mbit/s one still arrives every two seconds, and tells that the link is only slow."""
INNER_SLACK_BYTES = 1 << 20
"""For names and shapes, however small the model."""

Expected = Callable[[str], int | range | None]
"""Exact size in bytes of the plane of that name, or the range of sizes that a blob may have; None: no such plane."""


def plane_chunks(name: str, data: bytes | bytearray | memoryview) -> Iterator[common_pb2.PlaneChunk]:
    """The messages that carry `data` (any contiguous buffer) as plane `name`: one header, then the data in order."""
    view = memoryview(data).cast("B")
    header = common_pb2.PlaneHeader(plane=name, bytes=len(view), crc32=zlib.crc32(view))
    yield common_pb2.PlaneChunk(header=header)
    for start in range(0, len(view), PIECE_BYTES):
        yield common_pb2.PlaneChunk(data=bytes(view[start : start + PIECE_BYTES]))


def pieces_of(blob: bytes, elements: Sequence[int]) -> list[bytes]:
    """A blob cut over the shards, by how many elements of the model each of them has; joined they are the blob."""
    return [blob[piece.start : piece.stop] for piece in cut(len(blob), elements)]


def cut(size: int, elements: Sequence[int]) -> list[range]:
    """Which of the `size` bytes of such a blob are whose."""
    whole = max(sum(elements), 1)
    ends = [size * done // whole for done in accumulate(elements)]
    return [range(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def inner_bytes(elements: int) -> range:
    """Bytes that a shard's piece of a worker's optimizer state may have: up to sixteen numbers an element."""
    return range(INNER_SLACK_BYTES + 64 * elements + 1)


class PlaneReader:
    """Puts planes together again, one after the other.

    Memory at most: little more than twice the size that `expected` allows for one plane, however small the pieces.
    """

    def __init__(self, expected: Expected) -> None:
        self._expected = expected
        self._header: common_pb2.PlaneHeader | None = None
        self._data = bytearray()

    def feed(self, chunk: common_pb2.PlaneChunk) -> tuple[str, bytes] | None:
        """Takes the next message; (name, bytes) when it completes a plane.

        Raises:
            ProtocolMismatch: unknown plane, wrong size, wrong checksum, data without header or beyond it.
        """
        if chunk.WhichOneof("part") == "header":
            self._open(chunk.header)
        elif chunk.WhichOneof("part") == "data":
            self._append(chunk.data)
        else:
            raise ProtocolMismatch("an empty plane message; expected a header or data")
        return self._complete()

    def finish(self) -> None:
        """Raises ProtocolMismatch if the stream has ended inside a plane."""
        if self._header is not None:
            raise ProtocolMismatch(
                f"plane {self._header.plane!r} ended after {len(self._data)} of {self._header.bytes} bytes"
            )

    def _open(self, header: common_pb2.PlaneHeader) -> None:
        self.finish()
        allowed = self._expected(header.plane)
        if allowed is None:
            raise ProtocolMismatch(f"plane {header.plane!r} is not one of those expected here")
        sizes = range(allowed, allowed + 1) if isinstance(allowed, int) else allowed
        if header.bytes not in sizes:
            wanted = str(allowed) if isinstance(allowed, int) else f"{allowed.start} to {allowed.stop - 1}"
            raise ProtocolMismatch(
                f"plane {header.plane!r} announces {header.bytes} bytes; expected {wanted}: "
                "both sides must hold the same model"
            )
        self._header = header

    def _append(self, data: bytes) -> None:
        if self._header is None:
            raise ProtocolMismatch(f"{len(data)} bytes of plane data without a header before them")
        name, size = self._header.plane, self._header.bytes
        if not 0 < len(data) <= CHUNK_BYTES:
            raise ProtocolMismatch(
                f"plane {name!r}: a piece of {len(data)} bytes; expected 1 to {CHUNK_BYTES}"
            )
        received = len(self._data) + len(data)
        if received > size:
            raise ProtocolMismatch(f"plane {name!r}: {received} bytes where its header announced {size}")
        self._data += data

    def _complete(self) -> tuple[str, bytes] | None:
        header = self._header
        if header is None or len(self._data) < header.bytes:
            return None
        plane = bytes(self._data)
        self._header, self._data = None, bytearray()
        if header.crc32 and zlib.crc32(plane) != header.crc32:
            raise ProtocolMismatch(
                f"plane {header.plane!r}: checksum {zlib.crc32(plane):08x}, its header says {header.crc32:08x}; "
                "it was damaged on the way, send it again"
            )
        return header.plane, plane
