"""Push and Follow without the copies that generated code makes of each part of a frame.

On the wire nothing differs: `data` is field 2 of PushChunk and of DeltaChunk alike, so its protobuf encoding is a
tag, a length and the bytes. A sender writes these around its pieces in one copy; a receiver takes the bytes where gRPC
left them, as a memoryview. Whatever is not exactly that goes through protobuf as ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from wire.codec.base import Buffer, DamagedFrame
from wire.rpc.chunks import LEAST_BYTES, Data
from wire.v1 import shard_pb2, shard_pb2_grpc

M = TypeVar("M", bound=Message)
TAG = 0x12
"""Field 2, length-delimited."""
MOST_LENGTH_BYTES = 5


def data_message(data: Data) -> bytes:
    """A PushChunk or DeltaChunk with `data` of these pieces, as protobuf encodes it."""
    length = sum(map(len, data))
    prefix = bytearray([TAG])
    while length > 0x7F:
        prefix.append(0x80 | length & 0x7F)
        length >>= 7
    prefix.append(length)
    return b"".join([prefix, *data])


def to_wire(message: Message | Data) -> bytes:
    """What gRPC sends."""
    return data_message(message) if isinstance(message, tuple) else message.SerializeToString()


def from_wire(parse: Callable[[bytes], M]) -> Callable[[bytes], M | memoryview]:
    """What gRPC received: the data of a message that has nothing else, or a message as `parse` reads it."""

    def read(raw: bytes) -> M | memoryview:
        data = _payload(raw)
        return parse(raw) if data is None else data

    return read


def data_of(message: Any) -> Buffer | None:
    """The data of a message as received; None where it carries something else.

    Raises: DamagedFrame for less than any part has.
    """
    if not isinstance(message, memoryview):
        if not message.HasField("data"):
            return None
        message = message.data
    if len(message) < LEAST_BYTES:
        raise DamagedFrame(f"a message of {len(message)} bytes; expected whole parts of the frame")
    data: Buffer = message
    return data


def _payload(raw: bytes) -> memoryview | None:
    if len(raw) < 2 or raw[0] != TAG:
        return None
    length = 0
    for place, byte in enumerate(raw[1 : 1 + MOST_LENGTH_BYTES]):
        length |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            begin = 2 + place
            return memoryview(raw)[begin:] if len(raw) - begin == length else None
    return None


class FrameStub:
    """The two calls that carry frames, beside those of `ShardStub`.

    Attributes:
        Push: takes PushChunk messages, or `Data`.
        Follow: gives DeltaChunk messages, or their data.
    """

    def __init__(self, channel: Any) -> None:
        self.Push: Any = channel.stream_unary(
            "/sparsync.v1.Shard/Push",
            request_serializer=to_wire,
            response_deserializer=shard_pb2.PushReply.FromString,
        )
        self.Follow: Any = channel.unary_stream(
            "/sparsync.v1.Shard/Follow",
            request_serializer=shard_pb2.FollowRequest.SerializeToString,
            response_deserializer=from_wire(shard_pb2.DeltaChunk.FromString),
        )


def add_shard_service(servicer: shard_pb2_grpc.ShardServicer, server: grpc.aio.Server) -> None:
    """Have `server` serve a shard: its Push is given PushChunk messages or their data, its Follow may give `Data`."""
    shard_pb2_grpc.add_ShardServicer_to_server(servicer, _Registering(server))


class _Registering:
    """What generated code takes for the server: the handlers of the two calls are changed on their way to it."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """The same handlers as those registered by name, which come next."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        changed = handlers | {
            "Push": handlers["Push"]._replace(request_deserializer=from_wire(shard_pb2.PushChunk.FromString)),
            "Follow": handlers["Follow"]._replace(response_serializer=to_wire),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, changed),))
        self._server.add_registered_method_handlers(service, changed)
