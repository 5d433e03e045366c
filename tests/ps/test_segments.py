"""From one segment to the next on the shard, and all of it replayed from the log to the bit."""

from __future__ import annotations

import numpy as np
import pytest

from ps.ledger import Verdict
from ps.publish import Delta
from ps.records import Advance, Close, Fence, Record, Retire, Segment
from ps.shard import Shard
from tests.ps.elastic import PUBLISH, barrier, deltas, named, only, publish
from tests.ps.models import (
    ADAMW,
    ARRIVAL,
    NAMED,
    STREAMS,
    Cluster,
    Worker,
    bits,
    close,
    dense,
    plane,
    sgd,
    topk,
)
from wire.errors import ProtocolMismatch
from wire.ids import UnitId


def fill(shard: Shard, worker: Worker, first: int, stop: int) -> None:
    for number in range(first, stop):
        assert shard.apply(worker.unit(number, base=shard.deltas.version)) is Verdict.ADMIT


def test_a_barrier_settles_all_that_is_pending_and_names_nothing() -> None:
    cluster = Cluster(1, segment=ARRIVAL)
    shard, worker = only(cluster), Worker(cluster, 1)
    fill(shard, worker, 0, 2)
    publish(shard)
    fill(shard, worker, 3, 6)
    for wrong in (barrier(1), barrier(0), Close(1, (0,), False, False, 0), named(1, (), late=(3,))):
        with pytest.raises(ProtocolMismatch, match="the lowest missing one is 2, 3 beyond it"):
            shard.apply(wrong)
    fill(shard, worker, 2, 3)
    for wrong in (barrier(0), barrier(2), named(1, (0, 1, 2))):
        with pytest.raises(ProtocolMismatch, match="the lowest missing one is 6"):
            shard.apply(wrong)
    delta = shard.apply(barrier(1, pause=True))
    assert isinstance(delta, Delta)
    assert (delta.step, delta.version, delta.closes, delta.clock, delta.pause) == (1, 1, True, 2, True)
    assert [o.unit.number(STREAMS) for o in delta.outcomes] == [3, 4, 5, 2], "in the order of the log"
    assert shard.apply(barrier(1)) is delta
    with pytest.raises(ProtocolMismatch, match="close of step 0: it is closed"):
        shard.apply(barrier(0))
    assert shard.ledger.stands_at(2)


@pytest.mark.parametrize("codecs", [dense(), topk()], ids=["dense", "topk"])
def test_one_shard_goes_from_exact_to_elastic_and_back(codecs: tuple) -> None:  # type: ignore[type-arg]
    cluster = Cluster(1, codecs=codecs)
    shard, worker = only(cluster), Worker(cluster, 1)
    estimates = "aggregate" in shard.planes()
    for step in range(2):
        cluster.step(step)
    shard.apply(Fence(2, 1, 3))
    shard.apply(Segment(1, 2, elastic=True, arrival=True))
    assert "aggregate" not in shard.planes() and shard.stream_planes == ()
    assert (shard.ledger.step, shard.clock, shard.deltas.version) == (2, 2, 2)
    for number in range(6, 15):
        fill(shard, worker, number, number + 1)
        publish(shard)
    shard.apply(barrier(4, pause=True))
    shard.apply(Segment(2, 5, elastic=True, arrival=False))
    fill(shard, Worker(cluster, 2), 15, 18)
    shard.apply(named(5, (0, 1, 2)))
    shard.apply(Segment(3, 6))
    assert ("aggregate" in shard.planes()) == estimates
    assert not estimates or not cluster.whole("aggregate").any(), "estimates begin at zero"
    assert (shard.ledger.step, shard.deltas.version, shard.accepted) == (6, 13, {})
    cluster.states = [{name: np.zeros_like(p) for name, p in state.items()} for state in cluster.states]
    for stream in range(STREAMS):
        shard.apply(cluster.unit(0, 6, stream, attempt=3))
    assert shard.judge(UnitId(1, 7, 1), 0, 7) is Verdict.EARLY
    assert shard.judge(UnitId(1, 6, 1), 2, 7) is Verdict.FENCED, "fences outlive segments"
    delta = shard.apply(close(6, retain_from=6))
    assert isinstance(delta, Delta)
    assert (delta.version, delta.step, delta.clock, shard.deltas.base) == (13, 6, 7, 13)
    replica = plane(1)
    with pytest.raises(KeyError, match="no longer retained"):
        shard.deltas.get(12)
    cluster.pull.apply(delta.frame, replica, cluster.blocks(0))


def test_what_begins_no_segment_here() -> None:
    cluster = Cluster(1, segment=ARRIVAL)
    shard, worker = only(cluster), Worker(cluster, 1)
    shard.apply(ARRIVAL)  # a repeat
    fill(shard, worker, 0, 3)
    exact = Segment(1, 1)
    with pytest.raises(ProtocolMismatch, match="holds 3 unsettled units"):
        shard.apply(exact)
    publish(shard)
    with pytest.raises(ProtocolMismatch, match="at step 0"):
        shard.apply(exact)
    shard.apply(barrier(0))
    for wrong in (Segment(1, 0), Segment(1, 2), Segment(0, 1)):
        with pytest.raises(ProtocolMismatch, match="a segment follows where"):
            shard.apply(wrong)
    fill(shard, worker, 4, 5)
    with pytest.raises(ProtocolMismatch):
        shard.apply(exact)
    assert shard.segment == ARRIVAL


def test_a_segment_of_the_same_kind_begins_with_estimates_of_zero() -> None:
    """Two elastic segments in a row; a unit of the second moves what it moves in a fresh shard."""
    first = Cluster(1, codecs=topk(), optimizer=sgd(), segment=ARRIVAL)
    shard = only(first)
    fill(shard, Worker(first, 1), 0, 3)
    shard.apply(barrier(0))
    before = first.whole("x")
    shard.apply(Segment(1, 1, elastic=True, arrival=True))
    shard.apply(Worker(first, 1).unit(3, base=1))
    publish(shard)
    fresh = Cluster(1, codecs=topk(), optimizer=sgd(), segment=ARRIVAL)
    only(fresh).apply(Worker(fresh, 1).unit(3))
    publish(only(fresh))
    assert np.allclose(first.whole("x") - before, fresh.whole("x") - plane(1), atol=1e-6)


def test_units_are_told_again_until_they_are_counted() -> None:
    cluster = Cluster(1, segment=ARRIVAL)
    shard, worker = only(cluster), Worker(cluster, 1)
    fill(shard, worker, 0, 5)
    publish(shard)
    shard.apply(Advance(3))
    assert sorted(shard.accepted) == [3, 4]
    told = shard.accepted[3]
    assert (told.incarnation, told.factor, told.behind, told.commit.samples) == (1, 1.0, 0, 8)
    shard.apply(Advance(1))
    assert sorted(shard.accepted) == [3, 4]
    assert [unit.unit.number(STREAMS) for unit in shard.accepted_from(4)] == [4]


def test_a_unit_that_waits_for_its_close_is_told_again_however_low() -> None:
    cluster = Cluster(1, segment=NAMED)
    shard, worker = only(cluster), Worker(cluster, 1)
    fill(shard, worker, 0, 3)
    shard.apply(named(0, (0, 2)))
    shard.apply(Advance(3))
    assert sorted(shard.accepted) == [1]
    assert [unit.unit.stream for unit in shard.accepted_from(99)] == [1]
    shard.apply(named(1, (), late=(1,)))
    shard.apply(Advance(3))
    assert not shard.accepted


def long_log(cluster: Cluster) -> list[Record]:
    """Exact, arrival, named: with stale, empty, repeated, late and retired."""
    workers = {incarnation: Worker(cluster, incarnation) for incarnation in (1, 2, 3)}
    log: list[Record] = [cluster.unit(0, 0, stream) for stream in (2, 0, 1)]
    log += [close(0), Segment(1, 1, elastic=True, arrival=True)]
    for number in range(3, 12):
        unit = workers[number % 3 + 1].unit(number, base=1, empty="epoch_end" * (number == 7))
        log += [unit, unit, *[PUBLISH] * (number % 2)]
        if number == 8:
            log += [Retire(2), workers[2].unit(11, base=2), Advance(5)]
    log += [workers[3].unit(10, base=3), barrier(3), Segment(2, 4, elastic=True)]
    workers |= {4: Worker(cluster, 4), 5: Worker(cluster, 5)}
    log += [workers[4].unit(12, base=7), workers[5].unit(14, base=7), Retire(4), named(4, (0, 2))]
    log += [workers[5].unit(number, base=7) for number in (13, 15, 16, 17)]
    return [*log, named(5, (0, 1, 2), late=(13,)), Segment(3, 6)]


@pytest.mark.parametrize("codecs", [dense(), topk()], ids=["dense", "topk"])
def test_the_log_replayed_gives_the_same_bits(codecs: tuple) -> None:  # type: ignore[type-arg]
    first, second = (Cluster(1, codecs=codecs, optimizer=ADAMW) for _ in range(2))
    log = long_log(first)
    results = [[only(cluster).apply(record) for record in log] for cluster in (first, second)]
    assert results[0] == results[1]
    assert sum(isinstance(result, Delta) for result in results[0]) >= 8
    assert {o.factor for delta in deltas(only(first)) for o in delta.outcomes} > {1.0}
    for name in only(first).planes():
        assert bits(first.whole(name)) == bits(second.whole(name)), name
    assert only(first).scalars() == only(second).scalars()
    replica = plane(1)
    for delta in deltas(only(first)):
        first.pull.apply(delta.frame, replica, first.blocks(0))
    assert bits(replica) == bits(first.whole("published"))
