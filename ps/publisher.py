"""Has a shard that settles on arrival publish: what ps/publication.py decides, put into the log in time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from ps.publication import Backlog, Publication
from ps.records import Publish

log = logging.getLogger(__name__)


class Publisher:
    """Looks at the backlog after every record. On the event loop.

    Args:
        apply: applies a record, and returns before that is revealed; what becomes of it is told elsewhere.
    """

    def __init__(self, apply: Callable[[Publish], Awaitable[object]]) -> None:
        self._apply = apply
        self._publication = Publication()
        self._publishing: asyncio.Task[None] | None = None
        self._look_again: asyncio.TimerHandle | None = None
        self._backlog: Backlog | None = None
        self._over = False

    def look(self, backlog: Backlog) -> None:
        """Publish, or look again when the oldest pending unit has waited long enough."""
        self._look_no_more()
        self._backlog = backlog
        loop = asyncio.get_running_loop()
        decision = self._publication.decide(
            backlog, loop.time()
        )  # always: it remembers since when units are pending
        if self._over or self._publishing is not None:
            return
        if decision.reason:
            log.debug("publishing: %s", decision.reason)
            self._publishing = loop.create_task(self._publish(decision.reason))
        elif decision.wait_s is not None:
            self._look_again = loop.call_later(decision.wait_s, self.look, backlog)

    async def _publish(self, reason: str) -> None:
        try:
            await self._apply(Publish(reason))
        except Exception:  # told as news already; a shard that cannot publish is of no use any more
            self._over = True
        self._publishing = None
        if self._backlog is not None:
            self.look(self._backlog)

    def _look_no_more(self) -> None:
        if self._look_again is not None:
            self._look_again.cancel()
            self._look_again = None

    def end(self) -> None:
        """Publish no more."""
        self._over = True
        self._look_no_more()
