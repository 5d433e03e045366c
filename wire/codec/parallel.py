"""Parts side by side: a bounded number of threads, results in order. What comes out does not depend on their number."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_order(function: Callable[[T], R], items: Iterable[T], *, threads: int) -> Iterator[R]:
    """`function` of each item, in order; with one thread each when it is asked for, with more `threads` ahead.

    Raises: what `function` raises, at its place; nothing behind it is begun or at work after that.
    """
    if threads == 1:
        yield from map(function, items)
        return
    pool, ahead = _pool(threads), deque[Future[R]]()
    try:
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        for future in ahead:
            future.cancel()
        # What is at work writes to planes that the caller may use again as soon as it has the error.
        wait(ahead)


@lru_cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="codec")
