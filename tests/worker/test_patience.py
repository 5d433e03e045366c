"""How long is waited and how often it is tried: by a clock that the test sets."""

from __future__ import annotations

import asyncio
import random

import grpc
import pytest

from wire.clock import ManualClock
from wire.errors import Busy, StaleIncarnation, Unreachable
from wire.rpc.status import RetryHint
from worker.patience import LIVE_S, PATIENCE_S, Patience, patiently, within

AWAY = Unreachable("server 0 at 127.0.0.1:1: refused")


def tries(clock: ManualClock, patience: Patience, *, most: int = 100_000) -> list[float]:
    """Try until the patience is over; the seconds since the first failure of each try."""
    began, made = clock.now(), []
    for _ in range(most):
        patience.trying()
        try:
            pause_s = patience.pause_s(AWAY)
        except Unreachable as error:
            assert "given up after 900 s" in str(error)
            return made
        clock.advance(pause_s)
        made.append(clock.now() - began)
    raise AssertionError("no end")


def test_a_peer_is_waited_for_a_quarter_of_an_hour_and_found_soon_at_first() -> None:
    seed = random.randrange(2**32)
    print(f"{seed=}")
    clock = ManualClock()
    made = tries(clock, Patience(clock, random.Random(seed)))
    assert made[-1] == pytest.approx(PATIENCE_S)
    gaps = [(at, at - before) for before, at in zip([0.0, *made], made, strict=False)]
    assert max(gap for at, gap in gaps if at < 60) < 0.501
    assert 1.0 < max(gap for at, gap in gaps if at > 70) < 2.001
    assert len(made) < 1500


def test_not_all_come_at_one_moment() -> None:
    firsts = []
    for seed in range(50):
        clock = ManualClock()
        patience = Patience(clock, random.Random(seed))
        clock.advance(sum(patience.pause_s(AWAY) for _ in range(3)))
        firsts.append(clock.now())
    assert max(firsts) - min(firsts) > 0.3
    assert len(set(firsts)) == 50


def test_an_answer_or_a_call_that_ran_for_long_begins_it_anew() -> None:
    clock = ManualClock()
    patience = Patience(clock, random.Random(1))
    for shows_life in (patience.heard, lambda: clock.advance(LIVE_S + 1)):
        patience.pause_s(AWAY)
        clock.advance(PATIENCE_S - 30)
        patience.trying()
        shows_life()
        assert patience.pause_s(AWAY) <= 0.5
        assert patience.tries == 1


def test_a_peer_that_is_busy_is_there_however_long() -> None:
    clock = ManualClock()
    patience = Patience(clock, random.Random(1))
    for _ in range(100):
        patience.trying()
        clock.advance(max(10.0, patience.pause_s(Busy("the disk is full"))))
    assert patience.pause_s(RetryHint.put(Busy("no room"), 7_000)) == 7.0  # type: ignore[arg-type]
    assert patience.pause_s(AWAY) <= 0.5


def test_what_no_repeat_would_change_is_raised_at_once() -> None:
    with pytest.raises(StaleIncarnation, match="given up"):
        Patience(ManualClock()).pause_s(StaleIncarnation("given up"))


def test_a_call_is_made_until_it_is_answered() -> None:
    class Refused(grpc.RpcError):
        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.UNAVAILABLE

        def details(self) -> str:
            return "refused"

    failures, slept = [Refused(), AWAY, Refused()], []

    async def call() -> str:
        if failures:
            raise failures.pop()
        return "an answer"

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    clock = ManualClock()
    patience = Patience(clock)
    assert asyncio.run(patiently(call, patience, peer="server 0", sleep=sleep)) == "an answer"
    assert len(slept) == 3 and patience.tries == 0


def test_a_limit_ends_what_waits_and_leaves_other_ends_alone() -> None:
    async def waits() -> None:
        async with within(0.01, peer="server 0"):
            await asyncio.sleep(60)

    with pytest.raises(Unreachable, match="server 0 did not answer in time"):
        asyncio.run(waits())

    async def fails() -> None:
        async with within(60, peer="server 0"):
            raise TimeoutError("of somebody else's")

    with pytest.raises(TimeoutError, match="somebody else's"):
        asyncio.run(fails())
