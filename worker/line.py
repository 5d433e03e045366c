"""A worker's line to the coordinator, on the network thread: reports up, orders down, opened again when it breaks."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import grpc

from wire.clock import Clock, Deadline
from wire.rpc.retry import Backoff
from wire.rpc.status import to_error
from wire.v1 import coordinator_pb2, coordinator_pb2_grpc
from worker.leases import Lease
from worker.links import PATIENCE_S
from worker.mailbox import End, Plan
from worker.streams import Assignment

log = logging.getLogger(__name__)

Reports = asyncio.Queue[coordinator_pb2.WorkerReport | None]
"""What is to be told on one line; None ends it."""


class Line:
    """Reports and orders of one incarnation.

    Args:
        peer: the coordinator, for messages.
        hear: called with every order, a plan or the end.
    """

    def __init__(
        self,
        stub: coordinator_pb2_grpc.CoordinatorStub,
        *,
        peer: str,
        incarnation: int,
        hear: Callable[[Plan | End], None],
        clock: Clock,
    ) -> None:
        self._stub = stub
        self._peer = peer
        self._incarnation = incarnation
        self._hear = hear
        self._clock = clock
        self._reports: Reports = asyncio.Queue()
        self._lasting: dict[str, coordinator_pb2.WorkerReport] = {}

    async def attend(self) -> None:
        """Take orders until the last one. Raises: SparsyncError once the coordinator has been away too long."""
        backoff, broken = Backoff(random.Random()), None
        while True:
            call = self._stub.Attend(self._outgoing(self._reports))
            try:
                async for order in call:
                    backoff.reset()
                    broken = None
                    heard = order_from_proto(order)
                    self._hear(heard)
                    if isinstance(heard, End):
                        return
            except grpc.aio.AioRpcError as error:
                failure = to_error(error, peer=self._peer)
                broken = broken or Deadline(self._clock, PATIENCE_S)
                if not failure.retry or broken.passed:
                    raise failure from None
                log.warning("%s; opening the line again", failure)
            finally:
                call.cancel()
                self._end()
            await asyncio.sleep(backoff.next())

    def _end(self) -> None:
        """What a broken line has not taken is left to the next one.

        gRPC goes on asking for reports after the call broke: it would take, and lose, the next one.
        """
        older, self._reports = self._reports, asyncio.Queue()
        while not older.empty():
            self._reports.put_nowait(older.get_nowait())
        older.put_nowait(None)

    async def _outgoing(self, reports: Reports) -> AsyncIterator[coordinator_pb2.WorkerReport]:
        """What is told on a new line: who this is, what must not be lost with an older line, then all that comes."""
        attending = coordinator_pb2.Attending(incarnation=self._incarnation)
        yield coordinator_pb2.WorkerReport(attending=attending)
        for report in list(self._lasting.values()):
            yield report
        while (following := await reports.get()) is not None:
            yield following
            reports.task_done()

    def tell(self, report: coordinator_pb2.WorkerReport) -> None:
        """Queue a report."""
        match report.WhichOneof("report"):
            case "uploaded" | "ready" | "leaving" | "flushed" as kind:
                self._lasting[kind] = report
            case "deposited":
                self._lasting[f"deposited {report.deposited.stream}"] = report
            case "evaluated":
                self._lasting[f"evaluated {report.evaluated.model}"] = report
        self._reports.put_nowait(report)

    async def leave(self, limit_s: float) -> None:
        """Let queued reports leave, at most `limit_s`; what is left then is lost with the line."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._reports.join(), limit_s)


def order_from_proto(order: coordinator_pb2.WorkerOrder) -> Plan | End:
    if order.HasField("end"):
        return End(order.end.reason, order.end.error)
    plan = order.plan
    return Plan(
        assignments=tuple(
            Assignment(
                stream=a.stream,
                attempt=a.attempt,
                step=a.step,
                deposit=a.deposit_step,
                has_deposit=a.has_deposit,
                send_to=tuple(a.send_to),
                release=a.release,
            )
            for a in plan.assignments
        ),
        total_steps=plan.total_steps,
        number=plan.number,
        begins=plan.begins,
        segment=plan.segment,
        elastic=plan.elastic,
        leases=tuple(
            Lease(
                number=lease.number,
                start=lease.start,
                stop=lease.stop,
                stride=lease.stride,
                partial={p.number: tuple(p.send_to) for p in lease.partial},
            )
            for lease in plan.leases
        ),
        ahead=plan.ahead if plan.HasField("ahead") else None,
        first=plan.first,
        leave=plan.leave,
    )
