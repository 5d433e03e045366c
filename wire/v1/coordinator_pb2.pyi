from wire.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class JoinRequest(_message.Message):
    __slots__ = ("protocol_version", "role", "name", "address", "fingerprint", "pid", "host", "run", "timeline", "incarnation")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    TIMELINE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    role: str
    name: str
    address: str
    fingerprint: str
    pid: int
    host: str
    run: str
    timeline: int
    incarnation: int
    def __init__(self, protocol_version: _Optional[int] = ..., role: _Optional[str] = ..., name: _Optional[str] = ..., address: _Optional[str] = ..., fingerprint: _Optional[str] = ..., pid: _Optional[int] = ..., host: _Optional[str] = ..., run: _Optional[str] = ..., timeline: _Optional[int] = ..., incarnation: _Optional[int] = ...) -> None: ...

class JoinReply(_message.Message):
    __slots__ = ("protocol_version", "run", "timeline", "incarnation", "config_json", "out", "origin")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    TIMELINE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    OUT_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    run: str
    timeline: int
    incarnation: int
    config_json: str
    out: str
    origin: int
    def __init__(self, protocol_version: _Optional[int] = ..., run: _Optional[str] = ..., timeline: _Optional[int] = ..., incarnation: _Optional[int] = ..., config_json: _Optional[str] = ..., out: _Optional[str] = ..., origin: _Optional[int] = ...) -> None: ...

class DeclareRequest(_message.Message):
    __slots__ = ("incarnation", "parameters", "optimizer")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    parameters: _containers.RepeatedCompositeFieldContainer[_common_pb2.Parameter]
    optimizer: _common_pb2.OptimizerSpec
    def __init__(self, incarnation: _Optional[int] = ..., parameters: _Optional[_Iterable[_Union[_common_pb2.Parameter, _Mapping]]] = ..., optimizer: _Optional[_Union[_common_pb2.OptimizerSpec, _Mapping]] = ...) -> None: ...

class DeclareReply(_message.Message):
    __slots__ = ("placement", "plan", "upload")
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_FIELD_NUMBER: _ClassVar[int]
    placement: _containers.RepeatedCompositeFieldContainer[_common_pb2.ShardPlacement]
    plan: int
    upload: bool
    def __init__(self, placement: _Optional[_Iterable[_Union[_common_pb2.ShardPlacement, _Mapping]]] = ..., plan: _Optional[int] = ..., upload: _Optional[bool] = ...) -> None: ...

class Beat(_message.Message):
    __slots__ = ("incarnation", "count")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    count: int
    def __init__(self, incarnation: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class HeartbeatEnd(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WorkerReport(_message.Message):
    __slots__ = ("attending", "uploaded", "ready", "progress", "deposited", "evaluated", "scalars", "failed", "leaving", "announce", "holding", "flushed", "handed_over", "moving")
    ATTENDING_FIELD_NUMBER: _ClassVar[int]
    UPLOADED_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    DEPOSITED_FIELD_NUMBER: _ClassVar[int]
    EVALUATED_FIELD_NUMBER: _ClassVar[int]
    SCALARS_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    ANNOUNCE_FIELD_NUMBER: _ClassVar[int]
    HOLDING_FIELD_NUMBER: _ClassVar[int]
    FLUSHED_FIELD_NUMBER: _ClassVar[int]
    HANDED_OVER_FIELD_NUMBER: _ClassVar[int]
    MOVING_FIELD_NUMBER: _ClassVar[int]
    attending: Attending
    uploaded: Uploaded
    ready: Ready
    progress: Progress
    deposited: Deposited
    evaluated: Evaluated
    scalars: Scalars
    failed: Failed
    leaving: Leaving
    announce: Announce
    holding: Holding
    flushed: Flushed
    handed_over: HandedOver
    moving: Moving
    def __init__(self, attending: _Optional[_Union[Attending, _Mapping]] = ..., uploaded: _Optional[_Union[Uploaded, _Mapping]] = ..., ready: _Optional[_Union[Ready, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., deposited: _Optional[_Union[Deposited, _Mapping]] = ..., evaluated: _Optional[_Union[Evaluated, _Mapping]] = ..., scalars: _Optional[_Union[Scalars, _Mapping]] = ..., failed: _Optional[_Union[Failed, _Mapping]] = ..., leaving: _Optional[_Union[Leaving, _Mapping]] = ..., announce: _Optional[_Union[Announce, _Mapping]] = ..., holding: _Optional[_Union[Holding, _Mapping]] = ..., flushed: _Optional[_Union[Flushed, _Mapping]] = ..., handed_over: _Optional[_Union[HandedOver, _Mapping]] = ..., moving: _Optional[_Union[Moving, _Mapping]] = ...) -> None: ...

class Attending(_message.Message):
    __slots__ = ("incarnation",)
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    def __init__(self, incarnation: _Optional[int] = ...) -> None: ...

class Uploaded(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Ready(_message.Message):
    __slots__ = ("samples", "data_digest", "batch_size", "accumulate", "evaluate_every", "evaluates", "keeps")
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    DATA_DIGEST_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    ACCUMULATE_FIELD_NUMBER: _ClassVar[int]
    EVALUATE_EVERY_FIELD_NUMBER: _ClassVar[int]
    EVALUATES_FIELD_NUMBER: _ClassVar[int]
    KEEPS_FIELD_NUMBER: _ClassVar[int]
    samples: int
    data_digest: str
    batch_size: int
    accumulate: int
    evaluate_every: int
    evaluates: bool
    keeps: bool
    def __init__(self, samples: _Optional[int] = ..., data_digest: _Optional[str] = ..., batch_size: _Optional[int] = ..., accumulate: _Optional[int] = ..., evaluate_every: _Optional[int] = ..., evaluates: _Optional[bool] = ..., keeps: _Optional[bool] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("version", "units", "compute_s", "wait_s", "bytes_pushed", "bytes_pulled", "bytes_state", "pulls", "unit_s", "replayed", "residual_norm", "dropped_norm")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_S_FIELD_NUMBER: _ClassVar[int]
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    BYTES_PUSHED_FIELD_NUMBER: _ClassVar[int]
    BYTES_PULLED_FIELD_NUMBER: _ClassVar[int]
    BYTES_STATE_FIELD_NUMBER: _ClassVar[int]
    PULLS_FIELD_NUMBER: _ClassVar[int]
    UNIT_S_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    RESIDUAL_NORM_FIELD_NUMBER: _ClassVar[int]
    DROPPED_NORM_FIELD_NUMBER: _ClassVar[int]
    version: int
    units: int
    compute_s: float
    wait_s: float
    bytes_pushed: int
    bytes_pulled: int
    bytes_state: int
    pulls: int
    unit_s: float
    replayed: int
    residual_norm: float
    dropped_norm: float
    def __init__(self, version: _Optional[int] = ..., units: _Optional[int] = ..., compute_s: _Optional[float] = ..., wait_s: _Optional[float] = ..., bytes_pushed: _Optional[int] = ..., bytes_pulled: _Optional[int] = ..., bytes_state: _Optional[int] = ..., pulls: _Optional[int] = ..., unit_s: _Optional[float] = ..., replayed: _Optional[int] = ..., residual_norm: _Optional[float] = ..., dropped_norm: _Optional[float] = ...) -> None: ...

class Moving(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Deposited(_message.Message):
    __slots__ = ("stream", "step", "released", "attempt")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    RELEASED_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    stream: int
    step: int
    released: bool
    attempt: int
    def __init__(self, stream: _Optional[int] = ..., step: _Optional[int] = ..., released: _Optional[bool] = ..., attempt: _Optional[int] = ...) -> None: ...

class HandedOver(_message.Message):
    __slots__ = ("step",)
    STEP_FIELD_NUMBER: _ClassVar[int]
    step: int
    def __init__(self, step: _Optional[int] = ...) -> None: ...

class Evaluated(_message.Message):
    __slots__ = ("step", "model", "loss", "seconds")
    STEP_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    step: int
    model: str
    loss: float
    seconds: float
    def __init__(self, step: _Optional[int] = ..., model: _Optional[str] = ..., loss: _Optional[float] = ..., seconds: _Optional[float] = ...) -> None: ...

class Scalars(_message.Message):
    __slots__ = ("step", "values")
    class ValuesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    STEP_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    step: int
    values: _containers.ScalarMap[str, float]
    def __init__(self, step: _Optional[int] = ..., values: _Optional[_Mapping[str, float]] = ...) -> None: ...

class Failed(_message.Message):
    __slots__ = ("error", "message")
    ERROR_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    error: str
    message: str
    def __init__(self, error: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class Holding(_message.Message):
    __slots__ = ("plan", "leases")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    plan: int
    leases: _containers.RepeatedCompositeFieldContainer[Held]
    def __init__(self, plan: _Optional[int] = ..., leases: _Optional[_Iterable[_Union[Held, _Mapping]]] = ...) -> None: ...

class Held(_message.Message):
    __slots__ = ("lease", "next")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    lease: int
    next: int
    def __init__(self, lease: _Optional[int] = ..., next: _Optional[int] = ...) -> None: ...

class Leaving(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Flushed(_message.Message):
    __slots__ = ("segment", "residual_norm")
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    RESIDUAL_NORM_FIELD_NUMBER: _ClassVar[int]
    segment: int
    residual_norm: float
    def __init__(self, segment: _Optional[int] = ..., residual_norm: _Optional[float] = ...) -> None: ...

class Announce(_message.Message):
    __slots__ = ("activity",)
    ACTIVITY_FIELD_NUMBER: _ClassVar[int]
    activity: str
    def __init__(self, activity: _Optional[str] = ...) -> None: ...

class WorkerOrder(_message.Message):
    __slots__ = ("plan", "end", "redirect")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    REDIRECT_FIELD_NUMBER: _ClassVar[int]
    plan: Plan
    end: End
    redirect: Redirect
    def __init__(self, plan: _Optional[_Union[Plan, _Mapping]] = ..., end: _Optional[_Union[End, _Mapping]] = ..., redirect: _Optional[_Union[Redirect, _Mapping]] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("number", "assignments", "total_steps", "segment", "begins", "elastic", "leases", "ahead", "first", "lag", "drained", "leave", "hand_over", "inherits", "handed")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENTS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_STEPS_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    BEGINS_FIELD_NUMBER: _ClassVar[int]
    ELASTIC_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    AHEAD_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAG_FIELD_NUMBER: _ClassVar[int]
    DRAINED_FIELD_NUMBER: _ClassVar[int]
    LEAVE_FIELD_NUMBER: _ClassVar[int]
    HAND_OVER_FIELD_NUMBER: _ClassVar[int]
    INHERITS_FIELD_NUMBER: _ClassVar[int]
    HANDED_FIELD_NUMBER: _ClassVar[int]
    number: int
    assignments: _containers.RepeatedCompositeFieldContainer[Assignment]
    total_steps: int
    segment: int
    begins: int
    elastic: bool
    leases: _containers.RepeatedCompositeFieldContainer[Lease]
    ahead: int
    first: bool
    lag: int
    drained: _containers.RepeatedScalarFieldContainer[int]
    leave: bool
    hand_over: int
    inherits: _containers.RepeatedScalarFieldContainer[int]
    handed: int
    def __init__(self, number: _Optional[int] = ..., assignments: _Optional[_Iterable[_Union[Assignment, _Mapping]]] = ..., total_steps: _Optional[int] = ..., segment: _Optional[int] = ..., begins: _Optional[int] = ..., elastic: _Optional[bool] = ..., leases: _Optional[_Iterable[_Union[Lease, _Mapping]]] = ..., ahead: _Optional[int] = ..., first: _Optional[bool] = ..., lag: _Optional[int] = ..., drained: _Optional[_Iterable[int]] = ..., leave: _Optional[bool] = ..., hand_over: _Optional[int] = ..., inherits: _Optional[_Iterable[int]] = ..., handed: _Optional[int] = ...) -> None: ...

class Lease(_message.Message):
    __slots__ = ("number", "start", "stop", "stride", "partial")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    STRIDE_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_FIELD_NUMBER: _ClassVar[int]
    number: int
    start: int
    stop: int
    stride: int
    partial: _containers.RepeatedCompositeFieldContainer[PartialUnit]
    def __init__(self, number: _Optional[int] = ..., start: _Optional[int] = ..., stop: _Optional[int] = ..., stride: _Optional[int] = ..., partial: _Optional[_Iterable[_Union[PartialUnit, _Mapping]]] = ...) -> None: ...

class PartialUnit(_message.Message):
    __slots__ = ("number", "send_to")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    SEND_TO_FIELD_NUMBER: _ClassVar[int]
    number: int
    send_to: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, number: _Optional[int] = ..., send_to: _Optional[_Iterable[int]] = ...) -> None: ...

class Assignment(_message.Message):
    __slots__ = ("stream", "attempt", "step", "deposit_step", "has_deposit", "send_to", "release")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    DEPOSIT_STEP_FIELD_NUMBER: _ClassVar[int]
    HAS_DEPOSIT_FIELD_NUMBER: _ClassVar[int]
    SEND_TO_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    stream: int
    attempt: int
    step: int
    deposit_step: int
    has_deposit: bool
    send_to: _containers.RepeatedScalarFieldContainer[int]
    release: bool
    def __init__(self, stream: _Optional[int] = ..., attempt: _Optional[int] = ..., step: _Optional[int] = ..., deposit_step: _Optional[int] = ..., has_deposit: _Optional[bool] = ..., send_to: _Optional[_Iterable[int]] = ..., release: _Optional[bool] = ...) -> None: ...

class Redirect(_message.Message):
    __slots__ = ("shard", "address", "incarnation", "term")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    shard: int
    address: str
    incarnation: int
    term: int
    def __init__(self, shard: _Optional[int] = ..., address: _Optional[str] = ..., incarnation: _Optional[int] = ..., term: _Optional[int] = ...) -> None: ...

class End(_message.Message):
    __slots__ = ("reason", "error")
    REASON_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    reason: str
    error: str
    def __init__(self, reason: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("json",)
    JSON_FIELD_NUMBER: _ClassVar[int]
    json: str
    def __init__(self, json: _Optional[str] = ...) -> None: ...

class StopRequest(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class StopReply(_message.Message):
    __slots__ = ("at_step",)
    AT_STEP_FIELD_NUMBER: _ClassVar[int]
    at_step: int
    def __init__(self, at_step: _Optional[int] = ...) -> None: ...

class SetRequest(_message.Message):
    __slots__ = ("settings",)
    class SettingsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    settings: _containers.ScalarMap[str, str]
    def __init__(self, settings: _Optional[_Mapping[str, str]] = ...) -> None: ...

class SetReply(_message.Message):
    __slots__ = ("changed",)
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    changed: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, changed: _Optional[_Iterable[str]] = ...) -> None: ...

class CheckpointRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CheckpointReply(_message.Message):
    __slots__ = ("step", "path")
    STEP_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    step: int
    path: str
    def __init__(self, step: _Optional[int] = ..., path: _Optional[str] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DrainReply(_message.Message):
    __slots__ = ("incarnation",)
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    def __init__(self, incarnation: _Optional[int] = ...) -> None: ...

class DenyRequest(_message.Message):
    __slots__ = ("crl",)
    CRL_FIELD_NUMBER: _ClassVar[int]
    crl: bytes
    def __init__(self, crl: _Optional[bytes] = ...) -> None: ...

class DenyReply(_message.Message):
    __slots__ = ("newer", "certificates")
    NEWER_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATES_FIELD_NUMBER: _ClassVar[int]
    newer: bool
    certificates: int
    def __init__(self, newer: _Optional[bool] = ..., certificates: _Optional[int] = ...) -> None: ...
