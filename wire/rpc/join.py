"""Entering a run: the handshake of servers and workers with the coordinator."""

from __future__ import annotations

import os
import random
import socket

import grpc

from wire.clock import Deadline, monotonic_clock
from wire.errors import ProtocolMismatch
from wire.ids import PROTOCOL_VERSION
from wire.rpc.retry import Backoff, retrying
from wire.v1 import coordinator_pb2, coordinator_pb2_grpc


async def join(
    channel: grpc.aio.Channel,
    *,
    role: str,
    name: str,
    coordinator: str,
    timeout_s: float,
    address: str = "",
    fingerprint: str = "",
    held: tuple[str, int, int] | None = None,
) -> coordinator_pb2.JoinReply:
    """A new incarnation in the run. A name whose dead holder is not given up yet is waited for.

    A server that holds a shard from before it was started tells (run, timeline, incarnation) in `held`, and keeps its
    incarnation where the run still counts on that shard.

    Raises:
        NameTaken: another process of that name is alive.
        UsageError: the run has no room.
        RunOver: it has ended.
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
    if held is not None:
        request.run, request.timeline, request.incarnation = held
    stub = coordinator_pb2_grpc.CoordinatorStub(channel)
    reply: coordinator_pb2.JoinReply = await retrying(
        lambda: stub.Join(request),
        deadline=Deadline(monotonic_clock, timeout_s),
        backoff=Backoff(random.Random(), cap_s=1.0),
        peer=f"coordinator {coordinator}",
    )
    if reply.protocol_version != PROTOCOL_VERSION:
        raise ProtocolMismatch(
            f"the coordinator speaks protocol version {reply.protocol_version}, this {role} {PROTOCOL_VERSION}; "
            "install the same version of Sparsync on both machines"
        )
    return reply
