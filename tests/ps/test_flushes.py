"""The last push of a leaver: in the model in full and once, whatever it arrives beside, never behind the segment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from ps.flushes import Flushes
from ps.ledger import Verdict
from ps.publish import Delta
from ps.records import Close, Flush, Publish, Retire, Segment
from ps.shard import Shard
from tests.ps.models import (
    ARRIVAL,
    EXACT,
    LAYOUT,
    NAMED,
    STREAMS,
    TRAINABLE,
    Cluster,
    Plane,
    Worker,
    bits,
    plane,
    sgd,
    topk,
)
from wire.codec.base import Blocks, DamagedFrame
from wire.codec.chain import FLUSH
from wire.errors import ProtocolMismatch

ROWS = Blocks.of(LAYOUT, TRAINABLE).rows
PUBLISH = Publish("it is time")
RATE = 0.1
LEAVER = 7


def flush(values: Plane, *, segment: int = 0, incarnation: int = LEAVER) -> Flush:
    blocks = Cluster(1).blocks(0)
    return Flush(incarnation, segment, (RATE, RATE), b"".join(FLUSH.encode(values, {}, blocks)))


def begin(segment: Segment, aggregate: str = "mean") -> tuple[Cluster, Shard, Worker]:
    cluster = Cluster(1, optimizer=sgd(), aggregate=aggregate, segment=segment)
    (shard,) = cluster.shards
    return cluster, shard, Worker(cluster, 1)


def moved(cluster: Cluster) -> Plane:
    return (cluster.whole("x") - plane(1))[ROWS]


def settle(shard: Shard, numbers: Sequence[int]) -> Delta:
    """All that is pending, as its segment does it."""
    named = Close(0, tuple(numbers), False, False, 0)
    delta = shard.apply(PUBLISH if shard.segment.arrival else named)
    assert isinstance(delta, Delta)
    return delta


# --- which ones count ----------------------------------------------------------------------------


def test_one_counts_for_each_worker_and_segment() -> None:
    flushes = Flushes()
    assert flushes.judge(7, 0, open_segment=0) is Verdict.ADMIT
    flushes.accept(7, 0)
    for open_segment in (0, 1, None):
        assert flushes.judge(7, 0, open_segment=open_segment) is Verdict.ACCEPTED
    assert flushes.judge(8, 0, open_segment=0) is Verdict.ADMIT
    assert flushes.judge(7, 1, open_segment=1) is Verdict.ADMIT
    for open_segment in (0, 2, None):
        assert flushes.judge(7, 1, open_segment=open_segment) is Verdict.FENCED


def test_a_repeat_changes_nothing() -> None:
    cluster, shard, _ = begin(ARRIVAL)
    shard.apply(Worker(cluster, 1).unit(0))
    assert shard.apply(flush(plane(5))) is Verdict.ADMIT
    assert shard.apply(flush(plane(5))) is Verdict.ACCEPTED
    shard.apply(PUBLISH)
    once = bits(cluster.whole("x"))
    assert shard.apply(flush(plane(5))) is Verdict.ACCEPTED
    shard.apply(PUBLISH)
    assert bits(cluster.whole("x")) == once


def test_of_a_worker_that_was_given_up_nothing_is_taken_but_what_was_stands() -> None:
    _, shard, _ = begin(ARRIVAL)
    shard.apply(Retire(LEAVER))
    assert shard.apply(flush(plane(5))) is Verdict.FENCED
    assert shard.apply(flush(plane(5), incarnation=8)) is Verdict.ADMIT
    shard.apply(Retire(8))
    assert shard.apply(flush(plane(5), incarnation=8)) is Verdict.ACCEPTED


@pytest.mark.parametrize("end", [{"pause": True}, {"final": True}])
def test_behind_the_end_of_a_segment_none_is_taken(end: dict[str, bool]) -> None:
    cluster, shard, worker = begin(ARRIVAL)
    for number in range(STREAMS):
        shard.apply(worker.unit(number))
    shard.apply(flush(plane(5)))
    shard.apply(Close(0, (), False, end.get("final", False), 0, pause=end.get("pause", False)))
    assert np.allclose(
        moved(cluster), -RATE / STREAMS * (plane(0) + plane(1) + plane(2) + plane(5))[ROWS], atol=1e-6
    )
    assert shard.apply(flush(plane(5))) is Verdict.ACCEPTED, "it was taken before"
    assert shard.apply(flush(plane(5), incarnation=8)) is Verdict.FENCED
    if "pause" in end:
        shard.apply(Segment(1, 1, elastic=True, arrival=True))
        assert shard.apply(flush(plane(5), incarnation=8)) is Verdict.FENCED, "of the segment before"
        assert shard.apply(flush(plane(5), segment=1, incarnation=8)) is Verdict.ADMIT


def test_where_nothing_is_held_back_it_is_a_mistake() -> None:
    for segment, cluster in (
        ("exact segment", Cluster(1, segment=EXACT)),
        ("estimates", Cluster(1, codecs=topk(), segment=ARRIVAL)),
    ):
        (shard,) = cluster.shards
        with pytest.raises(ProtocolMismatch, match=segment):
            shard.apply(flush(plane(5)))
        assert shard.judge_flush(LEAVER, 0) is Verdict.ADMIT, "nothing has changed"


def test_a_damaged_one_changes_nothing() -> None:
    cluster, shard, _ = begin(ARRIVAL)
    good = flush(plane(5))
    with pytest.raises(DamagedFrame):
        shard.apply(Flush(LEAVER, 0, good.learning_rates, good.frame[:-1]))
    with pytest.raises(ProtocolMismatch, match="1 learning rates"):
        shard.apply(Flush(LEAVER, 0, (RATE,), good.frame))
    shard.apply(Worker(cluster, 1).unit(0))
    shard.apply(PUBLISH)
    assert np.allclose(moved(cluster), -RATE / STREAMS * plane(0)[ROWS], atol=1e-6)
    assert shard.apply(good) is Verdict.ADMIT


# --- how much it counts --------------------------------------------------------------------------


@pytest.mark.parametrize("aggregate", ["mean", "sum"])
def test_on_arrival_it_moves_the_model_as_what_it_is_made_of(aggregate: str) -> None:
    """x - x0 = -lr / R (the sum: -lr) times all that was pushed, beside units and alone."""
    cluster, shard, worker = begin(ARRIVAL, aggregate)
    shard.apply(worker.unit(0))
    shard.apply(flush(plane(5)))
    shard.apply(worker.unit(1))
    settle(shard, ())
    shard.apply(flush(plane(6), incarnation=8))
    delta = settle(shard, ())
    assert (delta.outcomes, delta.closes) == ((), False)
    whole = sum(plane(number) for number in (0, 5, 1, 6))
    expected = -RATE * (whole if aggregate == "sum" else whole / STREAMS)
    assert np.allclose(moved(cluster), expected[ROWS], atol=1e-6)


def test_where_closes_name_the_units_it_counts_beside_them_in_no_divisor() -> None:
    cluster, shard, worker = begin(NAMED)
    for number in (0, 2):
        shard.apply(worker.unit(number))
    shard.apply(flush(plane(5)))
    assert shard.apply(PUBLISH) is None, "it waits for a close"
    settle(shard, (0, 2))
    assert np.allclose(moved(cluster), (-RATE / 2 * (plane(0) + plane(2) + plane(5)))[ROWS], atol=1e-6)
    settled = cluster.whole("x")
    shard.apply(flush(plane(6), incarnation=8))
    delta = shard.apply(Close(1, (), False, True, 0))
    assert isinstance(delta, Delta) and delta.final
    alone = (cluster.whole("x") - settled)[ROWS]
    assert np.allclose(alone, -RATE / STREAMS * plane(6)[ROWS], atol=1e-6), "alone it counts as one unit"


def test_beside_empty_units_it_counts_all_the_same() -> None:
    cluster, shard, worker = begin(ARRIVAL)
    shard.apply(worker.unit(0, empty="epoch_end"))
    shard.apply(flush(plane(5)))
    assert len(settle(shard, ()).outcomes) == 1
    assert np.allclose(moved(cluster), -RATE / STREAMS * plane(5)[ROWS], atol=1e-6)


# --- when it is published ------------------------------------------------------------------------


def test_behind_a_close_it_waits_for_a_unit() -> None:
    """A checkpoint of that boundary is being written, perhaps."""
    cluster, shard, worker = begin(ARRIVAL)
    for number in range(STREAMS):
        shard.apply(worker.unit(number))
    shard.apply(Close(0, (), True, False, 0))
    closed = bits(cluster.whole("x"))
    shard.apply(flush(plane(5)))
    assert not shard.backlog.flushed and shard.apply(PUBLISH) is None
    assert bits(cluster.whole("x")) == closed and shard.deltas.between
    shard.apply(worker.unit(STREAMS, empty="epoch_end"))
    settle(shard, ())
    assert bits(cluster.whole("x")) != closed
    shard.apply(flush(plane(6), incarnation=8))
    assert shard.backlog.flushed


def test_the_log_replays_to_the_bit() -> None:
    worker = Worker(Cluster(1), 1)
    first, second = flush(plane(5)), flush(plane(6), incarnation=8)
    log = [
        worker.unit(0),
        first,
        worker.unit(2),
        PUBLISH,
        worker.unit(1, base=1),
        second,
        PUBLISH,
    ]
    found = []
    for _ in range(2):
        cluster, shard, _ = begin(ARRIVAL)
        for record in log:
            shard.apply(record)
        shard.apply(Close(0, (), False, True, 0))
        found.append((bits(cluster.whole("x")), bits(cluster.whole("published"))))
    assert found[0] == found[1]
