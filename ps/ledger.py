"""Which units a shard has accepted, fenced and settled: the memory that makes a push count once.

One ledger for each kind of segment, with one signature. Exact: everything below the open step
is settled, so the low-water mark is the step itself and the exceptions are the accepted units
of the open step, and of the next ones where units lag. Elastic: units have numbers, a low-water
mark and exceptions. Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from ps.trees import State, pairs
from wire.ids import UnitId


class Verdict(Enum):
    """What a shard says to a push; the names are those of PushReply.Outcome."""

    ADMIT = "new: log it"
    ACCEPTED = "held already from an earlier attempt or a repeat"
    FENCED = "a newer attempt of the unit exists"
    SETTLED = "in the model already"
    EARLY = "its step is not open yet"
    FOREIGN = "of another timeline, or of a stream that does not exist"
    OVER = "a deposit that no replay can need any more: its segment is over"


@dataclass
class Ledger:
    """Accepted, fenced and settled units of one shard, in an exact segment.

    Attributes:
        timeline: the only timeline whose units are admitted.
        streams: number of fixed streams (R).
        step: the open step; units of earlier steps are settled.
        accepted: (step, stream) -> attempt that was accepted, of the open step and `lag` more.
        fences: stream -> lowest attempt that is still admitted, kept across steps.
        lag: units of so many steps beyond the open one are admitted.
    """

    timeline: int
    streams: int
    step: int
    accepted: dict[tuple[int, int], int] = field(default_factory=dict)
    fences: dict[int, int] = field(default_factory=dict)
    lag: int = 0

    @property
    def clock(self) -> int:
        """Every unit of earlier steps stands here."""
        return self.step

    def stands_at(self, step: int) -> bool:
        """Every unit of the steps before `step` is settled, and no other is even accepted."""
        return step == self.step and not self.accepted

    def judge(self, unit: UnitId, attempt: int) -> Verdict:
        """What to do with a push of `unit`; changes nothing.

        A unit that is held or settled says so to every attempt: the sender need not know
        which of its attempts made it.
        """
        if unit.timeline != self.timeline or unit.stream >= self.streams:
            return Verdict.FOREIGN
        if unit.step < self.step:
            return Verdict.SETTLED
        if unit.step > self.step + self.lag:
            return Verdict.EARLY
        accepted = self.accepted.get((unit.step, unit.stream))
        if accepted is not None:
            return Verdict.ACCEPTED if attempt >= accepted else Verdict.FENCED
        return Verdict.FENCED if attempt < self.fences.get(unit.stream, 0) else Verdict.ADMIT

    def accept(self, unit: UnitId, attempt: int) -> None:
        assert self.judge(unit, attempt) is Verdict.ADMIT, (unit, attempt)
        self.accepted[unit.step, unit.stream] = attempt

    def fence(self, step: int, stream: int, attempt: int) -> bool:
        """Admit only attempts ≥ `attempt` of `stream` from now on; say whether its unit of `step` stands here."""
        self.fences[stream] = max(attempt, self.fences.get(stream, 0))
        return step < self.step or (step, stream) in self.accepted

    def close(self, step: int) -> None:
        """Settle the open step and open the next one."""
        assert step == self.step, (step, self.step)
        self.accepted = {unit: attempt for unit, attempt in self.accepted.items() if unit[0] > step}
        self.step += 1

    def image(self) -> State:
        accepted = [[*unit, attempt] for unit, attempt in sorted(self.accepted.items())]
        return {"step": self.step, "accepted": accepted, "fences": pairs(self.fences)}

    def restore(self, tree: State) -> None:
        self.step = tree["step"]
        self.accepted = {(step, stream): attempt for step, stream, attempt in tree["accepted"]}
        self.fences = dict(tree["fences"])


@dataclass
class ElasticLedger:
    """Accepted and settled units of one shard, in an elastic segment: any unit, in any order, once.

    Attributes:
        step: the open one; earlier ones are closed.
        low: the lowest unit number that was not accepted.
        beyond: numbers above `low` that were.
        pending: accepted numbers that are not settled.
        fences: of the exact segments before and after; nothing here depends on attempts.
    """

    timeline: int
    streams: int
    step: int
    fences: dict[int, int] = field(default_factory=dict)
    low: int = field(init=False)
    beyond: set[int] = field(default_factory=set)
    pending: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.low = self.step * self.streams

    @property
    def clock(self) -> int:
        """The open step: workers go on when a step is closed."""
        return self.step

    def stands_at(self, step: int) -> bool:
        """Every unit of the steps before `step` is settled, and no other is even accepted."""
        return step == self.step and self.holds_all_before(step) and not self.pending

    def holds_all_before(self, step: int) -> bool:
        """Every unit of the steps before `step` is accepted, and no other."""
        return self.low == step * self.streams and not self.beyond

    def judge(self, unit: UnitId, attempt: int) -> Verdict:
        """What to do with a push of `unit`; changes nothing."""
        if unit.timeline != self.timeline or unit.stream >= self.streams:
            return Verdict.FOREIGN
        number = unit.number(self.streams)
        if number in self.pending:
            return Verdict.ACCEPTED
        return Verdict.SETTLED if self._stands(number) else Verdict.ADMIT

    def accept(self, unit: UnitId, attempt: int) -> None:
        assert self.judge(unit, attempt) is Verdict.ADMIT, (unit, attempt)
        number = unit.number(self.streams)
        self.pending.add(number)
        self.beyond.add(number)
        while self.low in self.beyond:
            self.beyond.remove(self.low)
            self.low += 1

    def fence(self, step: int, stream: int, attempt: int) -> bool:
        """Keep the fence for a later exact segment; say whether the unit stands here."""
        self.fences[stream] = max(attempt, self.fences.get(stream, 0))
        return self._stands(step * self.streams + stream)

    def settle(self, numbers: Iterable[int]) -> None:
        """These accepted units are in the model now."""
        self.pending.difference_update(numbers)

    def close(self, step: int) -> None:
        """Open the step after `step`."""
        assert step >= self.step, (step, self.step)
        self.step = step + 1

    def image(self) -> State:
        return {
            "step": self.step,
            "low": self.low,
            "beyond": sorted(self.beyond),
            "pending": sorted(self.pending),
            "fences": pairs(self.fences),
        }

    def restore(self, tree: State) -> None:
        self.step, self.low = tree["step"], tree["low"]
        self.beyond, self.pending = set(tree["beyond"]), set(tree["pending"])
        self.fences = dict(tree["fences"])

    def _stands(self, number: int) -> bool:
        return number < self.low or number in self.beyond


class ArrivalLedger(ElasticLedger):
    """Where units are settled on arrival, the clock goes with the lowest unit that is missing."""

    @property
    def clock(self) -> int:
        """Every unit of earlier steps is accepted."""
        return self.low // self.streams
