"""The worker's lines: what is told after a line broke arrives on the next one; what must not be lost, on each."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from tests.worker.far_end import serving
from wire.errors import Interrupted, RunOver, StaleIncarnation, WrongRun
from wire.layout import Layout, Parameter
from wire.messages import OptimizerSpec
from wire.rpc.access import InRun
from wire.rpc.identity import Security
from wire.v1 import common_pb2, coordinator_pb2, coordinator_pb2_grpc, shard_pb2, shard_pb2_grpc
from worker.transfer import LEAVE_S, Transfer

INCARNATION = 7
LIMIT_S = 10.0
LAYOUT = Layout((Parameter("weight", (7,), "float32", 0),))


class BreakingLines(coordinator_pb2_grpc.CoordinatorServicer):
    """The far end of a network that drops the first lines; the next one stays and keeps what it hears."""

    def __init__(self, breaks: int) -> None:
        self._breaks = breaks
        self.lines = 0
        self.heard: queue.Queue[coordinator_pb2.WorkerReport] = queue.Queue()

    async def Attend(
        self, request_iterator: AsyncIterator[coordinator_pb2.WorkerReport], context: Any
    ) -> AsyncIterator[coordinator_pb2.WorkerOrder]:
        self.lines += 1
        first = await anext(aiter(request_iterator))
        assert first.attending.incarnation == INCARNATION
        if self.lines <= self._breaks:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the network broke")
        self.heard.put(first)
        async for report in request_iterator:
            self.heard.put(report)
        yield coordinator_pb2.WorkerOrder()


@pytest.mark.parametrize("breaks", [0, 1, 3])
def test_what_is_told_after_a_break_arrives(breaks: int) -> None:
    far_end = BreakingLines(breaks)
    with serving(far_end) as address:
        transfer = Transfer(
            coordinator=address, security=Security(), run=InRun("a run", 1), incarnation=INCARNATION
        )
        try:
            transfer.begin_attending()
            assert far_end.heard.get(timeout=30).HasField("attending")
            transfer.report(scalars={"step": 1, "values": {}})
            assert far_end.heard.get(timeout=10).scalars.step == 1
            transfer.report(evaluated={"step": 2, "model": "x"})
            assert far_end.heard.get(timeout=10).evaluated.step == 2
            transfer.flush(5.0)
        finally:
            transfer.close()
    assert far_end.lines == breaks + 1


def test_what_must_not_be_lost_is_told_on_every_line_once_more() -> None:
    far_end = BreakingLines(0)
    with serving(far_end) as address:
        transfer = Transfer(
            coordinator=address, security=Security(), run=InRun("a run", 1), incarnation=INCARNATION
        )
        try:
            transfer.report(uploaded={})
            transfer.report(scalars={"step": 3, "values": {}})
            transfer.begin_attending()
            transfer.flush(5.0)
            transfer.report(flushed={"segment": 1})
            heard = [far_end.heard.get(timeout=10).WhichOneof("report") for _ in range(4)]
        finally:
            transfer.close()
    assert heard == ["attending", "uploaded", "scalars", "flushed"]


# --- a coordinator that comes back ----------------------------------------------------------------------


class Restarted(coordinator_pb2_grpc.CoordinatorServicer):
    """One life of a coordinator: keeps what is told on each line, says what is put into `orders`.

    places: where a declared model is placed; None: it would wait for servers.
    """

    def __init__(self, *orders: coordinator_pb2.WorkerOrder, places: str | None = None) -> None:
        self._orders = orders
        self._places = places
        self.asked = threading.Event()
        self.heard: queue.Queue[coordinator_pb2.WorkerReport] = queue.Queue()

    async def Declare(self, request: Any, context: Any) -> coordinator_pb2.DeclareReply:
        self.asked.set()
        if self._places is None:
            await asyncio.sleep(60)
        placed = common_pb2.ShardPlacement(address=self._places or "", term=1)
        return coordinator_pb2.DeclareReply(placement=[placed], plan=3, upload=True)

    async def Attend(
        self, request_iterator: AsyncIterator[coordinator_pb2.WorkerReport], context: Any
    ) -> AsyncIterator[coordinator_pb2.WorkerOrder]:
        for order in self._orders:
            yield order
        async for report in request_iterator:
            self.heard.put(report)

    def told(self, count: int) -> list[str]:
        """The next `count` reports, each by its kind and what it is about."""
        return [_named(self.heard.get(timeout=LIMIT_S)) for _ in range(count)]


def _named(report: coordinator_pb2.WorkerReport) -> str:
    kind = report.WhichOneof("report")
    about = {
        "deposited": lambda: f" {report.deposited.stream} at {report.deposited.step}",
        "evaluated": lambda: f" {report.evaluated.step}",
        "scalars": lambda: f" {report.scalars.step}",
        "progress": lambda: f" {report.progress.units}",
        "holding": lambda: f" {report.holding.plan}",
    }
    return f"{kind}{about[kind]() if kind in about else ''}"


@contextmanager
def connected(address: str) -> Iterator[Transfer]:
    transfer = Transfer(
        coordinator=address, security=Security(), run=InRun("a run", 1), incarnation=INCARNATION
    )
    try:
        yield transfer
    finally:
        transfer.close()


def report_all(transfer: Transfer) -> None:
    """One of each kind, older and newer ones."""
    transfer.report(ready={})
    transfer.report(announce={"activity": "evaluating"})
    for step in (10, 20):
        transfer.report(evaluated={"step": step, "model": "published"})
        transfer.report(deposited={"stream": 0, "step": step})
        transfer.report(progress={"units": step})
        transfer.report(holding={"plan": step})
    transfer.report(deposited={"stream": 1, "step": 20, "released": True})
    transfer.report(announce={"activity": "evaluating"})
    transfer.report(scalars={"step": 1})
    transfer.report(leaving={})
    transfer.report(flushed={})


LASTING = [
    "ready",
    "evaluated 10",
    "deposited 0 at 20",
    "progress 20",
    "evaluated 20",
    "deposited 1 at 20",
    "announce",
    "leaving",
    "flushed",
]


def test_a_coordinator_that_is_back_hears_of_it_within_a_second_and_the_newest_of_each_kind_first() -> None:
    older, newer = Restarted(), Restarted()
    with serving(older) as address:
        transfer = Transfer(
            coordinator=address, security=Security(), run=InRun("a run", 1), incarnation=INCARNATION
        )
        transfer.begin_attending()
        assert older.told(1) == ["attending"]
    try:
        report_all(transfer)
        time.sleep(1.5)  # away
        with serving(newer, listen=address):
            began = time.monotonic()
            assert newer.told(1) == ["attending"]
            assert time.monotonic() - began < 1.0
            assert newer.told(12) == [*LASTING, "holding 10", "holding 20", "scalars 1"]
            transfer.report(scalars={"step": 2})
            assert newer.told(1) == ["scalars 2"]
            transfer.mailbox.check()
    finally:
        transfer.close()


def test_a_model_is_declared_again_to_a_coordinator_that_is_back() -> None:
    older, newer = Restarted(), Restarted(places="127.0.0.1:1")
    declaring: list[bool] = []
    with serving(older) as address:
        transfer = Transfer(
            coordinator=address, security=Security(), run=InRun("a run", 1), incarnation=INCARNATION
        )
        thread = threading.Thread(
            target=lambda: declaring.append(transfer.do_declare(LAYOUT, OptimizerSpec("sgd", ())))
        )
        thread.start()
        assert older.asked.wait(LIMIT_S)
    try:
        with serving(newer, listen=address):
            thread.join(LIMIT_S)
            assert declaring == [True]
    finally:
        transfer.close()


# --- the end of the run, while a server is away -----------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind"), [("", RunOver), ("StaleIncarnation", StaleIncarnation)], ids=["over", "given up"]
)
def test_a_server_that_is_away_is_not_waited_for_beyond_the_end_of_the_run(
    error: str, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.transfer.AFTER_END_S", 0.2)
    end = coordinator_pb2.WorkerOrder(end=coordinator_pb2.End(reason="the reason", error=error))
    far_end = Restarted(end, places="127.0.0.1:1")
    with serving(far_end) as address, connected(address) as transfer:
        transfer.do_declare(LAYOUT, OptimizerSpec("sgd", ()))
        transfer.begin_attending()
        with pytest.raises(kind, match="the reason"):
            transfer.do_snapshot("published", [28])


def test_who_is_to_go_tells_it_at_once_and_waits_for_an_absent_server_ten_seconds() -> None:
    """The training thread stands in a call that nobody answers; the signal's handler has only set a flag."""

    class Hand:
        """A clock that goes on with every look."""

        time = 0.0

        def now(self) -> float:
            return self.time

    clock, told = Hand(), list[float]()

    def asked() -> bool:
        told.append(clock.time)
        clock.time += 3.0
        return True

    transfer = Transfer(
        coordinator="127.0.0.1:1", security=Security(), run=InRun("a run", 1), incarnation=1, clock=clock
    )
    try:
        transfer.on_wait = asked
        with pytest.raises(Interrupted, match="asked to end while a server is away"):
            transfer._do_there(asyncio.sleep(3600))
        assert told[0] == 0.0 and clock.time >= LEAVE_S
        transfer.on_wait = lambda: False
        assert transfer._do_there(asyncio.sleep(0.5, "answered")) == "answered"
    finally:
        transfer.close()


# --- state on its way -------------------------------------------------------------------------------------


class Slow(shard_pb2_grpc.ShardServicer):
    """A server that sends a stream's state a byte now and then; while it is `stuck`, none."""

    def __init__(self) -> None:
        self.stuck, self.quick = threading.Event(), threading.Event()

    async def Withdraw(
        self, request: shard_pb2.WithdrawRequest, context: Any
    ) -> AsyncIterator[common_pb2.PlaneChunk]:
        yield common_pb2.PlaneChunk(header=common_pb2.PlaneHeader(plane="extra", bytes=100))
        for byte in range(100):
            while not self.quick.is_set():
                await asyncio.sleep(0.05)
                if not self.stuck.is_set():
                    break
            yield common_pb2.PlaneChunk(data=bytes([byte]))


def test_state_that_arrives_is_told_of_and_what_is_stuck_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.transfer.MOVING_S", 0.2)
    shard = Slow()
    with (
        serving(
            Restarted(), add_others=lambda s: shard_pb2_grpc.add_ShardServicer_to_server(shard, s)
        ) as there,
        serving(far_end := Restarted(places=there)) as address,
        connected(address) as transfer,
    ):
        transfer.do_declare(LAYOUT, OptimizerSpec("sgd", ()))
        transfer.begin_attending()
        withdrawn: list[Any] = []
        withdrawing = threading.Thread(
            target=lambda: withdrawn.extend(transfer.do_withdraw(0, 5, lambda shard, name: 100))
        )
        withdrawing.start()
        assert far_end.told(3) == ["attending", "moving", "moving"]
        shard.stuck.set()
        time.sleep(0.5)
        while not far_end.heard.empty():
            far_end.heard.get()
        time.sleep(0.7)
        assert far_end.heard.empty(), "nothing arrives: nothing is told"
        shard.quick.set()
        withdrawing.join(LIMIT_S)
    assert withdrawn == [{"extra": bytes(range(100))}]


class AnotherRun(coordinator_pb2_grpc.CoordinatorServicer):
    """What a coordinator of another run answers, at the address of this worker's."""

    async def Declare(
        self, request: coordinator_pb2.DeclareRequest, context: Any
    ) -> coordinator_pb2.DeclareReply:
        raise WrongRun("the call belongs to run a run/1, this is run another")

    async def Attend(
        self, request_iterator: AsyncIterator[coordinator_pb2.WorkerReport], context: Any
    ) -> AsyncIterator[coordinator_pb2.WorkerOrder]:
        raise WrongRun("the call belongs to run a run/1, this is run another")
        yield coordinator_pb2.WorkerOrder()


def test_where_another_run_is_by_now_this_workers_is_over() -> None:
    with serving(AnotherRun()) as address:
        transfer = Transfer(
            coordinator=address, security=Security(), run=InRun("a run", 1), incarnation=INCARNATION
        )
        try:
            with pytest.raises(RunOver, match=r"this worker's run is gone.*this is run another"):
                transfer.do_declare(Layout(()), OptimizerSpec("sgd", ()))
            transfer.begin_attending()
            with pytest.raises(RunOver, match="this worker's run is gone"):
                while True:
                    transfer.mailbox.check()
                    time.sleep(0.01)
        finally:
            transfer.close()
