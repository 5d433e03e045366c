"""Files that are replaced while both sides run: who is seen by whom, over real sockets, without a restart."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from sparsync.authority import Authority
from wire.errors import Unidentified, Unreachable
from wire.rpc.access import Rule
from wire.rpc.channel import open_channel
from wire.rpc.gate import Gate
from wire.rpc.identity import Role, Security, peer_of
from wire.rpc.pem_files import PemFiles
from wire.rpc.reloading import PemWatch
from wire.rpc.server import Serving, serve
from wire.rpc.status import to_error

NOW = datetime.now(UTC)
GATE = Gate(rules={f"/test.Serial/{method}": Rule(frozenset(Role)) for method in ("Who", "Watch")})


class Files:
    """The files of one member, which can be replaced."""

    def __init__(self, authority: Authority, role: Role, name: str, out: Path) -> None:
        self._authority, self._role, self._name, self._out = authority, role, name, out
        self.serial = ""
        self.replace()

    def replace(self, *, now: datetime = NOW, days: float | None = None) -> None:
        issued, self.files = self._authority.issue(
            self._role, self._name, now=now, days=days, out=self._out, again=True
        )
        self.serial = issued.peer.serial

    @property
    def security(self) -> Security:
        return Security(False, *self.files)


@pytest.fixture
def here(authority: Authority, tmp_path: Path) -> Files:
    return Files(authority, Role.WORKER, "node1", tmp_path / "worker")


@pytest.fixture
def there(authority: Authority, tmp_path: Path) -> Files:
    return Files(authority, Role.COORDINATOR, "main", tmp_path / "coordinator")


def answer_with_serial(server: grpc.aio.Server) -> None:
    """`Who` answers with the caller's serial number, `Watch` as often as it is asked."""

    async def who(request: bytes, context: Any) -> bytes:
        return peer_of(context).serial.encode()

    async def watch(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for _ in requests:
            yield peer_of(context).serial.encode()

    handlers = {
        "Who": grpc.unary_unary_rpc_method_handler(who),
        "Watch": grpc.stream_stream_rpc_method_handler(watch),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Serial", handlers),))


@contextlib.asynccontextmanager
async def serving(security: Security, listen: str = "127.0.0.1:0") -> AsyncIterator[Serving]:
    started = await serve(listen=listen, security=security, add=answer_with_serial, services=[], gate=GATE)
    try:
        yield started
    finally:
        await started.stop(0)


@contextlib.asynccontextmanager
async def dialled(address: str, security: Security) -> AsyncIterator[grpc.aio.Channel]:
    channel = open_channel(address, security, role=Role.COORDINATOR, pool="control")
    try:
        yield channel
    finally:
        await channel.close(None)


async def shown_by(address: str, security: Security) -> int:
    """The serial number of the certificate that is shown there, as Python's TLS sees it."""
    from cryptography import x509

    _, writer = await asyncio.open_connection(
        *address.rsplit(":", 1), ssl=security.ssl_context(), server_hostname="coordinator.sparsync"
    )
    found = x509.load_der_x509_certificate(writer.get_extra_info("ssl_object").getpeercert(True))
    writer.transport.abort()
    return found.serial_number


def test_a_server_shows_its_newest_certificate(here: Files, there: Files) -> None:
    async def main() -> None:
        async with serving(there.security) as server:
            for _ in range(3):
                assert f"{await shown_by(server.address, here.security):x}" == there.serial
                there.replace()

    asyncio.run(main())


def test_a_call_shows_the_newest_certificate_and_a_stream_goes_on(here: Files, there: Files) -> None:
    async def main() -> None:
        async with serving(there.security) as server, dialled(server.address, here.security) as channel:
            who = channel.unary_unary("/test.Serial/Who")
            stream = channel.stream_stream("/test.Serial/Watch")()
            first = here.serial

            async def seen_on_the_stream() -> str:
                await stream.write(b"")
                return (await stream.read()).decode()

            for _ in range(3):
                assert (await who(b"")).decode() == here.serial
                assert await seen_on_the_stream() == first
                here.replace()
            assert (await who(b"")).decode() == here.serial
            await stream.done_writing()
            assert await stream.read() is grpc.aio.EOF and await stream.code() is grpc.StatusCode.OK

    asyncio.run(main())


def test_what_is_left_on_older_connections_ends_with_the_channel(here: Files, there: Files) -> None:
    async def main() -> None:
        async with serving(there.security) as server:
            async with dialled(server.address, here.security) as channel:
                stream = channel.stream_stream("/test.Serial/Watch")()
                await stream.write(b"")
                await stream.read()
                here.replace()
                await channel.unary_unary("/test.Serial/Who")(b"")
            assert await stream.code() is grpc.StatusCode.CANCELLED

    asyncio.run(main())


def test_an_expired_certificate_is_refused_until_it_is_renewed(here: Files, there: Files) -> None:
    async def main() -> None:
        here.replace(now=NOW - timedelta(days=3), days=1)
        async with serving(there.security) as server, dialled(server.address, here.security) as channel:
            who = channel.unary_unary("/test.Serial/Who")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await who(b"", timeout=10)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            here.replace()
            assert (await who(b"", timeout=10)).decode() == here.serial

    asyncio.run(main())


def test_a_server_that_comes_back_with_another_authority_is_found(
    here: Files, there: Files, foreign_authority: Authority
) -> None:
    async def main() -> None:
        async with dialled("127.0.0.1:1", here.security):
            pass
        async with serving(there.security) as server:
            address = server.address
            async with dialled(address, here.security) as channel:
                who = channel.unary_unary("/test.Serial/Who")
                assert (await who(b"")).decode() == here.serial
                for files in (here, there):
                    files._authority = foreign_authority
                    files.replace()
                assert (await who(b"", timeout=10)).decode() == here.serial  # no restart of either

    asyncio.run(main())


def test_files_between_two_states_are_passed_over(
    here: Files, there: Files, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with serving(there.security) as server, dialled(server.address, here.security) as channel:
            who = channel.unary_unary("/test.Serial/Who")
            before = (await who(b"")).decode()
            key = here.files.key.read_bytes()
            here.replace()
            new = here.files.key.read_bytes()
            here.files.key.write_bytes(key)  # the new certificate with the old key
            for _ in range(3):
                assert (await who(b"")).decode() == before
            here.files.key.write_bytes(new)
            assert (await who(b"")).decode() == here.serial

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert len([r for r in caplog.records if "are not used" in r.getMessage()]) == 1


def test_a_server_keeps_what_it_has_while_files_are_missing(here: Files, there: Files) -> None:
    async def main() -> None:
        async with serving(there.security) as server:
            before = there.serial
            there.files.cert.unlink()
            assert f"{await shown_by(server.address, here.security):x}" == before
            there.replace()
            assert f"{await shown_by(server.address, here.security):x}" == there.serial

    asyncio.run(main())


def test_a_key_that_is_opened_to_others_is_not_taken_up(here: Files) -> None:
    watch = PemWatch(PemFiles(*here.files))
    before = watch.pems
    here.replace()
    here.files.key.chmod(0o644)
    watch.look()
    assert watch.pems is before
    here.replace()
    watch.look()
    assert watch.pems is not before and watch.pems.serial() == here.serial


def test_what_is_refused_for_an_older_certificate_is_called_again(here: Files, there: Files) -> None:
    async def main() -> None:
        gate = Gate(
            rules={"/test.Serial/Who": Rule(frozenset(Role)), "/test.Serial/Watch": Rule(frozenset(Role))}
        )
        serving = await serve(
            listen="127.0.0.1:0", security=there.security, add=answer_with_serial, services=[], gate=gate
        )
        async with dialled(serving.address, here.security) as channel:
            who = channel.unary_unary("/test.Serial/Who")
            for newer in (True, False):
                stream = channel.stream_stream("/test.Serial/Watch")()
                await stream.write(b"")
                assert (await stream.read()).decode() == here.serial
                older = here.serial
                if newer:
                    here.replace()
                gate.deny(frozenset({older}))
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stream.read()
                refusal = to_error(caught.value, peer="server")
                assert isinstance(refusal, Unreachable if newer else Unidentified)
                if newer:
                    assert refusal.retry and (await who(b"")).decode() == here.serial
        await serving.stop(0)

    asyncio.run(main())
