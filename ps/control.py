"""What the coordinator says to a shard, and what it asks: the line of commands and events, checkpoints both ways.

Every call carries the coordinator's term; an older one is not obeyed (ps/terms.py). Commands are obeyed one by one, and
answered by events on the line, each when what it brought about is safe. No command waits for that: the next one may be
what ends the waiting (`Alone`). What happened without anybody listening is in the state that the next line begins with;
only a standby that parted, or a disk that is full, may be told before that state, which waits for them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from ps.callers import Callers
from ps.holdings import Identity, build
from ps.log_records import close_from_proto
from ps.messages import (
    accepted_to_proto,
    fenced_to_proto,
    first_segment,
    news_to_proto,
    refused_to_proto,
    segment_from_proto,
)
from ps.news import InSync, News, Parted
from ps.owner import Owner
from ps.publish import Delta
from ps.records import Advance, Bound, Fence, Fenced, Retire, ShardSpec
from ps.shard import Answer
from ps.standby import Standby
from ps.terms import TermGuard
from wire.clock import monotonic_clock
from wire.codec.dense import pack
from wire.config import Config, complete
from wire.errors import ProtocolMismatch, SparsyncError, StaleIncarnation
from wire.ids import HANDED_OVER, Term
from wire.messages import layout_from_proto, optimizer_from_proto, ranges_from_proto
from wire.rpc.access import InRun
from wire.rpc.planes import PlaneReader, inner_bytes, plane_chunks
from wire.v1 import common_pb2, shard_pb2

log = logging.getLogger(__name__)
ALIVE_S = 1.0
BEGINS = ("attach", "dismiss")
"""What a line begins with."""
TOLD_AGAIN = frozenset({"close", "fence", "segment", "retire", "advance", "bound"})
"""What only a primary obeys. Whoever becomes one says first what it holds, and is told what follows from that."""
HANDED = "handed"
"""What a worker handed over in an elastic segment, in a checkpoint."""
EXTRA_BYTES = 1 << 28
"""Most bytes of a stream's state that is no plane (buffers, loss scaler, the user's objects)."""

Events = asyncio.Queue[shard_pb2.ShardEvent | None]
"""What a shard has to tell its coordinator; None ends the line."""


@dataclass(frozen=True)
class Place:
    """What this server is in the run: said by the coordinator when it took the server in."""

    identity: Identity
    config: Config
    terms: TermGuard


class Control:
    """The coordinator's calls.

    Args:
        owner: what holds the shard.
        standby: follows a primary when it is told to.
        finish: called when the coordinator says that the run is over.
        dismiss: called when it says that it counts on this server no more.
        deny: called with the lists of revoked certificates.

    Attributes:
        attached: a coordinator listens.
        callers: who goes by which incarnation.
        term: under which this server is the shard's primary; 0: it is none.
    """

    def __init__(
        self,
        owner: Owner,
        standby: Standby,
        *,
        finish: Callable[[str], None],
        dismiss: Callable[[str], None],
        deny: Callable[[bytes], None] = lambda crl: None,
    ) -> None:
        self._owner = owner
        owner.on_news = self._tell
        self._standby = standby
        self._finish, self._dismiss, self._deny = finish, dismiss, deny
        self._joined = asyncio.Event()
        self._lines = 0
        self._line: Events | None = None
        self._events: Events | None = None
        """The line again, once the state was told on it."""
        self._meanwhile: list[News] = []
        """What was revealed between the reading of the state and its telling: told behind it, maybe a second time."""
        self._arriving: set[int] = set()
        self.attached = asyncio.Event()
        self.callers = Callers()
        self.term = 0

    def joined(self, place: Place) -> None:
        """The coordinator took this server in: from now on it obeys the highest term."""
        self._place = place
        self._joined.set()

    async def run(self) -> InRun:
        """The run that this server is in, as soon as it is in one."""
        await self._joined.wait()
        return InRun(self._place.identity.run, self._place.identity.timeline)

    def end(self) -> None:
        """End the line, which would stay open."""
        if self._line is not None:
            self._line.put_nowait(None)

    # --- the line -----------------------------------------------------------------------------------

    async def line(
        self, commands: AsyncIterator[shard_pb2.ShardCommand]
    ) -> AsyncGenerator[shard_pb2.ShardEvent, None]:
        """Events, for as long as the coordinator's commands are to be obeyed."""
        await self._joined.wait()
        events: Events = asyncio.Queue()
        obey = asyncio.create_task(self._obey(commands, events))
        living = asyncio.create_task(self._live(events))
        self._lines += 1
        self.attached.set()
        try:
            while (event := await events.get()) is not None:
                yield event
            if obey.done():
                await obey  # raises what ended it
        finally:
            obey.cancel()
            living.cancel()
            self._lines -= 1
            if not self._lines:
                self.attached.clear()
            if self._line is events:
                self._line = self._events = None

    def arrives(self, incarnation: int) -> None:
        """A piece of this worker's state, or of its model, is here: a slow link is no lack of progress."""
        self._arriving.add(incarnation)

    async def _live(self, events: Events) -> None:
        """Say once a second that this process is not stopped, and whose state is on its way here."""
        while True:
            await asyncio.sleep(ALIVE_S)
            alive = shard_pb2.Alive(arriving=sorted(self._arriving) if self._line is events else ())
            self._arriving.clear()
            events.put_nowait(shard_pb2.ShardEvent(alive=alive))

    async def _obey(self, commands: AsyncIterator[shard_pb2.ShardCommand], events: Events) -> None:
        """Take commands one by one, until the coordinator closes the line or is not to be obeyed any more."""
        try:
            async for command in commands:
                if not self._is_meant(command):
                    return
                self._obey_term(command.term)
                if self._line not in (None, events) and command.WhichOneof("command") not in BEGINS:
                    return  # the coordinator has opened another line, and goes by what was told there
                try:
                    await self._command(command, events)
                except SparsyncError as error:
                    events.put_nowait(shard_pb2.ShardEvent(refused=refused_to_proto(error)))
        finally:
            events.put_nowait(None)

    def _is_meant(self, command: shard_pb2.ShardCommand) -> bool:
        """Whether a line is for this server, and not for another that had its address: nothing of that is obeyed."""
        me = self._place.identity
        if command.HasField("dismiss"):
            order = command.dismiss
            return (order.run, order.timeline, order.incarnation) == (me.run, me.timeline, me.incarnation)
        return not command.HasField("attach") or command.attach.run in ("", me.run)

    def _obey_term(self, term: common_pb2.Term, *, in_order: bool = True) -> None:
        seq = term.journal_seq if in_order else None
        self._place.terms.obey(Term(term.number, term.nonce), seq)

    async def _command(self, command: shard_pb2.ShardCommand, events: Events) -> None:
        owner = self._owner

        def answer(**event: object) -> None:
            events.put_nowait(shard_pb2.ShardEvent(**event))  # type: ignore[arg-type]

        if command.WhichOneof("command") in TOLD_AGAIN and owner.configured and not owner.serves:
            log.info("not the primary (yet): %s is to be told again", command.WhichOneof("command"))
            return
        match command.WhichOneof("command"):
            case "attach":
                await self._attach(command.attach, events)
            case "configure":
                await self._configure(command.configure)
                answer(configured=shard_pb2.Configured(shard=command.configure.shard))
            case "close":
                began = monotonic_clock.now()
                await owner.begin_apply(
                    close_from_proto(command.close), lambda delta: answer(settled=_settled(delta, began))
                )
            case "fence":
                fence = Fence(command.fence.step, command.fence.stream, command.fence.attempt)
                await owner.begin_apply(fence, lambda fenced: answer(fenced=_fenced(fenced)))
            case "segment":
                segment = segment_from_proto(command.segment)
                began_segment = shard_pb2.Began(segment=segment.number)
                await owner.begin_apply(segment, lambda _: answer(began=began_segment))
            case "retire":
                retired = shard_pb2.Retired(incarnation=command.retire.incarnation)
                await owner.begin_apply(Retire(retired.incarnation), lambda _: answer(retired=retired))
            case "advance":
                await owner.begin_apply(Advance(command.advance.low), lambda _: None)
            case "bound":
                await owner.begin_apply(Bound(command.bound.norm), lambda _: None)
            case "stand":
                self.term = 0
                await self._standby.stand(command.stand)
            case "promote":
                await self._promote(command.promote.term)
                await self._tell_state(0, events)
            case "meet":
                self.callers.meet(command.meet)
            case "deny":
                self._deny(command.deny.crl)
            case "alone":
                answer(alone=command.alone)  # before what follows tells that the standby is in sync again
                self._owner.replication.alone(command.alone.standby)
            case "dismiss":
                self._dismiss(command.dismiss.reason)
            case "finish":
                self._finish(command.finish.reason)
            case other:
                raise ProtocolMismatch(f"unknown command {other!r}: the coordinator is of another version")

    async def _attach(self, attach: shard_pb2.Attach, events: Events) -> None:
        self.check_timeline(attach.timeline)
        self._line, self._events = events, None
        self.callers.meet(attach.members)
        if attach.shard_term and not self._standby.standing:  # a standby waits for `Promote`
            self.term = attach.shard_term
            self._owner.replication.recorded(attach.standby)
            if self._owner.configured and not self._owner.serves:  # recovered from this server's disk
                await self._owner.serve()
        events.put_nowait(_ALIVE)  # the state may have to wait for what a standby acknowledges
        await self._tell_state(attach.low, events)
        if self._owner.stalled:
            self._tell(self._owner.stalled)

    async def _promote(self, term: int) -> None:
        """From a standby to the primary; a repeat changes nothing."""
        if self._owner.serves:
            self.term = max(term, self.term)
            return
        await self._standby.stop()
        await self._owner.serve()
        self._owner.replication.recorded(0)
        self.term = term

    async def _configure(self, message: shard_pb2.Configure) -> None:
        config = self._place.config
        spec = ShardSpec(
            shard=message.shard,
            timeline=self._place.identity.timeline,
            plan=message.plan,
            layout=layout_from_proto(message.parameters),
            ranges=ranges_from_proto(message.ranges),
            optimizer=optimizer_from_proto(message.optimizer),
            streams=config.sync.units_per_step,
            aggregate=config.optimizer.aggregate,
            segment=first_segment(message),
            damping=config.sync.damping,
            max_staleness=config.sync.max_staleness,
            count_power=config.optimizer.count_power,
            weights=complete(config).optimizer.weights or "uniform",
        )
        directory = self._owner.archive.directory
        await self._owner.read(
            lambda: self._owner.configure(spec, lambda: build(spec, self._place.identity, directory))
        )

    async def _tell_state(self, low: int, events: Events) -> None:
        """All that the coordinator must know, when it is safe; from then on also what happens.

        That a standby is in sync is told behind it: before it nothing of that kind counts, and may have been told anew.
        """

        if self._line is events:
            self._events = None
            self._meanwhile.clear()

        def tell(state: shard_pb2.ShardState) -> None:
            state.standby = self._owner.replication.in_sync if state.configured else 0
            events.put_nowait(shard_pb2.ShardEvent(state=state))
            events.put_nowait(_ALIVE)  # from now on silence means something
            if state.standby:
                events.put_nowait(news_to_proto(InSync(state.standby)))
            if self._line is events:
                self._events = events
                for news in self._meanwhile:
                    self._tell(news)
                self._meanwhile.clear()

        if self._owner.serves:
            await self._owner.begin_reveal(lambda: self._state(low), tell)
        else:
            tell(self._state(low))

    def _state(self, low: int) -> shard_pb2.ShardState:
        """Of a primary in the shard's thread."""
        owner = self._owner
        state = shard_pb2.ShardState(
            incarnation=self._place.identity.incarnation,
            configured=owner.serves and owner.configured,
            term=self.term,
            standing=self._standby.standing,
        )
        if state.configured:
            shard = owner.shard
            state.version = shard.deltas.version
            state.step = shard.ledger.step
            state.segment = shard.segment.number
            state.clock = shard.clock
            state.accepted.extend(map(accepted_to_proto, shard.accepted_from(low)))
        return state

    def _tell(self, news: News) -> None:
        """Tell the coordinator what happened unasked, if it listens; else it asks when it attaches."""
        line = self._line if isinstance(news, InSync | Parted | str) else self._events
        if line is not None:
            line.put_nowait(news_to_proto(news))
        elif self._line is not None:
            self._meanwhile.append(news)

    # --- checkpoints ----------------------------------------------------------------------------------

    async def collect(self, request: shard_pb2.CollectRequest) -> AsyncIterator[common_pb2.PlaneChunk]:
        """A plane, or all deposits of the step that begins."""
        self._obey_term(request.term, in_order=False)
        shard = self._owner.served()
        if shard.ledger.step != request.step or not shard.deltas.between:
            raise ProtocolMismatch(
                f"asked for planes as step {request.step} begins, this shard is at step {shard.ledger.step}"
                f"{'' if shard.deltas.between else ' and has settled units since'}; ask between two closes"
            )
        store = self._owner.holdings.store
        if request.plane == HANDED:
            path = store.deposit(HANDED_OVER, shard.ledger.step)["extra"]
            for chunk in plane_chunks(HANDED, path.read_bytes()):
                yield chunk
            return
        if request.plane == "deposits":
            if shard.segment.elastic:
                return
            for stream in range(shard.spec.streams):
                for name, path in store.deposit(stream, shard.ledger.step).items():
                    for chunk in plane_chunks(f"stream-{stream}/{name}", path.read_bytes()):
                        yield chunk
            return
        planes = shard.planes()
        if request.plane not in planes:
            raise ProtocolMismatch(f"no plane {request.plane!r} here; there are {sorted(planes)}")
        data = await self._owner.read(lambda: pack(planes[request.plane], shard.blocks))
        for chunk in plane_chunks(request.plane, data):
            yield chunk

    async def describe(self, request: shard_pb2.DescribeRequest) -> shard_pb2.DescribeReply:
        self._obey_term(request.term, in_order=False)
        shard = self._owner.served()
        return shard_pb2.DescribeReply(
            planes=list(shard.planes()), stream_planes=shard.stream_planes, scalars=shard.scalars()
        )

    async def restore(self, messages: AsyncIterator[shard_pb2.RestoreChunk]) -> shard_pb2.RestoreReply:
        """The planes of a checkpoint."""
        shard = self._owner.served()
        reader = PlaneReader(self._expected_restored)
        deposits: dict[int, dict[str, bytes]] = {}
        handed: dict[str, bytes] | None = None
        step = -1
        async for message in messages:
            if message.HasField("header"):
                header = message.header
                self._obey_term(header.term, in_order=False)
                self._owner.check_fresh()
                step = header.step
                if header.deposits:
                    deposits = {stream: {} for stream in range(shard.spec.streams)}
                shard.load_scalars(dict(header.scalars))
                continue
            if step < 0:
                raise ProtocolMismatch("a checkpoint without a header; send the header first")
            complete = reader.feed(message.plane)
            if complete is None:
                continue
            name, data = complete
            if name == HANDED:
                handed = {"extra": bytes(data)}
            elif name.startswith("stream-"):
                stream, _, plane = name.removeprefix("stream-").partition("/")
                deposits.setdefault(int(stream), {})[plane] = bytes(data)
            elif name in shard.planes():
                await self._owner.read(lambda name=name, data=data: shard.load(name, data))  # type: ignore[misc]
        reader.finish()
        if step != shard.ledger.step:
            raise ProtocolMismatch(
                f"checkpoint of step {step}, this shard was configured for {shard.ledger.step}"
            )
        if not shard.segment.elastic:
            for number, planes in deposits.items():
                self._owner.holdings.store.save_deposit(number, step, planes)
        if handed is not None:
            self._owner.holdings.store.save_deposit(HANDED_OVER, step, handed)
        await self._owner.begin()
        return shard_pb2.RestoreReply()

    def _expected_restored(self, name: str) -> int | range | None:
        """What a checkpoint may bring. In an elastic segment estimates and stream state begin at zero all the same."""
        shard = self._owner.shard
        if name == HANDED:
            return self.expected_stream("extra", ())
        if name.startswith("stream-"):
            return self.expected_stream(name.partition("/")[2], shard.restorable_stream_planes)
        return 4 * shard.blocks.elements if name in shard.restorable_planes else None

    # --- what workers' calls are checked by -------------------------------------------------------------

    def expected_stream(self, name: str, planes: Sequence[str]) -> int | range | None:
        """Bytes that a plane of a stream's state has, or may have; None: there is none of that name."""
        if name == "extra":
            return range(EXTRA_BYTES + 1)
        if name == ("inner" if self._place.config.sync.is_local else "course"):
            return inner_bytes(self._owner.shard.trainable.elements)
        return 4 * self._owner.shard.trainable.elements if name in planes else None

    @property
    def timeline(self) -> int:
        return self._place.identity.timeline

    def check_timeline(self, timeline: int) -> None:
        """Raises: StaleIncarnation for a message of another timeline than the run's."""
        if timeline != self.timeline:
            raise StaleIncarnation(
                f"message of timeline {timeline}, this server is on timeline {self.timeline}; join the run anew"
            )


_ALIVE = shard_pb2.ShardEvent(alive=shard_pb2.Alive())


def _settled(delta: Answer, began: float) -> shard_pb2.Settled:
    """Answer to a close that arrived at `began`."""
    assert isinstance(delta, Delta)
    return shard_pb2.Settled(
        step=delta.step,
        version=delta.version + 1,
        delta_bytes=delta.frame_bytes,
        seconds=monotonic_clock.now() - began,
    )


def _fenced(answer: Answer) -> shard_pb2.Fenced:
    assert isinstance(answer, Fenced)
    return fenced_to_proto(answer)
