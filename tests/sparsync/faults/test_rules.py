"""A seed replays; lanes say what becomes of bytes at offsets, however those come in pieces."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsync.faults.rules import Direction, Faults, Lane, Rule, Span, Then, flip

UP, DOWN = Direction
BAD = Rule(reset_after=Span(10, 10_000), flip_at=Span(0, 99), silent_after=Span(0, 5), chance=0.5)


def decisions(faults: Faults) -> list[object]:
    lanes = [faults.decide(n, d) for n in range(50) for d in Direction]
    return [*lanes, *(lane.delay_s() for lane in lanes), *(faults.loses(n, 5, 2000) for n in range(50))]


def test_a_seed_replays_and_another_differs() -> None:
    rule = replace(BAD, jitter_s=1.0, lose_answers=0.5)
    assert decisions(Faults([rule], seed=3)) == decisions(Faults([rule], seed=3))
    assert decisions(Faults([rule], seed=3)) != decisions(Faults([rule], seed=4))


def test_decisions_do_not_depend_on_their_order() -> None:
    here, there = Faults([BAD], seed=1), Faults([BAD], seed=1)
    forth = [here.decide(n, UP) for n in range(20)]
    back = [there.decide(n, UP) for n in reversed(range(20))]
    assert forth == back[::-1]


def test_a_rule_more_changes_nothing_in_the_others() -> None:
    more = Faults([replace(BAD, flip_at=None)], seed=1)
    for n in range(20):
        assert more.decide(n, UP).reset_at == Faults([BAD], seed=1).decide(n, UP).reset_at


def test_chance_is_kept() -> None:
    lanes = [Faults([BAD], seed=2).decide(n, UP) for n in range(1000)]
    assert 400 < sum(lane.reset_at is not None for lane in lanes) < 600
    assert all(10 <= lane.reset_at <= 10_000 for lane in lanes if lane.reset_at is not None)


def test_the_first_rule_that_fits_counts() -> None:
    slow_up = Rule(latency_s=1.0, directions=frozenset({UP}))
    third = Rule(latency_s=3.0, connections=frozenset({3}))
    faults = Faults([third, slow_up])
    found = [[faults.decide(n, d).rule.latency_s for d in (UP, DOWN)] for n in (2, 3)]
    assert found == [[1.0, 0.0], [3.0, 3.0]]


def test_short_calls_keep_their_answers() -> None:
    faults = Faults([Rule(lose_answers=1.0, answered_bytes=100)])
    assert not faults.loses(0, 1, 99)
    assert faults.loses(0, 1, 100)


def through(lane: Lane, pieces: list[bytes]) -> tuple[bytes, Then]:
    whole, offset = b"", 0
    for piece in pieces:
        passed, then = lane.pass_through(offset, piece)
        whole, offset = whole + passed, offset + len(piece)
        if then is not Then.GOES_ON:
            return whole, then
    return whole, Then.GOES_ON


@given(st.lists(st.binary(min_size=1, max_size=7)), st.integers(0, 40), st.integers(0, 40), st.integers(0, 7))
def test_offsets_do_not_depend_on_pieces(pieces: list[bytes], end: int, at: int, bit: int) -> None:
    data = b"".join(pieces)
    flipped = flip(data, at, bit) if at < min(end, len(data)) else data
    expected = (flipped[:end], Then.RESET) if pieces and end <= len(data) else (flipped, Then.GOES_ON)
    assert through(Lane(Rule(), reset_at=end, flip_at=at, flip_bit=bit), pieces) == expected


def test_a_bit_is_flipped_once() -> None:
    assert flip(b"\x00\x00\x00", 1, 3) == b"\x00\x08\x00"


def test_a_span_is_in_order() -> None:
    with pytest.raises(ValueError, match="smaller number first"):
        Span(2, 1)
