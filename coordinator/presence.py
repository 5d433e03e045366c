"""Which servers are there: their lines, their signs of life, and since when one is away. Pure; times are handed in.

A server is *away* once its line has been broken for a second, or it was silent for `cluster.dead_s`; it is *here*
while its line is open and it is not away. One that has never been reached since this coordinator began has 15 s:
whoever restarts the one may restart the other. Only servers that have told that they are alive are judged by silence.
"""

from __future__ import annotations

from coordinator.membership import Liveness

BROKEN_GRACE_S = 1.0
"""A line that breaks may be a broken connection: this long to open another."""
HESITANT_S = 2.0
"""Silence of a server after which nobody who waits for it is blamed."""


class Presence:
    """What was heard of the servers, by incarnation. Never journaled."""

    def __init__(self, *, suspect_s: float, dead_s: float) -> None:
        self._liveness = Liveness(suspect_s=suspect_s, dead_s=dead_s, closed_grace_s=BROKEN_GRACE_S)
        self._open: set[int] = set()
        self._answering: set[int] = set()
        self._reached: set[int] = set()
        self._broken_at: dict[int, float] = {}
        self._reasons: dict[int, str] = {}
        self._away: dict[int, float] = {}

    def expect(self, incarnation: int, now: float) -> None:
        """A line to this server is about to be opened: anew, if it was open."""
        self._open.discard(incarnation)
        self._answering.discard(incarnation)
        self._liveness.expect(incarnation, now)

    def opened(self, incarnation: int, now: float) -> float | None:
        """Its line is open. Returns for how long it was away, if it was."""
        self._liveness.forget(incarnation)  # until it says for the first time that it is alive
        self._open.add(incarnation)
        self._reached.add(incarnation)
        self._broken_at.pop(incarnation, None)
        since = self._away.pop(incarnation, None)
        return None if since is None else now - since

    def alive(self, incarnation: int, now: float) -> float | None:
        """A sign of life on its open line. Returns for how long it was away, if it was."""
        self._answering.add(incarnation)
        if incarnation not in self._open:
            return None
        if self._liveness.age(incarnation, now) is None:
            self._liveness.expect(incarnation, now)
        self._liveness.beat(incarnation, now, line=0)
        since = self._away.pop(incarnation, None)
        return None if since is None else now - since

    def broke(self, incarnation: int, reason: str, now: float) -> None:
        """Its line is broken; told again with every vain attempt to open it."""
        self._reasons[incarnation] = reason
        self._open.discard(incarnation)
        self._answering.discard(incarnation)
        if incarnation in self._broken_at or incarnation in self._away:
            return
        self._broken_at[incarnation] = now
        if incarnation in self._reached:
            self._liveness.expect(incarnation, now)
            self._liveness.close(incarnation, now, line=0)

    def forget(self, incarnation: int) -> None:
        """It is out of the run."""
        self._liveness.forget(incarnation)
        self._open.discard(incarnation)
        self._answering.discard(incarnation)
        self._reached.discard(incarnation)
        for told in (self._broken_at, self._reasons, self._away):
            told.pop(incarnation, None)

    def excuse(self, late_s: float, now: float) -> None:
        """Nobody could be heard for the last `late_s`: they count as nobody's silence."""
        self._liveness.excuse(late_s, now)

    def gone(self, now: float) -> list[tuple[int, str]]:
        """The servers that are away from now on, each with the reason."""
        found = []
        for incarnation, silence in self._liveness.dead(now):
            age = self._liveness.age(incarnation, now)
            self._liveness.forget(incarnation)
            broken_at = self._broken_at.get(incarnation)
            self._away[incarnation] = now - (age or 0.0) if broken_at is None else broken_at
            if broken_at is None:
                self._reasons[incarnation] = silence
            found.append((incarnation, self._reasons[incarnation]))
        return found

    def here(self, incarnation: int) -> bool:
        """Whether it can be told something now."""
        return incarnation in self._open and incarnation not in self._away

    def answers(self, incarnation: int) -> bool:
        """Whether its line is open; its state may still be to be told: that waits for what its standby acknowledges."""
        return incarnation in self._open or incarnation in self._answering

    def broken(self, incarnation: int) -> bool:
        """Whether it is known not to be reached just now."""
        return incarnation in self._broken_at or incarnation in self._away

    def hesitant(self, incarnation: int, now: float) -> bool:
        """Whether what it is asked may have to wait."""
        age = self._liveness.age(incarnation, now)
        return not self.here(incarnation) or (age is not None and age > HESITANT_S)

    def away(self, incarnation: int) -> bool:
        return incarnation in self._away

    def away_s(self, incarnation: int, now: float) -> float | None:
        """For how long it has been away, or None while it is not."""
        since = self._away.get(incarnation)
        return None if since is None else now - since

    def reason(self, incarnation: int) -> str:
        """Why it was not reached last."""
        return self._reasons.get(incarnation, "")
