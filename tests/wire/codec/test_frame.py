from __future__ import annotations

import struct

import pytest
import xxhash
import zstandard

from wire.codec.base import DamagedFrame
from wire.codec.frame import (
    Indices,
    Kind,
    Shape,
    build_header,
    build_part,
    read_header,
    read_part,
    squeeze,
)

RAW = bytes(1000)
SHAPE = Shape(first=3, blocks=7, selection=1, values=6)
LIMITS = [1000, 2, 0, 0, 5]


def part_of(stored: bytes | memoryview, raw: int = len(RAW)) -> bytes:
    return build_part(SHAPE, Indices.GAPS, [(raw, stored), (2, b"ab"), (0, b""), (0, b""), (0, b"")])


def opened(data: bytes, shape: Shape = SHAPE, limits: list[int] = LIMITS) -> tuple[Indices, list[bytes]]:
    content, rest = read_part(memoryview(data), shape, limits)
    indices, sections = content.open()
    assert not len(rest)
    return indices, [bytes(section) for section in sections]


def test_sections_come_back_squeezed_or_not() -> None:
    for stored in (RAW, squeeze(RAW)):
        assert opened(part_of(stored)) == (Indices.GAPS, [RAW, b"ab", b"", b"", b""])
    assert len(squeeze(RAW)) < 30


def test_what_does_not_shrink_stays_as_it_is() -> None:
    assert squeeze(b"ab") == b"ab"
    assert squeeze(b"") == b""


def test_the_header_as_documented() -> None:
    head = build_header(Kind.DELTA, parts=2, blocks=9)
    bare = b"SPFR\1\2\0\0\2\0\0\0\x09\0\0\0"
    assert head == bare + xxhash.xxh3_64_intdigest(bare).to_bytes(8, "little")
    assert bytes(read_header(memoryview(head + b"x"), Kind.DELTA, parts=2, blocks=9)) == b"x"


def test_a_part_as_documented() -> None:
    part = build_part(SHAPE, Indices.BITMAP, [(0, b""), (0, b""), (0, b""), (0, b""), (2, b"ab")])
    bare, table = b"\3\0\0\0\7\0\0\0\1\6\2\0", bytes(32) + b"\2\0\0\0\2\0\0\0"
    checksum = xxhash.xxh3_64_intdigest(bare + table + b"ab")
    assert part == bare + checksum.to_bytes(8, "little") + table + b"ab"


@pytest.mark.parametrize("kind, parts, blocks", [(Kind.PUSH, 2, 9), (Kind.DELTA, 1, 9), (Kind.DELTA, 2, 8)])
def test_a_header_of_another_frame_is_refused(kind: Kind, parts: int, blocks: int) -> None:
    head = build_header(Kind.DELTA, parts=2, blocks=9)
    with pytest.raises(DamagedFrame, match="expected"):
        read_header(memoryview(head), kind, parts=parts, blocks=blocks)


@pytest.mark.parametrize("at", range(24))
def test_each_changed_byte_of_a_header_is_refused(at: int) -> None:
    head = bytearray(build_header(Kind.PUSH, parts=2, blocks=9))
    head[at] ^= 1
    with pytest.raises(DamagedFrame):
        read_header(memoryview(bytes(head)), Kind.PUSH, parts=2, blocks=9)


@pytest.mark.parametrize(
    "shape",
    [
        SHAPE._replace(first=4),
        SHAPE._replace(blocks=6),
        SHAPE._replace(selection=0),
        SHAPE._replace(values=5),
    ],
)
def test_a_part_of_another_shape_is_refused(shape: Shape) -> None:
    with pytest.raises(DamagedFrame, match="configuration"):
        opened(part_of(RAW), shape)


@pytest.mark.parametrize("limits", [[999, 2, 0, 0, 5], [1000, 1, 0, 0, 5]])
def test_longer_sections_than_can_be_are_refused(limits: list[int]) -> None:
    with pytest.raises(DamagedFrame, match="at most"):
        opened(part_of(squeeze(RAW)), limits=limits)


def test_each_changed_byte_of_a_part_is_refused() -> None:
    part = part_of(squeeze(RAW))
    for at in range(len(part)):
        changed = bytearray(part)
        changed[at] ^= 1 << (at % 8)
        with pytest.raises(DamagedFrame):
            opened(bytes(changed))


def test_a_cut_part_is_refused() -> None:
    part = part_of(squeeze(RAW))
    for end in range(len(part)):
        with pytest.raises(DamagedFrame):
            opened(part[:end])


def without_size(raw: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=False).compress(raw)


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param(zstandard.compress(bytes(999)), id="shorter"),
        pytest.param(zstandard.compress(bytes(1 << 24)), id="bomb"),
        pytest.param(without_size(RAW), id="no size"),
        pytest.param(without_size(bytes(1 << 24)), id="bomb without size"),
        pytest.param(bytes(squeeze(RAW)) + b"x", id="trailing bytes"),
        pytest.param(bytes(squeeze(RAW)) * 2, id="two zstd frames"),
        pytest.param(bytes(squeeze(RAW))[:-1], id="cut"),
        pytest.param(b"(\xb5/\xfd", id="magic only"),
        pytest.param(b"no zstd", id="other bytes"),
        pytest.param(b"", id="empty"),
    ],
)
def test_zstd_that_is_not_exactly_the_section_is_refused(stored: bytes) -> None:
    with pytest.raises(DamagedFrame):
        opened(part_of(stored))


def test_stored_longer_than_raw_is_refused() -> None:
    with pytest.raises(DamagedFrame):
        opened(part_of(RAW, raw=999))


def test_unknown_indices_and_bytes_that_must_be_zero_are_refused() -> None:
    for at, value in ((10, 3), (11, 1)):
        part = bytearray(part_of(RAW))
        part[at] = value
        sealed = xxhash.xxh3_64_intdigest(bytes(part[:12]) + bytes(part[20:]))
        struct.pack_into("<Q", part, 12, sealed)
        with pytest.raises(DamagedFrame):
            opened(bytes(part))
