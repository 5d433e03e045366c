"""Lines to the servers: commands down in order, events up, opened again when they break.

A line belongs to an incarnation. What a server tells as a shard is heard only while the state says that it is that
shard's primary; a server that was dismissed is heard no more, but told so, should it still be there. While the journal
has no room no line is opened: it would begin with decisions that a restart takes back.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager

import grpc

from coordinator import actions as a
from coordinator import events as e
from coordinator.desk import begin_of
from coordinator.entries import NOBODY, Member
from coordinator.state import State
from wire.clock import Clock, Deadline
from wire.errors import StaleIncarnation, Unreachable
from wire.ids import Term
from wire.messages import (
    commit_from_proto,
    layout_to_proto,
    optimizer_to_proto,
    ranges_to_proto,
    term_to_proto,
    unit_from_proto,
)
from wire.rpc.access import InRun
from wire.rpc.channel import open_channel
from wire.rpc.identity import Role, Security
from wire.rpc.in_run import InRunChannel
from wire.rpc.retry import Backoff
from wire.rpc.status import to_error
from wire.v1 import shard_pb2, shard_pb2_grpc
from wire.words import cut_words

log = logging.getLogger(__name__)
REDIAL_CAP_S = 0.5
"""Longest pause before a line is opened again."""
DISMISS_S = 600.0
"""For so long a server that was given up may sleep, and be told so when it wakes."""
NONE = 0
"""The term that a server is told which is the primary of no shard."""

Commands = asyncio.Queue[shard_pb2.ShardCommand | None]
"""What is to be sent on one line; None ends it."""


class ShardLine:
    """The coordinator's connection to one server.

    Args:
        incarnation: of the server; its address is that which the state knows now.
        hear: takes the core's events.
        seq: the position of the journal that is durable now; every command carries it beside the term.
        durable: waits until all of the state is durable: a line begins with what stands there.
        revoked: the lists of revoked certificates that are known now.
        evaluator: the worker that was told last that it evaluates, or nobody.
    """

    def __init__(
        self,
        incarnation: int,
        state: State,
        *,
        security: Security,
        hear: Callable[[e.Event], None],
        seq: Callable[[], int],
        durable: Callable[[], Awaitable[None]],
        revoked: Callable[[], bytes],
        evaluator: Callable[[], int] = lambda: NOBODY,
        clock: Clock,
    ) -> None:
        self.incarnation = incarnation
        self.address = state.members[incarnation].address
        self._state = state
        self._hear = hear
        self._seq = seq
        self._durable = durable
        self._revoked = revoked
        self._evaluator = evaluator
        self._clock = clock
        self._channels = [
            open_channel(self.address, security, role=Role.PS, pool=pool) for pool in ("control", "state")
        ]
        run = InRun(state.run, state.timeline)
        control, planes = (InRunChannel(channel, run) for channel in self._channels)
        self._control = shard_pb2_grpc.ShardStub(control)
        self._planes = shard_pb2_grpc.ShardStub(planes)
        self._commands: Commands = asyncio.Queue()
        self._over = False
        self._recorded = NONE
        self.version = 0
        self.delta_bytes = 0

    @contextmanager
    def calling(self) -> Iterator[shard_pb2_grpc.ShardStub]:
        """For checkpoints: planes that would hold up a fence on the line of commands.

        Raises: what the server answers; Unreachable where the line ends before; another one leads to who serves now.
        """
        try:
            self._check()
            yield self._planes
        except grpc.aio.AioRpcError as error:
            raise to_error(error, peer=self._peer) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or not task.cancelling():  # the call was cancelled, not who waits for it
                self._check()
            raise

    def _check(self) -> None:
        if self._over:
            raise Unreachable(f"{self._peer}: its line was opened anew meanwhile")

    @property
    def _serves(self) -> int | None:
        """The shard that the server is the primary of, as the state has it now."""
        return self._state.shard_of(self.incarnation)

    @property
    def shard(self) -> int:
        """The shard of a primary."""
        shard = self._serves
        assert shard is not None
        return shard

    @property
    def _peer(self) -> str:
        shard = self._serves
        return f"server {f'#{self.incarnation}' if shard is None else shard} at {self.address}"

    def term(self) -> tuple[Term, int]:
        return Term(self._state.term, bytes.fromhex(self._state.nonce)), self._seq()

    def send(self, command: a.ShardOrder) -> None:
        """Queue a command; it is lost with the line, and asked for again by the core when that is back."""
        self._commands.put_nowait(self._encode(command))

    def introduce(self, members: Iterable[Member]) -> None:
        """Tell the server who joined, and who was asked to do what; a new line begins with all of that."""
        self._commands.put_nowait(self._command(meet=self._meet(members)))

    def _meet(self, members: Iterable[Member]) -> shard_pb2.Meet:
        state, shard = self._state, self._serves
        told = [shard_pb2.Member(incarnation=m.incarnation, role=m.role, name=m.name) for m in members]
        standby = None if shard is None else state.standbys.get(shard)
        return shard_pb2.Meet(
            members=told,
            uploader=state.uploader,
            evaluator=self._evaluator(),
            standby=NOBODY if standby is None else standby.incarnation,
        )

    def deny(self) -> None:
        """Hand on which certificates are revoked; a new line begins with that too."""
        if pem := self._revoked():
            self._commands.put_nowait(self._command(deny=shard_pb2.Deny(crl=pem)))

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
                        drain=command.drain,
                        bound=command.bound,
                    )
                )
            case a.BeginSegment():
                return self._command(segment=_segment(command))
            case a.RetireWorker():
                return self._command(retire=shard_pb2.Retire(incarnation=command.incarnation))
            case a.Advance():
                return self._command(advance=shard_pb2.Advance(low=command.low))
            case a.HoldTo():
                return self._command(bound=shard_pb2.Bound(norm=command.bound))
            case a.FenceStream():
                fence = shard_pb2.Fence(step=command.step, stream=command.stream, attempt=command.attempt)
                return self._command(fence=fence)
            case a.FinishShard():
                return self._command(finish=shard_pb2.Finish(reason=command.reason))
            case a.StandBy():
                stand = shard_pb2.Stand(shard=command.shard, address=command.address, term=command.term)
                return self._command(stand=stand)
            case a.Promote():
                return self._command(promote=shard_pb2.Promote(term=command.term))
            case a.LeaveAlone():
                return self._command(alone=shard_pb2.Alone(standby=command.standby))

    def _configure(self) -> shard_pb2.Configure:
        assert self._state.layout is not None and self._state.optimizer is not None
        return shard_pb2.Configure(
            shard=self.shard,
            plan=self._state.plan,
            parameters=layout_to_proto(self._state.layout),
            ranges=ranges_to_proto(self._state.placement[self.shard].ranges),
            optimizer=optimizer_to_proto(self._state.optimizer),
            first_step=self._state.first_step,
            segment=_segment(begin_of(self._state)),
        )

    async def run(self) -> None:
        """Keep the line open until cancelled, or the server ends it as the run is over; tell the core if it breaks."""
        backoff = Backoff(random.Random(), cap_s=REDIAL_CAP_S)
        while not self._is_over():
            await self._durable()
            try:
                async for event in self._open():
                    backoff.reset()
                    self._translate(event)
                    if self._is_over():
                        return
                if self._state.ended is not None:
                    return
                reason, refused = f"{self._peer} closed the line", False
            except grpc.aio.AioRpcError as error:
                failure = to_error(error, peer=self._peer)
                if isinstance(failure, StaleIncarnation) and self._serves is not None:
                    self._hear(e.Fenced(self.shard, str(failure)))
                    return
                reason = str(failure)
                refused = not failure.retry
            if self._is_over():
                return
            broken = e.LineRefused if refused else e.LineBroken
            self._hear(broken(self.incarnation, reason))
            log.warning("%s; opening the line again", reason)
            await asyncio.sleep(backoff.next())

    async def dismiss(self, reason: str) -> None:
        """Tell the server that it is out of the run, if it can be reached and is still the one that is meant."""
        backoff, deadline = Backoff(random.Random()), Deadline(self._clock, DISMISS_S)
        order = shard_pb2.Dismiss(
            reason=reason, run=self._state.run, timeline=self._state.timeline, incarnation=self.incarnation
        )
        while not deadline.passed:
            try:
                self._begin_commands()
                self._commands.put_nowait(self._command(dismiss=order))
                async for _ in self._control.Control(self._outgoing(self._commands)):
                    pass  # a sign of life until it ends
                return
            except grpc.aio.AioRpcError as error:
                if not to_error(error, peer=self._peer).retry:
                    return
            await asyncio.sleep(backoff.next())

    def _begin_commands(self) -> None:
        self._commands.put_nowait(None)  # gRPC still asks the older line for commands
        self._commands = asyncio.Queue()

    def _open(self) -> AsyncIterator[shard_pb2.ShardEvent]:
        self._begin_commands()
        shard, state = self._serves, self._state
        self._recorded = NONE if shard is None else state.in_sync_of(shard)
        attach = shard_pb2.Attach(
            run=state.run,
            timeline=state.timeline,
            low=state.low,
            shard_term=NONE if shard is None else state.placement[shard].term,
            standby=self._recorded,
            members=self._meet(state.members.values()),
        )
        self._commands.put_nowait(self._command(attach=attach))
        self.deny()
        return aiter(self._control.Control(self._outgoing(self._commands)))

    @staticmethod
    async def _outgoing(commands: Commands) -> AsyncIterator[shard_pb2.ShardCommand]:
        while (command := await commands.get()) is not None:
            yield command

    def _translate(self, event: shard_pb2.ShardEvent) -> None:
        cut_words(event)
        kind = event.WhichOneof("event")
        if kind == "alive":
            self._hear(e.ServerAlive(self.incarnation))
            for worker in event.alive.arriving:
                self._hear(e.Moving(worker))
        elif (shard := self._serves) is not None:
            self._translate_shard(shard, event)
        elif kind == "state":
            self.version = event.state.version
            self._hear(e.ServerAttached(self.incarnation, event.state.incarnation))
        elif kind == "refused":
            log.warning("%s refuses: %s", self._peer, event.refused.message)

    def _translate_shard(self, shard: int, event: shard_pb2.ShardEvent) -> None:
        match event.WhichOneof("event"):
            case "state":
                self.version = event.state.version
                self._hear(self._attached(shard, event.state))
            case "configured":
                self._hear(e.ShardConfigured(shard))
            case "accepted":
                self._hear(_accepted(shard, event.accepted))
            case "fenced":
                f = event.fenced
                self._hear(e.FenceAnswered(shard, f.step, f.stream, f.attempt, f.accepted))
            case "settled":
                self.version, self.delta_bytes = event.settled.version, event.settled.delta_bytes
                self._hear(e.StepSettled(shard, event.settled.step))
            case "retired":
                self._hear(e.WorkerRetired(shard, event.retired.incarnation))
            case "began":
                self._hear(e.SegmentBegun(shard, event.began.segment))
            case "published":
                self.version, self.delta_bytes = event.published.version, event.published.delta_bytes
            case "in_sync":
                self._hear(e.StandbyInSync(shard, event.in_sync.standby))
            case "parted":
                p = event.parted
                self._hear(e.StandbyParted(shard, p.standby, p.reason, p.diverged))
            case "alone":
                self._hear(e.StandbyLeft(shard, event.alone.standby))
            case "stalled":
                self._hear(e.ShardStalled(shard, event.stalled.reason))
            case "refused":
                self._hear(e.ShardRefused(shard, event.refused.error, event.refused.message))

    def _attached(self, shard: int, state: shard_pb2.ShardState) -> e.ShardAttached:
        return e.ShardAttached(
            shard,
            state.incarnation,
            state.configured,
            state.step,
            state.segment,
            tuple(_accepted(shard, accepted) for accepted in state.accepted),
            clock=state.clock if state.HasField("clock") else None,
            standing=state.standing,
            standby=state.standby,
            recorded=self._recorded,
        )

    def _is_over(self) -> bool:
        return self._over

    def end(self) -> None:
        """Nothing more is heard of it, also where an event of its own is what ends it."""
        self._over = True

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close(None)


def _segment(command: a.BeginSegment) -> shard_pb2.Segment:
    return shard_pb2.Segment(
        number=command.number,
        step=command.step,
        elastic=command.elastic,
        arrival=command.arrival,
        lag=command.lag,
        owed=command.owed,
    )


def _accepted(shard: int, accepted: shard_pb2.Accepted) -> e.UnitAccepted:
    return e.UnitAccepted(
        shard,
        unit_from_proto(accepted.unit),
        accepted.attempt,
        accepted.incarnation,
        commit_from_proto(accepted.commit),
        accepted.factor,
        accepted.behind,
    )
