"""A TCP proxy in user space that misbehaves: what `Faults` decides of each connection, and orders at any time.

Transparent otherwise. What an order is for may be told by process: who dialled a connection is found by its port.

thread · owns · blocks on: one event loop owns everything; `ProxyThread` (background.py) gives it one of its own.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from sparsync.faults.http2 import Calls
from sparsync.faults.proc import dialled_from, lineage
from sparsync.faults.rules import BOTH, Direction, Faults, Rule
from sparsync.faults.way import Order, Pace, Reset, Way
from wire.clock import Clock, monotonic_clock
from wire.rpc.address import format_address, parse_address

DIAL_S = 5.0
UP, DOWN = Direction

Tap = Callable[[int, Direction, bytes], bool]
"""Sees every piece (connection, direction, bytes) before it goes on; True: the connection is reset instead."""


@dataclass(eq=False)
class Link:
    """One connection: its number, who dialled it (a process and its ancestors), and its two ways."""

    number: int
    dialled_by: tuple[int, ...]
    near: asyncio.StreamWriter
    far: asyncio.StreamWriter | None = None
    ways: dict[Direction, Way] = field(default_factory=dict)
    calls: Calls = field(default_factory=Calls)
    over: bool = False

    def is_of(self, pid: int | None) -> bool:
        return pid is None or pid in self.dialled_by

    def reset(self) -> None:
        """End it at once on both sides."""
        for way in self.ways.values():
            way.reset()
        for writer in filter(None, (self.near, self.far)):
            with suppress(OSError):  # it has ended meanwhile
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
            writer.transport.abort()


class Proxy:
    """Forwards connections to targets, which need not listen yet; to be used on one event loop.

    Args:
        faults: what is decided of each connection.
        by_process: find out who dialled each connection; without it orders are for all connections.
        tap: sees all bytes.
        say: told of each fault, in words.

    Attributes:
        faults: may be replaced; new connections, and answers from now on, obey the new ones.
    """

    def __init__(
        self,
        faults: Faults | None = None,
        *,
        by_process: bool = False,
        tap: Tap | None = None,
        say: Callable[[str], None] | None = None,
        clock: Clock = monotonic_clock,
    ) -> None:
        self.faults = faults or Faults()
        self._by_process, self._tap, self._clock = by_process, tap, clock
        self._say = say or (lambda text: None)
        self._links: list[Link] = []
        self._orders: dict[tuple[int | None, Direction], Order] = {}
        self._paces: dict[tuple[Rule, Direction, tuple[int, ...]], Pace] = {}
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def forward(self, target: str, *, listen: str = "127.0.0.1:0") -> str:
        """Listen for `target` (HOST:PORT); the address that is to be dialled instead. Raises OSError, ConfigError."""
        host, port = parse_address(target)

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.get_running_loop().create_task(self._serve(reader, writer, host, port))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        server = await asyncio.start_server(accept, *parse_address(listen))
        self._servers.append(server)
        return format_address(*server.sockets[0].getsockname()[:2])

    async def close(self) -> None:
        """Drop all connections, and listen no more."""
        for server in self._servers:
            server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- orders ----------------------------------------------------------------------------

    def give(self, order: Order, *, pid: int | None = None, directions: frozenset[Direction] = BOTH) -> None:
        """From now on do so with open and later connections: of a process and its children, or with all."""
        assert pid is None or self._by_process, "made without by_process: nobody knows who dialled"
        for direction in directions:
            self._orders[pid, direction] = order
        for link in self._links:
            for direction, way in link.ways.items():
                way.obey(self._order_of(link, direction))

    def reset_all(self) -> None:
        """Reset every open connection."""
        for link in self._links:
            if not link.over:
                link.reset()

    def sent(self, pid: int) -> int:
        """Bytes that a process and its children have sent so far, those kept back included."""
        return sum(link.ways[UP].received for link in self._links if link.is_of(pid))

    def _order_of(self, link: Link, direction: Direction) -> Order:
        """The severest that was given for it."""
        given = [self._orders.get((pid, direction), Order.PASS) for pid in (None, *link.dialled_by)]
        return max(given, key=list(Order).index)

    # --- one connection --------------------------------------------------------------------

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int
    ) -> None:
        """Forward both ways until both have ended."""
        link = self._new_link(writer)
        up, down = link.ways[UP], link.ways[DOWN]
        try:
            for way, other in ((up, down), (down, up)):  # while both are cut the target does not hear of it
                await way.until(lambda w=way, o=other: Order.PASS in (w.order, o.order))  # type: ignore[misc]
            async with asyncio.timeout(DIAL_S):
                far_reader, link.far = await asyncio.open_connection(host, port)
            async with asyncio.TaskGroup() as group:
                for work in (
                    *(up.receive(reader), up.let_go(link.far)),
                    *(down.receive(far_reader), down.let_go(writer)),
                ):
                    group.create_task(work)
        except* (Reset, OSError, TimeoutError):  # also when nobody listens there: who dialled sees the same
            link.reset()
        finally:
            link.over = True
            for side in filter(None, (link.near, link.far)):
                side.close()

    def _new_link(self, writer: asyncio.StreamWriter) -> Link:
        link = Link(len(self._links), self._who_dialled(writer), writer)
        link.ways = {direction: self._new_way(link, direction) for direction in Direction}
        self._links.append(link)
        return link

    def _who_dialled(self, writer: asyncio.StreamWriter) -> tuple[int, ...]:
        if not self._by_process:
            return ()
        port, to_port = (writer.get_extra_info(side)[1] for side in ("peername", "sockname"))
        return lineage(dialled_from(port, to_port))

    def _new_way(self, link: Link, direction: Direction) -> Way:
        lane = self.faults.decide(link.number, direction)
        of = link.dialled_by[:1] if lane.rule.each else ()
        way = Way(
            direction,
            lane,
            pace=self._paces.setdefault((lane.rule, direction, of), Pace(lane.rule.rate)),
            look=lambda data: self._look(link, direction, data),
            say=lambda text: self._say(f"connection {link.number} {direction}: {text}"),
            clock=self._clock,
        )
        way.obey(self._order_of(link, direction))
        return way

    def _look(self, link: Link, direction: Direction, data: bytes) -> None:
        """Raises Reset where the tap says so, or where an answer is to be lost."""
        if self._tap is not None and self._tap(link.number, direction, data):
            raise Reset
        if not any(rule.lose_answers for rule in self.faults.rules):
            return
        for call, sent in link.calls.feed(direction, data).items():
            if self.faults.loses(link.number, call, sent):
                self._say(f"connection {link.number} {direction}: reset with the answer to {sent} bytes")
                raise Reset
