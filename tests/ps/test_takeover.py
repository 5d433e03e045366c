"""Who may take whose word: primaries and standbys that begin again with more or less than the other has (P1, P10)."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from ps import replication
from ps.recovery import recover
from tests.ps.serving import (
    Line,
    Serving,
    eventually,
    identity_of,
    owning,
    place,
    play,
    serving,
    units_of,
    upload,
)
from wire.v1 import shard_pb2

STANDBY = 6


@asynccontextmanager
async def standing_by(path: Path) -> AsyncIterator[tuple[Serving, Line]]:
    """A server that has nothing yet, and the coordinator's line to it."""
    async with owning(path) as owner, serving(owner, place(incarnation=STANDBY)) as server:
        line = Line(server.stub)
        await line.attach(term=0)
        yield server, line


@asynccontextmanager
async def leading(path: Path) -> AsyncIterator[tuple[Serving, Line]]:
    """The primary of a shard with its initial model, and the coordinator's line to it."""
    async with owning(path) as owner, serving(owner) as server:
        line = Line(server.stub)
        await line.attach()
        await line.configure(shard_pb2.Segment())
        await upload(server.stub)
        yield server, line


def stand(line: Line, primary: Serving, term: int = 1) -> None:
    line.send(stand=shard_pb2.Stand(shard=0, address=primary.address, term=term))


def test_what_a_standby_holds_and_its_primary_has_lost_does_not_count(tmp_path: Path) -> None:
    """A power failure at level `os` takes the end of a log; its place is then taken by other records."""
    pushes = units_of()

    async def scene() -> None:
        async with standing_by(tmp_path / "b") as (standby, orders):
            async with leading(tmp_path / "a") as (primary, line):
                stand(orders, primary)
                await line.hear("in_sync")
                await primary.owner.apply(pushes[0])
                shutil.copytree(tmp_path / "a", tmp_path / "what the disk held")
                await primary.owner.apply(pushes[1])
            await again(standby, orders)

    async def again(standby: Serving, orders: Line) -> None:
        recovered = recover(tmp_path / "what the disk held")
        assert recovered is not None
        async with owning(tmp_path / "what the disk held") as owner:
            owner.adopt(recovered, identity_of(), replicas=1)
            async with serving(owner) as primary:
                line = Line(primary.stub)
                line.send(attach=shard_pb2.Attach(run="r", timeline=1, shard_term=2, standby=STANDBY))
                await eventually(lambda: owner.serves)
                pushing = asyncio.create_task(owner.apply(pushes[2]))
                await eventually(lambda: owner.archive.position > recovered.position)
                assert owner.archive.position == standby.owner.archive.position
                stand(orders, primary, term=2)
                await pushing
                assert set(standby.owner.shard.accepted) == set(owner.shard.accepted) == {0, 2}

    play(scene())


def test_a_standby_takes_nothing_but_from_its_primary(tmp_path: Path) -> None:
    """Neither what a worker has for the one that served at its address before, nor what is decided before it serves."""

    async def deposit(server: Serving) -> None:
        async def chunks() -> AsyncIterator[shard_pb2.DepositChunk]:
            yield shard_pb2.DepositChunk(header=shard_pb2.DepositHeader(timeline=1, stream=0, step=0))

        await server.stub.Deposit(chunks())

    async def scene() -> None:
        async with (
            standing_by(tmp_path / "b") as (standby, orders),
            leading(tmp_path / "a") as (primary, line),
        ):
            stand(orders, primary)
            await line.hear("in_sync")
            at = standby.owner.archive.position
            with pytest.raises(grpc.aio.AioRpcError, match="stands by"):
                await deposit(standby)
            with pytest.raises(grpc.aio.AioRpcError, match="stands by"):
                async for _ in standby.stub.Withdraw(shard_pb2.WithdrawRequest(timeline=1)):
                    pass
            orders.send(fence=shard_pb2.Fence(step=0, stream=2, attempt=1))
            orders.send(promote=shard_pb2.Promote(term=2))
            assert (await orders.hear("state")).state.configured
            assert standby.owner.archive.position == at
            await deposit(standby)

    play(scene())


def test_a_line_that_is_not_the_newest_is_obeyed_no_more(tmp_path: Path) -> None:
    """`Alone` of the older line would end the waiting that the newer one was told of."""

    async def scene() -> None:
        async with leading(tmp_path) as (primary, older):
            newer = Line(primary.stub)
            await newer.attach()
            primary.owner.replication.recorded(STANDBY)
            older.send(alone=shard_pb2.Alone(standby=STANDBY))
            with pytest.raises(StopAsyncIteration):
                await older.next()
            assert primary.owner.watermark.standby == STANDBY

    play(scene())


def test_a_standby_that_never_calls_is_not_waited_for_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator sees both, and they do not see each other."""
    monkeypatch.setattr(replication, "CALLS_S", 0.1)

    async def scene() -> None:
        async with leading(tmp_path) as (primary, _):
            line = Line(primary.stub)
            await line.attach(standby=STANDBY)
            parted = (await line.hear("parted")).parted
            assert parted.standby == STANDBY and "has not called" in parted.reason

    play(scene())
