"""The server's process: listen, join, serve until the coordinator says that the run is over."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Callable
from pathlib import Path

import grpc
import torch

from ps import optimizer
from ps.owner import Owner
from ps.service import ShardService
from ps.store import Store
from ps.terms import TermGuard
from wire.clock import monotonic_clock
from wire.codec import kernels
from wire.config import Config
from wire.errors import Unreachable
from wire.memory import keep_freed_memory
from wire.rpc.channel import reach
from wire.rpc.frames import add_shard_service
from wire.rpc.identity import Security
from wire.rpc.join import join
from wire.rpc.server import serve
from wire.telemetry import log_to_stderr

log = logging.getLogger(__name__)
SERVICE = "sparsync.v1.Shard"
ALONE_S = 60.0
"""A server whose coordinator has not been heard for this long has no run any more."""


def run(
    *,
    coordinator: str,
    join_timeout_s: float,
    listen: str,
    advertise: str | None,
    data_dir: Path,
    name: str,
    security: Security,
) -> int:
    """Serve one shard until the run is over; the exit code.

    Raises: SparsyncError, with the exit code that it knows.
    """
    log_to_stderr(name)
    keep_freed_memory()
    kernels.warm()  # compiled or loaded before anybody waits for this server
    optimizer.warm()
    try:
        return asyncio.run(_main(coordinator, join_timeout_s, listen, advertise, data_dir, name, security))
    finally:
        gc.freeze()  # the interpreter's last collection would take seconds over torch's modules


async def _main(
    coordinator: str,
    join_timeout_s: float,
    listen: str,
    advertise: str | None,
    data_dir: Path,
    name: str,
    security: Security,
) -> int:
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _end(ended), "asked to end")
    channel = await reach(coordinator, security, pool="control", timeout_s=join_timeout_s, say=log.info)
    owner = Owner(Store(data_dir))
    service = ShardService(owner, finish=_end(ended))

    def add(server: grpc.aio.Server) -> None:
        add_shard_service(service, server)

    serving = await serve(listen=listen, security=security, add=add, services=[SERVICE])
    try:
        reply = await join(
            channel,
            role="ps",
            name=name,
            coordinator=coordinator,
            timeout_s=join_timeout_s,
            address=advertise or serving.address,
        )
        config = Config.from_json(reply.config_json)
        logging.getLogger().setLevel(config.telemetry.log_level.upper())
        torch.set_num_threads(config.cluster.compute_threads)
        owner.admit_bytes = config.cluster.admit_bytes
        terms = TermGuard(data_dir / "term.json", scope=f"{reply.run} timeline {reply.timeline}")
        service.joined(incarnation=reply.incarnation, timeline=reply.timeline, config=config, terms=terms)
        await serving.serving()
        log.info("joined run %s as %s, serving on %s", reply.run, name, serving.address)
        reason = await _until_ended(ended, service, channel, coordinator)
        log.info("the run is over: %s", reason)
        return 0
    finally:
        await service.end()
        await serving.stop(1.0)
        await channel.close(None)


def _end(ended: asyncio.Future[str]) -> Callable[[str], None]:
    def end(reason: str) -> None:
        if not ended.done():
            ended.set_result(reason)

    return end


async def _until_ended(
    ended: asyncio.Future[str], service: ShardService, channel: grpc.aio.Channel, coordinator: str
) -> str:
    """The reason for the end.

    Raises: Unreachable when the coordinator is gone for good.
    """
    clock = monotonic_clock
    heard = clock.now()
    while not ended.done():
        await asyncio.wait({ended}, timeout=1.0)
        up = channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY
        if up or service.attached.is_set():
            heard = clock.now()
        elif clock.now() - heard > ALONE_S:
            raise Unreachable(
                f"coordinator {coordinator} has not been heard for {ALONE_S:.0f} s; this server ends and its shard "
                "with it: resume the newest checkpoint"
            )
    return ended.result()
