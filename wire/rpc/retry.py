"""The one retry layer: the same bytes again, after a pause with decorrelated jitter.

gRPC's own retries are off (`wire.rpc.channel`), so that what is sent again is what the
caller's closure holds, and a deadline bounds everything. Only errors whose class says
`retry` are tried again. Source of the jitter: "Exponential Backoff And Jitter" (AWS, 2015).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc

from wire.clock import Deadline
from wire.errors import SparsyncError, Unreachable
from wire.rpc.status import RetryHint, to_error

T = TypeVar("T")

BASE_S = 0.1
CAP_S = 5.0


class Backoff:
    """Pauses p₀ ~ U(base, 3·base), pₙ₊₁ = min(cap, U(base, 3·pₙ)) in seconds, drawn from `rng`."""

    def __init__(self, rng: random.Random, *, base_s: float = BASE_S, cap_s: float = CAP_S) -> None:
        self._rng = rng
        self._base_s = base_s
        self._cap_s = cap_s
        self._last_s = base_s

    def next(self) -> float:
        """Seconds to wait before the next attempt."""
        self._last_s = min(self._cap_s, self._rng.uniform(self._base_s, 3 * self._last_s))
        return self._last_s

    def reset(self) -> None:
        """Begins again at the shortest pause: to be called after a success."""
        self._last_s = self._base_s


async def retrying(
    call: Callable[[], Awaitable[T]],
    *,
    deadline: Deadline,
    backoff: Backoff,
    peer: str,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> T:
    """The result of `call`, tried again while its failure is worth a retry and `deadline` has not passed.

    `call` must send the same bytes each time. A pause that the peer asks for
    (`retry-after-ms`) replaces the jittered one when it is longer.

    Raises:
        SparsyncError: the last failure, as its own class, with the number of attempts.
    """
    attempts = 0
    while True:
        attempts += 1
        try:
            result = await _bounded(call, deadline, peer)
        except SparsyncError as error:
            if not error.retry:
                raise
            if deadline.passed:
                raise type(error)(f"{error} (given up after {attempts} attempts)") from error
            pause_s = max(backoff.next(), (RetryHint.of(error) or 0) / 1000)
            await sleep(min(pause_s, deadline.remaining()))
        else:
            backoff.reset()
            return result


async def _bounded(call: Callable[[], Awaitable[T]], deadline: Deadline, peer: str) -> T:
    """One attempt, cut off at the deadline; errors of gRPC come out as ours."""
    limit = asyncio.timeout(deadline.remaining())
    try:
        async with limit:
            return await call()
    except grpc.RpcError as error:
        raise to_error(error, peer=peer) from error
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise Unreachable(
            f"{peer} did not answer in time; check that it runs and is not overloaded"
        ) from error
