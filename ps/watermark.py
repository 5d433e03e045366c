"""How far the log is safe, and what waits to be revealed until it is.

Safe is a record that this server's log holds at the acknowledgement level, and, while a standby is waited for, that
standby's log too. What a record brought about is revealed (an acknowledgement, a delta, an event) in the order of
the log and never before: so no version number ever has two contents. Everything here happens on the event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Watermark:
    """The position up to which all records are safe.

    Attributes:
        standby: incarnation of the standby that is waited for, or None.
    """

    def __init__(self, position: int = 0) -> None:
        self._own = position
        self._copied = 0
        self.standby: int | None = None
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()

    @property
    def position(self) -> int:
        """Every record up to here may be revealed."""
        return self._own if self.standby is None else min(self._own, self._copied)

    @property
    def lag(self) -> int:
        """Records that the standby which is waited for does not hold yet."""
        return 0 if self.standby is None else max(self._own - self._copied, 0)

    @property
    def own(self) -> int:
        """This server's log is safe up to here."""
        return self._own

    @property
    def waiting(self) -> bool:
        """Whether anything waits to be revealed."""
        return bool(self._waiting)

    def reset(self, position: int) -> None:
        """The log begins anew behind `position`: what waited belongs to another state, and is revealed to nobody."""
        self._own, self.standby = position, None
        self._waiting.clear()

    def written(self, position: int) -> None:
        """This server's log is safe up to `position`."""
        self._own = max(self._own, position)
        self._advance()

    def copied(self, position: int) -> None:
        """The standby's log is safe up to `position`."""
        self._copied = max(self._copied, position)
        self._advance()

    def wait_for(self, standby: int, position: int) -> None:
        """From now on wait for a standby, whose log is safe up to `position`."""
        self.standby, self._copied = standby, position
        self._advance()

    def wait_no_more(self, standby: int) -> None:
        """The coordinator has journaled that this standby is not in sync."""
        if self.standby == standby:
            self.standby = None
            self._advance()

    def when(self, position: int, act: Callable[[], None]) -> None:
        """Call `act` once every record up to `position` is safe, after all that was asked for before."""
        if not self._waiting and position <= self.position:
            act()
        else:
            self._waiting.append((position, act))

    async def reach(self, position: int) -> None:
        """Wait until every record up to `position` is safe, and all that waited for it before is done."""
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.when(position, lambda: None if reached.done() else reached.set_result(None))
        await reached

    def _advance(self) -> None:
        while self._waiting and self._waiting[0][0] <= self.position:
            self._waiting.popleft()[1]()
