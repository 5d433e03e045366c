"""The ledger alone: what counts, what is refused, and that no history settles a unit twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ps.ledger import Ledger, Verdict
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
