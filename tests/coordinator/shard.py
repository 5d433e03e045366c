"""A shard of the small world as a deterministic state machine without arithmetic: `apply(record)`, `image`, `restore`.

The real records, ledgers, delta log, staleness, flushes and terms of `ps/` decide; what `ps/shard.py` keeps beside them
is here in small, with what the laws want to know: which units were ever accepted, and in which order they settled.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, cast

from coordinator import actions as a
from coordinator import events as e
from ps.flushes import Flushes
from ps.ledger import ArrivalLedger, ElasticLedger, Ledger, Verdict
from ps.publication import Backlog
from ps.publish import Delta, DeltaLog, Outcome
from ps.records import Accept, Advance, Close, Deposit, Fence, Fenced, Flush, Publish, Record, Retire, Segment
from ps.staleness import Staleness
from tests.coordinator.ground import Broken, commit_of
from wire.ids import UnitId

if TYPE_CHECKING:
    from tests.coordinator.world import World

Answer = Verdict | Fenced | Delta | None


class Shard:
    """Everything in it follows from the records that were applied.

    Attributes:
        accepted: what the coordinator is told again when it attaches, by unit number.
        held: accepted and not settled.
        bases: step -> version of x̂ whole.
        deposits: stream -> steps.
        applied: mass in the model, by incarnation.
    """

    def __init__(self, world: World, index: int, segment: a.BeginSegment) -> None:
        self.world, self.index = world, index
        self.streams = world.rules.units_per_step
        self.deltas = DeltaLog(world.first_step)
        self.bases: dict[int, int] = {}
        self.deposits: dict[int, set[int]] = {s: set() for s in range(self.streams)}
        self.accepts: dict[int, int] = {}
        self.settled: list[int] = []
        self.retired: set[int] = set()
        self.flushes = Flushes()
        self.applied: Counter[int] = Counter()
        self.flushed: list[tuple[int, float]] = []
        self._frames: dict[int, tuple[int, float]] = {}
        self._begin(Segment(**vars(segment)), {})

    # --- records -------------------------------------------------------------------------

    def apply(self, record: Record) -> Answer:
        """Change the state by one record, or refuse it."""
        match record:
            case Accept():
                return self._accept(record)
            case Flush():
                return self._flush(record)
            case Fence():
                return Fenced(record, self.ledger.fence(record.step, record.stream, record.attempt))
            case Close():
                return self._close(record)
            case Publish():
                return self._publish_pending()
            case Segment():
                self._follow_on(record)
            case Retire():
                self.retired.add(record.incarnation)
                self._lanes.discard(record.incarnation)
            case Advance():
                self.accepted = {n: told for n, told in self.accepted.items() if self._untold(n, record.low)}
            case Deposit():
                return self._deposit(record)
        return None

    # --- segments ------------------------------------------------------------------------

    def _follow_on(self, segment: Segment) -> None:
        if segment == self.segment:
            return
        behind = segment.number <= self.segment.number or not self.ledger.stands_at(segment.step)
        if behind or self.flushed or not self.over:
            raise Broken(
                f"shard {self.index} is told {segment}, in {self.segment} at step {self.ledger.step}, "
                f"unsettled {sorted(self.held)}"
            )
        self._begin(segment, self.ledger.fences)

    def _begin(self, segment: Segment, fences: dict[int, int]) -> None:
        kind = (
            self.world.ledger if not segment.elastic else ArrivalLedger if segment.arrival else ElasticLedger
        )
        self.segment = segment
        self.over = False
        self.ledger: Ledger | ElasticLedger = kind(1, self.streams, segment.step)
        self.ledger.fences.update(fences)
        if isinstance(self.ledger, Ledger):
            self.ledger.lag = segment.lag
        self.held: dict[int, e.UnitAccepted] = {}
        self.accepted: dict[int, e.UnitAccepted] = {}
        self._lanes: set[int] = set()
        self._staleness = Staleness(
            self.deltas.version, streams=self.streams, aggregate="mean", damping=0.5, max_staleness=2.0
        )
        if not segment.elastic:
            self.bases[segment.step] = self.deltas.version

    # --- settling ------------------------------------------------------------------------

    def _close(self, close: Close) -> Delta | None:
        if close.step < self.ledger.step:
            return self.deltas.closing(close.step)
        delta = Delta(
            self.deltas.version,
            close.step,
            self._due(close),
            b"",
            close.deposit,
            close.final,
            clock=close.step + 1,
            pause=close.pause,
            drain=close.drain,
        )
        self._publish(delta)
        self.ledger.close(close.step)
        self.over = close.pause or close.final
        if not self.segment.elastic:
            self.accepted = {n: told for n, told in self.accepted.items() if n in self.held}
            self._trim(close)
        return delta

    def _due(self, close: Close) -> list[Outcome]:
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
        elif not self.segment.elastic and set(named) != {
            n for n in self.held if n < (close.step + 1) * self.streams
        }:
            raise Broken(f"shard {self.index} closes {close} while it holds {sorted(self.held)}")
        return [Outcome(self.held[n].unit, self.held[n].factor) for n in named]

    def _trim(self, close: Close) -> None:
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

    @property
    def backlog(self) -> Backlog:
        """What a publication would settle, and who waits for it."""
        flushed = bool(self.flushed) and not self.deltas.between
        waited_for = self.ledger.clock > self.deltas.clock
        return Backlog(len(self.held), len(self._lanes), self.streams, waited_for, flushed)

    def _publish_pending(self) -> Delta | None:
        if not self.held and not self.backlog.flushed:
            return None
        outcomes = [Outcome(u.unit, u.factor) for u in self.held.values()]
        delta = Delta(
            self.deltas.version,
            self.ledger.step,
            outcomes,
            b"",
            deposit=False,
            final=False,
            closes=False,
            clock=self.ledger.clock,
        )
        self._publish(delta)
        return delta

    # --- workers -------------------------------------------------------------------------

    def judge(self, unit: UnitId, attempt: int, incarnation: int) -> Verdict:
        verdict = self.ledger.judge(unit, attempt)
        fenced = verdict is not Verdict.FOREIGN and incarnation in self.retired
        return Verdict.FENCED if fenced else verdict

    def _accept(self, record: Accept) -> Verdict:
        verdict = self.judge(record.unit, record.attempt, record.incarnation)
        if verdict is not Verdict.ADMIT:
            return verdict
        unit, version = record.unit, self.deltas.version
        behind, factor = 0, 1.0
        if self.segment.elastic:
            if record.base_version > version:
                raise Broken(
                    f"shard {self.index} at version {version}: {unit} was computed from {record.base_version}"
                )
            behind, factor = self._staleness.weigh(record.base_version, record.incarnation)
            self._staleness.note(version, record.incarnation)
            self._lanes.add(record.incarnation)
        self.ledger.accept(unit, record.attempt)
        number, commit = unit.number(self.streams), commit_of(unit.step, unit.stream)
        told = e.UnitAccepted(
            self.index,
            unit,
            record.attempt,
            record.incarnation,
            commit,
            factor if commit.contributes else 1.0,
            behind,
        )
        self.accepts[number] = record.incarnation
        self.held[number] = self.accepted[number] = told
        self._frames[number] = record.incarnation, told.factor * cast(float, record.frame)
        return verdict

    def judge_flush(self, incarnation: int, segment: int) -> Verdict:
        open_segment = None if self.over else self.segment.number
        verdict = self.flushes.judge(incarnation, segment, open_segment=open_segment)
        fenced = verdict is Verdict.ADMIT and incarnation in self.retired
        return Verdict.FENCED if fenced else verdict

    def _flush(self, record: Flush) -> Verdict:
        verdict = self.judge_flush(record.incarnation, record.segment)
        if verdict is Verdict.ADMIT:
            if not self.segment.elastic:
                raise Broken(f"#{record.incarnation} flushes into exact segment {self.segment}")
            self.flushes.accept(record.incarnation, record.segment)
            self.flushed.append((record.incarnation, cast(float, record.frame)))
        return verdict

    def _deposit(self, record: Deposit) -> Verdict:
        if record.attempt < self.ledger.fences.get(record.stream, 0):
            return Verdict.FENCED
        self.deposits[record.stream].add(record.step)
        self.world.on_deposit(self.deposits[record.stream])
        return Verdict.ADMIT

    # --- what is read --------------------------------------------------------------------

    def told(self, low: int) -> tuple[e.UnitAccepted, ...]:
        """What a coordinator that has counted all below `low` must be told."""
        return tuple(told for number, told in self.accepted.items() if self._untold(number, low))

    def _untold(self, number: int, low: int) -> bool:
        """The coordinator may need to hear of it again: not counted, or waiting for a close to name it."""
        return number >= low or number in self.held

    def published(self) -> tuple[int, int, int]:
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

    def ended_at(self, version: int) -> bool:
        """Whether no delta follows on a version."""
        return self.deltas.final and version == self.deltas.version

    # --- images --------------------------------------------------------------------------

    def image(self) -> dict[str, Any]:
        """All of the state; nothing in it changes any more."""
        return {
            "index": self.index,
            "segment": self.segment,
            "over": self.over,
            "ledger": self.ledger.image(),
            "deltas": self.deltas.image(),
            "staleness": self._staleness.image(),
            "flushes": self.flushes.image(),
            "bases": dict(self.bases),
            "deposits": {stream: set(steps) for stream, steps in self.deposits.items()},
            "accepts": dict(self.accepts),
            "settled": list(self.settled),
            "retired": set(self.retired),
            "applied": Counter(self.applied),
            "flushed": list(self.flushed),
            "frames": dict(self._frames),
            "held": dict(self.held),
            "accepted": dict(self.accepted),
            "lanes": set(self._lanes),
        }

    @classmethod
    def restored(cls, world: World, image: dict[str, Any]) -> Shard:
        """A shard as an image shows it."""
        segment: Segment = image["segment"]
        shard = cls(
            world,
            image["index"],
            a.BeginSegment(**vars(segment)),
        )
        shard.over = image["over"]
        shard.ledger.restore(image["ledger"])
        shard.deltas.restore(image["deltas"])
        shard._staleness.restore(image["staleness"])
        shard.flushes.restore(image["flushes"])
        shard.bases = dict(image["bases"])
        shard.deposits = {stream: set(steps) for stream, steps in image["deposits"].items()}
        shard.accepts, shard.settled = dict(image["accepts"]), list(image["settled"])
        shard.retired, shard._lanes = set(image["retired"]), set(image["lanes"])
        shard.applied, shard.flushed = Counter(image["applied"]), list(image["flushed"])
        shard._frames = dict(image["frames"])
        shard.held, shard.accepted = dict(image["held"]), dict(image["accepted"])
        return shard
