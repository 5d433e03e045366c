"""Order statistics are values that were measured; pages are Markdown."""

import pytest

from benchmarks.figures import distribution, table, verdict


def test_quantiles_are_measured_values() -> None:
    found = distribution([5.0, 1.0, 3.0, 2.0, 4.0, 6.0, 7.0, 8.0, 9.0, 10.0])
    assert found == {"n": 10, "min": 1.0, "median": 5.0, "p90": 9.0, "max": 10.0}


def test_one_value_is_all_of_them() -> None:
    assert set(distribution([0.5]).values()) == {1, 0.5}


def test_nothing_measured_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected at least one"):
        distribution([])


def test_a_table() -> None:
    assert table(["a", "b"], [[1, 0.125]]) == "| a | b |\n| --- | --- |\n| 1 | 0.12 |\n"


def test_a_limit_is_kept_up_to_itself() -> None:
    assert (verdict(1.0, 1.0), verdict(1.001, 1.0)) == ("kept", "MISSED")
