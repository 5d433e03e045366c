"""A server of the world of logs: a list of entries that stands on its disk, and a primary's or a standby's part in it.

What matters of `ps/` for who may serve: nothing is acknowledged that the standby waited for lacks, only the coordinator
ends that waiting, a restarted process serves when it is told its term, and what is no incarnation of the run is wiped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from coordinator import actions as a
from coordinator import events as e
from tests.coordinator.ground import Broken, Line

if TYPE_CHECKING:
    from tests.coordinator.log_world import Link, LogWorld


@dataclass
class Disk:
    """What outlives a process. `incarnation`: whose shard is on it; 0: nobody's."""

    incarnation: int = 0
    log: list[int] = field(default_factory=list)


@dataclass
class Write:
    """An entry that stands in a primary's log and is not acknowledged yet."""

    shard: int
    position: int
    entry: int


class Server:
    """One process.

    Attributes:
        waits_for: the standby without which nothing is acknowledged, or None; `copied`: what that has.
        recorded: the coordinator was told, or told itself, that this standby is in sync; `parting`: that it is not.
    """

    def __init__(self, world: LogWorld, name: str, disk: Disk) -> None:
        self.world, self.name, self.disk = world, name, disk
        self.address = f"h:{world.serial()}"
        self.alive = True
        self.paused_until = 0.0
        self.incarnation = 0
        self.obeyed = (0, 0)
        self.link: Link | None = None
        self.early: list[tuple[Link, tuple[int, int], Any]] = []
        self.term = 0
        self.serves = self.configured = False
        self.shard: int | None = None
        self.waiting: list[Write] = []
        # the primary's part
        self.waits_for: int | None = None
        self.copied = 0
        self.recorded = self.parting = False
        self.caught_up_at: int | None = None
        self.follower: tuple[Server, Line] | None = None
        self.calls = 0
        # the standby's part
        self.order: a.StandBy | None = None
        self.calling: Server | None = None
        self.join()

    # --- coming and going

    def join(self) -> None:
        held = self.disk.incarnation
        self.world.after(self.world.delay(), lambda: self.world.join(self, held), self)

    def joined(self, value: Any, held: int) -> None:
        if not isinstance(value, a.Joined):
            self.world.after(1.0, self.join, self)
            return
        self.incarnation = value.incarnation
        if value.incarnation != held:
            self.disk.incarnation = 0
            self.disk.log.clear()
        self.configured = self.disk.incarnation != 0
        self.sign_of_life()
        for link, term, command in self.early:
            self.obey(link, term, command)

    def sign_of_life(self) -> None:
        self.tell(e.ServerAlive(self.incarnation))
        self.world.after(1.0, self.sign_of_life, self)

    def die(self) -> None:
        self.alive = False
        self.world.died(self)

    def tell(self, event: Any) -> None:
        if self.link is not None:
            self.link.tell(event)

    # --- the coordinator's line

    def obey(self, link: Link, term: tuple[int, int], command: Any) -> None:
        """A command, if it is of no older coordinator and of no older word of the same."""
        if not self.incarnation:
            self.early.append((link, term, command))
            return
        if term < self.obeyed:
            return
        self.obeyed = term
        match command:
            case ("attach", shard_term, standby):
                if shard_term and self.order is None:
                    self.term = shard_term
                    self.record(standby)
                    if self.configured and not self.serves:
                        self.serve()
                self.link = link
                self.tell_state(link)
            case a.ConfigureShard():
                self.configured = self.serves = True
                self.tell(e.ShardConfigured(self.world.state.shard_of(self.incarnation) or 0))
            case a.StandBy():
                self.stand(command)
            case a.Promote(term=promoted):
                if not self.serves:
                    self.order = self.calling = None
                    self.serve()
                    self.record(0)
                self.term = max(self.term, promoted)
                self.tell_state(link)
            case a.LeaveAlone(standby):
                self.tell(e.StandbyLeft(self.world.state.shard_of(self.incarnation) or 0, standby))
                self.alone(standby)
            case a.Dismiss(incarnation):
                if incarnation == self.incarnation:
                    self.die()
                else:
                    link.over = True

    def tell_state(self, link: Link) -> None:
        """What this server is, once all that its state shows is acknowledged."""
        if self.link is not link:
            return
        if self.serves and self.waiting:
            self.world.after(0.1, lambda: self.tell_state(link), self)
            return
        standing = self.order is not None
        standby = self.waits_for if self.waits_for is not None and self.recorded and not self.parting else 0
        link.tell(("state", self.incarnation, self.serves and self.configured, standing, standby))
        if standby:
            link.tell(e.StandbyInSync(self.world.state.shard_of(self.incarnation) or 0, standby))

    def serve(self) -> None:
        self.serves = True
        self.world.serves(self)

    # --- writes

    def write(self, shard: int, term: int, entry: int) -> None:
        """A worker's push: it stands in the log at once, and is acknowledged when it is safe."""
        if not self.serves or term != self.term or entry in self.disk.log:
            return
        self.disk.log.append(entry)
        self.waiting.append(Write(shard, len(self.disk.log), entry))
        if self.follower is not None:
            self.follower[1].send((len(self.disk.log), entry))
        self.acknowledge()

    def acknowledge(self) -> None:
        while self.waiting and (self.waits_for is None or self.copied >= self.waiting[0].position):
            write = self.waiting.pop(0)
            self.world.acknowledged(self, write.shard, write.entry)

    # --- the primary's part

    def called(self, standby: Server, term: int) -> bool:
        """A standby calls. Whether it is taken."""
        other = self.waits_for not in (None, standby.incarnation)
        if not self.serves or term != self.term or self.parting or other:
            return False
        if self.follower is not None:  # a newer call ends the older one
            older, line = self.follower
            line.cut()
            if older is not standby:
                older.calling = None
        line = Line(self.world, lambda message: standby.copy(self, message), standby)
        self.follower = (standby, line)
        line.send(("image", tuple(self.disk.log)))
        self.calls += 1
        return True

    def copied_to(self, standby: Server, position: int) -> None:
        if self.follower is None or self.follower[0] is not standby:
            return
        if self.waits_for == standby.incarnation:
            self.copied = max(self.copied, position)
            self.acknowledge()
        elif len(self.disk.log) - position < 3:
            self.caught_up_at = len(self.disk.log)
            self.waits_for, self.copied = standby.incarnation, position
        if self.caught_up_at is not None and position >= self.caught_up_at:
            self.caught_up_at = None
            self.recorded = True
            self.tell(e.StandbyInSync(self.world.state.shard_of(self.incarnation) or 0, standby.incarnation))

    def lost(self, standby: Server, call: int) -> None:
        """The connection to a standby ended."""
        if self.follower is None or call != self.calls:
            return
        self.follower = None
        if self.waits_for != standby.incarnation:
            return
        if self.recorded:
            self.parting = True
            shard = self.world.state.shard_of(self.incarnation) or 0
            self.tell(e.StandbyParted(shard, standby.incarnation, "its connection broke"))
        else:
            self.wait_no_more()

    def alone(self, standby: int) -> None:
        if self.waits_for == standby:
            self.parting = self.recorded = False
            self.wait_no_more()
            if self.follower is not None:  # it is to become in sync anew
                follower = self.follower[0]
                self.world.after(
                    self.world.delay(), lambda: self.copied_to(follower, len(follower.disk.log)), self
                )

    def wait_no_more(self) -> None:
        self.waits_for = self.caught_up_at = None
        self.acknowledge()

    def record(self, standby: int) -> None:
        """What the coordinator has recorded, as its line begins."""
        if not standby and self.waits_for is not None:
            self.alone(self.waits_for)
        elif standby and self.waits_for != standby:
            self.waits_for, self.copied = standby, 0
        self.recorded = bool(standby)
        self.parting = self.parting and self.recorded
        if self.parting:
            shard = self.world.state.shard_of(self.incarnation) or 0
            self.world.after(0.0, lambda: self.tell(e.StandbyParted(shard, standby, "it broke before")), self)

    # --- the standby's part

    def stand(self, order: a.StandBy) -> None:
        if self.order == order:
            return
        self.order, self.calling, self.serves = order, None, False
        self.call(order)

    def call(self, order: a.StandBy) -> None:
        """Call the primary, and again whenever the connection is gone."""
        if self.order is not order:
            return
        primary = self.world.at_address(order.address)
        if self.calling is None and primary is not None and self.world.connected(self, primary):
            if primary.called(self, order.term):
                self.calling = primary
        elif self.calling is not None and (
            not self.calling.alive or not self.world.connected(self, self.calling)
        ):
            self.calling = None
        self.world.after(0.3, lambda: self.call(order), self)

    def copy(self, primary: Server, message: Any) -> None:
        """The primary's log, or one more entry of it."""
        if self.calling is not primary or self.order is None:
            return
        if message[0] == "image":
            self.disk.log[:] = message[1]
            self.disk.incarnation, self.configured = self.incarnation, True
        elif message[0] == len(self.disk.log) + 1:
            self.disk.log.append(message[1])
        elif message[0] > len(self.disk.log):
            raise Broken(f"{self.name} is sent entry {message} behind {len(self.disk.log)}")
        position = len(self.disk.log)
        self.world.after(self.world.delay(), lambda: primary.copied_to(self, position), primary)
