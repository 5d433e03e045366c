"""x̂ on a worker: each shard at its own version, steps entered on all shards, back from a base."""

from __future__ import annotations

import numpy as np
import pytest

from tests.worker.toy import Toy, ToyTransfer, Worker, worker
from wire.errors import ProtocolMismatch
from worker.deltas import Delta
from worker.replica import Replica


def moved(toy: Toy, shard: int, value: float, **header: object) -> None:
    """Publish x = `value` on one shard."""
    held = toy.shards[shard]
    held.x[held.blocks.rows] = value
    toy.publish(shard, **header)


def closed(toy: Toy, step: int, value: float) -> None:
    for shard in range(2):
        moved(toy, shard, value, step=step, closes=True, clock=step + 1)


def values(w: Worker) -> list[float]:
    return [w.model.a[0].item(), w.model.b[0].item()]


@pytest.fixture
def w() -> Worker:
    return worker()


def replica_of(w: Worker) -> Replica:
    return w.driver._replica


def take(w: Worker, *deltas: Delta) -> None:
    replica_of(w).receive(deltas)


def test_it_holds_nothing_before_the_first_pull(w: Worker) -> None:
    assert not replica_of(w).held
    assert replica_of(w).clock == 0


def test_a_live_pull_takes_each_shard_as_it_is(w: Worker) -> None:
    moved(w.toy, 0, 1.0, clock=2)
    moved(w.toy, 0, 2.0, clock=5)
    moved(w.toy, 1, 3.0, clock=4)
    replica = replica_of(w)
    assert list(replica.pull()) == [0, 0]
    assert (replica.step, replica.versions, replica.clock) == (0, [2, 1], 4)
    assert values(w) == [2.0, 3.0]
    moved(w.toy, 1, 4.0, clock=6)
    take(w, w.toy.shards[1].log[1])
    replica.catch_up()
    assert (replica.versions, replica.clock) == ([2, 2], 5)
    assert values(w) == [2.0, 4.0]


def test_each_shard_remembers_where_it_was_before_its_own_last_move(w: Worker) -> None:
    moved(w.toy, 0, 1.0)
    replica = replica_of(w)
    replica.pull()
    assert replica.before is None
    replica.remember(on=True)
    for value in (2.0, 3.0):
        moved(w.toy, 0, value)
        take(w, w.toy.shards[0].log[-1])
        replica.catch_up()
    moved(w.toy, 1, 7.0)
    take(w, w.toy.shards[1].log[-1])
    replica.catch_up()
    assert [replica.before[blocks.rows[0], 0] for blocks in replica.trainable] == [2.0, 0.0]
    replica.pull()
    assert (replica.before == w.driver._parameters.published).all(), "nothing has moved since"


def test_behind_an_elastic_segment_history_goes_by_steps_from_versions_that_differ(w: Worker) -> None:
    moved(w.toy, 0, 1.0)
    moved(w.toy, 0, 2.0)
    for step in range(4):
        closed(w.toy, step, 10.0 + step)
    replica = replica_of(w)
    for shard in w.toy.shards:
        shard.bases = {step: shard.bases[step] for step in (0, 2)}
    assert replica.seek(3) != []
    assert (replica.step, replica.versions) == (3, [5, 3])
    assert values(w) == [12.0, 12.0]
    take(w, *(shard.log[-1] for shard in w.toy.shards))
    assert replica.newest == 4
    assert [d[0].step for d in replica.seek(2)] == [2, 3]
    assert (replica.step, replica.versions, replica.newest) == (2, [4, 2], 4)
    assert replica.seek(4) == []
    assert (replica.step, replica.versions) == (4, [6, 4])
    assert values(w) == [13.0, 13.0]


def test_shards_that_send_different_steps_for_one_are_refused(w: Worker) -> None:
    closed(w.toy, 0, 1.0)
    del w.toy.shards[0].bases[1]
    with pytest.raises(ProtocolMismatch, match="the shards sent"):
        replica_of(w).seek(1)


def test_pulls_count_whole_models(w: Worker) -> None:
    replica = replica_of(w)
    replica.pull()
    assert replica.pulls == 1
    for shard in (0, 0, 0, 1):
        moved(w.toy, shard, 1.0)
        take(w, w.toy.shards[shard].log[-1])
        replica.catch_up()
    assert replica.pulls == 3


def test_x_is_held_for_a_while_and_x_hat_comes_back(w: Worker) -> None:
    replica = replica_of(w)
    replica.pull()
    w.toy.shards[0].x[:] = 9.0
    with replica.holding_x():
        assert values(w) == [9.0, 9.0]
    assert values(w) == [0.0, 0.0]
    assert isinstance(w.attached.transfer, ToyTransfer)
    assert np.array_equal(w.driver._parameters.published, np.zeros_like(w.driver._parameters.published))
