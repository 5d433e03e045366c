"""A world of logs around the coordinator's core: servers that die, stop, come back, stand by and are promoted.

Everything comes from one seed. The laws: whoever begins to serve a shard holds every entry of it that was ever
acknowledged; under one term one process acknowledges. In the end everything that was acknowledged stands, every shard
acknowledges again and has a standby in sync. The coordinator is started again now and then, from its journal.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

from coordinator import actions as a
from coordinator import events as e
from coordinator import records as r
from coordinator.core import Core
from coordinator.state import State
from tests.coordinator.ground import LAYOUT, SPEC, Broken, Line, Owner, beginning, rules
from tests.coordinator.log_server import Disk, Server
from wire.errors import SparsyncError

QUIET_S = 60.0
END_S = 160.0


class Link:
    """The coordinator's line to one incarnation: one connection after the other, until it is ended."""

    def __init__(self, world: LogWorld, incarnation: int, *, dismissed: str = "") -> None:
        self.world, self.incarnation, self.dismissed = world, incarnation, dismissed
        self.address = world.state.members[incarnation].address
        self.over = False
        self.recorded = 0
        self.server: Server | None = None
        self.up = self.down = Line(world, lambda message: None)
        self.open()

    def open(self) -> None:
        world, server = self.world, self.world.at_address(self.address)
        if self.over:
            return
        if server is None or world.now < world.unreachable.get(server.name, 0.0):
            self.broken("refused")
            return
        self.server = server
        self.up = Line(world, self.hear)
        self.down = Line(world, lambda message: server.obey(self, *message), server)
        state = world.state
        if self.dismissed:
            self.send(a.Dismiss(self.incarnation, self.dismissed))
            return
        shard = state.shard_of(self.incarnation)
        term = 0 if shard is None else state.placement[shard].term
        standby = state.standbys.get(shard) if shard is not None else None
        self.recorded = standby.incarnation if standby is not None and standby.in_sync else 0
        self.send(("attach", term, self.recorded))

    def send(self, command: Any) -> None:
        state = self.world.state
        self.down.send(((state.term, len(self.world.journal)), command))

    def tell(self, event: Any) -> None:
        self.up.send(event)

    def broken(self, reason: str) -> None:
        """Not there, or no more: again in a moment."""
        self.down.cut(self.world.delay())
        self.up.cut()
        if self.server is not None and self.server.link is self:
            self.server.link = None
        self.server = None
        if not self.over and not self.dismissed:
            self.world.hear(e.LineBroken(self.incarnation, reason))
        self.world.after(self.world.random.uniform(0.1, 0.5), self.open)

    def end(self) -> None:
        self.over = True
        self.up.cut()
        self.down.cut(self.world.delay())

    def hear(self, event: Any) -> None:
        if self.over:
            return
        shard = self.world.state.shard_of(self.incarnation)
        match event:
            case ("state", incarnation, configured, standing, standby):
                if shard is None:
                    self.world.hear(e.ServerAttached(self.incarnation, incarnation))
                else:
                    told = e.ShardAttached(
                        shard,
                        incarnation,
                        configured,
                        0,
                        standing=standing,
                        standby=standby,
                        recorded=self.recorded,
                    )
                    self.world.hear(told)
            case e.ServerAlive():
                self.world.hear(event)
            case _ if shard is not None:
                self.world.hear(event)


class LogWorld:
    """The event queue, the coordinator, one worker that writes, and the chaos."""

    def __init__(self, seed: int, *, core: Callable[..., Core] = Core) -> None:
        self.random = rnd = random.Random(seed)
        self.now = 0.0
        self._queue: list[tuple[float, int, Callable[[], None], Owner | None]] = []
        self._serial = 0
        self.slowness = rnd.choice([0.005, 0.05, 0.2])
        self.rules = rules(servers=rnd.choice([1, 2]), workers_to_begin=2, ack="os", replicas=1)
        self.journal: list[str] = []
        self.history: list[str] = []
        self.down_until = -1.0
        self.make_core = core
        self.links: dict[int, Link] = {}
        self.answers: dict[str, Callable[[Any], None]] = {}
        self.servers: list[Server] = []
        self.unreachable: dict[str, float] = {}
        self.cut_off: dict[frozenset[str], float] = {}
        self.acked: dict[int, set[int]] = {}
        self.ackers: dict[tuple[int, int], Server] = {}
        self.last_ack: dict[int, float] = {}
        self.knows: dict[int, tuple[str, int]] = {}
        self.loaded: set[int] = set()
        self.worker = 0
        self.told_model = False
        self.counts: dict[str, int] = {}
        for record in beginning():
            self.journal.append(r.to_json(record))
        self.core = self.make_core(self.rules, self.replay())
        spares = rnd.choice([0, 1])
        for i in range(2 * self.rules.servers + spares):
            self.servers.append(Server(self, f"ps{i}", Disk()))
        self.join_worker()
        self._plan_chaos()
        self._tick()
        self._beat()

    @property
    def state(self) -> State:
        return self.core.state

    def replay(self) -> State:
        state = State(self.rules.units_per_step)
        for text in self.journal:
            state.apply(r.from_json(text))
        return state

    # --- time

    def serial(self) -> int:
        self._serial += 1
        return self._serial

    def delay(self) -> float:
        return self.random.expovariate(1 / self.slowness) + 0.001

    def at(self, time: float, act: Callable[[], None], owner: Owner | None = None) -> None:
        heapq.heappush(self._queue, (time, self.serial(), act, owner))

    def after(self, delay: float, act: Callable[[], None], owner: Owner | None = None) -> None:
        self.at(self.now + delay, act, owner)

    def run(self) -> LogWorld:
        while self._queue and self.now < END_S:
            self.now, serial, act, owner = heapq.heappop(self._queue)
            if owner is not None and not owner.alive:
                continue
            if owner is not None and owner.paused_until > self.now:
                heapq.heappush(self._queue, (owner.paused_until, serial, act, owner))
                continue
            act()
        self._check_the_end()
        return self

    def _tick(self) -> None:
        self.hear(e.Tick())
        self.after(0.1, self._tick)

    # --- the coordinator

    def hear(self, event: e.Event) -> None:
        if self.now < self.down_until:
            return
        self.history.append(f"{self.now:.2f} {event}")
        self.act(self.core.handle(event, self.now))

    def act(self, actions: list[a.Action]) -> None:
        for action in actions:
            if not isinstance(action, a.Note):
                self.history.append(f"{self.now:.2f}   -> {action}")
            match action:
                case a.Journal(record):
                    self.journal.append(r.to_json(record))
                    kind = type(record).__name__
                    self.counts[kind] = self.counts.get(kind, 0) + 1
                case a.Answer(key, value):
                    self.answers.pop(key, lambda value: None)(value)
                case a.Tell(_, a.Redirect() as order):
                    self.after(self.delay(), lambda o=order: self.redirected(o))  # type: ignore[misc]
                case a.OpenShards():
                    for member in self.state.present("ps"):
                        self.dial(member.incarnation)
                case a.Dial(incarnation):
                    self.dial(incarnation)
                case a.Dismiss(incarnation, reason):
                    self.end_link(incarnation)
                    self.links[incarnation] = Link(self, incarnation, dismissed=reason)
                case a.Command(shard, command):
                    self.links[self.state.placement[shard].incarnation].send(command)
                case a.CommandServer(incarnation, command) if incarnation in self.links:
                    self.links[incarnation].send(command)
                case a.Quit():
                    raise Broken(f"the run ended: {self.state.ended}")
        if self.replay_differs():
            raise Broken("the journal does not make the state")

    def replay_differs(self) -> bool:
        return self.random.random() < 0.01 and self.replay() != self.state

    def dial(self, incarnation: int) -> None:
        address = self.state.members[incarnation].address
        for other in list(self.links.values()):
            if other.incarnation == incarnation or other.address == address:
                self.end_link(other.incarnation)
        self.links[incarnation] = Link(self, incarnation)

    def end_link(self, incarnation: int) -> None:
        if (link := self.links.pop(incarnation, None)) is not None:
            link.end()

    def join(self, server: Server, held: int) -> None:
        key = str(self.serial())
        self.answers[key] = lambda value: self.after(self.delay(), lambda: server.joined(value, held), server)
        if self.now < self.down_until:
            self.answers.pop(key)(SparsyncError("nobody answers"))
            return
        state = self.state
        self.hear(e.Join(key, "ps", server.name, server.address, "", 0, "h", state.run, state.timeline, held))

    def restart(self) -> None:
        """The coordinator dies, and comes back from its journal."""
        self.down_until = self.now + self.random.choice([0.1, 3.0, 20.0])
        for incarnation in list(self.links):
            self.end_link(incarnation)
        self.at(self.down_until, self._reopen)

    def _reopen(self) -> None:
        if self.now < self.down_until:
            return  # it died again meanwhile
        state = self.replay()
        reopened = r.Reopened(state.term + 1, "cd")
        state.apply(reopened)
        self.journal.append(r.to_json(reopened))
        self.core = self.make_core(self.rules, state)
        self.history.append(f"{self.now:.2f} the coordinator is back")
        self.act(self.core.reopen(self.now))
        if self.worker:
            self.hear(e.Beat(self.worker))
            self.hear(e.Attending(self.worker))

    # --- servers

    def at_address(self, address: str) -> Server | None:
        return next((s for s in self.servers if s.alive and s.address == address), None)

    def connected(self, one: Server, other: Server) -> bool:
        return self.now >= self.cut_off.get(frozenset((one.name, other.name)), 0.0)

    def died(self, server: Server) -> None:
        for link in list(self.links.values()):
            if link.server is server:
                self.after(self.delay(), lambda k=link: k.server is server and k.broken("reset"))  # type: ignore[misc]
        for other in self.servers:
            if other.follower is not None and other.follower[0] is server:
                self.after(self.delay(), lambda o=other, n=other.calls: o.lost(server, n), other)  # type: ignore[misc]
        self.after(self.random.choice([0.3, 2.0, 12.0]), lambda: self.start_again(server))

    def start_again(self, server: Server) -> None:
        self.servers.remove(server)
        self.servers.append(Server(self, server.name, server.disk))

    def serves(self, server: Server) -> None:
        """A law: who begins to serve holds all that was acknowledged."""
        shard = self.state.shard_of(server.incarnation)
        if shard is None:
            return  # it is told by an older word, under an older term
        if missing := self.acked.get(shard, set()) - set(server.disk.log):
            raise Broken(
                f"{server.name} serves shard {shard} without {sorted(missing)[:3]}, which were acknowledged"
            )

    def acknowledged(self, server: Server, shard: int, entry: int) -> None:
        """A law: under one term one process acknowledges."""
        known = self.ackers.setdefault((shard, server.term), server)
        if known is not server:
            raise Broken(
                f"{server.name} and {known.name} acknowledge under term {server.term} of shard {shard}"
            )
        self.acked.setdefault(shard, set()).add(entry)
        self.last_ack[shard] = self.now

    # --- the worker

    def join_worker(self) -> None:
        key = str(self.serial())
        self.answers[key] = self.worker_joined
        self.hear(e.Join(key, "worker", "w", "", "cpu", 1, "h"))

    def worker_joined(self, value: Any) -> None:
        self.worker = value.incarnation
        self.after(0.01, self.declare)

    def declare(self) -> None:
        key = str(self.serial())
        self.answers[key] = self.declared
        if self.now < self.down_until:
            self.after(1.0, self.declare)
            return
        self.hear(e.Declare(key, self.worker, LAYOUT, SPEC))
        if not self.told_model:
            self.after(5.0, self.declare)

    def declared(self, value: a.Declared) -> None:
        if self.told_model:
            return
        self.told_model = True
        for placed in value.placement:
            self.redirected(a.Redirect(placed.shard, placed.address, placed.incarnation, placed.term))
        self.upload()
        self._write()

    def upload(self) -> None:
        """Once every shard holds the initial model, and for as long as the coordinator does not know it."""
        for address, _ in self.knows.values():
            server = self.at_address(address)
            if server is not None and server.serves and server.paused_until <= self.now:
                server.disk.incarnation = server.incarnation
        held = [self.at_address(address) for address, _ in self.knows.values()]
        if all(s is not None and s.serves and s.disk.incarnation == s.incarnation for s in held):
            self.hear(e.Uploaded(self.worker))
        if not self.state.loaded:
            self.after(0.3, self.upload)

    def redirected(self, order: a.Redirect) -> None:
        if order.term >= self.knows.get(order.shard, ("", 0))[1]:
            self.knows[order.shard] = (order.address, order.term)

    def _beat(self) -> None:
        if self.worker:
            self.hear(e.Beat(self.worker))
        self.after(0.5, self._beat)

    def _write(self) -> None:
        for shard, (address, term) in self.knows.items() if self.state.loaded else ():
            if (server := self.at_address(address)) is not None:
                entry = self.serial()
                self.after(self.delay(), lambda s=server, n=shard, t=term, x=entry: s.write(n, t, x), server)  # type: ignore[misc]
        self.after(self.random.uniform(0.05, 0.4), self._write)

    # --- chaos

    def _plan_chaos(self) -> None:
        rnd, time = self.random, 0.0
        rate = rnd.choice([0.1, 0.4, 1.0])
        acts = [self._kill, self._pause, self._break_line, self._cut_off, self.restart]
        weights = rnd.choice([[4, 2, 2, 2, 1], [1, 4, 3, 3, 1], [4, 4, 1, 1, 0]])
        while (time := time + rnd.expovariate(rate)) < QUIET_S:
            self.at(time, rnd.choices(acts, weights)[0])

    def _some(self) -> Server:
        return self.random.choice([s for s in self.servers if s.alive] or self.servers)

    def _kill(self) -> None:
        if (server := self._some()).alive:
            server.die()

    def _pause(self) -> None:
        server = self._some()
        server.paused_until = max(server.paused_until, self.now + self.random.choice([0.5, 3.0, 9.0]))

    def _break_line(self) -> None:
        server = self._some()
        self.unreachable[server.name] = self.now + self.random.choice([0.0, 0.5, 5.0])
        for link in list(self.links.values()):
            if link.server is server:
                link.broken("reset")

    def _cut_off(self) -> None:
        """Two servers do not reach each other."""
        one, other = self._some(), self._some()
        self.cut_off[frozenset((one.name, other.name))] = self.now + self.random.choice([0.0, 0.5, 5.0])
        for primary, standby in ((one, other), (other, one)):
            if standby.calling is primary:
                standby.calling = None
                if primary.follower is not None:
                    primary.follower[1].cut()
                lost = lambda p=primary, s=standby, n=primary.calls: p.lost(s, n)  # type: ignore[misc]  # noqa: E731
                self.after(self.delay(), lost, primary)

    def _check_the_end(self) -> None:
        """All that was acknowledged stands, and goes on."""
        state = self.state
        for placed in state.placement:
            server = self.at_address(placed.address)
            if server is None or not server.serves or self.last_ack.get(placed.shard, 0.0) < END_S - 5.0:
                told = self.core.servers.waits_for(self.now)
                raise Broken(
                    f"shard {placed.shard} at {placed.address} acknowledges nothing any more ({told})"
                )
            self.serves(server)
            standby = state.standbys.get(placed.shard)
            if standby is None or not standby.in_sync:
                raise Broken(f"shard {placed.shard} has no standby in sync in the end: {standby}")
        if not state.placement:
            raise Broken("the run was never placed")
