"""The ledger alone: what counts, what is refused, and that no history settles a unit twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ps.ledger import ArrivalLedger, ElasticLedger, Ledger, Verdict
from wire.ids import UnitId

STREAMS = 3


def unit(step: int, stream: int = 0, timeline: int = 1) -> UnitId:
    return UnitId(timeline, step, stream)


def test_a_unit_is_admitted_once() -> None:
    ledger = Ledger(1, STREAMS, 4)
    assert ledger.judge(unit(4), 0) is Verdict.ADMIT
    ledger.accept(unit(4), 0)
    assert ledger.judge(unit(4), 0) is Verdict.ACCEPTED
    assert ledger.judge(unit(4), 3) is Verdict.ACCEPTED, "the heir need not send what stands here"
    assert ledger.judge(unit(4, 1), 0) is Verdict.ADMIT


def test_other_steps_timelines_and_streams() -> None:
    ledger = Ledger(1, STREAMS, 4)
    assert ledger.judge(unit(3), 9) is Verdict.SETTLED
    assert ledger.judge(unit(5), 0) is Verdict.EARLY
    assert ledger.judge(unit(4, timeline=2), 0) is Verdict.FOREIGN
    assert ledger.judge(unit(4, STREAMS), 0) is Verdict.FOREIGN


def test_a_fence_outlives_its_step() -> None:
    ledger = Ledger(1, STREAMS, 0)
    assert ledger.fence(0, 1, 2) is False
    assert ledger.judge(unit(0, 1), 1) is Verdict.FENCED
    ledger.accept(unit(0, 1), 2)
    ledger.close(0)
    assert ledger.judge(unit(1, 1), 1) is Verdict.FENCED
    assert ledger.judge(unit(1, 1), 2) is Verdict.ADMIT
    assert ledger.judge(unit(0, 1), 1) is Verdict.SETTLED


def test_a_fence_tells_what_stands() -> None:
    ledger = Ledger(1, STREAMS, 1)
    ledger.accept(unit(1, 2), 0)
    assert ledger.fence(1, 2, 1) is True
    assert ledger.fence(1, 2, 1) is True, "a repeat is answered as the first was"
    assert ledger.fence(1, 0, 1) is False
    assert ledger.fence(0, 0, 1) is True, "settled"
    assert ledger.fence(2, 0, 1) is False
    assert ledger.judge(unit(1, 2), 0) is Verdict.ACCEPTED, "its sender's repeat gets the first answer"


def test_a_lower_fence_lowers_nothing() -> None:
    ledger = Ledger(1, STREAMS, 0)
    ledger.fence(0, 0, 3)
    ledger.fence(0, 0, 1)
    assert ledger.judge(unit(0), 2) is Verdict.FENCED


steps = st.lists(
    st.tuples(st.sampled_from(["push", "fence", "close"]), st.integers(0, STREAMS - 1), st.integers(0, 3))
)


@given(steps)
def test_no_history_settles_a_unit_twice_or_admits_behind_a_fence(
    history: list[tuple[str, int, int]],
) -> None:
    ledger, accepted, fences = Ledger(1, STREAMS, 0), set[UnitId](), dict[int, int]()
    for what, stream, attempt in history:
        now = unit(ledger.step, stream)
        if what == "fence":
            assert ledger.fence(ledger.step, stream, attempt) is (now in accepted)
            fences[stream] = max(attempt, fences.get(stream, 0))
        elif what == "push" and ledger.judge(now, attempt) is Verdict.ADMIT:
            assert now not in accepted and attempt >= fences.get(stream, 0)
            ledger.accept(now, attempt)
            accepted.add(now)
        elif what == "close" and len(ledger.accepted) == STREAMS:
            ledger.close(ledger.step)
    for old in accepted:
        assert ledger.judge(old, 9) in (Verdict.SETTLED, Verdict.ACCEPTED)


def test_where_units_lag_those_of_the_next_step_are_admitted_too() -> None:
    ledger = Ledger(1, STREAMS, 4, lag=1)
    assert ledger.judge(unit(5), 0) is Verdict.ADMIT and ledger.judge(unit(6), 0) is Verdict.EARLY
    ledger.accept(unit(5), 0)
    assert ledger.judge(unit(5), 0) is ledger.judge(unit(5), 1) is Verdict.ACCEPTED
    assert ledger.judge(unit(4), 0) is Verdict.ADMIT, "the other unit of the stream is another one"
    assert not ledger.fence(4, 0, 2), "the open step's unit is not here"
    assert ledger.judge(unit(4), 1) is Verdict.FENCED and ledger.judge(unit(5), 2) is Verdict.ACCEPTED
    assert not ledger.stands_at(4)
    ledger.accept(unit(4), 2)
    again = Ledger(1, STREAMS, 0, lag=1)
    again.restore(ledger.image())
    assert again == ledger
    ledger.close(4)
    assert ledger.accepted == {(5, 0): 0} and ledger.fence(5, 0, 3) and ledger.fence(4, 0, 3)
    assert ledger.judge(unit(4), 9) is Verdict.SETTLED and ledger.judge(unit(6), 3) is Verdict.ADMIT


# --- elastic -----------------------------------------------------------------------------


def test_an_elastic_ledger_admits_any_unit_once() -> None:
    ledger = ElasticLedger(1, STREAMS, 4)
    assert ledger.judge(unit(9, 2), 0) is Verdict.ADMIT, "no unit comes too early"
    ledger.accept(unit(9, 2), 0)
    assert ledger.judge(unit(9, 2), 0) is Verdict.ACCEPTED
    ledger.settle([9 * STREAMS + 2])
    assert ledger.judge(unit(9, 2), 0) is Verdict.SETTLED
    assert ledger.judge(unit(3, 2), 0) is Verdict.SETTLED, "before the segment"
    assert ledger.judge(unit(4, STREAMS), 0) is ledger.judge(unit(4, timeline=2), 0) is Verdict.FOREIGN


def test_the_low_water_mark_closes_gaps_and_drives_the_clock() -> None:
    ledger, closes = ArrivalLedger(1, STREAMS, 0), ElasticLedger(1, STREAMS, 0)
    for stream in (1, 2):
        ledger.accept(unit(0, stream), 0)
    ledger.accept(unit(1, 0), 0)
    assert (ledger.low, ledger.clock, ledger.beyond) == (0, 0, {1, 2, 3})
    ledger.accept(unit(0, 0), 0)
    assert (ledger.low, ledger.clock, ledger.beyond) == (4, 1, set())
    closes.close(0)
    assert closes.clock == 1, "where steps are closed, the clock is the open one"


def test_a_segment_ends_where_all_before_is_settled_and_no_other_is_there() -> None:
    ledger = ArrivalLedger(1, STREAMS, 0)
    for stream in range(STREAMS):
        ledger.accept(unit(0, stream), 0)
    assert ledger.holds_all_before(1) and not ledger.stands_at(1)
    ledger.settle(range(STREAMS))
    ledger.close(0)
    assert ledger.stands_at(1) and not ledger.stands_at(0) and not ledger.stands_at(2)
    ledger.accept(unit(1, 1), 0)
    assert not ledger.holds_all_before(1) and not ledger.stands_at(1)


def test_fences_pass_through_an_elastic_segment() -> None:
    ledger = ElasticLedger(1, STREAMS, 1, fences={0: 4})
    assert ledger.fence(1, 1, 2) is False and ledger.fence(0, 1, 2) is True
    assert ledger.judge(unit(1, 0), 0) is Verdict.ADMIT, "attempts are of exact segments"
    assert ledger.fences == {0: 4, 1: 2}


@given(st.lists(st.integers(0, 20)))
def test_every_number_is_admitted_once_in_any_order(numbers: list[int]) -> None:
    ledger, accepted = ArrivalLedger(1, STREAMS, 0), set[int]()
    for number in numbers:
        judged = ledger.judge(UnitId.of(1, number, STREAMS), 0)
        assert (judged is Verdict.ADMIT) == (number not in accepted)
        if judged is Verdict.ADMIT:
            ledger.accept(UnitId.of(1, number, STREAMS), 0)
            accepted.add(number)
    missing = min(set(range(22)) - accepted)
    assert (ledger.low, ledger.clock) == (missing, missing // STREAMS)
    assert ledger.beyond == {number for number in accepted if number > missing}
