"""Servers of tests: an owner with a shard, the service at a real address, and the coordinator's line to it.

Everything is the server's own; only the process around it and the coordinator are missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from ps.control import Control, Place
from ps.holdings import Holdings, Identity
from ps.owner import Owner
from ps.records import Accept
from ps.service import ShardService
from ps.shard import Shard
from ps.standby import Standby
from ps.store import Store
from ps.terms import TermGuard
from tests.ps.models import ADAMW, LAYOUT, STREAMS, WHOLE, Cluster, Worker, plane
from tests.ps.room import room_but
from wire.codec.base import Blocks, Buffer, buffers_of
from wire.codec.chain import FLUSH
from wire.codec.dense import pack
from wire.config import Config
from wire.ids import Term
from wire.messages import (
    commit_to_proto,
    layout_to_proto,
    optimizer_to_proto,
    ranges_to_proto,
    term_to_proto,
    unit_to_proto,
)
from wire.rpc.frames import add_shard_service
from wire.rpc.identity import Security
from wire.rpc.planes import plane_chunks
from wire.rpc.server import serve
from wire.v1 import common_pb2, shard_pb2, shard_pb2_grpc

LIMIT_S = 30.0
ROOM = 1 << 24
RUN, TIMELINE, PLAN = "r", 1, 1
TERM = term_to_proto(Term(1, b"n" * 16), journal_seq=1)
CONFIG = Config.model_validate(
    {
        "sync": {"mode": "async", "units_per_step": STREAMS},
        "push": {"codec": "dense"},
        "pull": {"codec": "dense"},
    }
)
ARRIVAL = shard_pb2.Segment(elastic=True, arrival=True)
BLOCKS = Blocks.of(LAYOUT, WHOLE)
X = pack(plane(1), BLOCKS)


def play(scene: Coroutine[Any, Any, None], *, limit_s: float = 60.0) -> None:
    """Run a scene to its end."""
    asyncio.run(asyncio.wait_for(scene, limit_s))


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what another thread, or the other end of a connection, does."""
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


# --- the shard alone ---------------------------------------------------------------------------


def identity_of(config: Config = CONFIG, *, incarnation: int = 5) -> Identity:
    return Identity(RUN, TIMELINE, incarnation, config.to_json())


@asynccontextmanager
async def owning(path: Path, *, room: int = ROOM, level: str = "os") -> AsyncIterator[Owner]:
    """An owner without a shard, closed in the end."""
    owner = Owner(path, level=level, admit_bytes=room)
    try:
        yield owner
    finally:
        await owner.end()
        owner.close(forget=False)


def configure(owner: Owner, cluster: Cluster) -> None:
    """Make it the first shard of `cluster`, with its planes; the run has not begun."""
    shard = cluster.shards[0]
    owner.configure(
        shard.spec, lambda: Holdings(fresh(cluster), Store(owner.archive.directory), identity_of())
    )
    for name in ("x", "published"):
        owner.shard.load(name, pack(shard.planes()[name], shard.blocks))


def fresh(cluster: Cluster) -> Shard:
    """The first shard of `cluster` as it is before it has planes."""
    return Shard(cluster.shards[0].spec, cluster.push, cluster.pull)


# --- the whole server --------------------------------------------------------------------------


@dataclass(frozen=True)
class Serving:
    """A server at an address, and a stub of it."""

    owner: Owner
    standby: Standby
    control: Control
    service: ShardService
    address: str
    stub: shard_pb2_grpc.ShardStub


def place(config: Config = CONFIG, *, incarnation: int = 5, terms: TermGuard | None = None) -> Place:
    """What a coordinator says when it takes a server in."""
    return Place(identity_of(config, incarnation=incarnation), config, terms or TermGuard(None))


def service_of(owner: Owner, joined: Place) -> tuple[ShardService, Control, Standby]:
    """The service of a server that a coordinator has taken in."""
    standby = Standby(owner, Security(), lambda: joined.identity)
    control = Control(owner, standby, finish=_ignore, dismiss=_ignore)
    control.joined(joined)
    return ShardService(owner, control), control, standby


def _ignore(reason: str) -> None:
    """The process would end."""


@asynccontextmanager
async def serving(owner: Owner, joined: Place | None = None) -> AsyncIterator[Serving]:
    """A server on a port of its own."""
    service, control, standby = service_of(owner, joined or place())
    listening = await serve(
        listen="127.0.0.1:0",
        security=Security(),
        add=lambda server: add_shard_service(service, server),
        services=["sparsync.v1.Shard"],
    )
    try:
        async with grpc.aio.insecure_channel(listening.address) as channel:
            stub = shard_pb2_grpc.ShardStub(channel)
            yield Serving(owner, standby, control, service, listening.address, stub)
    finally:
        control.end()
        await standby.stop()
        await owner.end()
        await listening.stop(0.0)


class Line:
    """A coordinator's line to the shard."""

    def __init__(self, stub: shard_pb2_grpc.ShardStub) -> None:
        self.stub = stub
        self._commands: asyncio.Queue[shard_pb2.ShardCommand] = asyncio.Queue()
        self._call = stub.Control(self._outgoing())
        self._events = aiter(self._call)

    async def _outgoing(self) -> AsyncIterator[shard_pb2.ShardCommand]:
        while True:
            yield await self._commands.get()

    def send(self, **command: object) -> None:
        self._commands.put_nowait(shard_pb2.ShardCommand(term=TERM, **command))  # type: ignore[arg-type]

    def drop(self) -> None:
        """The connection breaks."""
        self._call.cancel()

    async def next(self) -> shard_pb2.ShardEvent:
        """The next event that says more than that the server is alive."""
        while True:
            event: shard_pb2.ShardEvent = await anext(self._events)
            if event.WhichOneof("event") != "alive":
                return event

    async def alive(self) -> list[int]:
        """Workers of whose state something arrived within the last second, as the server tells next."""
        while True:
            event: shard_pb2.ShardEvent = await anext(self._events)
            if event.WhichOneof("event") == "alive":
                return list(event.alive.arriving)

    async def hear(self, kind: str) -> shard_pb2.ShardEvent:
        """The next event, which must be of this kind."""
        event = await self.next()
        assert event.WhichOneof("event") == kind, event
        return event

    async def attach(self, *, low: int = 0, term: int = 1, standby: int = 0) -> shard_pb2.ShardState:
        """`term`: of the primary that this server is; 0: it is none."""
        attach = shard_pb2.Attach(run=RUN, timeline=TIMELINE, low=low, shard_term=term, standby=standby)
        self.send(attach=attach)
        state = (await self.hear("state")).state
        if state.standby:
            assert (await self.hear("in_sync")).in_sync.standby == state.standby
        return state

    async def configure(self, segment: shard_pb2.Segment, *, first_step: int = 0) -> None:
        self.send(
            configure=shard_pb2.Configure(
                shard=0,
                plan=PLAN,
                parameters=layout_to_proto(LAYOUT),
                ranges=ranges_to_proto(WHOLE),
                optimizer=optimizer_to_proto(ADAMW),
                first_step=first_step,
                segment=segment,
            )
        )
        await self.hear("configured")


# --- what its clients do ------------------------------------------------------------------------


async def upload(
    stub: shard_pb2_grpc.ShardStub,
    x: bytes | None = X,
    *,
    incarnation: int = 1,
    goes_on: Sequence[Awaitable[object]] = (),
) -> None:
    """The initial parameters; None: a header alone. goes_on: waited for before the last message."""

    async def chunks() -> AsyncIterator[shard_pb2.UploadChunk]:
        header = shard_pb2.UploadHeader(timeline=1, incarnation=incarnation)
        yield shard_pb2.UploadChunk(header=header)
        messages = [shard_pb2.UploadChunk(plane=chunk) for chunk in plane_chunks("x", x)] if x else []
        for message in messages[:-1]:
            yield message
        for event in goes_on:
            await event
        for message in messages[-1:]:
            yield message

    await stub.Upload(chunks())


async def push(
    stub: shard_pb2_grpc.ShardStub,
    worker: Worker,
    number: int,
    *,
    base: int = 0,
    message_bytes: int = 1 << 20,
) -> str:
    unit = worker.unit(number, base=base)
    frame = buffers_of(unit.frame)[0]
    messages = [frame[start : start + message_bytes] for start in range(0, len(frame), message_bytes)]
    return await send(stub, unit, messages)


async def send(
    stub: shard_pb2_grpc.ShardStub,
    unit: Accept,
    messages: Sequence[Buffer] | None = None,
    *,
    declared: int | None = None,
    plan: int = 1,
    goes_on: Sequence[Awaitable[object]] = (),
) -> str:
    """Push a unit. messages: of its frame, by default one. goes_on: waited for before its commit, one by one."""
    whole = [message for message in buffers_of(unit.frame) if message]
    messages = whole if messages is None else messages
    header = shard_pb2.PushHeader(
        unit=unit_to_proto(unit.unit),
        attempt=unit.attempt,
        incarnation=unit.incarnation,
        plan=plan,
        frame_bytes=sum(map(len, messages)) if declared is None else declared,
        base_version=unit.base_version,
    )

    async def chunks() -> AsyncIterator[shard_pb2.PushChunk]:
        yield shard_pb2.PushChunk(header=header)
        for message in messages:
            yield shard_pb2.PushChunk(data=bytes(message))
        for event in goes_on:
            await event
        yield shard_pb2.PushChunk(commit=commit_to_proto(unit.commit))

    reply = await stub.Push(chunks())
    return str(shard_pb2.PushReply.Outcome.Name(reply.outcome))


async def flush(stub: shard_pb2_grpc.ShardStub, incarnation: int, *, segment: int = 0, more: int = 0) -> str:
    """What a leaver held back; `more`: bytes that the header tells beyond those of the frame."""
    frame = b"".join(FLUSH.encode(plane(5), {}, Cluster(1).blocks(0)))
    header = shard_pb2.PushHeader(
        flush=shard_pb2.Flush(timeline=1, segment=segment),
        incarnation=incarnation,
        plan=1,
        frame_bytes=len(frame) + more,
    )

    async def chunks() -> AsyncIterator[shard_pb2.PushChunk]:
        yield shard_pb2.PushChunk(header=header)
        yield shard_pb2.PushChunk(data=frame)
        yield shard_pb2.PushChunk(commit=shard_pb2.Commit(learning_rates=(0.1, 0.1)))

    reply = await stub.Push(chunks())
    return str(shard_pb2.PushReply.Outcome.Name(reply.outcome))


async def follow(
    stub: shard_pb2_grpc.ShardStub, start: int, stop: int
) -> list[tuple[shard_pb2.DeltaHeader, bytes]]:
    found: list[tuple[shard_pb2.DeltaHeader, bytes]] = []
    request = shard_pb2.FollowRequest(timeline=1, from_version=start, until_version=stop)
    async for chunk in stub.Follow(request):
        if chunk.HasField("header"):
            found.append((chunk.header, b""))
        else:
            found[-1] = found[-1][0], found[-1][1] + chunk.data
    return found


async def received(planes: AsyncIterator[common_pb2.PlaneChunk]) -> tuple[list[str], bytes]:
    names, data = [], b""
    async for chunk in planes:
        if chunk.HasField("header"):
            names.append(chunk.header.plane)
        data += chunk.data
    return names, data


async def settle(line: Line, *, step: int = 0, streams: Sequence[int] = range(STREAMS)) -> None:
    line.send(close=shard_pb2.Close(step=step, streams=streams))
    while True:
        event = await line.next()
        if event.WhichOneof("event") == "settled":
            return


def units_of(step: int = 0) -> list[Accept]:
    """Of one step, a unit a stream."""
    cluster = Cluster(1)
    return [cluster.unit(0, step, stream) for stream in range(STREAMS)]


def workers() -> Sequence[Worker]:
    cluster = Cluster(1)
    return [Worker(cluster, incarnation) for incarnation in (1, 2)]


def state_of(owner: Owner) -> tuple[object, ...]:
    """All that a push may change."""
    shard = owner.shard
    planes = {name: values.tobytes() for name, values in shard.planes().items()}
    return planes, dict(shard.held), dict(shard.accepted), shard.ledger.step, shard.deltas.version


# --- scenes -------------------------------------------------------------------------------------


Scene = Callable[[shard_pb2_grpc.ShardStub, Line, Owner], Awaitable[None]]
"""A shard as its clients reach it, the coordinator's line to it, and its owner."""


def play_stub(
    scene: Callable[[shard_pb2_grpc.ShardStub], Awaitable[None]], path: Path, *, config: Config = CONFIG
) -> None:
    """One server on a port of its own, taken in by a coordinator of ours."""

    async def alone(server: Serving) -> None:
        await scene(server.stub)

    play_server(alone, path, config=config)


def play_server(scene: Callable[[Serving], Awaitable[None]], path: Path, *, config: Config = CONFIG) -> None:
    async def whole() -> None:
        async with owning(path) as owner, serving(owner, place(config)) as server:
            await scene(server)

    play(whole())


def play_exact(scene: Scene, path: Path, config: Config = CONFIG) -> None:
    """A scene on a shard in an exact segment; at its end no room is taken any more."""

    async def whole(server: Serving) -> None:
        line = Line(server.stub)
        await line.attach()
        await line.configure(shard_pb2.Segment())
        await upload(server.stub)
        await scene(server.stub, line, server.owner)
        await eventually(lambda: room_but(server.owner, 0))

    play_server(whole, path, config=config)
