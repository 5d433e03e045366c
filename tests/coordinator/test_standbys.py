"""Standbys: who follows which shard, who is in sync, who takes over."""

from __future__ import annotations

from coordinator import actions as a
from coordinator import events as e
from coordinator import records as r
from tests.coordinator.servers import Servers, standing_by, working
from wire.errors import NameTaken, UsageError


def test_further_servers_stand_by_one_a_shard() -> None:
    run = working(replicas=1)
    actions = run.server("s0", "h:5")
    assert run.answer(actions) == a.Joined(5) and a.Dial(5) in actions
    actions = run.reach(5)
    assert run.records(actions) == [r.Stood(0, 5)]
    assert a.CommandServer(5, a.StandBy(0, "h:0", 1)) in actions
    assert run.spare("s1") == 6 and run.core.state.standbys[1].incarnation == 6
    assert isinstance(run.answer(run.server("s2", "h:7")), UsageError)


def test_standbys_may_come_before_the_model() -> None:
    run = Servers(replicas=1)
    run.hear(e.Join("s0", "ps", "s0", "h:5", "", 0, "h"), e.Join("s1", "ps", "s1", "h:6", "", 0, "h"))
    run.reach(3, 4)
    assert run.core.state.standbys == {}
    run.declare(run.join("w").incarnation)
    assert [p.incarnation for p in run.core.state.placement] == [3, 4]
    run.hear(
        *(e.ShardAttached(s, s + 3, False, 0) for s in range(2)), *(e.ShardConfigured(s) for s in range(2))
    )
    run.hear(e.Uploaded(5))
    run.wait(0.1)
    assert {s: b.incarnation for s, b in run.core.state.standbys.items()} == {0: 1, 1: 2}


def test_only_who_is_told_to_be_in_sync_takes_over() -> None:
    run = working(replicas=1)
    run.spare("s0")
    assert run.records(run.lose(1)) == []
    assert "away" in run.core.servers.waits_for(run.now)
    run.attach(0)
    assert run.records(run.hear(e.StandbyInSync(0, 5))) == [r.InSynced(0, 5)]
    assert run.records(run.hear(e.StandbyInSync(0, 5))) == []


def test_a_standby_takes_over() -> None:
    run = standing_by()
    actions = run.lose(1)
    reason = "server 1: refused"
    dismissed = f"server s0 has taken its shard over: {reason}"
    assert run.records(actions) == [r.Promoted(0, 5, "h:s0", 2, reason), r.Departed(1, dismissed, True)]
    assert a.CommandServer(5, a.Promote(2)) in actions and a.Dismiss(1, dismissed) in actions
    assert run.redirects(actions) == [(w, a.Redirect(0, "h:s0", 5, 2)) for w in (3, 4)]
    assert run.notes(actions) == ["server_away", "promoted"]
    assert 0 not in run.core.state.standbys
    run.attach(0)
    assert run.core.servers.waits_for(run.now) == "" and run.error == ""


def test_a_server_that_does_not_know_that_it_is_the_primary_is_told_again() -> None:
    run = standing_by()
    run.lose(1)
    actions = run.attach(0, standing=True, configured=False)
    assert actions == [a.Command(0, a.Promote(2))] and run.error == ""


def test_the_one_before_comes_back_with_nothing_and_stands_by() -> None:
    run = standing_by()
    run.lose(1)
    run.attach(0)
    actions = run.server("ps0", "h:77", held=1)
    assert run.answer(actions) == a.Joined(7)
    assert run.records(run.reach(7)) == [r.Stood(0, 7)]


def test_a_primary_that_was_started_again_finds_its_standby_in_office() -> None:
    """Its log may end before what was acknowledged; the standby's does not."""
    run = standing_by()
    run.hear(e.LineBroken(1, "reset"))
    actions = run.server("ps0", "h:77", held=1)
    assert run.answer(actions) == a.Joined(7)
    assert run.core.state.placement[0].incarnation == 5


def test_a_standby_that_is_away_is_not_waited_for() -> None:
    run = standing_by()
    actions = run.lose(5)
    assert run.records(actions) == [r.Parted(0, 5, "server 5: refused")]
    assert a.Command(0, a.LeaveAlone(5)) in actions
    assert run.records(run.lose(1)) == []
    run.attach(0)
    actions = run.reach(5)
    assert a.CommandServer(5, a.StandBy(0, "h:0", 1)) in actions


def test_of_two_that_are_away_the_first_one_back_serves() -> None:
    run = standing_by()
    assert run.records(run.lose(1, 5)) == []
    run.wait(30.0)
    actions = run.reach(5) + run.wait(0.1)
    assert isinstance(run.records(actions)[0], r.Promoted)
    other = standing_by()
    other.lose(2, 6)
    actions = other.server("ps1", "h:99", held=2)
    assert r.Moved(1, "h:99", 2, 2) in other.records(actions)
    assert a.CommandServer(6, a.StandBy(1, "h:99", 2)) in actions
    assert not other.core.state.standbys[1].in_sync


def test_a_standby_that_was_started_again_is_in_sync_no_more() -> None:
    run = standing_by()
    run.hear(e.LineBroken(5, "reset"))
    actions = run.server("s0", "h:55", held=5)
    assert run.records(actions) == [r.Returned(5, "h:55", 7, "h"), r.Parted(0, 5, "it was started again")]
    assert run.answer(actions) == a.Joined(5) and a.Command(0, a.LeaveAlone(5)) in actions


def test_a_standby_that_parted_begins_anew_and_its_primary_goes_on() -> None:
    run = standing_by()
    actions = run.hear(e.StandbyParted(0, 5, "reset"))
    assert run.records(actions) == [r.Parted(0, 5, "reset")]
    assert a.Command(0, a.LeaveAlone(5)) in actions and a.CommandServer(5, a.StandBy(0, "h:0", 1)) in actions
    again = run.hear(e.StandbyParted(0, 5, "reset"))
    assert run.records(again) == [] and run.only(a.Command, again) == []


def test_a_standby_whose_state_differs_is_dismissed() -> None:
    run = standing_by()
    actions = run.hear(e.StandbyParted(0, 5, "digests differ", diverged=True))
    assert [type(x).__name__ for x in run.records(actions)] == ["Parted", "Departed"]
    assert "diverged" in run.notes(actions) and run.only(a.Dismiss, actions)[0].incarnation == 5
    assert 0 not in run.core.state.standbys
    assert run.answer(run.server("s0", "h:5", held=5)) == a.Joined(7)


def test_another_server_takes_the_place_of_a_standby_that_is_away() -> None:
    run = standing_by()
    run.lose(5)
    actions = run.server("s9", "h:9")
    assert run.answer(actions) == a.Joined(7)
    actions = run.reach(7)
    assert [type(x).__name__ for x in run.records(actions)] == ["Stood", "Departed"]
    assert run.core.state.standbys[0].incarnation == 7 and not run.core.state.members[5].present


def test_what_a_line_begins_with_is_not_news() -> None:
    """The word that ends the waiting may be under way."""
    run = standing_by()
    run.hear(e.StandbyParted(0, 5, "reset"))
    assert run.records(run.attach(0, standby=5)) == []
    assert not run.core.state.standbys[0].in_sync


def test_an_older_word_of_being_in_sync_is_not_taken_for_a_newer_one() -> None:
    """Told before the primary heard that it waits no more: it may acknowledge alone by now."""
    run = standing_by()
    run.hear(e.StandbyParted(0, 5, "reset"))
    assert run.hear(e.StandbyInSync(0, 5)) == []
    run.hear(e.StandbyLeft(0, 5))
    assert run.records(run.hear(e.StandbyInSync(0, 5))) == [r.InSynced(0, 5)]
    run.hear(e.StandbyParted(0, 5, "reset"), e.LineBroken(1, "reset"))
    run.attach(0)
    assert run.records(run.hear(e.StandbyInSync(0, 5))) == [r.InSynced(0, 5)]


def test_who_waits_for_a_stranger_is_told_not_to() -> None:
    run = standing_by()
    for event in (e.StandbyInSync(0, 99), e.StandbyInSync(0, 99), e.StandbyParted(0, 99, "why")):
        assert run.hear(event) == []
    assert run.wait(0.1) == [a.Command(0, a.LeaveAlone(99))]


def test_in_memory_a_standby_in_sync_is_worth_waiting_for() -> None:
    run = standing_by(ack="memory")
    run.lose(1, 5)
    run.wait(60.0)
    assert run.error == ""
    run.core.state.apply(r.Parted(0, 5, "why"))
    run.wait(0.1)
    assert run.error == "ServerLost"


def test_in_memory_a_primary_that_is_started_again_at_once_finds_its_standby_in_office() -> None:
    run = standing_by(ack="memory")
    run.hear(e.LineBroken(1, "server 1: refused"))
    actions = run.server("ps0", "h:99")
    assert r.Promoted(0, 5, "h:s0", 2, "its server was started again with nothing") in run.records(actions)
    assert isinstance(run.answer(actions), a.Joined) and run.error == ""


def test_in_memory_whoever_is_started_again_waits_for_a_standby_that_is_out_of_sight() -> None:
    run = standing_by(ack="memory")
    run.lose(1, 5)
    assert isinstance(run.answer(run.server("ps0", "h:99")), NameTaken) and run.error == ""


def test_in_memory_another_process_at_the_address_of_a_primary_with_a_standby_ends_nothing() -> None:
    run = standing_by(ack="memory")
    run.hear(e.ShardAttached(0, 77, False, 0, 0))
    assert run.error == ""
