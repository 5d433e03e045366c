"""Random histories of whole runs, each from one seed: what must hold, holds; planted bugs are caught."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from coordinator import actions as a
from coordinator import events as e
from coordinator import records as r
from coordinator.arrivals import Arrivals
from coordinator.core import Core
from coordinator.desk import Desk, Rules
from coordinator.elastic import Elastic
from coordinator.lanes import Lanes
from coordinator.leases import Leases
from coordinator.leavers import OWES_NOTHING, Leavers
from coordinator.pace import Standing
from coordinator.retirements import Retirements
from coordinator.segments import Segments
from coordinator.state import State
from ps.flushes import Flushes
from ps.ledger import Ledger, Verdict
from tests.coordinator.ground import Broken
from tests.coordinator.world import World
from wire.errors import Busy, NotWritten
from wire.ids import UnitId
from worker.leases import LeaseWork

SEEDS = 400
BATCH = 50
ELASTIC = ("async", "ssp", "quorum")


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_random_histories(first: int) -> None:
    for seed in range(first, first + BATCH):
        run_seed(seed)


def run_seed(seed: int, **more: Any) -> World:
    """One history. A failure tells the command that repeats it."""
    world = None
    try:
        world = World(seed, **more)
        return world.run()
    except Exception as error:
        tail = "\n  ".join(world.history[-15:]) if world else ""
        command = (
            f"PYTHONPATH=. python -c 'from tests.coordinator.test_simulation import run_seed as r; r({seed})'"
        )
        raise Broken(f"seed {seed}: {error!r}\n  {tail}\nrepeat with: {command}") from error


def test_the_exact_histories_are_eventful() -> None:
    """Without this the simulation could pass by doing nothing."""
    worlds = [World(seed, modes=("sync",)).run() for seed in range(80)]
    fenced = [w for w in worlds if any("FenceAnswered" in line for line in w.history)]
    partial = [w for w in worlds if any('"send_to": [' in j and '"send_to": []' not in j for j in w.journal)]
    moved = [w for w in worlds if any("handed over" in j for j in w.journal)]
    stopped = [w for w in worlds if w.state.stopping is not None]
    assert sum(w.kills for w in worlds) > 30
    assert len(fenced) > 15 and len(moved) > 10 and partial and stopped


def test_the_elastic_histories_are_eventful() -> None:
    worlds = [run_seed(seed) for seed in range(140)]
    journals = ["\n".join(w.journal) for w in worlds]
    switched = [w for w in worlds if w.state.segment.number > 0]
    assert {w.state.segment.mode for w in switched} == {"sync", "delayed", "ssp", "async"} and len(
        switched
    ) > 15
    assert max(w.state.segment.number for w in worlds) > 2
    assert sum('"Vacated"' in j for j in journals) > 10 and sum('"Lowered"' in j for j in journals) > 20
    assert any('"late": [' in j and '"late": []' not in line for j in journals for line in j.split("\n"))
    assert sum('"Barred"' in j for j in journals) > 15
    assert any(w.partial for w in worlds)
    assert any(w.state.totals.returned > 0 for w in worlds)
    leavers = [worker for w in worlds for worker in w.workers if worker.parted and any(worker.lane.produced)]
    assert len(leavers) > 10


def test_wishes_for_a_checkpoint_are_granted_and_refused() -> None:
    answers = [answer for seed in range(80) for answer in run_seed(seed).granted]
    assert sum(isinstance(answer, a.Saved) for answer in answers) > 30
    assert {type(answer) for answer in answers} >= {a.Saved, Busy, NotWritten}


def test_a_seed_replays_to_the_letter() -> None:
    assert run_seed(5).history == run_seed(5).history


# --- planted bugs ----------------------------------------------------------------------------


def caught(
    seeds: int = 60, modes: Sequence[str] = ("sync",), law: str = "", **parts: Callable[..., object]
) -> str:
    """The first complaint of the world about a run with a planted bug that tells of this law, or of any."""
    for seed in range(seeds):
        try:
            World(seed, modes=modes, **parts).run()  # type: ignore[arg-type]
        except (Broken, AssertionError) as error:
            if re.search(law, str(error)):
                return str(error)
    return ""


# --- planted bugs of exact segments


def test_a_fence_that_is_not_sent_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lanes, "fence_again", lambda self, shard: None)
    monkeypatch.setattr("coordinator.desk.Desk.command_all", _all_but_fences)
    assert "does not end" in caught()


def _all_but_fences(desk: object, command: object) -> None:
    if not isinstance(command, a.FenceStream):
        for shard in range(len(desk.state.placement)):  # type: ignore[attr-defined]
            desk.actions.append(a.Command(shard, command))  # type: ignore[attr-defined, arg-type]


def test_fences_forgotten_with_a_broken_line_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lanes, "fence_again", lambda self, shard: None)
    assert "does not end" in caught(seeds=200)


class AcceptsEveryAttempt(Ledger):
    """Dedup by (unit, attempt): the classic mistake of counting the sender's number, not the unit."""

    def judge(self, unit: UnitId, attempt: int) -> Verdict:
        if unit.step == self.step and self.accepted.get((unit.step, unit.stream), attempt) != attempt:
            return Verdict.ADMIT
        return super().judge(unit, attempt)


class IgnoresFences(Ledger):
    def judge(self, unit: UnitId, attempt: int) -> Verdict:
        verdict = super().judge(unit, attempt)
        held = (unit.step, unit.stream) in self.accepted
        return Verdict.ADMIT if verdict is Verdict.FENCED and not held else verdict


def test_a_ledger_that_counts_attempts_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The coordinator has a unit sent where it is missing only; here it does not know that, and the ledger must."""
    fenced = Lanes.fenced

    def ignorant(self: Lanes, event: e.FenceAnswered) -> None:
        fenced(self, replace(event, accepted=False))

    monkeypatch.setattr(Lanes, "fenced", ignorant)
    assert caught(seeds=40) == "", "with a right ledger that is harmless"
    assert "a second time" in caught(seeds=1000, ledger=AcceptsEveryAttempt)


def test_a_ledger_that_ignores_fences_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retirement would hide it: nothing of a worker that is gone is taken, whatever the attempt."""
    monkeypatch.setattr(Retirements, "begin", lambda self, incarnation: None)
    assert "behind fence" in caught(seeds=1000, ledger=IgnoresFences)


class HastyPace:
    """Closes once any shard holds each unit."""

    lag = 0

    def decide(self, standing: Standing) -> tuple[tuple[int, ...] | None, str]:
        if all(standing.accepted.get(s) for s in range(standing.streams)):
            return tuple(range(standing.streams)), "every unit stands somewhere"
        return None, "waits"


def test_a_close_without_all_shards_is_caught() -> None:
    def core(rules: Rules, state: State) -> Core:
        made = Core(rules, state)
        made.work.steps._pace = HastyPace()
        return made

    assert caught(core=core, law="counts unit .* which is not on shard")


def test_a_store_that_keeps_the_last_deposit_only_is_caught() -> None:
    def last_one(steps: set[int]) -> None:
        steps -= set(sorted(steps)[:-1])

    assert "no such deposit" in caught(seeds=60, on_deposit=last_one)


def test_retaining_from_a_deposit_between_two_bases_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def naive(state: State) -> int:
        return min(state.first_step if lane.deposit is None else lane.deposit for lane in state.lanes)

    monkeypatch.setattr(State, "retain_from", property(naive))
    monkeypatch.setattr(State, "base_of", lambda state, lane: state.reached(lane))
    assert "cannot be reached" in caught(seeds=4000)


def test_a_decision_told_before_it_is_journaled_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    handle = Core.handle

    def hasty(self: Core, event: e.Event, now: float) -> list[a.Action]:
        return sorted(handle(self, event, now), key=lambda action: isinstance(action, a.Journal))

    monkeypatch.setattr(Core, "handle", hasty)
    assert "before it is journaled" in caught()


def test_the_delayed_histories_run_ahead_and_drain() -> None:
    worlds = [run_seed(seed, modes=("delayed",)) for seed in range(60)]
    behind = [step - on for w in worlds for step, on in w.laws.computed.items()]
    assert behind.count(1) > 200 and behind.count(0) > 200
    assert sum('"drain": true' in line for w in worlds for line in w.journal) > 100
    assert any("handed over" in line for w in worlds for line in w.journal)


@pytest.mark.parametrize("modes", [("delayed",), ("sync", "delayed")])
def test_histories_of_exact_modes(modes: tuple[str, ...]) -> None:
    for seed in range(60):
        run_seed(seed, modes=modes)


# --- planted bugs where units lag


def test_an_heir_that_is_not_told_what_drained_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lanes, "_drained", lambda self: ())
    told = caught(modes=("delayed",))
    assert re.search("a torn step|begun before it|boundaries|cannot be reached", told), told


def test_a_boundary_that_is_not_announced_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every close is taken for one that a boundary may follow, as in sync."""
    monkeypatch.setattr(Desk, "drained", lambda self, step: True)
    assert "begun before it" in caught(modes=("delayed",))


# --- planted bugs of elastic segments


def test_a_retirement_that_is_not_waited_for_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    abandon = Elastic.abandon

    def hasty(self: Elastic, incarnation: int, reason: str) -> None:
        abandon(self, incarnation, reason)
        self._leases.retired(incarnation)

    monkeypatch.setattr(Elastic, "abandon", hasty)
    assert caught(modes=ELASTIC, law="was given up, while|but it stands on")


def test_an_answer_to_an_older_plan_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    holding = Leases.holding

    def hasty(self: Leases, event: e.Holding) -> None:
        for asked in self._asked.values():
            asked.plan = 0
        holding(self, event)

    monkeypatch.setattr(Leases, "holding", hasty)
    assert caught(modes=ELASTIC, law="or it itself has begun|behind the boundary|is let go")


def test_a_count_above_the_lowest_missing_unit_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def eager(self: Arrivals) -> int:
        number = self._state.low
        while self.known(number):
            number += 1
        return number

    monkeypatch.setattr(Arrivals, "contiguous", property(eager))
    assert caught(modes=ELASTIC, law="counts unit .* which is not on shard")


def test_a_unit_dealt_beyond_the_bar_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    deal = Leases.deal

    def blind(self: Leases, reason: str) -> None:
        state = self._desk.state
        barred, state.barred = state.barred, None
        deal(self, reason)
        state.barred = barred

    monkeypatch.setattr(Leases, "deal", blind)
    assert "behind the boundary" in caught(modes=ELASTIC)


def test_a_switch_that_does_not_wait_for_retirements_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = Segments._begin_next_if_over

    def hasty(self: Segments) -> None:
        asked, self._retirements._asked = self._retirements._asked, {}
        begin(self)
        self._retirements._asked = asked

    monkeypatch.setattr(Segments, "_begin_next_if_over", hasty)
    assert "still takes from" in caught(seeds=400, modes=ELASTIC)


def test_a_switch_that_does_not_wait_for_deposits_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Segments, "_depositing", False)
    assert "takes on stream" in caught(seeds=400, modes=("sync", *ELASTIC))


def test_what_is_left_to_all_alike_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.segments.spread", lambda carriers, **_: tuple(carriers))
    assert "are there" in caught(seeds=400, modes=("sync", *ELASTIC))


def test_a_unit_that_counts_again_when_it_is_told_again_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    accept = Arrivals.accept

    def forgetful(self: Arrivals, event: e.UnitAccepted) -> None:
        """A shard that tells a unit again is taken for another one."""
        known = event.shard in self.shards(event.unit.number(self._state.streams))
        accept(self, replace(event, shard=event.shard + 1) if known else event)

    monkeypatch.setattr(Arrivals, "accept", forgetful)
    assert caught(seeds=400, modes=ELASTIC, law="which is not on shard|but it stands on")


def test_late_units_that_are_dropped_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def forget(self: State, record: r.Closed) -> None:
        self.low = (record.step + 1) * self.streams

    monkeypatch.setattr(State, "_owe", forget)
    assert caught(modes=("quorum",), law="counts unit .* which is not on shard")


def test_a_worker_that_runs_ahead_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LeaseWork, "_may_begin", lambda self, unit: True)
    assert "steps ahead of the slowest clock" in caught(modes=("ssp",))


def test_a_leaver_that_is_let_go_before_it_flushed_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Leavers, "_reason", lambda self, worker, now: OWES_NOTHING)
    assert "is let go, and holds" in caught(modes=ELASTIC)


def test_a_flush_that_counts_again_when_it_is_sent_again_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Flushes, "accept", lambda self, incarnation, segment: None)
    assert "more than that" in caught(modes=ELASTIC)


def test_a_segment_whose_leases_do_not_end_with_it_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that pulls x̂ behind the pausing close does not know that the segment is over."""

    def no_bar(self: Elastic) -> None:
        state = self._desk.state
        if state.switching is not None and state.barred is None:
            self._desk.decide(r.Barred(state.open_step + 1))

    monkeypatch.setattr(Elastic, "_approach_switch", no_bar)
    assert caught(
        seeds=200, modes=("quorum", "ssp"), law="behind (the|a) boundary|of segment 1, in .*number=2"
    )
