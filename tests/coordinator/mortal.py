"""The small world with a coordinator that is killed at any moment, stays away, and comes back on its journal.

It dies between two events or in the middle of one: with nothing of what it decided there journaled, or with all of
it journaled and only a part of the messages sent. All lines break with it; what it has only heard is gone. The laws
are those of the world in which it lives on, and one more: what it does next follows from the journal alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from coordinator import actions as a
from coordinator import events as e
from coordinator import records as r
from coordinator.core import Core
from coordinator.desk import Rules
from coordinator.state import State
from tests.coordinator.ground import Broken
from tests.coordinator.world import World

Cut = Callable[[list[a.Action], random.Random], list[a.Action]]
"""What of an event's actions is carried out by a coordinator that dies while it does so."""


def cut(actions: list[a.Action], rnd: random.Random) -> list[a.Action]:
    """All records of an event become durable at once, before anything else; then messages leave one by one."""
    if rnd.random() < 0.2:
        return []
    messages = [action for action in actions if not isinstance(action, a.Journal)]
    left = set(map(id, messages[rnd.randint(0, len(messages)) :]))
    return [action for action in actions if id(action) not in left]


class MortalWorld(World):
    """One history with deaths of the coordinator.

    Args:
        most: deaths, and a killed coordinator may be killed again as soon as it is back.
        carries_out: what a dying coordinator still does of the event at hand.

    Attributes:
        deaths: so far; `torn`: those in the middle of an event.
    """

    def __init__(
        self,
        seed: int,
        *,
        core: Callable[[Rules, State], Core] = Core,
        most: int = 5,
        carries_out: Cut = cut,
        chaos_s: float = 25.0,
        **more: Any,
    ) -> None:
        self._fate = random.Random(f"deaths {seed}")
        self._core_of, self._carries_out = core, carries_out
        self.away = False
        self.doomed = False
        self.deaths = self.torn = 0
        super().__init__(seed, core=core, chaos_s=chaos_s, **more)
        for _ in range(self._fate.randint(1, most)):
            self.at(self._fate.uniform(0.0, chaos_s), self._doom)

    # --- dying

    def _doom(self) -> None:
        if self.away or self.over:
            return
        if self._fate.random() < 0.3:
            self._die()
        else:
            self.doomed = True

    def hear(self, event: e.Event) -> None:
        if not self.away:
            super().hear(event)

    def carry_out(self, actions: list[a.Action]) -> None:
        """In the middle of an event that decides or tells something a doomed coordinator dies."""
        dies = self.doomed and bool(actions) and self._fate.random() < 0.5
        super().carry_out(self._carries_out(actions, self._fate) if dies else actions)
        if dies and not self.over:
            self.torn += 1
            self._die()

    def _die(self) -> None:
        self.history.append(f"{self.now:.2f} the coordinator dies")
        self.away, self.doomed = True, False
        self.deaths += 1
        self.answers.clear()
        self.wishes.clear()
        for worker in self.workers:
            worker.up.cut()
            worker.beats.cut()
            worker.down.cut(self._fate.expovariate(1 / self.slowness))
        for link in self.links.values():
            link.close(self._fate.expovariate(1 / self.slowness))
        self.links.clear()
        self.after(self._fate.choice([0.1, 1.0, 6.0, 20.0]) * self._fate.uniform(0.5, 1.5), self._come_back)

    def _come_back(self) -> None:
        replayed = State(self.rules.units_per_step)
        for text in self.journal:
            replayed.apply(r.from_json(text))
        if replayed != self.shadow:
            raise Broken(f"replayed {replayed}, decided {self.shadow}")
        self.history.append(f"{self.now:.2f} the coordinator comes back")
        self.away = False
        self.state = replayed
        reopened = r.Reopened(replayed.term + 1, f"{replayed.term + 1:02x}")
        self.state.apply(reopened)
        self._act(a.Journal(reopened))
        self.core = self._core_of(self.rules, self.state)
        self.carry_out(self.core.reopen(self.now))
        for worker in self.alive():
            self.after(self._fate.uniform(0.0, 3.0), worker.return_to, worker)

    def _open(self, incarnation: int) -> None:
        """Behind a death the servers are reached one sooner, one later, some before and some behind the workers."""
        self._close(incarnation)
        late_s = self._fate.choice([0.0, 0.0, 4.0]) * self._fate.random() if self.deaths else 0.0
        if not late_s:
            super()._open(incarnation)
            return
        core = self.core

        def reach() -> None:
            present = self.state.members[incarnation].present
            if self.core is core and not self.away and present and incarnation not in self.links:
                super(MortalWorld, self)._open(incarnation)

        self.after(late_s, reach)

    # --- what meets nobody while it is away

    def _break_worker(self) -> None:
        if not self.away:
            super()._break_worker()

    def _break_shard(self) -> None:
        if not self.away:
            super()._break_shard()

    def _drain(self) -> None:
        if not self.away:
            super()._drain()

    def _stop(self) -> None:
        if not self.away:
            super()._stop()

    def _wish(self) -> None:
        if not self.away:
            super()._wish()
