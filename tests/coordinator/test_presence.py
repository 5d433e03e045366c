"""Which servers are there: lines that break, silence, and coming back."""

from __future__ import annotations

from coordinator.presence import Presence


def presence() -> Presence:
    found = Presence(suspect_s=3.0, dead_s=5.0)
    found.expect(1, 0.0)
    found.opened(1, 0.0)
    return found


def test_a_line_that_is_opened_again_within_a_second_was_never_away() -> None:
    servers = presence()
    servers.broke(1, "reset", 10.0)
    assert not servers.here(1) and servers.broken(1) and servers.gone(10.9) == []
    assert servers.opened(1, 10.9) is None
    assert servers.here(1) and not servers.broken(1) and servers.gone(30.0) == []


def test_a_server_is_away_from_the_break_on_and_as_told_last() -> None:
    servers = presence()
    servers.broke(1, "reset", 10.0)
    servers.broke(1, "refused", 10.8)
    assert servers.gone(11.1) == [(1, "refused")]
    assert servers.gone(11.2) == [] and servers.away(1) and servers.away_s(1, 12.0) == 2.0
    servers.broke(1, "no route", 12.0)
    assert servers.gone(40.0) == [] and servers.reason(1) == "no route"
    assert servers.opened(1, 14.0) == 4.0
    assert servers.away_s(1, 14.0) is None and servers.here(1)


def test_silence_is_judged_once_a_server_has_told_that_it_is_alive() -> None:
    servers = presence()
    assert servers.gone(100.0) == [] and not servers.hesitant(1, 100.0)
    assert servers.alive(1, 100.0) is None
    assert not servers.hesitant(1, 101.9) and servers.hesitant(1, 102.1)
    assert servers.gone(104.9) == []
    assert servers.gone(105.5) == [(1, "silent for 5.5 s, limit 5.0 s")]
    assert not servers.here(1) and servers.away_s(1, 106.0) == 6.0


def test_a_stopped_server_that_goes_on_is_back_on_its_old_line() -> None:
    servers = presence()
    servers.alive(1, 10.0)
    servers.gone(16.0)
    assert servers.alive(1, 20.0) == 10.0
    assert servers.here(1) and servers.gone(24.0) == []


def test_a_late_coordinator_is_nobodys_silence() -> None:
    servers = presence()
    servers.alive(1, 10.0)
    servers.excuse(30.0, 41.0)
    assert servers.gone(44.9) == [] and servers.gone(46.1) != []


def test_who_was_never_reached_has_longer() -> None:
    servers = Presence(suspect_s=3.0, dead_s=5.0)
    servers.expect(1, 0.0)
    servers.broke(1, "refused", 0.2)
    assert servers.broken(1) and servers.gone(14.9) == []
    assert servers.gone(15.1) == [(1, "refused")]
    assert servers.away_s(1, 15.2) == 15.0


def test_a_sign_of_life_on_a_line_that_is_gone_means_nothing() -> None:
    servers = presence()
    servers.broke(1, "reset", 1.0)
    assert servers.alive(1, 1.1) is None and not servers.here(1)
    servers.forget(1)
    assert servers.alive(1, 1.2) is None and servers.gone(50.0) == []
