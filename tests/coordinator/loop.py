"""An event loop on the queue of the small world: what `ps/` does in tasks runs in simulated time, one loop a server."""

from __future__ import annotations

import asyncio
from asyncio import events
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, TypeVar, cast

from tests.coordinator.ground import Events, Owner

T = TypeVar("T")


class Loop:
    """As much of asyncio's loop as tasks, futures and asyncio.Event need. Nothing runs once its owner is dead."""

    def __init__(self, world: Events, owner: Owner) -> None:
        self._world, self._owner = world, owner

    def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Call a function as this loop does."""
        older = events._get_running_loop()
        events._set_running_loop(cast(Any, self))
        try:
            return function(*arguments)
        finally:
            events._set_running_loop(older)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.Task(work, loop=cast(Any, self))

    # --- what asyncio asks of a loop

    def call_soon(
        self, callback: Callable[..., object], *arguments: object, context: Context | None = None
    ) -> None:
        within = context or copy_context()
        self._world.at(
            self._world.now, lambda: self.run(lambda: within.run(callback, *arguments)), self._owner
        )

    call_soon_threadsafe = call_soon

    def call_later(self, delay: float, callback: Callable[..., object], *arguments: object) -> None:
        self._world.at(self._world.now + delay, lambda: self.run(lambda: callback(*arguments)), self._owner)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=cast(Any, self))

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """A task of a server that is dead is of no concern."""
