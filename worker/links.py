"""A worker's calls to one parameter server, on the network thread.

Bytes that were not acknowledged are sent again as they were. A server that is away is waited
for; where its shard is served elsewhere, under a higher term, what was not answered is asked
there. One that no longer has what this worker asks for has moved past it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TypeVar

import grpc

from wire import trace
from wire.clock import Clock
from wire.codec.base import Buffer
from wire.errors import NoInput, ProtocolMismatch, SparsyncError, StaleIncarnation, Unreachable
from wire.ids import UnitId
from wire.messages import Commit, ShardPlacement, unit_to_proto
from wire.rpc.access import InRun
from wire.rpc.chunks import Data, gathered
from wire.rpc.frames import data_of
from wire.rpc.identity import Security
from wire.rpc.planes import PlaneReader, plane_chunks
from wire.rpc.status import to_error
from wire.v1 import shard_pb2
from worker.deltas import Delta, delta_from_proto
from worker.outgoing import Outgoing, each, push_messages
from worker.patience import PATIENCE_S, Patience, patiently, within
from worker.place import Place, Redirect

log = logging.getLogger(__name__)
T = TypeVar("T")
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
    """All calls to whichever server serves one shard.

    Args:
        plan: number of the placement.
        bytes: of the shard's part of the model in float32.

    Attributes:
        moved: pieces of state, or of a whole model, that have arrived here.
    """

    def __init__(
        self,
        placement: ShardPlacement,
        security: Security,
        *,
        run: InRun,
        incarnation: int,
        plan: int,
        bytes: int,
        clock: Clock,
    ) -> None:
        self.shard = placement.shard
        self._security = security
        self._run, self._incarnation, self._plan = run, incarnation, plan
        self._clock = clock
        self._call_s = PATIENCE_S + STATE_MODELS * bytes / SLOWEST_BYTES_PER_S
        self._place = self._go_to(placement.address, placement.term)
        self._left: set[asyncio.Task[None]] = set()
        self.moved = 0

    def _go_to(self, address: str, term: int) -> Place:
        return Place(self.shard, address, term=term, security=self._security, run=self._run)

    def redirect(self, to: Redirect) -> None:
        """The shard is served elsewhere, if that is news: what runs is done again there, as it was."""
        older = self._place
        if to.term <= older.term:
            return
        log.info("shard %d is served at %s now, under term %d", self.shard, to.address, to.term)
        self._place = self._go_to(to.address, to.term)
        older.leave()
        closing = asyncio.get_running_loop().create_task(older.close())
        self._left.add(closing)
        closing.add_done_callback(self._left.discard)

    @property
    def _timeline(self) -> int:
        return self._run.timeline

    async def close(self) -> None:
        await asyncio.gather(*self._left)
        await self._place.close()

    async def _patiently(self, call: Callable[[Place], Awaitable[T]]) -> T:
        """Try again while the server is away, wherever it is by then; what moves slowly is not away."""

        async def once() -> T:
            place = self._place
            async with within(self._call_s, peer=place.name):
                return await call(place)

        return await patiently(once, Patience(self._clock), peer=f"server {self.shard}", sleep=self._pause)

    async def _counted(self, arriving: AsyncIterable[T]) -> AsyncIterator[T]:
        async for one in arriving:
            self.moved += 1
            yield one

    async def _pause(self, pause_s: float) -> None:
        """Until the next try, which comes at once where the shard is served elsewhere."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._place.left.wait(), pause_s)

    # --- the published model -------------------------------------------------------------------

    async def follow(self, version: int, put: Callable[[Delta], Awaitable[None]]) -> None:
        """Receive the deltas from `version` on, to the final one.

        Raises: StaleIncarnation where the server no longer retains them.
        """
        patience = Patience(self._clock)
        while True:
            patience.trying()
            failure: SparsyncError = Unreachable(f"server {self.shard} ended its deltas before the final one")
            try:
                async with aclosing(self._deltas(version, 0)) as deltas:
                    async for delta in deltas:
                        patience.heard()
                        await put(delta)
                        version = delta.version + 1
                        if delta.final:
                            return
            except grpc.aio.AioRpcError as error:
                failure = to_error(error, peer=f"server {self.shard}")
            except Unreachable as error:
                failure = error
            with _outrun():
                pause_s = patience.pause_s(failure)
            if patience.tries == 1:
                log.warning("%s; following again from version %d as soon as that is there", failure, version)
            await self._pause(pause_s)

    async def history(self, start: int, stop: int) -> list[Delta]:
        """The deltas from version `start` up to `stop`. Raises: StaleIncarnation as `follow`."""

        async def call(place: Place) -> list[Delta]:
            return [delta async for delta in self._deltas(start, stop)]

        with _outrun():
            return await self._patiently(call)

    async def _deltas(self, start: int, stop: int) -> AsyncGenerator[Delta, None]:
        place = self._place
        request = shard_pb2.FollowRequest(
            timeline=self._timeline,
            incarnation=self._incarnation,
            from_version=start,
            until_version=stop,
            term=place.term,
        )
        header, frame, size, began = shard_pb2.DeltaHeader(), list[Buffer](), 0, 0.0
        with place.running(place.frames.Follow(request)) as call:
            async for chunk in call:
                data = data_of(chunk)
                if data is None:
                    header, frame, size, began = chunk.header, [], 0, trace.begin()
                    self._check(header, place)
                    continue
                frame.append(data)
                size += len(data)
                if size > header.frame_bytes:
                    raise ProtocolMismatch(
                        f"{place.name} sent more than the {header.frame_bytes} bytes of a delta"
                    )
                if size == header.frame_bytes:
                    _told(header, began)
                    yield delta_from_proto(header, tuple(frame))

    def _check(self, header: shard_pb2.DeltaHeader, place: Place) -> None:
        """Raises: Unreachable for a delta that is not of this shard's primary; another one is to be waited for."""
        if header.shard != self.shard:
            raise Unreachable(f"{place.name} serves shard {header.shard}")
        if 0 < header.term < self._place.term:
            raise Unreachable(
                f"{place.name} sent a delta of term {header.term}, the shard's primary has term {self._place.term}"
            )

    async def snapshot(self, plane: str, size: int, *, step: int = 0, live: bool = False) -> Snapshot:
        """`published` at the newest retained base at or below `step` (`live`: as it is now), or `x`.

        Raises: StaleIncarnation where no such base is retained.
        """
        request = shard_pb2.SnapshotRequest(
            shard=self.shard,
            timeline=self._timeline,
            incarnation=self._incarnation,
            plane=plane,
            step=step,
            live=live,
        )

        async def call(place: Place) -> Snapshot:
            reader, found = PlaneReader(lambda name: size), Snapshot(step, 0, step, b"")
            with place.running(place.data.Snapshot(request)) as chunks:
                async for chunk in self._counted(chunks):
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
            header = shard_pb2.UploadHeader(
                timeline=self._timeline, incarnation=self._incarnation, shard=self.shard
            )
            yield shard_pb2.UploadChunk(header=header)
            for chunk in plane_chunks("x", plane):
                yield shard_pb2.UploadChunk(plane=chunk)

        async def call(place: Place) -> None:
            with place.running(place.state.Upload(chunks())) as uploading:
                await uploading

        await self._patiently(call)

    # --- units and stream state ------------------------------------------------------------------

    async def push(self, unit: UnitId, attempt: int, frame: Outgoing, commit: Commit, base: int) -> bool:
        """Send this shard's part of a unit until it is acknowledged; False: it was fenced."""
        header = shard_pb2.PushHeader(
            unit=unit_to_proto(unit), attempt=attempt, frame_bytes=frame.most_bytes, base_version=base
        )
        try:
            reply = await self._push(header, frame.chunks, commit)
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
            flush=shard_pb2.Flush(timeline=self._timeline, segment=segment), frame_bytes=sum(map(len, pieces))
        )
        async with within(limit_s, peer=f"server {self.shard}"):
            reply = await self._push(header, lambda: each(gathered(pieces)), commit)
        return bool(reply.outcome != shard_pb2.PushReply.FENCED)

    async def _push(
        self, header: shard_pb2.PushHeader, chunks: Callable[[], AsyncIterator[Data]], commit: Commit
    ) -> shard_pb2.PushReply:
        header.incarnation, header.plan, header.shard = self._incarnation, self._plan, self.shard

        async def call(place: Place) -> shard_pb2.PushReply:
            header.term = place.term
            with place.running(place.frames.Push(push_messages(header, chunks(), commit))) as pushing:
                reply: shard_pb2.PushReply = await pushing
            return reply

        return await self._patiently(call)

    async def deposit(self, stream: int, step: int, attempt: int, planes: Mapping[str, bytes]) -> None:
        """Save this shard's part of a stream's state before the unit of `step`."""
        header = shard_pb2.DepositHeader(
            shard=self.shard,
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

        async def call(place: Place) -> None:
            with place.running(place.state.Deposit(chunks())) as depositing:
                await depositing

        await self._patiently(call)

    async def withdraw(
        self, stream: int, step: int, expected: Callable[[str], int | range | None]
    ) -> dict[str, bytes]:
        """This shard's part of the deposit of a stream, by plane. `expected(plane)` bounds the sizes.

        Raises: StaleIncarnation as `follow`: the stream was given to another worker, which has deposited it since.
        """
        request = shard_pb2.WithdrawRequest(
            shard=self.shard, timeline=self._timeline, incarnation=self._incarnation, stream=stream, step=step
        )

        async def call(place: Place) -> dict[str, bytes]:
            reader = PlaneReader(expected)
            with place.running(place.state.Withdraw(request)) as chunks:
                done = [reader.feed(chunk) async for chunk in self._counted(chunks)]
            reader.finish()
            return dict(part for part in done if part is not None)

        with _outrun():
            return await self._patiently(call)


def _told(header: shard_pb2.DeltaHeader, began: float) -> None:
    """A delta is here whole."""
    trace.done(
        "follow",
        began,
        track=f"follow {header.shard}",
        shard=header.shard,
        version=header.version,
        step=header.step if header.closes else header.clock,
        bytes=header.frame_bytes,
    )


@contextmanager
def _outrun() -> Iterator[None]:
    """What a server refuses because it no longer retains it, this worker is too far behind for: it must join anew."""
    try:
        yield
    except (NoInput, ProtocolMismatch) as error:
        raise StaleIncarnation(f"{error}; this worker is too far behind and joins anew") from error
