"""A seed gives the same faults, whatever was skipped; every kind strikes only whom it can."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsync.faults.plan import KINDS, ROLES, Fault, Plan


def faults(seed: int, number: int = 200, **more: object) -> list[Fault]:
    given = {"kinds": list(KINDS), "roles": ROLES, "every_s": 10.0, **more}
    return list(islice(Plan(seed=seed, **given).faults(None), number))  # type: ignore[arg-type]


def test_a_seed_replays_and_another_differs() -> None:
    assert faults(7) == faults(7)
    assert faults(7) != faults(8)


def test_a_fault_depends_on_its_number_alone() -> None:
    plan = Plan(seed=3, kinds=["kill", "stop"], roles=ROLES, every_s=2.0)
    last = plan.fault(50)
    assert list(islice(plan.faults(None), 51))[50] == last


def test_the_order_of_words_changes_nothing() -> None:
    assert faults(1, kinds=["stop", "kill"], roles=["ps", "worker"]) == faults(
        1, kinds=["kill", "stop"], roles=["worker", "ps"]
    )


@given(st.integers(0, 1000))
def test_one_fault_in_each_stretch_for_as_long_as_its_kind_says(seed: int) -> None:
    for number, fault in enumerate(faults(seed, 20)):
        kind = KINDS[fault.kind]
        assert fault.number == number
        assert number * 10 <= fault.after_s <= (number + 1) * 10
        assert fault.role in kind.roles
        assert kind.lasts_s[0] <= fault.lasts_s <= kind.lasts_s[1]


def test_everybody_is_struck_in_every_way() -> None:
    found = {(fault.kind, fault.role, fault.of(3)) for fault in faults(5, 1000)}
    assert found == {
        (name, role, rank) for name, kind in KINDS.items() for role in kind.roles for rank in range(3)
    }


def test_the_end() -> None:
    plan = Plan(seed=1, kinds=["kill"], roles=["worker"], every_s=10.0)
    assert all(fault.after_s < 45 for fault in plan.faults(45.0))
    assert len(list(plan.faults(40.0))) == 4


def test_a_kind_that_can_strike_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="term strikes worker only"):
        Plan(seed=1, kinds=["kill", "term"], roles=["ps"], every_s=1.0)
