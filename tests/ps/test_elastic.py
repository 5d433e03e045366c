"""Elastic segments on the shard: how much of a unit counts, every part of it accounted for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from ps.ledger import Verdict
from ps.publish import Delta
from ps.records import Accept, Close, Retire
from tests.ps.elastic import PUBLISH, ROWS, moved, named, only, publish
from tests.ps.models import (
    ADAMW,
    ARRIVAL,
    LAYOUT,
    NAMED,
    STREAMS,
    Cluster,
    Worker,
    bits,
    plane,
    returning,
    sgd,
    topk,
)
from wire.codec.base import DamagedFrame
from wire.errors import ProtocolMismatch
from wire.ids import UnitId
from wire.layout import BLOCK


@pytest.mark.parametrize("groups", [(3, 3, 3), (1,) * 9, (9,), (2, 5, 2)])
def test_r_units_move_the_model_as_far_as_one_step_however_they_are_grouped(groups: Sequence[int]) -> None:
    """SGD, mean: x - x0 = - lr / R · Σ f · frame."""
    cluster = Cluster(1, optimizer=sgd(), segment=ARRIVAL)
    shard, worker, total, number = only(cluster), Worker(cluster, 1), np.zeros(moved(cluster).shape), 0
    for size in groups:
        for _ in range(size):
            shard.apply(worker.unit(number, base=shard.deltas.version))
            total += plane(number)[ROWS]
            number += 1
        publish(shard)
    assert np.allclose(moved(cluster), -0.1 / STREAMS * total, atol=1e-6)


def test_what_is_produced_is_applied_or_carried() -> None:
    """Three workers, two of which lag: parts of their units come back and go out again."""
    cluster = Cluster(1, optimizer=sgd(), codecs=returning(), segment=ARRIVAL)
    shard, workers = only(cluster), [Worker(cluster, incarnation) for incarnation in (1, 2, 3)]
    produced, applied = np.zeros(moved(cluster).shape), np.zeros(moved(cluster).shape)
    frames: dict[UnitId, tuple[Worker, Accept]] = {}
    seen = set()
    for number in range(18):
        worker = workers[number % 3 if number % 2 else 0]
        lag = (0, 2, 9)[worker.incarnation - 1]
        push = worker.unit(number, base=max(0, shard.deltas.version - lag))
        frames[push.unit] = worker, push
        produced += plane(number)[ROWS]
        shard.apply(push)
        if number % 2:
            for outcome in publish(shard).outcomes:
                sender, settled = frames.pop(outcome.unit)
                part = np.zeros((LAYOUT.blocks, BLOCK), np.float32)
                cluster.push.add(settled.frame, part, cluster.blocks(0), factor=outcome.factor)
                applied += part[ROWS]
                sender.give_back(settled, outcome.factor)
                seen.add(outcome.factor)
    carried = sum(worker.state["carry"][ROWS].astype(float) for worker in workers)
    assert np.allclose(produced, applied + carried, atol=1e-5)
    assert np.allclose(moved(cluster), -0.1 / STREAMS * applied, atol=1e-5)
    assert {0.0, 1.0} < seen, "in full, in part, and not at all"


def test_staleness_is_counted_and_told() -> None:
    """R = 3, limit 2 steps. Worker 2 holds version 0 while worker 1 is settled seven times."""
    cluster = Cluster(1, optimizer=sgd(), segment=ARRIVAL)
    shard, fast, slow = only(cluster), Worker(cluster, 1), Worker(cluster, 2)
    shard.apply(slow.unit(3, base=0))
    for number in (0, 1, 2, 6):
        shard.apply(fast.unit(number, base=shard.deltas.version))
        publish(shard)
    shard.apply(slow.unit(4, base=0))
    assert publish(shard).outcomes[0].factor == pytest.approx((4 / 3) ** -0.5), "4 behind, τ = 4/3"
    for number in (7, 8, 9):
        shard.apply(fast.unit(number, base=shard.deltas.version))
    shard.apply(slow.unit(5, base=0))
    units = shard.accepted
    assert [units[n].behind for n in (3, 0, 1, 4, 7, 5)] == [0, 1, 0, 4, 0, 7]
    assert [units[n].factor for n in (3, 0, 7, 5)] == [1.0, 1.0, 1.0, 0.0], "τ = 7/3 is beyond the limit"
    assert publish(shard).outcomes[-1].factor == 0.0


def test_a_base_that_was_never_published_is_refused() -> None:
    cluster = Cluster(1, segment=ARRIVAL)
    with pytest.raises(ProtocolMismatch, match="computed from version 1, this shard is at 0"):
        only(cluster).apply(Worker(cluster, 1).unit(0, base=1))
    assert not only(cluster).held and only(cluster).ledger.low == 0


def test_learning_rates_of_a_publication() -> None:
    """mean: gradient Σ/k, rate Σ/R. sum: gradient Σ, the mean rate."""
    ones = np.where(plane(1) != 0, np.float32(1), np.float32(0))
    rates = ((0.1, 0.1), (0.2, 0.2))
    for rule, expected in (("mean", -(0.1 + 0.2) / STREAMS), ("sum", -2 * 0.15)):
        cluster = Cluster(1, optimizer=sgd(), aggregate=rule, segment=ARRIVAL)
        for number, rate in enumerate(rates):
            only(cluster).apply(Worker(cluster, number).unit(number, gradient=ones, rates=rate))
        publish(only(cluster))
        assert np.allclose(moved(cluster)[ones[ROWS] == 1], expected, atol=1e-6)


def test_empty_units_are_settled_and_move_nothing() -> None:
    cluster = Cluster(1, codecs=topk(), segment=ARRIVAL)
    shard, worker = only(cluster), Worker(cluster, 1)
    before = bits(cluster.whole("x"))
    shard.apply(worker.unit(1, empty="epoch_end"))
    delta = publish(shard)
    assert [(o.unit.stream, o.factor) for o in delta.outcomes] == [(1, 1.0)]
    assert bits(cluster.whole("x")) == before and shard.scalars() == {"step": 0.0}
    assert (delta.closes, delta.version, shard.deltas.version, shard.apply(PUBLISH)) == (False, 0, 1, None)


def test_publications_tell_the_clock() -> None:
    cluster = Cluster(1, segment=ARRIVAL)
    shard, worker, clocks = only(cluster), Worker(cluster, 1), []
    for number in (3, 4, 0, 1, 2, 5):
        shard.apply(worker.unit(number, base=shard.deltas.version))
        assert shard.backlog.clock_advanced == (number in (2, 5))
        clocks.append(publish(shard).clock)
    assert clocks == [0, 0, 0, 0, 1, 2]
    assert (shard.clock, shard.deltas.clock, shard.ledger.step) == (2, 2, 0)


def test_lanes_are_the_workers_that_sent_something_and_live() -> None:
    cluster = Cluster(1, segment=ARRIVAL)
    shard = only(cluster)
    for number, incarnation in enumerate((1, 2, 3, 2)):
        shard.apply(Worker(cluster, incarnation).unit(number))
    shard.apply(Retire(3))
    assert (shard.backlog.units, shard.backlog.lanes) == (4, 2), "its unit stays"


def test_a_damaged_frame_changes_nothing_on_arrival() -> None:
    cluster = Cluster(1, codecs=topk(), segment=ARRIVAL)
    shard, good = only(cluster), Worker(cluster, 1).unit(0)
    for frame in (b"", good.frame[:-1], good.frame[:40] + bytes([good.frame[40] ^ 1]) + good.frame[41:]):
        with pytest.raises(DamagedFrame):
            shard.apply(Accept(good.unit, 0, 1, good.commit, frame, 0))
    assert (shard.ledger.low, shard.backlog.units, shard.backlog.lanes) == (0, 0, 0)
    assert shard.apply(good) is Verdict.ADMIT and shard.held_bytes == 0, "decoded on arrival"


def test_late_units_are_settled_first_and_others_stay_held() -> None:
    cluster = Cluster(1, optimizer=sgd(), segment=NAMED)
    shard, quick, slow = only(cluster), Worker(cluster, 1), Worker(cluster, 2)
    for number in (2, 0, 4, 1, 3):
        shard.apply((slow if number in (1, 4) else quick).unit(number))
    first = shard.apply(named(0, (0, 2)))
    assert isinstance(first, Delta) and (first.closes, first.clock) == (True, 1)
    assert sorted(shard.held) == [1, 3, 4] and shard.held_bytes > 0
    second = shard.apply(named(1, (0, 1), late=(1,)))
    assert isinstance(second, Delta)
    assert [o.unit.number(STREAMS) for o in second.outcomes] == [1, 3, 4]
    assert shard.apply(named(0, (0, 2))) is first, "a repeat is answered as the first was"
    assert not shard.held and shard.clock == 2 and shard.ledger.low == 5
    want = -0.1 * ((plane(0) + plane(2)) / 2 + (plane(1) + plane(3) + plane(4)) / 3)
    assert np.allclose(moved(cluster), want[ROWS], atol=1e-6)


@pytest.mark.parametrize(
    "wrong", [named(0, (0, 1)), named(1, (0,)), named(0, (0,), late=(3,)), named(0, (0,), late=(0,))]
)
def test_a_close_that_names_what_is_not_held_is_refused(wrong: Close) -> None:
    cluster = Cluster(1, segment=NAMED)
    shard = only(cluster)
    for number in (0, 3):
        shard.apply(Worker(cluster, 1).unit(number))
    with pytest.raises(ProtocolMismatch, match="close of step"):
        shard.apply(wrong)
    assert sorted(shard.held) == [0, 3] and shard.deltas.version == 0
    assert shard.apply(PUBLISH) is None, "nothing is published between closes"


def test_elastic_arithmetic_does_not_depend_on_the_number_of_shards() -> None:
    one, three = Cluster(1, codecs=topk(), segment=ARRIVAL), Cluster(3, codecs=topk(), segment=ARRIVAL)
    for cluster in (one, three):
        for index, shard in enumerate(cluster.shards):
            worker = Worker(cluster, 1)
            for number in range(6):
                shard.apply(worker.unit(number, base=number // 2, shard=index))
                if number % 2:
                    publish(shard)
    assert bits(one.whole("x")) == bits(three.whole("x"))
    assert bits(one.whole("published")) == bits(three.whole("published"))


def test_units_whose_only_worker_is_retired_before_they_are_published() -> None:
    """Its estimate left the sum with it: an empty step that settles them, not a division by no workers."""
    cluster = Cluster(1, codecs=topk(), optimizer=ADAMW, segment=ARRIVAL)
    shard = only(cluster)
    assert shard.apply(Worker(cluster, 1).unit(0)) is Verdict.ADMIT
    shard.apply(Retire(1))
    assert [outcome.unit.stream for outcome in publish(shard).outcomes] == [0]
    assert np.isfinite(cluster.whole("x")).all() and not shard.held
