"""A server of the small world, without arithmetic: the real ledgers, delta log, staleness and publications."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from coordinator import actions as a
from coordinator import events as e
from ps.flushes import Flushes
from ps.ledger import ArrivalLedger, ElasticLedger, Ledger, Verdict
from ps.publication import Backlog, Publication
from ps.publish import Delta, DeltaLog, Outcome
from ps.staleness import Staleness
from tests.coordinator.ground import Broken, Line, commit_of
from wire.ids import UnitId
from worker import deltas as received

if TYPE_CHECKING:
    from tests.coordinator.hand import Worker
    from tests.coordinator.world import World


class Shard:
    """Obeys the coordinator and takes pushes, as `ps/shard.py` does.

    Attributes:
        accepted: what the coordinator is told again when it attaches, by unit number.
        held: accepted and not settled.
        bases: step -> version of x̂ whole.
        deposits: stream -> steps.
        applied: mass in the model, by incarnation.
    """

    def __init__(self, world: World, index: int) -> None:
        self.world, self.index = world, index
        self.streams = world.rules.units_per_step
        self.incarnation = 0
        self.configured = False
        self.deltas = DeltaLog(world.first_step)
        self.bases: dict[int, int] = {}
        self.deposits: dict[int, set[int]] = {s: set() for s in range(self.streams)}
        self.accepts: dict[int, int] = {}
        self.settled: list[int] = []
        self.accepted: dict[int, e.UnitAccepted] = {}
        self.retired: set[int] = set()
        self.flushes = Flushes()
        self.applied: Counter[int] = Counter()
        self.flushed: list[tuple[int, float]] = []
        self._frames: dict[int, tuple[int, float]] = {}
        self.over = False
        self.term = 0
        self.followers: list[tuple[Worker, Line]] = []
        self.up: Line | None = None
        self._begin(world.first_segment, {})

    # --- the coordinator's line

    def tell(self, event: e.Event) -> None:
        if self.up is not None:
            self.up.send(event)

    def attach(self, low: int) -> None:
        accepted = tuple(told for number, told in self.accepted.items() if self._untold(number, low))
        self.tell(
            e.ShardAttached(
                self.index,
                self.incarnation,
                self.configured,
                self.ledger.step,
                self.segment.number,
                accepted,
            )
        )

    def _untold(self, number: int, low: int) -> bool:
        """The coordinator may need to hear of it again: not counted, or waiting for a close to name it."""
        return number >= low or number in self.held

    def obey(self, command: Any, term: int) -> None:
        """Commands of the highest term; what an older coordinator has sent may come late."""
        if term >= self.term:
            self.term = term
            self.command(command)

    def command(self, command: Any) -> None:
        match command:
            case ("attach", low):
                self.attach(low)
            case a.ConfigureShard():
                self.configured = True
                self.tell(e.ShardConfigured(self.index))
            case a.FenceStream():
                stands = self.ledger.fence(command.step, command.stream, command.attempt)
                self.tell(e.FenceAnswered(self.index, command.step, command.stream, command.attempt, stands))
            case a.RetireWorker():
                self.retired.add(command.incarnation)
                self._lanes.discard(command.incarnation)
                self.tell(e.WorkerRetired(self.index, command.incarnation))
            case a.Advance():
                known = self.accepted.items()
                self.accepted = {n: told for n, told in known if self._untold(n, command.low)}
            case a.CloseStep():
                self._close(command)
                self.tell(e.StepSettled(self.index, command.step))
            case a.BeginSegment():
                self._follow_on(command)
                self.tell(e.SegmentBegun(self.index, command.number))

    def _follow_on(self, segment: a.BeginSegment) -> None:
        if segment == self.segment:
            return
        if (
            segment.number <= self.segment.number
            or not self.ledger.stands_at(segment.step)
            or self.flushed
            or not self.over
        ):
            raise Broken(
                f"shard {self.index} is told {segment}, in {self.segment} at step {self.ledger.step}, "
                f"unsettled {sorted(self.held)}"
            )
        self._begin(segment, self.ledger.fences)

    def _begin(self, segment: a.BeginSegment, fences: dict[int, int]) -> None:
        kind = (
            self.world.ledger if not segment.elastic else ArrivalLedger if segment.arrival else ElasticLedger
        )
        self.segment = segment
        self.over = False
        self.ledger: Ledger | ElasticLedger = kind(1, self.streams, segment.step)
        self.ledger.fences.update(fences)
        self.held: dict[int, e.UnitAccepted] = {}
        self.accepted = {}
        self._lanes: set[int] = set()
        self._publication = Publication()
        self._publishing = False
        self._staleness = Staleness(
            self.deltas.version, streams=self.streams, aggregate="mean", damping=0.5, max_staleness=2.0
        )
        if not segment.elastic:
            self.bases[segment.step] = self.deltas.version

    # --- settling

    def _close(self, close: a.CloseStep) -> None:
        if close.step < self.ledger.step:
            return
        delta = Delta(
            self.deltas.version,
            close.step,
            self._due(close),
            b"",
            close.deposit,
            close.final,
            clock=close.step + 1,
            pause=close.pause,
        )
        self._publish(delta)
        self.ledger.close(close.step)
        self.over = close.pause or close.final
        if not self.segment.elastic:
            self.accepted.clear()
            self._trim(close)

    def _due(self, close: a.CloseStep) -> list[Outcome]:
        """What a close settles. Raises: Broken where it contradicts what is here."""
        named = [*close.late, *(close.step * self.streams + s for s in close.streams)]
        if self.segment.arrival:
            assert isinstance(self.ledger, ElasticLedger)
            if named or not self.ledger.holds_all_before(close.step + 1):
                raise Broken(
                    f"shard {self.index} closes {close}: from {self.ledger.low} on units are missing, beyond it "
                    f"{sorted(self.ledger.beyond)} are here"
                )
            named = list(self.held)
        elif close.step != self.ledger.step or not set(named) <= set(self.held):
            raise Broken(
                f"shard {self.index} at {self.ledger.step} closes {close} while it holds {sorted(self.held)}"
            )
        elif not self.segment.elastic and set(named) != set(self.held):
            raise Broken(f"shard {self.index} closes {close} while it holds {sorted(self.held)}")
        return [Outcome(self.held[n].unit, self.held[n].factor) for n in named]

    def _trim(self, close: a.CloseStep) -> None:
        """What replays may need, and no more."""
        self.deltas.trim_steps(close.retain_from)
        if close.deposit:
            self.bases[close.step + 1] = self.deltas.version
        reached = sorted(step for step in self.bases if step <= close.retain_from)
        self.bases = {step: v for step, v in self.bases.items() if step not in reached[:-1]}
        for steps in self.deposits.values():
            steps -= {step for step in steps if step < close.retain_from}

    def _publish(self, delta: Delta) -> None:
        self.deltas.append(delta)
        numbers = [o.unit.number(self.streams) for o in delta.outcomes]
        self.settled += numbers
        for number in numbers:
            del self.held[number]
        settled = [self._frames.pop(number) for number in numbers if number in self._frames]
        for incarnation, mass in [*settled, *self.flushed]:
            self.applied[incarnation] += mass  # type: ignore[assignment]
        self.flushed.clear()
        if isinstance(self.ledger, ElasticLedger):
            self.ledger.settle(numbers)
        for _, line in self.followers:
            line.send(self._received(delta))

    def _received(self, delta: Delta) -> received.Delta:
        outcomes = tuple(received.Outcome(o.unit, o.factor) for o in delta.outcomes)
        return received.Delta(
            self.index,
            delta.version,
            b"",
            delta.step,
            delta.closes,
            delta.clock,
            delta.deposit,
            delta.final,
            delta.pause,
            outcomes,
        )

    def _pace(self) -> None:
        """Decide about a publication, and carry it out a little later."""
        if not self.segment.arrival or self._publishing:
            return
        flushed = bool(self.flushed) and not self.deltas.between
        backlog = Backlog(len(self.held), len(self._lanes), self.ledger.clock > self.deltas.clock, flushed)
        decision = self._publication.decide(backlog, self.world.now)
        if decision.reason:
            self._publishing = True
            self.world.after(self.world.delay() / 4, lambda s=self.segment: self._publish_pending(s))
        elif decision.wait_s is not None:
            self.world.after(max(decision.wait_s, 0.001), self._pace)

    def _publish_pending(self, segment: a.BeginSegment) -> None:
        if segment != self.segment:
            return
        self._publishing = False
        if self.held or (self.flushed and not self.deltas.between):
            outcomes = [Outcome(u.unit, u.factor) for u in self.held.values()]
            self._publish(
                Delta(
                    self.deltas.version,
                    self.ledger.step,
                    outcomes,
                    b"",
                    deposit=False,
                    final=False,
                    closes=False,
                    clock=self.ledger.clock,
                )
            )
        self._pace()

    # --- workers

    def flush(self, worker: Worker, segment: int, mass: float) -> Verdict:
        open_segment = None if self.over else self.segment.number
        verdict = self.flushes.judge(worker.incarnation, segment, open_segment=open_segment)
        if verdict is not Verdict.ADMIT:
            return verdict
        if worker.incarnation in self.retired:
            return Verdict.FENCED
        if not self.segment.elastic:
            raise Broken(f"{worker.name} flushes into exact segment {self.segment}")
        self.flushes.accept(worker.incarnation, segment)
        self.flushed.append((worker.incarnation, mass))
        self._pace()
        return verdict

    def push(self, worker: Worker, unit: UnitId, attempt: int, base: int, frame: float) -> Verdict:
        verdict = self.ledger.judge(unit, attempt)
        if verdict is not Verdict.FOREIGN and worker.incarnation in self.retired:
            return Verdict.FENCED
        if verdict in (Verdict.EARLY, Verdict.FOREIGN):
            raise Broken(f"shard {self.index} calls {unit} of {worker.name} {verdict.name}: a torn step")
        if verdict is Verdict.ADMIT:
            self._accept(worker, unit, attempt, base, frame)
        return verdict

    def _accept(self, worker: Worker, unit: UnitId, attempt: int, base: int, frame: float) -> None:
        number = unit.number(self.streams)
        self.world.laws.accepts(self, worker, number, attempt)
        behind, factor = 0, 1.0
        if self.segment.elastic:
            if base > self.deltas.version:
                raise Broken(
                    f"shard {self.index} at version {self.deltas.version}: {unit} was computed from {base}"
                )
            behind, factor = self._staleness.weigh(base, worker.incarnation)
            self._staleness.note(self.deltas.version, worker.incarnation)
            self._lanes.add(worker.incarnation)
        self.ledger.accept(unit, attempt)
        self.accepts[number] = worker.incarnation
        commit = commit_of(unit.step, unit.stream)
        told = e.UnitAccepted(
            self.index,
            unit,
            attempt,
            worker.incarnation,
            commit,
            factor if commit.contributes else 1.0,
            behind,
        )
        self.held[number] = self.accepted[number] = told
        self._frames[number] = worker.incarnation, told.factor * frame
        self.tell(told)
        self._pace()

    def snapshot(self) -> tuple[int, int, int]:
        """(version, step, clock) of x̂ as it is now."""
        return self.deltas.version, self.ledger.step, max(self.ledger.step, self.deltas.clock)

    def version_at(self, step: int) -> int:
        """The version at which a step of the exact segment began. Raises: Broken where it cannot be reached."""
        base = max((b for b in self.bases if b <= step), default=None)
        if base is None or self.bases[base] < self.deltas.base:
            raise Broken(
                f"shard {self.index}: version of step {step} cannot be reached from bases {self.bases} and deltas "
                f"{self.deltas.base}..{self.deltas.version}"
            )
        return self.bases[base] + step - base

    def follow(self, worker: Worker, line: Line, version: int) -> None:
        """Everything from a version on."""
        for following in range(version, self.deltas.version):
            delta = self.deltas.get(following)
            assert delta is not None
            line.send(self._received(delta))
        self.followers.append((worker, line))

    def ended_at(self, version: int) -> bool:
        """Whether no delta follows on a version."""
        return self.deltas.final and version == self.deltas.version

    def forget(self, line: Line) -> None:
        """A follower is gone."""
        self.followers = [f for f in self.followers if f[1] is not line]
