"""How long a worker waits for a coordinator or a server that is away, and how often it tries.

Only silence counts: a peer that answers, if only that it is busy, is there. At first tries are at most
half a second apart, so that the run goes on within a second of the peer's return; after a minute they are
rarer. All pauses are drawn at random, so that the workers of a run do not come back at one moment.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import grpc

from wire.clock import Clock
from wire.errors import SparsyncError, Unreachable
from wire.rpc.retry import Backoff
from wire.rpc.status import RetryHint, to_error

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]

PATIENCE_S = 900.0
"""How long a server or the coordinator may be away before the worker gives up."""
BRISK_S = 60.0
"""So long after it went it is likely to be back at any moment."""
BRISK_CAP_S, STEADY_CAP_S = 0.5, 2.0
LIVE_S = 20.0
"""A call that ran for so long had a peer: keepalive would have found out before."""


class Patience:
    """With one peer, from its first failure to its next answer.

    Args:
        limit_s: of its silence.

    Attributes:
        tries: that failed since its last answer.
    """

    def __init__(
        self, clock: Clock, rng: random.Random | None = None, *, limit_s: float = PATIENCE_S
    ) -> None:
        rng = rng or random.Random()
        self._clock = clock
        self._limit_s = limit_s
        self._brisk = Backoff(rng, cap_s=BRISK_CAP_S)
        self._steady = Backoff(rng, cap_s=STEADY_CAP_S)
        self._away_since: float | None = None
        self._tried_at = clock.now()
        self.tries = 0

    def trying(self) -> None:
        """A try begins."""
        self._tried_at = self._clock.now()

    def heard(self) -> None:
        """The peer is there."""
        self._away_since = None
        self.tries = 0
        self._brisk.reset()
        self._steady.reset()

    def pause_s(self, failure: SparsyncError) -> float:
        """How long to wait before the next try.

        Raises: `failure`, where another try is of no use or the peer was silent for too long.
        """
        if not failure.retry:
            raise failure
        now = self._clock.now()
        if now - self._tried_at > LIVE_S:
            self.heard()
        self.tries += 1
        if not isinstance(failure, Unreachable):
            self._away_since = None
            return max(self._steady.next(), (RetryHint.of(failure) or 0) / 1000)
        if self._away_since is None:
            self._away_since = now
        away_s = now - self._away_since
        if away_s >= self._limit_s:
            raise Unreachable(f"{failure} (given up after {away_s:.0f} s)")
        return min((self._brisk if away_s < BRISK_S else self._steady).next(), self._limit_s - away_s)


async def patiently(
    call: Callable[[], Awaitable[T]], patience: Patience, *, peer: str, sleep: Sleep = asyncio.sleep
) -> T:
    """The result of `call`, tried again as `patience` says; it must send the same bytes each time.

    Raises: SparsyncError, the last failure as its own class.
    """
    while True:
        patience.trying()
        try:
            result = await call()
        except grpc.RpcError as error:
            await sleep(patience.pause_s(to_error(error, peer=peer)))
        except SparsyncError as error:
            await sleep(patience.pause_s(error))
        else:
            patience.heard()
            return result


@asynccontextmanager
async def within(limit_s: float, *, peer: str) -> AsyncIterator[None]:
    """At most so long. Raises: Unreachable at its end."""
    limit = asyncio.timeout(limit_s)
    try:
        async with limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise Unreachable(
            f"{peer} did not answer in time; check that it runs and is not overloaded"
        ) from None
