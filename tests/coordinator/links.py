"""The coordinator's lines to servers in the small world, as `coordinator/shards.py` opens and translates them.

A line belongs to an incarnation, is opened where that is, and again when it breaks; each vain attempt is told.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from coordinator import actions as a
from coordinator import events as e
from coordinator.desk import begin_of
from tests.coordinator.ground import Line

if TYPE_CHECKING:
    from tests.coordinator.server import Server
    from tests.coordinator.world import World

REDIAL_S = 0.5
DISMISS_S = 120.0


@dataclass(frozen=True)
class Order:
    """A command, with the term and the journal's position of who sends it."""

    term: int
    nonce: str
    seq: int
    command: Any


class Link:
    """The line to one server. `dismissal`: it is out of the run, and this line only tells it so."""

    def __init__(self, world: World, incarnation: int, dismissal: str = "") -> None:
        self.world, self.incarnation = world, incarnation
        self._state = world.state
        self.address = world.state.members[incarnation].address
        self._dismissal = dismissal
        self._until = world.now + DISMISS_S if dismissal else float("inf")
        self.closed = False
        self._recorded = 0
        self.down: Line | None = None
        self.up: Line | None = None
        self.server: Server | None = None
        self.dial()

    def dial(self) -> None:
        if self.closed or self.down is not None or self.world.now > self._until:
            return
        world, state = self.world, self._state
        server = world.addresses[self.address]
        if not server.alive:
            self.broke("refused")
            return
        up = Line(world, lambda event: self._heard(event, up))
        self.up, self.server = up, server
        self.down = Line(world, lambda order: server.receive(order, up), server)
        server.links.add(self)
        if self._dismissal:
            self._send(("dismiss", self._dismissal, self.incarnation))
            return
        shard = state.shard_of(self.incarnation)
        told = (0, 0) if shard is None else (state.placement[shard].term, state.in_sync_of(shard))
        self._recorded = told[1]
        self._send(("attach", state.low, *told))

    def send(self, command: a.ShardOrder) -> None:
        """It is lost with the line, and asked for again by the core when that is back."""
        if isinstance(command, a.ConfigureShard):
            shard = self._state.shard_of(self.incarnation)
            self._send(("configure", shard, begin_of(self._state)))
        else:
            self._send(command)

    def _send(self, command: Any) -> None:
        if self.down is not None:
            self.down.send(Order(self._state.term, self._state.nonce, len(self.world.journal), command))

    def _heard(self, event: Any, up: Line) -> None:
        if self.closed or up is not self.up:
            return
        if self._dismissal:
            return
        shard = self._state.shard_of(self.incarnation)
        if isinstance(event, e.ServerAlive):
            self.world.hear(e.ServerAlive(self.incarnation))
        elif shard is not None:
            if isinstance(event, e.ShardAttached):
                event = replace(event, recorded=self._recorded)
            self.world.hear(replace(event, shard=shard) if event.shard != shard else event)
        elif isinstance(event, e.ShardAttached):
            self.world.hear(e.ServerAttached(self.incarnation, event.incarnation))

    def broke(self, reason: str, *, redial_s: float = REDIAL_S) -> None:
        """The line is gone, or could not be opened."""
        if self.closed:
            return
        self._cut(0.0)
        if not self._dismissal:
            self.world.hear(e.LineBroken(self.incarnation, f"server {self.incarnation}: {reason}"))
        self.world.after(redial_s, self.dial)

    def close(self, after_s: float = 0.0) -> None:
        """The coordinator wants no more of it, or is gone; what it has sent may still arrive for so long."""
        self.closed = True
        self._cut(after_s)

    def _cut(self, after_s: float) -> None:
        if self.down is not None and self.up is not None and self.server is not None:
            self.down.cut(after_s)
            self.up.cut()
            self.server.links.discard(self)
            if self.server.line is self.up:
                self.server.line = self.server.events = None
        self.down = self.up = self.server = None
