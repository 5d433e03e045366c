"""Who is waited for how long, by the second."""

from __future__ import annotations

from coordinator import actions as a
from coordinator import records as r
from coordinator.patience import MEDIAN_UNITS, STRAGGLER_UNITS, WINDOW, Patience, Verdict
from tests.coordinator.ground import rules

CLOSED = r.Closed(0, (0, 1, 2, 3), False, False, 0, 0, 0, 0, None)


def patience(*workers: int, unit_s: float = 0.1) -> Patience:
    """Limits of 60 s and 5 s; `workers` have each done a unit at second 0."""
    made = Patience(rules())
    for worker in workers:
        made.progressed(worker, 0.0, unit_s=unit_s)
    return made


def given_up(watched: Patience, now: float, *owing: int, others_wait: bool = True) -> list[int]:
    return [v.incarnation for v in watched.verdicts(set(owing), now, others_wait=others_wait)]


def test_a_straggler_is_given_up_only_while_another_one_waits() -> None:
    watched = patience(1)
    assert given_up(watched, 5.0, 1) == []
    assert given_up(watched, 5.1, 1, others_wait=False) == []
    assert watched.verdicts({1}, 5.1, others_wait=True) == [
        Verdict(1, 5.1, "a straggler: its unit takes 5.1 s, budget 5.0 s", straggles=True)
    ]


def test_who_has_computed_nothing_yet_is_no_straggler() -> None:
    watched = patience()
    watched.heard(1, 0.0)
    assert given_up(watched, 60.0, 1) == []
    assert watched.verdicts({1}, 60.5, others_wait=False) == [
        Verdict(1, 60.5, "no progress for 60 s, limit 60 s")
    ]


def test_slow_units_stretch_both_limits() -> None:
    watched = patience(1, unit_s=10.0)
    assert given_up(watched, STRAGGLER_UNITS * 10.0, 1) == []
    assert given_up(watched, STRAGGLER_UNITS * 10.0 + 0.1, 1) == [1]
    assert given_up(watched, MEDIAN_UNITS * 10.0, 1, others_wait=False) == []
    assert given_up(watched, MEDIAN_UNITS * 10.0 + 0.1, 1, others_wait=False) == [1]


def test_the_median_is_of_the_newest_units() -> None:
    watched = patience(1, unit_s=100.0)
    for _ in range(WINDOW):
        watched.progressed(1, 0.0, unit_s=0.1)
    assert given_up(watched, 5.1, 1) == [1]


def test_who_owes_nothing_or_has_announced_is_waited_for() -> None:
    watched = patience(1, 2)
    watched.announced(1)
    assert given_up(watched, 1000.0, 1) == []
    watched.progressed(1, 1000.0)
    assert given_up(watched, 1006.0, 1, 2) == [1, 2]
    assert given_up(watched, 1006.0) == []


def test_an_order_renews_one_and_a_close_everybody() -> None:
    watched = patience(1, 2)
    watched.renew([a.Tell(1, a.End("", "")), a.Note("step")], 4.0)
    assert given_up(watched, 6.0, 1, 2) == [2]
    watched.renew([a.Journal(CLOSED)], 7.0)
    assert given_up(watched, 12.0, 1, 2) == []
    assert given_up(watched, 12.1, 1, 2) == [1, 2]


def test_an_order_to_a_stranger_begins_nothing() -> None:
    watched = patience()
    watched.renew([a.Tell(1, a.End("", ""))], 4.0)
    assert given_up(watched, 1000.0, 1) == []


def test_what_the_coordinator_missed_is_nobodys_delay() -> None:
    watched = patience(1)
    watched.excuse(3.0, 4.0)
    assert given_up(watched, 8.0, 1) == []
    assert given_up(watched, 8.1, 1) == [1]


def test_who_is_gone_is_forgotten() -> None:
    watched = patience(1)
    watched.forget(1)
    assert given_up(watched, 1000.0, 1) == []
