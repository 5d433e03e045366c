"""What a server no longer has tells a worker that it is too far behind, and nothing worse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from wire.clock import monotonic_clock
from wire.errors import NoInput, StaleIncarnation
from wire.messages import ShardPlacement
from wire.rpc.access import InRun
from wire.rpc.identity import Security
from wire.rpc.server import serve
from wire.v1 import common_pb2, shard_pb2, shard_pb2_grpc
from worker.links import ShardLink


class Trimmed(shard_pb2_grpc.ShardServicer):
    """It has forgotten a deposit that a later one replaced."""

    async def Withdraw(
        self, request: shard_pb2.WithdrawRequest, context: Any
    ) -> AsyncIterator[common_pb2.PlaneChunk]:
        raise NoInput(f"no deposit of stream {request.stream} at step {request.step} on this shard")
        yield


async def withdraw() -> None:
    served = await serve(
        listen="127.0.0.1:0",
        security=Security(),
        add=lambda server: shard_pb2_grpc.add_ShardServicer_to_server(Trimmed(), server),
        services=[],
    )
    link = ShardLink(
        ShardPlacement(0, served.address, 1, ()),
        Security(),
        incarnation=1,
        run=InRun("a run", 1),
        plan=1,
        bytes=0,
        clock=monotonic_clock,
    )
    try:
        await link.withdraw(2, 419, lambda name: None)
    finally:
        await link.close()
        await served.stop(0)


def test_a_deposit_that_was_replaced_is_a_reason_to_join_anew() -> None:
    """A worker that was stopped for long goes on with an old plan: its stream has moved on with another one."""
    with pytest.raises(StaleIncarnation, match=r"no deposit of stream 2 at step 419 .* joins anew"):
        asyncio.run(asyncio.wait_for(withdraw(), 30))
