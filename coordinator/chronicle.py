"""Figures of the run at intervals, and of each worker at the end, in events.jsonl: what reports are drawn from.

`totals` are those of the status, every `EVERY_S` seconds while they change; `contributed` is what one incarnation did.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from coordinator import report

if TYPE_CHECKING:
    from coordinator.engine import Engine
    from coordinator.event_log import EventLog

EVERY_S = 5.0
OF_A_WORKER = (
    *("name", "incarnation", "host", "gone", "units", "unit_s", "tokens_per_s", "wait_share"),
    *("staleness", "residual_norm", "bytes_pushed", "bytes_pulled"),
)


class Chronicle:
    """Writes what the engine knows into the event log."""

    def __init__(self, engine: Engine, events: EventLog) -> None:
        self._engine = engine
        self._events = events
        self._told: dict[str, object] = {}

    async def keep(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            self.look()

    def look(self) -> None:
        """The totals, unless they are as they were."""
        totals = report.totals(self._engine)
        if self._engine.core.begun and totals != self._told:
            self._told = totals
            step = self._engine.rounds.first_step(self._engine.state.open_step)
            self._events.write("totals", {"step": step, **totals})

    def end(self) -> None:
        """The totals, and every worker that computed."""
        self.look()
        workers: Any = report.status(self._engine)["workers"]
        for worker in workers:
            if worker["units"]:
                self._events.write("contributed", {key: worker[key] for key in OF_A_WORKER})
