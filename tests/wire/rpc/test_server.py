"""Listening: port 0, health, reflection, and refusals that say what to do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from wire.errors import ConfigError, PermissionRefused, PortTaken
from wire.rpc.channel import MAX_MESSAGE_BYTES, open_channel
from wire.rpc.identity import Role, Security
from wire.rpc.server import Serving, serve
from wire.v1 import coordinator_pb2

NAME = coordinator_pb2.DESCRIPTOR.services_by_name["Coordinator"].full_name
HealthStatus = health_pb2.HealthCheckResponse


@contextlib.asynccontextmanager
async def listening(sink: Any, listen: str = "127.0.0.1:0", **security: Any) -> AsyncIterator[Serving]:
    serving = await serve(listen=listen, security=Security(**security), add=sink.add, services=[NAME])
    try:
        yield serving
    finally:
        await serving.stop(0)


async def refused(sink: Any, listen: str, **security: Any) -> None:
    async with listening(sink, listen, **security):
        pass


def test_port_zero_becomes_a_real_one_that_answers(sink: Any) -> None:
    async def main() -> None:
        async with listening(sink) as serving:
            assert serving.port > 0 and serving.address == f"127.0.0.1:{serving.port}"
            channel = open_channel(serving.address, Security(), role=Role.COORDINATOR, pool="data")
            await sink.push_mib(channel, 2)
            await channel.close(None)

    asyncio.run(main())


def test_health_follows_the_role(sink: Any) -> None:
    async def main() -> None:
        async with listening(sink) as serving:
            channel = open_channel(serving.address, Security(), role=Role.COORDINATOR, pool="control")
            check = health_pb2_grpc.HealthStub(channel).Check

            async def states() -> set[int]:
                replies = [await check(health_pb2.HealthCheckRequest(service=s)) for s in ("", NAME)]
                return {reply.status for reply in replies}

            assert await states() == {HealthStatus.NOT_SERVING}
            await serving.serving()
            assert await states() == {HealthStatus.SERVING}
            await serving.health.enter_graceful_shutdown()
            assert await states() == {HealthStatus.NOT_SERVING}
            await channel.close(None)

    asyncio.run(main())


def test_reflection_lists_the_services(sink: Any) -> None:
    async def main() -> None:
        async with listening(sink) as serving:
            channel = open_channel(serving.address, Security(), role=Role.COORDINATOR, pool="control")
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            info = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
            replies = [reply async for reply in info(iter([request]))]
            names = {service.name for service in replies[0].list_services_response.service}
            assert {NAME, "grpc.health.v1.Health"} <= names
            await channel.close(None)

    asyncio.run(main())


def test_a_message_beyond_the_limit_is_refused_and_the_connection_lives(sink: Any) -> None:
    async def main() -> None:
        async with listening(sink) as serving:
            channel = open_channel(serving.address, Security(), role=Role.COORDINATOR, pool="data")
            swallow = channel.stream_unary(f"/{sink.service}/Swallow")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await swallow(iter([bytes(MAX_MESSAGE_BYTES + 1)]))
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert await swallow(iter([bytes(1000)])) == b"1000"
            await channel.close(None)

    asyncio.run(main())


def test_a_taken_port_is_named(sink: Any) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen(1)
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        with pytest.raises(PortTaken, match=rf"{address}: Address already in use; .*another port"):
            asyncio.run(refused(sink, address))


def test_two_servers_never_share_a_port(sink: Any) -> None:
    async def main() -> None:
        async with listening(sink) as first:
            with pytest.raises(PortTaken, match=first.address):
                await refused(sink, first.address)

    asyncio.run(main())


def test_a_port_is_free_again_at_once(sink: Any) -> None:
    async def main() -> None:
        async with listening(sink) as first:
            channel = open_channel(first.address, Security(), role=Role.COORDINATOR, pool="data")
            await sink.push_mib(channel, 1)
        async with asyncio.timeout(
            10
        ):  # until the client has heard of the end, its next call may still go there
            await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
        async with listening(sink, first.address):
            await sink.push_mib(channel, 1)
        await channel.close(None)

    asyncio.run(main())


def test_an_address_of_another_machine_is_named(sink: Any) -> None:
    with pytest.raises(PortTaken, match=r"192\.0\.2\.1:0: .*no address of this machine.*--advertise"):
        asyncio.run(refused(sink, "192.0.2.1:0", insecure=True))
    with pytest.raises(PortTaken, match=r"'nowhere\.invalid' is not known"):
        asyncio.run(refused(sink, "nowhere.invalid:0", insecure=True))


def test_security_is_asked_before_anything_is_bound(sink: Any) -> None:
    with pytest.raises(PermissionRefused):
        asyncio.run(refused(sink, "0.0.0.0:0"))
    with pytest.raises(ConfigError):
        asyncio.run(refused(sink, "nonsense"))


def test_insecure_is_logged(sink: Any, caplog: pytest.LogCaptureFixture) -> None:
    asyncio.run(refused(sink, "0.0.0.0:0", insecure=True))
    assert any("--insecure" in record.getMessage() for record in caplog.records)


def test_mutual_tls(sink: Any, certificates: dict[str, Security]) -> None:
    async def main() -> None:
        ours = certificates["ours"]
        serving = await serve(
            listen="127.0.0.1:0", security=ours, add=sink.add, services=[], gate=sink.gate()
        )
        channel = open_channel(serving.address, ours, role=Role.COORDINATOR, pool="data")
        await sink.push_mib(channel, 2)
        await channel.close(None)
        for stranger in (Security(), certificates["foreign"]):
            channel = open_channel(serving.address, stranger, role=Role.COORDINATOR, pool="data")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await sink.push_mib(channel, 1)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            await channel.close(None)
        await serving.stop(0)

    asyncio.run(main())


def test_the_slow_protobuf_backend_is_refused() -> None:
    script = "from wire.rpc.server import assert_upb; assert_upb()"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[3],
        env={"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "ProtocolMismatch" in done.stderr and "expected 'upb'" in done.stderr
