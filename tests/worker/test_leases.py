"""Leases: the lowest unit first, as far as the clock lets it begin; a shortened lease stays short."""

from __future__ import annotations

import random

from worker.leases import Lease, LeaseWork
from worker.streams import WAIT, Kind, Task

R = 4


def numbers(work: LeaseWork, *, limit: int = 100) -> list[int]:
    """Do all that may begin now; the numbers of the units."""
    done: list[int] = []
    while (task := work.next()) is not WAIT:
        assert task == work.next(), "asking again changes nothing"
        assert task.kind is Kind.COMPUTE
        done.append(task.step * R + task.stream)
        work.done(task)
        assert len(done) < limit
    return done


def test_without_a_plan_it_waits() -> None:
    assert LeaseWork(R).next() is WAIT
    assert LeaseWork(R).holding == {}


def test_of_all_leases_the_lowest_unit_comes_first() -> None:
    work = LeaseWork(R)
    work.take([Lease(1, 2, 14, 4), Lease(2, 5, 9, 1)], None)
    assert numbers(work) == [2, 5, 6, 6 + 1, 8, 10]
    assert work.holding == {1: 14, 2: 9}


def test_a_unit_has_the_step_and_stream_of_its_number() -> None:
    work = LeaseWork(R)
    work.take([Lease(1, 7, 8, 1)], None)
    assert work.next() == Task(Kind.COMPUTE, stream=3, step=1)


def test_a_bound_holds_units_back_until_the_slowest_clock_moves() -> None:
    work = LeaseWork(R)
    work.take([Lease(1, 0, 40, 4)], 2)
    assert numbers(work) == [0, 4, 8]
    work.reached(1)
    assert numbers(work) == [12]
    work.reached(0)
    assert work.clock == 1, "a clock never goes back"
    assert numbers(work) == []
    work.take([Lease(1, 0, 40, 4)], None)
    assert numbers(work) == [16, 20, 24, 28, 32, 36]


def test_with_a_bound_of_zero_it_goes_step_by_step() -> None:
    work = LeaseWork(R)
    work.take([Lease(1, 0, 16, 1)], 0)
    assert numbers(work) == [0, 1, 2, 3]
    work.reached(1)
    assert numbers(work) == [4, 5, 6, 7]


def test_units_that_stand_on_some_shards_go_to_the_others_only() -> None:
    work = LeaseWork(R)
    work.take([Lease(1, 4, 7, 1, {5: (0, 2)})], None)
    sent = []
    while (task := work.next()) is not WAIT:
        sent.append((task.stream, task.send_to))
        work.done(task)
    assert sent == [(0, ()), (1, (0, 2)), (2, ())]


def test_a_lease_that_was_given_back_and_is_told_again_goes_on_where_it_stood() -> None:
    """By a coordinator that was started anew before it had journaled the answer."""
    work = LeaseWork(R)
    work.take([Lease(1, 0, 100, 2), Lease(2, 1, 100, 2)], None)
    for _ in range(5):
        work.done(work.next())
    assert work.holding == {1: 6, 2: 5}
    work.take([Lease(2, 1, 7, 2)], None)
    work.take([Lease(1, 0, 10, 2), Lease(2, 1, 9, 2)], None)
    assert work.holding == {1: 6, 2: 5}
    assert numbers(work) == [5, 6, 7, 8]
    work.take([], None)
    work.take([Lease(1, 0, 10, 2)], None)
    assert numbers(work) == []


def test_a_lowered_stop_is_kept_wherever_the_lease_stands() -> None:
    work = LeaseWork(R)
    work.take([Lease(1, 0, 100, 1)], None)
    for _ in range(5):
        work.done(work.next())
    work.take([Lease(1, 0, 3, 1)], None)
    assert work.holding == {1: 5}
    assert work.next() is WAIT
    work.take([Lease(1, 0, 7, 1)], None)
    assert numbers(work) == [5, 6]


def test_a_repeated_plan_changes_nothing_and_a_left_out_lease_is_dropped() -> None:
    work = LeaseWork(R)
    plan = [Lease(1, 0, 8, 1), Lease(2, 20, 24, 1)]
    work.take(plan, None)
    work.done(work.next())
    work.take(plan, None)
    assert work.holding == {1: 1, 2: 20}
    work.take([Lease(2, 20, 24, 1)], None)
    assert work.holding == {2: 20}
    assert numbers(work) == [20, 21, 22, 23]


def test_the_unit_that_follows_is_foreseen_through_the_bound() -> None:
    work = LeaseWork(R)
    work.take([Lease(1, 0, 8, 4), Lease(2, 9, 10, 1)], 0)
    task = work.next()
    assert work.following(task) == (1, 0)
    work.done(task)
    work.reached(1)
    assert work.following(work.next()) == (2, 1)
    work.take([Lease(1, 0, 8, 4)], 0)
    assert work.following(work.next()) == (1, 0), "nothing follows: the last one stands for it"


def test_leases_of_many_workers_are_computed_once_each_whatever_plans_come_between() -> None:
    draw = random.Random(7)
    for _ in range(50):
        workers = [LeaseWork(R) for _ in range(3)]
        owner = {number: draw.randrange(3) for number in range(6)}
        stops = {number: number + 6 * draw.randrange(1, 9) for number in owner}
        seen: list[int] = []
        for _ in range(400):
            who = draw.randrange(3)
            mine = [Lease(n, n, stops[n], 6) for n, w in owner.items() if w == who]
            if draw.random() < 0.3:
                workers[who].take(mine, None)
            task = workers[who].next()
            if task is not WAIT:
                workers[who].done(task)
                seen.append(task.step * R + task.stream)
        expected = [u for n in owner for u in range(n, stops[n], 6)]
        assert sorted(seen) == sorted(expected)
