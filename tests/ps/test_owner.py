"""The owner: one order of records, room for frames, followers woken."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

from ps.ledger import Verdict
from ps.news import News
from ps.owner import Owner
from ps.publication import DELAY_S
from ps.publish import Delta
from ps.records import Accept, Accepted, Close, Flush, Retire, Segment
from tests.ps.models import ARRIVAL, LAYOUT, STREAMS, Cluster, Worker, close, commit, plane, sgd
from tests.ps.serving import configure, owning
from tests.ps.serving import play as run
from wire.codec.chain import FLUSH
from wire.codec.dense import pack
from wire.errors import BadUnit, Busy, NoInput, ProtocolMismatch
from wire.layout import BLOCK

ROOM = 1 << 22


Scene = Callable[[Owner], Awaitable[None]]


def play(scene: Scene, cluster: Cluster, path: Path, *, room: int = ROOM) -> None:
    """A scene on an owner of the first shard of `cluster`."""

    async def whole() -> None:
        async with owning(path, room=room) as owner:
            configure(owner, cluster)
            await scene(owner)

    run(whole())


async def step(owner: Owner, cluster: Cluster, number: int, record: Close | None = None) -> object:
    for stream in range(STREAMS):
        unit = cluster.unit(0, number, stream)
        owner.admit(len(unit.frame))
        await owner.apply(unit)
    return await owner.apply(record or close(number))


def test_there_is_no_shard_before_it_is_configured(tmp_path: Path) -> None:
    async def scene() -> None:
        async with owning(tmp_path) as owner:
            assert not owner.configured
            with pytest.raises(ProtocolMismatch, match="no shard yet"):
                assert owner.shard

    run(scene())


def test_configuring_twice(tmp_path: Path) -> None:
    cluster, other = Cluster(), Cluster(2)

    async def scene(owner: Owner) -> None:
        await owner.begin()
        configure(owner, cluster)
        assert owner.holdings.store.load_base(0)[:2] == (0, 0), "what is kept beside it stays"
        with pytest.raises(ProtocolMismatch, match="with another specification"):
            configure(owner, other)

    play(scene, cluster, tmp_path)


def test_a_step_must_fit(tmp_path: Path) -> None:
    async def scene(owner: Owner) -> None:
        raise AssertionError("unreachable")

    with pytest.raises(ProtocolMismatch, match=r"cluster\.admit_bytes allows 1000; raise it to"):
        play(scene, Cluster(), tmp_path, room=1000)


def test_room_is_given_back_at_the_close(tmp_path: Path) -> None:
    cluster = Cluster()
    frame_bytes = cluster.shards[0].max_frame_bytes

    async def scene(owner: Owner) -> None:
        await owner.begin()
        for number in range(3):
            await step(owner, cluster, number)
            await owner.apply(close(number))  # a repeat gives no room back a second time
        for _ in range(STREAMS):
            owner.admit(frame_bytes)
        with pytest.raises(Busy, match=r"cluster\.admit_bytes"):
            owner.admit(1)
        owner.release(frame_bytes)
        owner.admit(frame_bytes)

    play(scene, cluster, tmp_path, room=STREAMS * frame_bytes)


def test_followers_wait_for_what_is_not_published_and_end_with_the_final(tmp_path: Path) -> None:
    cluster = Cluster()

    async def scene(owner: Owner) -> None:
        waiting = [asyncio.create_task(owner.followers.delta(version)) for version in (0, 1, 2)]
        await owner.begin()
        first = await step(owner, cluster, 0)
        assert isinstance(first, Delta) and await waiting[0] is first
        assert not waiting[1].done()
        last = await step(owner, cluster, 1, close(1, final=True))
        assert await waiting[1] is last and await waiting[2] is None

    play(scene, cluster, tmp_path)


def test_what_is_not_retained_is_refused(tmp_path: Path) -> None:
    cluster = Cluster()

    async def scene(owner: Owner) -> None:
        await owner.begin()
        await step(owner, cluster, 0, Close(0, (0, 1, 2), True, False, 0))
        owner.holdings.store.save_deposit(0, 1, {})
        await step(owner, cluster, 1, Close(1, (0, 1, 2), False, False, 1))
        with pytest.raises(ProtocolMismatch, match="no longer retained"):
            await owner.followers.delta(0)
        with pytest.raises(NoInput):
            owner.holdings.store.load_base(0)
        assert owner.holdings.store.load_base(1)[:2] == (1, 1) and owner.holdings.store.deposit(0, 1) == {}

    play(scene, cluster, tmp_path)


def test_a_caller_that_goes_takes_nothing_back(tmp_path: Path) -> None:
    """A line that breaks while its close is being applied: the delta is published and followers are woken."""

    cluster = Cluster()

    async def scene(owner: Owner) -> None:
        await owner.begin()
        for stream in range(STREAMS):
            unit = cluster.unit(0, 0, stream)
            owner.admit(len(unit.frame))
            await owner.apply(unit)
        following = asyncio.create_task(owner.followers.delta(0))
        closing = asyncio.create_task(owner.apply(close(0)))
        await asyncio.sleep(0)
        closing.cancel()
        delta = await following
        assert delta is not None
        assert delta.version == 0

    play(scene, cluster, tmp_path)


# --- where units settle on arrival -------------------------------------------------------


class Told(list[News]):
    """What an owner tells."""

    def __init__(self, owner: Owner) -> None:
        self._more = asyncio.Event()
        owner.on_news = self._hear

    def _hear(self, news: News) -> None:
        self.append(news)
        self._more.set()

    async def reach(self, count: int) -> None:
        """Wait until so many news were told."""
        while len(self) < count:
            self._more.clear()
            await self._more.wait()


async def push(owner: Owner, unit: Accept) -> object:
    owner.admit(len(unit.frame))
    return await owner.apply(unit)


def test_room_is_given_back_on_arrival_and_by_a_refusal(tmp_path: Path) -> None:
    cluster = Cluster(1, segment=ARRIVAL)
    worker, room = Worker(cluster, 1), STREAMS * cluster.shards[0].max_frame_bytes

    async def scene(owner: Owner) -> None:
        await owner.begin()
        for number in range(3 * STREAMS):
            unit = worker.unit(number)
            assert await push(owner, unit) is Verdict.ADMIT
            assert await push(owner, unit) in (Verdict.ACCEPTED, Verdict.SETTLED)
        with pytest.raises(ProtocolMismatch):
            await push(owner, worker.unit(99, base=10**6))
        owner.admit(room)

    play(scene, cluster, tmp_path, room=room)


def test_room_of_a_flush_is_given_back_on_arrival(tmp_path: Path) -> None:
    cluster = Cluster(segment=ARRIVAL)

    async def scene(owner: Owner) -> None:
        await owner.begin()
        frame = b"".join(FLUSH.encode(plane(5), {}, cluster.blocks(0)))
        for _ in range(2 * ROOM // len(frame)):
            owner.admit(len(frame))
            await owner.apply(Flush(7, 0, (0.1, 0.1), frame))

    play(scene, cluster, tmp_path)


def test_a_lone_worker_is_published_at_once(tmp_path: Path) -> None:
    cluster = Cluster(1, segment=ARRIVAL)

    async def scene(owner: Owner) -> None:
        worker = Worker(cluster, 1)
        told = Told(owner)
        await owner.begin()
        for number in range(4):
            await push(owner, worker.unit(number, base=number))
            delta = await owner.followers.delta(number)
            assert delta is not None and not delta.closes
            assert [o.unit.number(STREAMS) for o in delta.outcomes] == [number]
        await told.reach(8)
        assert [type(news) for news in told] == [Accepted, Delta] * 4

    play(scene, cluster, tmp_path)


def test_what_is_pending_waits_for_half_of_the_workers_or_for_the_delay(tmp_path: Path) -> None:
    cluster = Cluster(1, segment=ARRIVAL)

    async def scene(owner: Owner) -> None:
        loop = asyncio.get_running_loop()
        workers = [Worker(cluster, incarnation) for incarnation in range(4)]
        await owner.begin()
        for number in range(9, 13):  # four workers are seen; far ahead, so that the clock stands still
            await push(owner, workers[number - 9].unit(number))
        while owner.shard.backlog.units:
            assert await owner.followers.delta(owner.shard.deltas.version) is not None
        version = owner.shard.deltas.version
        began = loop.time()
        await push(owner, workers[0].unit(21, base=version))
        delta = await owner.followers.delta(version)
        assert delta is not None and len(delta.outcomes) == 1
        assert loop.time() - began >= DELAY_S - 0.01
        units = [workers[0].unit(number, base=version) for number in (22, 23)]
        await asyncio.gather(*(push(owner, unit) for unit in units))
        delta = await owner.followers.delta(version + 1)
        assert delta is not None and len(delta.outcomes) == 2

    play(scene, cluster, tmp_path)


def test_what_a_worker_pushed_is_told_before_it_is_retired(tmp_path: Path) -> None:
    cluster = Cluster(1, segment=ARRIVAL)

    async def scene(owner: Owner) -> None:
        worker = Worker(cluster, 1)
        told = Told(owner)
        await owner.begin()
        pushing = [asyncio.create_task(push(owner, worker.unit(number))) for number in range(20)]
        await asyncio.sleep(0)
        await owner.apply(Retire(1))
        before = {news.unit for news in told if isinstance(news, Accepted)}
        verdicts = await asyncio.gather(*pushing)
        assert len(before) == verdicts.count(Verdict.ADMIT)
        assert set(verdicts) <= {Verdict.ADMIT, Verdict.FENCED}
        assert await push(owner, worker.unit(30)) is Verdict.FENCED
        assert {news.unit for news in told if isinstance(news, Accepted)} == before

    play(scene, cluster, tmp_path)


def test_a_publication_that_fails_is_told_once(tmp_path: Path) -> None:
    cluster = Cluster(1, optimizer=sgd(), segment=ARRIVAL)

    async def scene(owner: Owner) -> None:
        worker = Worker(cluster, 1)
        told = Told(owner)
        await owner.begin()
        real = np.arange(BLOCK) < np.asarray(LAYOUT.lengths)[:, None]
        huge = np.where(real, np.float32(3e38), np.float32(0))
        for number in range(2):
            unit = worker.unit(number, gradient=huge)
            with np.errstate(over="ignore"):
                await push(owner, Accept(unit.unit, 0, 1, commit((1e3, 1e3)), unit.frame))
        await told.reach(3)
        await push(owner, worker.unit(2))
        assert [type(news) for news in told].count(BadUnit) == 1

    play(scene, cluster, tmp_path)


def test_an_exact_segment_begins_with_a_base(tmp_path: Path) -> None:
    cluster = Cluster(1, segment=ARRIVAL)

    async def scene(owner: Owner) -> None:
        worker = Worker(cluster, 1)
        await owner.begin()
        for number in range(STREAMS):
            await push(owner, worker.unit(number))
        await owner.apply(Close(0, (), False, False, 0, pause=True))
        version = owner.shard.deltas.version
        reached = asyncio.create_task(owner.followers.reach(1))
        await owner.apply(Segment(1, 1))
        await reached
        assert owner.holdings.store.load_base(5) == (
            1,
            version,
            pack(owner.shard.planes()["published"], owner.shard.blocks),
        )

    play(scene, cluster, tmp_path)
