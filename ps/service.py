"""The Shard service: decode, call the owner, encode.

Who may call what is settled before anything is read: by role at the gate (wire/rpc/gate.py); then the coordinator by
its term (ps/control.py), workers by timeline and incarnation, which must be their own (ps/callers.py), a standby by the
term of its primary (docs: ARCHITECTURE.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import grpc

from ps.control import Control
from ps.ledger import Verdict
from ps.messages import outcome_of, pushed
from ps.owner import Owner
from ps.publish import Delta
from ps.records import Deposit
from ps.replication import Copy, Image
from ps.tally import Tally
from ps.uploads import Uploads
from wire.codec.base import Buffer, DamagedFrame, frame_bytes
from wire.codec.dense import pack
from wire.errors import PermissionRefused, ProtocolMismatch, StaleIncarnation, Unreachable
from wire.messages import unit_from_proto, unit_to_proto
from wire.rpc.chunks import Data, gathered
from wire.rpc.frames import data_of
from wire.rpc.identity import Role, peer_of
from wire.rpc.planes import CHUNK_BYTES, PlaneReader, plane_chunks
from wire.trace import span
from wire.v1 import common_pb2, shard_pb2, shard_pb2_grpc
from wire.words import cut_words

Context = grpc.aio.ServicerContext[Any, Any]


class ShardService(shard_pb2_grpc.ShardServicer):
    """Handlers of one server. It listens before it joins, so that it can tell its address.

    Args:
        owner: what holds the shard.
        control: the coordinator's calls.
    """

    def __init__(self, owner: Owner, control: Control) -> None:
        self._owner = owner
        self._control = control
        self._uploads = Uploads()
        self.tally = Tally()

    # --- coordinator ---------------------------------------------------------------------

    async def Control(
        self, request_iterator: AsyncIterator[shard_pb2.ShardCommand], context: Context
    ) -> AsyncIterator[shard_pb2.ShardEvent]:
        async with aclosing(self._control.line(request_iterator)) as events:
            async for event in events:
                yield event

    async def Collect(
        self, request: shard_pb2.CollectRequest, context: Context
    ) -> AsyncIterator[common_pb2.PlaneChunk]:
        async for chunk in self._control.collect(request):
            yield chunk

    async def Describe(self, request: shard_pb2.DescribeRequest, context: Context) -> shard_pb2.DescribeReply:
        return await self._control.describe(request)

    async def Restore(
        self, request_iterator: AsyncIterator[shard_pb2.RestoreChunk], context: Context
    ) -> shard_pb2.RestoreReply:
        return await self._control.restore(request_iterator)

    # --- a standby -----------------------------------------------------------------------

    async def Replicate(
        self, request_iterator: AsyncIterator[shard_pb2.ReplicaReport], context: Context
    ) -> AsyncIterator[shard_pb2.ReplicaChunk]:
        reports = aiter(request_iterator)
        first = await anext(reports, None)
        if first is None or not first.HasField("hello"):
            raise ProtocolMismatch("a standby that does not say what it has; send the hello first")
        hello = first.hello
        await self._check_caller(context, hello.incarnation)
        self._control.check_timeline(hello.timeline)
        self._check_term(hello.term)
        if not self._owner.loaded:
            raise Unreachable("the initial model is not in yet; call again")
        if hello.shard != self._owner.served().spec.shard:
            raise ProtocolMismatch(
                f"standby of shard {hello.shard}, this is shard {self._owner.shard.spec.shard}"
            )
        await self._control.callers.check_standby(peer_of(context), hello.incarnation)
        replication = self._owner.replication
        call = replication.begin(hello.incarnation)
        acknowledged = asyncio.create_task(self._take_acks(reports, call))
        reason = "it ended the call"
        try:
            checksum = hello.checksum if hello.HasField("checksum") else None
            records = replication.records(call, hello.position, self._owner.image, checksum=checksum)
            async for what in records:
                for chunk in _replicated(what):
                    yield chunk
        except Exception as error:
            reason = str(error)
            raise
        finally:
            acknowledged.cancel()
            replication.broken(call, reason)

    async def _take_acks(self, reports: AsyncIterator[shard_pb2.ReplicaReport], call: int) -> None:
        replication = self._owner.replication
        async for report in reports:
            if report.ack.marked:
                replication.marked(report.ack.marked, report.ack.digest, own=False)
            replication.acknowledged(call, report.ack.position)

    def _check_term(self, term: int) -> None:
        """Raises: Unreachable where the caller knows of a later primary than this server was told that it is."""
        if self._control.term and term > self._control.term:
            raise Unreachable(
                f"term {term} of this shard is served elsewhere, this server was its primary under term "
                f"{self._control.term}"
            )

    async def _check_caller(self, context: Context, incarnation: int) -> None:
        """Raises: PermissionRefused or StaleIncarnation where the caller does not go by this incarnation."""
        await self._control.callers.check(peer_of(context), incarnation)

    def _check_shard(self, shard: int) -> None:
        """Raises: Unreachable where the caller means another shard, which was at this address: it will hear of that."""
        found = self._owner.served().spec.shard
        if shard != found:
            raise Unreachable(f"shard {shard} is not served here, this is shard {found}")

    def _check_present(self, incarnation: int) -> None:
        """Raises: StaleIncarnation for a worker that was given up, or has left: its streams are others'."""
        if self._owner.served().is_retired(incarnation):
            raise StaleIncarnation(f"incarnation {incarnation} is out of the run; join it anew")

    # --- workers -----------------------------------------------------------------------

    async def Upload(
        self, request_iterator: AsyncIterator[shard_pb2.UploadChunk], context: Context
    ) -> shard_pb2.UploadReply:
        chunks = aiter(request_iterator)
        header: shard_pb2.UploadHeader = await _read_header(chunks, "an upload")
        await self._control.callers.check_uploader(peer_of(context), header.incarnation)
        self._control.check_timeline(header.timeline)
        shard = self._owner.served()
        self._check_shard(header.shard)
        self._owner.check_fresh()
        reader = PlaneReader(lambda name: 4 * shard.blocks.elements if name == "x" else None)
        x: bytes | None = None
        async for message in chunks:
            complete = reader.feed(message.plane)
            self._control.arrives(header.incarnation)
            if complete is not None:
                x = complete[1]
        reader.finish()
        if x is None:
            raise ProtocolMismatch("the upload ended without plane 'x'; send it again")
        # another one may have been asked meanwhile
        await self._control.callers.check_uploader(peer_of(context), header.incarnation)
        await self._owner.begin(self._uploads.loading(shard, header.incarnation, x))
        return shard_pb2.UploadReply()

    async def Push(
        self, request_iterator: AsyncIterator[shard_pb2.PushChunk], context: Context
    ) -> shard_pb2.PushReply:
        with self.tally.refusals():
            return shard_pb2.PushReply(outcome=await self._push(aiter(request_iterator), context))

    async def _push(self, chunks: AsyncIterator[Any], context: Context) -> shard_pb2.PushReply.Outcome:
        header: shard_pb2.PushHeader = await _read_header(chunks, "a push")
        await self._check_caller(context, header.incarnation)
        self._check_term(header.term)
        known, kept = await self._judge(header)
        if known is not Verdict.ADMIT:
            await self._owner.reveal(lambda: None)
            self.tally.judged(known)
            return outcome_of(known, header)
        self._owner.admit(header.frame_bytes, kept=kept)
        with span("admit", track="admit", worker=header.incarnation, **_unit_in(header)) as admitting:
            try:
                frame, commit = await _read_frame(chunks, header.frame_bytes)
            except BaseException:
                self._owner.release(header.frame_bytes)
                raise
            size = frame_bytes(frame)
            admitting.know(bytes=size)
        self.tally.push_bytes += size
        self._owner.release(header.frame_bytes - size)  # what was declared and did not come
        verdict = await self._owner.apply(pushed(header, frame, commit))
        assert isinstance(verdict, Verdict)
        self.tally.judged(verdict)
        return outcome_of(verdict, header)

    async def _judge(self, header: shard_pb2.PushHeader) -> tuple[Verdict, int]:
        """What is known before the frame is read, and the bytes of room that must stay for others.

        A push that is refused now sends its bytes for nothing.
        """
        shard = self._owner.served()
        if header.shard != shard.spec.shard or header.plan != shard.spec.plan:
            raise StaleIncarnation(
                f"push for shard {header.shard} of plan {header.plan}, this is shard {shard.spec.shard} of plan "
                f"{shard.spec.plan}; join the run anew"
            )
        if header.WhichOneof("what") == "flush":
            return await self._judge_flush(header), 0
        self._control.check_timeline(header.unit.timeline)
        largest = shard.max_frame_bytes
        if header.frame_bytes > largest:
            raise DamagedFrame(f"a frame of {header.frame_bytes} bytes; for this shard at most {largest}")
        unit = unit_from_proto(header.unit)
        return await self._owner.read(
            lambda: (shard.judge(unit, header.attempt, header.incarnation), shard.bytes_before(unit))
        )

    async def _judge_flush(self, header: shard_pb2.PushHeader) -> Verdict:
        shard, flush = self._owner.shard, header.flush
        self._control.check_timeline(flush.timeline)
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
        await self._control.callers.check_reader(peer_of(context), request.incarnation)
        self._control.check_timeline(request.timeline)
        self._check_term(request.term)
        version = request.from_version
        await self._owner.followers.check_reached(version)
        with self.tally.following():
            while request.until_version == 0 or version < request.until_version:
                delta = await self._owner.followers.delta(version)
                if delta is None:
                    return
                yield shard_pb2.DeltaChunk(header=self._delta_header(delta))
                for chunk in gathered(delta.frame):
                    yield chunk
                version += 1

    def _delta_header(self, delta: Delta) -> shard_pb2.DeltaHeader:
        return shard_pb2.DeltaHeader(
            timeline=self._control.timeline,
            term=self._control.term,
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
            drain=delta.drain,
        )

    async def Snapshot(
        self, request: shard_pb2.SnapshotRequest, context: Context
    ) -> AsyncIterator[common_pb2.PlaneChunk]:
        peer = peer_of(context)
        await self._control.callers.check_reader(peer, request.incarnation)
        if peer.role is Role.OPERATOR and request.plane != "x":
            raise PermissionRefused(
                f"{peer} asks for plane {request.plane!r}; operators may have `x` at the end"
            )
        self._control.check_timeline(request.timeline)
        self._check_shard(request.shard)
        await self._owner.followers.reach(0 if request.live else request.step)
        if request.plane != "published":
            await self._control.callers.check_evaluator(peer, request.incarnation)
        name, data = await self._owner.reveal(lambda: self._snapshot(request))
        for chunk in plane_chunks(name, data):
            yield chunk

    def _snapshot(self, request: shard_pb2.SnapshotRequest) -> tuple[str, bytes]:
        shard = self._owner.served()
        if request.plane == "published" and request.live:
            name = f"published/{shard.ledger.step}/{shard.deltas.version}"
            return name, pack(shard.planes()["published"], shard.blocks)
        if request.plane == "published":
            step, version, data = self._owner.holdings.store.load_base(request.step)
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
        header: shard_pb2.DepositHeader = await _read_header(chunks, "a deposit")
        await self._check_caller(context, header.incarnation)
        self._control.check_timeline(header.timeline)
        self._check_shard(header.shard)
        self._check_present(header.incarnation)
        _refuse_fenced(header, self._owner.holdings.judge_deposit(header.stream, header.step, header.attempt))
        reader = PlaneReader(self._expected_deposit)
        planes: dict[str, bytes] = {}
        async for message in chunks:
            complete = reader.feed(message.plane)
            self._control.arrives(header.incarnation)
            if complete is not None:
                planes[complete[0]] = bytes(complete[1])
        reader.finish()
        if missing := [name for name in header.planes if name not in planes]:
            raise ProtocolMismatch(
                f"the deposit of stream {header.stream} at step {header.step} ended without {missing}: send it again"
            )
        self._check_present(header.incarnation)
        verdict = await self._owner.apply(Deposit(header.stream, header.step, header.attempt, planes))
        assert isinstance(verdict, Verdict)
        _refuse_fenced(header, verdict)  # its holder may have been fenced while it was on its way
        return shard_pb2.DepositReply()

    def _expected_deposit(self, name: str) -> int | range | None:
        return self._control.expected_stream(name, self._owner.shard.restorable_stream_planes)

    async def Withdraw(
        self, request: shard_pb2.WithdrawRequest, context: Context
    ) -> AsyncIterator[common_pb2.PlaneChunk]:
        await self._check_caller(context, request.incarnation)
        self._control.check_timeline(request.timeline)
        self._check_shard(request.shard)
        self._check_present(request.incarnation)
        for name, path in self._owner.holdings.store.deposit(request.stream, request.step).items():
            for chunk in plane_chunks(name, await self._owner.read(path.read_bytes)):
                yield chunk


def _refuse_fenced(header: shard_pb2.DepositHeader, verdict: Verdict) -> None:
    """Raises: StaleIncarnation where the attempt is fenced, ProtocolMismatch where there is no such stream or step."""
    if verdict is Verdict.FENCED:
        raise StaleIncarnation(
            f"stream {header.stream}: a deposit of attempt {header.attempt}, but a newer attempt holds it now"
        )
    if verdict is Verdict.FOREIGN:
        raise ProtocolMismatch(f"a deposit of stream {header.stream}, which this run does not have")
    if verdict is Verdict.EARLY:
        raise ProtocolMismatch(
            f"stream {header.stream}: a deposit of step {header.step}, which is not open yet; steps come one by one"
        )


def _unit_in(header: shard_pb2.PushHeader) -> dict[str, int]:
    """What a trace says of a push."""
    if header.WhichOneof("what") == "flush":
        return {}
    return {"step": header.unit.step, "stream": header.unit.stream}


async def _read_header(chunks: AsyncIterator[Any], what: str) -> Any:
    """What a push, an upload or a deposit begins with. Raises: ProtocolMismatch where it begins with anything else."""
    first = await anext(chunks, None)
    if first is None or isinstance(first, memoryview) or not first.HasField("header"):
        raise ProtocolMismatch(f"{what} without a header; send the header first")
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
            cut_words(chunk.commit)
            return tuple(frame), chunk.commit
        frame.append(data)
        size += len(data)
        if size > most:
            raise DamagedFrame(f"more than the {most} bytes that the push declared")
    raise DamagedFrame("the push ended without a commit; nothing of it counts")


def _replicated(what: Image | Copy) -> Iterator[shard_pb2.ReplicaChunk]:
    """An image or a record as messages."""
    if isinstance(what, Image):
        yield shard_pb2.ReplicaChunk(image=shard_pb2.ReplicaImage(position=what.position, bytes=what.bytes))
        pieces = what.buffers
    else:
        first, rest = what.payload[:CHUNK_BYTES], memoryview(what.payload)[CHUNK_BYTES:]
        record = shard_pb2.ReplicaRecord(position=what.position, bytes=len(what.payload), payload=first)
        yield shard_pb2.ReplicaChunk(record=record)
        pieces = [rest]
    for piece in pieces:
        view = memoryview(piece).cast("B")
        for start in range(0, len(view), CHUNK_BYTES):
            yield shard_pb2.ReplicaChunk(data=bytes(view[start : start + CHUNK_BYTES]))
