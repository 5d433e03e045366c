"""All of a worker's traffic, on a thread with an event loop of its own.

Calls come from the training thread: `do_…` waits for the result, `begin_…` returns at once
and the outcome arrives in the mailbox. Bytes that were not acknowledged are sent again as
they were; nothing is encoded twice.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import grpc

from wire.clock import Clock, Deadline, monotonic_clock
from wire.errors import ProtocolMismatch
from wire.ids import UnitId
from wire.layout import Layout
from wire.messages import (
    Commit,
    OptimizerSpec,
    ShardPlacement,
    commit_to_proto,
    layout_to_proto,
    optimizer_to_proto,
    placement_from_proto,
    unit_to_proto,
)
from wire.rpc.channel import open_channel
from wire.rpc.identity import Security
from wire.rpc.meter import SocketMeter
from wire.rpc.planes import PlaneReader, plane_chunks
from wire.rpc.retry import Backoff, retrying
from wire.rpc.status import to_error
from wire.v1 import coordinator_pb2, coordinator_pb2_grpc, shard_pb2, shard_pb2_grpc
from worker.mailbox import Delta, End, Mailbox, Plan
from worker.streams import Assignment

log = logging.getLogger(__name__)
T = TypeVar("T")
CHUNK_BYTES = 1 << 20
PATIENCE_S = 60.0
"""How long a server or the coordinator may be away before the worker gives up."""
SLOWEST_BYTES_PER_S = 100_000
STATE_MODELS = 4
"""A call may move as many times the model as a stream has planes, at the slowest rate that is served."""
EXTRA_BYTES = 1 << 28

Reports = asyncio.Queue[coordinator_pb2.WorkerReport | None]
"""What is to be told on one line; None ends it."""


class Transfer:
    """Connections of one incarnation of a worker.

    Args:
        coordinator: host:port.
    """

    def __init__(
        self,
        *,
        coordinator: str,
        security: Security,
        incarnation: int,
        timeline: int,
        clock: Clock = monotonic_clock,
    ) -> None:
        self._coordinator = coordinator
        self._security = security
        self._incarnation = incarnation
        self._timeline = timeline
        self._clock = clock
        self._meter = SocketMeter()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="transfer", daemon=True)
        self._thread.start()
        self._tasks: set[asyncio.Task[None]] = set()
        self._reports: Reports = asyncio.Queue()
        self._lasting: dict[str, coordinator_pb2.WorkerReport] = {}
        self._shards: list[_ShardLink] = []
        self.placement: tuple[ShardPlacement, ...] = ()
        self._plan = 0
        self._mailbox = Mailbox(0)
        self._control = self._do(self._open_control())
        self._stub = coordinator_pb2_grpc.CoordinatorStub(self._control)

    async def _open_control(self) -> grpc.aio.Channel:
        return open_channel(self._coordinator, self._security, pool="control")

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` on the network thread and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Start `work` on the network thread; what it raises goes to the mailbox."""

        def start() -> None:
            task = self._loop.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._done)

        self._loop.call_soon_threadsafe(start)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            if isinstance(error, grpc.aio.AioRpcError):
                error = to_error(error, peer="a peer")
            self._mailbox.put_error(error if isinstance(error, Exception) else RuntimeError(repr(error)))

    async def _patiently(self, call: Callable[[], Awaitable[T]], link: _ShardLink) -> T:
        """Try again while the server is away; what moves slowly is not away (keepalive finds a dead peer)."""
        deadline = Deadline(self._clock, link.patience_s)
        return await retrying(call, deadline=deadline, backoff=Backoff(random.Random()), peer=link.name)

    # --- the coordinator -------------------------------------------------------------------

    def do_declare(self, layout: Layout, optimizer: OptimizerSpec) -> bool:
        """Tell the model, wait for its placement, connect to the shards; whether to upload the parameters.

        Raises: ModelMismatch when the run's model is another one.
        """
        reply = self._do(self._declare(layout, optimizer))
        self.placement = placement_from_proto(reply.placement)
        self._plan = reply.plan
        self._mailbox = Mailbox(len(self.placement))
        self._do(self._connect(layout))
        return reply.upload

    async def _declare(self, layout: Layout, optimizer: OptimizerSpec) -> coordinator_pb2.DeclareReply:
        request = coordinator_pb2.DeclareRequest(
            incarnation=self._incarnation,
            parameters=layout_to_proto(layout),
            optimizer=optimizer_to_proto(optimizer),
        )
        try:
            reply: coordinator_pb2.DeclareReply = await self._stub.Declare(request)
        except grpc.aio.AioRpcError as error:
            raise to_error(error, peer=f"coordinator {self._coordinator}") from None
        return reply

    async def _connect(self, layout: Layout) -> None:
        self._shards = [
            _ShardLink(p, self._security, bytes=4 * layout.elements(p.ranges)) for p in self.placement
        ]

    @property
    def mailbox(self) -> Mailbox:
        return self._mailbox

    def begin_attending(self) -> None:
        """Open the line to the coordinator, and again when it breaks."""
        self._begin(self._attend())

    async def _attend(self) -> None:
        peer = f"coordinator {self._coordinator}"
        backoff, broken = Backoff(random.Random()), None
        while True:
            call = self._stub.Attend(self._outgoing(self._reports))
            try:
                async for order in call:
                    backoff.reset()
                    broken = None
                    if self._take_order(order):
                        return
            except grpc.aio.AioRpcError as error:
                failure = to_error(error, peer=peer)
                broken = broken or Deadline(self._clock, PATIENCE_S)
                if not failure.retry or broken.passed:
                    raise failure from None
                log.warning("%s; opening the line again", failure)
            finally:
                call.cancel()
                self._end_line()
            await asyncio.sleep(backoff.next())

    def _end_line(self) -> None:
        """What a broken line has not taken is left to the next one.

        gRPC goes on asking for reports after the call broke: it would take, and lose, the next one.
        """
        older, self._reports = self._reports, asyncio.Queue()
        while not older.empty():
            self._reports.put_nowait(older.get_nowait())
        older.put_nowait(None)

    async def _outgoing(self, reports: Reports) -> AsyncIterator[coordinator_pb2.WorkerReport]:
        """What is told on a new line: who this is, what must not be lost with an older line, then all that comes."""
        attending = coordinator_pb2.Attending(incarnation=self._incarnation)
        yield coordinator_pb2.WorkerReport(attending=attending)
        for report in list(self._lasting.values()):
            yield report
        while (following := await reports.get()) is not None:
            yield following
            reports.task_done()

    def _take_order(self, order: coordinator_pb2.WorkerOrder) -> bool:
        """Whether it was the last one."""
        if order.HasField("end"):
            self._mailbox.put_end(End(order.end.reason, order.end.error))
            return True
        assignments = tuple(
            Assignment(
                stream=a.stream,
                attempt=a.attempt,
                step=a.step,
                deposit=a.deposit_step,
                has_deposit=a.has_deposit,
                send_to=tuple(a.send_to),
                release=a.release,
            )
            for a in order.plan.assignments
        )
        self._mailbox.put_plan(Plan(assignments, order.plan.total_steps))
        return False

    def report(self, **fields: Any) -> None:
        """Queue a report, by the name of its field in WorkerReport."""
        self._loop.call_soon_threadsafe(self._queue, coordinator_pb2.WorkerReport(**fields))

    def _queue(self, report: coordinator_pb2.WorkerReport) -> None:
        match report.WhichOneof("report"):
            case "uploaded" | "ready" | "leaving" as kind:
                self._lasting[kind] = report
            case "deposited":
                self._lasting[f"deposited {report.deposited.stream}"] = report
            case "evaluated":
                self._lasting[f"evaluated {report.evaluated.model}"] = report
        self._reports.put_nowait(report)

    # --- the shards --------------------------------------------------------------------------

    def begin_following(self, version: int) -> None:
        """Receive every shard's deltas from `version` on."""
        for link in self._shards:
            self._begin(self._follow(link, version))

    async def _follow(self, link: _ShardLink, version: int) -> None:
        backoff, broken = Backoff(random.Random()), None
        while True:
            try:
                async for delta in self._deltas(link, version, 0):
                    backoff.reset()
                    broken = None
                    self._mailbox.put_delta(delta)
                    version = delta.version + 1
                    if delta.final:
                        return
            except grpc.aio.AioRpcError as error:
                failure = to_error(error, peer=link.name)
                broken = broken or Deadline(self._clock, PATIENCE_S)
                if not failure.retry or broken.passed:
                    raise failure from None
                log.warning("%s; following again from version %d", failure, version)
            await asyncio.sleep(backoff.next())

    async def _deltas(self, link: _ShardLink, start: int, stop: int) -> AsyncIterator[Delta]:
        request = shard_pb2.FollowRequest(
            timeline=self._timeline, incarnation=self._incarnation, from_version=start, until_version=stop
        )
        header, frame = shard_pb2.DeltaHeader(), bytearray()
        async for chunk in link.data.Follow(request):
            if chunk.HasField("header"):
                header, frame = chunk.header, bytearray()
            else:
                frame += chunk.data
            if len(frame) > header.frame_bytes:
                raise ProtocolMismatch(
                    f"{link.name} sent more than the {header.frame_bytes} bytes of a delta"
                )
            if len(frame) == header.frame_bytes:
                if any(o.factor != 1.0 for o in header.outcomes):
                    raise ProtocolMismatch(
                        f"{link.name} settled a unit in part; this worker knows only whole ones"
                    )
                yield Delta(header.shard, header.version, bytes(frame), header.deposit, header.final)

    def do_history(self, start: int, stop: int) -> list[list[Delta]]:
        """The deltas of all shards from version `start` up to `stop`, by version."""
        if start >= stop:
            return []
        lanes = self._do(self._gather(lambda link: self._history(link, start, stop)))
        return [list(deltas) for deltas in zip(*lanes, strict=True)]

    async def _history(self, link: _ShardLink, start: int, stop: int) -> list[Delta]:
        async def call() -> list[Delta]:
            return [delta async for delta in self._deltas(link, start, stop)]

        return await self._patiently(call, link)

    async def _gather(self, call: Callable[[_ShardLink], Awaitable[T]]) -> list[T]:
        return list(await asyncio.gather(*(call(link) for link in self._shards)))

    def do_snapshot(self, plane: str, version: int, sizes: Sequence[int]) -> tuple[int, list[bytes]]:
        """x̂ at the newest retained base at or below `version` (or `x`): its version and each shard's bytes."""
        answers = self._do(self._gather(lambda link: self._snapshot(link, plane, version, sizes)))
        versions = {v for v, _ in answers}
        if len(versions) != 1:
            raise ProtocolMismatch(f"the shards sent {plane} at different versions {sorted(versions)}")
        return versions.pop(), [data for _, data in answers]

    async def _snapshot(
        self, link: _ShardLink, plane: str, version: int, sizes: Sequence[int]
    ) -> tuple[int, bytes]:
        request = shard_pb2.SnapshotRequest(
            timeline=self._timeline, incarnation=self._incarnation, plane=plane, version=version
        )

        async def call() -> tuple[int, bytes]:
            reader = PlaneReader(lambda name: sizes[link.shard])
            found = (version, b"")
            async for chunk in link.data.Snapshot(request):
                if (complete := reader.feed(chunk)) is not None:
                    base = complete[0].partition("/")[2]
                    found = (int(base) if base else version, complete[1])
            reader.finish()
            return found

        return await self._patiently(call, link)

    def do_upload(self, planes: Sequence[bytes]) -> None:
        """The initial parameters, each shard's part."""

        async def chunks(data: bytes) -> AsyncIterator[shard_pb2.UploadChunk]:
            header = shard_pb2.UploadHeader(timeline=self._timeline, incarnation=self._incarnation)
            yield shard_pb2.UploadChunk(header=header)
            for chunk in plane_chunks("x", data):
                yield shard_pb2.UploadChunk(plane=chunk)

        async def upload(link: _ShardLink) -> None:
            await self._patiently(lambda: link.state.Upload(chunks(planes[link.shard])), link)

        self._do(self._gather(upload))

    def begin_push(self, shard: int, unit: UnitId, attempt: int, frame: bytes, commit: Commit) -> None:
        """Send one shard's part of a unit until it is acknowledged."""
        header = shard_pb2.PushHeader(
            unit=unit_to_proto(unit),
            attempt=attempt,
            incarnation=self._incarnation,
            plan=self._plan,
            shard=shard,
            frame_bytes=len(frame),
        )
        last = shard_pb2.PushChunk(commit=commit_to_proto(commit))

        async def chunks() -> AsyncIterator[shard_pb2.PushChunk]:
            yield shard_pb2.PushChunk(header=header)
            for start in range(0, len(frame), CHUNK_BYTES):
                yield shard_pb2.PushChunk(data=frame[start : start + CHUNK_BYTES])
            yield last

        async def push() -> None:
            link = self._shards[shard]
            reply = await self._patiently(lambda: link.data.Push(chunks()), link)
            if reply.outcome == shard_pb2.PushReply.FENCED:
                log.warning("%s attempt %d was fenced on shard %d", unit, attempt, shard)

        self._begin(push())

    def begin_deposit(
        self, stream: int, step: int, attempt: int, planes: Sequence[Mapping[str, bytes]], *, released: bool
    ) -> None:
        """Save a stream's state on every shard, then report it."""

        async def chunks(parts: Mapping[str, bytes]) -> AsyncIterator[shard_pb2.DepositChunk]:
            header = shard_pb2.DepositHeader(
                timeline=self._timeline,
                incarnation=self._incarnation,
                stream=stream,
                step=step,
                attempt=attempt,
            )
            yield shard_pb2.DepositChunk(header=header)
            for name, data in parts.items():
                for chunk in plane_chunks(name, data):
                    yield shard_pb2.DepositChunk(plane=chunk)

        async def deposit(link: _ShardLink) -> None:
            await self._patiently(lambda: link.state.Deposit(chunks(planes[link.shard])), link)

        async def deposit_all() -> None:
            await self._gather(deposit)
            deposited = coordinator_pb2.Deposited(stream=stream, step=step, released=released)
            self._queue(coordinator_pb2.WorkerReport(deposited=deposited))

        self._begin(deposit_all())

    def do_withdraw(
        self, stream: int, step: int, expected: Callable[[int, str], int | range | None]
    ) -> list[dict[str, bytes]]:
        """The deposit of a stream: each shard's planes by name. `expected(shard, plane)` bounds their sizes."""
        request = shard_pb2.WithdrawRequest(
            timeline=self._timeline, incarnation=self._incarnation, stream=stream, step=step
        )

        async def withdraw(link: _ShardLink) -> dict[str, bytes]:
            async def call() -> dict[str, bytes]:
                reader = PlaneReader(lambda name: expected(link.shard, name))
                done: Iterable[tuple[str, bytes] | None] = [
                    reader.feed(chunk) async for chunk in link.state.Withdraw(request)
                ]
                reader.finish()
                return dict(part for part in done if part is not None)

            return await self._patiently(call, link)

        return self._do(self._gather(withdraw))

    def bytes_moved(self) -> tuple[int, int, int]:
        """(pushed, pulled, state) at the sockets so far."""
        pools = self._meter.sample()
        sent, received = pools.get("data", (0, 0))
        return sent, received, sum(pools.get("state", (0, 0)))

    def close(self) -> None:
        """End the thread and the connections; what is still on its way is dropped."""
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for link in self._shards:
            await link.close()
        await self._control.close(None)
        left = asyncio.all_tasks() - {
            asyncio.current_task()
        }  # gRPC's own: they end now that their calls have
        if left:
            await asyncio.wait(left, timeout=1.0)

    def flush(self, limit_s: float) -> None:
        """Let queued reports leave, at most `limit_s`; what is left then is lost with the line."""

        async def leave() -> None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._reports.join(), limit_s)

        self._do(leave())


class _ShardLink:
    """Two connections to one server: frames and deltas on one, state on the other.

    Args:
        bytes: of the shard's part of the model in float32.
    """

    def __init__(self, placement: ShardPlacement, security: Security, *, bytes: int) -> None:
        self.shard = placement.shard
        self.patience_s = PATIENCE_S + STATE_MODELS * bytes / SLOWEST_BYTES_PER_S
        self.name = f"server {placement.shard} at {placement.address}"
        self._channels = [open_channel(placement.address, security, pool=pool) for pool in ("data", "state")]
        self.data = shard_pb2_grpc.ShardStub(self._channels[0])
        self.state = shard_pb2_grpc.ShardStub(self._channels[1])

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close(None)
