"""Staleness by hand-computed example, and what it costs a unit."""

from __future__ import annotations

import pytest

from ps.staleness import HISTORY, Staleness, factor

STREAMS = 2


def staleness(
    *, version: int = 10, aggregate: str = "mean", damping: float = 0.5, limit: float = 3.0
) -> Staleness:
    return Staleness(version, streams=STREAMS, aggregate=aggregate, damping=damping, max_staleness=limit)


@pytest.mark.parametrize(
    ("tau", "damping", "expected"),
    [
        (0.0, 0.5, 1.0),
        (1.0, 0.5, 1.0),
        (1.5, 0.5, 1.5**-0.5),
        (4.0, 0.5, 0.5),
        (4.0, 1.0, 0.25),
        (8.0, 0.5, 8.0**-0.5),
        (8.5, 0.5, 0.0),
        (4.0, 0.0, 1.0),
        (8.5, 0.0, 0.0),
    ],
)
def test_damping(tau: float, damping: float, expected: float) -> None:
    assert factor(tau, damping=damping, max_staleness=8.0) == pytest.approx(expected, rel=1e-15)


def test_only_what_others_had_accepted_since_the_base_counts() -> None:
    """Worker 1 begins at version 10; 2 and 3 are accepted before and after the publication of 11."""
    counts = staleness()
    assert counts.weigh(10, 1) == (0, 1.0)
    for version, incarnation in ((10, 2), (10, 1), (10, 3), (11, 2)):
        counts.note(version, incarnation)
    assert counts.weigh(10, 1) == (3, pytest.approx(1.5**-0.5)), "2, 3, 2; τ = 3/2"
    assert counts.weigh(11, 1) == (1, 1.0), "what was pending at version 10 is in version 11"
    assert counts.weigh(12, 1) == (0, 1.0)
    assert counts.weigh(10, 2) == (2, 1.0), "its own do not count; τ = 1"
    assert counts.weigh(10, 9) == (4, pytest.approx(2**-0.5)), "τ = 2"


def test_beyond_the_limit_nothing_counts_except_in_a_sum() -> None:
    counts, summed = staleness(), staleness(aggregate="sum")
    for _ in range(7):
        counts.note(10, 2)
        summed.note(10, 2)
    assert counts.weigh(10, 1) == (7, 0.0), "τ = 3.5, limit 3"
    assert summed.weigh(10, 1) == (7, 1.0)


def test_a_base_before_what_is_remembered_is_beyond_the_limit() -> None:
    counts, summed = staleness(limit=1e9), staleness(limit=1e9, aggregate="sum")
    assert counts.weigh(9, 1) == (0, 0.0), "the segment began at version 10"
    most = HISTORY[1]
    for number in range(most + 1):
        counts.note(10 + number, 1)
        summed.note(10 + number, 2)
    assert counts.weigh(10, 1) == (0, 0.0) and counts.weigh(11, 1) == (0, 1.0)
    assert summed.weigh(10, 1) == (most, 1.0)
