"""The stall that a fault causes, from the times of the closes around it."""

import pytest

from benchmarks.detection import longest_stall


def test_the_stall_begins_with_the_last_close_before_the_fault() -> None:
    assert longest_stall([1.0, 2.0, 7.0, 7.5], fault=3.0) == 5.0


def test_steps_may_close_between_the_fault_and_the_stall() -> None:
    assert longest_stall([1.0, 2.0, 2.5, 6.5, 7.0], fault=2.1) == 4.0


def test_a_stall_before_the_fault_does_not_count() -> None:
    assert longest_stall([1.0, 9.0, 10.0, 11.5], fault=9.5) == 1.5


@pytest.mark.parametrize("fault", [0.5, 12.0])
def test_closes_on_one_side_only_tell_nothing(fault: float) -> None:
    with pytest.raises(ValueError, match="expected at least one"):
        longest_stall([1.0, 2.0], fault=fault)
