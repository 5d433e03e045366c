"""Servers that join, go away and come back; what a shard must still hold then."""

from __future__ import annotations

import re
from typing import Any

import pytest

from coordinator import actions as a
from coordinator import events as e
from coordinator import records as r
from coordinator.core import Core
from tests.coordinator.runs import Run
from tests.coordinator.servers import Servers, standing_by, working
from wire.errors import NameTaken, RunOver, SparsyncError, UsageError


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


def test_nobody_is_given_the_incarnation_under_which_it_holds_what_another_coordinator_began() -> None:
    """The same checkpoint resumed twice: run and timeline are the same, and numbers begin at 1 again."""
    run = Run(replicas=1)
    joined = [
        e.Join(f"{held}", "ps", f"more{held}", f"h:9{held}", "", 7, "h", "run", 1, held) for held in (3, 1)
    ]
    assert [run.answer(run.hear(event)) for event in joined] == [a.Joined(4), a.Joined(5)]


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


def test_nobody_comes_to_the_address_of_a_server_that_is_there() -> None:
    """Its line would end. Where that one is gone, another may have its place: as the machine's other instance."""
    run = working(replicas=1)
    for name, held in (("s0", 0), ("ps0", 1)):
        assert isinstance(run.answer(run.server(name, "h:1", held=held)), NameTaken)
    assert run.spare("s0") == 5
    run.hear(e.LineBroken(2, "refused"))
    taking = run.server("s1", "h:1")
    assert run.answer(taking) == a.Joined(6) and a.Dial(6) in taking


def test_a_server_may_come_back_to_its_own_address() -> None:
    run = working()
    run.lose(2)
    assert run.answer(run.server("ps1", "h:1", held=2)) == a.Joined(2)
    run.attach(1)
    run.hear(e.LineBroken(2, "reset"))
    assert run.answer(run.server("ps1", "h:1", held=2)) == a.Joined(2)


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


def test_a_spare_that_dies_is_out_of_the_run() -> None:
    run = working(replicas=1)
    run.spare("s0")
    run.spare("s1")
    run.lose(5)
    assert run.spare("s2") == 7 and run.core.state.standbys[0].incarnation == 7
    assert run.notes(run.lose(7)) == ["server_away"] and run.core.state.members[7].present


def test_a_run_that_is_over_lets_every_server_go() -> None:
    run = standing_by()
    actions = run.hear(e.ShardRefused(0, "DamagedFile", "boom"))
    finish = a.FinishShard("server 0 refuses: boom")
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
