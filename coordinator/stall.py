"""Decisions for which the journal has no room, and what is heard until it has. Pure.

Nothing that was decided is told meanwhile, and nothing more is decided: who waits for it could do nothing about it.
What comes is kept in its order; of heartbeats the newest says all.
"""

from __future__ import annotations

from collections.abc import Sequence

from coordinator import actions as a
from coordinator import events as e


class Stall:
    """One full disk, from the first record that found no room on.

    Args:
        actions: of the event at hand; their records are in the journal's queue already.
        since: monotonic second.
    """

    def __init__(self, actions: Sequence[a.Action], since: float) -> None:
        self.actions = actions
        self.since = since
        self._heard: list[e.Event] = []
        self._beats: dict[int, e.Beat] = {}

    def hear(self, event: e.Event) -> None:
        """Keep an event for later. Time passes by itself."""
        match event:
            case e.Tick():
                return
            case e.Beat():
                if self._beats.get(event.incarnation) == event:
                    return
                self._beats[event.incarnation] = event
            case e.BeatsEnded():
                self._beats.pop(event.incarnation, None)
        self._heard.append(event)

    @property
    def heard(self) -> Sequence[e.Event]:
        """What came meanwhile, in order."""
        return self._heard
