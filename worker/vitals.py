"""What a worker tells its service manager: that it joined, what it does, that its training thread gets on.

The rule is the coordinator's (coordinator/patience.py), from within: a unit, a local step or any report of progress
proves progress; so does a turn of waiting (for the others, for a coordinator or a server that is away, as a spare),
as long as the network thread answers. What announces itself (an evaluation), and all that the script does outside its
loop, is nobody's delay. The limit is twice the coordinator's: who only is slow is given up there first and comes
back by itself, without a restart; who is stuck is started again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from wire.clock import Clock, monotonic_clock
from wire.notify import Notify

MEDIAN_UNITS, WINDOW = 10, 50
"""As the coordinator has them."""
SLACK = 2
FIRST_UNIT = 10
"""Before its first unit, of which nobody knows how long it takes (it may compile), a worker has so much more time."""
EXCUSED_S = 86_400.0
STATUS_EVERY_S = 5.0


class Vitals:
    """One worker process's.

    Args:
        least_s: `cluster.progress_timeout_s`.
    """

    def __init__(self, notify: Notify, *, run: str, least_s: float, clock: Clock = monotonic_clock) -> None:
        self._notify = notify
        self._run = run
        self._least_s = least_s
        self._clock = clock
        self._unit_times: deque[float] = deque(maxlen=WINDOW)
        self._told_at = float("-inf")

    def joined(self, name: str) -> None:
        """It is in the run; what the script does before its loop begins is its own affair."""
        self._notify.ready(f"run {self._run}: joined as {name}")
        self.excuse()

    @property
    def limit_s(self) -> float:
        """Without progress for so long this worker is stuck."""
        times = sorted(self._unit_times)
        if not times:
            return FIRST_UNIT * self._least_s
        return SLACK * max(self._least_s, MEDIAN_UNITS * times[len(times) // 2])

    def progressed(self, *, unit_s: float = 0.0) -> None:
        """Something was done, or is waited for with good reason. `unit_s`: seconds of the unit that was finished."""
        if unit_s > 0:
            self._unit_times.append(unit_s)
        self._notify.limit(self.limit_s)
        self._notify.alive()

    def excuse(self) -> None:
        """No progress is made on purpose, until some is told of."""
        self._notify.limit(EXCUSED_S)

    def tell(self, what: str) -> None:
        """What it does, for people; at most every few seconds."""
        now = self._clock.now()
        if now - self._told_at >= STATUS_EVERY_S:
            self._told_at = now
            self._notify.status(f"run {self._run}: {what}")

    def end(self, reason: str) -> None:
        self._notify.stopping(reason)


def in_words(progress: Mapping[str, float | int]) -> str:
    """`35 units, 0.21 s a unit, waits 12%`, from the fields of the report `progress`."""
    units, compute_s, wait_s = progress["units"], progress["compute_s"], progress["wait_s"]
    busy_s = compute_s + wait_s
    if not units or not busy_s:
        return f"{units} units"
    done = units + progress["replayed"]
    return f"{units} units, {compute_s / done:.2f} s a unit, waits {wait_s / busy_s:.0%}"
