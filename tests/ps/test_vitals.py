"""The server's watchdog is fed by a shard that is at work, and starves with one that hangs."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from ps import vitals
from ps.owner import Owner
from tests.ps.models import Cluster
from tests.ps.serving import configure, owning
from tests.ps.serving import play as run
from wire.notify import Notify


class Heard(Notify):
    """Counts instead of sending."""

    def __init__(self) -> None:
        super().__init__({})
        self.fed = 0
        self.told = ""

    def alive(self) -> None:
        self.fed += 1

    def status(self, text: str) -> None:
        self.told = text


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vitals, "ASK_EVERY_S", 0.001)


async def until(heard: Heard, fed: int) -> None:
    async with asyncio.timeout(30):
        while heard.fed < fed:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def with_watch(owner: Owner, heard: Heard, scene: object) -> None:
    watching = asyncio.create_task(vitals.watch(owner, heard, "abc"))
    try:
        await scene  # type: ignore[misc]
    finally:
        watching.cancel()


def test_an_idle_server_is_alive(tmp_path: Path) -> None:
    async def scene() -> None:
        heard = Heard()
        async with owning(tmp_path) as owner:
            await with_watch(owner, heard, until(heard, 20))
        assert heard.told == "run abc, a spare: no shard yet"

    run(scene())


def test_a_shard_whose_thread_hangs_starves_it(tmp_path: Path) -> None:
    async def scene() -> None:
        heard = Heard()
        hangs, released = threading.Event(), threading.Event()

        def hang() -> None:
            hangs.set()
            released.wait(30)

        async def hanging(owner: Owner) -> None:
            await until(heard, 3)
            work = asyncio.create_task(owner.read(hang))
            await asyncio.to_thread(hangs.wait, 30)
            fed = heard.fed
            for _ in range(50):
                await asyncio.sleep(0.001)
            assert heard.fed <= fed + 1, "one answer may have been on its way"
            released.set()
            await work
            await until(heard, fed + 5)

        async with owning(tmp_path) as owner:
            try:
                await with_watch(owner, heard, hanging(owner))
            finally:
                released.set()

    run(scene())


def test_a_log_that_takes_nothing_starves_it_unless_the_disk_is_full(tmp_path: Path) -> None:
    async def scene() -> None:
        heard = Heard()

        async def stuck(owner: Owner) -> None:
            await until(heard, 3)
            position = owner.archive.position
            owner.watermark._own = position - 1  # as where a write hangs
            await asyncio.sleep(0.01)
            fed = heard.fed
            for _ in range(50):
                await asyncio.sleep(0.001)
            assert heard.fed == fed
            owner.stalled = "the disk is full"
            await until(heard, fed + 3)
            assert "the disk is full" in vitals.status_line(owner, "abc")
            owner.stalled = ""

        async with owning(tmp_path, room=1 << 22) as owner:
            configure(owner, Cluster())
            await with_watch(owner, heard, stuck(owner))

    run(scene())
