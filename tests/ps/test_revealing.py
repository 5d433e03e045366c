"""Nothing that a record brought about is seen before the log holds it (P1, P12): answers, news, deltas, snapshots."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from ps.ledger import Verdict
from ps.news import News
from ps.owner import Owner
from ps.publish import Delta
from ps.records import Accepted, Close
from tests.ps.disks import HeldDisk
from tests.ps.models import ARRIVAL, STREAMS, Cluster, Worker, close
from tests.ps.serving import configure, eventually, owning
from tests.ps.serving import play as run
from wire.errors import Busy, SparsyncError


class Stage:
    """An owner whose log is on a disk that the test holds back, and what it told."""

    def __init__(self, owner: Owner, disk: HeldDisk) -> None:
        self.owner, self.disk = owner, disk
        self.news: list[News] = []
        owner.on_news = self.news.append

    @property
    def told(self) -> list[type]:
        """The kinds of news, without whether the log can be written."""
        return [type(news) for news in self.news if not isinstance(news, str)]

    async def applied(self, position: int) -> None:
        """Wait until so many records are in the state."""
        await eventually(lambda: self.owner.archive.position >= position)
        await self.settled()

    async def settled(self) -> None:
        """Let everything happen that can."""
        await self.owner.read(lambda: None)
        for _ in range(10):
            await asyncio.sleep(0)


Scene = Callable[[Stage], Awaitable[None]]


def play(scene: Scene, cluster: Cluster, path: Path, *, level: str = "os") -> None:
    async def whole() -> None:
        with pytest.MonkeyPatch.context() as patched:
            disk = HeldDisk(patched)
            async with owning(path, level=level) as owner:
                configure(owner, cluster)
                await owner.begin()
                try:
                    await scene(Stage(owner, disk))
                finally:
                    disk.full = False
                    disk.let_go()

    run(whole())


@pytest.mark.parametrize("level", ["os", "disk"])
def test_a_step_is_seen_when_the_log_holds_it(tmp_path: Path, level: str) -> None:
    cluster = Cluster()

    async def scene(stage: Stage) -> None:
        owner = stage.owner
        stage.disk.hold()
        pushing = [asyncio.create_task(owner.apply(cluster.unit(0, 0, s))) for s in range(STREAMS)]
        await stage.applied(STREAMS)
        closing = asyncio.create_task(owner.apply(close(0)))
        following = asyncio.create_task(owner.followers.delta(0))
        await stage.applied(STREAMS + 1)
        repeat = asyncio.create_task(
            owner.apply(cluster.unit(0, 0, 0))
        )  # SETTLED tells as much as ACCEPTED did
        again = asyncio.create_task(owner.apply(close(0)))
        snapshot = asyncio.create_task(owner.reveal(lambda: owner.shard.deltas.version))
        asked = [*pushing, closing, following, repeat, again, snapshot]
        await stage.settled()
        assert owner.shard.deltas.version == 1, "applied, and not told"
        assert not any(task.done() for task in asked)
        assert not stage.news
        stage.disk.let_go()
        verdicts = await asyncio.gather(*pushing, repeat)
        assert verdicts == [Verdict.ADMIT] * STREAMS + [Verdict.SETTLED]
        delta = await closing
        assert isinstance(delta, Delta) and await following is delta and await again is delta
        assert await snapshot == 1
        assert stage.told == [Accepted] * STREAMS

    play(scene, cluster, tmp_path, level=level)


def test_a_repeat_of_what_is_only_accepted_waits_too(tmp_path: Path) -> None:
    cluster = Cluster()

    async def scene(stage: Stage) -> None:
        stage.disk.hold()
        unit = cluster.unit(0, 0, 1)
        first = asyncio.create_task(stage.owner.apply(unit))
        await stage.applied(1)
        repeat = asyncio.create_task(stage.owner.apply(unit))
        await stage.settled()
        assert not first.done() and not repeat.done()
        stage.disk.let_go()
        assert await asyncio.gather(first, repeat) == [Verdict.ADMIT, Verdict.ACCEPTED]
        assert stage.told == [Accepted]

    play(scene, cluster, tmp_path)


def test_a_publication_is_told_and_seen_when_the_log_holds_it(tmp_path: Path) -> None:
    cluster = Cluster(1, segment=ARRIVAL)
    worker = Worker(cluster, 1)

    async def scene(stage: Stage) -> None:
        owner = stage.owner
        stage.disk.hold()
        pushing = asyncio.create_task(owner.apply(worker.unit(0)))
        following = asyncio.create_task(owner.followers.delta(0))
        await eventually(lambda: owner.shard.deltas.version == 1)
        await stage.settled()
        assert not pushing.done() and not following.done() and not stage.news
        stage.disk.let_go()
        await asyncio.gather(pushing, following)
        await eventually(lambda: len(stage.news) == 2)
        assert stage.told == [Accepted, Delta]

    play(scene, cluster, tmp_path)


def test_news_come_in_the_order_of_the_log(tmp_path: Path) -> None:
    """Many at once, from a log that is let go in between."""
    cluster = Cluster(1, segment=ARRIVAL)
    workers = [Worker(cluster, incarnation) for incarnation in range(1, 5)]
    units = [workers[number % 4].unit(number) for number in range(40)]

    async def scene(stage: Stage) -> None:
        owner = stage.owner
        pushing = []
        for number, unit in enumerate(units):
            (stage.disk.hold if number % 7 == 3 else stage.disk.let_go)()
            pushing.append(asyncio.create_task(owner.apply(unit)))
            await asyncio.sleep(0)
        stage.disk.let_go()
        await asyncio.gather(*pushing)
        await eventually(lambda: not owner.shard.backlog.units and not owner.watermark.waiting)
        accepted = [news.unit for news in stage.news if isinstance(news, Accepted)]
        assert accepted == [unit.unit for unit in units], "applied in the order in which they came"
        versions = [news.version for news in stage.news if isinstance(news, Delta)]
        assert versions == list(range(len(versions)))
        seen: set[object] = set()
        for news in stage.news:
            if isinstance(news, Accepted):
                seen.add(news.unit)
            elif isinstance(news, Delta):
                assert {outcome.unit for outcome in news.outcomes} <= seen, "settled before it was accepted"

    play(scene, cluster, tmp_path)


def test_what_changes_nothing_is_not_logged(tmp_path: Path) -> None:
    cluster = Cluster()

    async def scene(stage: Stage) -> None:
        owner, unit = stage.owner, cluster.unit(0, 0, 0)
        for _ in range(3):
            await owner.apply(unit)
        assert owner.archive.position == 1
        await owner.apply(Close(0, (0,), False, False, 0))
        for _ in range(3):
            await owner.apply(Close(0, (0,), False, False, 0))
            assert await owner.apply(unit) is Verdict.SETTLED
        with pytest.raises(SparsyncError):
            await owner.apply(Close(5, (0,), False, False, 0))
        assert owner.archive.position == 2

    play(scene, cluster, tmp_path)


def test_a_full_disk_holds_everything_back_and_lets_it_go(tmp_path: Path) -> None:
    cluster = Cluster()

    async def scene(stage: Stage) -> None:
        owner = stage.owner
        stage.disk.full = True
        pushing = asyncio.create_task(owner.apply(cluster.unit(0, 0, 0)))
        await eventually(lambda: bool(owner.stalled))
        assert "make room on that disk" in owner.stalled and stage.news == [owner.stalled]
        with pytest.raises(Busy, match="nothing is acknowledged"):
            owner.admit(1)
        assert not pushing.done()
        stage.disk.full = False
        assert await pushing is Verdict.ADMIT
        await eventually(lambda: not owner.stalled)
        assert [news for news in stage.news if isinstance(news, str)][-1] == ""
        owner.admit(1)
        owner.release(1)

    play(scene, cluster, tmp_path)


def test_a_broken_disk_tells_nothing_and_ends_the_process(tmp_path: Path) -> None:
    """Records that were applied and could not be logged are never seen, though the shard's own state has them."""
    cluster = Cluster()

    async def scene() -> None:
        broken: list[Exception] = []
        with pytest.MonkeyPatch.context() as patched:
            disk = HeldDisk(patched)
            owner = Owner(tmp_path, admit_bytes=1 << 24, on_broken=broken.append)
            configure(owner, cluster)
            await owner.begin()
            told: list[News] = []
            owner.on_news = told.append
            for stream in range(STREAMS):
                await owner.apply(cluster.unit(0, 0, stream))
            disk.fails = True
            closing = asyncio.create_task(owner.apply(close(0)))
            following = asyncio.create_task(owner.followers.delta(0))
            await eventually(lambda: bool(broken))
            with pytest.raises(SparsyncError, match="is broken"):
                await owner.apply(cluster.unit(0, 1, 0))
            for _ in range(10):
                await asyncio.sleep(0)
            assert not closing.done() and not following.done() and len(told) == STREAMS
            closing.cancel()
            await owner.end()
            await asyncio.gather(closing, following, return_exceptions=True)
            owner.close(forget=False)

    run(scene())
