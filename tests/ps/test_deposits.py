"""Deposits over a real connection: whole, and of the stream's holder only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from pathlib import Path

import grpc
import pytest

from ps.owner import Owner
from tests.ps.models import STREAMS
from tests.ps.serving import (
    ARRIVAL,
    TERM,
    Line,
    play_exact,
    play_stub,
    push,
    received,
    upload,
    workers,
)
from wire.ids import HANDED_OVER
from wire.rpc.planes import CHUNK_BYTES, plane_chunks
from wire.v1 import shard_pb2, shard_pb2_grpc


def test_a_deposit_counts_whole_and_from_its_holder_only(tmp_path: Path) -> None:
    """A worker that is stopped in the middle, fenced and killed must not spoil what its heir deposited."""

    async def scene(stub: shard_pb2_grpc.ShardStub) -> None:
        line = Line(stub)
        await line.attach()
        await line.configure(shard_pb2.Segment())
        await upload(stub)

        async def deposit(attempt: int, state: bytes, goes_on: asyncio.Event) -> None:
            async def chunks() -> AsyncIterator[shard_pb2.DepositChunk]:
                header = shard_pb2.DepositHeader(
                    timeline=1, stream=2, step=1, attempt=attempt, planes=["extra"]
                )
                yield shard_pb2.DepositChunk(header=header)
                for chunk in plane_chunks("extra", state) if state else ():
                    yield shard_pb2.DepositChunk(plane=chunk)
                await goes_on.wait()

            await stub.Deposit(chunks())

        async def kept() -> bytes:
            asked = shard_pb2.WithdrawRequest(timeline=1, stream=2, step=1)
            return (await received(stub.Withdraw(asked)))[1]

        now, later = asyncio.Event(), asyncio.Event()
        now.set()
        with pytest.raises(grpc.aio.AioRpcError, match="ended without"):
            await deposit(0, b"", now)
        with pytest.raises(grpc.aio.AioRpcError, match="no deposit"):
            await kept()
        stopped = asyncio.create_task(deposit(0, b"older", later))
        await asyncio.sleep(0.1)
        line.send(fence=shard_pb2.Fence(step=0, stream=2, attempt=1))
        await line.hear("fenced")
        await deposit(1, b"newer", now)
        later.set()
        with pytest.raises(grpc.aio.AioRpcError, match="a newer attempt holds it now"):
            await stopped
        assert await kept() == b"newer"

    play_stub(scene, tmp_path)


def test_the_coordinator_is_told_whose_state_arrives_and_no_more_when_nothing_does(tmp_path: Path) -> None:
    async def scene(stub: shard_pb2_grpc.ShardStub) -> None:
        line = Line(stub)
        await line.attach()
        await line.configure(shard_pb2.Segment())
        await upload(stub)
        goes_on = asyncio.Event()

        async def chunks() -> AsyncIterator[shard_pb2.DepositChunk]:
            header = shard_pb2.DepositHeader(timeline=1, stream=2, step=1, planes=["extra"])
            yield shard_pb2.DepositChunk(header=header)
            *most, last = plane_chunks("extra", bytes(2 * CHUNK_BYTES))
            for piece in most:
                yield shard_pb2.DepositChunk(plane=piece)
            await goes_on.wait()
            yield shard_pb2.DepositChunk(plane=last)

        async def until(arriving: list[int]) -> None:
            while await line.alive() != arriving:
                """What came before may be told yet."""

        await asyncio.wait_for(until([]), 10)
        depositing = asyncio.create_task(_finished(stub.Deposit(chunks())))
        await asyncio.wait_for(until([0]), 10)
        await asyncio.wait_for(until([]), 10)
        goes_on.set()
        await depositing
        await asyncio.wait_for(until([0]), 10)

    play_stub(scene, tmp_path)


async def _finished(call: Awaitable[object]) -> None:
    await call


@pytest.mark.parametrize("first", [(), (shard_pb2.DepositChunk(),)])
def test_a_deposit_without_a_header_is_refused(
    first: Sequence[shard_pb2.DepositChunk], tmp_path: Path
) -> None:
    async def scene(stub: shard_pb2_grpc.ShardStub, line: Line, owner: Owner) -> None:
        async def chunks() -> AsyncIterator[shard_pb2.DepositChunk]:
            for chunk in first:
                yield chunk

        with pytest.raises(grpc.aio.AioRpcError, match="a deposit without a header"):
            await stub.Deposit(chunks())

    play_exact(scene, tmp_path)


def test_what_is_handed_over_in_an_elastic_segment_is_kept_until_the_next_close(tmp_path: Path) -> None:
    """It fits between the segment's first step and the open one; a checkpoint collects it; no stream's deposit does."""

    async def scene(stub: shard_pb2_grpc.ShardStub) -> None:
        (one, _), line = workers(), Line(stub)
        await line.attach()
        await line.configure(ARRIVAL)
        await upload(stub)

        async def hand_over(stream: int, step: int, state: bytes) -> None:
            async def chunks() -> AsyncIterator[shard_pb2.DepositChunk]:
                header = shard_pb2.DepositHeader(timeline=1, stream=stream, step=step, planes=["extra"])
                yield shard_pb2.DepositChunk(header=header)
                for chunk in plane_chunks("extra", state):
                    yield shard_pb2.DepositChunk(plane=chunk)

            await stub.Deposit(chunks())

        async def collected(step: int) -> bytes:
            asked = shard_pb2.CollectRequest(term=TERM, step=step, plane="handed")
            return (await received(stub.Collect(asked)))[1]

        for number in range(STREAMS):
            await push(stub, one, number)
        line.send(close=shard_pb2.Close(step=0, deposit=True, retain_from=1))
        while (await line.next()).WhichOneof("event") != "settled":
            pass
        await hand_over(0, 1, b"of a stream: of no use here")
        await hand_over(HANDED_OVER, 2, b"of a step that is not open")
        with pytest.raises(grpc.aio.AioRpcError, match="no deposit"):
            await collected(1)
        await hand_over(HANDED_OVER, 1, b"kept")
        await hand_over(HANDED_OVER, 1, b"kept")
        assert await collected(1) == b"kept"
        for number in range(STREAMS, 2 * STREAMS):
            await push(stub, one, number)
        line.send(close=shard_pb2.Close(step=1, deposit=True, retain_from=2))
        while (await line.next()).WhichOneof("event") != "settled":
            pass
        asked = shard_pb2.WithdrawRequest(timeline=1, stream=HANDED_OVER, step=1)
        with pytest.raises(grpc.aio.AioRpcError, match="no deposit"):
            await received(stub.Withdraw(asked))

    play_stub(scene, tmp_path)


@pytest.mark.parametrize(("lag", "far"), [(0, 2), (1, 3)])
def test_a_deposit_of_a_step_that_nobody_can_have_reached_is_refused(
    lag: int, far: int, tmp_path: Path
) -> None:
    """Else a worker could fill the disk, step by step."""

    async def scene(stub: shard_pb2_grpc.ShardStub) -> None:
        line = Line(stub)
        await line.attach()
        await line.configure(shard_pb2.Segment(lag=lag))
        await upload(stub)
        for step in range(far):
            await deposit_extra(stub, step)
        for step in (far, 1 << 60):
            with pytest.raises(grpc.aio.AioRpcError, match=f"a deposit of step {step}, which is not open"):
                await deposit_extra(stub, step)

    play_stub(scene, tmp_path)


def test_who_is_out_of_the_run_deposits_and_fetches_nothing(tmp_path: Path) -> None:
    async def scene(stub: shard_pb2_grpc.ShardStub) -> None:
        line = Line(stub)
        await line.attach()
        await line.configure(shard_pb2.Segment())
        await upload(stub)
        await deposit_extra(stub, 0, incarnation=1)
        line.send(retire=shard_pb2.Retire(incarnation=1))
        await line.hear("retired")
        with pytest.raises(grpc.aio.AioRpcError, match="incarnation 1 is out of the run"):
            await deposit_extra(stub, 0, incarnation=1)
        withdrawing = shard_pb2.WithdrawRequest(timeline=1, stream=0, step=0, incarnation=1)
        with pytest.raises(grpc.aio.AioRpcError, match="incarnation 1 is out of the run"):
            await received(stub.Withdraw(withdrawing))
        withdrawing.incarnation = 2
        assert (await received(stub.Withdraw(withdrawing)))[1] == b"state"

    play_stub(scene, tmp_path)


async def deposit_extra(stub: shard_pb2_grpc.ShardStub, step: int, *, incarnation: int = 0) -> None:
    """Of stream 0, under its first attempt."""

    async def chunks() -> AsyncIterator[shard_pb2.DepositChunk]:
        header = shard_pb2.DepositHeader(timeline=1, incarnation=incarnation, step=step, planes=["extra"])
        yield shard_pb2.DepositChunk(header=header)
        for chunk in plane_chunks("extra", b"state"):
            yield shard_pb2.DepositChunk(plane=chunk)

    await stub.Deposit(chunks())
