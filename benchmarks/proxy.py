"""TCP connections in the middle, whose network goes silent: nothing is forwarded any more, nothing is closed.

A connection belongs to the process whose socket dialled it, found by its port; so all connections of one
worker, to the coordinator and to the servers, old and new, fall silent together.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psutil

CHUNK_BYTES = 1 << 16
T = TypeVar("T")


@dataclass(eq=False)
class _Link:
    """One forwarded connection. `gate` is open while it forwards."""

    port: int
    gate: asyncio.Event = field(default_factory=asyncio.Event)


class Proxy:
    """Forwards on an event loop of its own, in a thread; every method may be called from any other."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._links: set[_Link] = set()
        self._silent: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()

    def forward(self, target: str) -> str:
        """Listen for `target` (host:port); the address that is to be dialled instead."""
        return self._do(self._listen(target))

    def silence(self, pid: int) -> None:
        """From now on nothing passes between this process, or its children, and anybody behind us."""
        self._do(self._silence(pid))

    def close(self) -> None:
        """Drop all connections and end the thread."""
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _listen(self, target: str) -> str:
        host, port = target.rsplit(":", 1)

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = self._loop.create_task(self._join(reader, writer, host, int(port)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        self._servers.append(server)
        return f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _silence(self, pid: int) -> None:
        self._silent.add(pid)
        ports = ports_of(pid)
        for link in self._links:
            if link.port in ports:
                link.gate.clear()

    async def _join(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int
    ) -> None:
        """Forward both ways until one side closes."""
        link = _Link(writer.get_extra_info("peername")[1])
        if not any(link.port in ports_of(pid) for pid in self._silent):
            link.gate.set()
        self._links.add(link)
        far: asyncio.StreamWriter | None = None
        try:
            await link.gate.wait()
            far_reader, far = await asyncio.open_connection(host, port)
            pumps = [
                asyncio.ensure_future(pump)
                for pump in (_pump(reader, far, link), _pump(far_reader, writer, link))
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            pass  # nobody listens behind us: what dialled sees its connection end
        finally:
            self._links.discard(link)
            for side in (writer, far):
                if side is not None:
                    side.close()

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: _Link) -> None:
    """Bytes of one direction. What is read while the link is silent, the end too, is kept back."""
    while True:
        with suppress(ConnectionError):
            data = await reader.read(CHUNK_BYTES)
            await link.gate.wait()
            if data:
                writer.write(data)
                await writer.drain()
                continue
        await link.gate.wait()
        return


def ports_of(pid: int) -> set[int]:
    """Local TCP ports of a process and its children; none where it is gone."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        return {c.laddr.port for p in family for c in p.net_connections(kind="tcp") if c.laddr}
    except psutil.NoSuchProcess:
        return set()
