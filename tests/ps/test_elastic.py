"""Elastic segments on the shard: every unit once, every part of it accounted for, the log replayed to the bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ps.ledger import Verdict
from ps.publish import Delta
from ps.records import Accept, Advance, Close, Fence, Publish, Record, Retire, Segment
from ps.shard import Shard
from tests.ps.models import (
    ADAMW,
    ARRIVAL,
    LAYOUT,
    NAMED,
    STREAMS,
    TRAINABLE,
    Cluster,
    Plane,
    Worker,
    bits,
    close,
    commit,
    dense,
    plane,
    returning,
    sgd,
    topk,
)
from wire.codec.base import Blocks, DamagedFrame
from wire.errors import ProtocolMismatch
from wire.ids import UnitId
from wire.layout import BLOCK

ROWS = Blocks.of(LAYOUT, TRAINABLE).rows
PUBLISH = Publish("it is time")
STEPS = 3
UNITS = STEPS * STREAMS


def barrier(step: int, *, pause: bool = False, final: bool = False) -> Close:
    return Close(step, (), False, final, 0, pause=pause)


def named(step: int, streams: Sequence[int], late: Sequence[int] = ()) -> Close:
    return Close(step, tuple(streams), False, False, 0, late=tuple(late))


def only(cluster: Cluster) -> Shard:
    (shard,) = cluster.shards
    return shard


def publish(shard: Shard) -> Delta:
    delta = shard.apply(PUBLISH)
    assert isinstance(delta, Delta)
    return delta


def moved(cluster: Cluster) -> Plane:
    return (cluster.whole("x") - plane(1))[ROWS]


def deltas(shard: Shard) -> list[Delta]:
    found = [shard.deltas.get(version) for version in range(shard.deltas.base, shard.deltas.version)]
    assert None not in found
    return [delta for delta in found if delta is not None]


# --- exactly once ------------------------------------------------------------------------


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


# --- how much of a unit counts -----------------------------------------------------------


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


# --- closes that name their units --------------------------------------------------------


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


# --- segments ----------------------------------------------------------------------------


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


# --- the log -----------------------------------------------------------------------------


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
