"""Two servers over real connections: one follows the other's log, and takes over (P1, P10, P11)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import pytest

from ps.image import Tree, digest, encode
from ps.records import Mark
from ps.recovery import recover
from ps.snapshots import Receiver
from ps.terms import TermGuard
from tests.ps.models import STREAMS, Cluster, Worker
from tests.ps.serving import ARRIVAL, Line, Serving, eventually, follow, owning, place, push, serving, upload
from tests.ps.serving import play as run
from wire.v1 import shard_pb2

FIRST, SECOND = 5, 6


class Forwarder:
    """Connections to an address, which can be cut."""

    def __init__(self, target: str) -> None:
        self._host, _, port = target.partition(":")
        self._port = int(port)
        self._writers: set[asyncio.StreamWriter] = set()
        self._open = True

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        try:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            self.cut()
            server.close()
            await server.wait_closed()

    def cut(self) -> None:
        """Break every connection, and take no other until `mend`."""
        self._open = False
        for writer in self._writers:
            writer.transport.abort()

    def mend(self) -> None:
        self._open = True

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._open:
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection(self._host, self._port)
        self._writers |= {writer, back}
        await asyncio.gather(_pipe(reader, back), _pipe(there, writer), return_exceptions=True)
        self._writers -= {writer, back}


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    finally:
        writer.transport.abort()


class Pair:
    """A primary that has begun, a server that stands by for it over a connection which can be cut, and their lines."""

    def __init__(self, one: Serving, two: Serving, between: Forwarder, address: str) -> None:
        self.one, self.two, self.between = one, two, between
        self.lines = Line(one.stub), Line(two.stub)
        self._address = address
        self.worker = Worker(Cluster(1), 1)

    async def begin(self) -> None:
        line, other = self.lines
        await line.attach()
        await line.configure(ARRIVAL)
        await upload(self.one.stub)
        await other.attach(term=0)

    async def stand(self) -> None:
        """The second server follows the first, and is in sync."""
        self.lines[1].send(stand=shard_pb2.Stand(shard=0, address=self._address, term=1))
        assert (await self.hear("in_sync")).in_sync.standby == SECOND

    async def hear(self, kind: str) -> shard_pb2.ShardEvent:
        """What the primary tells next of this kind; of units it tells all the time."""
        while (event := await self.lines[0].next()).WhichOneof("event") != kind:
            assert event.WhichOneof("event") in ("accepted", "published"), event
        return event

    async def push(self, *numbers: int) -> None:
        """Units by a worker that knows the newest version, each in a delta of its own."""
        for number in numbers:
            base = self.one.owner.shard.deltas.version
            assert await push(self.one.stub, self.worker, number, base=base) == "ACCEPTED"
            await eventually(lambda: not self.one.owner.shard.backlog.units)

    async def level(self) -> None:
        """Wait until the second server holds all that the first one does."""
        one, two = self.one.owner, self.two.owner
        await eventually(lambda: not one.shard.backlog.units)
        await eventually(lambda: two.watermark.position == one.archive.position)

    async def promote(self) -> shard_pb2.ShardState:
        self.lines[1].send(promote=shard_pb2.Promote(term=2))
        return (await self.lines[1].hear("state")).state


def digest_of(server: Serving) -> bytes:
    return digest(encode(server.owner.holdings.image())[0])


def play(scene: Callable[[Pair], Awaitable[None]], path: Path) -> None:
    async def whole() -> None:
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            servers = []
            for name, incarnation in (("one", FIRST), ("two", SECOND)):
                owner = await enter(owning(path / name))
                terms = TermGuard(path / name / "term.json")
                servers.append(await enter(serving(owner, place(incarnation=incarnation, terms=terms))))
            between = Forwarder(servers[0].address)
            address = await enter(between.listening())
            pair = Pair(servers[0], servers[1], between, address)
            await pair.begin()
            await scene(pair)

    for name in ("one", "two"):
        (path / name).mkdir()
    run(whole(), limit_s=100)


def test_a_standby_becomes_what_the_primary_is_and_stays_so(tmp_path: Path) -> None:
    async def scene(pair: Pair) -> None:
        await pair.push(0, 1)
        await pair.stand()
        await pair.push(*range(2, 8))
        await pair.level()
        assert digest_of(pair.one) == digest_of(pair.two)
        with pytest.raises(grpc.aio.AioRpcError, match="stands by"):
            await push(pair.two.stub, pair.worker, 8)
        with pytest.raises(grpc.aio.AioRpcError, match="stands by"):
            await follow(pair.two.stub, 0, 1)
        await pair.lines[1].attach(term=0)
        assert (await Line(pair.two.stub).attach(term=0)).standing

    play(scene, tmp_path)
    recovered = recover(tmp_path / "two")
    assert recovered is not None and recovered.holdings.shard.deltas.version == 8


def test_a_shard_of_which_nothing_was_logged_has_an_image_too(tmp_path: Path) -> None:
    async def scene(pair: Pair) -> None:
        await pair.stand()
        assert digest_of(pair.one) == digest_of(pair.two)
        await pair.push(0)
        await pair.level()
        assert digest_of(pair.one) == digest_of(pair.two)

    play(scene, tmp_path)


def test_marks_are_compared(tmp_path: Path) -> None:
    async def scene(pair: Pair) -> None:
        await pair.stand()
        await pair.push(0, 1)
        compared = pair.one.owner.replication.marked
        seen: list[tuple[int, bytes, bool]] = []

        def marked(position: int, digest: bytes, *, own: bool) -> None:
            seen.append((position, digest, own))
            compared(position, digest, own=own)

        pair.one.owner.replication.marked = marked  # type: ignore[method-assign]
        await pair.one.owner.apply(Mark())
        await eventually(lambda: {own for _, _, own in seen} == {False, True})
        assert len({(position, digest) for position, digest, _ in seen}) == 1

        def spoil() -> None:
            pair.two.owner.shard.planes()["x"][0, 0] += 1.0

        await pair.two.owner.read(spoil)
        await pair.one.owner.apply(Mark())
        parted = (await pair.hear("parted")).parted
        assert parted.diverged and parted.standby == SECOND and "differ behind record" in parted.reason

    play(scene, tmp_path)


def test_a_connection_that_breaks_is_told_and_waited_for_until_the_coordinator_says(tmp_path: Path) -> None:
    async def scene(pair: Pair) -> None:
        await pair.stand()
        await pair.push(0)
        pair.between.cut()
        parted = (await pair.hear("parted")).parted
        assert parted.standby == SECOND and not parted.diverged
        pushing = asyncio.create_task(pair.push(1))
        await eventually(lambda: 1 in pair.one.owner.shard.accepted)
        pair.between.mend()
        done, _ = await asyncio.wait({pushing}, timeout=1.5)
        assert not done, "it is recorded as in sync: without it nothing is acknowledged"
        pair.lines[0].send(alone=shard_pb2.Alone(standby=SECOND))
        assert (await pair.lines[0].hear("alone")).alone.standby == SECOND
        await pushing
        assert (await pair.hear("in_sync")).in_sync.standby == SECOND
        await pair.level()
        assert digest_of(pair.one) == digest_of(pair.two)

    play(scene, tmp_path)


def test_a_standby_that_is_promoted_serves_the_same_bytes_and_the_old_primary_acknowledges_nothing(
    tmp_path: Path,
) -> None:
    async def scene(pair: Pair) -> None:
        await pair.stand()
        await pair.push(*range(STREAMS))
        await pair.level()
        before = await follow(pair.one.stub, 0, STREAMS)
        pair.between.cut()
        await pair.hear("parted")
        late = asyncio.create_task(pair.push(STREAMS))
        following = asyncio.create_task(follow(pair.one.stub, STREAMS, STREAMS + 1))
        await eventually(lambda: pair.one.owner.shard.deltas.version == STREAMS + 1)
        state = await pair.promote()
        assert (state.term, state.configured, state.standing) == (2, True, False)
        assert (state.version, state.standby) == (STREAMS, 0)
        after = await follow(pair.two.stub, 0, STREAMS)
        assert [frame for _, frame in after] == [frame for _, frame in before]
        assert [(h.version, h.outcomes) for h, _ in after] == [(h.version, h.outcomes) for h, _ in before]
        assert {header.term for header, _ in after} == {2}

        again = Worker(Cluster(1), 1)
        assert await push(pair.two.stub, again, 0) == "SETTLED", "what was acknowledged is there"
        assert await push(pair.two.stub, again, STREAMS, base=STREAMS) == "ACCEPTED"
        assert len(await follow(pair.two.stub, STREAMS, STREAMS + 1)) == 1
        pair.between.mend()
        done, _ = await asyncio.wait({late, following}, timeout=1.0)
        assert not done, "neither acknowledged nor shown by the primary of before"
        for task in (late, following):
            task.cancel()
        await asyncio.gather(late, following, return_exceptions=True)
        newer = shard_pb2.FollowRequest(timeline=1, from_version=0, until_version=1, term=2)
        with pytest.raises(grpc.aio.AioRpcError, match="served elsewhere"):
            [chunk async for chunk in pair.one.stub.Follow(newer)]

    play(scene, tmp_path)


def test_what_a_promoted_shard_has_pending_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit that stood on both, and which the primary did not live to publish."""

    async def scene(pair: Pair) -> None:
        await pair.stand()
        monkeypatch.setattr(pair.one.owner._publisher, "look", lambda backlog: None)
        await push(pair.one.stub, pair.worker, 0)
        await eventually(lambda: pair.two.owner.watermark.position == pair.one.owner.archive.position)
        pair.between.cut()
        await pair.promote()
        assert (await follow(pair.two.stub, 0, 1))[0][0].outcomes

    play(scene, tmp_path)


def test_a_standby_that_was_started_again_is_no_primary_and_takes_an_image(tmp_path: Path) -> None:
    """It held the log of before: what it waits for as a primary that comes back, it does not wait for as a standby."""

    async def scene(pair: Pair) -> None:
        await pair.stand()
        await pair.push(0, 1)
        await pair.level()
        await pair.two.standby.stop()
        await pair.hear("parted")
        pair.lines[0].send(alone=shard_pb2.Alone(standby=SECOND))
        assert (await pair.lines[0].hear("alone")).alone.standby == SECOND
        pair.two.owner.archive.close()
        recovered = recover(tmp_path / "two")
        assert recovered is not None
        async with owning(tmp_path / "two") as owner:
            owner.adopt(recovered, place(incarnation=SECOND).identity, replicas=1)
            async with serving(owner, place(incarnation=SECOND)) as two:
                line = Line(two.stub)
                state = await line.attach(term=0)
                assert not state.configured and not state.standing
                line.send(stand=shard_pb2.Stand(shard=0, address=pair.one.address, term=1))
                assert (await pair.hear("in_sync")).in_sync.standby == SECOND
                await pair.push(2)
                await eventually(lambda: not pair.one.owner.shard.backlog.units)
                await eventually(lambda: owner.watermark.position == pair.one.owner.archive.position)
                assert digest_of(two) == digest_of(pair.one)

    play(scene, tmp_path)


async def _end(pair: Pair, *, promoted: bool) -> None:
    if promoted:
        await pair.promote()
    else:
        await pair.two.standby.stop()


@pytest.mark.parametrize("promoted", [False, True])
def test_who_stops_a_standby_that_takes_an_image_in_waits_until_it_is_whole(
    promoted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the moment that the image replaces all others on the disk, memory must not stay behind it."""
    finishing, goes_on = threading.Event(), threading.Event()
    finish = Receiver.finish

    def slowly(receiver: Receiver) -> Tree:
        tree = finish(receiver)
        finishing.set()
        assert goes_on.wait(30)
        return tree

    async def scene(pair: Pair) -> None:
        await pair.push(0, 1, 2)
        await eventually(lambda: not pair.one.owner.shard.backlog.units)
        monkeypatch.setattr(Receiver, "finish", slowly)
        pair.lines[1].send(stand=shard_pb2.Stand(shard=0, address=pair._address, term=1))
        await eventually(finishing.is_set)
        ending = asyncio.ensure_future(_end(pair, promoted=promoted))
        await asyncio.sleep(0.2)
        assert not ending.done()
        goes_on.set()
        await ending
        (position,) = pair.two.owner.archive.snapshots.positions()
        assert pair.two.owner.archive.position == position
        assert digest_of(pair.two) == digest_of(pair.one)

    play(scene, tmp_path)
    recovered = recover(tmp_path / "two")
    assert recovered is not None and recovered.holdings.shard.deltas.version == 3
