"""Presets: every part is a grid that can be run, and covers what it is for."""

from __future__ import annotations

from typing import Any

import pytest

from sparsync.bench.modes.cases import Case
from sparsync.bench.modes.presets import FULL
from sparsync.bench.modes.stragglers import pattern
from sparsync.cli.bench_modes import grid_of, presets_of
from sparsync.cli.bench_modes import modes as command
from wire.errors import UsageError


def cases(*words: str) -> dict[str, list[Case]]:
    """Of each result that a command line leads to."""
    asked: dict[str, Any] = dict(command.make_context("modes", [*words]).params)
    parts, full = asked.pop("parts"), asked.pop("full")
    rest = {key: value for key, value in asked.items() if key not in ("source", "overrides")}
    found = {}
    for name, preset in presets_of(parts, full=full).items():
        grid = grid_of(rest, preset, source="stdlib", overrides=())
        grid.check()
        found[name] = grid.all()
    return found


def test_every_part_is_a_grid_with_enough_seeds_text_and_rates() -> None:
    found = cases("--full")
    assert set(found) == {f"modes-{part}" for part in FULL}
    for own in found.values():
        assert {case.seed for case in own} == {0, 1, 2}
        assert {case.lr for case in own} == {1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2}
        assert all(case.work.windows >= 256 and case.work.steps >= 2000 for case in own)


def test_constant_stragglers_are_measured_with_four_workers() -> None:
    for part in ("stragglers", "speeds"):
        (own,) = cases("--full", "--part", part).values()
        slow = {case.method for case in own if case.straggler == "slow:4/4/2/1" and case.workers == 4}
        assert {"sync", "async"} <= slow
    factors = [pattern("slow:4/4/2/1").factor(worker) for worker in range(4)]
    assert [max(factors) / factor for factor in factors] == [1, 1, 2, 4], "these are the speeds"


def test_codecs_and_the_quorum_are_covered() -> None:
    (codecs,) = cases("--full", "--part", "codecs").values()
    assert {case.codec for case in codecs if case.is_cluster} == {"dense", "int8", "int4", "default"}
    (quorum,) = cases("--full", "--part", "quorum").values()
    found = {case.config.sync.quorum for case in quorum if case.is_cluster}
    assert found == {None, 3} and {c.straggler for c in quorum if c.is_cluster} == {"slow:1/1/1/5"}


def test_options_stand_in_place_of_the_preset() -> None:
    (own,) = cases("--full", "--part", "links", "--windows", "7", "--unit-s", "0.5", "--seeds", "4").values()
    assert {(c.work.windows, c.work.unit_s, c.seed) for c in own} == {(7, 0.5, 4)}
    (quick,) = cases().values()
    assert {(case.work.windows, case.work.unit_s) for case in quick} == {(128, 0.0)}


@pytest.mark.parametrize("words", [("--part", "links"), ("--full", "--part", "lynx")])
def test_parts_are_those_of_full(words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="--part"):
        cases(*words)
