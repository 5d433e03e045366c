"""The bound on norms: the median of what counted lately, in whose hands an outlier can do little."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from coordinator import actions as a
from coordinator import events as e
from coordinator import records as r
from coordinator.clipping import (
    LEAST_STEPS,
    RECENT_STEPS,
    bound_of,
    counted,
    moved,
    newest,
    norms_of,
    returned,
)
from coordinator.state import State
from tests.coordinator.ground import EXACT, began
from tests.coordinator.runs import Run
from wire.clipping import share_below
from wire.ids import UnitId
from wire.messages import Commit

STREAMS = 4


def commit(norm: float, *, empty: str = "") -> Commit:
    return Commit(empty, 1, 1, 1.0, 1.0, (0.1,), push_norm=norm)


def follow(steps: list[list[float]], *, clip: float) -> tuple[list[float], list[list[float]]]:
    """(bound of each step, what of each step's norms counted)."""
    known: tuple[float, ...] = ()
    bounds, kept = [], []
    for norms in steps:
        bounds.append(bound_of(known, clip=clip, streams=STREAMS))
        kept.append(list(counted(norms, bounds[-1])))
        known = newest(known, kept[-1], streams=STREAMS)
    return bounds, kept


def test_without_a_clip_or_before_enough_is_known_there_is_no_bound() -> None:
    norms = [1.0] * STREAMS
    assert follow([norms] * 40, clip=0.0)[0] == [0.0] * 40
    assert follow([norms] * 40, clip=3.0)[0] == [0.0] * LEAST_STEPS + [3.0] * (40 - LEAST_STEPS)
    assert bound_of([0.0] * 64, clip=3.0, streams=STREAMS) == 0.0, "nothing to measure by"


def test_a_stream_that_goes_wild_is_held_to_the_bound_and_moves_it_hardly() -> None:
    steps = [[1.0, 1.0, 1.0, 1.0 if step < 10 else 100.0] for step in range(60)]
    bounds, kept = follow(steps, clip=2.0)
    assert bounds[LEAST_STEPS:] == [2.0] * (60 - LEAST_STEPS)
    assert all(norms[3] == 2.0 for norms in kept[10:])


def test_a_scale_that_changes_for_good_is_followed_within_some_windows() -> None:
    steps = [[1.0] * STREAMS] * 40 + [[10.0] * STREAMS] * 100
    bounds, kept = follow(steps, clip=2.0)
    growth = [b / a for a, b in zip(bounds[LEAST_STEPS:], bounds[LEAST_STEPS + 1 :], strict=False)]
    assert max(growth) <= 2.0
    assert max(bounds[40 : 40 + RECENT_STEPS // 2]) == 2.0
    assert bounds[-1] == 20.0 and kept[-1] == [10.0] * STREAMS


def test_one_that_falls_is_followed_in_half_a_window() -> None:
    bounds, _ = follow([[10.0] * STREAMS] * 40 + [[1.0] * STREAMS] * 40, clip=2.0)
    assert bounds[40 + RECENT_STEPS // 2 + 1] == 2.0


def test_empty_units_have_no_norm_and_give_nothing_back() -> None:
    commits = [commit(8.0), commit(0.0, empty="epoch_end"), commit(1.0)]
    assert counted(norms_of(commits), 2.0) == (2.0, 1.0)
    assert returned(norms_of(commits), 2.0) == 0.75
    assert returned(norms_of(commits), 0.0) == 0.0


def test_a_bound_is_told_when_it_has_moved() -> None:
    assert moved(0.0, 2.0) and moved(2.0, 2.2) and moved(2.2, 2.0)
    assert not moved(2.0, 2.05) and not moved(2.0, 0.0) and not moved(0.0, 0.0)


@pytest.mark.parametrize(
    ("bound", "norm", "share"), [(0.0, 9.0, 1.0), (3.0, 3.0, 1.0), (3.0, 12.0, 0.25), (3.0, 0.0, 1.0)]
)
def test_the_factor_brings_a_norm_down_to_the_bound(bound: float, norm: float, share: float) -> None:
    assert share_below(bound, norm) == share


# --- in the deciding core ---------------------------------------------------------------------------

ASYNC = r.Switching("async", None, None, 1.0)
QUORUM = r.Switching("sync", None, 3, 1.0)


def records(actions: list[a.Action], kind: type) -> list[Any]:
    return [x.record for x in actions if isinstance(x, a.Journal) and isinstance(x.record, kind)]


def commands(run: Run, actions: list[a.Action], kind: type) -> list[Any]:
    return [c.command for c in run.only(a.Command, actions) if isinstance(c.command, kind)]


def step(run: Run, number: int, norms: list[float]) -> list[a.Action]:
    """Every unit of a step is pushed, each with its norm."""
    actions = [x for stream, norm in enumerate(norms) for x in run.accept(number, stream, push_norm=norm)]
    return actions + run.settle(number)


@pytest.mark.parametrize("mode", [EXACT, QUORUM])
def test_a_close_carries_the_bound_that_the_steps_before_it_make(mode: r.Switching) -> None:
    run, actions = Run(mode=mode, clip=2.0, steps=30).begin(), []
    for number in range(LEAST_STEPS + 2):
        wild = 50.0 if number == LEAST_STEPS else 1.0
        actions += step(run, number, [1.0, 1.0, 1.0, wild])
    closed = records(actions, r.Closed)
    assert [c.bound for c in closed] == [0.0] * LEAST_STEPS + [2.0, 2.0]
    assert closed[LEAST_STEPS].norms == (1.0, 1.0, 1.0, 2.0)
    assert [c.returned for c in closed[LEAST_STEPS:]] == [pytest.approx(1 - 2 / 50), 0.0]
    told = {c.step: c.bound for c in commands(run, actions, a.CloseStep)}
    assert told == {c.step: c.bound for c in closed}
    assert run.core.state.totals.returned == pytest.approx(1 - 2 / 50)
    assert len(run.core.state.norms) == (LEAST_STEPS + 2) * STREAMS


def test_what_is_remembered_goes_on_with_the_journal_and_a_checkpoint_and_ends_with_the_segment() -> None:
    state = began(STREAMS)
    for number in range(RECENT_STEPS + 5):
        norms = tuple(float(number) for _ in range(STREAMS))
        state.apply(r.Closed(number, (0, 1, 2, 3), False, False, 0, 0, 8, 64, 1.0, norms=norms))
    assert len(state.norms) == RECENT_STEPS * STREAMS and state.norms[0] == 5.0
    resumed = State(STREAMS)
    resumed.apply(r.Began("run", 2, 1, "ab", RECENT_STEPS + 5, "there", norms=state.norms))
    resumed.apply(r.Segment(0, RECENT_STEPS + 5, **vars(EXACT)))
    assert resumed.norms == state.norms
    state.apply(r.Segment(1, RECENT_STEPS + 5, **vars(ASYNC)))
    assert state.norms == () and state.bound == 0.0


def test_off_nothing_is_decided_or_told() -> None:
    run, actions = Run().begin(), []
    for number in range(9):
        actions += step(run, number, [1.0, 1.0, 1.0, 99.0])
    assert {(c.bound, c.norms, c.returned) for c in records(actions, r.Closed)} == {(0.0, (), 0.0)}


def arrive(run: Run, number: int, norm: float, factor: float = 1.0) -> list[a.Action]:
    """The units of a step arrive from whoever holds them."""
    actions = []
    for unit in range(number * STREAMS, (number + 1) * STREAMS):
        holder = next((x.holder for x in run.core.state.leases.values() if unit in x.span), 3)
        for shard in range(2):
            told = e.UnitAccepted(shard, UnitId(1, number, unit % STREAMS), 0, holder, commit(norm), factor)
            actions += run.hear(told)
    return actions


def test_where_units_settle_on_arrival_shards_are_told_when_it_moves_and_not_too_often() -> None:
    run, told = Run(mode=ASYNC, clip=2.0, steps=400).begin(), []
    for number in range(200):
        run.now += 0.25
        actions = arrive(run, number, 1.0 if number < 100 else 4.0)
        found = commands(run, actions, a.HoldTo)
        assert [x.bound for x in records(actions, r.Bounded)] * 2 == [x.bound for x in found]
        told += [(run.now, x.bound) for x in found[::2]]
    bounds, times = [bound for _, bound in told], [at for at, _ in told]
    assert bounds[0] == 2.0 and bounds[-1] == 8.0 and bounds == sorted(bounds)
    assert times[0] == 0.25 * LEAST_STEPS
    assert all(later - at >= 1.0 for at, later in itertools.pairwise(times))
    assert run.core.state.bound == 8.0

    again = commands(run, run.hear(e.ShardAttached(1, 2, True, 0)), a.HoldTo)
    assert again == [a.HoldTo(8.0)], "whoever comes back is told"
