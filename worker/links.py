"""A worker's calls to one parameter server, on the network thread.

Bytes that were not acknowledged are sent again as they were. A server that is away is waited
for; one that no longer has what this worker asks for has moved past it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import grpc

from wire.clock import Clock, Deadline
from wire.codec.base import Buffer
from wire.errors import NoInput, ProtocolMismatch, StaleIncarnation
from wire.ids import UnitId
from wire.messages import Commit, ShardPlacement, commit_to_proto, unit_from_proto, unit_to_proto
from wire.rpc.channel import open_channel
from wire.rpc.chunks import Data, gathered
from wire.rpc.frames import FrameStub, data_of
from wire.rpc.identity import Security
from wire.rpc.planes import PlaneReader, plane_chunks
from wire.rpc.retry import Backoff, retrying
from wire.rpc.status import to_error
from wire.v1 import shard_pb2, shard_pb2_grpc
from worker.deltas import Delta, Outcome
from worker.outgoing import Outgoing

log = logging.getLogger(__name__)
T = TypeVar("T")
PATIENCE_S = 60.0
"""How long a server or the coordinator may be away before the worker gives up."""
SLOWEST_BYTES_PER_S = 100_000
STATE_MODELS = 4
"""A call may move as many times the model as a stream has planes, at the slowest rate that is served."""


@dataclass(frozen=True)
class Snapshot:
    """A shard's plane, packed, as it was at a version.

    Every step before `step` is closed in it; every unit of the steps before `clock` stands on the shard.
    """

    step: int
    version: int
    clock: int
    data: bytes


class ShardLink:
    """Two connections to one server: frames and deltas on one, state on the other.

    Args:
        plan: number of the placement.
        bytes: of the shard's part of the model in float32.
    """

    def __init__(
        self,
        placement: ShardPlacement,
        security: Security,
        *,
        incarnation: int,
        timeline: int,
        plan: int,
        bytes: int,
        clock: Clock,
    ) -> None:
        self.shard = placement.shard
        self.name = f"server {placement.shard} at {placement.address}"
        self._incarnation, self._timeline, self._plan = incarnation, timeline, plan
        self._clock = clock
        self._patience_s = PATIENCE_S + STATE_MODELS * bytes / SLOWEST_BYTES_PER_S
        self._channels = [open_channel(placement.address, security, pool=pool) for pool in ("data", "state")]
        self._data = shard_pb2_grpc.ShardStub(self._channels[0])
        self._frames = FrameStub(self._channels[0])
        self._state = shard_pb2_grpc.ShardStub(self._channels[1])

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close(None)

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Try again while the server is away; what moves slowly is not away (keepalive finds a dead peer)."""
        deadline = Deadline(self._clock, self._patience_s)
        return await retrying(call, deadline=deadline, backoff=Backoff(random.Random()), peer=self.name)

    # --- the published model -------------------------------------------------------------------

    async def follow(self, version: int, put: Callable[[Delta], Awaitable[None]]) -> None:
        """Receive the deltas from `version` on, to the final one.

        Raises: StaleIncarnation where the server no longer retains them.
        """
        backoff, broken = Backoff(random.Random()), None
        while True:
            try:
                async with aclosing(self._deltas(version, 0)) as deltas:
                    async for delta in deltas:
                        backoff.reset()
                        broken = None
                        await put(delta)
                        version = delta.version + 1
                        if delta.final:
                            return
            except grpc.aio.AioRpcError as error:
                failure = to_error(error, peer=self.name)
                broken = broken or Deadline(self._clock, PATIENCE_S)
                if not failure.retry or broken.passed:
                    with _outrun():
                        raise failure from None
                log.warning("%s; following again from version %d", failure, version)
            await asyncio.sleep(backoff.next())

    async def history(self, start: int, stop: int) -> list[Delta]:
        """The deltas from version `start` up to `stop`. Raises: StaleIncarnation as `follow`."""

        async def call() -> list[Delta]:
            return [delta async for delta in self._deltas(start, stop)]

        with _outrun():
            return await self._patiently(call)

    async def _deltas(self, start: int, stop: int) -> AsyncGenerator[Delta, None]:
        request = shard_pb2.FollowRequest(
            timeline=self._timeline, incarnation=self._incarnation, from_version=start, until_version=stop
        )
        header, frame, size = shard_pb2.DeltaHeader(), list[Buffer](), 0
        call = self._frames.Follow(request)
        try:
            async for chunk in call:
                data = data_of(chunk)
                if data is None:
                    header, frame, size = chunk.header, [], 0
                    continue
                frame.append(data)
                size += len(data)
                if size > header.frame_bytes:
                    raise ProtocolMismatch(
                        f"{self.name} sent more than the {header.frame_bytes} bytes of a delta"
                    )
                if size == header.frame_bytes:
                    yield _delta(header, tuple(frame))
        finally:
            call.cancel()  # gRPC would keep one that is dropped open until the garbage is collected

    async def snapshot(self, plane: str, size: int, *, step: int = 0, live: bool = False) -> Snapshot:
        """`published` at the newest retained base at or below `step` (`live`: as it is now), or `x`.

        Raises: StaleIncarnation where no such base is retained.
        """
        request = shard_pb2.SnapshotRequest(
            timeline=self._timeline, incarnation=self._incarnation, plane=plane, step=step, live=live
        )

        async def call() -> Snapshot:
            reader, found = PlaneReader(lambda name: size), Snapshot(step, 0, step, b"")
            async for chunk in self._data.Snapshot(request):
                if (complete := reader.feed(chunk)) is not None:
                    name, data = complete
                    numbers = name.split("/")[1:]  # published/STEP/VERSION
                    at, version = (int(n) for n in numbers) if numbers else (step, 0)
                    found = Snapshot(at, version, at, data)
            reader.finish()
            return found

        with _outrun():
            found = await self._patiently(call)
        return replace(found, clock=max(found.step, await self._clock_at(found.version))) if live else found

    async def _clock_at(self, version: int) -> int:
        """The shard's clock at a version, as the delta that led to it tells; 0 where there is none any more.

        A worker that is the slowest itself would wait for ever for a later delta to tell it.
        """
        try:
            return (await self.history(version - 1, version))[0].clock if version > 0 else 0
        except StaleIncarnation:
            return 0

    async def upload(self, plane: bytes) -> None:
        """The initial parameters, this shard's part."""

        async def chunks() -> AsyncIterator[shard_pb2.UploadChunk]:
            header = shard_pb2.UploadHeader(timeline=self._timeline, incarnation=self._incarnation)
            yield shard_pb2.UploadChunk(header=header)
            for chunk in plane_chunks("x", plane):
                yield shard_pb2.UploadChunk(plane=chunk)

        await self._patiently(lambda: self._state.Upload(chunks()))

    # --- units and stream state ------------------------------------------------------------------

    async def push(self, unit: UnitId, attempt: int, frame: Outgoing, commit: Commit, base: int) -> bool:
        """Send this shard's part of a unit until it is acknowledged; False: it was fenced."""
        header = shard_pb2.PushHeader(
            unit=unit_to_proto(unit),
            attempt=attempt,
            incarnation=self._incarnation,
            plan=self._plan,
            shard=self.shard,
            frame_bytes=frame.most_bytes,
            base_version=base,
        )
        try:
            reply = await self._patiently(
                lambda: self._frames.Push(_messages(header, frame.chunks(), commit))
            )
        finally:
            frame.end()
        if reply.outcome == shard_pb2.PushReply.FENCED:  # whoever fenced it tells this worker what comes next
            log.warning("%s attempt %d was fenced on shard %d", unit, attempt, self.shard)
        return bool(reply.outcome != shard_pb2.PushReply.FENCED)

    async def flush(self, segment: int, pieces: Sequence[bytes], commit: Commit, *, limit_s: float) -> bool:
        """Send what is held back for this shard, at most for `limit_s`; False: it is taken no more.

        Raises: SparsyncError where there is no answer in time, or will be none.
        """
        header = shard_pb2.PushHeader(
            flush=shard_pb2.Flush(timeline=self._timeline, segment=segment),
            incarnation=self._incarnation,
            plan=self._plan,
            shard=self.shard,
            frame_bytes=sum(map(len, pieces)),
        )
        reply = await retrying(
            lambda: self._frames.Push(_messages(header, _each(gathered(pieces)), commit)),
            deadline=Deadline(self._clock, limit_s),
            backoff=Backoff(random.Random()),
            peer=self.name,
        )
        return bool(reply.outcome != shard_pb2.PushReply.FENCED)

    async def deposit(self, stream: int, step: int, attempt: int, planes: Mapping[str, bytes]) -> None:
        """Save this shard's part of a stream's state before the unit of `step`."""
        header = shard_pb2.DepositHeader(
            timeline=self._timeline,
            incarnation=self._incarnation,
            stream=stream,
            step=step,
            attempt=attempt,
            planes=list(planes),
        )

        async def chunks() -> AsyncIterator[shard_pb2.DepositChunk]:
            yield shard_pb2.DepositChunk(header=header)
            for name, data in planes.items():
                for chunk in plane_chunks(name, data):
                    yield shard_pb2.DepositChunk(plane=chunk)

        await self._patiently(lambda: self._state.Deposit(chunks()))

    async def withdraw(
        self, stream: int, step: int, expected: Callable[[str], int | range | None]
    ) -> dict[str, bytes]:
        """This shard's part of the deposit of a stream, by plane. `expected(plane)` bounds the sizes.

        Raises: StaleIncarnation as `follow`: the stream was given to another worker, which has deposited it since.
        """
        request = shard_pb2.WithdrawRequest(
            timeline=self._timeline, incarnation=self._incarnation, stream=stream, step=step
        )

        async def call() -> dict[str, bytes]:
            reader = PlaneReader(expected)
            done: Iterable[tuple[str, bytes] | None] = [
                reader.feed(chunk) async for chunk in self._state.Withdraw(request)
            ]
            reader.finish()
            return dict(part for part in done if part is not None)

        with _outrun():
            return await self._patiently(call)


async def _messages(
    header: shard_pb2.PushHeader, chunks: AsyncIterator[Data], commit: Commit
) -> AsyncIterator[shard_pb2.PushChunk | Data]:
    """A push, message by message."""
    yield shard_pb2.PushChunk(header=header)
    async for chunk in chunks:
        yield chunk
    yield shard_pb2.PushChunk(commit=commit_to_proto(commit))


async def _each(chunks: Iterable[Data]) -> AsyncIterator[Data]:
    for chunk in chunks:
        yield chunk


@contextmanager
def _outrun() -> Iterator[None]:
    """What a server refuses because it no longer retains it, this worker is too far behind for: it must join anew."""
    try:
        yield
    except (NoInput, ProtocolMismatch) as error:
        raise StaleIncarnation(f"{error}; this worker is too far behind and joins anew") from error


def _delta(header: shard_pb2.DeltaHeader, frame: tuple[Buffer, ...]) -> Delta:
    return Delta(
        shard=header.shard,
        version=header.version,
        frame=frame,
        step=header.step,
        closes=header.closes,
        clock=header.clock,
        deposit=header.deposit,
        final=header.final,
        pause=header.pause,
        outcomes=tuple(Outcome(unit_from_proto(o.unit), o.factor) for o in header.outcomes),
    )
