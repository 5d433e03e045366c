"""What waits is revealed in the order of the log, and not before it is safe."""

from __future__ import annotations

import asyncio
import random

import pytest

from ps.watermark import Watermark

STANDBY, OTHER = 7, 8


class Revealed(list[str]):
    """What a watermark let through."""

    def __init__(self, watermark: Watermark) -> None:
        self._watermark = watermark

    def ask(self, position: int, name: str) -> None:
        self._watermark.when(position, lambda: self.append(name))


def test_what_is_safe_is_revealed_at_once() -> None:
    watermark = Watermark(3)
    revealed = Revealed(watermark)
    revealed.ask(3, "three")
    assert revealed == ["three"] and not watermark.waiting
    revealed.ask(4, "four")
    assert revealed == ["three"] and watermark.waiting


def test_what_is_asked_for_later_is_not_revealed_before() -> None:
    """An answer to a repeat, of an old position, tells nothing that a waiting record would tell."""
    watermark = Watermark()
    revealed = Revealed(watermark)
    revealed.ask(2, "two")
    revealed.ask(0, "a repeat")
    assert not revealed
    watermark.written(1)
    assert not revealed
    watermark.written(2)
    assert revealed == ["two", "a repeat"]


def test_positions_never_go_back() -> None:
    watermark = Watermark()
    watermark.written(5)
    watermark.written(3)
    assert watermark.position == 5
    watermark.wait_for(STANDBY, 4)
    watermark.copied(2)
    assert watermark.position == 4


def test_a_standby_is_waited_for_until_it_is_not() -> None:
    watermark = Watermark()
    revealed = Revealed(watermark)
    watermark.written(1)
    watermark.wait_for(STANDBY, 1)
    for position in (2, 3, 4):
        revealed.ask(position, str(position))
    watermark.written(4)
    assert not revealed
    watermark.copied(2)
    assert revealed == ["2"]
    watermark.copied(9)
    assert revealed == ["2", "3", "4"], "not beyond what this log holds"
    revealed.ask(5, "5")
    assert len(revealed) == 3
    watermark.wait_for(STANDBY, 4)
    watermark.written(5)
    watermark.wait_no_more(OTHER)
    assert len(revealed) == 3, "another one than the one that is waited for"
    watermark.wait_no_more(STANDBY)
    assert revealed[3:] == ["5"]


def test_what_waited_when_the_state_was_replaced_is_revealed_to_nobody() -> None:
    watermark = Watermark()
    revealed = Revealed(watermark)
    watermark.wait_for(STANDBY, 0)
    revealed.ask(3, "of the older state")
    watermark.reset(10)
    assert watermark.standby is None, "a standby waits for nobody"
    revealed.ask(10, "of the newer")
    assert revealed == ["of the newer"]


def test_what_is_revealed_may_ask_for_more() -> None:
    watermark = Watermark()
    revealed = Revealed(watermark)
    watermark.when(1, lambda: revealed.ask(1, "then"))
    watermark.when(1, lambda: revealed.append("first"))
    watermark.written(1)
    assert sorted(revealed) == ["first", "then"] and not watermark.waiting


def test_a_coroutine_waits_and_may_give_up() -> None:
    async def scene() -> None:
        watermark = Watermark()
        waiting, given_up = (asyncio.create_task(watermark.reach(1)) for _ in range(2))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        watermark.written(1)
        await waiting

    asyncio.run(scene())


@pytest.mark.parametrize("seed", range(50))
def test_random_orders(seed: int) -> None:
    """Nothing above the position is revealed, nothing at or below it waits, and all in the order of asking."""
    rnd = random.Random(seed)
    watermark, asked, revealed = Watermark(), 0, list[int]()
    own = copied = 0

    def reveal(position: int) -> None:
        assert position <= (own if watermark.standby is None else min(own, copied))
        revealed.append(position)

    for _ in range(200):
        match rnd.randrange(5):
            case 0:
                asked += 1
                watermark.when(asked, lambda position=asked: reveal(position))  # type: ignore[misc]
            case 1:
                own = max(own, rnd.randint(0, asked))
                watermark.written(own)
            case 2 if watermark.standby is not None:
                copied = max(copied, rnd.randint(0, asked))
                watermark.copied(copied)
            case 3 if watermark.standby is None:
                copied = rnd.randint(0, watermark.position)
                watermark.wait_for(STANDBY, copied)
            case 4 if rnd.random() < 0.3:
                watermark.wait_no_more(STANDBY)
        assert revealed == list(range(1, len(revealed) + 1))
        assert watermark.waiting == (len(revealed) < asked)
        assert len(revealed) >= min(watermark.position, asked)
