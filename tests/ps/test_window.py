"""The newest records of a log: where one stands follows from its position, however many there are."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from ps import replication
from ps.replication import Copy, Image, Replication, Window
from ps.watermark import Watermark
from wire.errors import Unreachable


class Looked(Copy):
    """A record that counts how often its position is asked for."""

    looks = 0

    def __getattribute__(self, name: str) -> object:
        if name == "position":
            Looked.looks += 1
        return super().__getattribute__(name)


def filled(records: int, *, first: int = 1) -> Window:
    window = Window(first - 1)
    for position in range(first, first + records):
        window.add(Looked(position, bytes(position % 7)))
    return window


def test_the_end_is_found_without_a_look_at_the_rest() -> None:
    window = filled(20_000)
    Looked.looks = 0
    for behind in (19_990, 19_999, 20_000):
        assert [copy.payload for copy in window.after(behind)] == [
            bytes(position % 7) for position in range(behind + 1, 20_001)
        ]
        assert window.bytes_after(behind) == sum(position % 7 for position in range(behind + 1, 20_001))
        assert window.leads_on_from(behind)
    assert Looked.looks < 50, "ten records, not twenty thousand"


@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_list_of_what_was_added_last(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a plain list: gaps, begins anew, too much of it, a standby that needs some."""
    draw = random.Random(seed)
    monkeypatch.setattr(replication, "KEPT_BYTES", 60)
    monkeypatch.setattr(replication, "BEHIND_BYTES", 150)
    window, newest, kept, needed = Window(0), 0, list[Copy](), None
    for _ in range(400):
        match draw.choice(["add"] * 12 + ["gap", "clear", "release", "hold", "after", "bytes"]):
            case "add" | "gap" as what:
                gap = what == "gap"
                newest += 2 if gap else 1
                copy = Copy(newest, bytes(draw.randrange(12)))
                window.add(copy)
                kept = [copy] if gap else [*kept, copy]
                while sum(len(c.payload) for c in kept) > 60:
                    wanted = needed is not None and kept[0].position > needed
                    if wanted and sum(len(c.payload) for c in kept) <= 150:
                        break
                    kept.pop(0)
            case "clear":
                newest += draw.randrange(3)
                window.clear(newest)
                kept = []
            case "hold":
                window.hold()
                needed = newest
            case "release":
                window.release()
                needed = None
                while sum(len(c.payload) for c in kept) > 60:
                    kept.pop(0)
            case "after":
                behind = newest - draw.randrange(len(kept) + 3)
                later = [c for c in kept if c.position > behind]
                needed = behind
                if [c.position for c in later] == list(range(behind + 1, newest + 1)):
                    assert window.after(behind) == later and window.leads_on_from(behind)
                else:
                    assert not window.leads_on_from(behind)
                    with pytest.raises(Unreachable, match=f"lacks record {behind + 1}"):
                        window.after(behind)
            case _:
                behind = newest - draw.randrange(len(kept) + 3)
                assert window.bytes_after(behind) == sum(len(c.payload) for c in kept if c.position > behind)
        assert window.newest == newest


def test_all_that_is_logged_while_an_image_is_under_way_follows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than is kept for nobody: while it is encoded, while it waits for the log, while it is sent."""
    monkeypatch.setattr(replication, "KEPT_BYTES", 60)
    monkeypatch.setattr(replication, "BEHIND_BYTES", 1000)
    window, watermark = Window(0), Watermark()

    def log(records: int) -> None:
        for position in range(window.newest + 1, window.newest + 1 + records):
            primary.offer(position, bytes(10))
        watermark.written(window.newest)

    async def image(before: Callable[[int], None]) -> Image:
        log(3)
        before(window.newest)
        log(10)
        return Image(3, [])

    async def scene() -> None:
        sent = primary.records(primary.begin(7), 0, image, checksum=None)
        assert await anext(sent) == Image(3, [])
        log(10)
        assert [(await anext(sent)).position for _ in range(20)] == list(range(4, 24))
        await sent.aclose()
        primary.broken(1, "gone")
        assert window.bytes_after(0) <= 60

    primary = Replication(watermark, window, lambda news: None)
    asyncio.run(scene())
