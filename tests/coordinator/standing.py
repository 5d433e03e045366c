"""A standby of the small world, as `ps/standby.py` and `Replicate` are: calls the primary, takes its image and records.

The primary's side is the real one, its stream of records included; the two lines of a call delay and break.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import xxhash

from coordinator import actions as a
from ps.records import Record
from ps.replication import Copy, Image
from tests.coordinator.ground import Line
from wire.errors import SparsyncError

if TYPE_CHECKING:
    from tests.coordinator.server import Server

RECORD_BYTES = 1 << 20
"""So that what is kept and what counts as near are a few records."""


class Sealed(bytes):
    """A record as the bytes of it."""

    record: Record

    def __new__(cls, record: Record) -> Self:
        made = super().__new__(cls, repr(record).encode())
        made.record = record
        return made

    def __len__(self) -> int:
        return RECORD_BYTES


@dataclass(frozen=True)
class Ack:
    position: int
    marked: int
    digest: bytes


class Call:
    """One call of a standby, with both of its directions."""

    def __init__(self, standby: Server, primary: Server, position: int, checksum: int | None) -> None:
        world = standby.world
        self.standby, self.primary = standby, primary
        self.number = primary.loop.run(primary.replication.begin, standby.incarnation)
        self.over = self.begun = False
        self.records = Line(world, lambda what: standby.standing.take(self, what), standby)
        self.acks = Line(world, self._acknowledged, primary)
        self._feeding = primary.loop.spawn(self._feed(position, checksum))

    async def _feed(self, position: int, checksum: int | None) -> None:
        replication = self.primary.replication
        try:
            async for what in replication.records(self.number, position, self._image, checksum=checksum):
                self.records.send(what)
        except SparsyncError as error:
            self.end(str(error))
        except asyncio.CancelledError:
            return

    async def _image(self, before: Callable[[int], None]) -> Image:
        position = self.primary.disk.position
        before(position)
        return Image(position, [self.primary.shard.image()])  # type: ignore[list-item]

    def _acknowledged(self, ack: Ack) -> None:
        if ack.marked:
            self.primary.replication.marked(ack.marked, ack.digest, own=False)
        self.primary.replication.acknowledged(self.number, ack.position)

    def end(self, reason: str) -> None:
        """The connection is gone: each side notices for itself, unless it is dead."""
        if self.over:
            return
        self.over = True
        world, primary = self.standby.world, self.primary
        self.records.cut()
        self.acks.cut()
        if primary.alive:
            self._feeding.cancel()
        world.after(
            world.fate.random() * 0.2, lambda: primary.replication.broken(self.number, reason), primary
        )
        world.after(world.fate.random() * 0.5, lambda: self.standby.standing.again(self), self.standby)


class Standing:
    """Follows a primary while it is told to."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._told: a.StandBy | None = None
        self.call: Call | None = None
        self._mark: tuple[int, bytes] = (0, b"")
        self._last: Copy | None = None

    @property
    def stands(self) -> bool:
        """Whether a primary is followed."""
        return self._told is not None

    def stand(self, order: a.StandBy) -> None:
        if self._told == order:
            return
        self.stop()
        server = self._server
        if server.serves:
            return  # refused: what it has not acknowledged is in its state
        server.watermark.reset(server.disk.position if server.loaded else 0)
        self._told = order
        self._dial(order)

    def stop(self) -> None:
        self._told = None
        if self.call is not None:
            self.call.end("it ended the call")
            self.call = None

    def again(self, call: Call) -> None:
        """A call ended: make another one."""
        if self.call is call and self._told is not None:
            self.call = None
            self._dial(self._told)

    def _dial(self, order: a.StandBy) -> None:
        if self._told is not order or self.call is not None:
            return
        server = self._server
        world, primary = server.world, server.world.addresses[order.address]
        if primary.alive and primary.paused_until <= world.now and self._may_call(primary, order):
            position = server.watermark.position if server.loaded else 0
            if server.loaded and server.disk.position > position:  # it says what is safe
                server.watermark.when(server.disk.position, lambda: self._dial(order))
                return
            try:
                checksum = self._last.checksum if self._last and self._last.position == position else None
                self.call = Call(server, primary, position, checksum)
            except SparsyncError:
                self.call = None
            else:
                return
        world.after(world.fate.uniform(0.1, 0.5), lambda: self._dial(order), server)

    @staticmethod
    def _may_call(primary: Server, order: a.StandBy) -> bool:
        return primary.loaded and primary.serves_under(order.term) and primary.shard.index == order.shard

    def take(self, call: Call, what: Image | Copy) -> None:
        if call is not self.call:
            return
        call.begun = True
        server = self._server
        if isinstance(what, Image):
            self._last = None
            server.replace(what.position, what.buffers[0])  # type: ignore[arg-type]
            self._acknowledge()
        else:
            server.watermark.when(server.follow(what), self._acknowledge)
            self._last = what

    def _acknowledge(self) -> None:
        if self.call is not None and self.call.begun:  # before, what it holds is nothing to the primary
            self.call.acks.send(Ack(self._server.watermark.position, *self._mark))

    def marked(self, position: int, digest: bytes) -> None:
        """This server's state at a mark is known."""
        self._mark = position, digest
        if self._server.serves:
            self._server.replication.marked(position, digest, own=True)
        else:
            self._acknowledge()


def digest_of(image: dict[str, Any]) -> bytes:
    """Equal for equal states."""
    return xxhash.xxh3_64_digest(repr(_ordered(image)).encode())


def _ordered(value: Any) -> Any:
    if isinstance(value, dict):
        return [(key, _ordered(value[key])) for key in sorted(value)]
    if isinstance(value, set):
        return sorted(value)
    return value.tolist() if isinstance(value, np.ndarray) else value
