"""The standby's side of replication: call the primary, take the shard's image and every record after it, say how far.

What was taken stays what this server holds until the next image is whole: a standby that is to be promoted
while it receives one serves what it had, which is all that was ever acknowledged.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import grpc

from ps.holdings import Identity
from ps.owner import Owner
from ps.replication import Copy
from ps.snapshots import Receiver
from wire.errors import ProtocolMismatch, SparsyncError
from wire.rpc.access import InRun
from wire.rpc.channel import open_channel
from wire.rpc.identity import Role, Security
from wire.rpc.in_run import InRunChannel
from wire.rpc.retry import Backoff
from wire.rpc.status import to_error
from wire.v1 import shard_pb2, shard_pb2_grpc

log = logging.getLogger(__name__)
Reports = asyncio.Queue[shard_pb2.ReplicaReport | None]


class Standby:
    """Follows a primary while it is told to.

    Args:
        owner: what holds the shard; everything that the primary's does is done to it.
        security: of this server.
        identity: who this server is in the run.
    """

    def __init__(self, owner: Owner, security: Security, identity: Callable[[], Identity]) -> None:
        self._owner = owner
        owner.on_mark = self._marked
        self._security = security
        self._identity = identity
        self._following: asyncio.Task[None] | None = None
        self._told: shard_pb2.Stand | None = None
        self._reports: Reports | None = None
        self._marks: tuple[int, bytes] = (0, b"")
        self._last: Copy | None = None
        """The newest record that was taken by itself."""

    @property
    def standing(self) -> bool:
        """Whether a primary is followed."""
        return self._following is not None

    async def stand(self, order: shard_pb2.Stand) -> None:
        """Follow the primary of a shard; a repeat changes nothing."""
        if self._told == order and self.standing:
            return
        await self.stop()
        self._owner.stand_by()
        self._told = order
        self._following = asyncio.create_task(self._follow(order))

    async def stop(self) -> None:
        """Follow no more; what is being applied goes in first."""
        following, self._following = self._following, None
        if following is not None:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        await self._owner.read(lambda: None)

    async def _follow(self, order: shard_pb2.Stand) -> None:
        """Call the primary, and again when the line breaks, until this is cancelled."""
        backoff = Backoff(random.Random(), cap_s=0.5)
        channel = open_channel(order.address, self._security, role=Role.PS, pool="state")
        identity = self._identity()
        run = InRun(identity.run, identity.timeline)
        try:
            while True:
                try:
                    await self._call(shard_pb2_grpc.ShardStub(InRunChannel(channel, run)), order, backoff)
                    reason = "it ended the call"
                except grpc.aio.AioRpcError as error:
                    reason = str(to_error(error, peer=f"primary of shard {order.shard} at {order.address}"))
                except (SparsyncError, OSError) as error:  # a full disk, too, is waited for
                    reason = str(error)
                log.warning("standing by for shard %d: %s; calling again", order.shard, reason)
                await asyncio.sleep(backoff.next())
        finally:
            await channel.close(None)

    async def _call(self, stub: Any, order: shard_pb2.Stand, backoff: Backoff) -> None:
        """One call. What this server holds is nothing to the primary until that has sent an image, or what follows."""
        reports: Reports = asyncio.Queue()
        self._reports = None
        identity, position = self._identity(), self._owner.archive.position if self._owner.loaded else 0
        await self._owner.watermark.reach(position)
        hello = shard_pb2.ReplicaHello(
            timeline=identity.timeline,
            term=order.term,
            shard=order.shard,
            incarnation=identity.incarnation,
            position=position,
            checksum=self._last.checksum if self._last and self._last.position == position else None,
        )
        reports.put_nowait(shard_pb2.ReplicaReport(hello=hello))
        call = stub.Replicate(_outgoing(reports))
        try:
            await self._take(aiter(call), reports, backoff)
        finally:
            reports.put_nowait(None)
            call.cancel()

    async def _take(
        self, chunks: AsyncIterator[shard_pb2.ReplicaChunk], reports: Reports, backoff: Backoff
    ) -> None:
        async for chunk in chunks:
            backoff.reset()
            match chunk.WhichOneof("part"):
                case "image":
                    await self._take_image(chunk.image, chunks, reports)
                case "record":
                    self._reports = reports
                    await self._take_record(chunk.record, chunks)
                case other:
                    raise ProtocolMismatch(f"the primary sent {other!r} where an image or a record begins")

    async def _take_image(
        self, image: shard_pb2.ReplicaImage, chunks: AsyncIterator[shard_pb2.ReplicaChunk], reports: Reports
    ) -> None:
        log.info("receiving the image of record %d, %d bytes", image.position, image.bytes)
        receiving = self._owner.archive.snapshots.receive(image.position)
        try:
            async for data in _data(chunks, image.bytes):
                receiving.write(data)
        except BaseException:
            receiving.abandon()
            raise
        await _to_the_end(self._become(image.position, receiving))
        self._reports = reports
        self._acknowledge()

    async def _become(self, position: int, receiving: Receiver) -> None:
        """What is on the disk and what is in memory change together: who stops this server in between waits for it."""
        tree = await asyncio.get_running_loop().run_in_executor(None, receiving.finish)
        self._last = None
        await self._owner.replace(position, tree)

    async def _take_record(
        self, record: shard_pb2.ReplicaRecord, chunks: AsyncIterator[shard_pb2.ReplicaChunk]
    ) -> None:
        pieces = [record.payload]
        async for data in _data(chunks, record.bytes - len(record.payload)):
            pieces.append(data)
        copy = Copy(record.position, b"".join(pieces))
        await self._owner.follow(copy)
        self._last = copy
        self._owner.watermark.when(record.position, self._acknowledge)

    def _acknowledge(self) -> None:
        """Say how far this server's log is safe."""
        if self._reports is not None:
            marked, digest = self._marks
            ack = shard_pb2.ReplicaAck(position=self._owner.watermark.position, marked=marked, digest=digest)
            self._reports.put_nowait(shard_pb2.ReplicaReport(ack=ack))

    def _marked(self, position: int, digest: bytes) -> None:
        """This server's state at a mark is known."""
        self._marks = position, digest
        if self._owner.serves:
            self._owner.replication.marked(position, digest, own=True)
        else:
            self._acknowledge()


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Await `work`, and where that is cancelled, be cancelled once it is done."""
    working = asyncio.ensure_future(work)
    try:
        await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.wait({working})
        raise


async def _outgoing(reports: Reports) -> AsyncIterator[shard_pb2.ReplicaReport]:
    while (report := await reports.get()) is not None:
        yield report


async def _data(chunks: AsyncIterator[shard_pb2.ReplicaChunk], size: int) -> AsyncIterator[bytes]:
    """The data messages that make up `size` bytes. Raises: ProtocolMismatch where others come, or more."""
    while size > 0:
        chunk = await anext(chunks, None)
        data = chunk.data if chunk is not None else b""
        if not data or len(data) > size:
            raise ProtocolMismatch(f"expected {size} bytes more of an image or a record, got {len(data)}")
        size -= len(data)
        yield data
