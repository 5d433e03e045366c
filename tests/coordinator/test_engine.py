"""What the engine makes of its tasks: nobody waits for one, so none may end unheard."""

from __future__ import annotations

import asyncio
from pathlib import Path

from coordinator.core import Core
from coordinator.engine import Engine
from coordinator.event_log import EventLog
from coordinator.journal import Journal
from tests.coordinator.ground import beginning, rules
from wire.clock import ManualClock
from wire.config import Config
from wire.rpc.identity import Security


def engine_in(path: Path) -> Engine:
    clock, journal = ManualClock(100.0), Journal(path / "j")
    for record in beginning():
        journal.append(record)
    journal.commit()
    return Engine(
        Core(rules(), journal.replay(4)),
        config=Config(),
        out=path,
        journal=journal,
        events=EventLog(path / "events.jsonl", clock),
        security=Security(),
        clock=clock,
    )


async def _cut_short() -> None:
    """As a call that is cancelled with its channel."""
    raise asyncio.CancelledError


def test_a_task_that_is_cut_short_ends_the_run_and_one_that_is_cancelled_does_not(tmp_path: Path) -> None:
    async def scene() -> None:
        engine = engine_in(tmp_path)
        asked = engine._spawn(asyncio.sleep(60))
        await asyncio.sleep(0)
        asked.cancel()
        await asyncio.wait({asked})
        assert engine.state.ended is None
        await asyncio.wait({engine._spawn(_cut_short())})
        await asyncio.sleep(0)
        assert engine.state.ended is not None and "internal error" in engine.state.ended.reason
        await engine.close()

    asyncio.run(scene())
