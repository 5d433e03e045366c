"""What the Shard service counts of its calls: pushes by what became of them, their bytes, who follows.

On the event loop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from ps.ledger import Verdict
from wire.codec.base import DamagedFrame
from wire.errors import Busy, ProtocolMismatch, SparsyncError, StaleIncarnation, Unreachable

JUDGED = {
    Verdict.ADMIT: "accepted",
    Verdict.ACCEPTED: "repeated",
    Verdict.FENCED: "fenced",
    Verdict.SETTLED: "settled",
}
"""Verdicts that are answers; any other one is refused with an error."""
REFUSED: dict[type[SparsyncError], str] = {
    Busy: "busy",
    DamagedFrame: "damaged",
    StaleIncarnation: "stale",
    Unreachable: "not_primary",
    ProtocolMismatch: "mismatch",
}
OTHER = "other"
BROKEN = "broken_off"
OUTCOMES = (*JUDGED.values(), *REFUSED.values(), OTHER, BROKEN)


class Tally:
    """Counts since this process began."""

    def __init__(self) -> None:
        self.pushes: Counter[str] = Counter()
        self.push_bytes = 0
        self.followers = 0

    def judged(self, verdict: Verdict) -> None:
        """A push was answered; what is no answer is counted as the error that it becomes."""
        if (outcome := JUDGED.get(verdict)) is not None:
            self.pushes[outcome] += 1

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """A push that ends with an error."""
        try:
            yield
        except Exception as error:
            self.pushes[_reason(error)] += 1
            raise
        except BaseException:  # its caller went away
            self.pushes[BROKEN] += 1
            raise

    @contextmanager
    def following(self) -> Iterator[None]:
        """One more call follows the deltas."""
        self.followers += 1
        try:
            yield
        finally:
            self.followers -= 1


def _reason(error: Exception) -> str:
    return next((reason for kind, reason in REFUSED.items() if isinstance(error, kind)), OTHER)
