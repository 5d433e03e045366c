"""What the coordinator tells Prometheus is what the run's state says, counters over deaths and restarts too."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from coordinator import events as e
from coordinator import records as r
from coordinator.core import Core
from coordinator.engine import Engine
from coordinator.event_log import EventLog
from coordinator.journal import Journal
from coordinator.metrics import Metrics
from tests.coordinator.ground import beginning, rules
from wire.clock import ManualClock
from wire.config import Config
from wire.metrics import METRICS, Distribution
from wire.rpc.identity import Security
from wire.v1 import coordinator_pb2

Found = dict[tuple[str, ...], float | Distribution]


class Office:
    """An engine on a journal of its own, and what it tells."""

    def __init__(self, path: Path, *more: r.Record) -> None:
        self.clock = ManualClock(100.0)
        self.journal = Journal(path / "j")
        if not self.journal.seq:
            for record in (*beginning(), *more):
                self.journal.append(record)
            self.journal.commit()
        self.engine = Engine(
            Core(rules(), self.journal.replay(4)),
            config=Config(),
            out=path,
            journal=self.journal,
            events=EventLog(path / "events.jsonl", self.clock),
            security=Security(),
            clock=self.clock,
        )
        self.metrics = Metrics(self.engine)

    def told(self) -> Found:
        samples = self.metrics.samples()
        assert all(METRICS[sample.metric.name] is sample.metric for sample in samples)
        found = {(s.metric.name.removeprefix("sparsync_"), *s.labels): s.value for s in samples}
        assert len(found) == len(samples), "each value once"
        return found

    async def join(self, name: str, role: str = "worker") -> None:
        await self.engine.ask(lambda key: e.Join(key, role, name, f"{name}:1", "cpu", 1, "h"))


def play(scene: Callable[[Office], Awaitable[None]], path: Path, *more: r.Record) -> None:
    async def whole() -> None:
        office = Office(path, *more)
        try:
            await asyncio.wait_for(scene(office), 20)
        finally:
            await office.engine.close()

    asyncio.run(whole())


def test_members_by_state_and_everybody_who_ever_came(tmp_path: Path) -> None:
    async def scene(office: Office) -> None:
        await office.join("one")
        await office.join("two")
        await office.join("ps-0", "ps")
        for incarnation in (1, 2):
            office.engine.hear(e.Beat(incarnation, incarnation))
        told = office.told()
        assert told["run_members", "worker", "alive"] == 2 and told["run_members", "ps", "alive"] == 1
        office.clock.advance(3.5)
        office.engine.hear(e.Beat(2, 2))
        assert office.told()["run_members", "worker", "suspect"] == 1
        assert office.told()["run_worker_beat_age_seconds", "one"] == 3.5
        office.clock.advance(2.0)
        office.engine.hear(e.Tick())
        told = office.told()
        assert told["run_members", "worker", "alive"] == 1
        assert told["run_leaves_total", "worker", "dead"] == 1
        assert ("run_worker_beat_age_seconds", "one") not in told, "only those who are in the run"
        await office.join("one")
        told = office.told()
        assert (told["run_joins_total", "worker"], told["run_joins_total", "ps"]) == (3, 1)

    async def again(office: Office) -> None:
        told = office.told()
        assert (told["run_joins_total", "worker"], told["run_leaves_total", "worker", "dead"]) == (3, 1)

    play(scene, tmp_path)
    play(again, tmp_path)


def test_what_is_settled(tmp_path: Path) -> None:
    dataset = r.Dataset(100, "d", 2, 1, True, 5, 10, 10)
    closed = r.Closed(
        0, (0, 1, 2, 3), deposit=False, final=False, retain_from=0, loss=2.5, samples=8, tokens=80, empty=1
    )

    async def scene(office: Office) -> None:
        told = office.told()
        assert (told["run_units_settled_total",], told["run_units_empty_total",]) == (3, 1)
        assert (told["run_samples_total",], told["run_tokens_total",]) == (8, 80)
        assert (told["run_step",], told["run_clock",], told["run_planned_steps",]) == (1, 1, 10)
        assert told["run_loss",] == 2.5 and told["run_validation_loss", "published"] == 2.25
        staleness = told["run_staleness_steps",]
        assert isinstance(staleness, Distribution) and sum(staleness.counts) == 0

    play(
        scene, tmp_path, dataset, closed, r.Evaluated(1, "published", 3.0), r.Evaluated(1, "published", 2.25)
    )


def test_what_workers_report(tmp_path: Path) -> None:
    async def scene(office: Office) -> None:
        await office.join("one")
        progress = coordinator_pb2.Progress(
            units=3, compute_s=3.0, wait_s=1.0, bytes_pushed=10, bytes_pulled=20, bytes_state=30, unit_s=1.5
        )
        office.engine.report(1, coordinator_pb2.WorkerReport(progress=progress))
        told = office.told()
        assert told["run_worker_unit_seconds", "one"] == 1.5
        assert told["run_worker_wait_ratio", "one"] == 0.25
        assert [told["run_bytes_total", way] for way in ("pushed", "pulled", "state")] == [10, 20, 30]

    play(scene, tmp_path)


def test_one_state_of_all_and_the_process_beside_it(tmp_path: Path) -> None:
    async def scene(office: Office) -> None:
        told = office.told()
        states = {key[1]: value for key, value in told.items() if key[0] == "run_state"}
        assert states == {"waiting": 1, "running": 0, "finishing": 0, "done": 0, "failed": 0}
        assert told["run_info", "run", "sync", "true"] == 1
        commits = told["coordinator_journal_fsync_seconds",]
        assert isinstance(commits, Distribution) and sum(commits.counts) == 1
        assert told["coordinator_journal_records_total",] == office.journal.seq

    play(scene, tmp_path)


def test_while_the_disk_is_full_the_run_is_shown_as_it_was(tmp_path: Path) -> None:
    async def scene(office: Office) -> None:
        await office.join("first")
        assert office.told()["run_joins_total", "worker"] == 1
        (pages,) = office.journal._db.execute("PRAGMA page_count").fetchone()
        office.journal._db.execute(f"PRAGMA max_page_count = {pages}")
        office.engine._answers["k"] = asyncio.get_running_loop().create_future()
        office.engine.hear(e.Join("k", "worker", "second", "x" * 100_000, "cpu", 1, "h"))
        told = office.told()
        assert told["run_joins_total", "worker"] == 1, "the other one is not durable"
        assert told["coordinator_journal_stalled",] == 1

    play(scene, tmp_path)
