"""When a shard publishes, at times that are made up."""

from __future__ import annotations

import pytest

from ps.publication import DELAY_S, Backlog, Decision, Publication


@pytest.mark.parametrize(
    ("lanes", "streams", "enough"),
    [(0, 1, 1), (1, 1, 1), (2, 1, 1), (3, 1, 2), (8, 4, 4), (1, 4, 2), (2, 4, 2), (2, 5, 3), (4, 16, 8)],
)
def test_half_a_step_suffices_or_half_of_the_workers(lanes: int, streams: int, enough: int) -> None:
    publication = Publication()
    for units in range(1, enough):
        assert not publication.decide(Backlog(units, lanes, streams, False), 5.0).reason
    decision = publication.decide(Backlog(enough, lanes, streams, False), 5.0)
    assert decision.reason.endswith(f"for {streams} a step and {lanes} workers")


def test_nothing_pending_is_never_published() -> None:
    assert Publication().decide(Backlog(0, 3, 4, True), 1.0) == Decision("")


def test_a_unit_waits_no_longer_than_the_delay() -> None:
    publication = Publication()
    assert publication.decide(Backlog(1, 8, 4, False), 1.0) == Decision("", DELAY_S)
    assert publication.decide(Backlog(2, 8, 4, False), 1.125).wait_s == pytest.approx(DELAY_S - 0.125)
    assert "pending for 0.250 s" in publication.decide(Backlog(2, 8, 4, False), 1.25).reason
    assert publication.decide(Backlog(0, 8, 4, False), 1.25) == Decision("")
    assert publication.decide(Backlog(1, 8, 4, False), 9.0) == Decision("", DELAY_S), "counted anew"


def test_a_flush_alone_goes_out_after_the_delay_and_counts_as_no_unit() -> None:
    publication = Publication()
    assert publication.decide(Backlog(0, 0, 4, True, flushed=True), 1.0) == Decision("", DELAY_S)
    assert (
        "a flush is pending for 0.250 s"
        in publication.decide(Backlog(0, 0, 4, False, flushed=True), 1.25).reason
    )
    assert not Publication().decide(Backlog(1, 3, 4, False, flushed=True), 1.0).reason, (
        "2 units suffice for 3 workers and 4 a step"
    )


def test_bounded_workers_do_not_wait_for_the_delay() -> None:
    assert Publication().decide(Backlog(1, 8, 4, True), 1.0).reason == "the clock advanced"
