"""The limit that the data path is held against: the same bytes on bare `grpc.aio` streams, without protobuf.

S servers and W clients are processes of their own, with the channel and server options of `wire.rpc`. An exchange of
N bytes is a push of N / S bytes to every server at once, in messages of 1 MiB, and then a pull of as many. Messages
are `bytes` from end to end (no serializers), made once and sent again and again; nobody reads them.

    python -m sparsync.bench.raw server BYTES                        serves until its standard input ends
    python -m sparsync.bench.raw client BYTES SECONDS ADDRESS…       measures after a line on its standard input
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

import grpc
import grpc.aio

from wire.clock import Deadline, monotonic_clock
from wire.errors import SparsyncError
from wire.rpc.channel import open_channel
from wire.rpc.identity import Role, Security
from wire.rpc.server import OPTIONS

CHUNK_BYTES = 1 << 20
SERVICE = "sparsync.bench.Raw"
LEAST_EXCHANGES = 3
PYTHON = (sys.executable, "-P", "-m", "sparsync.bench.raw")


@dataclass(frozen=True)
class Exchange:
    """Monotonic seconds of one exchange: its begin, the end of the push, the end of the pull."""

    begin: float
    pushed: float
    pulled: float


def messages(size: int) -> Iterator[bytes]:
    """`size` bytes in messages of 1 MiB, the last one shorter; all views of the same bytes."""
    whole = bytes(CHUNK_BYTES)
    for start in range(0, size, CHUNK_BYTES):
        left = size - start
        yield whole if left >= CHUNK_BYTES else whole[:left]


# ── the processes ───────────────────────────────────────────────────────────────────────────────


async def serve(size: int) -> None:
    """Takes pushes, answers pulls with `size` bytes; tells its port on standard output."""

    async def push(requests: AsyncIterator[bytes], context: object) -> bytes:
        received = 0
        async for message in requests:
            received += len(message)
        return str(received).encode()

    async def pull(request: bytes, context: object) -> AsyncIterator[bytes]:
        for message in messages(size):
            yield message

    server = grpc.aio.server(options=list(OPTIONS))
    handlers = {
        "Push": grpc.stream_unary_rpc_method_handler(push),
        "Pull": grpc.unary_stream_rpc_method_handler(pull),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    _tell(f"127.0.0.1:{port}")
    await asyncio.to_thread(sys.stdin.readline)
    await server.stop(None)


async def measure(size: int, seconds: float, addresses: Sequence[str]) -> None:
    """Exchanges with all servers for about `seconds`, after one that does not count; tells them as JSON."""
    channels = [open_channel(address, Security(), role=Role.PS, pool="data") for address in addresses]
    share = -(-size // len(channels))
    await exchange(channels, share)
    _tell("ready")
    await asyncio.to_thread(sys.stdin.readline)
    deadline = Deadline(monotonic_clock, seconds)
    done: list[Exchange] = []
    while len(done) < LEAST_EXCHANGES or not deadline.passed:
        done.append(await exchange(channels, share))
    _tell(json.dumps([[e.begin, e.pushed, e.pulled] for e in done]))
    for channel in channels:
        await channel.close(None)


async def exchange(channels: Sequence[grpc.aio.Channel], share: int) -> Exchange:
    """`share` bytes to each server, then as many from each. Raises: RuntimeError where some are missing."""

    async def push(channel: grpc.aio.Channel) -> int:
        async def requests() -> AsyncIterator[bytes]:
            for message in messages(share):
                yield message

        return int(await channel.stream_unary(f"/{SERVICE}/Push", None, None)(requests()))

    async def pull(channel: grpc.aio.Channel) -> int:
        received = 0
        async for message in channel.unary_stream(f"/{SERVICE}/Pull", None, None)(b""):
            received += len(message)
        return received

    begin = monotonic_clock.now()
    pushed = await asyncio.gather(*map(push, channels))
    middle = monotonic_clock.now()
    pulled = await asyncio.gather(*map(pull, channels))
    end = monotonic_clock.now()
    if {*pushed, *pulled} != {share}:
        raise RuntimeError(f"servers took {pushed} and sent {pulled} bytes, expected {share} each")
    return Exchange(begin, middle, end)


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


# ── who starts them ─────────────────────────────────────────────────────────────────────────────


def run(*, size: int, clients: int, servers: int, seconds: float) -> list[list[Exchange]]:
    """The exchanges of each client; all clients begin together.

    Raises: SparsyncError where a process ends early; what it said is on standard error.
    """
    share = -(-size // servers)
    with contextlib.ExitStack() as stack:
        serving = [stack.enter_context(_started("server", str(share))) for _ in range(servers)]
        addresses = [_heard(process) for process in serving]
        words = ["client", str(size), str(seconds), *addresses]
        measuring = [stack.enter_context(_started(*words)) for _ in range(clients)]
        for process in measuring:
            _heard(process)
        for process in measuring:
            assert process.stdin is not None
            process.stdin.write("begin\n")
            process.stdin.flush()
        return [[Exchange(*times) for times in json.loads(_heard(process))] for process in measuring]


@contextlib.contextmanager
def _started(*words: str) -> Iterator[subprocess.Popen[str]]:
    """A process that ends, by the end of its standard input or by a signal, with the context."""
    process = subprocess.Popen([*PYTHON, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    except BaseException:
        process.kill()
        raise
    finally:
        process.communicate()


def _heard(process: subprocess.Popen[str]) -> str:
    """The next line that the process tells."""
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        raise SparsyncError(
            f"a raw stream process ended early (code {process.wait()}); see what it said above"
        )
    return line


def main(words: Sequence[str]) -> None:
    role, size, *rest = words
    if role == "server":
        asyncio.run(serve(int(size)))
    else:
        asyncio.run(measure(int(size), float(rest[0]), rest[1:]))


if __name__ == "__main__":
    main(sys.argv[1:])
