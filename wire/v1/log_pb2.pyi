from wire.v1 import shard_pb2 as _shard_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LogRecord(_message.Message):
    __slots__ = ("push", "fence", "close", "segment", "retire", "publish", "advance", "deposit", "mark", "bound")
    PUSH_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    RETIRE_FIELD_NUMBER: _ClassVar[int]
    PUBLISH_FIELD_NUMBER: _ClassVar[int]
    ADVANCE_FIELD_NUMBER: _ClassVar[int]
    DEPOSIT_FIELD_NUMBER: _ClassVar[int]
    MARK_FIELD_NUMBER: _ClassVar[int]
    BOUND_FIELD_NUMBER: _ClassVar[int]
    push: LoggedPush
    fence: _shard_pb2.Fence
    close: _shard_pb2.Close
    segment: _shard_pb2.Segment
    retire: _shard_pb2.Retire
    publish: LoggedPublish
    advance: _shard_pb2.Advance
    deposit: LoggedDeposit
    mark: LoggedMark
    bound: _shard_pb2.Bound
    def __init__(self, push: _Optional[_Union[LoggedPush, _Mapping]] = ..., fence: _Optional[_Union[_shard_pb2.Fence, _Mapping]] = ..., close: _Optional[_Union[_shard_pb2.Close, _Mapping]] = ..., segment: _Optional[_Union[_shard_pb2.Segment, _Mapping]] = ..., retire: _Optional[_Union[_shard_pb2.Retire, _Mapping]] = ..., publish: _Optional[_Union[LoggedPublish, _Mapping]] = ..., advance: _Optional[_Union[_shard_pb2.Advance, _Mapping]] = ..., deposit: _Optional[_Union[LoggedDeposit, _Mapping]] = ..., mark: _Optional[_Union[LoggedMark, _Mapping]] = ..., bound: _Optional[_Union[_shard_pb2.Bound, _Mapping]] = ...) -> None: ...

class LoggedPush(_message.Message):
    __slots__ = ("header", "commit", "frame_bytes")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    FRAME_BYTES_FIELD_NUMBER: _ClassVar[int]
    header: _shard_pb2.PushHeader
    commit: _shard_pb2.Commit
    frame_bytes: int
    def __init__(self, header: _Optional[_Union[_shard_pb2.PushHeader, _Mapping]] = ..., commit: _Optional[_Union[_shard_pb2.Commit, _Mapping]] = ..., frame_bytes: _Optional[int] = ...) -> None: ...

class LoggedPublish(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class LoggedDeposit(_message.Message):
    __slots__ = ("stream", "step", "attempt", "planes", "plane_bytes")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    PLANES_FIELD_NUMBER: _ClassVar[int]
    PLANE_BYTES_FIELD_NUMBER: _ClassVar[int]
    stream: int
    step: int
    attempt: int
    planes: _containers.RepeatedScalarFieldContainer[str]
    plane_bytes: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, stream: _Optional[int] = ..., step: _Optional[int] = ..., attempt: _Optional[int] = ..., planes: _Optional[_Iterable[str]] = ..., plane_bytes: _Optional[_Iterable[int]] = ...) -> None: ...

class LoggedMark(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
