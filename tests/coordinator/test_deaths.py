"""Random histories in which the coordinator dies and comes back: what must hold, holds; planted bugs are caught."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

import pytest

from coordinator import actions as a
from coordinator import records as r
from coordinator.core import Core
from coordinator.desk import Desk
from coordinator.lanes import Lanes
from coordinator.retirements import Retirements
from tests.coordinator.ground import Broken, began, rules
from tests.coordinator.hand import Worker
from tests.coordinator.mortal import MortalWorld

SEEDS = 40
ALL_SEEDS = 2000
BATCH = 20
ELASTIC = ("async", "ssp", "quorum")


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_random_histories(first: int) -> None:
    for seed in range(first, first + BATCH):
        run_seed(seed)
        run_seed(seed, modes=("sync",))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("first", range(SEEDS, ALL_SEEDS, 20 * BATCH))
def test_many_random_histories(first: int) -> None:
    for seed in range(first, min(first + 20 * BATCH, ALL_SEEDS)):
        run_seed(seed)


def run_seed(seed: int, **more: Any) -> MortalWorld:
    """One history. A failure tells the command that repeats it."""
    world = None
    try:
        world = MortalWorld(seed, **more)
        world.run()
        return world
    except Exception as error:
        tail = "\n  ".join(world.history[-15:]) if world else ""
        call = f"run_seed({seed}, **{more})"
        command = f"PYTHONPATH=. python -c 'from tests.coordinator.test_deaths import run_seed; {call}'"
        raise Broken(f"seed {seed}: {error!r}\n  {tail}\nrepeat with: {command}") from error


def test_the_histories_are_eventful() -> None:
    worlds = [run_seed(seed) for seed in range(40)]
    journals = [[line for line in w.journal if '"Reopened"' not in line] for w in worlds]
    assert sum(w.deaths for w in worlds) > 40 and sum(w.torn for w in worlds) > 20
    assert {w.state.segment.mode for w in worlds} == {"sync", "delayed", "ssp", "async"}
    assert sum('"Closed"' in line or '"Counted"' in line for j in journals for line in j) > 150
    ages = {len(w.journal) for w in worlds}
    assert len(ages) > 20


def test_a_seed_replays_to_the_letter() -> None:
    assert run_seed(5).history == run_seed(5).history


# --- planted bugs ----------------------------------------------------------------------------


def caught(seeds: int = 100, modes: Sequence[str] = ("sync",), law: str = "", **more: Any) -> str:
    """The first complaint of the world about a run with a planted bug that tells of this law, or of any."""
    for seed in range(seeds):
        try:
            MortalWorld(seed, modes=modes, **more).run()
        except (Broken, AssertionError) as error:
            if re.search(law, str(error)):
                return str(error)
    return ""


def messages_first(actions: list[a.Action], rnd: random.Random) -> list[a.Action]:
    """A coordinator that tells before it journals, and dies in between."""
    messages = [action for action in actions if not isinstance(action, a.Journal)]
    return messages[: rnd.randint(0, len(messages))]


def test_a_message_that_leaves_before_its_journaling_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what it brings about: the law that compares messages with the journal looks away."""
    monkeypatch.setattr("tests.coordinator.laws.Laws.revealed", lambda self, action: None)
    told = caught(200, modes=("sync", *ELASTIC), carries_out=messages_first)
    assert re.search("closes|accepts|begins|is told|does not end|entered|in the model|settled", told), told


def test_a_journal_that_tears_an_event_is_caught() -> None:
    """Records of one event are durable together or not at all: here only the first ones are."""

    def torn(actions: list[a.Action], rnd: random.Random) -> list[a.Action]:
        return actions[: rnd.randint(0, len(actions))]

    assert caught(1000, modes=("sync", *ELASTIC), carries_out=torn)


def test_a_coordinator_that_forgets_fences_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Lanes.__init__

    def forgetful(self: Lanes, *parts: Any) -> None:
        made(self, *parts)
        self._fencing.clear()

    monkeypatch.setattr(Lanes, "__init__", forgetful)
    assert caught(400, law="still takes older attempts")


def test_a_coordinator_that_forgets_retirements_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Retirements.__init__

    def forgetful(self: Retirements, desk: Desk) -> None:
        made(self, desk)
        self._asked.clear()

    monkeypatch.setattr(Retirements, "__init__", forgetful)
    assert caught(400, modes=ELASTIC, law="does not end|still takes from")


def test_plans_go_on_above_those_of_the_older_coordinator() -> None:
    """A late answer to one of its plans is not taken for one to a newer plan."""
    state = began(4)
    older = Desk(rules(), state).next_plan()
    state.apply(r.Reopened(2, "cd"))
    assert Desk(rules(), state).next_plan() > older + 1_000_000


def test_a_checkpoint_that_is_forgotten_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Core.__init__

    def forgetful(self: Core, *parts: Any, **more: Any) -> None:
        made(self, *parts, **more)
        self.state.due = None

    monkeypatch.setattr(Core, "__init__", forgetful)
    assert caught(400, law="does not end|the journal does not make|decided")


def test_nobody_uploads_beside_a_living_uploader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two uploads at once could leave parts of either model on the shards. What was told counts: a coordinator that
    dies before it has told whom it chose may choose another.
    """
    asked: set[int] = set()
    ever: set[int] = set()
    declared = Worker.declared

    def count(self: Worker, value: Any) -> None:
        if isinstance(value, a.Declared) and value.upload:
            asked.add(self.incarnation)
            ever.add(self.incarnation)
            living = asked & {m.incarnation for m in self.world.state.present("worker")}
            assert living <= {self.incarnation}, f"two living workers upload: {living}"
        declared(self, value)

    monkeypatch.setattr(Worker, "declared", count)
    for seed in range(30):
        asked.clear()
        MortalWorld(seed, modes=("sync",), chaos_s=5.0).run()
    assert len(ever) > 1
