"""Steps and rounds against the list of rounds, written down one by one."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.config import load
from wire.rounds import Rounds

CUTS = st.builds(
    Rounds,
    local_steps=st.integers(1, 7),
    warmup_rounds=st.integers(0, 4),
    warmup_local_steps=st.integers(1, 3),
    origin=st.integers(0, 20),
    total=st.none() | st.integers(20, 60),
)


def firsts(rounds: Rounds) -> list[int]:
    """The first steps of the rounds from the origin on, and where the last one ends."""
    sizes = [rounds.warmup_local_steps] * rounds.warmup_rounds + [rounds.local_steps] * 60
    steps = accumulate(sizes, initial=rounds.origin)
    return [step if rounds.total is None else min(step, rounds.total) for step in steps]


@given(CUTS)
def test_rounds_are_cut_one_after_the_other(rounds: Rounds) -> None:
    written = firsts(rounds)
    assert [rounds.first_step(rounds.origin + n) for n in range(len(written))] == written
    for number, (first, following) in enumerate(pairwise(written)):
        assert rounds.steps_of(rounds.origin + number) == range(first, following)


@given(CUTS, st.integers(0, 60))
def test_so_many_steps_take_so_many_rounds(rounds: Rounds, steps: int) -> None:
    endless = rounds.until(None)
    round_ = rounds.rounds_of(steps)
    assert endless.first_step(round_) >= steps
    if steps > rounds.origin:
        assert endless.first_step(round_ - 1) < steps


@given(CUTS, st.integers(1, 12))
def test_each_multiple_is_passed_once(rounds: Rounds, interval: int) -> None:
    written = firsts(rounds)
    told = [
        rounds.passed(interval, before=rounds.origin + n, round_=rounds.origin + n + 1)
        for n in range(len(written) - 1)
    ]
    for (first, following), newest in zip(pairwise(written), told, strict=True):
        multiples = [step for step in range(first + 1, following + 1) if step % interval == 0]
        assert newest == (multiples[-1] if multiples else None)


def test_one_step_a_round_is_the_identity() -> None:
    rounds = Rounds.of(load(None, ["run.steps=50"], {}).config, origin=7)
    for step in range(51):
        assert rounds.first_step(step) == rounds.rounds_of(step) == step
    assert rounds.last_step(3) == 3
    assert [s for s in range(1, 51) if rounds.passed(10, before=s - 1, round_=s) is not None] == [
        10,
        20,
        30,
        40,
        50,
    ]


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        (["sync.mode=local"], [15, 15, 10]),
        (["sync.mode=async", "sync.local_steps=30"], [30, 10]),
        (
            ["sync.mode=local", "sync.local_steps=12", "sync.warmup_rounds=2", "sync.warmup_local_steps=4"],
            [4, 4, 12, 12, 8],
        ),
    ],
)
def test_the_configuration_cuts(overrides: list[str], steps: list[int]) -> None:
    rounds = Rounds.of(load(None, ["run.steps=40", *overrides], {}).config)
    assert [len(rounds.steps_of(n)) for n in range(rounds.rounds_of(40))] == steps
