"""All of a worker's traffic, on a thread with an event loop of its own; it ends with one incarnation.

Calls come from the training thread: `do_…` waits for the result, `begin_…` returns at once
and the outcome arrives in the mailbox. Nothing is encoded twice.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import grpc

from wire.clock import Clock, Deadline, monotonic_clock
from wire.crash import crash_point
from wire.errors import Interrupted, RunOver, SparsyncError, by_name
from wire.ids import HANDED_OVER, UnitId
from wire.layout import Layout
from wire.messages import (
    Commit,
    OptimizerSpec,
    ShardPlacement,
    layout_to_proto,
    optimizer_to_proto,
    placement_from_proto,
)
from wire.rpc.access import InRun
from wire.rpc.channel import open_channel
from wire.rpc.identity import Role, Security
from wire.rpc.in_run import InRunChannel
from wire.rpc.meter import SocketMeter
from wire.rpc.status import to_error
from wire.trace import span
from wire.v1 import coordinator_pb2, coordinator_pb2_grpc
from worker.deltas import Delta
from worker.line import Line, Order, at_the_coordinator
from worker.links import ShardLink, Snapshot
from worker.mailbox import WAKE_S, End, Flushed, Mailbox
from worker.outgoing import Outgoing
from worker.patience import Patience, patiently
from worker.place import Redirect

log = logging.getLogger(__name__)
T = TypeVar("T")
EXTRA_BYTES = 1 << 28
"""Most bytes of a stream's state that is no plane."""
MOVING_S = 1.0
"""So often a worker says that state is arriving."""
LEAVE_S = 10.0
"""A worker that is asked to go waits so long for servers that are away."""
AFTER_END_S = 5.0
"""So long after the run's end an answer of a server's is waited for."""


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
        run: InRun,
        incarnation: int,
        clock: Clock = monotonic_clock,
    ) -> None:
        self._peer = f"coordinator {coordinator}"
        self._security = security
        self._run, self._incarnation = run, incarnation
        self._clock = clock
        self._meter = SocketMeter()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="transfer", daemon=True)
        self._thread.start()
        self._tasks: set[asyncio.Task[None]] = set()
        self._following: list[asyncio.Task[None]] = []
        self._links: list[ShardLink] = []
        self._closed = False
        self._echo = threading.Event()
        self._echo.set()
        self._taken = asyncio.Event()
        self.placement: tuple[ShardPlacement, ...] = ()
        self.mailbox = Mailbox(0)
        self.on_wait: Callable[[], bool] = lambda: False
        """Called while servers are waited for: whether this worker is asked to go."""
        self._control = self._do(self._open_control(coordinator))
        self._stub = coordinator_pb2_grpc.CoordinatorStub(InRunChannel(self._control, run))
        self._line = Line(self._stub, peer=self._peer, incarnation=incarnation, hear=self._hear, clock=clock)

    def answers(self) -> bool:
        """Whether the network thread has done what the last call asked of it, which was to say so."""
        if not self._echo.is_set():
            return False
        self._echo.clear()
        self._loop.call_soon_threadsafe(self._echo.set)
        return True

    async def _open_control(self, coordinator: str) -> grpc.aio.Channel:
        return open_channel(coordinator, self._security, role=Role.COORDINATOR, pool="control")

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` on the network thread and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _do_there(self, work: Coroutine[Any, Any, T]) -> T:
        """As `_do`, with servers that may be away for long.

        Raises: what the run ended with meanwhile; Interrupted where this worker is to go, and waits for them.
        """
        doing = asyncio.run_coroutine_threadsafe(work, self._loop)
        patience: Deadline | None = None
        going: Deadline | None = None
        while True:
            try:
                return doing.result(WAKE_S)
            except TimeoutError:
                if doing.done():
                    raise
            if (end := self.mailbox.end) is not None:
                patience = patience or Deadline(self._clock, AFTER_END_S)
                if patience.passed:
                    doing.cancel()
                    raise by_name(end.error)(end.reason) if end.error else RunOver(end.reason)
            if self.on_wait():
                going = going or Deadline(self._clock, LEAVE_S)
                if going.passed:
                    doing.cancel()
                    raise Interrupted("asked to end while a server is away: nothing more is handed over")

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Start `work` on the network thread; what it raises goes to the mailbox."""
        self._loop.call_soon_threadsafe(self._start, work)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            if isinstance(error, grpc.aio.AioRpcError):
                error = to_error(error, peer="a peer")
            self.mailbox.put_error(error if isinstance(error, Exception) else RuntimeError(repr(error)))

    # --- the coordinator -------------------------------------------------------------------

    def do_declare(self, layout: Layout, optimizer: OptimizerSpec) -> bool:
        """Tell the model, wait for its placement, connect to the shards; whether to upload the parameters.

        The coordinator answers once there are servers, however long that takes; if it ends meanwhile it is asked again.

        Raises:
            ModelMismatch: the run's model is another one.
            RunOver: it has ended.
        """
        reply = self._do_there(self._declare(layout, optimizer))
        self.placement = placement_from_proto(reply.placement)
        self.mailbox = Mailbox(len(self.placement))
        self.mailbox.on_taken = self._tell_taken
        self._do(self._connect(layout, reply.plan))
        return reply.upload

    async def _declare(self, layout: Layout, optimizer: OptimizerSpec) -> coordinator_pb2.DeclareReply:
        request = coordinator_pb2.DeclareRequest(
            incarnation=self._incarnation,
            parameters=layout_to_proto(layout),
            optimizer=optimizer_to_proto(optimizer),
        )

        async def ask() -> coordinator_pb2.DeclareReply:
            with at_the_coordinator(self._peer):
                reply: coordinator_pb2.DeclareReply = await self._stub.Declare(request)
                return reply

        return await patiently(ask, Patience(self._clock), peer=self._peer)

    async def _connect(self, layout: Layout, plan: int) -> None:
        self._links = [
            ShardLink(
                p,
                self._security,
                run=self._run,
                incarnation=self._incarnation,
                plan=plan,
                bytes=4 * layout.elements(p.ranges),
                clock=self._clock,
            )
            for p in self.placement
        ]

    def begin_attending(self) -> None:
        """Open the line to the coordinator, and again when it breaks."""
        self._begin(self._line.attend())

    def _hear(self, order: Order) -> None:
        match order:
            case End():
                self.mailbox.put_end(order)
            case Redirect():
                self._links[order.shard].redirect(order)
            case _:
                self.mailbox.put_plan(order)

    @property
    def attended(self) -> bool:
        """Whether the coordinator is there, as far as this worker's line tells."""
        return self._line.stands

    def report(self, **fields: Any) -> None:
        """Queue a report, by the name of its field in WorkerReport."""
        if not self._closed:
            self._loop.call_soon_threadsafe(self._line.tell, coordinator_pb2.WorkerReport(**fields))

    def flush(self, limit_s: float) -> None:
        """Let queued reports leave, at most `limit_s`; what is left then is lost with the line."""
        if not self._closed:
            self._do(self._line.leave(limit_s))

    # --- the shards --------------------------------------------------------------------------

    def begin_following(
        self, versions: Sequence[int], steps: Sequence[int], opened: Callable[[Delta], Delta]
    ) -> None:
        """Receive shard i's deltas from `versions[i]` on, where it stands at `steps[i]`; an older following ends.

        `opened` decodes them, on threads beside the training thread.
        """
        mailbox = self.mailbox
        number = mailbox.begin_deltas(steps)

        async def put(delta: Delta) -> None:
            mailbox.put_delta(await self._loop.run_in_executor(None, opened, delta), number)
            while mailbox.crowded(delta.shard):
                self._taken.clear()
                if mailbox.crowded(delta.shard):
                    await self._taken.wait()

        def start() -> None:
            for task in self._following:
                task.cancel()
            pairs = zip(self._links, versions, strict=True)
            self._following = [self._start(link.follow(version, put)) for link, version in pairs]

        self._loop.call_soon_threadsafe(start)

    def _tell_taken(self) -> None:
        if not self._closed:
            self._loop.call_soon_threadsafe(self._taken.set)

    def do_history(self, starts: Sequence[int], count: int) -> list[Sequence[Delta]]:
        """The `count` deltas of every shard i from version `starts[i]` on: those of one step together."""
        if count <= 0:
            return []
        lanes = self._do_there(
            self._gather(lambda link: link.history(starts[link.shard], starts[link.shard] + count))
        )
        return list(zip(*lanes, strict=True))

    async def _gather(self, call: Callable[[ShardLink], Awaitable[T]]) -> list[T]:
        return list(await asyncio.gather(*(call(link) for link in self._links)))

    async def _fetch(self, call: Callable[[ShardLink], Awaitable[T]]) -> list[T]:
        """As `_gather`; the coordinator hears of it once a second, as long as anything arrives."""
        fetching = self._loop.create_task(self._gather(call))
        arrived = self._arrived()
        try:
            while not (await asyncio.wait([fetching], timeout=MOVING_S))[0]:
                before, arrived = arrived, self._arrived()
                if arrived > before:
                    self._line.tell(coordinator_pb2.WorkerReport(moving=coordinator_pb2.Moving()))
            return fetching.result()
        finally:
            fetching.cancel()

    def _arrived(self) -> int:
        return sum(link.moved for link in self._links)

    def do_snapshot(
        self, plane: str, sizes: Sequence[int], *, step: int = 0, live: bool = False
    ) -> list[Snapshot]:
        """Each shard's part of x̂ at the newest retained base at or below `step` (`live`: as it is now), or of `x`."""
        return self._do_there(
            self._fetch(lambda link: link.snapshot(plane, sizes[link.shard], step=step, live=live))
        )

    def do_upload(self, planes: Sequence[bytes]) -> None:
        """The initial parameters, each shard's part."""
        self._do_there(self._gather(lambda link: link.upload(planes[link.shard])))

    def begin_push(
        self,
        shard: int,
        unit: UnitId,
        attempt: int,
        pieces: Iterable[bytes],
        commit: Commit,
        *,
        base: int,
        most_bytes: int,
    ) -> None:
        """Send one shard's part of a unit, computed from its version `base`, until it is acknowledged.

        Each piece of the frame leaves while the next one is being made. `most_bytes`: of the frame.
        """
        mailbox, frame = self.mailbox, Outgoing(self._loop, most_bytes=most_bytes)

        async def push() -> None:
            with span("push", track=f"push {shard}", shard=shard, step=unit.step, stream=unit.stream):
                accepted = await self._links[shard].push(unit, attempt, frame, commit, base)
            crash_point("worker.acknowledged.after")
            mailbox.put_answer(unit, accepted=accepted)

        mailbox.expect_answer(unit)
        self._begin(push())
        for piece in pieces:
            frame.add(piece)
        frame.finish()

    def begin_flush(
        self, shard: int, segment: int, pieces: Sequence[bytes], commit: Commit, *, limit_s: float
    ) -> None:
        """Send all that is held back for one shard, at most for `limit_s`."""
        mailbox = self.mailbox

        async def flush() -> None:
            try:
                taken = await self._links[shard].flush(segment, pieces, commit, limit_s=limit_s)
                answer = Flushed.TAKEN if taken else Flushed.REFUSED
            except SparsyncError as error:
                log.warning("what is held back for shard %d is lost: %s", shard, error)
                answer = Flushed.FAILED
            mailbox.put_flushed(shard, answer)

        self._begin(flush())

    def begin_deposit(
        self, stream: int, step: int, attempt: int, planes: Sequence[Mapping[str, bytes]], *, released: bool
    ) -> None:
        """Save a stream's state on every shard, then report it."""

        async def deposit_all() -> None:
            crash_point("worker.deposit.before")
            with span("deposit", track="deposit", step=step, stream=stream):
                await self._gather(lambda link: link.deposit(stream, step, attempt, planes[link.shard]))
            crash_point("worker.deposit.after")
            deposited = coordinator_pb2.Deposited(
                stream=stream, step=step, released=released, attempt=attempt
            )
            self._line.tell(coordinator_pb2.WorkerReport(deposited=deposited))

        self._begin(deposit_all())

    def begin_hand_over(self, step: int, extra: bytes) -> None:
        """Save what this worker keeps beside the parameters on the first shard, then report it."""

        async def hand_over() -> None:
            await self._links[0].deposit(HANDED_OVER, step, 0, {"extra": extra})
            handed = coordinator_pb2.HandedOver(step=step)
            self._line.tell(coordinator_pb2.WorkerReport(handed_over=handed))

        self._begin(hand_over())

    def do_take_over(self, step: int) -> bytes:
        """What a worker handed over at `step`. Raises: StaleIncarnation where that is kept no more."""
        sizes = {"extra": range(EXTRA_BYTES + 1)}
        return self._do_there(self._links[0].withdraw(HANDED_OVER, step, sizes.get))["extra"]

    def do_withdraw(
        self, stream: int, step: int, expected: Callable[[int, str], int | range | None]
    ) -> list[dict[str, bytes]]:
        """The deposit of a stream: each shard's planes by name. `expected(shard, plane)` bounds their sizes."""
        return self._do_there(
            self._fetch(lambda link: link.withdraw(stream, step, lambda name: expected(link.shard, name)))
        )

    def socket_bytes(self) -> Mapping[str, tuple[int, int]]:
        """(sent, received) at the sockets so far, by pool."""
        return self._meter.sample()

    def bytes_moved(self) -> tuple[int, int, int]:
        """(pushed, pulled, state) at the sockets so far."""
        pools = self._meter.sample()
        sent, received = pools.get("data", (0, 0))
        return sent, received, sum(pools.get("state", (0, 0)))

    def close(self) -> None:
        """End the thread and the connections; what is still on its way is dropped. A repeat does nothing."""
        if self._closed:
            return
        self._closed = True
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for link in self._links:
            await link.close()
        await self._control.close(None)
        left = asyncio.all_tasks() - {
            asyncio.current_task()
        }  # gRPC's own: they end now that their calls have
        if left:
            await asyncio.wait(left, timeout=1.0)
