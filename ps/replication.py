"""The primary's side of replication: what a standby is sent, and what of it the standby has.

One standby a shard. It is sent the shard's image behind some record, unless the newest records that are kept here lead
on from what it has, and every record after that. When it is nearly level it is waited for (ps/watermark.py); once it
holds all that was revealed before, the coordinator is told that it is in sync. From then on nothing but the
coordinator's word ends the waiting, whatever becomes of the connection (P1, P10): where that breaks the coordinator
is told, and no standby is taken before its answer, so that no word of one connection is taken for another's.

| called from      | what                                            |
|------------------|-------------------------------------------------|
| shard's thread   | `offer`, `forget`                               |
| event loop       | everything else                                 |
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import xxhash

from ps.news import InSync, Parted
from ps.watermark import Watermark
from wire.codec.base import Buffer
from wire.errors import StaleIncarnation, Unreachable

log = logging.getLogger(__name__)
KEPT_BYTES = 64 << 20
"""Newest records that are kept for a standby whose connection broke."""
BEHIND_BYTES = 1 << 30
"""A standby that is further behind than this begins anew."""
CALLS_S = 5.0
"""A standby that is to be waited for calls within that, or the coordinator is told."""
NOBODY = 0
NEAR_BYTES = 16 << 20
"""A standby that lacks no more than this is waited for."""


@dataclass(frozen=True)
class Image:
    """The shard's state behind record `position`, as the bytes of its file."""

    position: int
    buffers: Sequence[Buffer]

    @property
    def bytes(self) -> int:
        return sum(map(len, self.buffers))


@dataclass(frozen=True)
class Copy:
    """One record of the log."""

    position: int
    payload: bytes

    @property
    def checksum(self) -> int:
        """Tells whose record it is, of those that ever stood at the position."""
        return xxhash.xxh3_64_intdigest(self.payload)


class Window:
    """The newest records of the log, in order and without a gap: where one stands follows from its position.

    Thread-safe.

    Args:
        position: of the newest record that stands in the log already.
    """

    def __init__(self, position: int) -> None:
        self._lock = threading.Lock()
        self._newest = position
        self._copies: deque[Copy] = deque()
        self._ends: deque[int] = deque()
        """Bytes of all that was ever added, up to and with each of them."""
        self._added = 0
        self._needed: int | None = None
        """Behind which a standby that is connected needs all; None: there is none."""

    @property
    def newest(self) -> int:
        """Position of the newest record."""
        with self._lock:
            return self._newest

    @property
    def _bytes(self) -> int:
        return self._added - self._ends[0] + len(self._copies[0].payload) if self._copies else 0

    def add(self, copy: Copy) -> None:
        with self._lock:
            if copy.position != self._newest + 1:  # nothing was added while nobody wanted it
                self._forget()
            self._newest = copy.position
            self._added += len(copy.payload)
            self._copies.append(copy)
            self._ends.append(self._added)
            self._trim()

    def _trim(self) -> None:
        while self._bytes > KEPT_BYTES:
            needed = self._needed is not None and self._copies[0].position > self._needed
            if needed and self._bytes <= BEHIND_BYTES:
                return
            self._copies.popleft()
            self._ends.popleft()

    def _forget(self) -> None:
        self._copies.clear()
        self._ends.clear()

    def hold(self) -> None:
        """A standby is about to be sent the state: it needs all from now on, while that is under way too."""
        with self._lock:
            self._needed = self._newest

    def release(self) -> None:
        """No standby is connected any more."""
        with self._lock:
            self._needed = None
            self._trim()

    def clear(self, position: int) -> None:
        """Begin anew behind `position`, of the newest record."""
        with self._lock:
            self._newest = position
            self._forget()

    @property
    def _oldest(self) -> int:
        """Position of the oldest record that is here, or of the next one."""
        return self._newest + 1 - len(self._copies)

    def leads_on_from(self, position: int) -> bool:
        """Whether every record behind `position` is here."""
        with self._lock:
            return self._oldest <= position + 1 <= self._newest + 1

    def holds(self, position: int, checksum: int | None) -> bool:
        """Whether the record at `position` is here, and is the one of that checksum."""
        with self._lock:
            place = position - self._oldest
            here = 0 <= place < len(self._copies)
            return here and self._copies[place].checksum == checksum

    def after(self, position: int) -> list[Copy]:
        """The records behind `position`; those up to there are needed no more.

        Raises: Unreachable where one of them is gone.
        """
        with self._lock:
            self._needed = position
            if self._newest > position and self._oldest > position + 1:
                raise Unreachable(
                    f"the standby lacks record {position + 1}, the oldest that is kept is {self._oldest}: it is to "
                    "call again, for an image"
                )
            later = list(islice(reversed(self._copies), max(self._newest - position, 0)))
        return later[::-1]

    def bytes_after(self, position: int) -> int:
        with self._lock:
            place = position - self._oldest
            if place >= len(self._ends):
                return 0
            return self._bytes if place < 0 else self._added - self._ends[place]


class Replication:
    """What one primary knows of its standby.

    Args:
        window: the newest records of the log.
        tell: takes what the coordinator must hear.
    """

    def __init__(self, watermark: Watermark, window: Window, tell: Callable[[InSync | Parted], None]) -> None:
        self._watermark = watermark
        self._tell = tell
        self._window = window
        self._led_from = window.newest
        self._fed = NOBODY
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news = asyncio.Event()
        self._standby = 0
        self._call = 0
        self._recorded = False
        self._parting = False
        self._revealed: int | None = None
        self._held: int | None = None
        """What the standby has acknowledged in the call that is under way."""
        self._marks: dict[tuple[bool, int], bytes] = {}

    # --- the log ---------------------------------------------------------------------------------

    def lead(self, position: int) -> None:
        """This server is the primary from now on, what stands in its log up to `position` came from the one before."""
        self._led_from = position

    @property
    def wanted(self) -> bool:
        """Whether records are to be offered; else the window is to be cleared with each."""
        return self._loop is not None

    def want(self) -> None:
        """A standby calls, or one that followed the same log is about to."""
        self._loop = asyncio.get_running_loop()

    def offer(self, position: int, payload: bytes) -> None:
        """One more record stands in the log."""
        self._window.add(Copy(position, payload))
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._news.set)

    def wake(self) -> None:
        """The log is durable further than it was."""
        self._news.set()

    async def _more(self) -> None:
        self._news.clear()
        await self._news.wait()

    # --- the standby -----------------------------------------------------------------------------

    @property
    def lag_bytes(self) -> int:
        """Of the records that the standby which is connected does not hold yet, as far as they are kept here."""
        return self._window.bytes_after(self._held) if self._held is not None else 0

    @property
    def in_sync(self) -> int:
        """Incarnation of the standby that the coordinator was told to be in sync; 0: none."""
        return self._standby if self._recorded and not self._parting else 0

    def begin(self, standby: int) -> int:
        """A standby calls; an older call ends. The number of the call.

        Raises: Unreachable while another one is waited for, or the end of its older call is not recorded.
        """
        waited_for = self._watermark.standby
        if self._parting or waited_for not in (None, standby):
            raise Unreachable(
                f"standby {standby} calls, this primary waits for standby {waited_for} until the coordinator has "
                "recorded that it is not in sync; call again"
            )
        self.want()
        self._standby = standby
        self._call += 1
        self._held = None
        self._news.set()
        return self._call

    async def records(
        self,
        call: int,
        position: int,
        image: Callable[[Callable[[int], None]], Awaitable[Image]],
        *,
        checksum: int | None,
    ) -> AsyncIterator[Image | Copy]:
        """What the standby is to be sent in a call, without an end.

        It is sent what this server's own log holds, and nothing that another life of this server would not know; but
        for a failure of the power at level `os`, which takes the end of the log. So what a standby holds behind the
        place where this life began counts only if it came from here; and what it holds before that, only if the last
        record of it is the one that stands here: other lives may have begun in between, on less than it was sent.

        Args:
            position: its log holds records up to here, safely; 0: nothing.
            checksum: of the record at that position; None: it came as part of an image.
            image: takes the shard's image; what it is given is called with its position in the shard's thread, between
                the same two records.

        Raises:
            StaleIncarnation: a newer call began.
            Unreachable: it is too far behind; it is to call again.
        """
        if self._follows_on(position, checksum) and self._window.leads_on_from(position):
            self.acknowledged(call, position)
        else:
            self._window.hold()
            first = await image(self._window.clear)
            while self._watermark.own < first.position and call == self._call:
                await self._more()
            position = first.position
            yield first
        while call == self._call:
            self._news.clear()
            for copy in self._window.after(position):
                if copy.position > self._watermark.own:
                    break
                yield copy
                position = copy.position
            await self._news.wait()
        raise StaleIncarnation(f"a newer call than number {call} of a standby has begun")

    def _follows_on(self, position: int, checksum: int | None) -> bool:
        """Whether what the standby holds is the beginning of what stands here."""
        if not position or self._fed == self._standby:
            return position > 0
        return position <= self._led_from and self._window.holds(position, checksum)

    def acknowledged(self, call: int, position: int) -> None:
        """The standby's log holds every record up to `position`."""
        if call != self._call:
            return
        self._held = position
        watermark = self._watermark
        self._fed = self._standby
        if watermark.standby == self._standby:
            watermark.copied(position)
        elif self._window.bytes_after(position) <= NEAR_BYTES:
            self._revealed = watermark.position
            watermark.wait_for(self._standby, position)
        if self._revealed is not None and position >= self._revealed:
            self._revealed = None
            self._recorded = True
            self._tell(InSync(self._standby))

    def broken(self, call: int, reason: str) -> None:
        """The call of a standby ended."""
        if call != self._call:
            return
        self._held = None
        self._window.release()
        if self._watermark.standby != self._standby:
            return
        if self._recorded:
            self._parting = True
            self._tell(Parted(self._standby, reason))
        else:  # nobody was told that it is in sync
            self._revealed = None
            self._watermark.wait_no_more(self._standby)

    def alone(self, standby: int) -> None:
        """It is recorded that this standby is not in sync. If it follows all the same, it is to become so anew."""
        if self._watermark.standby != standby:
            return
        self._parting = self._recorded = False
        self._revealed = None
        self._watermark.wait_no_more(standby)
        if self._held is not None:
            self.acknowledged(self._call, self._held)

    def recorded(self, standby: int) -> None:
        """What the coordinator has recorded, when it attaches: the standby in sync, or 0."""
        waited_for = self._watermark.standby
        if not standby:
            self._parting = self._recorded = False
            if waited_for is not None:
                self.alone(waited_for)
            return
        if waited_for != standby:
            self._standby = standby
            self._watermark.wait_for(standby, 0)
            asyncio.get_running_loop().call_later(CALLS_S, self._missing, self._call, standby)
        self._recorded = True
        if self._parting:
            self._tell(Parted(standby, "its connection broke while the coordinator was away"))

    def _missing(self, call: int, standby: int) -> None:
        """Whoever cannot reach this server has no connection that could break."""
        if (self._call, self._watermark.standby) == (call, standby) and self._recorded and not self._parting:
            self._parting = True
            self._tell(Parted(standby, f"it has not called its primary for {CALLS_S:g} s"))

    # --- comparing states ----------------------------------------------------------------------

    def marked(self, position: int, digest: bytes, *, own: bool) -> None:
        """The state at a mark, of this shard or of its standby."""
        other = self._marks.pop((not own, position), None)
        if other is None:
            self._marks[own, position] = digest
            self._marks = dict(list(self._marks.items())[-8:])
        elif other != digest:
            reason = f"primary and standby differ behind record {position}: digests {digest.hex()} and {other.hex()}"
            log.error("standby %d has diverged: %s", self._standby, reason)
            self._parting = self._recorded
            self._tell(Parted(self._standby, reason, diverged=True))
