"""What workers report reaches the core: no report of the contract is passed over unseen."""

from __future__ import annotations

from coordinator import events as e
from coordinator.worker_messages import event_of
from wire.v1 import coordinator_pb2

NOT_THE_CORES = {"attending", "scalars"}
"""The first message of a line, and what is only written down."""


def test_every_report_but_these_is_an_event() -> None:
    for field in coordinator_pb2.WorkerReport.DESCRIPTOR.oneofs_by_name["report"].fields:
        report = coordinator_pb2.WorkerReport()
        getattr(report, field.name).SetInParent()
        event = event_of(7, report)
        assert (event is None) == (field.name in NOT_THE_CORES), field.name
        assert event is None or event.incarnation == 7


def test_an_event_says_what_the_report_said() -> None:
    deposited = coordinator_pb2.Deposited(stream=1, step=2, released=True, attempt=3)
    report = coordinator_pb2.WorkerReport(deposited=deposited)
    assert event_of(7, report) == e.StreamDeposited(7, 1, 2, True, 3)
