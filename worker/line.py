"""A worker's line to the coordinator, on the network thread: reports up, orders down, opened again when it breaks.

A report may have been taken by a line that was dying, and a coordinator that was started anew knows only
what it has decided. So whatever it cannot learn from anybody else is *lasting*: the newest of its kind is
told first on every line.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import grpc

from wire.clock import Clock
from wire.errors import RunOver, SparsyncError, Unreachable, WrongRun
from wire.rpc.status import to_error
from wire.v1 import coordinator_pb2, coordinator_pb2_grpc
from worker.leases import Lease
from worker.mailbox import End, Plan
from worker.patience import Patience
from worker.place import Redirect
from worker.streams import Assignment

log = logging.getLogger(__name__)

Reports = asyncio.Queue[coordinator_pb2.WorkerReport | None]
"""What is to be told on one line; None ends it."""
Order = Plan | End | Redirect

LASTING: dict[str, Callable[[Any], str]] = {
    "uploaded": lambda told: "",
    "ready": lambda told: "",
    "progress": lambda told: "",
    "deposited": lambda told: str(told.stream),
    "handed_over": lambda told: "",
    "evaluated": lambda told: f"{told.step} {told.model}",
    "announce": lambda told: "",
    "leaving": lambda told: "",
    "flushed": lambda told: "",
    "failed": lambda told: "",
}
"""Kind of report -> what tells those of one kind apart. `holding` is none: each line brings a plan, which asks anew."""
ENDS_ACTIVITY = ("progress", "evaluated", "handed_over")


class Line:
    """Reports and orders of one incarnation.

    Args:
        peer: the coordinator, for messages.
        hear: called with every order.

    Attributes:
        stands: the coordinator has taken the line, and it has not ended since.
    """

    def __init__(
        self,
        stub: coordinator_pb2_grpc.CoordinatorStub,
        *,
        peer: str,
        incarnation: int,
        hear: Callable[[Order], None],
        clock: Clock,
    ) -> None:
        self._stub = stub
        self._peer = peer
        self._incarnation = incarnation
        self._hear = hear
        self._clock = clock
        self._reports: Reports = asyncio.Queue()
        self._lasting: dict[str, coordinator_pb2.WorkerReport] = {}
        self.stands = False

    async def attend(self) -> None:
        """Take orders until the last one. Raises: SparsyncError once the coordinator has been away too long."""
        patience = Patience(self._clock)
        while True:
            failure: SparsyncError = Unreachable(f"{self._peer} ended the line without an order to end")
            patience.trying()
            call = self._stub.Attend(self._outgoing(self._reports))
            try:
                with at_the_coordinator(self._peer):
                    await call.initial_metadata()
                    self.stands = not call.done()
                    async for order in call:
                        patience.heard()
                        heard = order_from_proto(order)
                        self._hear(heard)
                        if isinstance(heard, End):
                            return
            except SparsyncError as error:
                failure = error
            finally:
                call.cancel()
                self._end()
            pause_s = patience.pause_s(failure)
            if patience.tries == 1:
                log.warning("%s; opening the line again, this worker goes on with what it has", failure)
            await asyncio.sleep(pause_s)

    def _end(self) -> None:
        """What a broken line has not taken is left to the next one.

        gRPC goes on asking for reports after the call broke: it would take, and lose, the next one.
        """
        self.stands = False
        older, self._reports = self._reports, asyncio.Queue()
        while not older.empty():
            self._reports.put_nowait(older.get_nowait())
        older.put_nowait(None)

    async def _outgoing(self, reports: Reports) -> AsyncIterator[coordinator_pb2.WorkerReport]:
        """What is told on a new line: who this is, what must not be lost with an older line, then all that comes."""
        attending = coordinator_pb2.Attending(incarnation=self._incarnation)
        yield coordinator_pb2.WorkerReport(attending=attending)
        backlog = reports.qsize()
        for report in list(self._lasting.values()):
            yield report
        while (following := await reports.get()) is not None:
            backlog -= 1
            if backlog < 0 or _key(following) is None:  # of what lasts the newest was told just now
                yield following
            reports.task_done()

    def tell(self, report: coordinator_pb2.WorkerReport) -> None:
        """Queue a report."""
        if report.WhichOneof("report") in ENDS_ACTIVITY:
            self._lasting.pop("announce ", None)
        if (key := _key(report)) is not None:
            self._lasting[key] = report
        self._reports.put_nowait(report)

    async def leave(self, limit_s: float) -> None:
        """Let queued reports leave, at most `limit_s`; what is left then is lost with the line."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._reports.join(), limit_s)


@contextmanager
def at_the_coordinator(peer: str) -> Iterator[None]:
    """What a call to the coordinator fails with, as an error of ours. Raises: RunOver where another run is there."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        failure = to_error(error, peer=peer)
        if isinstance(failure, WrongRun):
            raise RunOver(f"this worker's run is gone: {failure}") from error
        raise failure from error


def _key(report: coordinator_pb2.WorkerReport) -> str | None:
    """Under which the newest report of a kind lasts; None: it does not."""
    kind = report.WhichOneof("report") or ""
    return f"{kind} {LASTING[kind](getattr(report, kind))}" if kind in LASTING else None


def order_from_proto(order: coordinator_pb2.WorkerOrder) -> Order:
    if order.HasField("end"):
        return End(order.end.reason, order.end.error)
    if order.HasField("redirect"):
        return Redirect(order.redirect.shard, order.redirect.address, order.redirect.term)
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
        lag=plan.lag,
        drained=tuple(plan.drained),
        inherits=tuple(plan.inherits),
        hand_over=plan.hand_over if plan.HasField("hand_over") else None,
        handed=plan.handed if plan.HasField("handed") else None,
    )
