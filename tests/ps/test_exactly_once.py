"""Elastic segments on the shard: every unit once, whatever becomes of those who sent it."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ps.ledger import Verdict
from ps.publish import Delta
from ps.records import Accept, Retire, Segment
from tests.ps.elastic import PUBLISH, ROWS, barrier, deltas, named, only
from tests.ps.models import (
    ARRIVAL,
    LAYOUT,
    NAMED,
    STREAMS,
    Cluster,
    Plane,
    Worker,
    close,
    commit,
    sgd,
)
from wire.ids import UnitId
from wire.layout import BLOCK

STEPS = 3
UNITS = STEPS * STREAMS


def audit(number: int) -> Plane:
    """-1 at coordinate `number` of every block that has it."""
    values = np.zeros((LAYOUT.blocks, BLOCK), np.float32)
    values[:, number] = -1.0
    return np.where(np.arange(BLOCK) < np.asarray(LAYOUT.lengths)[:, None], values, np.float32(0))


def assert_each_once(cluster: Cluster) -> None:
    settled = Counter(o.unit for delta in deltas(only(cluster)) for o in delta.outcomes)
    assert settled == Counter(UnitId.of(1, number, STREAMS) for number in range(UNITS))
    real = np.asarray(LAYOUT.lengths)[ROWS]
    for number in range(UNITS):
        assert (cluster.whole("x")[ROWS, number] == (real > number)).all()


def audited(segment: Segment) -> tuple[Cluster, dict[int, Worker]]:
    """x begins at zero: sums of ones are exact."""
    cluster = Cluster(1, optimizer=sgd(), aggregate="sum", segment=segment)
    for name in ("x", "published"):
        only(cluster).planes()[name][:] = 0.0  # type: ignore[index]
    return cluster, {incarnation: Worker(cluster, incarnation) for incarnation in (1, 2, 3, 9)}


def audit_unit(worker: Worker, number: int, base: int) -> Accept:
    return worker.unit(number, base=base, gradient=audit(number), rates=(1.0, 1.0))


histories = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(1, 3), st.integers(0, UNITS - 1)),
        st.tuples(st.sampled_from(["settle", "retire"]), st.integers(1, 3), st.integers(0, 2**UNITS - 1)),
    ),
    max_size=30,
)


@settings(max_examples=40, deadline=None)
@given(histories)
def test_each_unit_counts_once_on_arrival(history: list[tuple[str, int, int]]) -> None:
    cluster, workers = audited(ARRIVAL)
    shard, accepted, retired = only(cluster), set[int](), set[int]()
    for what, who, number in history:
        if what == "settle":
            shard.apply(PUBLISH)
        elif what == "retire":
            retired.add(who)
            shard.apply(Retire(who))
        else:
            verdict = shard.apply(audit_unit(workers[who], number, shard.deltas.version))
            assert (verdict is Verdict.FENCED) == (who in retired)
            assert (verdict is Verdict.ADMIT) == (who not in retired and number not in accepted)
            accepted |= {number} if verdict is Verdict.ADMIT else set()
    for number in set(range(UNITS)) - accepted:
        assert shard.apply(audit_unit(workers[9], number, 0)) is Verdict.ADMIT
    assert isinstance(shard.apply(barrier(STEPS - 1)), Delta)
    assert_each_once(cluster)


@settings(max_examples=40, deadline=None)
@given(histories)
def test_each_unit_counts_once_where_closes_name_them(history: list[tuple[str, int, int]]) -> None:
    """`settle` closes the open step with some of what is held, late ones included."""
    cluster, workers = audited(NAMED)
    shard, retired = only(cluster), set[int]()
    for what, who, number in history:
        step = shard.ledger.step
        if what == "settle" and step < STEPS - 1:
            chosen = [n for n in sorted(shard.held) if number >> n & 1]
            late = [n for n in chosen if n < step * STREAMS]
            shard.apply(named(step, [n - step * STREAMS for n in chosen if n // STREAMS == step], late))
        elif what == "retire":
            retired.add(who)
            shard.apply(Retire(who))
        elif what == "push":
            verdict = shard.apply(audit_unit(workers[who], number, shard.deltas.version))
            assert (verdict is Verdict.FENCED) == (who in retired)
    for number in range(UNITS):
        shard.apply(audit_unit(workers[9], number, 0))
    while (step := shard.ledger.step) < STEPS:
        late = [n for n in sorted(shard.held) if n < step * STREAMS]
        own = [n - step * STREAMS for n in sorted(shard.held) if n // STREAMS == step]
        shard.apply(named(step, own, late))
    assert_each_once(cluster)
    assert shard.ledger.stands_at(STEPS)


def test_a_worker_that_is_retired_counts_no_more_in_any_segment() -> None:
    cluster = Cluster(1)
    shard = only(cluster)
    unit = cluster.unit(0, 0, 0)
    shard.apply(unit)
    shard.apply(Retire(unit.incarnation))
    shard.apply(Retire(unit.incarnation))
    assert shard.judge(unit.unit, 0, unit.incarnation) is Verdict.FENCED, "a repeat as well"
    assert shard.judge(unit.unit, 0, 8) is Verdict.ACCEPTED, "what it had pushed stands"
    assert shard.judge(UnitId(2, 0, 0), 0, unit.incarnation) is Verdict.FOREIGN
    for stream in (1, 2):
        worker = Worker(cluster, 8)
        shard.apply(Accept(UnitId(1, 0, stream), 0, 8, commit(), worker.unit(stream).frame))
    shard.apply(close(0))
    shard.apply(Segment(1, 1, elastic=True, arrival=True))
    assert shard.judge(UnitId(1, 1, 0), 0, unit.incarnation) is Verdict.FENCED
