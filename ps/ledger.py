"""Which units a shard has accepted, fenced and settled: the memory that makes a push count once.

In step modes everything below the open step is settled, so the low-water mark is the step
itself and the exceptions are the accepted units of the open step. Pure: no I/O, no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from wire.ids import UnitId


class Verdict(Enum):
    """What a shard says to a push; the names are those of PushReply.Outcome."""

    ADMIT = "new: log it"
    ACCEPTED = "held already from an earlier attempt or a repeat"
    FENCED = "a newer attempt of the unit exists"
    SETTLED = "in the model already"
    EARLY = "its step is not open yet"
    FOREIGN = "of another timeline, or of a stream that does not exist"


@dataclass
class Ledger:
    """Accepted, fenced and settled units of one shard.

    Attributes:
        timeline: the only timeline whose units are admitted.
        streams: number of fixed streams (R).
        step: the open step; units of earlier steps are settled.
        accepted: stream -> attempt that was accepted, of the open step.
        fences: stream -> lowest attempt that is still admitted, kept across steps.
    """

    timeline: int
    streams: int
    step: int
    accepted: dict[int, int] = field(default_factory=dict)
    fences: dict[int, int] = field(default_factory=dict)

    def judge(self, unit: UnitId, attempt: int) -> Verdict:
        """What to do with a push of `unit`; changes nothing.

        A unit that is held or settled says so to every attempt: the sender need not know
        which of its attempts made it.
        """
        if unit.timeline != self.timeline or unit.stream >= self.streams:
            return Verdict.FOREIGN
        if unit.step < self.step:
            return Verdict.SETTLED
        if unit.step > self.step:
            return Verdict.EARLY
        if unit.stream in self.accepted:
            return Verdict.ACCEPTED if attempt >= self.accepted[unit.stream] else Verdict.FENCED
        return Verdict.FENCED if attempt < self.fences.get(unit.stream, 0) else Verdict.ADMIT

    def accept(self, unit: UnitId, attempt: int) -> None:
        assert self.judge(unit, attempt) is Verdict.ADMIT, (unit, attempt)
        self.accepted[unit.stream] = attempt

    def fence(self, step: int, stream: int, attempt: int) -> bool:
        """Admit only attempts ≥ `attempt` of `stream` from now on; say whether its unit of `step` stands here."""
        self.fences[stream] = max(attempt, self.fences.get(stream, 0))
        return step < self.step or (step == self.step and stream in self.accepted)

    def close(self, step: int) -> None:
        """Settle the open step and open the next one."""
        assert step == self.step, (step, self.step)
        self.accepted.clear()
        self.step += 1
