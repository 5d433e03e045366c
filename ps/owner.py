"""The one owner of a shard: records go in one by one, off the event loop; readers are woken.

| thread        | owns                                  | blocks on                 |
|---------------|---------------------------------------|---------------------------|
| event loop    | connections, admission, when to publish | sockets                   |
| `shard` (one) | Holdings: every change | arithmetic, its own disk  |

Everything a gRPC handler wants of the shard's state goes through `apply` or `read`, so that
no two threads ever touch it at once and records have one order. What comes of them is told on
the event loop in that same order. Where units settle on arrival, the owner also says when to publish:
the decision (ps/publication.py) goes in as a record like any other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ps.holdings import Holdings, Identity
from ps.ledger import Verdict
from ps.publication import Backlog, Publication
from ps.publish import Delta
from ps.records import Accept, Accepted, Flush, Publish, Record, ShardSpec
from ps.shard import Answer, Shard
from ps.store import Store
from wire.codec.base import DeltaCodec, PushCodec, frame_bytes
from wire.errors import Busy, ProtocolMismatch, SparsyncError

log = logging.getLogger(__name__)
T = TypeVar("T")
News = Accepted | Delta | SparsyncError
"""What happened here unasked: a unit stands here, the shard published, or it failed to."""


class Owner:
    """Holds the shard (once configured) and its store.

    Args:
        store: files of this shard.
        admit_bytes: most bytes of frames to hold at once, arriving and accepted together.
    """

    def __init__(self, store: Store, *, admit_bytes: int = 0) -> None:
        self._store = store
        self._holdings: Holdings | None = None
        self.loaded = False
        self._over = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shard")
        self._published = asyncio.Condition()
        self.admit_bytes = admit_bytes
        self._admitted = 0
        self.on_news: Callable[[News], None] = lambda news: None
        """Called on the event loop, in the order of the log."""
        self._publication = Publication()
        self._publishing: asyncio.Task[Answer] | None = None
        self._broken = False
        self._look_again: asyncio.TimerHandle | None = None

    @property
    def shard(self) -> Shard:
        return self.holdings.shard

    @property
    def holdings(self) -> Holdings:
        if self._holdings is None:
            raise ProtocolMismatch("this server has no shard yet: the coordinator has not configured it")
        return self._holdings

    @property
    def configured(self) -> bool:
        return self._holdings is not None

    def configure(
        self,
        spec: ShardSpec,
        push: PushCodec,
        pull: DeltaCodec,
        *,
        elastic_push: PushCodec | None = None,
        identity: Identity | None = None,
    ) -> None:
        """Become a shard. A repeat with an equal spec changes nothing.

        Raises:
            ProtocolMismatch: it is another shard already, or one step's pushes cannot fit.
        """
        if self._holdings is not None:
            if self.shard.spec != spec:
                raise ProtocolMismatch("this server is configured as another shard already; start it anew")
            return
        shard = Shard(spec, push, pull, elastic_push=elastic_push)
        needed = spec.streams * shard.max_frame_bytes
        if needed > self.admit_bytes:
            raise ProtocolMismatch(
                f"one step's pushes may take {needed} bytes on shard {spec.shard}, cluster.admit_bytes allows "
                f"{self.admit_bytes}; raise it to {needed} or use more servers"
            )
        self._holdings = Holdings(shard, self._store, identity or Identity("", spec.timeline, 0, ""))

    async def begin(self) -> None:
        """The initial planes are in: keep x̂ as the first base and open the shard to followers."""
        await self.read(self.holdings.begin)
        self.loaded = True
        async with self._published:
            self._published.notify_all()

    async def read(self, function: Callable[[], T]) -> T:
        """Run `function` where no record is being applied."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    async def apply(self, record: Record) -> Answer:
        """Apply one record after all that came before it; wake the followers if it published.

        The room of a frame is given back once it waits for nothing any more: refused, added or settled. A caller
        that is cancelled (its line broke) takes nothing back: what it began goes on to the end.

        Raises: what `Holdings.apply` raises.
        """
        return await asyncio.shield(self._apply_and_tell(record))

    async def _apply_and_tell(self, record: Record) -> Answer:
        loop = asyncio.get_running_loop()
        result = await self.read(lambda: self._apply(record, loop))
        if isinstance(result, Delta):
            async with self._published:
                self._published.notify_all()
        return result

    def _apply(self, record: Record, loop: asyncio.AbstractEventLoop) -> Answer:
        shard = self.shard
        news: News | None = None
        room = shard.held_bytes + (frame_bytes(record.frame) if isinstance(record, Accept | Flush) else 0)
        try:
            result = self.holdings.apply(record)
            news = self._news(record, result)
        except Exception as error:
            news = _failure(error) if isinstance(record, Publish) else None
            raise
        finally:
            loop.call_soon_threadsafe(self._applied, record, room - shard.held_bytes, news, shard.backlog)
        self._store.unlink(self._store.take_discarded())
        return result

    def _news(self, record: Record, result: Answer) -> News | None:
        if isinstance(record, Accept) and result is Verdict.ADMIT:
            return self.shard.accepted[record.unit.number(self.shard.spec.streams)]
        return result if isinstance(record, Publish) and isinstance(result, Delta) else None

    def _applied(self, record: Record, freed: int, news: News | None, backlog: Backlog) -> None:
        """On the event loop, in the order of the log."""
        self._admitted -= freed
        if news is not None:
            self.on_news(news)
        if isinstance(record, Publish):
            self._publishing = None
            self._broken = isinstance(news, SparsyncError)
        self._pace(backlog)

    def _pace(self, backlog: Backlog) -> None:
        """Publish, or look again when the oldest pending unit has waited long enough."""
        if self._look_again is not None:
            self._look_again.cancel()
            self._look_again = None
        if self._over or self._broken or self._publishing is not None:
            return
        loop = asyncio.get_running_loop()
        decision = self._publication.decide(backlog, loop.time())
        if decision.reason:
            log.debug("publishing: %s", decision.reason)
            self._publishing = loop.create_task(self.apply(Publish(decision.reason)))
            self._publishing.add_done_callback(_retrieve)
        elif decision.wait_s is not None:
            self._look_again = loop.call_later(decision.wait_s, self._pace, backlog)

    async def delta(self, version: int) -> Delta | None:
        """The delta that starts at `version`, waiting until it is published.

        None once the final one is behind, or when this server ends.

        Raises: ProtocolMismatch when it is no longer retained.
        """
        async with self._published:
            await self._published.wait_for(lambda: self.loaded or self._over)
            while not self._over:
                try:
                    delta = self.shard.deltas.get(version)
                except KeyError as error:
                    raise ProtocolMismatch(str(error.args[0])) from None
                if delta is not None:
                    return delta
                if self.shard.deltas.final and version >= self.shard.deltas.version:
                    return None
                await self._published.wait()
            return None

    async def end(self) -> None:
        """Let every follower go: this server ends."""
        self._over = True
        if self._look_again is not None:
            self._look_again.cancel()
        async with self._published:
            self._published.notify_all()

    async def reach(self, step: int) -> None:
        """Wait until every step before `step` is closed."""
        async with self._published:
            await self._published.wait_for(lambda: self.loaded and self.shard.ledger.step >= step)

    def admit(self, frame_bytes: int) -> None:
        """Take room for a frame before its bytes are read.

        Raises: Busy when the room is taken; try again.
        """
        if self._admitted + frame_bytes > self.admit_bytes:
            raise Busy(
                f"{self._admitted} bytes of pushes are held, {frame_bytes} more would pass cluster.admit_bytes = "
                f"{self.admit_bytes}; try again"
            )
        self._admitted += frame_bytes

    def release(self, frame_bytes: int) -> None:
        """Give the room of a frame back that was not handed in."""
        self._admitted -= frame_bytes

    @property
    def store(self) -> Store:
        return self._store


def _failure(error: Exception) -> SparsyncError:
    return error if isinstance(error, SparsyncError) else SparsyncError(f"internal error: {error!r}")


def _retrieve(publishing: asyncio.Task[Answer]) -> None:
    """What went wrong is told as news already."""
    if not publishing.cancelled():
        publishing.exception()
