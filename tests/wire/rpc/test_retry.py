"""Retries: only where a retry makes sense, within the deadline, no sooner than the peer asks."""

from __future__ import annotations

import asyncio
import random

import pytest

from wire.clock import Deadline, ManualClock, monotonic_clock
from wire.errors import Busy, ConfigError, SparsyncError, Unreachable
from wire.rpc.retry import BASE_S, CAP_S, Backoff, retrying
from wire.rpc.status import RetryHint


class Script:
    """A call that fails as told, then answers 42; sleeping moves the clock."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.clock = ManualClock()
        self.calls = 0
        self.pauses: list[float] = []

    async def __call__(self) -> int:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return 42

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.clock.advance(seconds)

    def run(self, *, seconds: float = 60.0) -> int:
        deadline = Deadline(self.clock, seconds)
        backoff = Backoff(random.Random(1))
        return asyncio.run(
            retrying(self, deadline=deadline, backoff=backoff, peer="server 1", sleep=self.sleep)
        )


@pytest.mark.parametrize("seed", range(20))
def test_pauses_stay_in_bounds_and_reach_the_cap(seed: int) -> None:
    backoff = Backoff(random.Random(seed))
    pauses = [backoff.next() for _ in range(200)]
    assert min(pauses) >= BASE_S and max(pauses) == CAP_S
    assert pauses[0] <= 3 * BASE_S
    backoff.reset()
    assert backoff.next() <= 3 * BASE_S


def test_two_callers_do_not_come_back_together() -> None:
    one, other = Backoff(random.Random(1)), Backoff(random.Random(2))
    assert [one.next() for _ in range(5)] != [other.next() for _ in range(5)]


def test_what_is_worth_a_retry_is_tried_again() -> None:
    script = Script(Unreachable("a"), Busy("b"))
    assert script.run() == 42
    assert script.calls == 3 and all(BASE_S <= p <= CAP_S for p in script.pauses)


def test_anything_else_is_raised_at_once() -> None:
    for error in (ConfigError("x"), SparsyncError("x"), ValueError("x")):
        script = Script(error)
        with pytest.raises(type(error)):
            script.run()
        assert script.calls == 1 and script.pauses == []


def test_gives_up_at_the_deadline_with_the_last_error() -> None:
    script = Script(*[Unreachable("nobody there")] * 1000)
    with pytest.raises(Unreachable, match=r"nobody there \(given up after \d+ attempts\)"):
        script.run(seconds=20)
    assert script.calls > 3
    assert script.clock.now() == pytest.approx(20)


def test_the_peer_may_ask_for_a_longer_pause() -> None:
    script = Script(RetryHint.put(Busy("x"), 7_500), RetryHint.put(Busy("x"), 1))
    assert script.run() == 42
    assert script.pauses[0] == 7.5 and script.pauses[1] >= BASE_S


def test_a_peer_that_hangs_is_cut_off() -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    deadline = Deadline(monotonic_clock, 0.2)
    with pytest.raises(Unreachable, match="server 9 did not answer in time"):
        asyncio.run(retrying(hang, deadline=deadline, backoff=Backoff(random.Random(1)), peer="server 9"))


def test_a_timeout_of_the_call_itself_is_not_ours() -> None:
    with pytest.raises(TimeoutError):
        Script(TimeoutError()).run()
