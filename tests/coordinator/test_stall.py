"""A disk without room for the journal: nothing is told that is not durable, nobody is given up, status answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from coordinator import actions as a
from coordinator import engine as engines
from coordinator import events as e
from coordinator import records as r
from coordinator.core import Core
from coordinator.engine import Engine
from coordinator.event_log import EventLog
from coordinator.journal import Journal
from coordinator.service import CoordinatorService
from coordinator.stall import Stall
from tests.coordinator.ground import beginning, rules
from tests.coordinator.lines_end import Server, records_of, served
from wire.config import Config
from wire.errors import Busy
from wire.rpc.identity import Security
from wire.v1 import coordinator_pb2


class Hand:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time


class Full:
    """An engine on a journal that has no room for one more page."""

    def __init__(self, path: Path, clock: Hand, more: Sequence[r.Record] = ()) -> None:
        self.clock = clock
        self.journal = Journal(path / "j")
        for record in (*beginning(), *more):
            self.journal.append(record)
        self.journal.commit()
        self.core = Core(rules(ack="os"), self.journal.replay(4))
        self.engine = Engine(
            self.core,
            config=Config(),
            out=path,
            journal=self.journal,
            events=EventLog(path / "events.jsonl", clock),
            security=Security(),
            clock=clock,
        )
        self.service = CoordinatorService(self.engine)

    def fill(self) -> None:
        (pages,) = self.journal._db.execute("PRAGMA page_count").fetchone()
        self.journal._db.execute(f"PRAGMA max_page_count = {pages}")

    def make_room(self) -> None:
        self.journal._db.execute("PRAGMA max_page_count = 100000")

    def join(self, name: str) -> Awaitable[object]:
        return asyncio.ensure_future(
            self.engine.ask(lambda key: e.Join(key, "worker", name, "x" * 100_000, "cpu", 1, "h"))
        )

    async def status(self) -> dict[str, Any]:
        reply = await self.service.Status(coordinator_pb2.StatusRequest(), None)  # type: ignore[arg-type]
        told: dict[str, Any] = json.loads(reply.json)
        return told

    def joined(self) -> list[str]:
        return [told.name for told in self.journal.records() if isinstance(told, r.Admitted)]


def play(scene: Callable[[Full], Awaitable[None]], path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "FULL_RETRY_S", 0.01)

    async def whole() -> None:
        full = Full(path, Hand())
        try:
            await asyncio.wait_for(scene(full), 20)
        finally:
            await full.engine.close()

    asyncio.run(whole())


def test_what_is_decided_is_told_once_it_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(full: Full) -> None:
        assert await full.join("first") == a.Joined(1)
        full.service.look()
        full.fill()
        second = full.join("second")
        await asyncio.sleep(0.1)
        assert not second.done() and full.joined() == ["first"]  # type: ignore[attr-defined]
        told = await full.status()
        assert "the disk is full; make room there" in told["reason"]
        assert [worker["name"] for worker in told["workers"]] == ["first"], "the other one is not durable"
        with pytest.raises(Busy, match="the disk is full"):
            await full.join("third")
        with pytest.raises(Busy, match="the disk is full"):
            full.engine.attach(1)
        full.make_room()
        assert await second == a.Joined(2)
        assert full.joined() == ["first", "second"]
        assert "disk" not in (await full.status())["reason"]
        assert await full.join("third") == a.Joined(3)

    play(scene, tmp_path, monkeypatch)


def test_nobody_is_given_up_for_the_time_that_the_disk_was_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(full: Full) -> None:
        await full.join("first")
        full.engine.hear(e.Beat(1, 1))
        full.fill()
        second = full.join("second")
        await asyncio.sleep(0.05)
        full.clock.time += 600.0
        full.engine.hear(e.Tick())
        full.make_room()
        await second
        full.engine.hear(e.Tick())
        assert not full.core.state.members[1].gone
        full.clock.time += 6.0
        full.engine.hear(e.Tick())
        assert full.core.state.members[1].gone, "now it was silent"

    play(scene, tmp_path, monkeypatch)


def test_who_is_asked_to_end_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(full: Full) -> None:
        full.fill()
        second = full.join("second")
        await asyncio.sleep(0.05)
        full.engine.end()
        assert isinstance(full.engine.failure, Busy) and full.engine.finished.is_set()
        with pytest.raises(Exception, match="the disk is full"):
            await second

    play(scene, tmp_path, monkeypatch)


def test_no_line_begins_with_what_is_not_durable(tmp_path: Path) -> None:
    """A primary would acknowledge without a standby that a restart counts on, and take its journal for a copy."""

    async def scene() -> None:
        async with served(Server(0)) as primary, served(Server(1)) as other, served(Server(0)) as standby:
            in_sync = [*records_of(primary, other, standby), r.Stood(0, 3), r.InSynced(0, 3)]
            full = Full(tmp_path, Hand(), in_sync)
            full.engine.carry_out(full.core.reopen(full.clock.now()))
            attach = await primary.next_command("attach")
            assert (attach.attach.standby, attach.term.journal_seq) == (3, full.journal.seq)
            full.fill()
            full.engine.hear(e.StandbyParted(0, 3, "x" * 100_000))
            assert full.engine.stalled and not full.core.state.standbys[0].in_sync
            primary.hang_up()
            with pytest.raises(TimeoutError):
                await primary.next_command("attach", limit_s=1.0)
            full.make_room()
            attach = await primary.next_command("attach")
            assert (attach.attach.standby, attach.term.journal_seq) == (0, full.journal.seq)
            await full.engine.close()

    asyncio.run(asyncio.wait_for(scene(), 30))


def test_what_comes_meanwhile_is_kept_in_its_order_and_one_beat_says_all() -> None:
    stall = Stall([], 0.0)
    events = [
        e.Beat(1, 1),
        e.Beat(2, 1),
        e.Beat(1, 1),
        e.Tick(),
        e.BeatsEnded(1, 1),
        e.Beat(1, 2),
        e.Beat(1, 2),
    ]
    for event in events:
        stall.hear(event)
    assert stall.heard == [e.Beat(1, 1), e.Beat(2, 1), e.BeatsEnded(1, 1), e.Beat(1, 2)]
