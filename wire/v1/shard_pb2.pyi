from wire.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ShardCommand(_message.Message):
    __slots__ = ("term", "attach", "configure", "close", "fence", "finish", "segment", "retire", "advance", "stand", "promote", "alone", "dismiss", "bound", "meet", "deny")
    TERM_FIELD_NUMBER: _ClassVar[int]
    ATTACH_FIELD_NUMBER: _ClassVar[int]
    CONFIGURE_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    RETIRE_FIELD_NUMBER: _ClassVar[int]
    ADVANCE_FIELD_NUMBER: _ClassVar[int]
    STAND_FIELD_NUMBER: _ClassVar[int]
    PROMOTE_FIELD_NUMBER: _ClassVar[int]
    ALONE_FIELD_NUMBER: _ClassVar[int]
    DISMISS_FIELD_NUMBER: _ClassVar[int]
    BOUND_FIELD_NUMBER: _ClassVar[int]
    MEET_FIELD_NUMBER: _ClassVar[int]
    DENY_FIELD_NUMBER: _ClassVar[int]
    term: _common_pb2.Term
    attach: Attach
    configure: Configure
    close: Close
    fence: Fence
    finish: Finish
    segment: Segment
    retire: Retire
    advance: Advance
    stand: Stand
    promote: Promote
    alone: Alone
    dismiss: Dismiss
    bound: Bound
    meet: Meet
    deny: Deny
    def __init__(self, term: _Optional[_Union[_common_pb2.Term, _Mapping]] = ..., attach: _Optional[_Union[Attach, _Mapping]] = ..., configure: _Optional[_Union[Configure, _Mapping]] = ..., close: _Optional[_Union[Close, _Mapping]] = ..., fence: _Optional[_Union[Fence, _Mapping]] = ..., finish: _Optional[_Union[Finish, _Mapping]] = ..., segment: _Optional[_Union[Segment, _Mapping]] = ..., retire: _Optional[_Union[Retire, _Mapping]] = ..., advance: _Optional[_Union[Advance, _Mapping]] = ..., stand: _Optional[_Union[Stand, _Mapping]] = ..., promote: _Optional[_Union[Promote, _Mapping]] = ..., alone: _Optional[_Union[Alone, _Mapping]] = ..., dismiss: _Optional[_Union[Dismiss, _Mapping]] = ..., bound: _Optional[_Union[Bound, _Mapping]] = ..., meet: _Optional[_Union[Meet, _Mapping]] = ..., deny: _Optional[_Union[Deny, _Mapping]] = ...) -> None: ...

class Attach(_message.Message):
    __slots__ = ("run", "timeline", "low", "shard_term", "standby", "members")
    RUN_FIELD_NUMBER: _ClassVar[int]
    TIMELINE_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    SHARD_TERM_FIELD_NUMBER: _ClassVar[int]
    STANDBY_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    run: str
    timeline: int
    low: int
    shard_term: int
    standby: int
    members: Meet
    def __init__(self, run: _Optional[str] = ..., timeline: _Optional[int] = ..., low: _Optional[int] = ..., shard_term: _Optional[int] = ..., standby: _Optional[int] = ..., members: _Optional[_Union[Meet, _Mapping]] = ...) -> None: ...

class Meet(_message.Message):
    __slots__ = ("members", "uploader", "evaluator", "standby")
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    UPLOADER_FIELD_NUMBER: _ClassVar[int]
    EVALUATOR_FIELD_NUMBER: _ClassVar[int]
    STANDBY_FIELD_NUMBER: _ClassVar[int]
    members: _containers.RepeatedCompositeFieldContainer[Member]
    uploader: int
    evaluator: int
    standby: int
    def __init__(self, members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., uploader: _Optional[int] = ..., evaluator: _Optional[int] = ..., standby: _Optional[int] = ...) -> None: ...

class Member(_message.Message):
    __slots__ = ("incarnation", "role", "name")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    role: str
    name: str
    def __init__(self, incarnation: _Optional[int] = ..., role: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class Deny(_message.Message):
    __slots__ = ("crl",)
    CRL_FIELD_NUMBER: _ClassVar[int]
    crl: bytes
    def __init__(self, crl: _Optional[bytes] = ...) -> None: ...

class Configure(_message.Message):
    __slots__ = ("shard", "plan", "parameters", "ranges", "optimizer", "first_step", "segment")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    RANGES_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    FIRST_STEP_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    shard: int
    plan: int
    parameters: _containers.RepeatedCompositeFieldContainer[_common_pb2.Parameter]
    ranges: _containers.RepeatedCompositeFieldContainer[_common_pb2.BlockRange]
    optimizer: _common_pb2.OptimizerSpec
    first_step: int
    segment: Segment
    def __init__(self, shard: _Optional[int] = ..., plan: _Optional[int] = ..., parameters: _Optional[_Iterable[_Union[_common_pb2.Parameter, _Mapping]]] = ..., ranges: _Optional[_Iterable[_Union[_common_pb2.BlockRange, _Mapping]]] = ..., optimizer: _Optional[_Union[_common_pb2.OptimizerSpec, _Mapping]] = ..., first_step: _Optional[int] = ..., segment: _Optional[_Union[Segment, _Mapping]] = ...) -> None: ...

class Segment(_message.Message):
    __slots__ = ("number", "step", "elastic", "arrival", "lag", "owed")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ELASTIC_FIELD_NUMBER: _ClassVar[int]
    ARRIVAL_FIELD_NUMBER: _ClassVar[int]
    LAG_FIELD_NUMBER: _ClassVar[int]
    OWED_FIELD_NUMBER: _ClassVar[int]
    number: int
    step: int
    elastic: bool
    arrival: bool
    lag: int
    owed: int
    def __init__(self, number: _Optional[int] = ..., step: _Optional[int] = ..., elastic: _Optional[bool] = ..., arrival: _Optional[bool] = ..., lag: _Optional[int] = ..., owed: _Optional[int] = ...) -> None: ...

class Retire(_message.Message):
    __slots__ = ("incarnation",)
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    def __init__(self, incarnation: _Optional[int] = ...) -> None: ...

class Advance(_message.Message):
    __slots__ = ("low",)
    LOW_FIELD_NUMBER: _ClassVar[int]
    low: int
    def __init__(self, low: _Optional[int] = ...) -> None: ...

class Close(_message.Message):
    __slots__ = ("step", "streams", "deposit", "final", "retain_from", "late", "pause", "drain", "bound")
    STEP_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    DEPOSIT_FIELD_NUMBER: _ClassVar[int]
    FINAL_FIELD_NUMBER: _ClassVar[int]
    RETAIN_FROM_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    PAUSE_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    BOUND_FIELD_NUMBER: _ClassVar[int]
    step: int
    streams: _containers.RepeatedScalarFieldContainer[int]
    deposit: bool
    final: bool
    retain_from: int
    late: _containers.RepeatedScalarFieldContainer[int]
    pause: bool
    drain: bool
    bound: float
    def __init__(self, step: _Optional[int] = ..., streams: _Optional[_Iterable[int]] = ..., deposit: _Optional[bool] = ..., final: _Optional[bool] = ..., retain_from: _Optional[int] = ..., late: _Optional[_Iterable[int]] = ..., pause: _Optional[bool] = ..., drain: _Optional[bool] = ..., bound: _Optional[float] = ...) -> None: ...

class Bound(_message.Message):
    __slots__ = ("norm",)
    NORM_FIELD_NUMBER: _ClassVar[int]
    norm: float
    def __init__(self, norm: _Optional[float] = ...) -> None: ...

class Fence(_message.Message):
    __slots__ = ("step", "stream", "attempt")
    STEP_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    step: int
    stream: int
    attempt: int
    def __init__(self, step: _Optional[int] = ..., stream: _Optional[int] = ..., attempt: _Optional[int] = ...) -> None: ...

class Stand(_message.Message):
    __slots__ = ("shard", "address", "term")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    shard: int
    address: str
    term: int
    def __init__(self, shard: _Optional[int] = ..., address: _Optional[str] = ..., term: _Optional[int] = ...) -> None: ...

class Promote(_message.Message):
    __slots__ = ("term",)
    TERM_FIELD_NUMBER: _ClassVar[int]
    term: int
    def __init__(self, term: _Optional[int] = ...) -> None: ...

class Alone(_message.Message):
    __slots__ = ("standby",)
    STANDBY_FIELD_NUMBER: _ClassVar[int]
    standby: int
    def __init__(self, standby: _Optional[int] = ...) -> None: ...

class Dismiss(_message.Message):
    __slots__ = ("reason", "run", "timeline", "incarnation")
    REASON_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    TIMELINE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    reason: str
    run: str
    timeline: int
    incarnation: int
    def __init__(self, reason: _Optional[str] = ..., run: _Optional[str] = ..., timeline: _Optional[int] = ..., incarnation: _Optional[int] = ...) -> None: ...

class Finish(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class ShardEvent(_message.Message):
    __slots__ = ("state", "accepted", "fenced", "settled", "configured", "refused", "retired", "began", "published", "alive", "in_sync", "parted", "stalled", "alone")
    STATE_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    FENCED_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    CONFIGURED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    RETIRED_FIELD_NUMBER: _ClassVar[int]
    BEGAN_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    ALIVE_FIELD_NUMBER: _ClassVar[int]
    IN_SYNC_FIELD_NUMBER: _ClassVar[int]
    PARTED_FIELD_NUMBER: _ClassVar[int]
    STALLED_FIELD_NUMBER: _ClassVar[int]
    ALONE_FIELD_NUMBER: _ClassVar[int]
    state: ShardState
    accepted: Accepted
    fenced: Fenced
    settled: Settled
    configured: Configured
    refused: Refused
    retired: Retired
    began: Began
    published: Published
    alive: Alive
    in_sync: InSync
    parted: Parted
    stalled: Stalled
    alone: Alone
    def __init__(self, state: _Optional[_Union[ShardState, _Mapping]] = ..., accepted: _Optional[_Union[Accepted, _Mapping]] = ..., fenced: _Optional[_Union[Fenced, _Mapping]] = ..., settled: _Optional[_Union[Settled, _Mapping]] = ..., configured: _Optional[_Union[Configured, _Mapping]] = ..., refused: _Optional[_Union[Refused, _Mapping]] = ..., retired: _Optional[_Union[Retired, _Mapping]] = ..., began: _Optional[_Union[Began, _Mapping]] = ..., published: _Optional[_Union[Published, _Mapping]] = ..., alive: _Optional[_Union[Alive, _Mapping]] = ..., in_sync: _Optional[_Union[InSync, _Mapping]] = ..., parted: _Optional[_Union[Parted, _Mapping]] = ..., stalled: _Optional[_Union[Stalled, _Mapping]] = ..., alone: _Optional[_Union[Alone, _Mapping]] = ...) -> None: ...

class ShardState(_message.Message):
    __slots__ = ("incarnation", "configured", "version", "accepted", "step", "segment", "term", "standby", "standing", "clock")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    CONFIGURED_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    STANDBY_FIELD_NUMBER: _ClassVar[int]
    STANDING_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    configured: bool
    version: int
    accepted: _containers.RepeatedCompositeFieldContainer[Accepted]
    step: int
    segment: int
    term: int
    standby: int
    standing: bool
    clock: int
    def __init__(self, incarnation: _Optional[int] = ..., configured: _Optional[bool] = ..., version: _Optional[int] = ..., accepted: _Optional[_Iterable[_Union[Accepted, _Mapping]]] = ..., step: _Optional[int] = ..., segment: _Optional[int] = ..., term: _Optional[int] = ..., standby: _Optional[int] = ..., standing: _Optional[bool] = ..., clock: _Optional[int] = ...) -> None: ...

class Alive(_message.Message):
    __slots__ = ("arriving",)
    ARRIVING_FIELD_NUMBER: _ClassVar[int]
    arriving: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, arriving: _Optional[_Iterable[int]] = ...) -> None: ...

class InSync(_message.Message):
    __slots__ = ("standby",)
    STANDBY_FIELD_NUMBER: _ClassVar[int]
    standby: int
    def __init__(self, standby: _Optional[int] = ...) -> None: ...

class Parted(_message.Message):
    __slots__ = ("standby", "reason", "diverged")
    STANDBY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DIVERGED_FIELD_NUMBER: _ClassVar[int]
    standby: int
    reason: str
    diverged: bool
    def __init__(self, standby: _Optional[int] = ..., reason: _Optional[str] = ..., diverged: _Optional[bool] = ...) -> None: ...

class Stalled(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Configured(_message.Message):
    __slots__ = ("shard",)
    SHARD_FIELD_NUMBER: _ClassVar[int]
    shard: int
    def __init__(self, shard: _Optional[int] = ...) -> None: ...

class Accepted(_message.Message):
    __slots__ = ("unit", "attempt", "incarnation", "commit", "frame_bytes", "factor", "behind")
    UNIT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    FRAME_BYTES_FIELD_NUMBER: _ClassVar[int]
    FACTOR_FIELD_NUMBER: _ClassVar[int]
    BEHIND_FIELD_NUMBER: _ClassVar[int]
    unit: _common_pb2.Unit
    attempt: int
    incarnation: int
    commit: Commit
    frame_bytes: int
    factor: float
    behind: int
    def __init__(self, unit: _Optional[_Union[_common_pb2.Unit, _Mapping]] = ..., attempt: _Optional[int] = ..., incarnation: _Optional[int] = ..., commit: _Optional[_Union[Commit, _Mapping]] = ..., frame_bytes: _Optional[int] = ..., factor: _Optional[float] = ..., behind: _Optional[int] = ...) -> None: ...

class Retired(_message.Message):
    __slots__ = ("incarnation",)
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    def __init__(self, incarnation: _Optional[int] = ...) -> None: ...

class Began(_message.Message):
    __slots__ = ("segment",)
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    segment: int
    def __init__(self, segment: _Optional[int] = ...) -> None: ...

class Published(_message.Message):
    __slots__ = ("version", "delta_bytes", "units")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DELTA_BYTES_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    version: int
    delta_bytes: int
    units: int
    def __init__(self, version: _Optional[int] = ..., delta_bytes: _Optional[int] = ..., units: _Optional[int] = ...) -> None: ...

class Fenced(_message.Message):
    __slots__ = ("step", "stream", "attempt", "accepted")
    STEP_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    step: int
    stream: int
    attempt: int
    accepted: bool
    def __init__(self, step: _Optional[int] = ..., stream: _Optional[int] = ..., attempt: _Optional[int] = ..., accepted: _Optional[bool] = ...) -> None: ...

class Settled(_message.Message):
    __slots__ = ("step", "version", "delta_bytes", "seconds")
    STEP_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DELTA_BYTES_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    step: int
    version: int
    delta_bytes: int
    seconds: float
    def __init__(self, step: _Optional[int] = ..., version: _Optional[int] = ..., delta_bytes: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class Refused(_message.Message):
    __slots__ = ("error", "message")
    ERROR_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    error: str
    message: str
    def __init__(self, error: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class PushChunk(_message.Message):
    __slots__ = ("header", "data", "commit")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    header: PushHeader
    data: bytes
    commit: Commit
    def __init__(self, header: _Optional[_Union[PushHeader, _Mapping]] = ..., data: _Optional[bytes] = ..., commit: _Optional[_Union[Commit, _Mapping]] = ...) -> None: ...

class PushHeader(_message.Message):
    __slots__ = ("unit", "flush", "attempt", "incarnation", "plan", "shard", "frame_bytes", "base_version", "term")
    UNIT_FIELD_NUMBER: _ClassVar[int]
    FLUSH_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    FRAME_BYTES_FIELD_NUMBER: _ClassVar[int]
    BASE_VERSION_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    unit: _common_pb2.Unit
    flush: Flush
    attempt: int
    incarnation: int
    plan: int
    shard: int
    frame_bytes: int
    base_version: int
    term: int
    def __init__(self, unit: _Optional[_Union[_common_pb2.Unit, _Mapping]] = ..., flush: _Optional[_Union[Flush, _Mapping]] = ..., attempt: _Optional[int] = ..., incarnation: _Optional[int] = ..., plan: _Optional[int] = ..., shard: _Optional[int] = ..., frame_bytes: _Optional[int] = ..., base_version: _Optional[int] = ..., term: _Optional[int] = ...) -> None: ...

class Flush(_message.Message):
    __slots__ = ("timeline", "segment")
    TIMELINE_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    timeline: int
    segment: int
    def __init__(self, timeline: _Optional[int] = ..., segment: _Optional[int] = ...) -> None: ...

class Commit(_message.Message):
    __slots__ = ("empty_reason", "samples", "tokens", "loss", "norm_sq", "learning_rates", "inner_rates", "push_norm")
    EMPTY_REASON_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    NORM_SQ_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATES_FIELD_NUMBER: _ClassVar[int]
    INNER_RATES_FIELD_NUMBER: _ClassVar[int]
    PUSH_NORM_FIELD_NUMBER: _ClassVar[int]
    empty_reason: str
    samples: int
    tokens: int
    loss: float
    norm_sq: float
    learning_rates: _containers.RepeatedScalarFieldContainer[float]
    inner_rates: _containers.RepeatedScalarFieldContainer[float]
    push_norm: float
    def __init__(self, empty_reason: _Optional[str] = ..., samples: _Optional[int] = ..., tokens: _Optional[int] = ..., loss: _Optional[float] = ..., norm_sq: _Optional[float] = ..., learning_rates: _Optional[_Iterable[float]] = ..., inner_rates: _Optional[_Iterable[float]] = ..., push_norm: _Optional[float] = ...) -> None: ...

class PushReply(_message.Message):
    __slots__ = ("outcome",)
    class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNSPECIFIED: _ClassVar[PushReply.Outcome]
        ACCEPTED: _ClassVar[PushReply.Outcome]
        FENCED: _ClassVar[PushReply.Outcome]
        SETTLED: _ClassVar[PushReply.Outcome]
    UNSPECIFIED: PushReply.Outcome
    ACCEPTED: PushReply.Outcome
    FENCED: PushReply.Outcome
    SETTLED: PushReply.Outcome
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    outcome: PushReply.Outcome
    def __init__(self, outcome: _Optional[_Union[PushReply.Outcome, str]] = ...) -> None: ...

class FollowRequest(_message.Message):
    __slots__ = ("timeline", "incarnation", "from_version", "until_version", "term")
    TIMELINE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    FROM_VERSION_FIELD_NUMBER: _ClassVar[int]
    UNTIL_VERSION_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    timeline: int
    incarnation: int
    from_version: int
    until_version: int
    term: int
    def __init__(self, timeline: _Optional[int] = ..., incarnation: _Optional[int] = ..., from_version: _Optional[int] = ..., until_version: _Optional[int] = ..., term: _Optional[int] = ...) -> None: ...

class DeltaChunk(_message.Message):
    __slots__ = ("header", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: DeltaHeader
    data: bytes
    def __init__(self, header: _Optional[_Union[DeltaHeader, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class DeltaHeader(_message.Message):
    __slots__ = ("timeline", "term", "shard", "version", "step", "outcomes", "frame_bytes", "deposit", "final", "closes", "clock", "pause", "drain")
    TIMELINE_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    FRAME_BYTES_FIELD_NUMBER: _ClassVar[int]
    DEPOSIT_FIELD_NUMBER: _ClassVar[int]
    FINAL_FIELD_NUMBER: _ClassVar[int]
    CLOSES_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    PAUSE_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    timeline: int
    term: int
    shard: int
    version: int
    step: int
    outcomes: _containers.RepeatedCompositeFieldContainer[Outcome]
    frame_bytes: int
    deposit: bool
    final: bool
    closes: bool
    clock: int
    pause: bool
    drain: bool
    def __init__(self, timeline: _Optional[int] = ..., term: _Optional[int] = ..., shard: _Optional[int] = ..., version: _Optional[int] = ..., step: _Optional[int] = ..., outcomes: _Optional[_Iterable[_Union[Outcome, _Mapping]]] = ..., frame_bytes: _Optional[int] = ..., deposit: _Optional[bool] = ..., final: _Optional[bool] = ..., closes: _Optional[bool] = ..., clock: _Optional[int] = ..., pause: _Optional[bool] = ..., drain: _Optional[bool] = ...) -> None: ...

class Outcome(_message.Message):
    __slots__ = ("unit", "factor")
    UNIT_FIELD_NUMBER: _ClassVar[int]
    FACTOR_FIELD_NUMBER: _ClassVar[int]
    unit: _common_pb2.Unit
    factor: float
    def __init__(self, unit: _Optional[_Union[_common_pb2.Unit, _Mapping]] = ..., factor: _Optional[float] = ...) -> None: ...

class SnapshotRequest(_message.Message):
    __slots__ = ("timeline", "incarnation", "plane", "step", "live", "shard")
    TIMELINE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    PLANE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    LIVE_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    timeline: int
    incarnation: int
    plane: str
    step: int
    live: bool
    shard: int
    def __init__(self, timeline: _Optional[int] = ..., incarnation: _Optional[int] = ..., plane: _Optional[str] = ..., step: _Optional[int] = ..., live: _Optional[bool] = ..., shard: _Optional[int] = ...) -> None: ...

class UploadChunk(_message.Message):
    __slots__ = ("header", "plane")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PLANE_FIELD_NUMBER: _ClassVar[int]
    header: UploadHeader
    plane: _common_pb2.PlaneChunk
    def __init__(self, header: _Optional[_Union[UploadHeader, _Mapping]] = ..., plane: _Optional[_Union[_common_pb2.PlaneChunk, _Mapping]] = ...) -> None: ...

class UploadHeader(_message.Message):
    __slots__ = ("timeline", "incarnation", "shard")
    TIMELINE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    timeline: int
    incarnation: int
    shard: int
    def __init__(self, timeline: _Optional[int] = ..., incarnation: _Optional[int] = ..., shard: _Optional[int] = ...) -> None: ...

class UploadReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DepositChunk(_message.Message):
    __slots__ = ("header", "plane")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PLANE_FIELD_NUMBER: _ClassVar[int]
    header: DepositHeader
    plane: _common_pb2.PlaneChunk
    def __init__(self, header: _Optional[_Union[DepositHeader, _Mapping]] = ..., plane: _Optional[_Union[_common_pb2.PlaneChunk, _Mapping]] = ...) -> None: ...

class DepositHeader(_message.Message):
    __slots__ = ("timeline", "incarnation", "stream", "step", "attempt", "planes", "shard")
    TIMELINE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    PLANES_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    timeline: int
    incarnation: int
    stream: int
    step: int
    attempt: int
    planes: _containers.RepeatedScalarFieldContainer[str]
    shard: int
    def __init__(self, timeline: _Optional[int] = ..., incarnation: _Optional[int] = ..., stream: _Optional[int] = ..., step: _Optional[int] = ..., attempt: _Optional[int] = ..., planes: _Optional[_Iterable[str]] = ..., shard: _Optional[int] = ...) -> None: ...

class DepositReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WithdrawRequest(_message.Message):
    __slots__ = ("timeline", "incarnation", "stream", "step", "shard")
    TIMELINE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    timeline: int
    incarnation: int
    stream: int
    step: int
    shard: int
    def __init__(self, timeline: _Optional[int] = ..., incarnation: _Optional[int] = ..., stream: _Optional[int] = ..., step: _Optional[int] = ..., shard: _Optional[int] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ("term",)
    TERM_FIELD_NUMBER: _ClassVar[int]
    term: _common_pb2.Term
    def __init__(self, term: _Optional[_Union[_common_pb2.Term, _Mapping]] = ...) -> None: ...

class DescribeReply(_message.Message):
    __slots__ = ("planes", "stream_planes", "scalars")
    class ScalarsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    PLANES_FIELD_NUMBER: _ClassVar[int]
    STREAM_PLANES_FIELD_NUMBER: _ClassVar[int]
    SCALARS_FIELD_NUMBER: _ClassVar[int]
    planes: _containers.RepeatedScalarFieldContainer[str]
    stream_planes: _containers.RepeatedScalarFieldContainer[str]
    scalars: _containers.ScalarMap[str, float]
    def __init__(self, planes: _Optional[_Iterable[str]] = ..., stream_planes: _Optional[_Iterable[str]] = ..., scalars: _Optional[_Mapping[str, float]] = ...) -> None: ...

class CollectRequest(_message.Message):
    __slots__ = ("term", "step", "plane")
    TERM_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    PLANE_FIELD_NUMBER: _ClassVar[int]
    term: _common_pb2.Term
    step: int
    plane: str
    def __init__(self, term: _Optional[_Union[_common_pb2.Term, _Mapping]] = ..., step: _Optional[int] = ..., plane: _Optional[str] = ...) -> None: ...

class RestoreChunk(_message.Message):
    __slots__ = ("header", "plane")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PLANE_FIELD_NUMBER: _ClassVar[int]
    header: RestoreHeader
    plane: _common_pb2.PlaneChunk
    def __init__(self, header: _Optional[_Union[RestoreHeader, _Mapping]] = ..., plane: _Optional[_Union[_common_pb2.PlaneChunk, _Mapping]] = ...) -> None: ...

class RestoreHeader(_message.Message):
    __slots__ = ("term", "step", "scalars", "deposits")
    class ScalarsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    TERM_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    SCALARS_FIELD_NUMBER: _ClassVar[int]
    DEPOSITS_FIELD_NUMBER: _ClassVar[int]
    term: _common_pb2.Term
    step: int
    scalars: _containers.ScalarMap[str, float]
    deposits: bool
    def __init__(self, term: _Optional[_Union[_common_pb2.Term, _Mapping]] = ..., step: _Optional[int] = ..., scalars: _Optional[_Mapping[str, float]] = ..., deposits: _Optional[bool] = ...) -> None: ...

class RestoreReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReplicaReport(_message.Message):
    __slots__ = ("hello", "ack")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    hello: ReplicaHello
    ack: ReplicaAck
    def __init__(self, hello: _Optional[_Union[ReplicaHello, _Mapping]] = ..., ack: _Optional[_Union[ReplicaAck, _Mapping]] = ...) -> None: ...

class ReplicaHello(_message.Message):
    __slots__ = ("timeline", "term", "shard", "incarnation", "position", "checksum")
    TIMELINE_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    timeline: int
    term: int
    shard: int
    incarnation: int
    position: int
    checksum: int
    def __init__(self, timeline: _Optional[int] = ..., term: _Optional[int] = ..., shard: _Optional[int] = ..., incarnation: _Optional[int] = ..., position: _Optional[int] = ..., checksum: _Optional[int] = ...) -> None: ...

class ReplicaAck(_message.Message):
    __slots__ = ("position", "marked", "digest")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    MARKED_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    position: int
    marked: int
    digest: bytes
    def __init__(self, position: _Optional[int] = ..., marked: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class ReplicaChunk(_message.Message):
    __slots__ = ("image", "data", "record")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    image: ReplicaImage
    data: bytes
    record: ReplicaRecord
    def __init__(self, image: _Optional[_Union[ReplicaImage, _Mapping]] = ..., data: _Optional[bytes] = ..., record: _Optional[_Union[ReplicaRecord, _Mapping]] = ...) -> None: ...

class ReplicaImage(_message.Message):
    __slots__ = ("position", "bytes")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    position: int
    bytes: int
    def __init__(self, position: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...

class ReplicaRecord(_message.Message):
    __slots__ = ("position", "bytes", "payload")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    position: int
    bytes: int
    payload: bytes
    def __init__(self, position: _Optional[int] = ..., bytes: _Optional[int] = ..., payload: _Optional[bytes] = ...) -> None: ...
