"""The lines to all servers: who is dialled, who hears of whom, whom nothing is heard of any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from coordinator import actions as a
from coordinator.entries import NOBODY, Member
from coordinator.shards import ShardLine
from coordinator.state import State
from wire.errors import Unreachable

Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class Switchboard:
    """One line a server that is present, each run by a task of its own.

    Args:
        line: makes one to the server of an incarnation; it is not open yet. The second argument tells who evaluates.
        spawn: starts a task that the engine keeps.

    Attributes:
        lines: by incarnation.
    """

    def __init__(
        self, state: Callable[[], State], line: Callable[[int, Callable[[], int]], ShardLine], spawn: Spawn
    ) -> None:
        self._state = state
        self._make = line
        self._spawn = spawn
        self.lines: dict[int, ShardLine] = {}
        self._running: dict[int, asyncio.Task[None]] = {}
        self._evaluator = NOBODY

    @property
    def primaries(self) -> list[ShardLine]:
        """By shard. Raises: Unreachable where there is no line to one: another server came to its address."""
        placement = self._state().placement
        for placed in placement:
            if placed.incarnation not in self.lines:
                raise Unreachable(f"server {placed.shard} is away, and another one is at {placed.address}")
        return [self.lines[placed.incarnation] for placed in placement]

    def dial_all(self) -> None:
        for member in self._state().present("ps"):
            self.dial(member.incarnation)

    def dial(self, incarnation: int) -> None:
        """Open the line to a server anew. Whoever was at its address before is there no more."""
        line = self._line(incarnation)
        for other in list(self.lines.values()):
            if other.address == line.address or other.incarnation == incarnation:
                self._end(other)
        self.lines[incarnation] = line
        self._running[incarnation] = self._spawn(line.run())

    def dismiss(self, incarnation: int, reason: str) -> None:
        """Tell a server that it was given up, should it still be there."""
        if (line := self.lines.get(incarnation)) is not None:
            self._end(line)
        self.lines[incarnation] = line = self._line(incarnation)
        self._running[incarnation] = self._spawn(line.dismiss(reason))

    def command(self, shard: int, command: a.ShardOrder) -> None:
        """For the primary of a shard, as `send`."""
        self.send(self._state().placement[shard].incarnation, command)

    def send(self, incarnation: int, command: a.ShardOrder) -> None:
        """Without a line to the server it is lost, as it is with a line that breaks: the next one asks for it again."""
        if (line := self.lines.get(incarnation)) is not None:
            line.send(command)

    def introduce(self, members: Sequence[Member] = ()) -> None:
        """Tell every server who these are, and who may do what now."""
        for line in self.lines.values():
            line.introduce(members)

    def choose_evaluator(self, incarnation: int) -> None:
        """A worker hears that it evaluates: the servers may give it x at the end."""
        if incarnation != self._evaluator:
            self._evaluator = incarnation
            self.introduce()

    def deny(self) -> None:
        """Hand the lists of revoked certificates on."""
        for line in self.lines.values():
            line.deny()

    async def farewell(self, limit_s: float) -> None:
        """Wait until the servers have heard of the end, at most so long."""
        if running := [task for task in self._running.values() if not task.done()]:
            await asyncio.wait(running, timeout=limit_s)

    async def close(self) -> None:
        for line in self.lines.values():
            await line.close()

    def _line(self, incarnation: int) -> ShardLine:
        return self._make(incarnation, lambda: self._evaluator)

    def _end(self, line: ShardLine) -> None:
        """From now on nothing is heard of it, whatever is under way."""
        line.end()
        del self.lines[line.incarnation]
        if (task := self._running.pop(line.incarnation)) is not asyncio.current_task():
            task.cancel()
        self._spawn(line.close())
