"""Dialling: a wait that is bounded and says which stage fails."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from sparsync.authority import Authority
from wire.clock import monotonic_clock
from wire.errors import ConfigError, Unreachable
from wire.rpc import channel as dialling
from wire.rpc.channel import open_channel, reach
from wire.rpc.identity import Role, Security
from wire.rpc.server import serve

LIMIT_S = 1.0


async def fail_to_reach(address: str, security: Security | None = None) -> tuple[str, list[str]]:
    """(message of the failure, what was said meanwhile)."""
    said: list[str] = []
    started = time.monotonic()
    with pytest.raises(Unreachable) as caught:
        await reach(
            address,
            security or Security(),
            role=Role.COORDINATOR,
            pool="control",
            timeout_s=LIMIT_S,
            say=said.append,
            clock=monotonic_clock,
        )
    assert time.monotonic() - started < LIMIT_S + 2 * dialling.PROBE_S + 1
    assert f"connecting to {address}" in said[0]
    assert address in str(caught.value)
    print(caught.value)
    return str(caught.value), said


@contextlib.asynccontextmanager
async def peer(answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]) -> AsyncIterator[str]:
    """A TCP server that is no gRPC server; its address. Ends its connections when it ends."""
    running: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        running.add(asyncio.current_task())  # type: ignore[arg-type]
        try:
            with contextlib.suppress(ConnectionError):
                await answer(reader, writer)
        finally:
            writer.transport.abort()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def test_reaches_a_server(sink: Any) -> None:
    async def main() -> None:
        serving = await serve(listen="127.0.0.1:0", security=Security(), add=sink.add, services=[])
        said: list[str] = []
        channel = await reach(
            serving.address,
            Security(),
            role=Role.COORDINATOR,
            pool="data",
            timeout_s=5,
            say=said.append,
            clock=monotonic_clock,
        )
        assert channel.get_state() is grpc.ChannelConnectivity.READY
        assert len(said) == 1 and serving.address in said[0]
        await sink.push_mib(channel, 1)
        await channel.close(None)
        await serving.stop(0)

    asyncio.run(main())


def test_waits_for_a_server_that_comes_later(sink: Any) -> None:
    async def main() -> None:
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{holder.getsockname()[1]}"
        refused = asyncio.Event()

        def say(text: str) -> None:
            if "nothing listens" in text:
                refused.set()

        reaching = asyncio.create_task(
            reach(
                address,
                Security(),
                role=Role.COORDINATOR,
                pool="control",
                timeout_s=20,
                say=say,
                clock=monotonic_clock,
            )
        )
        await refused.wait()
        serving = await serve(listen=address, security=Security(), add=sink.add, services=[])
        channel = await reaching
        await channel.close(None)
        await serving.stop(0)

    asyncio.run(main())


def test_a_wrong_address_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="IPv6 in brackets"):
        asyncio.run(
            reach(
                "localhost",
                Security(),
                role=Role.COORDINATOR,
                pool="control",
                timeout_s=60,
                say=print,
                clock=monotonic_clock,
            )
        )


def test_an_unknown_name() -> None:
    message, said = asyncio.run(fail_to_reach("nowhere.invalid:7070"))
    assert "name resolution" in message and "'nowhere.invalid' is not known" in message
    assert any("name resolution" in text for text in said[1:])


def test_a_port_where_nothing_listens() -> None:
    with socket.socket() as holder:  # bound, not listening
        holder.bind(("127.0.0.1", 0))
        message, said = asyncio.run(fail_to_reach(f"127.0.0.1:{holder.getsockname()[1]}"))
    assert "connection" in message and "refuses: nothing listens there" in message
    assert any("nothing listens" in text and "s left" in text for text in said[1:])


def test_the_ips_of_a_name_are_told() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        message, _ = asyncio.run(fail_to_reach(f"localhost:{holder.getsockname()[1]}"))
    assert "localhost is " in message and "127.0.0.1" in message


def test_a_full_backlog_is_a_connection_that_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialling, "PROBE_S", 0.5)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:  # beyond the backlog the kernel drops what asks for a connection
            filler.setblocking(False)
            filler.connect_ex(holder.getsockname())
        message, _ = asyncio.run(fail_to_reach(f"127.0.0.1:{holder.getsockname()[1]}"))
        for filler in fillers:
            filler.close()
    assert "connection" in message and "does not answer within" in message and "firewalls" in message


def test_something_that_is_no_grpc() -> None:
    async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async def main() -> None:
        async with peer(http) as address:
            message, _ = await fail_to_reach(address)
        assert "gRPC: what answers there speaks no gRPC" in message and "HTTP/1.1" in message

    asyncio.run(main())


def test_something_that_hangs_up() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)

    async def main() -> None:
        async with peer(hang_up) as address:
            message, _ = await fail_to_reach(address)
        assert "closed the connection" in message

    asyncio.run(main())


def test_something_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialling, "PROBE_S", 0.3)

    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(100):
            pass

    async def main() -> None:
        async with peer(silence) as address:
            message, _ = await fail_to_reach(address)
        assert "says nothing" in message

    asyncio.run(main())


def test_tls_there_and_plain_text_here(sink: Any, certificates: dict[str, Security]) -> None:
    async def main() -> None:
        serving = await serve(listen="127.0.0.1:0", security=certificates["ours"], add=sink.add, services=[])
        message, _ = await fail_to_reach(serving.address)
        assert "it speaks TLS and we do not; give --tls-ca" in message
        await serving.stop(0)

    asyncio.run(main())


def test_plain_text_there_and_tls_here(sink: Any, certificates: dict[str, Security]) -> None:
    async def main() -> None:
        serving = await serve(listen="127.0.0.1:0", security=Security(), add=sink.add, services=[])
        message, _ = await fail_to_reach(serving.address, certificates["ours"])
        assert "TLS handshake" in message
        await serving.stop(0)

    asyncio.run(main())


def test_another_authority(sink: Any, certificates: dict[str, Security]) -> None:
    async def main() -> None:
        serving = await serve(listen="127.0.0.1:0", security=certificates["ours"], add=sink.add, services=[])
        message, _ = await fail_to_reach(serving.address, certificates["foreign"])
        assert "TLS handshake: its certificate is refused" in message and "--tls-ca" in message
        await serving.stop(0)

    asyncio.run(main())


def test_our_certificate_is_refused(sink: Any, certificates: dict[str, Security]) -> None:
    async def main() -> None:
        ours, foreign = certificates["ours"], certificates["foreign"]
        serving = await serve(
            listen="127.0.0.1:0", security=ours, add=sink.add, services=[], gate=sink.gate()
        )
        stranger = Security(tls_ca=ours.tls_ca, tls_cert=foreign.tls_cert, tls_key=foreign.tls_key)
        message, _ = await fail_to_reach(serving.address, stranger)
        assert "TLS handshake" in message and f"our certificate is not signed by {ours.tls_ca}" in message
        await serving.stop(0)

    asyncio.run(main())


def test_our_certificate_has_expired(sink: Any, member: Any, authority: Authority, tmp_path: Path) -> None:
    then = datetime.now(UTC) - timedelta(days=3)
    _, files = authority.issue(Role.WORKER, "old", now=then, days=1, out=tmp_path)

    async def main() -> None:
        serving = await serve(
            listen="127.0.0.1:0", security=member(Role.COORDINATOR), add=sink.add, services=[]
        )
        message, _ = await fail_to_reach(serving.address, Security(False, *files))
        assert "our certificate is good from" in message and "sparsync certs renew" in message
        await serving.stop(0)

    asyncio.run(main())


def test_a_certificate_of_another_role_is_no_coordinator(sink: Any, member: Any) -> None:
    async def main() -> None:
        for role in (Role.WORKER, Role.PS, Role.OPERATOR):
            serving = await serve(listen="127.0.0.1:0", security=member(role), add=sink.add, services=[])
            message, _ = await fail_to_reach(serving.address, member(Role.WORKER))
            assert "TLS handshake" in message
            if role is not Role.OPERATOR:  # which may not even serve
                assert "its certificate is not that of a coordinator" in message
            channel = open_channel(serving.address, member(Role.WORKER), role=Role.COORDINATOR, pool="data")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await sink.push_mib(channel, 1)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            await channel.close(None)
            await serving.stop(0)

    asyncio.run(main())


def test_reaches_over_tls(sink: Any, certificates: dict[str, Security]) -> None:
    async def main() -> None:
        ours = certificates["ours"]
        serving = await serve(
            listen="127.0.0.1:0", security=ours, add=sink.add, services=[], gate=sink.gate()
        )
        channel = await reach(
            serving.address,
            ours,
            role=Role.COORDINATOR,
            pool="data",
            timeout_s=5,
            say=print,
            clock=monotonic_clock,
        )
        await sink.push_mib(channel, 1)
        await channel.close(None)
        await serving.stop(0)

    asyncio.run(main())


def test_unknown_pools_are_refused() -> None:
    with pytest.raises(KeyError):
        open_channel("127.0.0.1:1", Security(), role=Role.COORDINATOR, pool="misc")
