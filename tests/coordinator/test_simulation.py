"""Random histories of whole runs, each from one seed: what must hold, holds; planted bugs are caught."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from coordinator import actions as a
from coordinator.core import Core
from coordinator.desk import Rules
from coordinator.lanes import Lanes
from coordinator.pace import Standing
from coordinator.state import State
from ps.ledger import Ledger, Verdict
from tests.coordinator.world import Broken, World
from wire.ids import UnitId

SEEDS = 400
BATCH = 50


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_random_histories(first: int) -> None:
    for seed in range(first, first + BATCH):
        run_seed(seed)


def run_seed(seed: int) -> World:
    """One history. A failure tells the command that repeats it."""
    world = None
    try:
        world = World(seed)
        return world.run()
    except Exception as error:
        tail = "\n  ".join(world.history[-15:]) if world else ""
        command = (
            f"PYTHONPATH=. python -c 'from tests.coordinator.test_simulation import run_seed as r; r({seed})'"
        )
        raise Broken(f"seed {seed}: {error!r}\n  {tail}\nrepeat with: {command}") from error


def test_the_histories_are_eventful() -> None:
    """Without this the simulation could pass by doing nothing."""
    worlds = [run_seed(seed) for seed in range(80)]
    fenced = [w for w in worlds if any("FenceAnswered" in line for line in w.history)]
    partial = [w for w in worlds if any('"send_to": [' in j and '"send_to": []' not in j for j in w.journal)]
    moved = [w for w in worlds if any("handed over" in j for j in w.journal)]
    stopped = [w for w in worlds if w.state.stopping is not None]
    assert sum(w.kills for w in worlds) > 30
    assert len(fenced) > 15 and len(moved) > 10 and partial and stopped


def test_a_seed_replays_to_the_letter() -> None:
    assert run_seed(5).history == run_seed(5).history


# --- planted bugs ------------------------------------------------------------------------


def caught(seeds: int = 60, **parts: Callable[..., object]) -> str:
    """The first complaint of the world about a run with a planted bug."""
    for seed in range(seeds):
        try:
            World(seed, **parts).run()  # type: ignore[arg-type]
        except (Broken, AssertionError) as error:
            return str(error)
    return ""


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
        if unit.step == self.step and self.accepted.get(unit.stream, attempt) != attempt:
            return Verdict.ADMIT
        return super().judge(unit, attempt)


class IgnoresFences(Ledger):
    def judge(self, unit: UnitId, attempt: int) -> Verdict:
        verdict = super().judge(unit, attempt)
        return Verdict.ADMIT if verdict is Verdict.FENCED and unit.stream not in self.accepted else verdict


def test_a_ledger_that_counts_attempts_is_caught() -> None:
    assert "a second time" in caught(seeds=1000, ledger=AcceptsEveryAttempt)


def test_a_ledger_that_ignores_fences_is_caught() -> None:
    assert "behind fence" in caught(seeds=1000, ledger=IgnoresFences)


class HastyPace:
    """Closes once any shard holds each unit."""

    def decide(self, standing: Standing) -> tuple[tuple[int, ...] | None, str]:
        if all(standing.accepted.get(s) for s in range(standing.streams)):
            return tuple(range(standing.streams)), "every unit stands somewhere"
        return None, "waits"


def test_a_close_without_all_shards_is_caught() -> None:
    def core(rules: Rules, state: State) -> Core:
        made = Core(rules, state)
        made.work.steps._pace = HastyPace()
        return made

    assert "while it holds" in caught(core=core)


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

    def hasty(self: Core, event: a.Event, now: float) -> list[a.Action]:
        return sorted(handle(self, event, now), key=lambda action: isinstance(action, a.Journal))

    monkeypatch.setattr(Core, "handle", hasty)
    assert "before it is journaled" in caught()
