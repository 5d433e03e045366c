"""The other end of a coordinator's lines: servers that answer as they are told to, each at a real address."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from coordinator import events as e
from coordinator import records as r
from coordinator.checkpoints import take_checkpoint
from coordinator.shards import ShardLine
from coordinator.state import State
from tests.coordinator.ground import LAYOUT, SPEC, began
from wire.clock import ManualClock
from wire.config import Config
from wire.rpc.identity import Security
from wire.rpc.planes import plane_chunks
from wire.v1 import common_pb2, shard_pb2, shard_pb2_grpc

LIMIT_S = 20.0
CUT = LAYOUT.blocks // 2
RANGES = ((0, CUT), (CUT, LAYOUT.blocks))
"""The blocks of the first and of the second shard."""
PLANES = ("x", "published")


class Server(shard_pb2_grpc.ShardServicer):
    """The server of a shard.

    Attributes:
        address: where it is.
        stuck: calls (or planes) that it takes and does not answer before `free()`.
        asked: calls, and of `Collect` planes, in their order.
        commands: that arrived on lines.
        restored: the planes of each restore that came to its end, and how many bytes each had.
        kept: pieces of streams' state, which it has beside the planes of the model.
        falls: so many restores break off, as if the process were killed.
    """

    def __init__(self, shard: int, *, stuck: Sequence[str] = ()) -> None:
        start, stop = RANGES[shard]
        self.elements = LAYOUT.first_element(stop) - LAYOUT.first_element(start)
        self.address = ""
        self.stuck = set(stuck)
        self.asked: asyncio.Queue[str] = asyncio.Queue()
        self.commands: asyncio.Queue[shard_pb2.ShardCommand] = asyncio.Queue()
        self.restored: list[dict[str, int]] = []
        self.falls = 0
        self.kept: dict[str, bytes] = {}
        self._freed = asyncio.Event()
        self._hung_up = asyncio.Event()

    def free(self) -> None:
        self._freed.set()

    async def _take(self, what: str) -> None:
        self.asked.put_nowait(what)
        if what in self.stuck:
            await self._freed.wait()

    async def until(self, what: str) -> None:
        """Wait until it is asked for this."""
        async with asyncio.timeout(LIMIT_S):
            while await self.asked.get() != what:
                pass

    async def next_command(self, kind: str, *, limit_s: float = LIMIT_S) -> shard_pb2.ShardCommand:
        """The next one of this kind. Raises: TimeoutError."""
        async with asyncio.timeout(limit_s):
            while (command := await self.commands.get()).WhichOneof("command") != kind:
                pass
        return command

    def hang_up(self) -> None:
        """End the line."""
        self._hung_up.set()

    async def Control(self, request_iterator: Any, context: Any) -> AsyncIterator[shard_pb2.ShardEvent]:
        yield shard_pb2.ShardEvent(alive=shard_pb2.Alive())
        self._hung_up.clear()
        obeying = asyncio.create_task(self._obey(request_iterator))
        await self._hung_up.wait()
        obeying.cancel()

    async def _obey(self, commands: AsyncIterator[shard_pb2.ShardCommand]) -> None:
        async for command in commands:
            self.commands.put_nowait(command)

    async def Describe(self, request: shard_pb2.DescribeRequest, context: Any) -> shard_pb2.DescribeReply:
        await self._take("describe")
        return shard_pb2.DescribeReply(planes=PLANES, stream_planes=[])

    async def Collect(
        self, request: shard_pb2.CollectRequest, context: Any
    ) -> AsyncIterator[common_pb2.PlaneChunk]:
        planes = {request.plane: bytes(4 * self.elements)} if request.plane != "deposits" else self.kept
        for name, data in planes.items():
            chunks: Iterator[common_pb2.PlaneChunk] = plane_chunks(name, data)
            yield next(chunks)
            await self._take(name)
            for chunk in chunks:
                yield chunk

    async def Restore(
        self, request_iterator: AsyncIterator[shard_pb2.RestoreChunk], context: Any
    ) -> shard_pb2.RestoreReply:
        planes: dict[str, int] = {}
        name = ""
        async for chunk in request_iterator:
            if chunk.HasField("header"):
                await self._take("restore")
                if self.falls:
                    self.falls -= 1
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "killed")
            elif chunk.plane.HasField("header"):
                name = chunk.plane.header.plane
                planes[name] = 0
            else:
                planes[name] += len(chunk.plane.data)
        self.restored.append(planes)
        return shard_pb2.RestoreReply()


@asynccontextmanager
async def served(server: Server) -> AsyncIterator[Server]:
    """`server` at an address of its own."""
    there = grpc.aio.server()
    shard_pb2_grpc.add_ShardServicer_to_server(server, there)
    server.address = f"127.0.0.1:{there.add_insecure_port('127.0.0.1:0')}"
    await there.start()
    try:
        yield server
    finally:
        server.free()
        await there.stop(None)


def state_with(*servers: Server) -> State:
    """A run at work whose shards the first two of `servers` serve, in that order; incarnations count from 1."""
    state = began(4)
    for record in records_of(*servers):
        state.apply(record)
    return state


def records_of(*servers: Server) -> list[r.Record]:
    """What leads to that."""
    return [
        *(
            r.Admitted(number, "ps", f"ps-{number}", server.address, "", number, "h")
            for number, server in enumerate(servers, start=1)
        ),
        r.Modelled(
            tuple((p.name, p.shape, p.dtype, p.group) for p in LAYOUT.parameters),
            SPEC.kind,
            (),
            1,
            tuple((shard, servers[shard].address, shard + 1, (RANGES[shard],)) for shard in range(2)),
        ),
        r.Dataset(100, "d", 2, 1, True, 5, 10, 10),
    ]


async def write_checkpoint(path: Path) -> Path:
    """One of such a run; where it is."""
    async with served(Server(0)) as first, served(Server(1)) as second:
        state = state_with(first, second)
        lines = [line_to(1, state), line_to(2, state)]
        written, _ = await take_checkpoint(path, state, lambda: lines, config=Config(), step=0)
        for line in lines:
            await line.close()
        return written


def line_to(incarnation: int, state: State) -> ShardLine:
    """A coordinator's line to a server; nobody listens to what is told there."""
    return ShardLine(
        incarnation,
        state,
        security=Security(),
        hear=_ignore,
        seq=lambda: 0,
        durable=_at_once,
        revoked=lambda: b"",
        clock=ManualClock(0.0),
    )


async def _at_once() -> None:
    """Nothing waits for a disk."""


def _ignore(event: e.Event) -> None:
    """Nobody decides anything."""
