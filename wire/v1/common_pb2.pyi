from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Unit(_message.Message):
    __slots__ = ("timeline", "step", "stream")
    TIMELINE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    timeline: int
    step: int
    stream: int
    def __init__(self, timeline: _Optional[int] = ..., step: _Optional[int] = ..., stream: _Optional[int] = ...) -> None: ...

class Term(_message.Message):
    __slots__ = ("number", "nonce", "journal_seq")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    JOURNAL_SEQ_FIELD_NUMBER: _ClassVar[int]
    number: int
    nonce: bytes
    journal_seq: int
    def __init__(self, number: _Optional[int] = ..., nonce: _Optional[bytes] = ..., journal_seq: _Optional[int] = ...) -> None: ...

class BlockRange(_message.Message):
    __slots__ = ("start", "stop")
    START_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    start: int
    stop: int
    def __init__(self, start: _Optional[int] = ..., stop: _Optional[int] = ...) -> None: ...

class Parameter(_message.Message):
    __slots__ = ("name", "shape", "dtype", "group")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    name: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    dtype: str
    group: int
    def __init__(self, name: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., dtype: _Optional[str] = ..., group: _Optional[int] = ...) -> None: ...

class OptimizerSpec(_message.Message):
    __slots__ = ("kind", "groups")
    KIND_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    kind: str
    groups: _containers.RepeatedCompositeFieldContainer[OptimizerGroup]
    def __init__(self, kind: _Optional[str] = ..., groups: _Optional[_Iterable[_Union[OptimizerGroup, _Mapping]]] = ...) -> None: ...

class OptimizerGroup(_message.Message):
    __slots__ = ("options",)
    class OptionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    options: _containers.ScalarMap[str, float]
    def __init__(self, options: _Optional[_Mapping[str, float]] = ...) -> None: ...

class ShardPlacement(_message.Message):
    __slots__ = ("shard", "address", "incarnation", "ranges", "term")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    RANGES_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    shard: int
    address: str
    incarnation: int
    ranges: _containers.RepeatedCompositeFieldContainer[BlockRange]
    term: int
    def __init__(self, shard: _Optional[int] = ..., address: _Optional[str] = ..., incarnation: _Optional[int] = ..., ranges: _Optional[_Iterable[_Union[BlockRange, _Mapping]]] = ..., term: _Optional[int] = ...) -> None: ...

class PlaneChunk(_message.Message):
    __slots__ = ("header", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: PlaneHeader
    data: bytes
    def __init__(self, header: _Optional[_Union[PlaneHeader, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class PlaneHeader(_message.Message):
    __slots__ = ("plane", "bytes", "crc32")
    PLANE_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    CRC32_FIELD_NUMBER: _ClassVar[int]
    plane: str
    bytes: int
    crc32: int
    def __init__(self, plane: _Optional[str] = ..., bytes: _Optional[int] = ..., crc32: _Optional[int] = ...) -> None: ...
