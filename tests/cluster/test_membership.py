"""Workers are started, stopped and sent away by hand while a synchronous run goes on: no bit changes (P3, P6, P8, P17).

Every run here ends with the digests of one in which nothing happened.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import ByHand, Starter, slow
from tests.cluster.roles import DRAIN_S, NOTICED_S, STOPPED_S, Cluster, wait_since
from tests.cluster.running import seconds_until
from tests.cluster.test_digests import equal_runs

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]
PACED = Path(__file__).parent / "scripts" / "paced.py"
STEPS, PAUSE_S = 160, 0.1
"""At that pace no run here ends before it is told to hurry."""
SETTINGS: dict[str, object] = {"run.steps": STEPS, "cluster.servers": 2, "durability.stream_state_every": 5}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, environ: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The summary of the run in which one worker did it all, and nothing happened."""
    starter = Starter(tmp_path_factory.mktemp("alone"), {}, environ)
    yield starter(SETTINGS, flags=["--workers", "1"], script=[PACED]).finish()
    starter.end()


def begin(
    by_hand: ByHand,
    *,
    workers: int,
    min_workers: int | None = None,
    changes: Mapping[str, object] | None = None,
    drowsy: Path | None = None,
) -> Cluster:
    """A run on two servers with w-0, w-1 …, which have settled a step.

    min_workers: so many are started; without it, all. drowsy: a file; w-1 computes nothing while it is there.
    """
    needed = workers if min_workers is None else min_workers
    members = {"cluster.workers": workers, "cluster.min_workers": needed}
    cluster = by_hand(
        {**SETTINGS, **members, **(changes or {})},
        script=[PACED, "--pause", str(PAUSE_S)],
    )
    cluster.start_servers(2)
    for i in range(needed):
        cluster.start_worker(f"w-{i}", {"DROWSY": str(drowsy)} if drowsy and i == 1 else {})
    cluster.wait_for_steps(1)
    return cluster


def end(cluster: Cluster) -> dict[str, Any]:
    """Its summary; from here on nobody takes his time."""
    cluster.hurry()
    return cluster.finish()


def streams_of(cluster: Cluster, name: str) -> list[int]:
    """What the living incarnation of this worker carries."""
    workers = [w for w in cluster.status()["workers"] if w["name"] == name and w["gone"] is None]
    return [stream for worker in workers for stream in worker["streams"]]


def wait_carrying(cluster: Cluster, name: str, streams: int, *, after: int = 0) -> None:
    """Until this worker's newest incarnation carries so many streams."""
    cluster.wait_until(
        f"{name} carries {streams} streams",
        lambda s: any(
            w["name"] == name and w["incarnation"] > after and len(w["streams"]) == streams
            for w in s["workers"]
        ),
    )


@pytest.mark.slow
def test_a_worker_that_comes_later_takes_streams(by_hand: ByHand, alone: dict[str, Any]) -> None:
    cluster = begin(by_hand, workers=1)
    assert streams_of(cluster, "w-0") == [0, 1, 2, 3]
    cluster.start_worker("late")
    wait_carrying(cluster, "late", 2)
    assert cluster.wait_working("late")["units"] > 0
    assert len(streams_of(cluster, "w-0")) == 2
    summary = end(cluster)
    equal_runs(alone, summary)
    assert summary["replayed"] == summary["recoveries"] == 0, "streams were handed over, none was lost"
    assert not cluster.events("died")


def test_a_run_begins_with_one_worker_and_grows(by_hand: ByHand, alone: dict[str, Any]) -> None:
    cluster = begin(by_hand, workers=3, min_workers=1)
    assert cluster.events("begun")[0]["workers"] == 1
    for name in ("w-1", "w-2"):
        cluster.start_worker(name)
    for name in ("w-1", "w-2"):
        cluster.wait_working(name)
    assert sorted(len(streams_of(cluster, f"w-{i}")) for i in range(3)) == [1, 1, 2]
    equal_runs(alone, end(cluster))


@pytest.mark.slow
def test_a_spare_steps_in(by_hand: ByHand, tmp_path: Path, environ: dict[str, str], seed: int) -> None:
    """Two streams, three workers: one waits, and takes over what a killed one carried."""
    draw = random.Random(seed)
    starter = Starter(tmp_path, {}, environ)
    two_streams = {**SETTINGS, "sync.units_per_step": 2}
    undisturbed = starter(two_streams, flags=["--workers", "1"], script=[PACED]).finish()
    cluster = begin(by_hand, workers=3, changes={"sync.units_per_step": 2})
    names = [f"w-{i}" for i in range(3)]
    carriers = cluster.carriers()
    (spare,) = set(names) - set(carriers)
    assert len(carriers) == 2 and not streams_of(cluster, spare)
    victim = draw.choice(carriers)
    at = cluster.kill_worker(victim)
    died = cluster.wait_given_up(victim, at)
    assert seconds_until(died, at) <= 1.5, died
    wait_carrying(cluster, spare, 1)
    assert cluster.wait_working(spare)
    summary = end(cluster)
    equal_runs(undisturbed, summary)
    assert summary["recoveries"] == 1
    starter.end()


@pytest.mark.parametrize("asked_by", [slow("SIGTERM"), "sparsync drain"])
def test_a_worker_that_is_asked_to_go(asked_by: str, by_hand: ByHand, alone: dict[str, Any]) -> None:
    """It hands over at a boundary and ends with exit code 0; nothing is replayed."""
    cluster = begin(by_hand, workers=2)
    if asked_by == "SIGTERM":
        cluster.term("w-1")
    else:
        cluster.command("drain", "w-1")
    assert cluster.wait_left("w-1") <= DRAIN_S
    left = cluster.wait_for("left", limit_s=5)
    assert left["name"] == "w-1" and not left["streams"], "it carries nothing any more"
    cluster.wait_until("w-0 carries all", lambda s: len(streams_of(cluster, "w-0")) == 4)
    summary = end(cluster)
    equal_runs(alone, summary)
    assert summary["replayed"] == summary["recoveries"] == 0
    assert not cluster.events("died")


@pytest.mark.slow
@pytest.mark.parametrize("frozen", ["trainer", "trainer and heartbeat"])
def test_a_stopped_worker_comes_back_by_itself(frozen: str, by_hand: ByHand, alone: dict[str, Any]) -> None:
    """SIGSTOP for 8 s: it is given up, its units are redone; the same process then joins as a new incarnation."""
    cluster = begin(by_hand, workers=2)
    pid, before = cluster.own_pid("w-1"), cluster.incarnation("w-1")
    at = cluster.stop("w-1", heartbeat=frozen != "trainer")
    died = cluster.wait_given_up("w-1", at)
    assert seconds_until(died, at) <= NOTICED_S
    assert len(died["streams"]) == 2
    cluster.wait_until("w-0 carries all", lambda s: len(streams_of(cluster, "w-0")) == 4)
    wait_since(at, STOPPED_S)
    cluster.cont("w-1")
    again = cluster.wait_joined("w-1", after=before, limit_s=15)
    assert again["pid"] == pid
    assert cluster.wait_working("w-1", after=before)["units"] > 0
    summary = end(cluster)
    equal_runs(alone, summary)
    assert summary["recoveries"] == 1
    assert len(cluster.events("died") + cluster.events("straggled")) == 1


@pytest.mark.slow
def test_a_slow_worker_loses_its_streams(by_hand: ByHand, alone: dict[str, Any], tmp_path: Path) -> None:
    """P8: it lives and beats, and a unit of it takes longer than the budget; who waits takes its streams."""
    drowsy = tmp_path / "drowsy"
    cluster = begin(by_hand, workers=2, changes={"cluster.straggler_s": 1.0}, drowsy=drowsy)
    wait_carrying(cluster, "w-1", 2)
    drowsy.touch()
    cluster.wait_until("w-0 carries all", lambda s: len(streams_of(cluster, "w-0")) == 4, limit_s=15)
    cluster.wait_for_more_steps(2)
    drowsy.unlink()
    summary = end(cluster)
    equal_runs(alone, summary)
    assert not cluster.events("died")
