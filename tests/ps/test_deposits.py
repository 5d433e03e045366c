"""Deposits over a real connection: whole, and of the stream's holder only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import grpc
import pytest

from ps.owner import Owner
from tests.ps.serving import (
    Line,
    play_exact,
    play_stub,
    received,
    upload,
)
from wire.rpc.planes import plane_chunks
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
                    timeline=1, stream=2, step=4, attempt=attempt, planes=["extra"]
                )
                yield shard_pb2.DepositChunk(header=header)
                for chunk in plane_chunks("extra", state) if state else ():
                    yield shard_pb2.DepositChunk(plane=chunk)
                await goes_on.wait()

            await stub.Deposit(chunks())

        async def kept() -> bytes:
            asked = shard_pb2.WithdrawRequest(timeline=1, stream=2, step=4)
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
