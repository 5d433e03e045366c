"""A coordinator of the test's own, and what is served beside it, at a real address."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc.aio

from wire.rpc.identity import Security
from wire.rpc.server import serve
from wire.v1 import coordinator_pb2_grpc


@contextmanager
def serving(
    far_end: coordinator_pb2_grpc.CoordinatorServicer,
    *,
    add_others: Callable[[grpc.aio.Server], None] = lambda server: None,
    listen: str = "127.0.0.1:0",
) -> Iterator[str]:
    """The address of `far_end`, on an event loop in a thread of its own; `add_others` adds what else is there."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(10)

    def add(server: grpc.aio.Server) -> None:
        coordinator_pb2_grpc.add_CoordinatorServicer_to_server(far_end, server)
        add_others(server)

    served = run(serve(listen=listen, security=Security(), add=add, services=[]))
    try:
        yield served.address
    finally:
        run(served.stop(0))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
