"""Random histories in which servers die, too: what must hold, holds; planted bugs are caught.

Each promise that the simulation covers has a planted bug that it must catch; a name alone is one of this file:

| promise | planted bug | test |
|---|---|---|
| P1 | acknowledged before it is in the log | before_the_log |
| P1 | a standby is promoted that is not in sync | out_of_sync |
| P2 | what was accepted is left out of the image | dedup_left_out |
| P2 | a unit counts once an attempt | test_simulation: a ledger that counts attempts |
| P3 | a close names its units in another order | another_order |
| P3 | units are summed in the order of arrival | tests/ps/test_shard.py: a sum in order of arrival |
| P4 | a reader enters a step that one shard has closed | torn_step |
| P4 | a step is closed that is not on every shard | test_simulation: a close without all shards |
| P5 | a lease is dealt again though units of it stand | dealt_again |
| P8 | an attempt that is taken over is not fenced | test_simulation: a fence that is not sent, and that is ignored |
| P9 | a decision is told before it is journaled | test_simulation, test_deaths: journaled |
| P10 | a primary ceases by itself to wait for its standby | alone_by_itself |
| P10 | terms are not checked | no_term_check |
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from coordinator import actions as a
from coordinator.desk import Desk
from coordinator.standbys import Standbys
from ps.ledger import ElasticLedger, Ledger
from ps.replication import Replication
from ps.terms import TermGuard
from ps.watermark import Watermark
from tests.coordinator.campaign import run_seed
from tests.coordinator.falling import FallingWorld
from wire.ids import Term
from worker.deltas import DeltaQueues

SEEDS = 40
ALL_SEEDS = 2400
BATCH = 20


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_random_histories(first: int) -> None:
    for seed in range(first, first + BATCH):
        run_seed(seed, "servers" if seed % 2 else "servers-exact")


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("first", range(SEEDS, ALL_SEEDS, 20 * BATCH))
def test_many_random_histories(first: int) -> None:
    for seed in range(first, min(first + 20 * BATCH, ALL_SEEDS)):
        run_seed(seed)


def test_the_histories_are_eventful() -> None:
    worlds = [FallingWorld(seed).run() for seed in range(40)]
    journals = ["\n".join(w.journal) for w in worlds]
    assert sum(w.falls for w in worlds) > 80 and sum(w.promotions for w in worlds) > 8
    assert sum(w.deaths for w in worlds) > 20
    assert sum('"Parted"' in j for j in journals) > 8 and sum('"Moved"' in j for j in journals) > 20
    assert {(w.rules.ack, w.rules.replicas) for w in worlds} == {
        (ack, n) for ack in ("os", "disk") for n in (0, 1)
    }


def test_a_seed_replays_to_the_letter() -> None:
    assert run_seed(5, "servers").history == run_seed(5, "servers").history


# --- planted bugs ----------------------------------------------------------------------------


def caught(seeds: int, modes: Sequence[str] = ("sync", "quorum", "ssp", "async"), law: str = "") -> str:
    """The first complaint of the world about a run with a planted bug that tells of this law, or of any."""
    for seed in range(seeds):
        try:
            FallingWorld(seed, modes=modes).run()
        except Exception as error:
            if re.search(law, str(error)):
                return str(error)
    return ""


def before_the_log(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Watermark, "when", lambda self, position, act: act())


def out_of_sync(patch: pytest.MonkeyPatch) -> None:
    def present(self: Standbys, shard: int) -> bool:
        standby = self._desk.state.standbys.get(shard)
        return standby is not None and self._presence.here(standby.incarnation)

    patch.setattr(Standbys, "may_take_over", present)


def dedup_left_out(patch: pytest.MonkeyPatch) -> None:
    exact, elastic = Ledger.image, ElasticLedger.image
    patch.setattr(Ledger, "image", lambda self: exact(self) | {"accepted": []})
    patch.setattr(ElasticLedger, "image", lambda self: elastic(self) | {"beyond": [], "pending": []})
    patch.setattr(Replication, "marked", lambda self, position, digest, own: None)  # it would be seen at once


def another_order(patch: pytest.MonkeyPatch) -> None:
    command_all = Desk.command_all

    def backwards(self: Desk, command: a.ShardOrder) -> None:
        if isinstance(command, a.CloseStep):
            command = replace(command, streams=command.streams[::-1])
        command_all(self, command)

    patch.setattr(Desk, "command_all", backwards)


def torn_step(patch: pytest.MonkeyPatch) -> None:
    def any_shard(self: DeltaQueues) -> list[int]:
        return next(([shard] for shard, queue in enumerate(self._queues) if queue), [])

    patch.setattr(DeltaQueues, "_next", any_shard)


def dealt_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("coordinator.leases.Span.without", lambda self, known, *, until: [self])


def alone_by_itself(patch: pytest.MonkeyPatch) -> None:
    def broken(self: Replication, call: int, reason: str) -> None:
        if call == self._call:
            self._recorded = False
            self._watermark.wait_no_more(self._standby)

    patch.setattr(Replication, "broken", broken)


def no_term_check(patch: pytest.MonkeyPatch) -> None:
    def obey(self: TermGuard, term: Term, journal_seq: int | None = None) -> None:
        self.term, self._journal_seq = term, journal_seq or 0

    patch.setattr(TermGuard, "obey", obey)


LOST = "was acknowledged, and is lost|was seen"
PLANTED: dict[Any, tuple[int, tuple[str, ...], str]] = {
    before_the_log: (60, ("sync",), f"{LOST}|still takes older attempts"),
    out_of_sync: (60, ("sync",), LOST),
    dedup_left_out: (
        200,
        ("async", "ssp"),
        "a second time|in the model|settled|while it holds|missing|lost what it had",
    ),
    another_order: (20, ("sync",), "not in stream order"),
    torn_step: (60, ("ssp", "quorum"), "ahead of the slowest clock|takes itself to be in segment"),
    dealt_again: (100, ("async", "ssp"), "but it stands on"),
    alone_by_itself: (600, ("sync",), f"{LOST}|which is not on shard"),
    no_term_check: (60, ("sync",), "obeys a copy of the journal"),
}


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_caught(plant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds, modes, complaint = PLANTED[plant]
    plant(monkeypatch)
    assert caught(seeds, modes, law=complaint), f"not caught by {seeds} seeds"
