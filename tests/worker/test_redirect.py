"""A shard that is served elsewhere, over real connections: what was not answered is asked there, as it was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from wire.clock import monotonic_clock
from wire.errors import NoInput, StaleIncarnation, Unreachable
from wire.ids import UnitId
from wire.messages import Commit, ShardPlacement
from wire.rpc.access import InRun
from wire.rpc.identity import Security
from wire.rpc.planes import PlaneReader, plane_chunks
from wire.rpc.server import serve
from wire.v1 import common_pb2, shard_pb2, shard_pb2_grpc
from worker.deltas import Delta
from worker.links import ShardLink
from worker.outgoing import Outgoing
from worker.place import Redirect

LIMIT_S = 30.0
UNIT, COMMIT = UnitId(1, 4, 0), Commit("", 8, 64, 1.0, 1.0, (0.1,))
PIECES = [b"first " * 100, b"second " * 100, b"third " * 100]
PLANE = bytes(range(28))


class Server(shard_pb2_grpc.ShardServicer):
    """One process's part in the life of a shard.

    Args:
        term: in the headers of its deltas.
        stops: it takes calls and whatever they bring, and answers none; of deltas it gives those of `versions`.
        shard: that it believes to serve.
    """

    def __init__(self, term: int, *, versions: range, stops: bool = False, shard: int = 0) -> None:
        self._term, self._versions, self._stops, self._shard = term, versions, stops, shard
        self.address = ""
        self.begun: asyncio.Queue[None] = asyncio.Queue()
        self.asked: asyncio.Queue[str] = asyncio.Queue()
        self.terms: list[int] = []
        self.starts: list[int] = []
        self.frames: list[bytes] = []
        self.planes: dict[str, bytes] = {}

    async def _take(self, what: str) -> None:
        self.asked.put_nowait(what)
        if self._stops:
            await asyncio.sleep(LIMIT_S)

    async def Push(self, request_iterator: AsyncIterator[shard_pb2.PushChunk], context: Any) -> Any:
        frame = b""
        async for chunk in request_iterator:
            if chunk.HasField("header"):
                self.terms.append(chunk.header.term)
                self.begun.put_nowait(None)
            elif chunk.HasField("data"):
                frame += chunk.data
            else:
                self.frames.append(frame)
        await self._take("push")
        return shard_pb2.PushReply(outcome=shard_pb2.PushReply.ACCEPTED)

    async def Follow(self, request: shard_pb2.FollowRequest, context: Any) -> Any:
        self.terms.append(request.term)
        self.starts.append(request.from_version)
        self.begun.put_nowait(None)
        stop = request.until_version or self._versions.stop
        for version in range(request.from_version, min(stop, self._versions.stop)):
            yield shard_pb2.DeltaChunk(
                header=shard_pb2.DeltaHeader(
                    term=self._term, shard=self._shard, version=version, frame_bytes=100, final=version == 9
                )
            )
            yield shard_pb2.DeltaChunk(data=b"%0100d" % version)
        await self._take("follow")

    async def Snapshot(self, request: shard_pb2.SnapshotRequest, context: Any) -> Any:
        await self._take("snapshot")
        for chunk in plane_chunks("published/4/4", PLANE):
            yield chunk

    async def Withdraw(self, request: shard_pb2.WithdrawRequest, context: Any) -> Any:
        await self._take("withdraw")
        for chunk in plane_chunks("residual", PLANE):
            yield chunk

    async def Upload(self, request_iterator: AsyncIterator[shard_pb2.UploadChunk], context: Any) -> Any:
        await self._read(request_iterator)
        await self._take("upload")
        return shard_pb2.UploadReply()

    async def Deposit(self, request_iterator: AsyncIterator[shard_pb2.DepositChunk], context: Any) -> Any:
        await self._read(request_iterator)
        await self._take("deposit")
        return shard_pb2.DepositReply()

    async def _read(self, chunks: AsyncIterator[Any]) -> None:
        reader = PlaneReader(lambda name: len(PLANE))
        async for chunk in chunks:
            if chunk.HasField("plane") and (complete := reader.feed(chunk.plane)) is not None:
                self.planes[complete[0]] = bytes(complete[1])


@asynccontextmanager
async def serving(*servers: Server, listen: str = "127.0.0.1:0") -> AsyncIterator[None]:
    """Each at an address of its own."""
    served = []
    for server in servers:
        serves = await serve(
            listen=listen,
            security=Security(),
            add=lambda to, server=server: shard_pb2_grpc.add_ShardServicer_to_server(server, to),  # type: ignore[misc]
            services=[],
        )
        server.address = serves.address
        served.append(serves)
    try:
        yield
    finally:
        await asyncio.gather(*(serves.stop(0) for serves in served))


@asynccontextmanager
async def linked(address: str, *, term: int = 1) -> AsyncIterator[ShardLink]:
    link = ShardLink(
        ShardPlacement(0, address, 5, (), term),
        Security(),
        incarnation=7,
        run=InRun("a run", 1),
        plan=1,
        bytes=0,
        clock=monotonic_clock,
    )
    try:
        yield link
    finally:
        await link.close()


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, LIMIT_S))


def frame() -> Outgoing:
    """All of it there."""
    outgoing = Outgoing(asyncio.get_running_loop(), most_bytes=10_000)
    for piece in PIECES:
        outgoing.add(piece)
    outgoing.finish()
    return outgoing


async def push(link: ShardLink) -> object:
    return await link.push(UNIT, 2, frame(), COMMIT, 4)


async def flush(link: ShardLink) -> object:
    return await link.flush(1, PIECES, COMMIT, limit_s=LIMIT_S)


async def history(link: ShardLink) -> object:
    return [delta.version for delta in await link.history(4, 8)]


CALLS: dict[str, tuple[Callable[[ShardLink], Awaitable[object]], object]] = {
    "push": (push, True),
    "flush": (flush, True),
    "upload": (lambda link: link.upload(PLANE), None),
    "deposit": (lambda link: link.deposit(1, 4, 0, {"residual": PLANE}), None),
    "withdraw": (lambda link: link.withdraw(1, 4, lambda name: len(PLANE)), {"residual": PLANE}),
    "history": (history, [4, 5, 6, 7]),
}


# --- calls --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_was_not_answered_is_made_again_where_the_shard_is_served_now(name: str) -> None:
    async def test() -> None:
        older, newer = Server(1, versions=range(6), stops=True), Server(2, versions=range(8))
        make, expected = CALLS[name]
        async with serving(older, newer), linked(older.address) as link:
            calling = asyncio.ensure_future(make(link))
            await older.asked.get()
            link.redirect(Redirect(0, newer.address, 2))
            assert await calling == expected
            assert newer.asked.qsize() == 1
            assert older.frames == newer.frames, "the same bytes"
            assert older.planes == newer.planes
            assert set(older.terms) <= {1} and set(newer.terms) <= {2}

    run(test())


def test_a_snapshot_as_it_is_now_moves_too() -> None:
    async def test() -> None:
        older, newer = Server(1, versions=range(4), stops=True), Server(2, versions=range(4))
        async with serving(older, newer), linked(older.address) as link:
            calling = asyncio.ensure_future(link.snapshot("published", len(PLANE), live=True))
            await older.asked.get()
            link.redirect(Redirect(0, newer.address, 2))
            found = await calling
            assert (found.step, found.version, found.data) == (4, 4, PLANE)

    run(test())


def test_a_frame_in_the_making_begins_again_from_its_first_piece() -> None:
    async def test() -> None:
        older, newer = Server(1, versions=range(0), stops=True), Server(2, versions=range(0))
        async with serving(older, newer), linked(older.address) as link:
            outgoing = Outgoing(asyncio.get_running_loop(), most_bytes=10_000)
            outgoing.add(PIECES[0])
            calling = asyncio.ensure_future(link.push(UNIT, 2, outgoing, COMMIT, 4))
            await older.begun.get()
            link.redirect(Redirect(0, newer.address, 2))
            for piece in PIECES[1:]:
                outgoing.add(piece)
            outgoing.finish()
            assert await calling is True
            assert newer.frames == [b"".join(PIECES)]
            assert older.frames == []

    run(test())


def test_a_server_that_is_away_is_not_waited_for_once_another_one_serves() -> None:
    """Told before the first connection, or between two tries."""

    async def test() -> None:
        newer = Server(2, versions=range(0))
        async with serving(newer), linked("127.0.0.1:1") as link:
            link.redirect(Redirect(0, newer.address, 2))
            assert await push(link) is True
        async with serving(newer), linked("127.0.0.1:1") as link:
            calling = asyncio.ensure_future(push(link))
            await asyncio.sleep(0.3)
            link.redirect(Redirect(0, newer.address, 2))
            assert await calling is True

    run(test())


@pytest.mark.parametrize("term", [1, 2, 3])
def test_only_a_higher_term_moves_a_link(term: int) -> None:
    async def test() -> None:
        here, there = Server(2, versions=range(0)), Server(term, versions=range(0))
        async with serving(here, there), linked(here.address, term=2) as link:
            link.redirect(Redirect(0, there.address, term))
            assert await push(link) is True
            assert (here.terms, there.terms) == (([], [3]) if term == 3 else ([2], []))

    run(test())


def test_a_server_that_was_started_anew_at_its_address_is_asked_again_under_its_new_term() -> None:
    async def test() -> None:
        older, newer = Server(1, versions=range(0), stops=True), Server(2, versions=range(0))
        async with serving(older), linked(older.address) as link:
            calling = asyncio.ensure_future(push(link))
            await older.asked.get()
            link.redirect(Redirect(0, older.address, 2))
            await older.asked.get()
            assert older.terms == [1, 2]
            link.redirect(Redirect(0, "127.0.0.1:1", 3))
            async with serving(newer):
                link.redirect(Redirect(0, newer.address, 4))
                assert await calling is True
            assert newer.terms == [4]

    run(test())


def test_a_flush_is_lost_in_time_though_another_server_is_named() -> None:
    async def test() -> None:
        async with linked("127.0.0.1:1") as link:
            calling = asyncio.ensure_future(link.flush(1, PIECES, COMMIT, limit_s=0.5))
            await asyncio.sleep(0.1)
            link.redirect(Redirect(0, "127.0.0.1:2", 2))
            with pytest.raises(Unreachable, match="did not answer in time"):
                await calling

    run(test())


def test_who_waits_for_a_call_can_be_cancelled_all_the_same() -> None:
    async def test() -> None:
        older = Server(1, versions=range(0), stops=True)
        async with serving(older), linked(older.address) as link:
            calling = asyncio.ensure_future(push(link))
            await older.asked.get()
            calling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await calling

    run(test())


# --- deltas ---------------------------------------------------------------------------------------------


async def followed(link: ShardLink, version: int, *, hold: asyncio.Event | None = None) -> list[int]:
    """The versions of the deltas from `version` to the final one; `hold`: the third waits for it."""
    versions: list[int] = []

    async def put(delta: Delta) -> None:
        assert b"".join(bytes(part) for part in delta.frame) == b"%0100d" % delta.version
        versions.append(delta.version)
        if hold is not None and len(versions) == 3:
            await hold.wait()

    await link.follow(version, put)
    return versions


def test_following_goes_on_at_the_next_version_wanted() -> None:
    async def test() -> None:
        older, newer = Server(1, versions=range(6), stops=True), Server(2, versions=range(10))
        async with serving(older, newer), linked(older.address) as link:
            following = asyncio.ensure_future(followed(link, 2))
            await older.asked.get()
            link.redirect(Redirect(0, newer.address, 2))
            assert await following == list(range(2, 10))
            assert 2 <= newer.starts[0] <= 6, "as far as the older one was read"
            assert newer.terms[0] == 2

    run(test())


def test_a_reader_that_is_held_up_loses_and_repeats_nothing_when_the_shard_moves() -> None:
    async def test() -> None:
        older, newer = Server(1, versions=range(6), stops=True), Server(2, versions=range(10))
        hold = asyncio.Event()
        async with serving(older, newer), linked(older.address) as link:
            following = asyncio.ensure_future(followed(link, 0, hold=hold))
            await older.asked.get()
            link.redirect(Redirect(0, newer.address, 2))
            await asyncio.sleep(0.05)
            hold.set()
            assert await following == list(range(10))
            assert newer.starts == [3], "what the older one had sent ahead is asked for again"

    run(test())


def test_a_delta_of_an_older_term_or_of_another_shard_is_dropped() -> None:
    async def test() -> None:
        fenced, stranger = Server(1, versions=range(10)), Server(3, versions=range(10), shard=1)
        primary = Server(4, versions=range(10))
        async with serving(fenced, stranger, primary), linked(fenced.address, term=2) as link:
            following = asyncio.ensure_future(followed(link, 5))
            for _ in range(2):
                await fenced.begun.get()
            link.redirect(Redirect(0, stranger.address, 3))
            for _ in range(2):
                await stranger.begun.get()
            link.redirect(Redirect(0, primary.address, 4))
            assert await following == [5, 6, 7, 8, 9]
            assert {*fenced.starts, *stranger.starts, *primary.starts} == {5}

    run(test())


def test_a_server_that_is_back_is_followed_again_within_a_second() -> None:
    async def test() -> None:
        older, newer = Server(1, versions=range(3), stops=True), Server(1, versions=range(10))
        async with AsyncExitStack() as life:
            await life.enter_async_context(serving(older))
            async with linked(older.address) as link:
                following = asyncio.ensure_future(followed(link, 0))
                await older.asked.get()
                await life.aclose()
                await asyncio.sleep(1.0)  # away
                async with serving(newer, listen=older.address):
                    began = monotonic_clock.now()
                    assert await following == list(range(10))
                    assert monotonic_clock.now() - began < 1.0
                    assert newer.starts == [3]

    run(test())


def test_what_is_no_longer_retained_there_is_a_reason_to_join_anew() -> None:
    class Trimmed(Server):
        async def Withdraw(
            self, request: shard_pb2.WithdrawRequest, context: Any
        ) -> AsyncIterator[common_pb2.PlaneChunk]:
            raise NoInput("no such deposit")
            yield

    async def test() -> None:
        newer = Trimmed(2, versions=range(0))
        async with serving(newer), linked("127.0.0.1:1") as link:
            link.redirect(Redirect(0, newer.address, 2))
            with pytest.raises(StaleIncarnation, match="joins anew"):
                await link.withdraw(1, 4, lambda name: None)

    run(test())
