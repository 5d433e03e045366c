"""Listening: an aio server with our settings, health, reflection and errors as status codes.

One process, one server, one address. `grpc.so_reuseport` is off, so that two processes never
share a port by accident (P10).
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import grpc
import grpc.aio
from google.protobuf.internal import api_implementation
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from wire.errors import PortTaken, ProtocolMismatch
from wire.rpc.address import format_address, parse_address
from wire.rpc.channel import KEEPALIVE_TIME_MS, MAX_MESSAGE_BYTES
from wire.rpc.gate import Gate
from wire.rpc.identity import Security
from wire.rpc.reloading import server_credentials
from wire.rpc.status import ErrorInterceptor

OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),  # a half-open client sends no reset (P6)
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    (
        "grpc.http2.min_ping_interval_without_data_ms",
        5_000,
    ),  # its default of 300 s ends our clients' connections
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_allowed_incoming_connections", 4_096),  # further ones are closed at once, whoever asks
    ("grpc.server_handshake_timeout_ms", 10_000),  # for TLS and the first bytes of HTTP/2 together
    ("grpc.max_concurrent_streams", 256),  # of one connection; further ones wait at the client
    ("grpc.max_metadata_size", 8 << 10),
    ("grpc.absolute_max_metadata_size", 16 << 10),
)
MOST_CALLS = 16_384
"""At a time, of one server; further ones are answered with `Busy`. A worker has two or three that last."""
_log = logging.getLogger(__name__)


@dataclass
class Serving:
    """A server that listens."""

    server: grpc.aio.Server
    host: str
    port: int
    health: HealthServicer
    services: tuple[str, ...]

    @property
    def address(self) -> str:
        """`host:port`, with the port that was really bound."""
        return format_address(self.host, self.port)

    async def serving(self) -> None:
        """Tells health checks that every service takes calls."""
        for service in ("", *self.services):
            await self.health.set(service, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace_s: float) -> None:
        """Takes no new calls, and ends the running ones after `grace_s` seconds."""
        await self.health.enter_graceful_shutdown()
        await self.server.stop(grace_s)


async def serve(
    *,
    listen: str,
    security: Security,
    add: Callable[[grpc.aio.Server], None],
    services: Sequence[str],
    gate: Gate | None = None,
    most_message_bytes: int = MAX_MESSAGE_BYTES,
) -> Serving:
    """Starts a server on `listen` (port 0: any free one) with the servicers that `add` adds.

    `services` are their full names, for health and reflection. `gate` lets calls through; without one what the table
    of access says is all that is asked. `most_message_bytes`: of what is received, which is whole in memory before the
    gate sees the call. Health says NOT_SERVING until `Serving.serving()`.

    Raises:
        ConfigError: `listen` is no address.
        PermissionRefused: security forbids to listen there.
        PortTaken: the port is in use, or the address is not this machine's.
    """
    assert_upb()
    host, port = parse_address(listen)
    security.check_listen(host)
    if security.insecure and not security.tls:
        _log.warning("--insecure: %s is open to everyone who can reach it", listen)
    credentials = server_credentials(files) if (files := security.files) else None
    check_bindable(host, port)
    server = grpc.aio.server(
        interceptors=[ErrorInterceptor(), gate or Gate()],
        options=[*OPTIONS, ("grpc.max_receive_message_length", most_message_bytes)],
        maximum_concurrent_rpcs=MOST_CALLS,
    )
    add(server)
    checks = await _add_health(server, services)
    reflection.enable_server_reflection([*services, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    bound = _bind(server, format_address(host, port), credentials)
    await server.start()
    return Serving(server, host, bound, checks, tuple(services))


def assert_upb() -> None:
    """Raises ProtocolMismatch unless protobuf runs on its C backend (the pure Python one is ~30x slower)."""
    backend = api_implementation.Type()
    if backend != "upb":
        raise ProtocolMismatch(
            f"protobuf runs on its {backend!r} backend, expected 'upb'; unset "
            "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION and install protobuf from its binary wheel"
        )


async def _add_health(server: grpc.aio.Server, services: Sequence[str]) -> HealthServicer:
    checks = HealthServicer()
    for service in ("", *services):
        await checks.set(service, health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    return checks


def _bind(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise PortTaken(f"cannot listen on {address}: {error}; choose another --listen address") from error


_REMEDIES = {
    errno.EADDRINUSE: "another process listens on it: end that one, or choose another port with --listen (0: any)",
    errno.EADDRNOTAVAIL: "it is no address of this machine: --listen takes a local one, --advertise what others dial",
    errno.EACCES: "ports below 1024 need privileges: choose a higher one with --listen",
}


def check_bindable(host: str, port: int) -> None:
    """Binds a plain socket for a moment: unlike gRPC it says why it fails."""
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise PortTaken(
            f"cannot listen on {format_address(host, port)}: {host!r} is not known ({error.strerror}); "
            "give --listen an address of this machine"
        ) from error
    family, kind, proto, _, sockaddr = infos[0]
    with socket.socket(family, kind, proto) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(sockaddr)
            probe.listen(1)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            remedy = _REMEDIES.get(error.errno or 0, "choose another --listen address")
            raise PortTaken(f"cannot listen on {format_address(host, port)}: {reason}; {remedy}") from error
