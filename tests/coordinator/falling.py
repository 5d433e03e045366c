"""The small world in which servers die, too: killed or without power, stopped, cut off, started again elsewhere.

What was applied and is not durable is lost with a server. With replicas every shard has a standby, which follows and
may take over; the coordinator still dies as in the mortal world, and a copy of its journal is started now and then.
"""

from __future__ import annotations

import random
from typing import Any

from coordinator import events as e
from coordinator import records as r
from tests.coordinator.ground import Broken, Line
from tests.coordinator.laws import RIVAL
from tests.coordinator.links import Order
from tests.coordinator.mortal import MortalWorld
from tests.coordinator.server import Server

NOTICED_S = (10.0, 15.0)
"""When a connection to a machine that is gone is given up."""
LASTING = (0.3, 1.0, 3.0, 3.0, 12.0)
"""About so long a server stays away."""


class FallingWorld(MortalWorld):
    """One history with deaths of servers.

    Attributes:
        falls: deaths of servers so far; `promotions`: of standbys.
    """

    def __init__(self, seed: int, *, chaos_s: float = 25.0, most: int = 2, **more: Any) -> None:
        self.falls = 0
        self._doomed_servers: set[Server] = set()
        super().__init__(seed, chaos_s=chaos_s, most=most, servers_die=True, **more)
        rnd = self._ruin = random.Random(f"falls {seed}")
        acts = [self._fall, self._stop_server, self._cut_standby, self._rival]
        rate, time = rnd.choice([0.1, 0.3, 0.8]), 0.0
        while (time := time + rnd.expovariate(rate)) < chaos_s:
            self.at(time, rnd.choices(acts, [6, 3, 2, 1])[0])

    @property
    def promotions(self) -> int:
        return sum('"Promoted"' in line for line in self.journal)

    def run(self) -> FallingWorld:
        super().run()
        return self

    def living(self) -> list[Server]:
        return [server for server in self.servers if server.alive]

    # --- dying

    def _fall(self) -> None:
        if living := self.living():
            server = self._ruin.choice(living)
            if self._ruin.random() < 0.5:
                self._kill_server(server)
            else:
                self._doomed_servers.add(server)

    def _kill_server(self, server: Server) -> None:
        if server.alive:
            self.crash(server, reason="killed", silent=self._ruin.random() < 0.3)

    def logs(self, server: Server) -> None:
        """A doomed server dies while a record is on its way to the disk, or has just been revealed."""
        if server in self._doomed_servers and self._ruin.random() < 0.3:
            self._doomed_servers.discard(server)
            self.after(self._ruin.expovariate(50.0), lambda: self._kill_server(server))

    def crash(self, server: Server, *, reason: str, silent: bool = False) -> None:
        """A server ends as it stands, and is started again, elsewhere, with what its disk has left."""
        rnd = self._ruin
        self.history.append(f"{self.now:.2f} {server.name} (#{server.incarnation}) dies: {reason}")
        self.falls += 1
        server.alive = False
        server.disk.crash(rnd)
        server.shard = server.disk.recover(rnd) or server.shard
        for link in list(server.links):
            assert link.up is not None and link.down is not None
            link.down.cut()
            link.up.cut(self.delay())
            late_s = rnd.uniform(*NOTICED_S) if silent else self.delay()
            self.after(late_s, lambda link=link, up=link.up: link.broke("reset") if link.up is up else None)
        for follower in list(server.followers):
            follower.lost()
        for other in self.living():
            if (call := other.standing.call) is not None and call.primary is server:
                call.end("the primary is gone")
        if server.standing.call is not None:
            server.standing.call.end("the standby is gone")
        if self.shadow.placement and self.shadow.shard_of(server.incarnation) is not None and server.loaded:
            self.laws.holds(server.shard.index, f"{server.name} recovered")
        self.servers.remove(server)
        self._doomed_servers.discard(server)
        late_s = rnd.choice(LASTING) * rnd.uniform(0.5, 1.5)
        self.after(late_s, lambda: self._start_again(server))

    def _start_again(self, older: Server) -> None:
        server = Server(self, older.name, older.disk)
        self.history.append(f"{self.now:.2f} {server.name} is started again, holds #{server.disk.held}")
        self.servers.append(server)
        server.join()

    def _stop_server(self) -> None:
        """It is stopped (SIGSTOP), and goes on later as if nothing had been."""
        if living := self.living():
            server = self._ruin.choice(living)
            server.paused_until = max(server.paused_until, self.now + self._ruin.uniform(0.5, 12.0))
            self.history.append(f"{self.now:.2f} {server.name} stands still until {server.paused_until:.2f}")

    def _cut_standby(self) -> None:
        if calls := [s.standing.call for s in self.living() if s.standing.call is not None]:
            self._ruin.choice(calls).end("the connection broke")

    def _rival(self) -> None:
        """Somebody starts a coordinator on an older copy of the data directory: it commands every server it finds."""
        if self.away or not self.shadow.placement or len(self.journal) < 3:
            return
        copied = self._ruin.randrange(2, len(self.journal))
        for server in self.living():
            if server.incarnation and server.disk.guard.term.number:
                seen = server.disk.guard._journal_seq
                line = Line(self, lambda event: None)
                seq = min(copied, seen - 1)
                order = Order(self.state.term + 1, RIVAL, seq, ("attach", 0, 99, 0))
                self.after(self.delay(), lambda s=server, o=order, up=line: s.receive(o, up), server)

    def hear(self, event: e.Event) -> None:
        super().hear(event)
        if (
            isinstance(event, e.Tick)
            and self.state.ended is not None
            and self.state.ended.error == "ServerLost"
        ):
            raise Broken(f"the run is lost: {self.state.ended.reason}")


def promoted(world: FallingWorld) -> list[r.Promoted]:
    """Every take-over of a history."""
    records = [r.from_json(line) for line in world.journal if '"Promoted"' in line]
    return [record for record in records if isinstance(record, r.Promoted)]
