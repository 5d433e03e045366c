"""Frames taken apart and put together again by the specification alone (docs/protocol.md), sealed as writers seal them.

Nothing of `wire.codec` is used here, so that tests can make what no writer makes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import xxhash
import zstandard

HEADER_BYTES, PART_BYTES, SECTIONS = 24, 60, 5
_SQUEEZE = zstandard.ZstdCompressor(level=1)
COUNTS, SCALES, INDICES, SIGNS, CODES = range(SECTIONS)


@dataclass
class RawPart:
    """A part: its first fields, and sections as they are stored, each with the raw length that the table tells."""

    first: int
    blocks: int
    selection: int
    values: int
    indices: int
    zero: int
    raw: list[int]
    stored: list[bytes]
    told: dict[int, int] = field(default_factory=dict)
    """Stored lengths that the table tells instead of the true ones."""

    @property
    def sections(self) -> list[bytes]:
        """The raw sections."""
        return [
            stored
            if len(stored) == raw
            else zstandard.ZstdDecompressor().decompress(stored, max_output_size=raw)
            for raw, stored in zip(self.raw, self.stored, strict=True)
        ]

    def put(self, section: int, data: bytes, *, squeezed: bool = False) -> None:
        """Another section, stored as it is, or through zstd where that is shorter."""
        small = _SQUEEZE.compress(data) if squeezed else data
        self.raw[section], self.stored[section] = len(data), small if len(small) < len(data) else data

    def pack(self) -> bytes:
        """The part, sealed."""
        head = struct.pack(
            "<IIBBBB", self.first, self.blocks, self.selection, self.values, self.indices, self.zero
        )
        lengths = [self.told.get(n, len(stored)) for n, stored in enumerate(self.stored)]
        table = b"".join(struct.pack("<II", *entry) for entry in zip(self.raw, lengths, strict=True))
        body = table + b"".join(self.stored)
        return head + struct.pack("<Q", xxhash.xxh3_64_intdigest(head + body)) + body


def split(frame: bytes) -> tuple[bytes, list[RawPart]]:
    """The first 16 bytes of a good frame, and its parts."""
    parts, at = [], HEADER_BYTES
    while at < len(frame):
        fields = struct.unpack_from("<IIBBBB", frame, at)
        table = list(struct.iter_unpack("<II", frame[at + 20 : at + PART_BYTES]))
        ends = list(accumulate((stored for _, stored in table), initial=at + PART_BYTES))
        stored = [frame[a:b] for a, b in pairwise(ends)]
        parts.append(RawPart(*fields, [raw for raw, _ in table], stored))
        at = ends[-1]
    return frame[:16], parts


def join(head: bytes, parts: list[RawPart] | list[bytes]) -> bytes:
    """A frame of that header and those parts, sealed."""
    packed = [part if isinstance(part, bytes) else part.pack() for part in parts]
    return b"".join([head, struct.pack("<Q", xxhash.xxh3_64_intdigest(head)), *packed])
