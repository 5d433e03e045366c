"""A worker of the small world: joins, declares, uploads if asked, computes what its plan says.

In exact segments `jobs` computes each stream by itself, all of them at once and in any order; in elastic
ones the real leases and delta queues say what comes next, one unit after the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from coordinator import actions as a
from coordinator import events as e
from ps.ledger import Verdict
from tests.coordinator import mass
from tests.coordinator.calls import Calls, Following
from tests.coordinator.ground import LAYOUT, Broken, Line, commit_of
from tests.coordinator.jobs import Jobs
from wire.errors import SparsyncError
from wire.ids import UnitId
from worker.deltas import Delta, DeltaQueues
from worker.leases import Lease, LeaseWork
from worker.streams import Kind, Task

if TYPE_CHECKING:
    from tests.coordinator.world import World

UNITS_UNDER_WAY = 2
NOWHERE = -1


class Worker:
    """One incarnation of a process.

    Attributes:
        segment: at hand; `reached`: the one that the deltas have come to.
        begun: units of elastic segments that it began.
        parted: it was let go after it flushed. unsure: to some flush no answer came in time.
    """

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.incarnation = 0
        self.alive = True
        self.paused_until = 0.0
        self.slowness = world.random.choice([1.0, 1.0, 1.0, 4.0])
        self.reports: list[e.Event] = []
        self.up = Line(world, world.hear)
        self.down = Line(world, self.hear, self)
        self.beats = Line(world, world.hear)
        self.ready = False
        self.told = False
        self.leaving = self.drained = self.planned = False
        self.evaluated = False
        # the way from segment to segment
        self.segment = self.reached = NOWHERE
        self.elastic = False
        self.mail: a.Plan | None = None
        self.plan: a.Plan | None = None
        # x̂
        self.held = False
        self.step = -1
        self.versions: list[int] = []
        self.clocks: list[int] = []
        self.servers = world.rules.servers
        self.calls = Calls(self)
        self.queues = DeltaQueues(self.servers)
        self.followings: list[Following] = []
        # work
        self.jobs = Jobs(self)
        self.work = LeaseWork(world.rules.units_per_step)
        self.first = self.final = self.occupied = False
        self.under_way: Counter[int] = Counter()
        self.begun: set[int] = set()
        self.lane = mass.Lane(self.servers)
        self.farewell = mass.farewell(self, NOWHERE)
        self.parted = self.unsure = self.leaves = False
        self.join()

    # --- coming and going

    def join(self) -> None:
        world = self.world
        key = world.key(self, self.joined)
        self.up.send(e.Join(key, "worker", self.name, "", "cpu", world.serial(), "host"))

    def joined(self, value: Any) -> None:
        if isinstance(value, SparsyncError):
            self.world.after(1.0, self.join, self)
            return
        self.incarnation = value.incarnation
        self.beat()
        self.declare()

    def declare(self) -> None:
        self.up.send(
            e.Declare(self.world.key(self, self.declared), self.incarnation, LAYOUT, self.world.spec)
        )

    def beat(self) -> None:
        self.beats.send(e.Beat(self.incarnation))
        self.world.after(1.0, self.beat, self)

    def declared(self, value: Any) -> None:
        if isinstance(value, SparsyncError):
            self.die(silent=False)
        elif self.told or self.ready:
            return  # the answer to a repeat
        else:
            self.calls.places = [(placed.address, placed.term) for placed in value.placement]
            self.up.send(e.Attending(self.incarnation))  # what has moved meanwhile is told on this line
            if value.upload:
                self.told = True
                self.world.after(self.world.random.uniform(0.1, 1.0), self.upload, self)
            else:
                self.become_ready()

    def upload(self) -> None:
        waiting = set(range(self.servers))

        def there(shard: int) -> None:
            waiting.discard(shard)
            if not waiting:
                self.report(e.Uploaded(self.incarnation))
                self.become_ready()

        for shard in range(self.servers):
            self.calls.ask(shard, lambda server, reply: server.upload(reply), lambda _, s=shard: there(s))

    def become_ready(self) -> None:
        self.ready = True
        self.report(e.Ready(self.incarnation, 100, "d", 2, 1, True, 0))

    def report(self, event: e.Event) -> None:
        """Tell what must not be lost with a line."""
        self.reports.append(event)
        self.up.send(event)

    def leave(self) -> None:
        self.leaving = True
        self.report(e.WorkerLeaving(self.incarnation, "SIGTERM"))

    def reopen(self) -> None:
        """The line to the coordinator broke: what was under way is lost, what must last is told again."""
        self.up.cut()
        self.down.cut()
        self.up, self.down = Line(self.world, self.world.hear), Line(self.world, self.hear, self)
        self.up.send(e.Attending(self.incarnation))
        for event in self.reports:
            self.up.send(event)
        if not self.ready:
            self.declare()

    def return_to(self) -> None:
        """The coordinator is there again: open the lines, and ask again for what was not answered."""
        if self.world.away:
            return
        self.beats = Line(self.world, self.world.hear)
        if self.incarnation:
            self.reopen()
        else:
            self.up, self.down = Line(self.world, self.world.hear), Line(self.world, self.hear, self)
            self.join()

    def die(self, *, silent: bool) -> None:
        """Everything stops; what is under way may still arrive; the end is noticed at once or by silence."""
        self.alive = False
        self.up.cut(self.world.delay())
        self.beats.cut(self.world.delay())
        self.calls.close()
        if not silent and self.incarnation:
            self.world.after(self.world.delay(), lambda: self.world.hear(e.BeatsEnded(self.incarnation)))

    def rejoin(self) -> None:
        """The process goes on as a new incarnation; what the old one has under way may still arrive."""
        self.die(silent=False)
        self.world.spawn(self.name)

    # --- orders

    def hear(self, order: a.Plan | a.End | a.Redirect) -> None:
        if isinstance(order, a.Redirect):
            self.calls.redirect(order.shard, order.address, order.term)
            return
        if isinstance(order, a.End):
            self.parted = order.reason.startswith("it asked to leave and owes")
            if order.error == "StaleIncarnation" and not self.leaving:
                self.rejoin()
            else:
                self.die(silent=False)
            return
        self.world.total_steps = order.total_steps or self.world.total_steps
        self.mail = order
        self.turn()

    def turn(self) -> None:
        """Take in what has arrived; begin what comes next. Not while a unit is at hand."""
        if self.occupied or not self.ready:
            return
        if self.mail is not None:
            self.plan, self.mail = self.mail, None
        self.obey()
        while self.open and not self.occupied and (deltas := self.queues.take()):
            self.enter(deltas)
        if self.elastic and not self.occupied and self.plan is None and not self.final:
            self.begin_unit()
        idle = self.elastic and not self.occupied and not self.work.open and not +self.under_way
        if self.leaves and self.farewell.due(idle=idle):
            self.farewell.go_on((0.1,))
            self.tell_progress()
            self.obey()

    @property
    def open(self) -> bool:
        return self.reached <= (self.plan.segment if self.plan is not None else self.segment)

    def obey(self) -> None:
        """Follow the newest plan once its segment is reached."""
        plan = self.plan
        if plan is None:
            return
        if plan.segment > self.reached and self.held and self.step < plan.begins:
            return  # the end of the segment at hand is among the deltas to come
        if plan.segment > self.segment and self.farewell.waiting:
            return  # what the lane holds is not known
        self.plan = None
        if plan.segment > self.segment:
            self.begin_segment(plan)
        if plan.segment == self.segment:
            if plan.elastic != self.elastic:
                raise Broken(
                    f"{self.name} is in segment {self.segment}, elastic {self.elastic}, and is told {plan}"
                )
            if self.elastic:
                self.take_leases(plan)
            else:
                self.jobs.obey(plan)

    def begin_segment(self, plan: a.Plan) -> None:
        self.reached = plan.segment
        self.world.laws.inherits(self, plan)
        self.jobs.begin(plan)
        self.segment, self.elastic = plan.segment, plan.elastic
        self.leaves = False
        if not plan.elastic:
            self.lane.drop()
        self.farewell = mass.farewell(self, plan.segment)
        self.work = LeaseWork(self.world.rules.units_per_step)
        if self.held:
            self.work.reached(self.clock)

    @property
    def clock(self) -> int:
        return max(min(self.clocks), self.step, 0)

    # --- x̂

    def enter(self, deltas: Sequence[Delta]) -> None:
        self.final = self.final or deltas[0].final
        for delta in deltas:
            if delta.version != self.versions[delta.shard]:
                raise Broken(f"{self.name} at {self.versions} is handed {delta}")
            self.versions[delta.shard] += 1
            self.clocks[delta.shard] = max(self.clocks[delta.shard], delta.clock)
            for outcome in delta.outcomes:
                number = outcome.unit.number(self.world.rules.units_per_step)
                self.lane.settle(delta.shard, number, outcome.factor)
        head = deltas[0]
        if head.closes:
            self.step = max(self.step, head.step + 1)
        if self.elastic:
            self.work.reached(self.clock)
            self.evaluate_at_the_end()
        self.jobs.go_on_all()
        if head.pause or self.final:
            self.farewell.end()
        if head.pause:
            self.reached += 1
            state = self.world.state
            if self.reached > state.segment.number + state.paused:
                raise Broken(
                    f"{self.name} takes itself to be in segment {self.reached}, the run is in {state.segment}"
                )
            self.obey()

    def follow(self, versions: Sequence[int], steps: Sequence[int]) -> None:
        """Receive every shard's deltas from `versions` on; an older following ends."""
        self.held = True
        self.step = min(steps)
        self.versions = list(versions)
        self.queues.begin(steps)
        for old in self.followings:
            old.close()
        self.followings = [self.calls.follow(i, v, self.published) for i, v in enumerate(versions)]
        # Behind the end of the logs no delta says so any more.
        self.final = all(s.ended_at(v) for s, v in zip(self.world.shards, versions, strict=True))

    def published(self, delta: Delta) -> None:
        self.queues.put(delta)
        self.turn()

    # --- an elastic segment

    def take_leases(self, plan: a.Plan) -> None:
        self.first = plan.first
        if plan.leave and not self.leaves:
            self.leaves = True
            self.world.after(0.5, self.look_again, self)
        orders = [
            Lease(o.lease, o.span.start, o.span.stop, o.span.stride, dict(o.partial)) for o in plan.leases
        ]
        self.work.take(orders, plan.ahead)
        if not self.held and (plan.leases or plan.first):
            self.pull(plan)
        else:
            self.answer(plan)

    def look_again(self) -> None:
        """Time alone may end the wait for outcomes."""
        if self.leaves:
            self.turn()
            self.world.after(0.5, self.look_again, self)

    def tell_progress(self, unit_s: float = 0.0) -> None:
        self.up.send(e.Progressed(self.incarnation, unit_s, self.lane.held_norm))

    def answer(self, plan: a.Plan) -> None:
        self.up.send(e.Holding(self.incarnation, plan.number, tuple(self.work.holding.items())))
        self.evaluate_at_the_end()

    def pull(self, plan: a.Plan) -> None:
        """Take x̂ as it is on each shard, one a little later than the other."""
        self.occupied = True
        parts: dict[int, tuple[int, int, int]] = {}

        def have(shard: int, part: tuple[int, int, int]) -> None:
            parts[shard] = part
            if len(parts) == self.servers:
                self.occupied = False
                versions, steps, self.clocks = map(list, zip(*(parts[s] for s in sorted(parts)), strict=True))
                if any(v < s.deltas.base for s, v in zip(self.world.shards, versions, strict=True)):
                    self.rejoin()  # outrun: what follows on the snapshot is not retained any more
                    return
                self.follow(versions, steps)
                self.work.reached(self.clock)
                self.answer(plan)
                self.turn()

        for shard in range(self.servers):
            self.calls.ask(
                shard, lambda server, reply: server.snapshot(reply), lambda part, s=shard: have(s, part)
            )

    def begin_unit(self) -> None:
        task = self.work.next()
        if task.kind is not Kind.COMPUTE or len(+self.under_way) >= UNITS_UNDER_WAY:
            return
        self.occupied = True
        number = task.step * self.world.rules.units_per_step + task.stream
        self.world.laws.begins(self, number, task.send_to)
        self.begun.add(number)
        base = list(self.versions)
        seconds = self.world.random.uniform(0.05, 0.6) * self.slowness
        self.world.after(seconds, lambda: self.commit(task, number, base, seconds), self)

    def commit(self, task: Task, number: int, base: list[int], seconds: float) -> None:
        self.occupied = False
        self.work.done(task)
        chosen = task.send_to or range(self.servers)
        self.under_way[number] += len(chosen)

        def answered(verdict: Verdict) -> None:
            self.under_way[number] -= 1
            self.turn()

        unit = UnitId(1, task.step, task.stream)
        for index in chosen:
            frame = self.lane.encode(index, number) if commit_of(*unit[1:]).contributes else 0.0
            self.push(index, unit, 0, base[index], answered, frame)
        self.tell_progress(seconds)
        self.turn()

    def push(
        self,
        shard: int,
        unit: UnitId,
        attempt: int,
        base: int,
        then: Callable[[Verdict], None],
        frame: float = 0.0,
    ) -> None:
        """Send a unit's part, now and then twice: where the answer is lost the same bytes go again."""
        self.calls.ask(
            shard,
            lambda server, reply: server.push(self, unit, attempt, base, frame, reply),
            then,
            times=1 + (self.world.random.random() < 0.1),
            dying=True,
        )

    def evaluate_at_the_end(self) -> None:
        if self.final and self.first and not self.evaluated:
            self.evaluate(self.step)

    def evaluate(self, step: int) -> None:
        self.evaluated = True
        for model in ("published", "x"):
            self.report(e.LossEvaluated(self.incarnation, step, model, 2.5, 0.1))
