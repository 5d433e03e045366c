"""A fault proxy on an event loop of its own, in a thread: for tests and measurements that are not asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from sparsync.faults.proxy import Proxy, Tap
from sparsync.faults.rules import BOTH, Direction, Faults
from sparsync.faults.way import Order

T = TypeVar("T")
UP = frozenset({Direction.UP})


class ProxyThread:
    """A `Proxy`; every method may be called from any thread. A context manager.

    `tap` and `say` are called in the proxy's own thread.
    """

    def __init__(
        self,
        faults: Faults | None = None,
        *,
        tap: Tap | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._proxy = Proxy(faults, by_process=True, tap=tap, say=say)
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()

    def forward(self, target: str, *, listen: str = "127.0.0.1:0") -> str:
        """Listen for `target` (HOST:PORT), which need not listen yet; the address to be dialled instead."""
        return self._do(self._proxy.forward(target, listen=listen))

    def hold(self, pid: int | None = None, *, directions: frozenset[Direction] = UP) -> None:
        """Keep back what this process and its children, or all, send; or what they are sent."""
        self._call(lambda: self._proxy.give(Order.HOLD, pid=pid, directions=directions))

    def silence(self, pid: int | None = None, *, directions: frozenset[Direction] = BOTH) -> None:
        """Swallow it instead, and close nothing."""
        self._call(lambda: self._proxy.give(Order.SWALLOW, pid=pid, directions=directions))

    def release(self, pid: int | None = None) -> None:
        """Send on what was kept back, reset what has lost bytes, and let all pass."""
        self._call(lambda: self._proxy.give(Order.PASS, pid=pid))

    def partition(self) -> None:
        """Hold everything back, both ways, until `release`."""
        self.hold(directions=BOTH)

    def reset_all(self) -> None:
        """Reset every open connection."""
        self._call(self._proxy.reset_all)

    def misbehave(self, faults: Faults) -> None:
        """Other rules for connections and answers from now on."""
        self._call(lambda: setattr(self._proxy, "faults", faults))

    def sent(self, pid: int) -> int:
        """Bytes that this process and its children have sent so far, those held back included."""
        return self._call(lambda: self._proxy.sent(pid))

    def close(self) -> None:
        """Drop all connections and end the thread."""
        self._do(self._proxy.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _call(self, work: Callable[[], T]) -> T:
        async def do() -> T:
            return work()

        return self._do(do())
