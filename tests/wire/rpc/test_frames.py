"""Data messages written and read by hand are those of protobuf, to the byte; all else goes through protobuf."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from wire.rpc.frames import data_message, from_wire, to_wire
from wire.v1 import shard_pb2

read_push = from_wire(shard_pb2.PushChunk.FromString)
read_delta = from_wire(shard_pb2.DeltaChunk.FromString)


@pytest.mark.parametrize("size", [1, 127, 128, 16383, 16384, (1 << 20) + 60, (1 << 21) + 1])
def test_a_data_message_is_protobufs_own(size: int) -> None:
    data = bytes(size)
    assert (
        data_message((data[: size // 3], data[size // 3 :]))
        == shard_pb2.PushChunk(data=data).SerializeToString()
    )
    assert to_wire((data,)) == shard_pb2.DeltaChunk(data=data).SerializeToString()


@given(st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=5))
def test_data_comes_back_without_a_copy(pieces: list[bytes]) -> None:
    raw = to_wire(tuple(pieces))
    for read in (read_push, read_delta):
        data = read(raw)
        assert isinstance(data, memoryview) and data.obj is raw
        assert bytes(data) == b"".join(pieces)


def test_other_messages_go_through_protobuf() -> None:
    header = shard_pb2.PushChunk(header=shard_pb2.PushHeader(shard=3))
    assert read_push(to_wire(header)) == header
    commit = shard_pb2.PushChunk(commit=shard_pb2.Commit(samples=4))
    assert read_push(to_wire(commit)) == commit
    assert read_push(b"") == shard_pb2.PushChunk()


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"\x12\x05ab", id="cut"),
        pytest.param(b"\x12", id="tag alone"),
        pytest.param(b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", id="a length beyond 64 bits"),
        pytest.param(b"\x12\xff\xff\xff\xff\x7f" + bytes(20), id="a length of 32 GiB"),
    ],
)
def test_what_is_no_message_is_refused_as_ever(raw: bytes) -> None:
    with pytest.raises(DecodeError):
        read_push(raw)


def test_data_with_something_behind_it_is_read_by_protobuf() -> None:
    twice = (
        shard_pb2.PushChunk(data=b"ab").SerializeToString()
        + shard_pb2.PushChunk(data=b"cd").SerializeToString()
    )
    found = read_push(twice)
    assert isinstance(found, shard_pb2.PushChunk) and found.data == b"cd"
    long = b"\x12\x82\x00ab"  # a length in more bytes than it needs
    assert bytes(read_push(long)) == b"ab"  # type: ignore[arg-type]
