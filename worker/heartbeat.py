"""The heartbeat: a small process of its own, so that a trainer that holds the GIL is not taken for dead (P7).

It ends with its standard input, which is a pipe from the trainer: when the trainer dies, the
stream of beats ends within the second; while the trainer is stopped, none is sent.
`python -m worker.heartbeat` is started by the trainer, never forked from it, and before the trainer joins: one that
dies as soon as it has joined is missed by its stream of beats, too.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc

from wire.clock import monotonic_clock
from wire.errors import Unreachable
from wire.rpc.access import InRun
from wire.rpc.channel import open_channel
from wire.rpc.identity import Role, Security
from wire.rpc.in_run import InRunChannel
from wire.v1 import coordinator_pb2, coordinator_pb2_grpc
from worker.patience import Patience

log = logging.getLogger(__name__)
FOREVER_S = float("inf")
"""It is the trainer that gives up: this process ends with it."""


class Heartbeat:
    """The process of this trainer; it is there, and has imported what it needs, before there is anything to say."""

    def __init__(self) -> None:
        self._process = self._started()

    def _started(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-P", "-m", "worker.heartbeat"], stdin=subprocess.PIPE)

    def begin(
        self, coordinator: str, security: Security, *, run: InRun, incarnation: int, interval_s: float
    ) -> None:
        """Beat as this incarnation, from now on."""
        order = {
            "coordinator": coordinator,
            "run": str(run),
            "incarnation": incarnation,
            "interval_s": interval_s,
            "insecure": security.insecure,
            **{
                k: str(v)
                for k in ("tls_ca", "tls_cert", "tls_key")
                if (v := getattr(security, k)) is not None
            },
        }
        try:
            self._tell(order)
        except BrokenPipeError:  # it died while this process waited to join
            self.end()
            self._process = self._started()
            self._tell(order)

    def _tell(self, order: dict[str, object]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()

    def end(self) -> None:
        """Beat no more, if it did."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()


@contextmanager
def starting() -> Iterator[Heartbeat]:
    """For who is about to join; ended again where that fails."""
    heart = Heartbeat()
    try:
        yield heart
    except BaseException:
        heart.end()
        raise


async def beat(order: dict[str, object]) -> None:
    """Beat until standard input ends, opening the stream again when it breaks."""
    paths = {k: Path(str(order[k])) for k in ("tls_ca", "tls_cert", "tls_key") if k in order}
    security = Security(insecure=bool(order["insecure"]), **paths)
    channel = open_channel(str(order["coordinator"]), security, role=Role.COORDINATOR, pool="control")
    run = InRun.parse(str(order["run"]))
    assert run is not None
    stub = coordinator_pb2_grpc.CoordinatorStub(InRunChannel(channel, run))
    interval_s = float(str(order["interval_s"]))
    incarnation = int(str(order["incarnation"]))
    trainer = os.getppid()
    over = asyncio.Event()
    count = 0

    async def beats() -> AsyncIterator[coordinator_pb2.Beat]:
        nonlocal count
        while not over.is_set():
            if not stopped(trainer):
                count += 1
                yield coordinator_pb2.Beat(incarnation=incarnation, count=count)
            try:
                await asyncio.wait_for(over.wait(), interval_s)
            except TimeoutError:
                continue

    watching = asyncio.create_task(_watch_parent(over))
    patience = Patience(monotonic_clock, limit_s=FOREVER_S)
    while not over.is_set():
        patience.trying()
        try:
            await stub.Heartbeat(beats())
        except grpc.aio.AioRpcError as error:
            log.info("heartbeat: %s", error.details())
        with suppress(TimeoutError):
            pause_s = patience.pause_s(Unreachable("the stream of beats broke"))
            await asyncio.wait_for(over.wait(), pause_s)
    await watching
    await channel.close(None)


def stopped(pid: int) -> bool:
    """Whether a process is stopped (SIGSTOP, a debugger): it lives, and computes nothing. Linux only."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] in ("T", "t")


async def _watch_parent(over: asyncio.Event) -> None:
    """Set `over` when the trainer's end of the pipe is closed."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
    over.set()


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the trainer, sent to the whole group
        signal.signal(number, signal.SIG_IGN)
    with open(
        0, "rb", buffering=0, closefd=False
    ) as unbuffered:  # nothing is read ahead: the pipe is watched next
        told = unbuffered.readline()
    if told:  # else the trainer has ended before it joined
        asyncio.run(beat(json.loads(told)))


if __name__ == "__main__":
    main()
