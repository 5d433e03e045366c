"""One direction of a proxied connection: reads, keeps what is on its way, lets go on what is due.

Order, ends and resets pass through. What is on its way is bounded as by a link of that rate and latency, so that
the sender feels it. `Way` knows no addresses: the proxy joins two of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum

from sparsync.faults.rules import Direction, Lane, Then
from wire.clock import Clock

PIECE_BYTES = 1 << 16
PIECE_S = 0.02
"""At a limited rate pieces are no longer than this."""
BUFFER_S = 0.1
"""A limited link holds so much more than its latency's worth of bytes before its sender must wait."""
HELD_BYTES = 64 << 20
"""Kept back of one direction while it is held; its sender must wait then."""


class Order(StrEnum):
    """What is done with a direction beside its lane. The severer one stands later."""

    PASS = "pass"
    HOLD = "hold"
    """Kept back in order, and sent on when it passes again: a network that is away for a while."""
    SWALLOW = "swallow"
    """Gone for ever. The connection stays until it is told to pass again, and is then reset."""


class Reset(Exception):
    """This connection is to end at once, on both sides."""


class Pace:
    """When a piece has left, of all the directions that share one rate."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._free = 0.0

    def leaves_at(self, now: float, size: int) -> float:
        if self._rate is None:
            return now
        self._free = max(now, self._free) + size / self._rate
        return self._free


class Way:
    """What is on its way in one direction.

    Args:
        look: sees every piece as it arrives; may raise Reset.
        say: told of each fault, in words.

    Attributes:
        received: bytes so far.
    """

    def __init__(
        self,
        direction: Direction,
        lane: Lane,
        *,
        pace: Pace,
        look: Callable[[bytes], None],
        say: Callable[[str], None],
        clock: Clock,
    ) -> None:
        self.direction, self.lane = direction, lane
        self.received = 0
        self.order = Order.PASS
        self._pace, self._look, self._say, self._clock = pace, look, say, clock
        self._kept: deque[tuple[float, bytes | Then]] = deque()
        self._kept_bytes = 0
        self._due = 0.0
        self._silent = self._lost = self._broken = False
        self._changed = asyncio.Event()

    # --- orders ----------------------------------------------------------------------------

    def obey(self, order: Order) -> None:
        self.order = order
        self._changed.set()

    def reset(self) -> None:
        """Have both tasks raise Reset."""
        self._broken = True
        self._changed.set()

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait for something that orders, arrivals or departures change. Raises Reset."""
        while True:
            if self._broken or (self._lost and not self._silent and self.order is Order.PASS):
                raise Reset
            if holds():
                return
            self._changed.clear()
            await self._changed.wait()

    # --- the two tasks ---------------------------------------------------------------------

    async def receive(self, source: asyncio.StreamReader) -> None:
        """Read to the end, which is passed on like all else. Raises Reset."""
        then = Then.GOES_ON
        while then is not Then.RESET:
            data = b""
            try:
                data = await source.read(self._piece_bytes)
            except ConnectionError:
                then = Then.RESET
            if not data:
                return self._keep(then, 0)
            self._look(data)
            passed, then = self._through(data)
            if passed:
                await self.until(lambda: self._kept_bytes < self._room)
                self._keep(passed, len(passed))
            if then is not Then.GOES_ON:
                self._keep(then, 0)
        return None

    def _through(self, data: bytes) -> tuple[bytes, Then]:
        """What the lane lets on of a piece."""
        lane, begin = self.lane, self.received
        self.received += len(data)
        if self._silent:
            return b"", Then.GOES_ON
        passed, then = lane.pass_through(begin, data)
        if lane.flip_at is not None and begin <= lane.flip_at < begin + len(passed):
            self._say(f"bit {lane.flip_bit} of byte {lane.flip_at} is flipped")
        if then is not Then.GOES_ON:
            self._say(f"{then} after {begin + len(passed)} bytes")
        self._silent = self._silent or then is Then.SILENT
        return passed, then

    async def let_go(self, sink: asyncio.StreamWriter) -> None:
        """Send on what is due, to the end. Raises Reset."""
        while True:
            await self.until(lambda: self._kept)
            await asyncio.sleep(max(0.0, self._kept[0][0] - self._clock.now()))
            await self.until(lambda: self.order is not Order.HOLD)
            _, piece = self._kept.popleft()
            if isinstance(piece, bytes):
                self._kept_bytes -= len(piece)
                self._changed.set()
            if self.order is Order.SWALLOW:
                self._lost = True
            elif piece is Then.RESET:
                raise Reset
            elif piece is Then.SILENT:
                self._lost = True
            elif piece is Then.GOES_ON:
                if not self._silent:
                    return _end(sink)
            else:
                assert isinstance(piece, bytes)
                await _send(sink, piece)

    def _keep(self, piece: bytes | Then, size: int) -> None:
        """Without bytes: what becomes of the connection behind all that went before."""
        now = self._clock.now()
        leaves = self._pace.leaves_at(now, size) if size else now
        self._due = max(self._due, leaves + self.lane.delay_s())  # the order is kept
        self._kept.append((self._due, piece))
        self._kept_bytes += size
        self._changed.set()

    @property
    def _room(self) -> int:
        rule = self.lane.rule
        if self.order is Order.HOLD or rule.rate is None:
            return HELD_BYTES
        return int(rule.rate * (rule.latency_s + rule.jitter_s + BUFFER_S)) + 1

    @property
    def _piece_bytes(self) -> int:
        rate = self.lane.rule.rate
        return PIECE_BYTES if rate is None else max(256, min(PIECE_BYTES, int(rate * PIECE_S)))


async def _send(sink: asyncio.StreamWriter, piece: bytes) -> None:
    with suppress(ConnectionError):  # that side has gone: what is sent to it is lost, as on a real link
        sink.write(piece)
        await sink.drain()


def _end(sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        sink.write_eof()
