"""A sink that swallows bytes, and certificates."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import grpc
import grpc.aio
import pytest

from sparsync.authority import Authority
from wire.rpc.access import Rule
from wire.rpc.gate import Gate
from wire.rpc.identity import Role, Security


class Sink:
    """A service that swallows and pours known amounts of bytes, and its client side."""

    service = "test.Sink"

    def gate(self) -> Gate:
        """Everybody with a certificate may call it."""
        rules = {f"/{self.service}/{method}": Rule(frozenset(Role)) for method in ("Swallow", "Pour")}
        return Gate(rules=rules)

    def add(self, server: grpc.aio.Server) -> None:
        handlers = {
            "Swallow": grpc.stream_unary_rpc_method_handler(_swallow),
            "Pour": grpc.unary_stream_rpc_method_handler(_pour),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(self.service, handlers),))

    async def push_mib(self, channel: grpc.aio.Channel, count: int) -> None:
        async def requests() -> AsyncIterator[bytes]:
            for _ in range(count):
                yield bytes(1 << 20)

        swallowed = await channel.stream_unary(f"/{self.service}/Swallow")(requests())
        assert swallowed == str(count << 20).encode()

    async def pull_mib(self, channel: grpc.aio.Channel, count: int) -> None:
        poured = channel.unary_stream(f"/{self.service}/Pour")(str(count).encode())
        assert sum([len(reply) async for reply in poured]) == count << 20


async def _swallow(requests: AsyncIterator[bytes], context: Any) -> bytes:
    total = 0
    async for request in requests:
        total += len(request)
    return str(total).encode()


async def _pour(request: bytes, context: Any) -> AsyncIterator[bytes]:
    for _ in range(int(request)):
        yield bytes(1 << 20)


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture(scope="session")
def certificates(
    authority: Authority, foreign_authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Security]:
    """A coordinator of each of two unrelated authorities: "ours" and "foreign"."""

    def coordinator(signer: Authority) -> Security:
        out = tmp_path_factory.mktemp("coordinator")
        return Security(
            False, *signer.issue(Role.COORDINATOR, "main", now=datetime.now(UTC), out=out, again=True)[1]
        )

    return {"ours": coordinator(authority), "foreign": coordinator(foreign_authority)}
