"""Servers that join, go away and come back; standbys that follow and take over."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pytest

from coordinator import actions as a
from coordinator import events as e
from coordinator import records as r
from coordinator.core import Core
from tests.coordinator.runs import Run
from wire.errors import NameTaken, RunOver, SparsyncError, UsageError


class Servers(Run):
    """Primaries 1 and 2 of shards 0 and 1, workers 3 and 4 at work, further servers from 5 on."""

    def __init__(self, **changes: Any) -> None:
        super().__init__(**({"ack": "os"} | changes))
        self.reach(1, 2)

    def reach(self, *incarnations: int) -> list[a.Action]:
        return self.hear(*(e.ServerAttached(i, i) for i in incarnations))

    def server(
        self, name: str, address: str, *, held: int = 0, timeline: int = 1, run: str = "run"
    ) -> list[a.Action]:
        return self.hear(e.Join(f"join {name}", "ps", name, address, "", 7, "h", run, timeline, held))

    def spare(self, name: str) -> int:
        """One more server, whose line is open."""
        actions = self.server(name, f"h:{name}")
        incarnation: int = self.answer(actions).incarnation
        self.reach(incarnation)
        return incarnation

    def lose(self, *incarnations: int) -> list[a.Action]:
        """Their lines break, and stay broken for a while."""
        actions = self.hear(*(e.LineBroken(i, f"server {i}: refused") for i in incarnations))
        return actions + self.wait(1.1)

    def wait(self, seconds: float) -> list[a.Action]:
        actions: list[a.Action] = []
        until = self.now + seconds
        while self.now < until - 1e-9:
            self.now += 0.1
            beats: Iterable[e.Event] = (e.Beat(m.incarnation) for m in self.core.state.present("worker"))
            actions += self.hear(*beats, e.Tick())
        return actions

    def attach(self, shard: int, **told: Any) -> list[a.Action]:
        """The shard's primary, as the state has it, tells its state."""
        placed = self.core.state.placement[shard]
        fields = {"configured": True, "step": self.core.state.open_step, "segment": 0}
        return self.hear(e.ShardAttached(shard, placed.incarnation, **(fields | told)))

    def records(self, actions: list[a.Action]) -> list[r.Record]:
        return [action.record for action in self.only(a.Journal, actions)]

    def notes(self, actions: list[a.Action]) -> list[str]:
        return [note.event for note in self.only(a.Note, actions)]

    def redirects(self, actions: list[a.Action]) -> list[tuple[int, a.Redirect]]:
        told = self.only(a.Tell, actions)
        return [(t.incarnation, t.order) for t in told if isinstance(t.order, a.Redirect)]

    @property
    def error(self) -> str:
        ended = self.core.state.ended
        return "" if ended is None else ended.error


def working(**changes: Any) -> Servers:
    run = Servers(**changes)
    run.begin()
    return run


def standing_by(*, ack: str = "os") -> Servers:
    """A run with servers 5 and 6 standing by for shards 0 and 1, both in sync."""
    run = working(replicas=1, ack=ack)
    assert (run.spare("s0"), run.spare("s1")) == (5, 6)
    run.hear(e.StandbyInSync(0, 5), e.StandbyInSync(1, 6))
    assert {s: (b.incarnation, b.in_sync) for s, b in run.core.state.standbys.items()} == {
        0: (5, True),
        1: (6, True),
    }
    return run


# --- coming back


def test_a_server_that_comes_back_serves_its_shard_where_it_is_now() -> None:
    run = working()
    run.lose(2)
    actions = run.server("ps1", "h:99", held=2)
    assert run.records(actions) == [r.Returned(2, "h:99", 7, "h"), r.Moved(1, "h:99", 2, 2)]
    assert run.answer(actions) == a.Joined(2)
    assert a.Dial(2) in actions
    assert run.redirects(actions) == [(w, a.Redirect(1, "h:99", 2, 2)) for w in (3, 4)]
    kinds = run.kinds(actions)
    assert kinds.index("Answer") > max(i for i, kind in enumerate(kinds) if kind == "Journal")
    placed = run.core.state.placement
    assert (placed[1].address, placed[1].incarnation, placed[1].term) == ("h:99", 2, 2) and placed[
        0
    ].term == 1


def test_whoever_asks_later_is_told_where_the_shards_are() -> None:
    run = working()
    assert run.redirects(run.hear(e.Attending(3))) == []
    run.lose(2)
    run.server("ps1", "h:99", held=2)
    actions = run.hear(e.Attending(3))
    assert run.redirects(actions) == [(3, a.Redirect(1, "h:99", 2, 2))]
    orders = [t.order for t in run.only(a.Tell, actions)]
    assert isinstance(orders[-1], a.Plan)
    declared = run.answer(run.declare(run.join("late").incarnation))
    assert [p.address for p in declared.placement] == ["h:0", "h:99"]


def test_a_server_that_is_there_keeps_its_name_and_its_shard() -> None:
    run = working()
    for held in (2, 0):
        assert isinstance(run.answer(run.server("ps1", "h:99", held=held)), NameTaken)
    assert run.core.state.placement[1].term == 1


def test_a_server_may_come_back_twice_before_it_is_reached() -> None:
    run = working()
    run.lose(2)
    run.server("ps1", "h:98", held=2)
    assert run.answer(run.server("ps1", "h:99", held=2)) == a.Joined(2)
    assert run.core.state.placement[1].term == 3


@pytest.mark.parametrize("other", [{"timeline": 2}, {"run": "another"}, {"held": 9}])
def test_what_belongs_to_another_run_or_timeline_is_nothing(other: dict[str, Any]) -> None:
    run = working()
    run.lose(2)
    refusal = run.answer(run.server("ps1", "h:99", **({"held": 2} | other)))
    assert isinstance(refusal, UsageError) and "keeps shard 1 in its --data-dir" in str(refusal)


def test_a_server_that_was_only_slow_to_answer_loses_nothing() -> None:
    run = working()
    run.hear(e.LineBroken(2, "reset"))
    run.wait(0.8)
    actions = run.attach(1) + run.wait(3.0)
    assert "server_away" not in run.notes(actions) and run.core.servers.waits_for(run.now) == ""


def test_another_process_at_the_address_of_a_server_is_not_that_server() -> None:
    run = working()
    run.lose(2)
    run.hear(e.ShardAttached(1, 77, False, 0))
    assert run.error == "" and "started anew" in run.core.servers.waits_for(run.now)


# --- away


def test_the_run_waits_for_a_server_and_says_so() -> None:
    run = working()
    actions = run.lose(2)
    assert run.notes(actions) == ["server_away"]
    run.wait(60.0)
    assert run.error == ""
    assert re.fullmatch(
        r"server 1 at h:1 is away for 61 s \(server 2: refused\)", run.core.servers.waits_for(run.now)
    )
    back = run.attach(1)
    (note,) = run.only(a.Note, back)
    assert note.event == "server_back" and note.fields["seconds"] == pytest.approx(61.1, abs=0.2)
    assert run.core.servers.waits_for(run.now) == ""


def test_nobody_is_blamed_while_a_server_is_away() -> None:
    run = working(progress_timeout_s=10.0)
    run.hear(e.Progressed(3, 0.1), e.Progressed(4, 0.1))
    run.lose(2)
    run.wait(100.0)
    run.attach(1)
    assert len(run.core.state.present("worker")) == 2
    run.wait(9.0)
    assert len(run.core.state.present("worker")) == 2
    run.wait(3.0)
    assert run.core.state.present("worker") == []


def test_a_silent_server_is_away_too() -> None:
    run = working()
    run.hear(e.ServerAlive(2))
    assert run.notes(run.wait(4.9)) == [] and run.notes(run.wait(0.3)) == ["server_away"]
    assert run.notes(run.hear(e.ServerAlive(2))) == ["server_back"]


def test_what_lives_in_memory_alone_is_lost_with_its_server() -> None:
    run = working(ack="memory")
    run.lose(2)
    run.wait(13.0)
    assert run.error == ""
    run.wait(2.0)
    assert run.core.state.ended == r.Ended("server 2: refused", "ServerLost")


def test_a_server_without_a_disk_that_is_started_again_ends_the_run() -> None:
    run = working(ack="memory")
    run.lose(2)
    assert isinstance(run.answer(run.server("ps1", "h:99")), RunOver)
    assert run.error == "ServerLost"


def test_a_shard_that_nothing_was_loaded_into_may_begin_anew() -> None:
    run = Servers()
    run.declare(run.join("w0").incarnation)
    run.configure()
    run.lose(2)
    actions = run.server("ps1", "h:99")
    assert run.answer(actions) == a.Joined(4)
    assert run.core.state.placement[1].incarnation == 4 and run.core.state.placement[1].term == 2
    assert a.Dismiss(2, "it was started again with nothing") in actions and a.Dial(4) in actions
    assert run.redirects(actions) == [(3, a.Redirect(1, "h:99", 4, 2))]
    assert a.Command(1, a.ConfigureShard()) in run.attach(1, configured=False)
    late = run.join("w1").incarnation
    assert run.only(a.Answer, run.declare(late)) == []
    run.hear(e.ShardConfigured(1))
    answers = run.only(a.Answer, run.hear(e.Uploaded(3)))
    assert [answer.key for answer in answers] == [f"d{late}"]


def test_before_the_model_is_placed_a_dead_server_makes_room() -> None:
    run = Servers()
    refusal = run.answer(run.server("ps2", "h:2"))
    assert isinstance(refusal, UsageError) and "cluster.servers" in str(refusal)
    actions = run.lose(2)
    assert run.notes(actions) == ["died"]
    assert run.answer(run.server("ps1", "h:9")) == a.Joined(3)


def test_a_server_that_fails_again_and_again_ends_the_run() -> None:
    run = working()
    for _ in range(9):
        run.hear(e.LineRefused(1, "server 0: internal error"))
        run.attach(0)
    assert run.error == ""
    run.hear(e.LineRefused(1, "server 0: internal error"))
    assert run.core.state.ended == r.Ended("server 0: internal error", "ServerLost")


def test_a_server_that_cannot_write_is_waited_for() -> None:
    run = working(progress_timeout_s=10.0)
    run.hear(e.ShardStalled(1, "the disk is full"))
    run.wait(60.0)
    assert run.core.servers.waits_for(run.now) == "server 1 at h:1 acknowledges nothing: the disk is full"
    assert len(run.core.state.present("worker")) == 2
    run.hear(e.ShardStalled(1, ""))
    assert run.core.servers.waits_for(run.now) == ""


# --- what a shard must still hold


def test_a_shard_that_lost_what_was_decided_ends_the_run() -> None:
    run = working()
    for step in range(3):
        run.accept(step, 0, 1, 2, 3)
        run.settle(step)
    run.lose(2)
    run.server("ps1", "h:99", held=2)
    run.attach(1, step=1)
    assert run.core.state.ended is not None and run.error == "ServerLost"
    assert "is back at step 1, all before step 2 was closed there" in run.core.state.ended.reason


def test_a_shard_may_have_missed_the_last_close() -> None:
    run = working()
    run.accept(0, 0, 1, 2, 3)
    run.lose(2)
    actions = run.attach(1, step=0)
    assert run.error == "" and [c.command.step for c in run.only(a.Command, actions)] == [0]  # type: ignore[union-attr]


def test_a_shard_that_lost_a_unit_ends_the_run() -> None:
    run = working()
    run.accept(0, 0, 1)
    run.lose(2)
    run.attach(1)
    assert (
        run.core.state.ended is not None
        and "without unit 0, which was accepted" in run.core.state.ended.reason
    )


def test_a_shard_that_lost_its_model_ends_the_run() -> None:
    run = working()
    run.lose(2)
    run.attach(1, configured=False)
    assert run.error == "ServerLost"


def test_units_that_were_counted_on_arrival_must_stand() -> None:
    run = working(mode=r.Switching("async", None, None, 1.0))
    run.accept(0, 0, 1, 2, 3)
    assert run.core.state.low == 4
    run.attach(1, step=0, clock=1)
    assert run.error == ""
    run.attach(1, step=0, clock=0)
    assert run.error == "ServerLost"


# --- standing by


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


def test_a_spare_that_dies_is_out_of_the_run() -> None:
    run = working(replicas=1)
    run.spare("s0")
    run.spare("s1")
    run.lose(5)
    assert run.spare("s2") == 7 and run.core.state.standbys[0].incarnation == 7
    assert run.notes(run.lose(7)) == ["server_away"] and run.core.state.members[7].present


def test_a_run_that_is_over_lets_every_server_go() -> None:
    run = standing_by()
    actions = run.hear(e.WorkerFailed(3, "ScriptFailed", "boom", True))
    finish = a.FinishShard("worker w0: boom")
    assert all(a.CommandServer(i, finish) in actions for i in (5, 6)) and a.Command(0, finish) in actions
    assert run.hear(e.ServerAttached(5, 5)) == [a.CommandServer(5, finish)]
    assert isinstance(run.answer(run.server("ps9", "h:9")), SparsyncError)


def test_a_coordinator_that_comes_back_gives_its_servers_time() -> None:
    run = standing_by()
    run.core = Core(run.core.desk.rules, run.core.state)
    actions = run.core.reopen(run.now)
    assert a.OpenShards() in actions
    run.reach(5, 6)
    run.attach(1)
    run.hear(e.LineBroken(1, "refused"))
    assert "Promoted" not in {type(x).__name__ for x in run.records(run.wait(14.0))}
    assert "Promoted" in {type(x).__name__ for x in run.records(run.wait(2.0))}
