from __future__ import annotations

import struct
import zlib

import pytest
import zstandard

from wire.codec.base import DamagedFrame
from wire.codec.frame import CHECKSUM_AT, Kind, build, envelope_bytes, squeeze, take_apart

RAW = bytes(1000)


def frame_of(stored: bytes, raw: int = len(RAW)) -> bytes:
    return build(Kind.TOPK_PUSH, 5, 3, [(raw, stored), (2, b"ab")])


def test_sections_come_back_squeezed_or_not() -> None:
    for stored in (RAW, squeeze(RAW)):
        content = take_apart(frame_of(stored), Kind.TOPK_PUSH, 3, [1000, 2])
        assert content.option == 5
        assert [bytes(section) for section in content.sections] == [RAW, b"ab"]
    assert len(squeeze(RAW)) < 30


def test_what_does_not_shrink_stays_as_it_is() -> None:
    assert squeeze(b"ab") == b"ab"
    assert squeeze(b"") == b""


def test_the_header_as_documented() -> None:
    frame = build(Kind.DENSE_PUSH, 0, 7, [(2, b"ab")])
    checksum = zlib.crc32(frame[:CHECKSUM_AT] + frame[CHECKSUM_AT + 4 :])
    assert frame == b"SPFR\0\1\0\1\7\0\0\0" + struct.pack("<I", checksum) + b"\2\0\0\0\2\0\0\0ab"
    assert envelope_bytes(1) == 24


@pytest.mark.parametrize(
    "kind, blocks, limits",
    [
        (Kind.DENSE_PUSH, 3, [1000, 2]),
        (Kind.TOPK_PUSH, 4, [1000, 2]),
        (Kind.TOPK_PUSH, 3, [999, 2]),
        (Kind.TOPK_PUSH, 3, [1000]),
        (Kind.TOPK_PUSH, 3, [1000, 2, 0]),
    ],
)
def test_another_kind_other_blocks_or_longer_sections_are_refused(
    kind: Kind, blocks: int, limits: list[int]
) -> None:
    with pytest.raises(DamagedFrame):
        take_apart(frame_of(squeeze(RAW)), kind, blocks, limits)


def without_size(raw: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=False).compress(raw)


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param(zstandard.compress(bytes(999)), id="shorter"),
        pytest.param(zstandard.compress(bytes(1 << 26)), id="bomb"),
        pytest.param(without_size(RAW), id="no size"),
        pytest.param(without_size(bytes(1 << 26)), id="bomb without size"),
        pytest.param(squeeze(RAW) + b"x", id="trailing bytes"),
        pytest.param(squeeze(RAW) + squeeze(RAW), id="two zstd frames"),
        pytest.param(squeeze(RAW)[:-1], id="cut"),
        pytest.param(b"(\xb5/\xfd", id="magic only"),
        pytest.param(b"no zstd", id="other bytes"),
        pytest.param(b"", id="empty"),
    ],
)
def test_zstd_that_is_not_exactly_the_section_is_refused(stored: bytes) -> None:
    with pytest.raises(DamagedFrame):
        take_apart(frame_of(stored), Kind.TOPK_PUSH, 3, [1000, 2])


def test_stored_longer_than_raw_is_refused() -> None:
    with pytest.raises(DamagedFrame):
        take_apart(frame_of(RAW, raw=999), Kind.TOPK_PUSH, 3, [1000, 2])
