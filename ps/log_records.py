"""Records of a shard's log as bytes, and back: what is written to disk and sent to a standby.

A payload is a little-endian uint32, a `LogRecord` message of so many bytes, and after it what would only be copied
inside of a message: the frame of a push, the planes of a deposit. Its framing on disk is ps/log.py's.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.message import DecodeError

from ps.messages import pushed, segment_from_proto
from ps.records import (
    Accept,
    Advance,
    Bound,
    Close,
    Deposit,
    Fence,
    Flush,
    Mark,
    Publish,
    Record,
    Retire,
    Segment,
)
from wire.codec.base import Buffer, buffers_of, frame_bytes
from wire.errors import DamagedFile
from wire.messages import commit_to_proto, unit_to_proto
from wire.v1 import log_pb2, shard_pb2

_LENGTH = struct.Struct("<I")


def encode(record: Record, *, timeline: int) -> list[Buffer]:
    """The payload of a record, in pieces that are not put together. `timeline`: of the shard."""
    message, raw = _ENCODERS[type(record)](record, timeline)
    text = message.SerializeToString()
    return [_LENGTH.pack(len(text)) + text, *raw]


def decode(payload: bytes) -> Record:
    """The record of a payload. Raises: DamagedFile where it is none that this build writes."""
    try:
        (length,) = _LENGTH.unpack_from(payload)
        if _LENGTH.size + length > len(payload):
            raise ValueError(f"a message of {length} bytes, {len(payload) - _LENGTH.size} are here")
        message = log_pb2.LogRecord.FromString(payload[_LENGTH.size : _LENGTH.size + length])
        raw = payload[_LENGTH.size + length :]
        return _DECODERS[message.WhichOneof("record") or ""](message, raw)
    except (struct.error, DecodeError, KeyError, ValueError) as error:
        raise DamagedFile(
            f"a record of {len(payload)} bytes is none that this build knows ({error!r}): its checksum holds, so "
            "another version of Sparsync wrote it; start that version here"
        ) from None


Encoded = tuple[log_pb2.LogRecord, Sequence[Buffer]]


def _accept(record: Accept, timeline: int) -> Encoded:
    header = shard_pb2.PushHeader(
        unit=unit_to_proto(record.unit),
        attempt=record.attempt,
        incarnation=record.incarnation,
        base_version=record.base_version,
    )
    push = log_pb2.LoggedPush(
        header=header, commit=commit_to_proto(record.commit), frame_bytes=frame_bytes(record.frame)
    )
    return log_pb2.LogRecord(push=push), buffers_of(record.frame)


def _flush(record: Flush, timeline: int) -> Encoded:
    flush = shard_pb2.Flush(timeline=timeline, segment=record.segment)
    push = log_pb2.LoggedPush(
        header=shard_pb2.PushHeader(flush=flush, incarnation=record.incarnation),
        commit=shard_pb2.Commit(learning_rates=record.learning_rates),
        frame_bytes=frame_bytes(record.frame),
    )
    return log_pb2.LogRecord(push=push), buffers_of(record.frame)


def _fence(record: Fence, timeline: int) -> Encoded:
    fence = shard_pb2.Fence(step=record.step, stream=record.stream, attempt=record.attempt)
    return log_pb2.LogRecord(fence=fence), ()


def _close(record: Close, timeline: int) -> Encoded:
    close = shard_pb2.Close(
        step=record.step,
        streams=record.streams,
        deposit=record.deposit,
        final=record.final,
        retain_from=record.retain_from,
        late=record.late,
        pause=record.pause,
        drain=record.drain,
        bound=record.bound,
    )
    return log_pb2.LogRecord(close=close), ()


def _segment(record: Segment, timeline: int) -> Encoded:
    segment = shard_pb2.Segment(
        number=record.number,
        step=record.step,
        elastic=record.elastic,
        arrival=record.arrival,
        lag=record.lag,
        owed=record.owed,
    )
    return log_pb2.LogRecord(segment=segment), ()


def _deposit(record: Deposit, timeline: int) -> Encoded:
    deposit = log_pb2.LoggedDeposit(
        stream=record.stream,
        step=record.step,
        attempt=record.attempt,
        planes=list(record.planes),
        plane_bytes=[len(data) for data in record.planes.values()],
    )
    return log_pb2.LogRecord(deposit=deposit), list(record.planes.values())


_ENCODERS: dict[type, Callable[[Any, int], Encoded]] = {
    Accept: _accept,
    Flush: _flush,
    Fence: _fence,
    Close: _close,
    Segment: _segment,
    Deposit: _deposit,
    Retire: lambda r, _: (log_pb2.LogRecord(retire=shard_pb2.Retire(incarnation=r.incarnation)), ()),
    Publish: lambda r, _: (log_pb2.LogRecord(publish=log_pb2.LoggedPublish(reason=r.reason)), ()),
    Advance: lambda r, _: (log_pb2.LogRecord(advance=shard_pb2.Advance(low=r.low)), ()),
    Bound: lambda r, _: (log_pb2.LogRecord(bound=shard_pb2.Bound(norm=r.norm)), ()),
    Mark: lambda r, _: (log_pb2.LogRecord(mark=log_pb2.LoggedMark()), ()),
}


def _decode_push(message: log_pb2.LogRecord, raw: bytes) -> Record:
    push = message.push
    if push.header.WhichOneof("what") is None:
        raise ValueError("a push of nothing")
    if push.frame_bytes != len(raw):
        raise ValueError(f"a frame of {push.frame_bytes} bytes, {len(raw)} are here")
    return pushed(push.header, raw, push.commit)


def close_from_proto(message: shard_pb2.Close) -> Close:
    return Close(
        message.step,
        tuple(message.streams),
        message.deposit,
        message.final,
        message.retain_from,
        late=tuple(message.late),
        pause=message.pause,
        drain=message.drain,
        bound=message.bound,
    )


def _decode_deposit(message: log_pb2.LogRecord, raw: bytes) -> Record:
    deposit, view, planes, at = message.deposit, memoryview(raw), dict[str, Buffer](), 0
    for name, size in zip(deposit.planes, deposit.plane_bytes, strict=True):
        planes[name] = view[at : at + size]
        at += size
    if at != len(raw):
        raise ValueError(f"planes of {at} bytes, {len(raw)} are here")
    return Deposit(deposit.stream, deposit.step, deposit.attempt, planes)


def _alone(decode: Callable[[log_pb2.LogRecord], Record]) -> Callable[[log_pb2.LogRecord, bytes], Record]:
    """Of a record behind which nothing stands."""

    def whole(message: log_pb2.LogRecord, raw: bytes) -> Record:
        if raw:
            raise ValueError(f"{len(raw)} bytes behind a record that has none there")
        return decode(message)

    return whole


_DECODERS: dict[str, Callable[[log_pb2.LogRecord, bytes], Record]] = {
    "push": _decode_push,
    "fence": _alone(lambda m: Fence(m.fence.step, m.fence.stream, m.fence.attempt)),
    "close": _alone(lambda m: close_from_proto(m.close)),
    "segment": _alone(lambda m: segment_from_proto(m.segment)),
    "deposit": _decode_deposit,
    "retire": _alone(lambda m: Retire(m.retire.incarnation)),
    "publish": _alone(lambda m: Publish(m.publish.reason)),
    "advance": _alone(lambda m: Advance(m.advance.low)),
    "bound": _alone(lambda m: Bound(m.bound.norm)),
    "mark": _alone(lambda m: Mark()),
}
