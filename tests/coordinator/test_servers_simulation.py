"""Random histories of servers, each from one seed: what was acknowledged is never lost; planted bugs are caught."""

from __future__ import annotations

import re

import pytest

from coordinator import records as r
from coordinator.desk import Desk
from coordinator.standbys import Standbys
from tests.coordinator.ground import Broken
from tests.coordinator.log_world import LogWorld

OFTEN = re.compile(r"Tick\(|Beat\(|ServerAlive")
SEEDS = 120
BATCH = 30


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_random_histories_of_servers(first: int) -> None:
    for seed in range(first, first + BATCH):
        run_seed(seed)


def run_seed(seed: int) -> LogWorld:
    """One history. A failure tells the command that repeats it."""
    world = None
    try:
        world = LogWorld(seed)
        return world.run()
    except Exception as error:
        tail = "\n  ".join(line for line in world.history[-400:] if not OFTEN.search(line)) if world else ""
        call = f"from tests.coordinator.test_servers_simulation import run_seed as r; r({seed})"
        command = f"PYTHONPATH=. python -c '{call}'"
        raise Broken(f"seed {seed}: {error!r}\n  {tail[-3000:]}\nrepeat with: {command}") from error


def test_the_histories_are_eventful() -> None:
    worlds = [run_seed(seed) for seed in range(40)]
    for kind, least in {
        "Promoted": 15,
        "Moved": 15,
        "Parted": 30,
        "InSynced": 80,
        "Stood": 60,
        "Returned": 20,
    }.items():
        assert sum(w.counts.get(kind, 0) for w in worlds) >= least, kind
    assert sum(w.state.term > 1 for w in worlds) > 10
    assert sum(len(entries) for w in worlds for entries in w.acked.values()) > 5000


def test_a_seed_replays_to_the_letter() -> None:
    assert LogWorld(7).run().history == LogWorld(7).run().history


# --- planted bugs


def caught(law: str, seeds: int = 150) -> bool:
    """Whether some history breaks a law, and says so in these words."""
    return any(law in broken_by(seed) for seed in range(seeds))


def broken_by(seed: int) -> str:
    """What the first law that a history breaks says, or nothing."""
    try:
        LogWorld(seed).run()
    except Broken as broken:
        return str(broken)
    return ""


def test_a_promotion_without_a_standby_in_sync_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def hasty(self: Standbys, shard: int) -> bool:
        standby = self._desk.state.standbys.get(shard)
        return standby is not None and self._presence.here(standby.incarnation)

    monkeypatch.setattr(Standbys, "may_take_over", hasty)
    assert caught("which were acknowledged")


def test_a_primary_that_goes_on_alone_before_that_is_journaled_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unrecorded(self: Standbys, shard: int, reason: str) -> None:
        self._leave_alone(shard, self._desk.state.standbys[shard].incarnation)

    monkeypatch.setattr(Standbys, "_part", unrecorded)
    assert caught("which were acknowledged")


def test_a_server_that_is_dismissed_once_and_never_again_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator that comes back must know whom it had dismissed."""
    monkeypatch.setattr(Standbys, "dismiss_again", lambda self: None)
    assert caught("has no standby in sync in the end")


def test_a_promotion_under_the_old_term_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    decide = Desk.decide

    def same_term(self: Desk, record: r.Record) -> None:
        if isinstance(record, r.Promoted):
            term = self.state.placement[record.shard].term
            record = r.Promoted(record.shard, record.incarnation, record.address, term, record.reason)
        decide(self, record)

    monkeypatch.setattr(Desk, "decide", same_term)
    assert caught("acknowledge under term")
