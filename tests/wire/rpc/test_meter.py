"""Bytes at the sockets agree with what was moved, pool by pool, through reconnects."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any

import pytest

from wire.rpc.channel import open_channel
from wire.rpc.identity import Role, Security
from wire.rpc.meter import SocketMeter
from wire.rpc.server import serve

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's counters are Linux's")
MIB = 1 << 20


def moved(
    before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]], pool: str
) -> tuple[float, float]:
    """(sent, received) in MiB between two samples."""
    sent, received = before.get(pool, (0, 0))
    return (after[pool][0] - sent) / MIB, (after[pool][1] - received) / MIB


def test_two_pools_to_one_server_are_told_apart(sink: Any) -> None:
    async def main() -> None:
        serving = await serve(listen="127.0.0.1:0", security=Security(), add=sink.add, services=[])
        meter = SocketMeter()
        before = meter.sample()
        data = open_channel(serving.address, Security(), role=Role.COORDINATOR, pool="data")
        state = open_channel(serving.address, Security(), role=Role.COORDINATOR, pool="state")
        await asyncio.gather(sink.push_mib(data, 24), sink.push_mib(state, 8))
        await asyncio.gather(sink.pull_mib(data, 12), sink.pull_mib(state, 30))
        after = meter.sample()
        assert moved(before, after, "data") == (pytest.approx(24, rel=0.03), pytest.approx(12, rel=0.03))
        assert moved(before, after, "state") == (pytest.approx(8, rel=0.03), pytest.approx(30, rel=0.03))
        assert set(after) - set(before) == {"data", "state"}  # what the server accepted is of no pool
        await data.close(None)
        await state.close(None)
        await serving.stop(0)

    asyncio.run(main())


def test_the_same_over_tls(sink: Any, certificates: dict[str, Security]) -> None:
    async def main() -> None:
        ours = certificates["ours"]
        serving = await serve(
            listen="127.0.0.1:0", security=ours, add=sink.add, services=[], gate=sink.gate()
        )
        channel = open_channel(serving.address, ours, role=Role.COORDINATOR, pool="state")
        meter = SocketMeter()
        await sink.push_mib(channel, 10)
        assert moved({}, meter.sample(), "state")[0] == pytest.approx(10, rel=0.03)
        await channel.close(None)
        await serving.stop(0)

    asyncio.run(main())


def test_closed_connections_keep_what_was_seen_and_reconnected_ones_add(sink: Any) -> None:
    async def main() -> None:
        meter = SocketMeter()
        serving = await serve(listen="127.0.0.1:0", security=Security(), add=sink.add, services=[])
        data = open_channel(serving.address, Security(), role=Role.COORDINATOR, pool="data")
        await sink.push_mib(data, 10)
        first = meter.sample()
        await serving.stop(0)
        again = await serve(listen=serving.address, security=Security(), add=sink.add, services=[])
        async with asyncio.timeout(20):
            await data.channel_ready()
        await sink.push_mib(data, 5)
        second = meter.sample()
        assert moved({}, first, "data")[0] == pytest.approx(10, rel=0.03)
        assert moved(first, second, "data")[0] == pytest.approx(5, rel=0.03)
        await data.close(None)
        await again.stop(0)
        assert meter.sample()["data"][0] >= second["data"][0]

    asyncio.run(main())


def test_a_classifier_sees_both_ends_as_people_write_them(sink: Any) -> None:
    async def main() -> None:
        serving = await serve(listen="127.0.0.1:0", security=Security(), add=sink.add, services=[])
        seen: list[tuple[str, int, str, int]] = []

        def classify(host: str, port: int, peer_host: str, peer_port: int) -> str | None:
            seen.append((host, port, peer_host, peer_port))
            return "to server" if peer_port == serving.port else None

        meter = SocketMeter(classify)
        channel = open_channel(serving.address, Security(), role=Role.COORDINATOR, pool="data")
        await sink.push_mib(channel, 4)
        sample = meter.sample()
        assert set(sample) == {"to server"}
        assert moved({}, sample, "to server")[0] == pytest.approx(4, rel=0.03)
        ours = [ends for ends in seen if ends[3] == serving.port]
        assert len(ours) == 1 and ours[0][0] == ours[0][2] == "127.0.0.1"
        meter.sample()
        assert len([ends for ends in seen if ends[3] == serving.port]) == 1  # asked once a connection
        await channel.close(None)
        await serving.stop(0)

    asyncio.run(main())


@asynccontextmanager
async def connected(sink: Any, channels: int) -> AsyncIterator[None]:
    """So many connections of this process to itself; none of them outlives the test, whatever it finds."""
    serving = await serve(listen="127.0.0.1:0", security=Security(), add=sink.add, services=[])
    opened = [
        open_channel(serving.address, Security(), role=Role.COORDINATOR, pool="data") for _ in range(channels)
    ]
    try:
        await asyncio.gather(*(channel.channel_ready() for channel in opened))
        yield
    finally:
        await asyncio.gather(*(channel.close(None) for channel in opened))
        await serving.stop(0)


def calls_in(function: Callable[[], object]) -> Counter[str]:
    """How often this thread calls each function that is not written in Python, system calls among them."""
    calls: Counter[str] = Counter()

    def count(frame: FrameType, event: str, called: Any) -> None:
        if event == "c_call":
            calls[called.__name__] += 1

    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls


def bare_look() -> None:
    """The calls that no sample can do without: each descriptor held, looked at and let go."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            copy = os.dup(int(name))
            try:
                if stat.S_ISSOCK(os.fstat(copy).st_mode):
                    socket.socket(socket.AF_INET, socket.SOCK_STREAM, fileno=copy).detach()
            finally:
                os.close(copy)


def thread_seconds(function: Callable[[], object]) -> float:
    """Processor time of this thread alone: what others run meanwhile is not in it."""
    started = time.thread_time()
    function()
    return time.thread_time() - started


def test_a_sample_costs_little_more_than_its_calls(sink: Any) -> None:
    """Best of 50 against the best of 50 of the bare calls, taken in turns: a ratio, so any machine will do."""

    async def main() -> None:
        async with connected(sink, channels=20):
            meter = SocketMeter()
            meter.sample()
            bare, sample = map(
                min,
                zip(
                    *((thread_seconds(bare_look), thread_seconds(meter.sample)) for _ in range(50)),
                    strict=True,
                ),
            )
            print(f"over 40 sockets: {sample * 1e6:.0f} µs, bare calls {bare * 1e6:.0f} µs")
            assert sample < 3 * bare

    asyncio.run(main())


def test_a_sample_asks_the_kernel_once_about_each_socket(sink: Any) -> None:
    """What it asks of a new socket beside that, it asks once; nothing it does grows faster than their number."""

    async def sample_over(channels: int) -> Counter[str]:
        async with connected(sink, channels):
            meter = SocketMeter()
            meter.sample()
            return calls_in(meter.sample)

    few, many = (asyncio.run(sample_over(channels)) for channels in (4, 20))
    more = {name: many[name] - few[name] for name in many if many[name] > few[name]}
    print(f"calls for 32 sockets more: {more}")
    sockets = 2 * (20 - 4)
    assert {name: more[name] for name in ("dup", "fstat", "getsockopt", "close")} == {
        "dup": sockets,
        "fstat": sockets,
        "getsockopt": sockets,
        "close": sockets,
    }
    assert sum(more.values()) <= 20 * sockets
