"""The last push of a worker that leaves an elastic segment: all that its lane holds back, exact, without a unit.

What it has pushed is settled first, so that all which comes back is in it. Each shard that takes its part
has it in the model for good, and the lane holds none of it any more; then the coordinator is told, which lets this
worker go. Nothing here waits: `next` of the segment asks whether something is due.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from wire.clock import Clock, Deadline
from wire.messages import Commit
from worker.lane import Lane
from worker.mailbox import Flushed
from worker.transfer import Transfer

SETTLE_S = 4.0
"""What is not settled after so long is not waited for: it may come back too late."""
FLUSH_S = 4.0
"""A shard may take so long to answer; together that is less than a leaver is waited for."""


class Farewell:
    """From the plan that says `leave` to the report `flushed`, in one segment.

    Args:
        number: of the segment.

    Attributes:
        waiting: shards that have not answered.
        lost_norm: L2 norm of what was sent and is not known to be in the model; held no more all the same, as it must
            not count twice.
    """

    def __init__(self, number: int, *, lane: Lane, transfer: Transfer, clock: Clock) -> None:
        self.lost_norm = 0.0
        self._number = number
        self._lane = lane
        self._transfer = transfer
        self._clock = clock
        self._settle: Deadline | None = None
        self.waiting: set[int] = set()
        self._begun = self._over = False

    def due(self, *, idle: bool) -> bool:
        """Whether there is something to do: the flush itself, or to take its answers in.

        Args:
            idle: no unit is to be computed, and no push waits for its answer.
        """
        if self.waiting:
            return self._transfer.mailbox.flush_answered
        return idle and not self._over and self._settled

    @property
    def _settled(self) -> bool:
        """Whether all outcomes are known, or were waited for long enough.

        A coordinator that is away lets nobody go, and closes nothing that outcomes may wait for.
        """
        if not self._lane.unsettled:
            return True
        if not self._transfer.attended:
            self._settle = None
            return False
        self._settle = self._settle or Deadline(self._clock, SETTLE_S)
        return self._settle.passed

    def go_on(self, learning_rates: Sequence[float]) -> None:
        """Do what is due. `learning_rates`: one a parameter group, as of this worker's next unit."""
        if self._begun:
            self._take_answers()
        else:
            self._begin(Commit("", 0, 0, 0.0, 0.0, tuple(learning_rates)))
        if not self.waiting and not self._over:
            self._over = True
            norm = math.hypot(self._lane.held_norm, self.lost_norm)
            self._transfer.report(flushed={"segment": self._number, "residual_norm": norm})

    def _begin(self, commit: Commit) -> None:
        self._begun = True
        self.waiting = set(self._lane.holding)
        for shard in sorted(self.waiting):
            pieces = self._lane.rest(shard)
            self._transfer.begin_flush(shard, self._number, pieces, commit, limit_s=FLUSH_S)

    def _take_answers(self) -> None:
        for shard, answer in self._transfer.mailbox.take_flushed():
            self.waiting.discard(shard)
            if answer is Flushed.REFUSED:  # the segment is over: the next one has a place for it, or none has
                self._over = True
                continue
            before = self._lane.held_norm
            self._lane.flushed(shard)
            if answer is Flushed.FAILED:
                gone_sq = max(before**2 - self._lane.held_norm**2, 0.0)
                self.lost_norm = math.hypot(self.lost_norm, math.sqrt(gone_sq))

    def end(self) -> None:
        """A close has ended the segment: no flush begins any more."""
        self._over = True

    def wait(self) -> None:
        """Take in the answers that are still to come, before what the lane holds goes into the next segment."""
        mailbox = self._transfer.mailbox
        while self.waiting and mailbox.end is None:
            mailbox.wait(deltas=False)
            self._take_answers()
