"""A sink that swallows bytes, and certificates."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from wire.rpc.identity import Security


class Sink:
    """A service that swallows and pours known amounts of bytes, and its client side."""

    service = "test.Sink"

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
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Security]:
    """One member of each of two unrelated authorities: "ours" and "foreign", both for 127.0.0.1 and localhost."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make certificates")
    return {name: _issue(tmp_path_factory.mktemp(name)) for name in ("ours", "foreign")}


def _issue(directory: Path) -> Security:
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    ca = ["-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test CA", "-days", "2"]
    leaf = ["-keyout", "leaf.key", "-out", "leaf.pem", "-subj", "/CN=test", "-days", "2"]
    sign = ["-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    for arguments in ([*new, *ca], [*new, *leaf, *sign, "-addext", "basicConstraints=critical,CA:FALSE"]):
        subprocess.run(arguments, cwd=directory, check=True, capture_output=True, timeout=30)
    return Security(
        tls_ca=directory / "ca.pem", tls_cert=directory / "leaf.pem", tls_key=directory / "leaf.key"
    )
