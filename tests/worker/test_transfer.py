"""The worker's lines: what is told after a line broke arrives on the next one."""

from __future__ import annotations

import queue
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from tests.worker.far_end import serving
from wire.rpc.identity import Security
from wire.v1 import coordinator_pb2, coordinator_pb2_grpc
from worker.transfer import Transfer

INCARNATION = 7


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
        transfer = Transfer(coordinator=address, security=Security(), incarnation=INCARNATION, timeline=1)
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
        transfer = Transfer(coordinator=address, security=Security(), incarnation=INCARNATION, timeline=1)
        try:
            transfer.report(uploaded={})
            transfer.report(scalars={"step": 3, "values": {}})
            transfer.begin_attending()
            heard = [far_end.heard.get(timeout=10).WhichOneof("report") for _ in range(4)]
        finally:
            transfer.close()
    assert heard == ["attending", "uploaded", "uploaded", "scalars"]
