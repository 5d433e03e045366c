"""The envelope of a frame, version 1: a header, then parts that stand on their own. All numbers little-endian.

Header, 24 bytes:
    offset  size  field
    0       4     magic "SPFR"
    4       1     version, 1
    5       1     kind: 1 push, 2 delta
    6       2     zero
    8       4     number of parts
    12      4     number of blocks of all parts
    16      8     XXH3-64 of bytes 0..15

Part, 60 bytes and its sections:
    0       4     first: position of its first block in the frame's order of blocks
    4       4     number of blocks
    8       1     selection: 0 whole blocks, 1 top-k
    9       1     values (`wire.codec.values`)
    10      1     indices: 0 none, 1 gaps, 2 bitmap
    11      1     zero
    12      8     XXH3-64 of all other bytes of the part
    20      40    table: raw length u32, stored length u32 of each of the five sections
    60      …     the sections; stored < raw: one zstd frame that carries its content size; else as it is

A reader knows the cut of a frame (`wire.codec.cut`) and the largest raw length of each section before it looks;
nothing is allocated on the word of the frame. docs/protocol.md has a worked example.
"""

from __future__ import annotations

import enum
import struct
import threading
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import xxhash
import zstandard

from wire.codec.base import DamagedFrame

MAGIC = b"SPFR"
VERSION = 1
HEADER = struct.Struct("<4sBBHIIQ")
PART = struct.Struct("<IIBBBBQ")
ENTRY = struct.Struct("<II")
SECTIONS = 5
HEADER_CHECKSUM_AT = 16
CHECKSUM_AT = 12
"""Of a part's checksum, in the part."""
TABLE_AT = PART.size
PART_HEADER_BYTES = PART.size + SECTIONS * ENTRY.size
MAX_WINDOW_BYTES = 1 << 23

Section = tuple[int, bytes | memoryview]
"""(raw length, stored bytes)."""


class Kind(enum.IntEnum):
    """What a frame is for."""

    PUSH = 1
    DELTA = 2


class Indices(enum.IntEnum):
    """How a part tells which elements it keeps."""

    NONE = 0
    GAPS = 1
    BITMAP = 2


class Shape(NamedTuple):
    """What the header of a part says."""

    first: int
    blocks: int
    selection: int
    values: int


class _Zstd(threading.local):
    """Both directions, of one thread: making them costs as much as a small section.

    Sections hold near-independent symbols. Long matches and a small table keep zstd from looking for more than
    their distribution: at density 1/4, 3.30 bits an index at 1 GB/s instead of 3.36 at 0.4 GB/s (floor 3.25).
    """

    def __init__(self) -> None:
        parameters = zstandard.ZstdCompressionParameters.from_level(1, min_match=7, hash_log=6)
        self.writer = zstandard.ZstdCompressor(compression_params=parameters)
        self.reader = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)


_zstd = _Zstd()


def squeeze(raw: bytes | memoryview) -> bytes | memoryview:
    """`raw`, or its zstd form where that is shorter."""
    small = _zstd.writer.compress(raw) if len(raw) else raw
    return small if len(small) < len(raw) else raw


def build_header(kind: Kind, *, parts: int, blocks: int) -> bytes:
    """The header of a frame."""
    bare = HEADER.pack(MAGIC, VERSION, kind, 0, parts, blocks, 0)[:HEADER_CHECKSUM_AT]
    return bare + xxhash.xxh3_64_intdigest(bare).to_bytes(8, "little")


def build_part(shape: Shape, indices: Indices, sections: Sequence[Section]) -> bytes:
    """One part from its sections; stored is raw itself or its shorter zstd form."""
    table = b"".join(ENTRY.pack(raw, len(stored)) for raw, stored in sections)
    bare = PART.pack(*shape, indices, 0, 0)[:CHECKSUM_AT]
    checksum = xxhash.xxh3_64(bare)
    checksum.update(table)
    for _, stored in sections:
        checksum.update(stored)
    seal = checksum.intdigest().to_bytes(8, "little")
    return b"".join([bare, seal, table, *(stored for _, stored in sections)])


def read_header(data: memoryview, kind: Kind, *, parts: int, blocks: int) -> memoryview:
    """What follows the header of a frame of that cut. Raises: DamagedFrame."""
    if len(data) < HEADER.size:
        raise DamagedFrame(f"{len(data)} bytes, expected a header of {HEADER.size}: fetch the frame again")
    magic, version, found_kind, zero, found_parts, found_blocks, checksum = HEADER.unpack_from(data)
    found = (magic, version, found_kind, zero, found_parts, found_blocks)
    expected = (MAGIC, VERSION, int(kind), 0, parts, blocks)
    if found != expected:
        raise DamagedFrame(
            f"(magic, version, kind, zero, parts, blocks) is {found}, expected {expected}: use one build and one "
            "configuration everywhere"
        )
    _check(checksum, xxhash.xxh3_64_intdigest(data[:HEADER_CHECKSUM_AT]))
    return data[HEADER.size :]


class Content(NamedTuple):
    """A part whose envelope is as it should be: its bytes, and where the sections end."""

    indices: Indices
    data: memoryview
    table: Sequence[tuple[int, int]]

    def open(self) -> tuple[Indices, list[memoryview]]:
        """The raw sections, once the checksum is found right. Raises: DamagedFrame."""
        checksum = xxhash.xxh3_64(self.data[:CHECKSUM_AT])
        checksum.update(self.data[TABLE_AT:])
        _check(int.from_bytes(self.data[CHECKSUM_AT:TABLE_AT], "little"), checksum.intdigest())
        ends = list(accumulate((stored for _, stored in self.table), initial=PART_HEADER_BYTES))
        pairs = zip(self.table, ends, ends[1:], strict=False)
        return self.indices, [_expand(self.data[a:b], raw) for (raw, _), a, b in pairs]


def read_part(data: memoryview, shape: Shape, raw_limits: Sequence[int]) -> tuple[Content, memoryview]:
    """The part of that shape that `data` begins with, unopened, and what follows it.

    raw_limits: largest raw length of each section. Raises: DamagedFrame.
    """
    if len(data) < PART_HEADER_BYTES:
        raise DamagedFrame(
            f"{len(data)} bytes, expected a part's header of {PART_HEADER_BYTES}: fetch the frame again"
        )
    *found, indices, zero, _ = PART.unpack_from(data)
    if Shape(*found) != shape or zero:
        raise DamagedFrame(
            f"a part with (first, blocks, selection, values) = {tuple(found)}, expected {tuple(shape)}: use one "
            "configuration everywhere"
        )
    if indices >= len(Indices):
        raise DamagedFrame(f"indices of kind {indices}, expected one of {[int(i) for i in Indices]}")
    table = list(ENTRY.iter_unpack(data[TABLE_AT:PART_HEADER_BYTES]))
    for number, ((raw, stored), limit) in enumerate(zip(table, raw_limits, strict=True)):
        if raw > limit or stored > raw:
            raise DamagedFrame(f"section {number}: {stored} bytes for {raw}, expected at most {limit}")
    end = PART_HEADER_BYTES + sum(stored for _, stored in table)
    if end > len(data):
        raise DamagedFrame(f"{len(data)} bytes, expected {end} by the table: fetch the frame again")
    return Content(Indices(indices), data[:end], table), data[end:]


def _check(told: int, found: int) -> None:
    if told != found:
        raise DamagedFrame(
            f"checksum {found:016x}, expected {told:016x}: the frame was altered, fetch it again"
        )


def _expand(stored: memoryview, raw: int) -> memoryview:
    """The raw section; memory is taken for `raw` bytes at most."""
    if len(stored) == raw:
        return stored
    try:
        told = zstandard.get_frame_parameters(stored).content_size
        if told != raw:
            raise DamagedFrame(f"a section of {raw} bytes whose zstd header tells {told}")
        out = _zstd.reader.decompress(stored, max_output_size=raw, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise DamagedFrame(f"a section that zstd cannot read ({error}): fetch the frame again") from None
    if len(out) != raw:
        raise DamagedFrame(f"a section of {len(out)} bytes, expected {raw}")
    return memoryview(out)
