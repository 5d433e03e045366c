"""A server's process in the small world: applies, logs, reveals when it is safe, as `ps/owner.py` and `control.py` do.

The real watermark and replication decide what is safe and who is waited for; the disk outlives the process. A server
that is started again recovers, joins with what it holds, and goes on, begins anew, or stands by, as it is told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from coordinator import actions as a
from coordinator import events as e
from ps import records as p
from ps.ledger import Verdict
from ps.news import InSync, Parted
from ps.owner import ANYBODY
from ps.publication import Publication
from ps.publish import Delta
from ps.replication import Copy, Replication, Window
from ps.watermark import Watermark
from tests.coordinator.disk import Disk
from tests.coordinator.ground import Broken, Line
from tests.coordinator.loop import Loop
from tests.coordinator.shard import Answer, Shard
from tests.coordinator.standing import Sealed, Standing, digest_of
from wire.errors import SparsyncError, StaleIncarnation
from wire.ids import Term, UnitId

if TYPE_CHECKING:
    from tests.coordinator.calls import Following
    from tests.coordinator.hand import Worker
    from tests.coordinator.links import Link, Order
    from tests.coordinator.world import World

ALIVE_S = 1.0
UNATTENDED_S = 5.0
BEGINS = ("attach", "dismiss")
"""What a line begins with."""


class Server:
    """One process, from its start to its end.

    Attributes:
        serves: it is its shard's primary. configured, loaded: it has a shard; with the initial model in it.
        term: under which it serves. visible: deltas that lead up to this version may be seen.
        line: the newest line of a coordinator; events: the line again, once the state was told on it.
    """

    def __init__(self, world: World, name: str, disk: Disk) -> None:
        self.world, self.name, self.disk = world, name, disk
        self.alive, self.paused_until = True, 0.0
        self.address = f"h:{world.serial()}"
        world.addresses[self.address] = self
        self.incarnation = self.term = self.visible = 0
        self.configured = self.loaded = self.serves = False
        self.loop = Loop(world, self)
        self.shard = disk.recover(world.fate) or Shard(world, 0, world.first_segment)
        self.watermark = Watermark()
        self.window = Window(0)
        self.replication = self._replication()
        self.standing = Standing(self)
        self.links: set[Link] = set()
        self.line: Line | None = None
        self.events: Line | None = None
        self.followers: list[Following] = []
        self._orders: list[tuple[Order, Line]] = []
        self._meanwhile: list[e.UnitAccepted] = []
        self._attended = world.now
        self._publication = Publication()
        self._publishing = False
        self._marked_at = 0
        if world.servers_die:
            world.after(ALIVE_S * world.fate.random(), self._live, self)

    def _replication(self) -> Replication:
        return Replication(self.watermark, self.window, self._tell_of_standby)

    # --- joining -------------------------------------------------------------------------

    def join(self) -> None:
        """Ask to enter, with what is held, until that is answered."""
        world, held = self.world, self.disk.held if self.disk.loaded else 0
        if self.incarnation:
            return
        if not world.away:
            key = world.key(self, self._joined)
            world.hear(self._asking(key, held))
        if world.servers_die:
            world.after(2.0, self.join, self)

    def _asking(self, key: str, held: int) -> e.Join:
        run = ("run", 1, held) if held else ("", 0, 0)
        return e.Join(key, "ps", self.name, self.address, "", 0, "h", *run)

    def _joined(self, value: Any) -> None:
        if isinstance(value, SparsyncError) or self.incarnation:
            return  # it asks again
        if self.disk.loaded and value.incarnation == self.disk.held:
            self._adopt()
        else:
            self.disk.clear()
            self.shard = Shard(self.world, 0, self.world.first_segment)
        self.incarnation = self.disk.held = value.incarnation
        self.world.known[value.incarnation] = self
        self._attended = self.world.now
        orders, self._orders = self._orders, []
        for order, line in orders:
            self.receive(order, line)

    def _adopt(self) -> None:
        """Go on as the shard that was here before this process."""
        self.configured = True
        self._marked_at = position = self.disk.position
        imaged, records = self.disk.tail()
        self.window = Window(imaged)
        for at, record in enumerate(records, imaged + 1):
            self.window.add(Copy(at, Sealed(record)))
        self.replication = self._replication()
        self.watermark.written(position)
        if self.world.rules.replicas:
            self.watermark.wait_for(ANYBODY, 0)
            self.loop.run(self.replication.want)

    def _live(self) -> None:
        """Tell that it is alive; ask whether it is counted on if nobody attends to it."""
        world = self.world
        world.after(ALIVE_S, self._live, self)
        if self.links or world.away or not self.incarnation:
            self._attended = world.now
        if self.line is not None:
            self.line.send(e.ServerAlive(self.incarnation))
        if world.now - self._attended > UNATTENDED_S:
            self._attended = world.now
            world.hear(self._asking(world.key(self, self._told_whether_counted_on), self.incarnation))

    def _told_whether_counted_on(self, value: Any) -> None:
        if not isinstance(value, SparsyncError) and value.incarnation != self.incarnation:
            self.world.crash(self, reason="it is not counted on")

    # --- the coordinator -----------------------------------------------------------------

    def receive(self, order: Order, line: Line) -> None:
        """A command on a line. Only the highest term is obeyed."""
        if not self.incarnation:
            self._orders.append((order, line))
            return
        try:
            self.disk.guard.obey(Term(order.term, bytes.fromhex(order.nonce)), order.seq)
        except StaleIncarnation:
            return
        self.world.laws.obeys(self, order)
        begins = isinstance(order.command, tuple) and order.command[0] in BEGINS
        if begins or self.line in (None, line):  # else the coordinator goes by what was told on a newer line
            self.loop.run(self._command, order.command, line)

    def _command(self, command: Any, line: Line) -> None:
        match command:
            case ("attach", low, term, standby):
                self._attach(low, term, standby, line)
            case ("configure", index, segment):
                if not self.configured:
                    self.shard = Shard(self.world, index, segment)
                    self.configured = self.serves = True
                line.send(e.ShardConfigured(index))
            case a.StandBy():
                self.term = 0
                self.standing.stand(command)
            case a.Promote(term):
                self._promote(term)
                self._tell_state(0, line)
            case a.LeaveAlone(standby):
                line.send(e.StandbyLeft(self.shard.index, standby))  # before it can be in sync again
                self.replication.alone(standby)
            case ("dismiss", reason, incarnation) if incarnation == self.incarnation:
                self.world.crash(self, reason=reason)
            case a.FinishShard():
                self.serves = False
            case _:
                self._shard_command(command, line)

    def _shard_command(self, command: Any, line: Line) -> None:
        index = self.shard.index
        if self.configured and not self.serves:
            return  # whoever becomes the primary says first what it holds, and is told what follows from that
        match command:
            case a.FenceStream(step, stream, attempt):
                self.put(
                    p.Fence(step, stream, attempt),
                    lambda answer: line.send(
                        e.FenceAnswered(index, step, stream, attempt, answer.accepted)  # type: ignore[union-attr]
                    ),
                )
            case a.RetireWorker(incarnation):
                self.put(p.Retire(incarnation), lambda _: line.send(e.WorkerRetired(index, incarnation)))
            case a.Advance(low):
                self.put(p.Advance(low), lambda _: None)
            case a.HoldTo(bound):
                self.put(p.Bound(bound), lambda _: None)
            case a.CloseStep():
                self.put(p.Close(**vars(command)), lambda _: line.send(e.StepSettled(index, command.step)))
            case a.BeginSegment(number):
                self.put(p.Segment(**vars(command)), lambda _: line.send(e.SegmentBegun(index, number)))

    def _attach(self, low: int, term: int, standby: int, line: Line) -> None:
        self.line, self.events = line, None
        if term and not self.standing.stands:
            self.term = term
            self.replication.recorded(standby)
            if self.configured and not self.serves:  # recovered from its disk
                self.serve()
        if self.world.servers_die:
            line.send(e.ServerAlive(self.incarnation))
        self._tell_state(low, line, recorded=standby)

    def _promote(self, term: int) -> None:
        if self.serves:
            self.term = max(term, self.term)
            return
        self.standing.stop()
        self.serve()
        self.replication.recorded(0)
        self.term = term

    def serve(self) -> None:
        """Be the primary from now on."""
        self.replication.lead(self.disk.position)
        self.serves = True
        self.open()
        self._look()

    def _tell_state(self, low: int, line: Line, *, recorded: int = 0) -> None:
        """All that the coordinator must know, when it is safe."""
        shard, serves = self.shard, self.serves and self.configured
        state = e.ShardAttached(
            shard.index,
            self.incarnation,
            serves,
            shard.ledger.step,
            shard.segment.number,
            shard.told(low) if serves else (),
            clock=shard.ledger.clock if serves else None,
            standing=self.standing.stands,
        )

        def tell() -> None:
            if self.line is line:
                self.events = line
                for news in self._meanwhile:
                    line.send(news)
                self._meanwhile.clear()
            if serves:
                self.world.laws.reveals(self)
                self.world.laws.stand_told(shard.index, state.accepted)
            vars(state)["standby"] = self.replication.in_sync if serves else 0
            line.send(state)
            if self.world.servers_die:
                line.send(e.ServerAlive(self.incarnation))
            if state.standby not in (0, recorded):
                line.send(e.StandbyInSync(shard.index, state.standby))

        if self.line is line:
            self.events = None
            self._meanwhile.clear()
        if serves:
            self.watermark.when(self.disk.position, tell)
        else:
            tell()

    def _tell_of_standby(self, news: InSync | Parted) -> None:
        if self.line is None:
            return
        if isinstance(news, InSync):
            self.line.send(e.StandbyInSync(self.shard.index, news.standby))
        else:
            if news.diverged:
                raise Broken(f"shard {self.shard.index}: {news.reason}")
            self.line.send(e.StandbyParted(self.shard.index, news.standby, news.reason))

    # --- records -------------------------------------------------------------------------

    def put(self, record: p.Record, then: Callable[[Answer], None]) -> None:
        """Apply a record and log it; `then` is called with the answer when it is safe."""
        answer, position = self.take(record)
        self.watermark.when(position, lambda: then(answer))
        if self.serves:
            self._look()
            self._mark()

    def take(self, record: p.Record) -> tuple[Answer, int]:
        """Apply and log, on a primary or a standby: the answer, and what must be safe before it is revealed."""
        shard, version, segment = self.shard, self.shard.deltas.version, self.shard.segment
        answer = shard.apply(record)
        match record:
            case p.Accept() | p.Flush() | p.Deposit():
                changed = answer is Verdict.ADMIT
            case p.Close() | p.Publish():
                changed = shard.deltas.version != version
            case p.Segment():
                changed = shard.segment != segment
            case _:
                changed = True
        position = self.disk.position
        if changed:
            position = self.disk.append(record, self._durable, self)
            self.world.logs(self)
            if self.replication.wanted:
                self.replication.offer(position, Sealed(record))  # type: ignore[arg-type]
            else:
                self.window.clear(position)
            if isinstance(record, p.Mark):
                self._save(position)
        admitted = isinstance(record, p.Accept) and answer is Verdict.ADMIT
        news = shard.accepted[record.unit.number(shard.streams)] if admitted else None  # type: ignore[union-attr]
        self.watermark.when(position, lambda: self._reveal(news, answer))
        return answer, position

    def _durable(self, position: int) -> None:
        self.watermark.written(position)
        self.replication.wake()

    def _reveal(self, news: e.UnitAccepted | None, answer: Answer) -> None:
        if isinstance(answer, Delta):
            self._show(answer.version + 1)
        if news is not None and self.serves and self.line is not None:
            self.world.laws.acknowledges(self, news.unit.number(self.shard.streams))
            if self.events is None:
                self._meanwhile.append(news)
            else:
                self.events.send(news)

    def _mark(self) -> None:
        """Now and then an image is saved, on the standby too."""
        if self.world.servers_die and self.loaded and self.disk.position - self._marked_at > 25:
            self._marked_at = self.disk.position
            self.put(p.Mark(), lambda _: None)

    def _save(self, position: int) -> None:
        image = self.shard.image()

        def saved() -> None:
            self.disk.save(position, image)
            self.standing.marked(position, digest_of(image))

        self.world.after(self.world.fate.uniform(0.01, 0.5), saved, self)

    def _look(self) -> None:
        """Decide about a publication, and carry it out a little later."""
        shard, segment = self.shard, self.shard.segment
        if not segment.arrival or self._publishing:
            return
        decision = self._publication.decide(shard.backlog, self.world.now)
        if decision.reason:
            self._publishing = True
            self.world.after(self.world.delay() / 4, lambda: self._publish_pending(decision.reason), self)
        elif decision.wait_s is not None:
            self.world.after(max(decision.wait_s, 0.001), self._look, self)

    def _publish_pending(self, reason: str) -> None:
        self._publishing = False
        if self.serves and self.shard.segment.arrival:
            self.put(p.Publish(reason), lambda _: None)

    # --- the model -----------------------------------------------------------------------

    def upload(self, reply: Callable[[None], None]) -> None:
        """The initial model is in."""
        if not self.loaded:
            self.disk.begin(0, self.shard.image())
            self.open()
        reply(None)

    def open(self) -> None:
        """Every version so far may be seen, once it is safe."""
        self.loaded = True
        version = self.shard.deltas.version
        self.watermark.when(self.disk.position, lambda: self._show(version))

    def _show(self, version: int) -> None:
        self.visible = max(self.visible, version)
        for follower in list(self.followers):
            self.feed(follower)

    def feed(self, follower: Following) -> None:
        """All that a follower may see and was not sent."""
        while self.serves and follower in self.followers and follower.sent < self.visible:
            try:
                delta = self.shard.deltas.get(follower.sent)
            except KeyError:
                follower.outrun()
                return
            if delta is None:
                return
            self.world.laws.publishes(self, delta)
            follower.send(delta)

    # --- workers -------------------------------------------------------------------------

    def serves_under(self, term: int) -> bool:
        """Whether a worker that knows of a primary under `term` is served here."""
        return self.serves and self.configured and not (self.term and term > self.term)

    def push(
        self,
        worker: Worker,
        unit: UnitId,
        attempt: int,
        base: int,
        frame: float,
        reply: Callable[[Verdict], None],
    ) -> None:
        shard, number = self.shard, unit.number(self.shard.streams)
        verdict = shard.judge(unit, attempt, worker.incarnation)
        if verdict in (Verdict.EARLY, Verdict.FOREIGN):
            raise Broken(f"shard {shard.index} calls {unit} of {worker.name} {verdict.name}: a torn step")

        def answer(verdict: Answer) -> None:
            assert isinstance(verdict, Verdict)
            if verdict is not Verdict.FENCED:
                self.world.laws.acknowledges(self, number)
            reply(verdict)

        if verdict is Verdict.ADMIT:
            self.world.laws.accepts(shard, worker, number, attempt)
            commit: Any = None
            accept = p.Accept(unit, attempt, worker.incarnation, commit, frame, base)  # type: ignore[arg-type]
            self.put(accept, answer)
        else:
            self.watermark.when(self.disk.position, lambda: answer(verdict))

    def flush(self, worker: Worker, segment: int, mass: float, reply: Callable[[Verdict], None]) -> None:
        record = p.Flush(worker.incarnation, segment, (), mass)  # type: ignore[arg-type]
        self.put(record, reply)  # type: ignore[arg-type]

    def deposit(self, stream: int, step: int, attempt: int, reply: Callable[[Verdict], None]) -> None:
        self.put(p.Deposit(stream, step, attempt, {}), reply)  # type: ignore[arg-type]

    def snapshot(self, reply: Callable[[tuple[int, int, int]], None]) -> None:
        """(version, step, clock) of x̂ as it is now, when that is safe."""
        found = self.shard.published()
        self.watermark.when(self.disk.position, lambda: reply(found))

    # --- a standby -----------------------------------------------------------------------

    def replace(self, position: int, image: dict[str, Any]) -> None:
        """Become what an image says, which was received."""
        self.visible = 0
        self.shard = Shard.restored(self.world, image)
        self.disk.begin(position, image)
        self.configured = True
        self.window.clear(position)
        self.watermark.reset(position)
        self.open()

    def follow(self, copy: Copy) -> int:
        """Apply and log a record as the primary did: its position."""
        if copy.position != self.disk.position + 1:
            raise Broken(f"{self.name} is sent record {copy.position} behind {self.disk.position}")
        return self.take(copy.payload.record)[1]  # type: ignore[attr-defined]
