"""How late units are is counted from what deltas settle, and told in moves of the last one."""

from __future__ import annotations

from wire.ids import UnitId
from worker.deltas import Delta, Outcome
from worker.drift import FEW, Drift

R = 4


def settling(*units: int, shard: int = 0) -> list[Delta]:
    outcomes = tuple(Outcome(UnitId.of(1, unit, R), 1.0) for unit in units)
    return [Delta(shard, 0, b"", step=0, closes=False, outcomes=outcomes)]


def test_nothing_is_known_before_a_unit_of_its_own_is_settled() -> None:
    drift = Drift(1, streams=R)
    drift.hear(settling(1, 2))
    assert drift.moves(0) == 0.0
    drift.began(3, [0])
    assert drift.moves(0) == 0.0


def test_a_unit_is_late_by_what_was_settled_before_its_own_delta() -> None:
    drift = Drift(1, streams=R)
    drift.hear(settling(1))
    drift.began(5, [0])
    drift.hear(settling(2, 3))
    drift.hear(settling(4, 5, 6))  # together with it: not before it
    assert drift.moves(0) == 2 / 3
    drift.hear(settling(7))
    assert drift.moves(0) == 2.0, "the same units, in moves that are smaller now"


def test_shards_count_for_themselves() -> None:
    drift = Drift(2, streams=R)
    drift.began(0, [0, 1])
    drift.hear(settling(1, 2, shard=1))
    drift.hear(settling(0, shard=0))
    drift.hear(settling(0, shard=1))
    assert (drift.moves(0), drift.moves(1)) == (0.0, 2.0)


def settle_late(drift: Drift, unit: int, by: int) -> None:
    drift.began(unit, [0])
    for other in range(by):
        drift.hear(settling(1000 + other))
    drift.hear(settling(unit))


def test_one_that_was_very_late_says_nothing_of_the_next() -> None:
    drift = Drift(1, streams=R)
    for unit in range(FEW):
        settle_late(drift, unit, by=2)
    settle_late(drift, FEW, by=100)
    assert drift.moves(0) == 2.0


def test_what_is_expected_follows_what_came() -> None:
    drift = Drift(1, streams=R)
    for unit in range(FEW):
        settle_late(drift, unit, by=2)
    for unit in range(FEW, FEW + FEW // 2 + 1):
        assert drift.moves(0) == 2.0
        settle_late(drift, unit, by=5)
    assert drift.moves(0) == 5.0


def test_a_unit_for_one_shard_only_is_settled_there_only() -> None:
    drift = Drift(2, streams=R)
    drift.began(0, [1])
    drift.hear(settling(9, shard=0))
    drift.hear(settling(0, shard=0))
    assert drift.moves(0) == 0.0


def test_units_that_moved_nothing_are_no_part_of_the_last_move() -> None:
    drift = Drift(1, streams=R)
    settle_late(drift, 0, by=3)
    beyond = Outcome(UnitId.of(1, 1, R), 0.0)
    (two,) = settling(2, 3)
    drift.hear([Delta(0, 0, b"", step=0, closes=False, outcomes=(beyond, *two.outcomes))])
    assert drift.moves(0) == 3 / 2


def test_a_delta_that_settles_nothing_tells_no_move() -> None:
    drift = Drift(1, streams=R)
    drift.began(0, [0])
    drift.hear(settling(1))
    drift.hear(settling(0))
    assert drift.moves(0) == 1.0
    drift.hear(settling())
    assert drift.moves(0) == 0.0
