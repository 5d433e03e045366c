"""What one server takes at a time: connections, handshakes, streams, calls, and bytes; on real sockets, with TLS."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from coordinator.runtime import MOST_MESSAGE_BYTES
from wire.errors import Busy, ProtocolMismatch
from wire.rpc import server as listening
from wire.rpc.access import Rule
from wire.rpc.channel import MAX_MESSAGE_BYTES, open_channel
from wire.rpc.gate import Gate
from wire.rpc.identity import Role, Security, server_name
from wire.rpc.server import Serving, serve
from wire.rpc.status import to_error

ECHO = "/test.Echo/Echo"
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
QUIET_S = 0.5
"""So long nothing comes where nothing should."""
LIMIT_S = 20.0


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`limit(name=value)` before a server is started: of a gRPC setting, or the number of calls."""

    def set_limits(*, calls: int | None = None, **settings: int) -> None:
        named = {f"grpc.{name}": value for name, value in settings.items()}
        assert named.keys() <= dict(listening.OPTIONS).keys(), "no limit is set there"
        monkeypatch.setattr(listening, "OPTIONS", tuple({**dict(listening.OPTIONS), **named}.items()))
        if calls is not None:
            monkeypatch.setattr(listening, "MOST_CALLS", calls)

    return set_limits


def add_echo(server: grpc.aio.Server) -> None:
    async def echo(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    handlers = {"Echo": grpc.stream_stream_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))


@contextlib.asynccontextmanager
async def echoing(security: Security) -> AsyncIterator[Serving]:
    gate = Gate(rules={ECHO: Rule(frozenset(Role))})
    serving = await serve(listen="127.0.0.1:0", security=security, add=add_echo, services=[], gate=gate)
    try:
        yield serving
    finally:
        await serving.stop(0)


@contextlib.asynccontextmanager
async def dialled(serving: Serving, security: Security) -> AsyncIterator[grpc.aio.Channel]:
    channel = open_channel(serving.address, security, role=Role.COORDINATOR, pool="control")
    try:
        yield channel
    finally:
        await channel.close(None)


async def echo(channel: grpc.aio.Channel, message: bytes = b"x", **options: Any) -> bytes:
    async def one() -> AsyncIterator[bytes]:
        yield message

    return b"".join([reply async for reply in channel.stream_stream(ECHO)(one(), **options)])


async def opened(channel: grpc.aio.Channel) -> Any:
    """A call that lasts, once it is answered."""
    call = channel.stream_stream(ECHO)()
    await call.write(b"x")
    assert await call.read() == b"x"
    return call


async def greet(serving: Serving, security: Security) -> tuple[bytes, asyncio.StreamWriter | None]:
    """The first bytes of the answer to a client of HTTP/2 over TLS; none where the connection is closed."""
    try:
        reader, writer = await asyncio.open_connection(
            serving.host,
            serving.port,
            ssl=security.ssl_context(),
            server_hostname=server_name(Role.COORDINATOR),
        )
        writer.write(GREETING)
        return await reader.read(9), writer
    except OSError:
        return b"", None


def test_connections(limit: Any, member: Any) -> None:
    async def main() -> None:
        limit(max_allowed_incoming_connections=3)
        ours = member(Role.WORKER)
        async with echoing(member(Role.COORDINATOR)) as serving, dialled(serving, ours) as channel:
            lasting = await opened(channel)
            others = [await greet(serving, ours) for _ in range(5)]
            assert [answer != b"" for answer, _ in others] == [True, True, False, False, False]
            await lasting.write(b"y")  # who is there already is not disturbed
            assert await lasting.read() == b"y"
            for _, writer in others:
                if writer is not None:
                    writer.transport.abort()
            async with asyncio.timeout(LIMIT_S):  # until the server has seen that they are gone
                while not (again := await greet(serving, ours))[0]:
                    pass
            assert again[1] is not None
            again[1].transport.abort()

    asyncio.run(main())


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n"])
def test_who_does_not_finish_a_handshake_is_closed(limit: Any, member: Any, said: bytes) -> None:
    async def main() -> None:
        limit(server_handshake_timeout_ms=500)
        async with (
            echoing(member(Role.COORDINATOR)) as serving,
            dialled(serving, member(Role.WORKER)) as channel,
        ):
            reader, writer = await asyncio.open_connection(serving.host, serving.port)
            writer.write(said)
            assert await echo(channel) == b"x"  # others are served meanwhile
            async with asyncio.timeout(LIMIT_S):
                with contextlib.suppress(ConnectionError):
                    while await reader.read(100):
                        pass
            writer.transport.abort()

    asyncio.run(main())


def test_who_says_nothing_after_tls_is_closed(limit: Any, member: Any) -> None:
    async def main() -> None:
        limit(server_handshake_timeout_ms=500)
        async with echoing(member(Role.COORDINATOR)) as serving:
            reader, writer = await asyncio.open_connection(
                serving.host,
                serving.port,
                ssl=member(Role.WORKER).ssl_context(),
                server_hostname=server_name(Role.COORDINATOR),
            )
            async with asyncio.timeout(LIMIT_S):
                while await reader.read(100):
                    pass
            writer.transport.abort()

    asyncio.run(main())


def test_streams_of_one_connection_wait_for_each_other(limit: Any, member: Any) -> None:
    async def main() -> None:
        limit(max_concurrent_streams=3)
        ours = member(Role.WORKER)
        async with (
            echoing(member(Role.COORDINATOR)) as serving,
            dialled(serving, ours) as channel,
            dialled(serving, ours) as other,
        ):
            lasting = [await opened(channel) for _ in range(3)]
            fourth = asyncio.create_task(echo(channel))
            assert await echo(other) == b"x"  # each connection has its own
            done, _ = await asyncio.wait({fourth}, timeout=QUIET_S)
            assert not done
            await lasting[0].done_writing()
            assert await asyncio.wait_for(fourth, LIMIT_S) == b"x"

    asyncio.run(main())


def test_calls_beyond_what_a_server_takes_are_told_to_come_back(limit: Any, member: Any) -> None:
    async def main() -> None:
        limit(calls=3)
        ours = member(Role.WORKER)
        async with echoing(member(Role.COORDINATOR)) as serving, dialled(serving, ours) as channel:
            lasting = [await opened(channel) for _ in range(3)]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await echo(channel)
            refusal = to_error(caught.value, peer="server")
            assert isinstance(refusal, Busy) and refusal.retry
            await lasting[0].done_writing()
            assert await lasting[0].code() is grpc.StatusCode.OK
            async with asyncio.timeout(LIMIT_S):
                while True:
                    with contextlib.suppress(grpc.aio.AioRpcError):
                        assert await echo(channel) == b"x"
                        break

    asyncio.run(main())


def test_bytes_of_a_message_and_of_metadata(member: Any) -> None:
    async def main() -> None:
        ours = member(Role.WORKER)
        async with echoing(member(Role.COORDINATOR)) as serving, dialled(serving, ours) as channel:
            for message, metadata in (
                (bytes(MAX_MESSAGE_BYTES + 1), ()),
                (b"x", (("key", "v" * (17 << 10)),)),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await echo(channel, message, metadata=metadata)
                assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert isinstance(to_error(caught.value, peer="server"), ProtocolMismatch)
            assert await echo(channel, bytes(1 << 20)) == bytes(1 << 20)  # over the same connection

    asyncio.run(main())


def test_a_server_of_small_messages_takes_no_long_ones() -> None:
    async def main() -> None:
        serving = await serve(
            listen="127.0.0.1:0",
            security=Security(),
            add=add_echo,
            services=[],
            most_message_bytes=MOST_MESSAGE_BYTES,
        )
        try:
            async with dialled(serving, Security()) as channel:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await echo(channel, bytes(MOST_MESSAGE_BYTES + 1))
                assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert await echo(channel, bytes(1 << 20)) == bytes(1 << 20)
        finally:
            await serving.stop(0)

    asyncio.run(main())


def test_limits_are_set() -> None:
    set_there = dict(listening.OPTIONS)
    assert set_there["grpc.max_allowed_incoming_connections"] == 4096
    assert set_there["grpc.server_handshake_timeout_ms"] == 10_000
    assert set_there["grpc.max_concurrent_streams"] == 256
    assert MAX_MESSAGE_BYTES == 32 << 20
    assert set_there["grpc.so_reuseport"] == 0
