"""Which of the deltas that have arrived may be entered now."""

from __future__ import annotations

import random

from worker.deltas import Delta, DeltaQueues


def closing(shard: int, version: int, step: int) -> Delta:
    return Delta(shard, version, b"", step=step, closes=True)


def passing(shard: int, version: int) -> Delta:
    return Delta(shard, version, b"", step=0, closes=False)


def filled(queues: DeltaQueues, *deltas: Delta) -> DeltaQueues:
    for delta in deltas:
        queues.put(delta)
    return queues


def told(queues: DeltaQueues) -> list[list[tuple[int, int]]]:
    """All that can be taken, as (shard, version) of those that are entered together."""
    taken = []
    while queues.ready:
        taken.append([(d.shard, d.version) for d in queues.take()])
    assert not queues.take()
    return taken


def test_a_step_is_entered_when_every_shard_has_closed_it() -> None:
    queues = filled(DeltaQueues(2), closing(1, 0, 0), closing(1, 1, 1))
    assert told(queues) == []
    assert told(filled(queues, closing(0, 0, 0))) == [[(0, 0), (1, 0)]]
    assert told(filled(queues, closing(0, 1, 1))) == [[(0, 1), (1, 1)]]


def test_what_closes_nothing_is_entered_on_its_own_but_never_past_a_close() -> None:
    queues = filled(DeltaQueues(2), passing(0, 0), passing(0, 1), closing(0, 2, 4), passing(0, 3))
    assert told(queues) == [[(0, 0)], [(0, 1)]]
    assert told(filled(queues, passing(1, 0), passing(1, 1))) == [[(1, 0)], [(1, 1)]]
    assert told(filled(queues, closing(1, 2, 4))) == [[(0, 2), (1, 2)], [(0, 3)]]


def test_versions_of_shards_differ_and_steps_do_not() -> None:
    queues = DeltaQueues(2)
    queues.begin([3, 3])
    filled(queues, closing(0, 17, 3), closing(1, 5, 3), closing(0, 18, 4))
    assert told(queues) == [[(0, 17), (1, 5)]]
    assert told(filled(queues, closing(1, 6, 4))) == [[(0, 18), (1, 6)]]


def test_a_shard_that_was_pulled_behind_a_close_is_not_waited_for() -> None:
    queues = DeltaQueues(3)
    queues.begin([7, 8, 7])
    filled(queues, closing(0, 1, 7))
    assert told(queues) == [], "the third shard stands before that close too"
    assert told(filled(queues, closing(2, 1, 7))) == [[(0, 1), (2, 1)]]
    filled(queues, closing(0, 2, 8), closing(1, 9, 8))
    assert told(filled(queues, closing(2, 2, 8))) == [[(0, 2), (1, 9), (2, 2)]]


def test_a_new_beginning_forgets_what_was_there() -> None:
    queues = filled(DeltaQueues(1), passing(0, 0))
    queues.begin([5])
    assert told(queues) == []
    assert told(filled(queues, passing(0, 9))) == [[(0, 9)]]


def test_whatever_the_order_of_arrival_each_shard_keeps_its_own_and_steps_are_whole() -> None:
    draw = random.Random(3)
    for _ in range(100):
        shards, queues = 3, DeltaQueues(3)
        lanes = []
        for shard in range(shards):
            lane: list[Delta] = []
            for step in range(5):
                lane += [passing(shard, len(lane) + i) for i in range(draw.randrange(4))]
                lane.append(closing(shard, len(lane), step))
            lanes.append(lane)
        left, taken = [list(lane) for lane in lanes], []
        while any(left):
            queues.put(draw.choice([lane for lane in left if lane]).pop(0))
            while together := queues.take():
                taken.append(together)
        assert [[d for t in taken for d in t if d.shard == s] for s in range(shards)] == lanes
        assert [[d.step for d in t] for t in taken if t[0].closes] == [[s] * shards for s in range(5)]
