"""Who is alive: heartbeats in, verdicts out. Pure; times are monotonic seconds handed in."""

from __future__ import annotations

from dataclasses import dataclass

CLOSED_GRACE_S = 0.5
"""A heartbeat stream that ends may be a broken connection: this long to open another."""
FIRST_BEAT_GRACE_S = 15.0
"""From joining to the first heartbeat, on a machine that is very busy."""


@dataclass
class _Pulse:
    beat_at: float
    heard: bool = False
    closed_at: float | None = None
    line: int = 0


class Liveness:
    """Heartbeats of the processes in the run.

    Args:
        suspect_s: silence after which a process is taken to be dying.
        dead_s: silence after which it is given up.
        closed_grace_s: from the end of its stream on.
    """

    def __init__(self, *, suspect_s: float, dead_s: float, closed_grace_s: float = CLOSED_GRACE_S) -> None:
        self._suspect_s = suspect_s
        self._dead_s = dead_s
        self._closed_grace_s = closed_grace_s
        self._pulses: dict[int, _Pulse] = {}

    def expect(self, incarnation: int, now: float) -> None:
        """Watch a process from its joining on."""
        self._pulses[incarnation] = _Pulse(now)

    def beat(self, incarnation: int, now: float, *, line: int) -> None:
        """A heartbeat on stream `line`."""
        if (pulse := self._pulses.get(incarnation)) is not None:
            pulse.beat_at, pulse.heard, pulse.closed_at, pulse.line = now, True, None, line

    def goes_on(self, incarnation: int, now: float, *, line: int) -> bool:
        """Take a heartbeat from which nothing is learned but the moment; anything else is left to `beat`.

        It comes from a process that has beaten before and is no suspect, on the stream on which it beats.
        """
        pulse = self._pulses.get(incarnation)
        if (
            pulse is None
            or not pulse.heard
            or pulse.closed_at is not None
            or pulse.line != line
            or now - pulse.beat_at > self._suspect_s
        ):
            return False
        pulse.beat_at = now
        return True

    def close(self, incarnation: int, now: float, *, line: int) -> None:
        """Stream `line` ended. The end of an older one than beats now means nothing: it may be noticed late."""
        if (pulse := self._pulses.get(incarnation)) is not None and line == pulse.line:
            pulse.closed_at = now

    def excuse(self, late_s: float, now: float) -> None:
        """Nobody could be heard for the last `late_s`: they count as nobody's silence."""
        for pulse in self._pulses.values():
            pulse.beat_at = min(pulse.beat_at + late_s, now)
            if pulse.closed_at is not None:
                pulse.closed_at = min(pulse.closed_at + late_s, now)

    def forget(self, incarnation: int) -> None:
        self._pulses.pop(incarnation, None)

    def age(self, incarnation: int, now: float) -> float | None:
        """Seconds since the last heartbeat, or None before the first."""
        pulse = self._pulses.get(incarnation)
        return now - pulse.beat_at if pulse is not None and pulse.heard else None

    def suspects(self, now: float) -> set[int]:
        """The processes that have beaten, and have been silent for so long that they may be dead."""
        return {i for i, p in self._pulses.items() if p.heard and now - p.beat_at > self._suspect_s}

    def beating(self) -> bool:
        """Whether any watched process has an open stream of heartbeats, or is about to open its first one."""
        return any(pulse.closed_at is None for pulse in self._pulses.values())

    def unheard(self) -> bool:
        """Whether any watched process has not beaten yet."""
        return any(not pulse.heard for pulse in self._pulses.values())

    def dead(self, now: float) -> list[tuple[int, str]]:
        """The processes to give up, each with the reason."""
        verdicts = ((i, self._judge(pulse, now)) for i, pulse in self._pulses.items())
        return [(incarnation, reason) for incarnation, reason in verdicts if reason]

    def _judge(self, pulse: _Pulse, now: float) -> str:
        silence = now - pulse.beat_at
        if pulse.closed_at is not None and now - pulse.closed_at > self._closed_grace_s:
            return f"its heartbeat stream ended {now - pulse.closed_at:.1f} s ago"
        limit = self._dead_s if pulse.heard else FIRST_BEAT_GRACE_S
        return f"silent for {silence:.1f} s, limit {limit:.1f} s" if silence > limit else ""
