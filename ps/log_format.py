"""The bytes of a shard's log, version 1. All numbers little-endian.

Header of a file, 24 bytes:
    offset  size  field
    0       4     magic "SPLF"
    4       1     version, 1
    5       3     zero
    8       8     position of its first record
    16      8     XXH3-64 of bytes 0..15

Record, 40 bytes and its payload:
    0       4     magic "SPLR"
    4       1     kind: 1 record, 2 mark
    5       3     zero
    8       8     length of the payload; 0 of a mark
    16      8     position; of a mark: of the record before it
    24      8     durable: every record up to this position was at the level when this was written
    32      8     XXH3-64 of bytes 0..31 and the payload, its seed the record's offset in the file

The seed makes a record valid at its own place only: neither stale bytes nor a payload that quotes a log are taken
for records. docs/log.md says how files follow each other, and has a worked example.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from typing import NamedTuple

import xxhash

Buffer = bytes | bytearray | memoryview

FILE_MAGIC = b"SPLF"
MAGIC = b"SPLR"
VERSION = 1
FILE_HEADER = struct.Struct("<4sB3xQQ")
HEADER = struct.Struct("<4sB3xQQQQ")
FILE_CHECKSUM_AT = 16
CHECKSUM_AT = 32


class Kind(enum.IntEnum):
    """What a header stands before."""

    RECORD = 1
    MARK = 2


class Header(NamedTuple):
    """What the header of a record or a mark says."""

    kind: int
    length: int
    position: int
    durable: int
    checksum: int


def build_file_header(first: int) -> bytes:
    """The header of a file that begins with the record at position `first`."""
    bare = FILE_HEADER.pack(FILE_MAGIC, VERSION, first, 0)[:FILE_CHECKSUM_AT]
    return bare + xxhash.xxh3_64_intdigest(bare).to_bytes(8, "little")


def why_no_file_header(data: bytes, first: int) -> str:
    """What is wrong with `data` as the header of the file of that name, or nothing."""
    if len(data) < FILE_HEADER.size:
        return f"{len(data)} bytes, expected a header of {FILE_HEADER.size}"
    magic, version, found, checksum = FILE_HEADER.unpack(data)
    if checksum != xxhash.xxh3_64_intdigest(data[:FILE_CHECKSUM_AT]):
        return "a header whose checksum does not match"
    if (magic, version) != (FILE_MAGIC, VERSION):
        return f"format {magic!r} version {version}, expected {FILE_MAGIC!r} version {VERSION}"
    return "" if found == first else f"first position {found}, expected {first} by its name"


def build_header(
    kind: Kind, position: int, durable: int, pieces: Sequence[memoryview], *, offset: int
) -> bytes:
    """The header that stands at `offset` of its file, before `pieces`."""
    length = sum(piece.nbytes for piece in pieces)
    bare = HEADER.pack(MAGIC, kind, length, position, durable, 0)[:CHECKSUM_AT]
    checksum = xxhash.xxh3_64(bare, seed=offset)
    for piece in pieces:
        checksum.update(piece)
    return bare + checksum.intdigest().to_bytes(8, "little")


def read_header(data: bytes, *, room: int) -> Header | None:
    """What `data` says, if it can be a header with `room` bytes behind it; the checksum is not looked at."""
    if len(data) < HEADER.size or not data.startswith(MAGIC):
        return None
    header = Header(*HEADER.unpack(data)[1:])
    empty = header.kind == Kind.MARK and header.length == 0
    return header if empty or (header.kind == Kind.RECORD and header.length <= room) else None


def matches(data: bytes, payload: bytes, header: Header, *, offset: int) -> bool:
    """Whether the checksum is that of this header (`data`) and payload at this place."""
    checksum = xxhash.xxh3_64(data[:CHECKSUM_AT], seed=offset)
    checksum.update(payload)
    return checksum.intdigest() == header.checksum
