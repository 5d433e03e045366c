"""What stands where, told by the shards in any order and more than once."""

from __future__ import annotations

from coordinator import events as e
from coordinator import records as r
from coordinator.arrivals import Arrivals
from coordinator.state import State
from tests.coordinator.ground import began
from wire.ids import UnitId
from wire.layout import BlockRange
from wire.messages import BAD_UNIT, Commit, ShardPlacement

ASYNC = r.Switching("async", None, None, 1.0)
QUORUM = r.Switching("sync", None, 2, 1.0)


def made(mode: r.Switching = ASYNC) -> tuple[State, Arrivals]:
    state = began(4, mode=mode)
    state.placement = tuple(ShardPlacement(s, f"h:{s}", s + 1, (BlockRange(s, s + 1),)) for s in range(2))
    return state, Arrivals(state)


def told(
    number: int, shard: int, *, reason: str = "", factor: float = 1.0, behind: int = 0, by: int = 3
) -> e.UnitAccepted:
    commit = Commit(reason, 0 if reason else 8, 64, 2.0, 1.0, (0.1,))
    return e.UnitAccepted(shard, UnitId(1, *divmod(number, 4)), 0, by, commit, factor, behind)


def test_a_unit_is_complete_once_every_shard_holds_it() -> None:
    _, arrivals = made()
    arrivals.accept(told(0, 0))
    arrivals.accept(told(0, 0))
    assert arrivals.known(0) and not arrivals.complete(0) and arrivals.missing(0) == (1,)
    arrivals.accept(told(0, 1))
    assert arrivals.complete(0) and arrivals.missing(0) == ()
    assert arrivals.missing(1) == () and not arrivals.known(1)


def test_whole_are_those_before_the_first_gap() -> None:
    _, arrivals = made()
    for number in (0, 1, 3):
        arrivals.accept(told(number, 0))
        arrivals.accept(told(number, 1))
    arrivals.accept(told(9, 1))
    assert arrivals.contiguous == 2 and arrivals.high == 10


def test_what_is_counted_is_not_heard_again() -> None:
    state, arrivals = made()
    state.apply(r.Counted(4, 4, 0, 32, 256, 2.0, ((0, 4),), 0.0))
    arrivals.accept(told(3, 0))
    assert arrivals.complete(3) and arrivals.shards(3) == set()
    assert arrivals.contiguous == 4 and arrivals.high == 4


def test_a_late_unit_is_heard_while_it_is_owed() -> None:
    state, arrivals = made(QUORUM)
    state.apply(r.Closed(0, (0, 1, 2), True, False, 1, 0, 24, 192, 2.0))
    arrivals.accept(told(3, 0))
    arrivals.accept(told(2, 0))
    assert arrivals.shards(3) == {0} and arrivals.shards(2) == set()
    assert arrivals.complete(2) and not arrivals.complete(3)


def test_sums_of_some_units() -> None:
    _, arrivals = made()
    for shard in range(2):
        arrivals.accept(told(0, shard, factor=0.5, behind=9 - shard))
        arrivals.accept(told(1, shard, reason="epoch_end", factor=0.5, behind=20))
        arrivals.accept(told(2, shard, behind=shard))
    sums = arrivals.take([0, 1, 2])
    assert (sums.empty, sums.samples, sums.tokens, sums.loss) == (1, 16, 192, 2.0)
    assert sums.staleness == ((0, 1), (2, 1)), (
        "of each unit the shard where it was stalest; empty ones do not count"
    )
    assert sums.returned == 0.5, "units' worth, on average over the shards"
    assert not arrivals.known(0)


def test_bad_units_are_told_with_their_numbers() -> None:
    _, arrivals = made()
    for shard in range(2):
        arrivals.accept(told(1, shard, reason=f"{BAD_UNIT}the loss is nan"))
    assert arrivals.take([1]).bad == ((1, f"{BAD_UNIT}the loss is nan"),)


def test_two_attempts_that_contradict_each_other_are_told() -> None:
    _, arrivals = made()
    arrivals.accept(told(5, 0))
    assert not arrivals.torn
    arrivals.accept(told(5, 1, reason="overflow"))
    assert "unit 5" in arrivals.torn and "the same of every worker" in arrivals.torn


def test_a_workers_staleness_is_that_of_its_units() -> None:
    _, arrivals = made()
    assert arrivals.staleness(3) is None
    arrivals.accept(told(0, 0, behind=4))
    arrivals.accept(told(0, 1, behind=400))
    arrivals.accept(told(1, 1, behind=12))
    arrivals.accept(told(2, 1, behind=40, by=4))
    assert arrivals.staleness(3) == 2.0 and arrivals.staleness(4) == 10.0
