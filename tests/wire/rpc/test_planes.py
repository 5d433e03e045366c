"""Planes in chunks: what is sent arrives, and nothing that the receiver did not expect is kept."""

from __future__ import annotations

import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.errors import ProtocolMismatch
from wire.rpc.planes import CHUNK_BYTES, PIECE_BYTES, PlaneReader, plane_chunks
from wire.v1.common_pb2 import PlaneChunk, PlaneHeader


def header(name: str, size: int, crc32: int = 0) -> PlaneChunk:
    return PlaneChunk(header=PlaneHeader(plane=name, bytes=size, crc32=crc32))


def read_all(reader: PlaneReader, chunks: list[PlaneChunk]) -> list[tuple[str, bytes]]:
    planes = [plane for plane in map(reader.feed, chunks) if plane is not None]
    reader.finish()
    return planes


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES])
def test_a_plane_arrives(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    chunks = list(plane_chunks("x", data))
    assert len(chunks) == 1 + -(-size // PIECE_BYTES)
    assert all(chunk.ByteSize() <= PIECE_BYTES + 16 for chunk in chunks)
    assert read_all(PlaneReader({"x": size}.get), chunks) == [("x", data)]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.binary(max_size=50)), max_size=6))
def test_planes_arrive_one_after_the_other(planes: list[tuple[str, bytes]]) -> None:
    chunks = [chunk for name, data in planes for chunk in plane_chunks(name, data)]
    assert read_all(PlaneReader(lambda name: range(51)), chunks) == planes


def test_any_contiguous_buffer_can_be_sent() -> None:
    plane = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert read_all(PlaneReader({"x": 24}.get), list(plane_chunks("x", memoryview(plane)))) == [
        ("x", plane.tobytes())
    ]


def test_a_flipped_bit_is_noticed() -> None:
    chunks = list(plane_chunks("x", bytes(100)))
    chunks[1].data = b"\x01" + bytes(99)
    with pytest.raises(ProtocolMismatch, match="checksum"):
        read_all(PlaneReader({"x": 100}.get), chunks)


def test_no_checksum_means_no_check() -> None:
    assert read_all(PlaneReader({"x": 2}.get), [header("x", 2), PlaneChunk(data=b"ab")]) == [("x", b"ab")]


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([header("y", 4)], "'y' is not one of"),
        ([header("x", 5)], "announces 5 bytes; expected 4"),
        ([header("x", 1 << 60)], "expected 4"),
        ([header("blob", 11)], "expected 1 to 10"),
        ([header("blob", 0)], "expected 1 to 10"),
        ([PlaneChunk(data=b"a")], "without a header"),
        ([header("x", 4), PlaneChunk(data=b"abcde")], "5 bytes where its header announced 4"),
        ([header("x", 4), PlaneChunk(data=b"")], "a piece of 0 bytes"),
        ([header("x", 4), PlaneChunk(data=b"ab"), header("x", 4)], "ended after 2 of 4"),
        ([header("x", 4), PlaneChunk(data=b"ab")], "ended after 2 of 4"),
        ([header("x", 4, zlib.crc32(b"abcd")), PlaneChunk(data=b"abce")], "checksum"),
        ([PlaneChunk()], "empty plane message"),
    ],
)
def test_hostile_streams_are_refused(chunks: list[PlaneChunk], message: str) -> None:
    expected: dict[str, int | range] = {"x": 4, "blob": range(1, 11)}
    with pytest.raises(ProtocolMismatch, match=message):
        read_all(PlaneReader(expected.get), chunks)


def test_pieces_are_bounded() -> None:
    reader = PlaneReader({"x": 4 * CHUNK_BYTES}.get)
    reader.feed(header("x", 4 * CHUNK_BYTES))
    with pytest.raises(ProtocolMismatch, match="a piece of"):
        reader.feed(PlaneChunk(data=bytes(CHUNK_BYTES + 1)))


def test_small_pieces_take_no_more_memory_than_large_ones() -> None:
    size = 1 << 17
    reader, piece = PlaneReader({"x": size}.get), PlaneChunk(data=b"ab")
    reader.feed(header("x", size))
    tracemalloc.start()
    try:
        for _ in range(size // 2):
            reader.feed(piece)
        assert tracemalloc.get_traced_memory()[1] < 2.25 * size
    finally:
        tracemalloc.stop()
