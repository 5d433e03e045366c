"""The Shard service: decode, call the owner, encode.

Who may call what is settled before anything is read: the coordinator by its term, workers by
timeline and incarnation (docs: ARCHITECTURE.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc

from ps.holdings import shard_codecs
from ps.ledger import Verdict
from ps.messages import (
    accepted_to_proto,
    fenced_to_proto,
    first_segment,
    news_to_proto,
    outcome_of,
    pushed,
    refused_to_proto,
    segment_from_proto,
)
from ps.owner import News, Owner
from ps.publish import Delta
from ps.records import (
    Advance,
    Close,
    Deposit,
    Fence,
    Fenced,
    Retire,
    ShardSpec,
)
from ps.terms import TermGuard
from wire.codec.base import Buffer, DamagedFrame, frame_bytes
from wire.codec.dense import pack
from wire.config import Config
from wire.errors import ProtocolMismatch, SparsyncError, StaleIncarnation
from wire.ids import Term
from wire.messages import (
    layout_from_proto,
    optimizer_from_proto,
    ranges_from_proto,
    unit_from_proto,
    unit_to_proto,
)
from wire.rpc.chunks import Data, gathered
from wire.rpc.frames import data_of
from wire.rpc.planes import PlaneReader, plane_chunks
from wire.v1 import common_pb2, shard_pb2, shard_pb2_grpc

EXTRA_BYTES = 1 << 28
"""Most bytes of a stream's state that is no plane (buffers, loss scaler, the user's objects)."""

Context = grpc.aio.ServicerContext[Any, Any]
Events = asyncio.Queue[shard_pb2.ShardEvent | None]
"""What a shard has to tell its coordinator; None ends the line."""


class ShardService(shard_pb2_grpc.ShardServicer):
    """Handlers of one server. It listens before it joins, so that it can tell its address.

    Args:
        owner: what holds the shard.
        finish: called when the coordinator says that the run is over.
    """

    def __init__(self, owner: Owner, *, finish: Callable[[str], None]) -> None:
        self._owner = owner
        owner.on_news = self._tell
        self._finish = finish
        self._joined = asyncio.Event()
        self._events: Events | None = None
        self.attached = asyncio.Event()

    def joined(self, *, incarnation: int, timeline: int, config: Config, terms: TermGuard) -> None:
        """The coordinator took this server in: from now on it obeys the highest term of `terms`."""
        self._incarnation = incarnation
        self._timeline = timeline
        self._config = config
        self._terms = terms
        self._joined.set()

    async def end(self) -> None:
        """End the lines that would stay open: the coordinator's, the followers'."""
        if self._events is not None:
            self._events.put_nowait(None)
        await self._owner.end()

    # --- coordinator -------------------------------------------------------------------

    async def Control(
        self, request_iterator: AsyncIterator[shard_pb2.ShardCommand], context: Context
    ) -> AsyncIterator[shard_pb2.ShardEvent]:
        await self._joined.wait()
        events: Events = asyncio.Queue()
        obey = asyncio.create_task(self._obey(request_iterator, events))
        self.attached.set()
        try:
            while (event := await events.get()) is not None:
                yield event
            if obey.done():
                await obey  # raises what ended it
        finally:
            obey.cancel()
            if self._events is events:
                self._events = None
                self.attached.clear()

    async def _obey(self, commands: AsyncIterator[shard_pb2.ShardCommand], events: Events) -> None:
        """Take commands one by one, until the coordinator closes the line or is not to be obeyed any more."""
        try:
            async for command in commands:
                self._terms.obey(Term(command.term.number, command.term.nonce), command.term.journal_seq)
                try:
                    await self._command(command, events)
                except SparsyncError as error:
                    events.put_nowait(shard_pb2.ShardEvent(refused=refused_to_proto(error)))
        finally:
            events.put_nowait(None)

    async def _command(self, command: shard_pb2.ShardCommand, events: Events) -> None:
        match command.WhichOneof("command"):
            case "attach":
                self._check_timeline(command.attach.timeline)
                self._events = events  # first: what is accepted meanwhile is told twice rather than never
                state = await self._owner.read(lambda: self._state(command.attach.low))
                events.put_nowait(shard_pb2.ShardEvent(state=state))
            case "configure":
                await self._configure(command.configure)
                configured = shard_pb2.Configured(shard=command.configure.shard)
                events.put_nowait(shard_pb2.ShardEvent(configured=configured))
            case "close":
                await self._close(command.close, events)
            case "fence":
                record = Fence(command.fence.step, command.fence.stream, command.fence.attempt)
                answer = await self._owner.apply(record)
                assert isinstance(answer, Fenced)
                events.put_nowait(shard_pb2.ShardEvent(fenced=fenced_to_proto(answer)))
            case "segment":
                segment = segment_from_proto(command.segment)
                await self._owner.apply(segment)
                events.put_nowait(shard_pb2.ShardEvent(began=shard_pb2.Began(segment=segment.number)))
            case "retire":
                incarnation = command.retire.incarnation
                await self._owner.apply(
                    Retire(incarnation)
                )  # what it had accepted was told before this returns
                events.put_nowait(shard_pb2.ShardEvent(retired=shard_pb2.Retired(incarnation=incarnation)))
            case "advance":
                await self._owner.apply(Advance(command.advance.low))
            case "finish":
                self._finish(command.finish.reason)
            case other:
                raise ProtocolMismatch(f"unknown command {other!r}: the coordinator is of another version")

    async def _configure(self, message: shard_pb2.Configure) -> None:
        optimizer = optimizer_from_proto(message.optimizer)
        spec = ShardSpec(
            shard=message.shard,
            timeline=self._timeline,
            plan=message.plan,
            layout=layout_from_proto(message.parameters),
            ranges=ranges_from_proto(message.ranges),
            optimizer=optimizer,
            streams=self._config.sync.units_per_step,
            aggregate=self._config.optimizer.aggregate,
            segment=first_segment(message),
            damping=self._config.sync.damping,
            max_staleness=self._config.sync.max_staleness,
        )
        push, pull, elastic_push = shard_codecs(spec, self._config)
        await self._owner.read(lambda: self._owner.configure(spec, push, pull, elastic_push=elastic_push))

    async def _close(self, message: shard_pb2.Close, events: Events) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        record = Close(
            message.step,
            tuple(message.streams),
            message.deposit,
            message.final,
            message.retain_from,
            late=tuple(message.late),
            pause=message.pause,
        )
        delta = await self._owner.apply(record)
        assert isinstance(delta, Delta)
        settled = shard_pb2.Settled(
            step=delta.step,
            version=delta.version + 1,
            delta_bytes=delta.frame_bytes,
            seconds=loop.time() - started,
        )
        events.put_nowait(shard_pb2.ShardEvent(settled=settled))

    def _state(self, low: int) -> shard_pb2.ShardState:
        state = shard_pb2.ShardState(incarnation=self._incarnation, configured=self._owner.configured)
        if self._owner.configured:
            shard = self._owner.shard
            state.version = shard.deltas.version
            state.step = shard.ledger.step
            state.segment = shard.segment.number
            state.accepted.extend(map(accepted_to_proto, shard.accepted_from(low)))
        return state

    def _tell(self, news: News) -> None:
        """Tell the coordinator what happened unasked, if it listens; else it asks when it attaches."""
        if self._events is not None:
            self._events.put_nowait(news_to_proto(news))

    async def Collect(
        self, request: shard_pb2.CollectRequest, context: Context
    ) -> AsyncIterator[common_pb2.PlaneChunk]:
        self._terms.obey(Term(request.term.number, request.term.nonce))
        shard = self._owner.shard
        if shard.ledger.step != request.step or not shard.deltas.between:
            raise ProtocolMismatch(
                f"asked for planes as step {request.step} begins, this shard is at step {shard.ledger.step}"
                f"{'' if shard.deltas.between else ' and has settled units since'}; ask between two closes"
            )
        if request.plane == "deposits":
            if shard.segment.elastic:
                return
            for stream in range(shard.spec.streams):
                for name, path in self._owner.store.deposit(stream, shard.ledger.step).items():
                    for chunk in plane_chunks(f"stream-{stream}/{name}", path.read_bytes()):
                        yield chunk
            return
        planes = shard.planes()
        if request.plane not in planes:
            raise ProtocolMismatch(f"no plane {request.plane!r} here; there are {sorted(planes)}")
        data = await self._owner.read(lambda: pack(planes[request.plane], shard.blocks))
        for chunk in plane_chunks(request.plane, data):
            yield chunk

    async def Describe(self, request: shard_pb2.DescribeRequest, context: Context) -> shard_pb2.DescribeReply:
        self._terms.obey(Term(request.term.number, request.term.nonce))
        shard = self._owner.shard
        return shard_pb2.DescribeReply(
            planes=list(shard.planes()), stream_planes=shard.stream_planes, scalars=shard.scalars()
        )

    async def Restore(
        self, request_iterator: AsyncIterator[shard_pb2.RestoreChunk], context: Context
    ) -> shard_pb2.RestoreReply:
        shard = self._owner.shard
        reader = PlaneReader(self._expected_restored)
        deposits: dict[int, dict[str, bytes]] = {}
        step = -1
        async for message in request_iterator:
            if message.HasField("header"):
                header = message.header
                self._terms.obey(Term(header.term.number, header.term.nonce))
                step = header.step
                shard.load_scalars(dict(header.scalars))
                continue
            complete = reader.feed(message.plane)
            if complete is None:
                continue
            name, data = complete
            if name.startswith("stream-"):
                stream, _, plane = name.removeprefix("stream-").partition("/")
                deposits.setdefault(int(stream), {})[plane] = bytes(data)
            elif name in shard.planes():
                await self._owner.read(lambda name=name, data=data: shard.load(name, data))  # type: ignore[misc]
        reader.finish()
        if step != shard.ledger.step:
            raise ProtocolMismatch(
                f"checkpoint of step {step}, this shard was configured for {shard.ledger.step}"
            )
        if not shard.segment.elastic:
            for number, planes in deposits.items():
                self._owner.store.save_deposit(number, step, planes)
        await self._owner.begin()
        return shard_pb2.RestoreReply()

    def _expected_restored(self, name: str) -> int | range | None:
        """What a checkpoint may bring. In an elastic segment estimates and stream state begin at zero all the same."""
        shard = self._owner.shard
        if name.startswith("stream-"):
            return self._expected_stream(name.partition("/")[2], shard.restorable_stream_planes)
        return 4 * shard.blocks.elements if name in shard.restorable_planes else None

    # --- workers -----------------------------------------------------------------------

    def _check_timeline(self, timeline: int) -> None:
        if timeline != self._timeline:
            raise StaleIncarnation(
                f"message of timeline {timeline}, this server is on timeline {self._timeline}; join the run anew"
            )

    async def Upload(
        self, request_iterator: AsyncIterator[shard_pb2.UploadChunk], context: Context
    ) -> shard_pb2.UploadReply:
        shard = self._owner.shard
        reader = PlaneReader(lambda name: 4 * shard.blocks.elements if name == "x" else None)
        async for message in request_iterator:
            if message.HasField("header"):
                self._check_timeline(message.header.timeline)
                continue
            complete = reader.feed(message.plane)
            if complete is not None:
                data = complete[1]
                await self._owner.read(lambda data=data: shard.load("x", data))  # type: ignore[misc]
                await self._owner.read(lambda data=data: shard.load("published", data))  # type: ignore[misc]
        reader.finish()
        await self._owner.begin()
        return shard_pb2.UploadReply()

    async def Push(
        self, request_iterator: AsyncIterator[shard_pb2.PushChunk], context: Context
    ) -> shard_pb2.PushReply:
        chunks = aiter(request_iterator)
        header: shard_pb2.PushHeader = await _read_header(chunks, "push")
        known = await self._judge(header)
        if known is not Verdict.ADMIT:
            return shard_pb2.PushReply(outcome=outcome_of(known, header))
        self._owner.admit(header.frame_bytes)
        try:
            frame, commit = await _read_frame(chunks, header.frame_bytes)
        except BaseException:
            self._owner.release(header.frame_bytes)
            raise
        self._owner.release(header.frame_bytes - frame_bytes(frame))  # what was declared and did not come
        verdict = await self._owner.apply(pushed(header, frame, commit))
        assert isinstance(verdict, Verdict)
        return shard_pb2.PushReply(outcome=outcome_of(verdict, header))

    async def _judge(self, header: shard_pb2.PushHeader) -> Verdict:
        """What is known before the frame is read; a push that is refused now sends its bytes for nothing."""
        shard = self._owner.shard
        if header.shard != shard.spec.shard or header.plan != shard.spec.plan:
            raise StaleIncarnation(
                f"push for shard {header.shard} of plan {header.plan}, this is shard {shard.spec.shard} of plan "
                f"{shard.spec.plan}; join the run anew"
            )
        if header.WhichOneof("what") == "flush":
            return await self._judge_flush(header)
        self._check_timeline(header.unit.timeline)
        largest = shard.max_frame_bytes
        if header.frame_bytes > largest:
            raise DamagedFrame(f"a frame of {header.frame_bytes} bytes; for this shard at most {largest}")
        return await self._owner.read(
            lambda: shard.judge(unit_from_proto(header.unit), header.attempt, header.incarnation)
        )

    async def _judge_flush(self, header: shard_pb2.PushHeader) -> Verdict:
        shard, flush = self._owner.shard, header.flush
        self._check_timeline(flush.timeline)
        if header.frame_bytes > shard.flush_bytes:
            raise DamagedFrame(
                f"a flush of {header.frame_bytes} bytes; for this shard at most {shard.flush_bytes}"
            )
        if header.frame_bytes > self._owner.admit_bytes:
            raise ProtocolMismatch(
                f"a flush of {header.frame_bytes} bytes never fits, cluster.admit_bytes allows "
                f"{self._owner.admit_bytes}; raise it or use more servers"
            )
        return await self._owner.read(lambda: shard.judge_flush(header.incarnation, flush.segment))

    async def Follow(
        self, request: shard_pb2.FollowRequest, context: Context
    ) -> AsyncIterator[shard_pb2.DeltaChunk | Data]:
        self._check_timeline(request.timeline)
        version = request.from_version
        while request.until_version == 0 or version < request.until_version:
            delta = await self._owner.delta(version)
            if delta is None:
                return
            yield shard_pb2.DeltaChunk(header=self._delta_header(delta))
            for chunk in gathered(delta.frame):
                yield chunk
            version += 1

    def _delta_header(self, delta: Delta) -> shard_pb2.DeltaHeader:
        return shard_pb2.DeltaHeader(
            timeline=self._timeline,
            term=self._terms.term.number,
            shard=self._owner.shard.spec.shard,
            version=delta.version,
            step=delta.step,
            outcomes=[shard_pb2.Outcome(unit=unit_to_proto(o.unit), factor=o.factor) for o in delta.outcomes],
            frame_bytes=delta.frame_bytes,
            deposit=delta.deposit,
            final=delta.final,
            closes=delta.closes,
            clock=delta.clock,
            pause=delta.pause,
        )

    async def Snapshot(
        self, request: shard_pb2.SnapshotRequest, context: Context
    ) -> AsyncIterator[common_pb2.PlaneChunk]:
        self._check_timeline(request.timeline)
        await self._owner.reach(0 if request.live else request.step)
        name, data = await self._owner.read(lambda: self._snapshot(request))
        for chunk in plane_chunks(name, data):
            yield chunk

    def _snapshot(self, request: shard_pb2.SnapshotRequest) -> tuple[str, bytes]:
        shard = self._owner.shard
        if request.plane == "published" and request.live:
            name = f"published/{shard.ledger.step}/{shard.deltas.version}"
            return name, pack(shard.planes()["published"], shard.blocks)
        if request.plane == "published":
            step, version, data = self._owner.store.load_base(request.step)
            return f"published/{step}/{version}", data
        if request.plane == "x" and shard.deltas.final:
            return "x", pack(shard.planes()["x"], shard.blocks)
        raise ProtocolMismatch(
            f"plane {request.plane!r} is not to be had: `published`, or `x` after the final step"
        )

    async def Deposit(
        self, request_iterator: AsyncIterator[shard_pb2.DepositChunk], context: Context
    ) -> shard_pb2.DepositReply:
        chunks = aiter(request_iterator)
        header: shard_pb2.DepositHeader = await _read_header(chunks, "deposit")
        self._check_timeline(header.timeline)
        holdings = self._owner.holdings
        self._check_holder(header, holdings.judge_deposit(header.stream, header.step, header.attempt))
        reader = PlaneReader(self._expected_deposit)
        planes: dict[str, bytes] = {}
        async for message in chunks:
            complete = reader.feed(message.plane)
            if complete is not None:
                planes[complete[0]] = bytes(complete[1])
        reader.finish()
        if missing := [name for name in header.planes if name not in planes]:
            raise ProtocolMismatch(
                f"the deposit of stream {header.stream} at step {header.step} ended without {missing}: send it again"
            )
        verdict = await self._owner.apply(Deposit(header.stream, header.step, header.attempt, planes))
        self._check_holder(header, verdict)  # it may have been fenced while the deposit was on its way
        return shard_pb2.DepositReply()

    def _check_holder(self, header: shard_pb2.DepositHeader, verdict: object) -> None:
        """Raises: StaleIncarnation for a deposit of an attempt that is fenced, ProtocolMismatch for no stream's."""
        if verdict is Verdict.FENCED:
            fence = self._owner.shard.ledger.fences.get(header.stream, 0)
            raise StaleIncarnation(
                f"stream {header.stream}: a deposit of attempt {header.attempt}, but attempt {fence} holds it now"
            )
        if verdict is Verdict.FOREIGN:
            raise ProtocolMismatch(
                f"a deposit of stream {header.stream}, there are {self._owner.shard.spec.streams}: join the run anew"
            )

    def _expected_deposit(self, name: str) -> int | range | None:
        return self._expected_stream(name, self._owner.shard.restorable_stream_planes)

    def _expected_stream(self, name: str, planes: Sequence[str]) -> int | range | None:
        if name == "extra":
            return range(EXTRA_BYTES + 1)
        return 4 * self._owner.shard.trainable.elements if name in planes else None

    async def Withdraw(
        self, request: shard_pb2.WithdrawRequest, context: Context
    ) -> AsyncIterator[common_pb2.PlaneChunk]:
        self._check_timeline(request.timeline)
        for name, path in self._owner.store.deposit(request.stream, request.step).items():
            for chunk in plane_chunks(name, await self._owner.read(path.read_bytes)):
                yield chunk


async def _read_header(chunks: AsyncIterator[Any], what: str) -> Any:
    """What a push or a deposit begins with. Raises: ProtocolMismatch where it begins with anything else."""
    first = await anext(chunks, None)
    if first is None or isinstance(first, memoryview) or not first.HasField("header"):
        raise ProtocolMismatch(f"a {what} without a header; send the header first")
    return first.header


async def _read_frame(chunks: AsyncIterator[Any], most: int) -> tuple[tuple[Buffer, ...], shard_pb2.Commit]:
    """The frame and the commit behind a push header.

    Raises: DamagedFrame for more bytes than declared, messages that no part fits into, or without a commit.
    """
    frame: list[Buffer] = []
    size = 0
    async for chunk in chunks:
        data = data_of(chunk)
        if data is None:
            if not chunk.HasField("commit"):
                break
            return tuple(frame), chunk.commit
        frame.append(data)
        size += len(data)
        if size > most:
            raise DamagedFrame(f"more than the {most} bytes that the push declared")
    raise DamagedFrame("the push ended without a commit; nothing of it counts")
