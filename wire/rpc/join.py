"""Entering a run: the handshake of servers and workers with the coordinator."""

from __future__ import annotations

import os
import socket

import grpc

from wire.errors import ProtocolMismatch
from wire.ids import PROTOCOL_VERSION
from wire.rpc.status import to_error
from wire.v1 import coordinator_pb2, coordinator_pb2_grpc

JOIN_TIMEOUT_S = 30.0


async def join(
    channel: grpc.aio.Channel,
    *,
    role: str,
    name: str,
    coordinator: str,
    address: str = "",
    fingerprint: str = "",
) -> coordinator_pb2.JoinReply:
    """A new incarnation in the run.

    Raises:
        UsageError: the name is taken, or the run has no room or is over.
        ModelMismatch: the fingerprint differs from the run's.
        ProtocolMismatch: the coordinator speaks another version.
        Unreachable: no answer.
    """
    request = coordinator_pb2.JoinRequest(
        protocol_version=PROTOCOL_VERSION,
        role=role,
        name=name,
        address=address,
        fingerprint=fingerprint,
        pid=os.getpid(),
        host=socket.gethostname(),
    )
    try:
        reply: coordinator_pb2.JoinReply = await coordinator_pb2_grpc.CoordinatorStub(channel).Join(
            request, timeout=JOIN_TIMEOUT_S
        )
    except grpc.aio.AioRpcError as error:
        raise to_error(error, peer=f"coordinator {coordinator}") from None
    if reply.protocol_version != PROTOCOL_VERSION:
        raise ProtocolMismatch(
            f"the coordinator speaks protocol version {reply.protocol_version}, this {role} {PROTOCOL_VERSION}; "
            "install the same version of Sparsync on both machines"
        )
    return reply
