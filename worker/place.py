"""Where a shard is served: two connections to one address, under one term.

A link has one place at a time. When the shard is served elsewhere the place is left: the calls that
run there end as if the server had gone, and are made again at the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from wire.errors import Unreachable
from wire.rpc.access import InRun
from wire.rpc.channel import open_channel
from wire.rpc.frames import FrameStub
from wire.rpc.identity import Role, Security
from wire.rpc.in_run import InRunChannel
from wire.v1 import shard_pb2_grpc


@dataclass(frozen=True)
class Redirect:
    """A shard is served at `address` from now on, under `term`."""

    shard: int
    address: str
    term: int


class Place:
    """Two connections: frames and deltas on one, state on the other.

    Attributes:
        term: of the shard's primary there.
        name: of the server, for messages.
        left: whether the shard is served elsewhere by now.
    """

    def __init__(self, shard: int, address: str, *, term: int, security: Security, run: InRun) -> None:
        self.name = f"server {shard} at {address}"
        self.term = term
        self.left = asyncio.Event()
        self._channels = [
            open_channel(address, security, role=Role.PS, pool=pool) for pool in ("data", "state")
        ]
        self._calls: set[Any] = set()
        data, state = (InRunChannel(channel, run) for channel in self._channels)
        self.data = shard_pb2_grpc.ShardStub(data)
        self.frames = FrameStub(data)
        self.state = shard_pb2_grpc.ShardStub(state)

    @contextmanager
    def running(self, call: Any) -> Iterator[Any]:
        """`call`, which ends with this block, or before it when the place is left. Raises: Unreachable then."""
        self._calls.add(call)
        try:
            self._check()
            yield call
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or not task.cancelling():  # the call was cancelled, not who waits for it
                self._check()
            raise
        finally:
            self._calls.discard(call)
            call.cancel()  # gRPC would keep one that is dropped open until the garbage is collected

    def _check(self) -> None:
        if self.left.is_set():
            raise Unreachable(f"{self.name} serves the shard no more")

    def leave(self) -> None:
        """End the calls that run here."""
        self.left.set()
        for call in list(self._calls):
            call.cancel()

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close(None)
