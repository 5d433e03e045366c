"""Pushes above a bound count in part: told in the delta, the same on one server or three, in every kind of segment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from ps.publish import Delta
from ps.records import Accept, Bound, Segment
from ps.shard import Shard
from tests.ps.elastic import ROWS, moved, named, only, publish
from tests.ps.models import (
    ARRIVAL,
    EXACT,
    LAYOUT,
    NAMED,
    STREAMS,
    Cluster,
    Plane,
    Worker,
    bits,
    close,
    plane,
    returning,
    sgd,
    topk,
)
from wire.layout import BLOCK

NORMS = (1.0, 8.0, 1.5)
"""Of the units of a step."""
BOUND = 2.0
FACTORS = (1.0, 0.25, 1.0)


def with_norm(push: Accept, norm: float) -> Accept:
    return replace(push, commit=replace(push.commit, push_norm=norm))


def factors(delta: Delta) -> list[float]:
    return [outcome.factor for outcome in delta.outcomes]


def answered(shard: Shard, record: object) -> Delta:
    delta = shard.apply(record)  # type: ignore[arg-type]
    assert isinstance(delta, Delta)
    return delta


def decoded(cluster: Cluster, pushes: Sequence[Accept], shares: Sequence[float]) -> Plane:
    """Σ share · frame, of one server."""
    into = np.zeros((LAYOUT.blocks, BLOCK), np.float32)
    for push, share in zip(pushes, shares, strict=True):
        cluster.push.add(push.frame, into, cluster.blocks(0), factor=share)
    return into


@pytest.mark.parametrize("segment", [EXACT, NAMED])
def test_a_close_with_a_bound_counts_what_is_above_it_in_part(segment: Segment) -> None:
    cluster = Cluster(1, optimizer=sgd(), codecs=returning(), segment=segment)
    shard, worker = only(cluster), Worker(cluster, 1)
    pushes = [with_norm(worker.unit(number), norm) for number, norm in enumerate(NORMS)]
    for push in pushes:
        shard.apply(push)
    assert [unit.factor for unit in shard.accepted.values()] == [1.0] * 3, "nobody knows before the close"
    delta = answered(shard, replace(named(0, range(STREAMS)), bound=BOUND))
    assert factors(delta) == list(FACTORS)
    expected = -0.1 / STREAMS * decoded(cluster, pushes, FACTORS)[ROWS]
    np.testing.assert_allclose(moved(cluster), expected, atol=1e-6)


@pytest.mark.parametrize("servers", [1, 3])
def test_the_bits_are_those_of_frames_with_factors_on_any_number_of_servers(servers: int) -> None:
    """EF21 before AdamW: the sum of estimates moves by the factor of what a frame says."""

    def run(servers: int, norms: Sequence[float], bound: float) -> Cluster:
        cluster = Cluster(servers, codecs=topk())
        for step in range(3):
            for index, shard in enumerate(cluster.shards):
                for stream in (2, 0, 1):
                    shard.apply(with_norm(cluster.unit(index, step, stream), norms[stream]))
                answered(shard, replace(close(step), bound=bound))
        return cluster

    clipped, one, whole = run(servers, NORMS, BOUND), run(1, NORMS, BOUND), run(servers, NORMS, 0.0)
    for name in ("x", "published", "aggregate"):
        assert bits(clipped.whole(name)) == bits(one.whole(name)), name
        assert bits(clipped.whole(name)) != bits(whole.whole(name)), name
    assert bits(run(servers, (1.0, 1.0, 1.0), BOUND).whole("x")) == bits(whole.whole("x")), "nothing above it"


def test_under_a_quorum_staleness_and_norm_multiply() -> None:
    cluster = Cluster(1, optimizer=sgd(), codecs=returning(), segment=NAMED)
    shard, fast, slow = only(cluster), Worker(cluster, 1), Worker(cluster, 2)
    for step in range(3):
        for stream in (0, 1):
            shard.apply(with_norm(fast.unit(step * STREAMS + stream, base=step), 1.0))
        answered(shard, replace(named(step, (0, 1)), bound=BOUND))
    shard.apply(with_norm(slow.unit(2, base=0), 4.0))
    damped = shard.accepted[2].factor
    assert 0 < damped < 1
    delta = answered(shard, replace(named(3, (), late=(2,)), bound=BOUND))
    assert factors(delta) == [damped * 0.5]


def test_on_arrival_the_bound_counts_from_its_place_in_the_log_on() -> None:
    cluster = Cluster(1, optimizer=sgd(), codecs=returning(), segment=ARRIVAL)
    shard, worker = only(cluster), Worker(cluster, 1)
    pushes = [with_norm(worker.unit(number), 8.0) for number in range(6)]
    shard.apply(pushes[0])
    shard.apply(Bound(BOUND))
    shard.apply(pushes[1])
    shard.apply(Bound(2 * BOUND))
    shard.apply(replace(pushes[2], commit=replace(pushes[2].commit, empty_reason="epoch_end"), frame=b""))
    shard.apply(pushes[3])
    assert [unit.factor for unit in shard.accepted.values()] == [1.0, 0.25, 1.0, 0.5]
    delta = publish(shard)
    assert factors(delta) == [1.0, 0.25, 1.0, 0.5]
    sent, shares = [pushes[0], pushes[1], pushes[3]], [1.0, 0.25, 0.5]
    np.testing.assert_allclose(
        moved(cluster), -0.1 / STREAMS * decoded(cluster, sent, shares)[ROWS], atol=1e-6
    )

    image = shard.image()
    again = Cluster(1, optimizer=sgd(), codecs=returning(), segment=ARRIVAL)
    only(again).restore(image)
    for one in (shard, only(again)):
        one.apply(pushes[4])
        assert one.accepted[4].factor == 0.5, "the bound is part of the state"


def test_a_bound_means_nothing_where_closes_say_it() -> None:
    for segment in (EXACT, NAMED):
        cluster = Cluster(1, optimizer=sgd(), codecs=returning(), segment=segment)
        shard, worker = only(cluster), Worker(cluster, 1)
        shard.apply(Bound(BOUND))
        for number, norm in enumerate(NORMS):
            shard.apply(with_norm(worker.unit(number, gradient=plane(number)), norm))
        assert factors(answered(shard, named(0, range(STREAMS)))) == [1.0] * STREAMS
