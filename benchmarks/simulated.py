"""Workers that only keep company: they join, beat, declare a model, report and take orders, and compute nothing.

Each has two connections of its own, as a worker has: one for its heartbeat, one for all else. No torch.
`python -m benchmarks.simulated` runs some of them in one process until its standard input ends, and tells
how they are, one JSON object a line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import grpc

from wire.errors import SparsyncError
from wire.layout import BLOCK, Layout, Parameter
from wire.messages import OptimizerSpec, layout_to_proto, optimizer_to_proto, placement_from_proto
from wire.rpc.access import InRun
from wire.rpc.channel import open_channel
from wire.rpc.identity import Role, Security
from wire.rpc.in_run import InRunChannel
from wire.rpc.join import join
from wire.rpc.planes import plane_chunks
from wire.rpc.retry import Backoff
from wire.rpc.status import to_error
from wire.v1 import coordinator_pb2, coordinator_pb2_grpc, shard_pb2, shard_pb2_grpc

LAYOUT = Layout((Parameter("weight", (4 * BLOCK,), "float32", 0),))
OPTIMIZER = OptimizerSpec(
    "sgd", ({"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "nesterov": 0.0, "maximize": 0.0},)
)
NAME = FINGERPRINT = "simulated"
"""What a certificate for all of them must name; each goes by that and its number."""
JOIN_LIMIT_S = 120.0
TELL_EVERY_S = 0.25

Reports = asyncio.Queue[coordinator_pb2.WorkerReport]


class Member:
    """One simulated worker.

    Args:
        report_s: time between two reports of progress.
    """

    def __init__(self, name: str, coordinator: str, security: Security, *, report_s: float) -> None:
        self.name = name
        self._coordinator = coordinator
        self._security = security
        self._report_s = report_s
        self._draw = random.Random(name)
        self._incarnation = self._timeline = 0
        self._run = InRun("", 0)
        self.beats = self.plans = self.orders = self.broken = 0
        self.stage = "joining"
        self.problem = ""

    async def live(self) -> None:
        """From joining until the coordinator ends it; what goes wrong stands in `problem`."""
        channels = [
            open_channel(self._coordinator, self._security, role=Role.COORDINATOR, pool="control")
            for _ in range(2)
        ]
        beating = None
        try:
            beats_s = await self._join(channels[1])
            beating = asyncio.create_task(self._beat(channels[0], beats_s))
            await self._take_part(channels[1])
            self.stage = "ended"
        except grpc.aio.AioRpcError as error:
            self.problem = str(to_error(error, peer="the coordinator"))
        except SparsyncError as error:
            self.problem = str(error)
        finally:
            if beating is not None:
                beating.cancel()
                with suppress(asyncio.CancelledError):
                    await beating
            for channel in channels:
                await channel.close(None)

    async def _join(self, channel: grpc.aio.Channel) -> float:
        """Enter the run; seconds between two heartbeats."""
        reply = await join(
            channel,
            role="worker",
            name=self.name,
            coordinator=self._coordinator,
            timeout_s=JOIN_LIMIT_S,
            fingerprint=FINGERPRINT,
        )
        self._incarnation, self._timeline, self.stage = reply.incarnation, reply.timeline, "joined"
        self._run = InRun(reply.run, reply.timeline)
        return float(json.loads(reply.config_json)["cluster"]["heartbeat_interval_s"])

    # --- heartbeat -----------------------------------------------------------------------

    async def _beat(self, channel: grpc.aio.Channel, interval_s: float) -> None:
        """Beat for ever, opening the line again when it breaks."""
        stub = coordinator_pb2_grpc.CoordinatorStub(InRunChannel(channel, self._run))
        backoff = Backoff(self._draw, cap_s=0.5)
        while True:
            with suppress(grpc.aio.AioRpcError):
                await stub.Heartbeat(self._beats(interval_s))
            self.broken += 1
            await asyncio.sleep(backoff.next())

    async def _beats(self, interval_s: float) -> AsyncIterator[coordinator_pb2.Beat]:
        while True:
            self.beats += 1
            yield coordinator_pb2.Beat(incarnation=self._incarnation, count=self.beats)
            await asyncio.sleep(interval_s)

    # --- control -------------------------------------------------------------------------

    async def _take_part(self, channel: grpc.aio.Channel) -> None:
        """Declare, upload if asked to, and attend until the end."""
        stub = coordinator_pb2_grpc.CoordinatorStub(InRunChannel(channel, self._run))
        reply = await stub.Declare(
            coordinator_pb2.DeclareRequest(
                incarnation=self._incarnation,
                parameters=layout_to_proto(LAYOUT),
                optimizer=optimizer_to_proto(OPTIMIZER),
            )
        )
        self.stage = "declared"
        lasting = [coordinator_pb2.WorkerReport(ready=coordinator_pb2.Ready(accumulate=1))]
        if reply.upload:
            await self._upload(reply)
            lasting.insert(0, coordinator_pb2.WorkerReport(uploaded=coordinator_pb2.Uploaded()))
        await self._attend(stub, lasting)

    async def _upload(self, reply: coordinator_pb2.DeclareReply) -> None:
        """The initial parameters, all zero."""
        for placed in placement_from_proto(reply.placement):
            channel = open_channel(placed.address, self._security, role=Role.PS, pool="state")
            try:
                await shard_pb2_grpc.ShardStub(InRunChannel(channel, self._run)).Upload(
                    self._zeros(placed.shard, 4 * LAYOUT.elements(placed.ranges))
                )
            finally:
                await channel.close(None)

    async def _zeros(self, shard: int, size: int) -> AsyncIterator[shard_pb2.UploadChunk]:
        header = shard_pb2.UploadHeader(timeline=self._timeline, incarnation=self._incarnation, shard=shard)
        yield shard_pb2.UploadChunk(header=header)
        for chunk in plane_chunks("x", bytes(size)):
            yield shard_pb2.UploadChunk(plane=chunk)

    async def _attend(
        self, stub: coordinator_pb2_grpc.CoordinatorStub, lasting: list[coordinator_pb2.WorkerReport]
    ) -> None:
        """Take orders until the end, opening the line again when it breaks."""
        backoff = Backoff(self._draw, cap_s=1.0)
        while True:
            reports: Reports = asyncio.Queue()
            call = stub.Attend(self._reports(lasting, reports))
            try:
                async for order in call:
                    if order.HasField("end"):
                        self.problem = order.end.reason if order.end.error == "StaleIncarnation" else ""
                        return
                    self._take(order.plan, reports)
            except grpc.aio.AioRpcError as error:
                if not to_error(error, peer="the coordinator").retry:
                    raise
            finally:
                call.cancel()
            self.broken += 1
            await asyncio.sleep(backoff.next())

    async def _reports(
        self, lasting: list[coordinator_pb2.WorkerReport], reports: Reports
    ) -> AsyncIterator[coordinator_pb2.WorkerReport]:
        """Who this is, what every new line repeats, then answers to plans, and progress in between."""
        yield coordinator_pb2.WorkerReport(attending=coordinator_pb2.Attending(incarnation=self._incarnation))
        for report in lasting:
            yield report
        while True:
            try:
                yield await asyncio.wait_for(reports.get(), self._report_s)
            except TimeoutError:
                yield coordinator_pb2.WorkerReport(progress=coordinator_pb2.Progress())

    def _take(self, plan: coordinator_pb2.Plan, reports: Reports) -> None:
        """A plan. One of an elastic segment is answered: nothing of its leases was begun."""
        self.plans += 1
        self.orders = len(plan.assignments) + len(plan.leases)
        if plan.elastic:
            held = [coordinator_pb2.Held(lease=lease.number, next=lease.start) for lease in plan.leases]
            holding = coordinator_pb2.Holding(plan=plan.number, leases=held)
            reports.put_nowait(coordinator_pb2.WorkerReport(holding=holding))


# --- a process of them -------------------------------------------------------------------


def state(members: list[Member]) -> dict[str, object]:
    """How they are, together."""
    return {
        "joined": sum(m.stage != "joining" for m in members),
        "with_work": sum(m.orders > 0 for m in members),
        "ended": sum(m.stage == "ended" for m in members),
        "beats": sum(m.beats for m in members),
        "plans": sum(m.plans for m in members),
        "broken": sum(m.broken for m in members),
        "problems": [f"{m.name}: {m.problem}" for m in members if m.problem],
    }


async def run(names: list[str], coordinator: str, security: Security, *, report_s: float) -> None:
    """Let them live until standard input ends."""
    members = [Member(name, coordinator, security, report_s=report_s) for name in names]
    lives = [asyncio.create_task(member.live()) for member in members]
    over = asyncio.create_task(_end_of_input())
    while not over.done():
        print(json.dumps(state(members)), flush=True)
        await asyncio.wait({over}, timeout=TELL_EVERY_S)
    for life in lives:
        life.cancel()
    await asyncio.gather(*lives, return_exceptions=True)


async def _end_of_input() -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


def main() -> None:
    known = argparse.ArgumentParser()
    known.add_argument("coordinator")
    known.add_argument("first", type=int)
    known.add_argument("count", type=int)
    known.add_argument("--report-s", type=float, default=1.0)
    for name in ("ca", "cert", "key"):
        known.add_argument(f"--tls-{name}", type=Path)
    chosen = known.parse_args()
    names = [f"{NAME}.{number}" for number in range(chosen.first, chosen.first + chosen.count)]
    security = Security(tls_ca=chosen.tls_ca, tls_cert=chosen.tls_cert, tls_key=chosen.tls_key)
    asyncio.run(run(names, chosen.coordinator, security, report_s=chosen.report_s))


if __name__ == "__main__":
    main()
