"""A small world around the coordinator's core: shards on the real ledgers, workers, and lines that delay and break.

Everything comes from one seed. Messages between two processes arrive in order, those of different
pairs in any; workers are killed, paused, started again, join and leave; lines break and lose what is
under way; the mode is switched. The laws (tests/coordinator/laws.py) are checked at every event.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from typing import Any

from coordinator import actions as a
from coordinator import events as e
from coordinator import records as r
from coordinator.core import Core
from coordinator.desk import Rules, begin_of
from coordinator.state import State
from ps.ledger import Ledger
from tests.coordinator.disk import Disk
from tests.coordinator.ground import EXACT, SPEC, Broken, Owner, began, beginning, rules
from tests.coordinator.hand import Worker
from tests.coordinator.laws import Laws
from tests.coordinator.links import Link
from tests.coordinator.server import Server
from tests.coordinator.shard import Shard
from wire.errors import SparsyncError

TICK_S = 0.25
ENDLESS_S = 900.0
LET_GO_S = 120.0
MODES = ("sync", "quorum", "ssp", "async", "delayed")


class World:
    """The event queue, the coordinator, and the chaos.

    Args:
        modes: the run begins in one of them, and is switched among them.
        chaos_s: from then on nothing bad happens any more, and the run must end.
    """

    def __init__(
        self,
        seed: int,
        *,
        modes: Sequence[str] = MODES,
        core: Callable[[Rules, State], Core] = Core,
        ledger: Callable[[int, int, int], Ledger] = Ledger,
        on_deposit: Callable[[set[int]], None] = lambda steps: None,
        chaos_s: float = 25.0,
        servers_die: bool = False,
    ) -> None:
        self.seed = seed
        self.servers_die = servers_die
        self.fate = fate = random.Random(f"fate {seed}")
        self.random = rnd = random.Random(seed)
        self.now = 0.0
        self._queue: list[tuple[float, int, Callable[[], None], Owner | None]] = []
        self._serial = 0
        self.first_step = 0
        self.total_steps = 1 << 30
        self.ledger = ledger
        self.on_deposit = on_deposit
        self.slowness = rnd.choice([0.02, 0.1, 0.4])
        self.spec = SPEC
        self.rules = rules(
            servers=rnd.choice([1, 2, 3]),
            workers_to_begin=rnd.choice([1, 2]),
            units_per_step=rnd.choice([1, 2, 4]),
            steps=rnd.randint(4, 14) * (1 if tuple(modes) == ("sync",) else rnd.choice([1, 1, 3])),
            stream_state_every=rnd.choice([1, 2, 5, 50]),
            checkpoint_every=rnd.choice([0, 0, 3, 4]),
            ack=fate.choice(["os", "disk"]) if servers_die else "memory",
            replicas=fate.choice([0, 1, 1]) if servers_die else 0,
        )
        self.modes = modes
        mode = self.some_mode()
        self.state = began(self.rules.units_per_step, mode=mode)
        self.shadow = began(self.rules.units_per_step, mode=mode)
        self.first_segment = begin_of(self.state)
        self.core = core(self.rules, self.state)
        self.journal: list[str] = [r.to_json(record) for record in beginning(mode=mode)]
        self.history: list[str] = []
        self.answers: dict[str, tuple[Worker | Server, Callable[[Any], None]]] = {}
        self.addresses: dict[str, Server] = {}
        self.known: dict[int, Server] = {}
        """The newest process of each incarnation of a server."""
        self.links: dict[int, Link] = {}
        self.laws = Laws(self)
        self.workers: list[Worker] = []
        self.over = self.away = False
        self.stopped_at: int | None = None
        self.checkpoints: list[int] = []
        self.wishes: dict[str, int] = {}
        """Key of an operator who waits for a checkpoint -> the steps that were settled when he asked."""
        self.granted: list[object] = []
        """What was answered to wishes."""
        self.kills = self.partial = 0
        self.servers = [
            Server(self, f"ps{i}", Disk(self, self.rules.ack))
            for i in range(self.rules.servers * (1 + self.rules.replicas))
        ]
        for server in self.servers:
            server.join()
        for _ in range(max(2, self.rules.workers_to_begin)):
            self.spawn()
        self._plan_chaos(chaos_s)
        self._tick()

    def some_mode(self) -> r.Switching:
        rnd, kind = self.random, self.random.choice(self.modes)
        if kind == "quorum":
            quorum = rnd.randint(1, self.rules.units_per_step)
            return r.Switching("sync", None, quorum, rnd.choice([0.2, 1.0]))
        if kind == "ssp":
            return r.Switching("ssp", rnd.randint(0, 3), None, 1.0)
        return EXACT if kind == "sync" else r.Switching(kind, None, None, 1.0)

    @property
    def shards(self) -> list[Shard]:
        """The shards as their primaries have them; of one that is down, what it will recover."""
        known, placement = self.known, self.shadow.placement
        nothing = (
            Shard(self, 0, self.first_segment) if any(p.incarnation not in known for p in placement) else None
        )
        return [known[p.incarnation].shard if p.incarnation in known else nothing for p in placement]  # type: ignore[misc]

    # --- time

    def delay(self) -> float:
        return self.random.expovariate(1 / self.slowness) + 0.001

    def serial(self) -> int:
        self._serial += 1
        return self._serial

    def at(self, time: float, act: Callable[[], None], owner: Owner | None = None) -> None:
        heapq.heappush(self._queue, (time, self.serial(), act, owner))

    def after(self, delay: float, act: Callable[[], None], owner: Owner | None = None) -> None:
        self.at(self.now + delay, act, owner)

    def _tick(self) -> None:
        self.hear(e.Tick())
        self.after(TICK_S, self._tick)

    def run(self) -> World:
        """Until the run is over. Raises: Broken."""
        while not self.over:
            self.now, serial, act, owner = heapq.heappop(self._queue)
            if self.now > ENDLESS_S:
                raise Broken(f"the run does not end: {self.core.work.waits_for}; {self.history[-8:]}")
            if owner is not None and not owner.alive:
                continue
            if owner is not None and owner.paused_until > self.now:
                heapq.heappush(self._queue, (owner.paused_until, serial, act, owner))
                continue
            act()
        self.laws.end()
        return self

    # --- the coordinator

    def key(self, owner: Worker | Server, then: Callable[[Any], None]) -> str:
        key = str(self.serial())
        self.answers[key] = (owner, then)
        return key

    def hear(self, event: e.Event) -> None:
        if self.over:
            return
        self.history.append(f"{self.now:.2f} {event}")
        try:
            actions = self.core.handle(event, self.now)
        except SparsyncError:  # it was given up and did not know: the call fails, and it ends
            for worker in self.alive():
                if worker.incarnation == event.incarnation:  # type: ignore[union-attr]
                    worker.down.send(a.End("given up", "StaleIncarnation"))
            return
        live = self.core
        self.carry_out(actions)
        if self.shadow != self.state and live is self.core and not self.away:
            raise Broken(f"the journal does not make the state after {event}")

    def carry_out(self, actions: list[a.Action]) -> None:
        for action in actions:
            self._act(action)

    def _act(self, action: a.Action) -> None:
        if isinstance(action, a.Tell | a.Command | a.CommandServer):
            self.laws.revealed(action)
        match action:
            case a.Journal(record):
                self.journal.append(r.to_json(record))
                self.shadow.apply(r.from_json(self.journal[-1]))
                self.laws.decided(record)
            case a.Answer(key, value) if key in self.wishes:
                self.granted.append(value)
                self.laws.granted(self.wishes.pop(key), value)
            case a.Answer(key, value):
                owner, then = self.answers.pop(key, (None, None))
                if isinstance(owner, Worker) and then is not None:
                    self.after(self.delay(), lambda: then(value), owner)
                elif then is not None:
                    then(value)
            case a.Tell(incarnation, order):
                for worker in self.workers:
                    if worker.incarnation == incarnation:
                        worker.planned |= isinstance(order, a.Plan)
                        worker.down.send(order)
            case a.Dial(incarnation):
                self._open(incarnation)
            case a.OpenShards():
                for member in self.state.present("ps"):
                    self._open(member.incarnation)
            case a.Command(shard, command):
                self._command(self.state.placement[shard].incarnation, command)
            case a.CommandServer(incarnation, command):
                self._command(incarnation, command)
            case a.Dismiss(incarnation, reason):
                self._close(incarnation)
                self.links[incarnation] = Link(self, incarnation, reason)
            case a.WriteCheckpoint(step):
                self._write(step)
            case a.Quit():
                self.over = True

    def _command(self, incarnation: int, command: a.ShardOrder) -> None:
        if (link := self.links.get(incarnation)) is not None:
            link.send(command)

    def _close(self, incarnation: int) -> None:
        if (link := self.links.pop(incarnation, None)) is not None:
            link.close()

    def _open(self, incarnation: int) -> None:
        """Open the line to a server, which obeys no older term from then on."""
        self._close(incarnation)
        self.links[incarnation] = Link(self, incarnation)

    def logs(self, server: Server) -> None:
        """A server has applied a record, and begins to log it."""

    def crash(self, server: Server, *, reason: str, silent: bool = False) -> None:
        """Only a world in which servers die knows how."""
        raise Broken(f"{server.name} ends: {reason}")

    def _write(self, step: int) -> None:
        self.laws.boundary(step)
        writer = self.core

        def written() -> None:
            if self.core is not writer or self.away:
                return
            self.laws.boundary(step)
            if self.random.random() < 0.1 and not self.state.final:
                self.hear(e.CheckpointFailed(step, "disk full"))
            else:
                self.checkpoints.append(step)
                self.hear(e.CheckpointWritten(step, f"step-{step}", "x", "p"))

        self.after(self.random.uniform(0.1, 3.0), written)

    # --- chaos

    def spawn(self, name: str | None = None) -> None:
        if not self.over:
            self.workers.append(Worker(self, name or f"w{self.serial()}"))

    def alive(self) -> list[Worker]:
        return [w for w in self.workers if w.alive]

    def staying(self) -> list[Worker]:
        return [w for w in self.alive() if not w.leaving and not w.drained]

    def _plan_chaos(self, chaos_s: float) -> None:
        rnd, time = self.random, 0.0
        rate = rnd.choice([0.1, 0.5, 1.5])
        acts = [self._kill, self._pause, self._join, self._leave, self._break_shard, self._break_worker]
        weights = rnd.choice([[5, 2, 2, 1, 2, 2], [2, 8, 2, 1, 1, 1]])
        if tuple(self.modes) != ("sync",):
            acts += [self._drain, self._switch]
            weights = [*weights, 1, rnd.choice([1, 4])]
        while (time := time + rnd.expovariate(rate)) < chaos_s:
            self.at(time, rnd.choices(acts, weights)[0])
        if rnd.random() < 0.15:
            self.at(rnd.uniform(1.0, 12.0), self._stop)
        wishes = random.Random(f"wishes {self.seed}")
        for _ in range(wishes.choice([0, 0, 1, 3])):
            self.at(wishes.uniform(0.0, chaos_s), self._wish)
        self.at(chaos_s, self._make_sure)

    def _make_sure(self) -> None:
        """From now on somebody stays."""
        while len(self.staying()) < (1 if self.core.begun else self.rules.workers_to_begin):
            self.spawn()
        self.after(20.0, self._make_sure)

    def _kill(self) -> None:
        if workers := self.alive():
            worker = self.random.choice(workers)
            worker.die(silent=self.random.random() < 0.3)
            self.kills += 1
            if self.random.random() < 0.7:
                self.after(self.random.uniform(0.2, 8.0), lambda: self.spawn(worker.name))

    def _pause(self) -> None:
        if workers := self.alive():
            worker = self.random.choice(workers)
            worker.paused_until = max(worker.paused_until, self.now + self.random.uniform(1.0, 9.0))

    def _join(self) -> None:
        if len(self.alive()) < 6:
            self.spawn()

    def _leave(self) -> None:
        if workers := [w for w in self.alive() if w.incarnation]:
            worker = self.random.choice(workers)
            worker.leave()
            self.after(LET_GO_S, lambda: self.laws.let_go(worker))

    def _drain(self) -> None:
        if workers := [w for w in self.alive() if w.incarnation]:
            worker = self.random.choice(workers)
            worker.drained = True
            self.hear(e.DrainAsked("", worker.name))
            self.after(LET_GO_S, lambda: self.laws.let_go(worker))

    def _switch(self) -> None:
        self.hear(e.SetAsked("", self.some_mode()))

    def _break_shard(self) -> None:
        if self.shadow.placement:
            placed = self.random.choice(self.shadow.placement)
            link = self.links.get(placed.incarnation)
            if link is not None and link.down is not None:
                link.broke("reset", redial_s=self.random.uniform(0.1, 2.0))

    def _break_worker(self) -> None:
        if workers := [w for w in self.alive() if w.incarnation]:
            self.random.choice(workers).reopen()

    def _wish(self) -> None:
        key = f"wish {self.serial()}"
        self.wishes[key] = self.state.open_step
        self.hear(e.CheckpointAsked(key))

    def _stop(self) -> None:
        if self.stopped_at is None:
            self.stopped_at = self.state.open_step
            self.hear(e.StopAsked("", "an operator asked"))
