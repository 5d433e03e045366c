"""How fast workers are, and how stragglers are forgiven."""

from __future__ import annotations

import pytest

from coordinator.crew import FOLLOW, PENALTY_S, Crew


def test_an_unknown_worker_is_as_fast_as_the_others_on_average() -> None:
    crew = Crew()
    assert crew.unit_s("a") == 1.0
    crew.computed("a", 2.0, 0.0)
    crew.computed("b", 4.0, 0.0)
    assert crew.unit_s("c") == 3.0


def test_times_follow_the_newest_unit() -> None:
    crew = Crew()
    crew.computed("a", 2.0, 0.0)
    crew.computed("a", 4.0, 1.0)
    assert crew.unit_s("a") == pytest.approx(2.0 + FOLLOW * 2.0)


def test_a_straggler_stays_slow_until_its_time_is_over_and_is_then_unknown() -> None:
    crew = Crew()
    crew.computed("b", 1.0, 0.0)
    crew.straggled("a", 9.0, 0.0)
    crew.computed("a", 1.0, PENALTY_S - 1)
    assert crew.unit_s("a") == 9.0 and crew.stragglers(PENALTY_S - 1) == {"a"}
    assert crew.forgive(PENALTY_S - 1) == []
    assert crew.forgive(PENALTY_S) == ["a"] and crew.stragglers(PENALTY_S) == set()
    assert crew.unit_s("a") == 1.0
    assert crew.forgive(PENALTY_S) == []


def test_each_further_time_lasts_twice_as_long() -> None:
    crew = Crew()
    ends = []
    now = 0.0
    for _ in range(3):
        crew.straggled("a", 9.0, now)
        while not crew.forgive(now):
            now += 1.0
        ends.append(now)
    spans = [b - a for a, b in zip([0.0, *ends], ends, strict=False)]
    assert spans == [PENALTY_S, 2 * PENALTY_S, 4 * PENALTY_S]


def test_who_leaves_or_is_gone_is_given_nothing() -> None:
    crew = Crew(ready={1, 2, 3}, leaving={2})
    assert crew.available == {1, 3}
    crew.dismiss(2)
    crew.dismiss(3)
    assert (crew.available, crew.leaving) == ({1}, set())
