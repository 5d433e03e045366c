"""Lines to the shards: commands down in order, events up, opened again when they break."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable

import grpc

from coordinator import actions as a
from coordinator import events as e
from coordinator.desk import begin_of
from coordinator.state import State
from wire.clock import Clock, Deadline
from wire.errors import SparsyncError, StaleIncarnation
from wire.ids import Term
from wire.messages import (
    commit_from_proto,
    layout_to_proto,
    optimizer_to_proto,
    ranges_to_proto,
    term_to_proto,
    unit_from_proto,
)
from wire.rpc.channel import open_channel
from wire.rpc.identity import Security
from wire.rpc.retry import Backoff
from wire.rpc.status import to_error
from wire.v1 import shard_pb2, shard_pb2_grpc

log = logging.getLogger(__name__)
LOST_AFTER_S = 15.0
"""A server that cannot be reached for this long is lost, and its shard with it."""

Commands = asyncio.Queue[shard_pb2.ShardCommand | None]
"""What is to be sent on one line; None ends it."""


class ShardLine:
    """The coordinator's connection to one shard.

    Args:
        hear: takes the core's events.
        seq: the journal's position now; every command carries it beside the term.
    """

    def __init__(
        self,
        shard: int,
        state: State,
        *,
        security: Security,
        hear: Callable[[e.Event], None],
        seq: Callable[[], int],
        clock: Clock,
    ) -> None:
        self.shard = shard
        self._state = state
        self._hear = hear
        self._seq = seq
        self._clock = clock
        self._address = state.placement[shard].address
        self._channels = [open_channel(self._address, security, pool=pool) for pool in ("control", "state")]
        self._control = shard_pb2_grpc.ShardStub(self._channels[0])
        self.stub = shard_pb2_grpc.ShardStub(self._channels[1])
        """For checkpoints: planes that would hold up a fence on the line of commands."""
        self._commands: Commands = asyncio.Queue()
        self.version = 0
        self.delta_bytes = 0

    def term(self) -> tuple[Term, int]:
        return Term(self._state.term, bytes.fromhex(self._state.nonce)), self._seq()

    def send(self, command: a.ShardOrder) -> None:
        """Queue a command; it is lost with the line, and asked for again by the core when that is back."""
        self._commands.put_nowait(self._encode(command))

    def _command(self, **fields: object) -> shard_pb2.ShardCommand:
        term, seq = self.term()
        return shard_pb2.ShardCommand(term=term_to_proto(term, journal_seq=seq), **fields)  # type: ignore[arg-type]

    def _encode(self, command: a.ShardOrder) -> shard_pb2.ShardCommand:
        match command:
            case a.ConfigureShard():
                return self._command(configure=self._configure())
            case a.CloseStep():
                return self._command(
                    close=shard_pb2.Close(
                        step=command.step,
                        streams=command.streams,
                        deposit=command.deposit,
                        final=command.final,
                        retain_from=command.retain_from,
                        late=command.late,
                        pause=command.pause,
                    )
                )
            case a.BeginSegment():
                return self._command(segment=_segment(command))
            case a.RetireWorker():
                return self._command(retire=shard_pb2.Retire(incarnation=command.incarnation))
            case a.Advance():
                return self._command(advance=shard_pb2.Advance(low=command.low))
            case a.FenceStream():
                fence = shard_pb2.Fence(step=command.step, stream=command.stream, attempt=command.attempt)
                return self._command(fence=fence)
            case a.FinishShard():
                return self._command(finish=shard_pb2.Finish(reason=command.reason))

    def _configure(self) -> shard_pb2.Configure:
        assert self._state.layout is not None and self._state.optimizer is not None
        return shard_pb2.Configure(
            shard=self.shard,
            plan=self._state.plan,
            parameters=layout_to_proto(self._state.layout),
            ranges=ranges_to_proto(self._state.placement[self.shard].ranges),
            optimizer=optimizer_to_proto(self._state.optimizer),
            first_step=self._state.first_step,
            segment=_segment(begin_of(self._state.segment)),
        )

    async def run(self) -> None:
        """Keep the line open until cancelled; tell the core when the server is lost."""
        backoff, broken = Backoff(random.Random()), None
        while True:
            try:
                async for event in self._open():
                    backoff.reset()
                    broken = None
                    self._translate(event)
                if self._state.ended is not None:
                    return
                reason = "it closed the line"
            except grpc.aio.AioRpcError as error:
                failure = to_error(error, peer=f"server {self.shard} at {self._address}")
                if isinstance(failure, StaleIncarnation):
                    self._hear(e.Fenced(self.shard, str(failure)))
                    return
                reason = str(failure)
                broken = broken or Deadline(self._clock, LOST_AFTER_S)
                if not failure.retry or broken.passed:
                    self._hear(e.ShardLost(self.shard, reason))
                    return
            log.warning("server %d at %s: %s; opening the line again", self.shard, self._address, reason)
            await asyncio.sleep(backoff.next())

    def _open(self) -> AsyncIterator[shard_pb2.ShardEvent]:
        self._commands.put_nowait(None)  # gRPC still asks the older line for commands
        self._commands = asyncio.Queue()
        attach = shard_pb2.Attach(run=self._state.run, timeline=self._state.timeline, low=self._state.low)
        self._commands.put_nowait(self._command(attach=attach))
        return aiter(self._control.Control(self._outgoing(self._commands)))

    @staticmethod
    async def _outgoing(commands: Commands) -> AsyncIterator[shard_pb2.ShardCommand]:
        while (command := await commands.get()) is not None:
            yield command

    def _translate(self, event: shard_pb2.ShardEvent) -> None:
        match event.WhichOneof("event"):
            case "state":
                state = event.state
                self.version = state.version
                accepted = tuple(map(self._accepted, state.accepted))
                self._hear(
                    e.ShardAttached(
                        self.shard, state.incarnation, state.configured, state.step, state.segment, accepted
                    )
                )
            case "configured":
                self._hear(e.ShardConfigured(self.shard))
            case "accepted":
                self._hear(self._accepted(event.accepted))
            case "fenced":
                f = event.fenced
                self._hear(e.FenceAnswered(self.shard, f.step, f.stream, f.attempt, f.accepted))
            case "settled":
                self.version, self.delta_bytes = event.settled.version, event.settled.delta_bytes
                self._hear(e.StepSettled(self.shard, event.settled.step))
            case "retired":
                self._hear(e.WorkerRetired(self.shard, event.retired.incarnation))
            case "began":
                self._hear(e.SegmentBegun(self.shard, event.began.segment))
            case "published":
                self.version, self.delta_bytes = event.published.version, event.published.delta_bytes
            case "refused":
                self._hear(e.ShardRefused(self.shard, event.refused.error, event.refused.message))

    def _accepted(self, accepted: shard_pb2.Accepted) -> e.UnitAccepted:
        return e.UnitAccepted(
            self.shard,
            unit_from_proto(accepted.unit),
            accepted.attempt,
            accepted.incarnation,
            commit_from_proto(accepted.commit),
            accepted.factor,
            accepted.behind,
        )

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close(None)


def _segment(command: a.BeginSegment) -> shard_pb2.Segment:
    return shard_pb2.Segment(
        number=command.number, step=command.step, elastic=command.elastic, arrival=command.arrival
    )


def as_error(error: grpc.aio.AioRpcError, line: ShardLine) -> SparsyncError:
    """The error of a unary call on a line."""
    return to_error(error, peer=f"server {line.shard}")
