"""The one owner of a shard: records go in one by one; what they bring about comes out when it is safe.

| thread        | owns                                    | blocks on                    |
|---------------|-----------------------------------------|------------------------------|
| event loop    | connections, admission, when to publish | sockets                      |
| `shard` (one) | Holdings: every change; the log's order | arithmetic                   |
| `log` (one)   | the files of the log (ps/log.py)        | the disk                     |
| `saving`(one) | images on their way to the disk         | the disk                     |

Everything a gRPC handler wants of the shard's state goes through `apply`, `read` or `reveal`, so that no two threads
ever touch it at once and records have one order: that in which they are applied and then logged. A record is
applied first, so that one which changes nothing, or is refused, needs no place in the log; all that reveals it waits
for the watermark (ps/watermark.py). Where units settle on arrival, the owner also says when to publish: the decision
(ps/publication.py) goes in as a record like any other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from ps import log_records
from ps.archive import Archive
from ps.followers import Followers
from ps.holdings import Holdings, Identity
from ps.image import Tree, encode
from ps.ledger import Verdict
from ps.news import News
from ps.publication import Backlog
from ps.publish import Delta
from ps.publisher import Publisher
from ps.records import Accept, Close, Deposit, Flush, Mark, Publish, Record, Segment, ShardSpec
from ps.recovery import Recovered, forget_beside
from ps.replication import Copy, Image, Replication, Window
from ps.shard import Answer, Shard
from ps.snapshots import Saved
from ps.watermark import Watermark
from wire.clock import monotonic_clock
from wire.codec.base import frame_bytes
from wire.errors import Busy, ProtocolMismatch, SparsyncError, Unreachable
from wire.trace import span

log = logging.getLogger(__name__)
T = TypeVar("T")
SPANS = {Accept: "accept", Flush: "accept", Close: "settle", Publish: "settle"}
"""What a trace calls the application of a record; any other one is applied at once."""
ANYBODY = 0
"""A standby of which only the coordinator knows: a server that was started again waits for its word."""


class Owner:
    """Holds the shard, once there is one, and what is known of its safety.

    Args:
        directory: for the files of this server.
        level: `durability.ack`.
        admit_bytes: most bytes of frames to hold at once, arriving and accepted together.
        on_broken: called on the event loop when the log cannot be trusted any more: this process must end.

    Attributes:
        loaded: the initial model is in.
        serves: this server is the shard's primary; else it stands by, or has no shard.
        stalled: why nothing can be logged, or empty.
    """

    def __init__(
        self,
        directory: Path,
        *,
        level: str = "os",
        admit_bytes: int = 0,
        on_broken: Callable[[Exception], None] = lambda error: None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shard")
        self._holdings: Holdings | None = None
        self.admit_bytes = admit_bytes
        self.on_news: Callable[[News], None] = lambda news: None
        """Called on the event loop, in the order of the log."""
        self.on_mark: Callable[[int, bytes], None] = lambda position, digest: None
        """Called on the event loop with this shard's state at a mark."""
        self.loaded = self.serves = False
        self.stalled = ""
        self._marking = False
        self._admitted = 0
        self.delta_bytes = 0
        """Of all deltas that this process has published."""
        self.followers = Followers(self.served)
        self.watermark = Watermark()
        self._window = Window(0)
        self.replication = self._replication()
        self._publisher = Publisher(self._put)
        self.archive = Archive(
            directory,
            level=level,
            on_durable=lambda position: self._call(self._written, position),
            on_stalled=lambda reason: self._call(self._stall, reason),
            on_broken=lambda error: self._call(on_broken, error),
        )

    def _replication(self) -> Replication:
        return Replication(self.watermark, self._window, lambda news: self.on_news(news))

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        """Have the event loop call `function`."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    def _written(self, position: int) -> None:
        self.watermark.written(position)
        self.replication.wake()

    def _stall(self, reason: str) -> None:
        self.stalled = reason
        log.warning("the log %s", f"cannot be written: {reason}" if reason else "is written again")
        self.on_news(reason)

    # --- the shard --------------------------------------------------------------------------------

    @property
    def holdings(self) -> Holdings:
        if self._holdings is None:
            raise ProtocolMismatch("this server has no shard yet: the coordinator has not configured it")
        return self._holdings

    @property
    def shard(self) -> Shard:
        return self.holdings.shard

    @property
    def configured(self) -> bool:
        return self._holdings is not None

    def served(self) -> Shard:
        """The shard, for those who may only have it from its primary. Raises: Unreachable where this is none (yet)."""
        if self._holdings is None:  # as a server that was started again before it had a model
            raise Unreachable(
                "this server has no shard yet: the coordinator has not configured it; call again"
            )
        shard = self.shard
        if not self.serves:
            raise Unreachable(f"this server stands by for shard {shard.spec.shard}: its primary is elsewhere")
        return shard

    def configure(self, spec: ShardSpec, make: Callable[[], Holdings]) -> None:
        """Become the shard of `spec`, which `make` makes. In the shard's thread. A repeat changes nothing.

        Raises:
            ProtocolMismatch: it is another shard already, or one step could not fit into `admit_bytes`.
        """
        if self._holdings is not None:  # making another would empty its directory
            if self.shard.spec != spec:
                raise ProtocolMismatch(
                    f"configured as shard {spec.shard}, this server is shard {self.shard.spec.shard} with another "
                    "specification; start it anew"
                )
            return
        holdings = make()
        needed, owed = holdings.shard.room_bytes, spec.segment.owed
        if needed > self.admit_bytes:
            steps = f"{1 + spec.segment.lag} step{'s' * (spec.segment.lag > 0)}"
            raise ProtocolMismatch(
                f"the pushes of {steps}{f' and {owed} late ones' * (owed > 0)} can have {needed} bytes on shard "
                f"{spec.shard}, cluster.admit_bytes allows {self.admit_bytes}; raise it to {needed} or use more servers"
            )
        self._holdings, self.serves = holdings, True

    async def begin(self, load: Callable[[], None] = lambda: None) -> None:
        """The initial planes are in, or `load` fills them: make them safe, keep x̂ as the first base, open the shard.

        Between two records, so that what is safe and what is served are one; later planes replace them until the first.
        """
        await self.read(lambda: self._begin(load))
        await self._open()

    def check_fresh(self) -> None:
        """Raises: ProtocolMismatch where planes are not to be changed from outside any more."""
        if self.archive.position:
            raise ProtocolMismatch("the run has begun, its initial planes are fixed")

    def _begin(self, load: Callable[[], None]) -> None:
        self.check_fresh()
        load()
        self.holdings.begin()
        self.archive.begin(self.holdings.image())

    async def clear(self) -> None:
        """Nothing that is in the directory is of this run."""
        await self.read(self._forget)

    def _forget(self) -> None:
        self.archive.clear()
        forget_beside(self.archive.directory)

    def adopt(self, recovered: Recovered, identity: Identity, *, replicas: int) -> None:
        """Go on as the shard that was here before this process; the coordinator says whether as its primary."""
        self._holdings = recovered.holdings
        self._holdings.identity = identity
        self._window = recovered.window
        self.replication = self._replication()
        self.archive.resume(recovered.position, image=recovered.image, spent_s=recovered.applying_s)
        self.watermark.written(recovered.position)
        if replicas:
            self.watermark.wait_for(ANYBODY, 0)
            self.replication.want()

    async def _open(self) -> None:
        """Every version so far may be seen, once it is safe: a restart or a promotion makes nothing safer."""
        version, position = await self.read(lambda: (self.shard.deltas.version, self.archive.position))
        self.loaded = True
        self.followers.open()
        self.watermark.when(position, lambda: self.followers.show(version))

    # --- standing by --------------------------------------------------------------------------------

    async def replace(self, position: int, tree: Tree) -> None:
        """Become what the image of `position` says, which was received."""
        self.followers.hide()
        await self.read(lambda: self._replace(position, tree))
        await self._open()

    def _replace(self, position: int, tree: Tree) -> None:
        self._holdings = Holdings.restore(tree, self.archive.directory)
        self.archive.follow(position)
        self._window.clear(position)
        self._call(self.watermark.reset, position)

    def stand_by(self) -> None:
        """Be no primary, but follow one.

        Raises: ProtocolMismatch where this is the primary: what it has not acknowledged is in its state.
        """
        if self.serves:
            raise ProtocolMismatch(
                f"this server is the primary of shard {self.shard.spec.shard}, it stands by for none; start it anew, "
                "with an empty directory"
            )
        if self.watermark.standby is not None:
            self.watermark.wait_no_more(self.watermark.standby)

    async def follow(self, copy: Copy) -> None:
        """Apply and log a record as the primary did. Raises: ProtocolMismatch where it is not the next one."""
        await self.read(lambda: self._follow(copy))

    def _follow(self, copy: Copy) -> None:
        if copy.position != self.archive.position + 1:
            raise ProtocolMismatch(
                f"the primary sent record {copy.position}, the one behind {self.archive.position} is expected"
            )
        self._apply(log_records.decode(copy.payload), copy)

    async def serve(self) -> None:
        """Be the primary from now on."""
        position, self._admitted = await self.read(lambda: (self.archive.position, self.shard.held_bytes))
        self.replication.lead(position)
        self.serves = True
        await self._open()
        self._publisher.look(await self.read(lambda: self.shard.backlog))

    # --- records ----------------------------------------------------------------------------------

    async def read(self, function: Callable[[], T]) -> T:
        """Run `function` where no record is being applied."""
        return await self._loop.run_in_executor(self._thread, function)

    async def reveal(self, function: Callable[[], T]) -> T:
        """As `read`, but what it read is safe when this returns."""
        result, position = await self.read(lambda: (function(), self.archive.position))
        await self.watermark.reach(position)
        return result

    async def apply(self, record: Record) -> Answer:
        """Apply one record after all that came before it, log it, and wait until it is safe.

        A caller that is cancelled (its line broke) takes nothing back: what it began goes on to the end.

        Raises: what `Holdings.apply` raises; nothing is logged then.
        """
        return await asyncio.shield(self._apply_and_reveal(record))

    async def begin_apply(self, record: Record, reveal: Callable[[Answer], None]) -> None:
        """As `apply`, but returns when the record is applied: `reveal` is called with the answer when it is safe."""
        answer, position = await asyncio.shield(self._put(record))
        self.watermark.when(position, lambda: reveal(answer))

    async def begin_reveal(self, function: Callable[[], T], reveal: Callable[[T], None]) -> None:
        """As `reveal`, but returns when `function` has run: `reveal` is called with the result when it is safe."""
        result, position = await self.read(lambda: (function(), self.archive.position))
        self.watermark.when(position, lambda: reveal(result))

    async def _apply_and_reveal(self, record: Record) -> Answer:
        answer, position = await self._put(record)
        await self.watermark.reach(position)
        return answer

    async def _put(self, record: Record) -> tuple[Answer, int]:
        """Apply and log; the answer, and the position that must be safe before it is revealed."""
        return await self.read(lambda: self._apply(record))

    def _apply(self, record: Record, copy: Copy | None = None) -> tuple[Answer, int]:
        if copy is None:
            self.served()
        shard, began = self.shard, monotonic_clock.now()
        version, segment = shard.deltas.version, shard.segment
        room = shard.held_bytes + (frame_bytes(record.frame) if isinstance(record, Accept | Flush) else 0)
        answer: Answer = None
        news: News | None = None
        try:
            if not self.archive.begun:
                _check_early(record)
            with span(SPANS.get(type(record), "record")):
                answer = self.holdings.apply(record)
            news = self._news(record, answer)
            if self.archive.begun and _changed(
                record, answer, shard.deltas.version != version, shard.segment != segment
            ):
                self._log(record, copy, monotonic_clock.now() - began)
        except Exception as error:
            answer, news = None, _failure(error) if isinstance(record, Publish) else None
            raise
        finally:
            position = self.archive.position
            self._call(self._applied, position, room - shard.held_bytes, news, answer, shard.backlog)
        return answer, position

    def _log(self, record: Record, copy: Copy | None, seconds: float) -> None:
        pieces = (
            log_records.encode(record, timeline=self.shard.spec.timeline) if copy is None else [copy.payload]
        )
        position = self.archive.append(pieces, seconds=seconds)
        if self.replication.wanted:
            self.replication.offer(position, b"".join(pieces))
        else:
            self._window.clear(position)
        store = self.holdings.store
        if discarded := store.take_discarded():
            self._call(self.watermark.when, position, lambda: store.unlink(discarded))
        if isinstance(record, Mark):
            self._save(position)

    def _news(self, record: Record, answer: Answer) -> News | None:
        if isinstance(record, Accept) and answer is Verdict.ADMIT:
            return self.shard.accepted[record.unit.number(self.shard.spec.streams)]
        return answer if isinstance(record, Publish) and isinstance(answer, Delta) else None

    def _applied(
        self, position: int, freed: int, news: News | None, answer: Answer, backlog: Backlog
    ) -> None:
        """On the event loop, in the order of the log."""
        self._admitted -= freed
        self.watermark.when(position, lambda: self._reveal(news, answer))
        if self.serves:
            self._publisher.look(backlog)
            if not self._marking and self.archive.image_is_due(self.shard.state_bytes):
                self._marking = True
                self._loop.create_task(self._mark())

    def _reveal(self, news: News | None, answer: Answer) -> None:
        if isinstance(answer, Delta):
            self.delta_bytes += answer.frame_bytes
            self.followers.show(answer.version + 1)
        if news is not None and self.serves:
            self.on_news(news)

    async def _mark(self) -> None:
        await self._put(Mark())
        self._marking = False

    # --- images -----------------------------------------------------------------------------------

    def _save(self, position: int) -> None:
        """The state at a mark: to the disk, and compared with the standby's."""
        saving = self.archive.save(position, self.holdings.image())
        saving.add_done_callback(lambda done: self._call(self._saved, position, done))

    def _saved(self, position: int, done: Future[Saved]) -> None:
        if error := done.exception():
            log.error("the image of record %d could not be saved: %s; the log is kept", position, error)
        else:
            self.on_mark(position, done.result().digest)

    async def image(self, before: Callable[[int], None]) -> Image:
        """The shard's state now. `before` is called with its position, where no record is being applied."""

        def take() -> tuple[int, Tree]:
            before(self.archive.position)
            return self.archive.position, self.holdings.image()

        position, tree = await self.read(take)
        header, blobs = await self._loop.run_in_executor(None, encode, tree)
        return Image(position, [header, *blobs])

    # --- room -------------------------------------------------------------------------

    def admit(self, frame_bytes: int, *, kept: int = 0) -> None:
        """Take room for a frame before its bytes are read; `kept` bytes must stay free for what goes before it.

        Raises: Busy when the room is taken, or nothing can be logged; try again.
        """
        if self.stalled:
            raise Busy(f"nothing is acknowledged: {self.stalled}; try again")
        if self._admitted + frame_bytes + kept > self.room_bytes:
            raise Busy(
                f"{self._admitted} bytes of pushes are held, {frame_bytes} more would pass the {self.room_bytes} that "
                "there is room for (cluster.admit_bytes); try again"
            )
        self._admitted += frame_bytes

    @property
    def room_bytes(self) -> int:
        """For pushes: `admit_bytes`; where a quorum was set on the live run, no less than it needs."""
        late = self.configured and self.shard.segment.owed > 0
        return max(self.admit_bytes, self.shard.room_bytes) if late else self.admit_bytes

    @property
    def admitted_bytes(self) -> int:
        """Of frames that are arriving, or wait to be settled."""
        return self._admitted

    def release(self, frame_bytes: int) -> None:
        """Give the room of a frame back that was not handed in."""
        self._admitted -= frame_bytes

    # --- the end ----------------------------------------------------------------------------------

    async def end(self) -> None:
        """Let every follower go: this server ends."""
        self._publisher.end()
        self.followers.end()

    def close(self, *, forget: bool) -> None:
        """Write what was logged; or remove it all, where the run is over."""
        self._thread.shutdown()
        self.archive.close()
        if forget:
            self._forget()


def _failure(error: Exception) -> SparsyncError:
    return error if isinstance(error, SparsyncError) else SparsyncError(f"internal error: {error!r}")


def _check_early(record: Record) -> None:
    """Raises: ProtocolMismatch for what needs the initial model. The rest is part of the first image."""
    if isinstance(record, Accept | Flush | Deposit | Close | Publish):
        raise ProtocolMismatch(
            f"{type(record).__name__.lower()} before the initial model is in; it is to be uploaded first"
        )


def _changed(record: Record, answer: Answer, published: bool, began: bool) -> bool:
    """Whether a record that was applied changed the state, and so must stand in the log."""
    match record:
        case Accept() | Flush() | Deposit():
            return answer is Verdict.ADMIT
        case Close() | Publish():
            return published
        case Segment():
            return began
        case _:
            return True
