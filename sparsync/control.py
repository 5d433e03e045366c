"""Calls from outside a run to its coordinator: look at it, steer it, end it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import grpc

from wire.errors import ProtocolMismatch
from wire.rpc.channel import open_channel
from wire.rpc.identity import Role
from wire.rpc.status import to_error
from wire.v1.coordinator_pb2 import (
    CheckpointRequest,
    DenyRequest,
    DrainRequest,
    SetRequest,
    StatusRequest,
    StopRequest,
)
from wire.v1.coordinator_pb2_grpc import CoordinatorStub

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from wire.rpc.identity import Security


class Control:
    """One channel to a coordinator; an async context manager.

    Each call raises the error that the coordinator answered with, or Unreachable.
    """

    def __init__(self, address: str, security: Security) -> None:
        self.address = address
        self._channel = open_channel(address, security, role=Role.COORDINATOR, pool="control")
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
        reply = await self._call(self._stub.Status, StatusRequest(), timeout_s)
        status = json.loads(reply.json)
        if not isinstance(status, dict):
            raise ProtocolMismatch(
                f"coordinator {self.address}: its status is no JSON object; use one version"
            )
        return status

    async def stop(self, reason: str, *, timeout_s: float) -> int:
        """Asks for the end of the run; returns the step after which it ends. A repeat changes nothing."""
        return int((await self._call(self._stub.Stop, StopRequest(reason=reason), timeout_s)).at_step)

    async def checkpoint(self, *, timeout_s: float) -> tuple[int, str]:
        """Has a checkpoint written; step and path (on the coordinator's machine) of it when it is whole on disk."""
        reply = await self._call(self._stub.Checkpoint, CheckpointRequest(), timeout_s)
        return int(reply.step), str(reply.path)

    async def set(self, settings: Mapping[str, str], *, timeout_s: float) -> dict[str, str]:
        """Changes live settings, all or none; returns those that differ from before. A repeat changes nothing.

        Keys are `section.key`, values as on the command line.
        """
        reply = await self._call(self._stub.Set, SetRequest(settings=settings), timeout_s)
        pairs = (changed.partition("=") for changed in reply.changed)
        return {key: value.strip('"') for key, _, value in pairs}

    async def drain(self, name: str, *, timeout_s: float) -> int:
        """Has a worker hand over what it does and leave; returns its incarnation. A repeat is no error."""
        return int((await self._call(self._stub.Drain, DrainRequest(name=name), timeout_s)).incarnation)

    async def deny(self, crl: bytes, *, timeout_s: float) -> tuple[bool, int]:
        """Hands over a list of revoked certificates: whether it is newer, and how many are revoked now."""
        reply = await self._call(self._stub.Deny, DenyRequest(crl=crl), timeout_s)
        return bool(reply.newer), int(reply.certificates)

    async def _call(self, method: Callable[..., Awaitable[Any]], request: Message, timeout_s: float) -> Any:
        try:
            return await method(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise to_error(error, peer=f"coordinator {self.address}") from error
