"""Groups, references and rows, of results made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from sparsync.bench.modes.cases import best_lrs, tuned_as
from sparsync.bench.modes.comparing import Row, groups
from sparsync.bench.modes.figures import Spread
from sparsync.bench.modes.results import Measured, measured_of
from sparsync.bench.modes.words import words
from tests.sparsync.modes.curves import case, curve, measured

DDP = {"kind": "ddp", "codec": "none", "settings": ()}
ONE = {"kind": "one", "codec": "none", "settings": (), "workers": 1}


def rows(runs: list[Measured]) -> dict[str, Row]:
    best = {tuned_as(m.case): m.case.lr for m in runs}
    (group,) = groups(runs, best)
    return {row.label: row for row in group.rows}


def mean(found: Spread | None) -> float:
    assert found is not None
    return found.mean


def example() -> list[Measured]:
    """DDP comes to 4 in 100 s; sync to 4.04 in 20 s, with a tenth of the bytes."""
    ddp = curve((0.0, 0, 6.0), (50.0, 500, 5.0), (100.0, 1000, 4.0))
    sync = curve((0.0, 0, 6.0), (10.0, 500, 5.0), (20.0, 1000, 4.04))
    for point in sync:
        point["bytes_up"], point["bytes_down"] = point["bytes_up"] / 10, point["bytes_down"] / 10
    alone = [point | {"bytes_up": 0, "bytes_down": 0} for point in curve((0.0, 0, 6.0), (40.0, 1000, 4.0))]
    return [
        measured(case("ddp", **DDP), ddp),
        measured(case("sync"), sync),
        measured(case("one", **ONE), alone),
    ]


def test_a_method_stands_beside_ddp() -> None:
    found = rows(example())
    sync = found["sync"]
    assert mean(sync.against) == pytest.approx(0.01)
    assert (sync.reached, sync.seconds_to, sync.sooner) == (0, None, None)
    assert sync.reached_slack == 1 and mean(sync.sooner_slack) == pytest.approx(98.0 / 20.0)
    assert sync.fewer_bytes == pytest.approx(10.0)
    assert sync.efficiency == pytest.approx(50.0 / (2 * 25.0))
    assert mean(found["ddp"].sooner) == pytest.approx(1.0)
    assert found["one"].fewer_bytes is None


def seeds(method: str, *ends: tuple[float, float], **other: Any) -> list[Measured]:
    """A run for each (seconds, loss) in the end; from 6 on a straight line."""
    return [
        measured(case(method, seed=seed, **other), curve((0.0, 0, 6.0), (seconds, 1000, loss)))
        for seed, (seconds, loss) in enumerate(ends)
    ]


def test_each_seed_is_held_against_the_references_own_of_that_seed() -> None:
    """Seeds end apart: a common target is beyond one of them, whatever the method."""
    ddp = seeds("ddp", (100.0, 4.0), (100.0, 4.2), **DDP)
    found = rows([*ddp, *seeds("sync", (20.0, 4.0), (50.0, 4.2)), *seeds("async", (10.0, 4.0), (10.0, 4.3))])
    assert mean(found["ddp"].sooner) == pytest.approx(1.0)
    assert mean(found["ddp"].seconds_to) == pytest.approx(100.0)
    assert mean(found["sync"].sooner) == pytest.approx((5.0 + 2.0) / 2)
    assert mean(found["sync"].against) == pytest.approx(0.0)
    assert mean(found["async"].against) == pytest.approx((4.3 / 4.2 - 1) / 2)
    assert (found["async"].reached, found["async"].sooner) == (1, None)


def test_at_equal_time_a_run_that_has_ended_keeps_its_last_loss() -> None:
    found = rows([*seeds("ddp", (40.0, 4.0), **DDP), *seeds("sync", (10.0, 4.0), (14.0, 4.2))])
    assert mean(found["sync"].loss_at_time) == pytest.approx((4.0 + 6.0 - 1.8 * 12 / 14) / 2)
    assert (found["sync"].ended, found["ddp"].ended) == (1, 0)


def test_a_seed_that_the_reference_lacks_is_not_held_against_another() -> None:
    ddp = seeds("ddp", (100.0, 4.0), **DDP)
    found = rows([*ddp, *seeds("sync", (20.0, 4.0), (20.0, 3.0))])["sync"]
    assert found.seeds == 2 and found.against is not None and found.against.n == 1
    assert mean(found.against) == pytest.approx(0.0)


def test_deposits_and_the_coordinator_count_as_bytes() -> None:
    ddp, sync, one = example()
    own = sync.result | {"bytes_state": 300, "bytes_control": 100}
    found = rows([ddp, Measured(sync.case, own), one])["sync"]
    assert found.bytes_state is not None and found.bytes_state.mean == 300
    assert found.fewer_bytes == pytest.approx(4000.0 / (400 + 300 + 100))


def test_equal_time_is_the_end_of_the_fastest_that_has_company() -> None:
    assert {name: row.loss_at_time.mean for name, row in rows(example()).items() if row.loss_at_time} == {
        "sync": pytest.approx(4.04),
        "ddp": pytest.approx(5.6),
        "one": pytest.approx(5.0),
    }


def test_without_ddp_the_one_process_is_the_reference() -> None:
    runs = example()[1:]
    (group,) = groups(runs, {tuned_as(m.case): m.case.lr for m in runs})
    assert group.reference == "one"


def test_a_slow_link_is_held_against_the_same_method_without_limit() -> None:
    fast, slow = (curve((0.0, 0, 6.0), (end, 1000, 4.0)) for end in (10.0, 40.0))
    runs = [measured(case("sync"), fast), measured(case("sync", link="10mbit"), slow)]
    found = groups(runs, {tuned_as(m.case): m.case.lr for m in runs})
    assert {group.link: group.rows[0].of_unlimited for group in found} == {
        "unlimited": pytest.approx(1.0),
        "10mbit": pytest.approx(0.25),
    }


def test_only_the_best_learning_rate_is_compared_and_failures_are_not() -> None:
    end = curve((0.0, 0, 6.0), (10.0, 1000, 4.0))
    worse = curve((0.0, 0, 6.0), (10.0, 1000, 5.0))
    runs = [
        *(measured(case("sync", lr=2e-3, seed=seed), end) for seed in (0, 1)),
        measured(case("sync", lr=1e-3), worse),
        Measured(case("async"), {}, "a process ended with 1"),
    ]
    best = best_lrs((m.case, m.loss) for m in runs if not m.error)
    (group,) = groups(runs, best)
    assert [(row.label, row.lr, row.seeds) for row in group.rows] == [("sync", 2e-3, 2)]


def test_a_reference_that_failed_is_named_and_what_stands_in_is_not_raced_against() -> None:
    slow = {"link": "10mbit", "shaped": "namespaces"}
    ddp = Measured(case("ddp", **DDP | slow), {}, "not done after 9 s (--limit-s)\nits log")
    runs = [ddp, *seeds("one", (5.0, 4.0), **ONE), *seeds("sync", (20.0, 3.9), **slow)]
    (group,) = groups(runs, {tuned_as(m.case): m.case.lr for m in runs})
    assert (group.reference, group.without) == ("one", "ddp")
    assert group.absent == ("ddp (seed 0): not done after 9 s (--limit-s)",)
    assert "THE REFERENCE DDP FAILED HERE" in words(group) and "without a limit of their own" in words(group)
    one, sync = group.rows
    assert mean(sync.against) < 0 and sync.sooner is None and mean(sync.seconds_to) < 20.0
    assert one.loss_at_time is None and mean(sync.loss_at_time) == pytest.approx(3.9)


def test_baselines_that_were_not_shaped_are_not_raced_against() -> None:
    def slow(shaped: str) -> dict[str, str]:
        return {"link": "10mbit", "shaped": shaped}

    ddp = seeds("ddp", (100.0, 4.0), **DDP | slow("not shaped"))
    found = rows([*ddp, *seeds("sync", (20.0, 4.0), **slow("proxy"))])
    assert found["sync"].sooner is None and found["sync"].sooner_slack is None
    assert found["ddp"].loss_at_time is None and mean(found["sync"].loss_at_time) == pytest.approx(4.0)


def test_methods_keep_their_order_whichever_learning_rate_is_best() -> None:
    end, worse = (curve((0.0, 0, 6.0), (10.0, 1000, loss)) for loss in (4.0, 5.0))
    runs = [
        *(measured(case("sync", lr=1e-3), worse), measured(case("async", lr=1e-3), end)),
        *(measured(case("sync", lr=2e-3), end), measured(case("async", lr=2e-3), worse)),
    ]
    (group,) = groups(runs, best_lrs((m.case, m.loss) for m in runs))
    assert [(row.label, row.lr) for row in group.rows] == [("sync", 2e-3), ("async", 1e-3)]
    assert group.reference == "sync"


def test_a_seed_that_diverged_leaves_no_mean() -> None:
    end = curve((0.0, 0, 6.0), (10.0, 1000, 4.0))
    runs = [
        measured(case("sync"), end),
        measured(case("sync", seed=1), curve((0.0, 0, 6.0), (10.0, 1000, None))),
    ]
    assert rows(runs)["sync"].loss is None


def test_what_is_told_as_json_comes_back() -> None:
    for one in example():
        assert measured_of(one.told()) == one
