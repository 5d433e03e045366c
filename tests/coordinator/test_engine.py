"""What the engine makes of its tasks: nobody waits for one, so none may end unheard."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from coordinator import actions as a
from coordinator import records as r
from coordinator.core import Core
from coordinator.engine import Engine
from coordinator.event_log import EventLog
from coordinator.journal import Journal
from tests.coordinator.ground import beginning, rules
from tests.coordinator.lines_end import Server, records_of, served, write_checkpoint
from wire.clock import ManualClock
from wire.config import Config
from wire.errors import Unreachable
from wire.rpc.identity import Security


def engine_in(path: Path, *more: r.Record, checkpoint: str = "") -> Engine:
    clock, journal = ManualClock(100.0), Journal(path / "j")
    for record in (*beginning(checkpoint=checkpoint), *more):
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


def test_a_restore_that_is_asked_for_again_begins_anew_and_is_told_once(tmp_path: Path) -> None:
    """A server was started again with nothing while the others were being restored."""

    async def scene() -> None:
        checkpoint = await write_checkpoint(tmp_path)
        async with served(Server(0)) as first, served(Server(1, stuck=["restore"])) as second:
            engine = engine_in(tmp_path, *records_of(first, second), checkpoint=str(checkpoint))
            engine.carry_out([a.OpenShards(), a.RestoreShards()])
            await second.until("restore")
            engine.carry_out([a.RestoreShards()])
            await second.until("restore")
            second.free()
            while not engine.state.loaded:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert len(first.restored) == 2 and len(second.restored) == 1
            assert engine.state.ended is None
            told = [record for record in engine.journal.records() if isinstance(record, r.Loaded)]
            assert len(told) == 1
            await engine.close()

    asyncio.run(asyncio.wait_for(scene(), 30))


def test_a_shard_whose_server_is_away_and_whose_address_is_taken_has_no_line(tmp_path: Path) -> None:
    """What it is to be told waits for its next line, and what others are told arrives."""

    async def scene() -> None:
        async with served(Server(0)) as first, served(Server(1)) as second:
            engine = engine_in(tmp_path, *records_of(first, second))
            engine.carry_out([a.OpenShards()])
            await first.next_command("attach")
            engine.state.apply(r.Returned(2, first.address, 7, "h"))
            engine.carry_out([a.Dial(2)])
            await first.next_command("attach")
            engine.carry_out([a.Command(0, a.Advance(1)), a.Command(1, a.Advance(2))])
            assert (await first.next_command("advance")).advance.low == 2
            with pytest.raises(Unreachable, match="server 0 is away"):
                _ = engine.switchboard.primaries
            await engine.close()

    asyncio.run(asyncio.wait_for(scene(), 30))
