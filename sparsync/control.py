"""Calls from outside a run to its coordinator: status and stop."""

from __future__ import annotations

import json
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import grpc

from wire.errors import ProtocolMismatch
from wire.rpc.channel import open_channel
from wire.rpc.status import to_error
from wire.v1.coordinator_pb2 import StatusRequest, StopRequest
from wire.v1.coordinator_pb2_grpc import CoordinatorStub

if TYPE_CHECKING:
    from wire.rpc.identity import Security


class Control:
    """One channel to a coordinator; an async context manager.

    Each call raises the error that the coordinator answered with, or Unreachable.
    """

    def __init__(self, address: str, security: Security) -> None:
        self.address = address
        self._channel = open_channel(address, security, pool="control")
        self._stub = CoordinatorStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def close(self) -> None:
        await self._channel.close(None)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def status(self, *, timeout_s: float) -> dict[str, Any]:
        """What the run looks like now (docs/status.md)."""
        try:
            reply = await self._stub.Status(StatusRequest(), timeout=timeout_s)
        except grpc.RpcError as error:
            raise to_error(error, peer=f"coordinator {self.address}") from error
        status = json.loads(reply.json)
        if not isinstance(status, dict):
            raise ProtocolMismatch(
                f"coordinator {self.address}: its status is no JSON object; use one version"
            )
        return status

    async def stop(self, reason: str, *, timeout_s: float) -> int:
        """Asks for the end of the run; returns the step after which it ends. A repeat changes nothing."""
        try:
            reply = await self._stub.Stop(StopRequest(reason=reason), timeout=timeout_s)
        except grpc.RpcError as error:
            raise to_error(error, peer=f"coordinator {self.address}") from error
        return int(reply.at_step)
