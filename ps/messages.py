"""What a shard hears and tells, as messages of the contract on one side and as its own records on the other."""

from __future__ import annotations

from ps.ledger import Verdict
from ps.news import InSync, News, Parted
from ps.publish import Delta
from ps.records import Accept, Accepted, Fenced, Flush, Segment
from wire.codec.base import Frame
from wire.errors import ProtocolMismatch, SparsyncError
from wire.messages import commit_from_proto, commit_to_proto, unit_from_proto, unit_to_proto
from wire.v1 import shard_pb2

OUTCOMES = {
    Verdict.ADMIT: shard_pb2.PushReply.ACCEPTED,
    Verdict.ACCEPTED: shard_pb2.PushReply.ACCEPTED,
    Verdict.FENCED: shard_pb2.PushReply.FENCED,
    Verdict.SETTLED: shard_pb2.PushReply.SETTLED,
}


def pushed(header: shard_pb2.PushHeader, frame: Frame, commit: shard_pb2.Commit) -> Accept | Flush:
    """The record of a push that has arrived whole."""
    if header.WhichOneof("what") == "flush":
        return Flush(header.incarnation, header.flush.segment, tuple(commit.learning_rates), frame)
    return Accept(
        unit_from_proto(header.unit),
        header.attempt,
        header.incarnation,
        commit_from_proto(commit),
        frame,
        header.base_version,
    )


def outcome_of(verdict: Verdict, header: shard_pb2.PushHeader) -> shard_pb2.PushReply.Outcome:
    if verdict not in OUTCOMES:
        raise ProtocolMismatch(f"{unit_from_proto(header.unit)} is refused: {verdict.value}")
    return OUTCOMES[verdict]


def first_segment(message: shard_pb2.Configure) -> Segment:
    """The segment that a run begins or resumes with; without one it is exact.

    Raises: ProtocolMismatch where it begins at another step than the run.
    """
    segment = segment_from_proto(message.segment)
    if not message.HasField("segment"):
        return Segment(0, message.first_step)
    if segment.step != message.first_step:
        raise ProtocolMismatch(
            f"the first segment begins at step {segment.step}, the run at step {message.first_step}; "
            "they are one"
        )
    return segment


def segment_from_proto(message: shard_pb2.Segment) -> Segment:
    return Segment(message.number, message.step, message.elastic, message.arrival, message.lag, message.owed)


def news_to_proto(news: News) -> shard_pb2.ShardEvent:
    match news:
        case Accepted():
            return shard_pb2.ShardEvent(accepted=accepted_to_proto(news))
        case Delta():
            published = shard_pb2.Published(
                version=news.version + 1, delta_bytes=news.frame_bytes, units=len(news.outcomes)
            )
            return shard_pb2.ShardEvent(published=published)
        case SparsyncError():
            return shard_pb2.ShardEvent(refused=refused_to_proto(news))
        case InSync():
            return shard_pb2.ShardEvent(in_sync=shard_pb2.InSync(standby=news.standby))
        case Parted():
            parted = shard_pb2.Parted(standby=news.standby, reason=news.reason, diverged=news.diverged)
            return shard_pb2.ShardEvent(parted=parted)
        case str():
            return shard_pb2.ShardEvent(stalled=shard_pb2.Stalled(reason=news))


def refused_to_proto(error: SparsyncError) -> shard_pb2.Refused:
    return shard_pb2.Refused(error=type(error).__name__, message=str(error))


def accepted_to_proto(push: Accepted) -> shard_pb2.Accepted:
    return shard_pb2.Accepted(
        unit=unit_to_proto(push.unit),
        attempt=push.attempt,
        incarnation=push.incarnation,
        commit=commit_to_proto(push.commit),
        frame_bytes=push.frame_bytes,
        factor=push.factor,
        behind=push.behind,
    )


def fenced_to_proto(answer: Fenced) -> shard_pb2.Fenced:
    record = answer.record
    return shard_pb2.Fenced(
        step=record.step, stream=record.stream, attempt=record.attempt, accepted=answer.accepted
    )
