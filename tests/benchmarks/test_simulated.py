"""A simulated worker answers each plan of an elastic segment, and only those."""

from benchmarks.simulated import Member, Reports, state
from wire.rpc.identity import Security
from wire.v1 import coordinator_pb2


def plan(*, elastic: bool) -> coordinator_pb2.Plan:
    leases = [coordinator_pb2.Lease(number=n, start=10 * n, stop=10 * n + 10, stride=1) for n in (3, 4)]
    return coordinator_pb2.Plan(number=7, elastic=elastic, leases=leases if elastic else ())


def test_of_an_elastic_plan_nothing_was_begun() -> None:
    member, reports = Member("simulated-0", "127.0.0.1:1", Security(), report_s=1.0), Reports()
    member._take(plan(elastic=True), reports)
    holding = reports.get_nowait().holding
    assert holding.plan == 7
    assert [(h.lease, h.next) for h in holding.leases] == [(3, 30), (4, 40)]


def test_an_exact_plan_is_not_answered() -> None:
    member, reports = Member("simulated-0", "127.0.0.1:1", Security(), report_s=1.0), Reports()
    member._take(plan(elastic=False), reports)
    assert reports.empty()


def test_their_state_together() -> None:
    members = [Member(f"simulated-{n}", "127.0.0.1:1", Security(), report_s=1.0) for n in range(3)]
    members[0].stage, members[0].beats = "joined", 5
    members[1].problem = "refused"
    found = state(members)
    assert (found["joined"], found["beats"], found["problems"]) == (1, 5, ["simulated-1: refused"])
