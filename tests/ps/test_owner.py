"""The owner: one order of records, room for frames, followers woken."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from ps.owner import Owner
from ps.publish import Delta
from ps.records import Close
from ps.store import Store
from tests.ps.models import STREAMS, Cluster, close
from wire.codec.dense import pack
from wire.errors import Busy, NoInput, ProtocolMismatch

ROOM = 1 << 22


def play(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, 30))


def owner_of(cluster: Cluster, path: Path, *, room: int = ROOM) -> Owner:
    owner = Owner(Store(path), admit_bytes=room)
    (shard,) = cluster.shards
    owner.configure(shard.spec, cluster.push, cluster.pull)
    for name in ("x", "published"):
        owner.shard.load(name, pack(shard.planes()[name], shard.blocks))
    return owner


async def step(owner: Owner, cluster: Cluster, number: int, record: Close | None = None) -> object:
    for stream in range(STREAMS):
        unit = cluster.unit(0, number, stream)
        owner.admit(len(unit.frame))
        await owner.apply(unit)
    return await owner.apply(record or close(number))


def test_there_is_no_shard_before_it_is_configured(tmp_path: Path) -> None:
    owner = Owner(Store(tmp_path), admit_bytes=ROOM)
    assert not owner.configured
    with pytest.raises(ProtocolMismatch, match="no shard yet"):
        assert owner.shard


def test_configuring_twice(tmp_path: Path) -> None:
    cluster, other = Cluster(), Cluster(2)
    owner = owner_of(cluster, tmp_path)
    owner.configure(cluster.shards[0].spec, cluster.push, cluster.pull)
    with pytest.raises(ProtocolMismatch, match="another shard already"):
        owner.configure(other.shards[0].spec, cluster.push, cluster.pull)


def test_a_step_must_fit(tmp_path: Path) -> None:
    with pytest.raises(ProtocolMismatch, match=r"cluster\.admit_bytes allows 1000; raise it to"):
        owner_of(Cluster(), tmp_path, room=1000)


def test_room_is_given_back_at_the_close(tmp_path: Path) -> None:
    async def scene() -> None:
        cluster = Cluster()
        frame_bytes = cluster.shards[0].max_frame_bytes
        owner = owner_of(cluster, tmp_path, room=STREAMS * frame_bytes)
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

    play(scene())


def test_followers_wait_for_what_is_not_published_and_end_with_the_final(tmp_path: Path) -> None:
    async def scene() -> None:
        cluster = Cluster()
        owner = owner_of(cluster, tmp_path)
        waiting = [asyncio.create_task(owner.delta(version)) for version in (0, 1, 2)]
        await owner.begin()
        first = await step(owner, cluster, 0)
        assert isinstance(first, Delta) and await waiting[0] is first
        assert not waiting[1].done()
        last = await step(owner, cluster, 1, close(1, final=True))
        assert await waiting[1] is last and await waiting[2] is None

    play(scene())


def test_what_is_not_retained_is_refused(tmp_path: Path) -> None:
    async def scene() -> None:
        cluster = Cluster()
        owner = owner_of(cluster, tmp_path)
        await owner.begin()
        await step(owner, cluster, 0, Close(0, (0, 1, 2), True, False, 0))
        owner.store.save_deposit(0, 1, {})
        await step(owner, cluster, 1, Close(1, (0, 1, 2), False, False, 1))
        with pytest.raises(ProtocolMismatch, match="no longer retained"):
            await owner.delta(0)
        with pytest.raises(NoInput):
            owner.store.load_base(0)
        assert owner.store.load_base(1) and owner.store.deposit(0, 1) == {}

    play(scene())


def test_a_caller_that_goes_takes_nothing_back(tmp_path: Path) -> None:
    """A line that breaks while its close is being applied: the delta is published and followers are woken."""

    async def scene() -> None:
        cluster = Cluster()
        owner = owner_of(cluster, tmp_path)
        await owner.begin()
        for stream in range(STREAMS):
            unit = cluster.unit(0, 0, stream)
            owner.admit(len(unit.frame))
            await owner.apply(unit)
        following = asyncio.create_task(owner.delta(0))
        closing = asyncio.create_task(owner.apply(close(0)))
        await asyncio.sleep(0)
        closing.cancel()
        delta = await following
        assert delta is not None
        assert delta.version == 0

    play(scene())
