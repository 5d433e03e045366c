"""The coordinator is killed and started again on its directory: the run goes on, nothing is lost (P9, P10).

Servers and workers are not started again, nobody is given up, and the bits are those of an undisturbed run.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import ByHand, Starter
from tests.cluster.roles import COORDINATOR, DRAIN_S, Cluster
from tests.cluster.test_digests import equal_runs
from tests.cluster.test_modes import AUDIT, LOSSLESS, STREAMS, check_audit
from wire.errors import StaleIncarnation, UsageError
from worker.driver import LEAVE_S

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
PACED = Path(__file__).parent / "scripts" / "paced.py"
STEPS, PAUSE_S = 120, 0.1
SETTINGS: dict[str, object] = {"run.steps": STEPS, "cluster.servers": 2, "durability.stream_state_every": 5}
SERVES_S = 5.0
"""P9: so long after it was started it answers; a machine that runs other tests is given three times as much."""
BUSY = 3
AWAY_S = 3.0
UNIT_S = 0.05
TOLD = ("units", "wait_share", "bytes_pushed", "bytes_pulled")
HARDLY = int(2 * AWAY_S / UNIT_S / STREAMS / 4)
"""Steps that two workers make while it is away, at a quarter of their pace."""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, environ: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The summary of the run in which nothing happened."""
    starter = Starter(tmp_path_factory.mktemp("alone"), {}, environ)
    yield starter(SETTINGS, flags=["--workers", "1"], script=[PACED]).finish()
    starter.end()


def begin(by_hand: ByHand, changes: dict[str, object] | None = None, **more: Any) -> Cluster:
    """Two servers and two workers that have settled a step. `more`: `script`, and what else a cluster takes."""
    members = {"cluster.workers": 2, "cluster.min_workers": 2}
    cluster = by_hand({**SETTINGS, **members, **(changes or {})}, **more)
    cluster.start_servers(2)
    for i in range(2):
        cluster.start_worker(f"w-{i}")
    cluster.wait_for_steps(1)
    return cluster


def start_again(cluster: Cluster) -> float:
    """Seconds from its start until it answers; nobody has to be told where."""
    began = time.monotonic()
    cluster.start_coordinator_again()
    cluster.wait_until("it serves again", lambda status: status["run"], limit_s=60)
    return time.monotonic() - began


def clock_behind(cluster: Cluster, before: int) -> int:
    """The first clock beyond `before`: with the last shard's word all is known that was accepted meanwhile."""
    found = cluster.wait_until("what was accepted meanwhile", lambda status: status["clock"] > before)
    return int(found["clock"])


def check_story(cluster: Cluster, kills: int) -> None:
    """It came back so often, on the same run and under higher terms; nobody was given up meanwhile."""
    came_back = cluster.events("reopened")
    assert [event["term"] for event in came_back] == list(range(2, kills + 2))
    assert len({event["run"] for event in [*cluster.events("began"), *came_back]}) == 1
    assert not cluster.events("died") and not cluster.events("straggled"), cluster.story()
    seconds = [event["s"] for event in cluster.events()]
    assert seconds == sorted(seconds)


@pytest.mark.slow
def test_a_synchronous_run_goes_on_to_the_same_bits(
    by_hand: ByHand, alone: dict[str, Any], seed: int
) -> None:
    draw = random.Random(seed)
    cluster = begin(by_hand, script=[PACED, "--pause", str(PAUSE_S)])
    for _ in range(3):
        cluster.wait_for_more_steps(draw.randint(1, 12))
        time.sleep(draw.uniform(0.0, 0.5))
        cluster.kill_worker(COORDINATOR)
        time.sleep(draw.uniform(0.0, 2.0))
        assert start_again(cluster) <= BUSY * SERVES_S
        cluster.wait_for_more_steps(1)
    cluster.hurry()
    summary = cluster.finish()
    check_story(cluster, 3)
    equal_runs(alone, summary)


@pytest.mark.slow
def test_one_that_is_sent_away_takes_no_run_with_it(by_hand: ByHand, alone: dict[str, Any]) -> None:
    """As a service manager stops it, at every reboot: exit code 0, and the next one goes on."""
    cluster = begin(by_hand, script=[PACED, "--pause", str(PAUSE_S)])
    for _ in range(2):
        cluster.wait_for_more_steps(3)
        cluster.send_away()
        assert not (cluster.out / "summary.json").exists()
        assert start_again(cluster) <= BUSY * SERVES_S
        cluster.wait_for_more_steps(1)
    cluster.hurry()
    summary = cluster.finish()
    check_story(cluster, 2)
    equal_runs(alone, summary)


@pytest.mark.slow
def test_what_a_worker_did_that_died_before_stays_in_the_accounts(by_hand: ByHand) -> None:
    cluster = begin(by_hand, {"cluster.min_workers": 1}, script=[PACED, "--pause", str(PAUSE_S)])
    cluster.wait_for_more_steps(5)
    cluster.kill_worker("w-1")
    before = cluster.wait_until("its death", lambda status: cluster.events("died") and status)
    cluster.kill_worker(COORDINATOR)
    start_again(cluster)
    of_dead = next(worker for worker in before["workers"] if worker["name"] == "w-1")
    assert of_dead["bytes_pushed"] > 0 and of_dead["units"] > 0
    after = cluster.wait_until(
        "the other one's word", lambda status: status["bytes_pushed"] > of_dead["bytes_pushed"] and status
    )
    still = next(worker for worker in after["workers"] if worker["name"] == "w-1")
    assert {key: still[key] for key in TOLD} == {key: of_dead[key] for key in TOLD}
    cluster.hurry()
    assert cluster.finish()["bytes_pushed"] >= before["bytes_pushed"]


@pytest.mark.slow
def test_a_worker_that_is_sent_away_meanwhile_goes(by_hand: ByHand, alone: dict[str, Any]) -> None:
    """As where a machine is shut down whose coordinator went first; the other worker takes its streams over."""
    cluster = begin(by_hand, {"cluster.min_workers": 1}, script=[PACED, "--pause", str(PAUSE_S)])
    cluster.kill_worker(COORDINATOR)
    cluster.term("w-1")
    cluster.wait_code("w-1", 0, limit_s=LEAVE_S + DRAIN_S)
    start_again(cluster)
    cluster.wait_for_more_steps(1)
    cluster.hurry()
    equal_runs(alone, cluster.finish())


@pytest.mark.slow
def test_an_asynchronous_run_works_on_while_it_is_away(by_hand: ByHand, seed: int) -> None:
    """Units are accepted meanwhile, and each of the run counts once."""
    draw = random.Random(seed)
    steps = 150
    cluster = begin(
        by_hand,
        {**LOSSLESS, "sync.mode": "async", "sync.units_per_step": STREAMS, "run.steps": steps},
        script=[AUDIT, "--pause", str(UNIT_S)],
    )
    for _ in range(2):
        cluster.wait_for_more_steps(draw.randint(1, 6))
        before = cluster.status()["clock"]
        cluster.kill_worker(COORDINATOR)
        time.sleep(AWAY_S)
        assert start_again(cluster) <= BUSY * SERVES_S
        assert clock_behind(cluster, before) - before >= HARDLY, "they have not worked on meanwhile"
    summary = cluster.finish()
    check_story(cluster, 2)
    check_audit(cluster, summary)


def test_two_coordinators_never_both_decide(by_hand: ByHand, tmp_path: Path) -> None:
    """A second one on the same directory refuses; one on a copy is fenced by the servers, and ends by itself."""
    cluster = begin(by_hand, script=[PACED, "--pause", str(PAUSE_S)])
    copied = tmp_path / "copy"
    shutil.copytree(cluster.out, copied, ignore=shutil.ignore_patterns("logs", "lock"))
    second = cluster.start_coordinator_again(out=cluster.out, listen="127.0.0.1:0")
    assert second.process.wait(60) == UsageError.exit_code
    assert "another coordinator works in" in second.log.read_text()
    cluster.forget("other")
    cluster.wait_for_more_steps(3)
    copy = cluster.start_coordinator_again(out=copied, listen="127.0.0.1:0")
    assert copy.process.wait(60) == StaleIncarnation.exit_code, copy.log.read_text()
    assert "refuses this coordinator" in copy.log.read_text()
    cluster.forget("other")
    cluster.wait_for_more_steps(1)
    cluster.hurry()
    cluster.finish()


@pytest.mark.slow
def test_a_run_that_is_over_is_not_begun_again(by_hand: ByHand) -> None:
    cluster = begin(by_hand, {"run.steps": 6}, script=[PACED])
    cluster.finish()
    again = cluster.start_coordinator_again(out=cluster.out, listen="127.0.0.1:0")
    assert again.process.wait(60) == UsageError.exit_code
    assert "is over" in again.log.read_text() and "--resume" in again.log.read_text()
    cluster.forget("other")


@pytest.mark.slow
def test_a_service_that_keeps_its_resume_continues_what_it_began(by_hand: ByHand) -> None:
    """Killed and started again with the same words, on servers that go on meanwhile."""
    first = begin(by_hand, {"run.steps": 6}, script=[PACED])
    first.finish()
    cluster = begin(by_hand, script=[PACED, "--pause", str(PAUSE_S)], flags=["--resume", first.out])
    for _ in range(2):
        cluster.kill_worker(COORDINATOR)
        start_again(cluster)
        cluster.wait_for_more_steps(1)
    assert not list(cluster.out.glob("journal-*"))
    cluster.hurry()
    assert cluster.finish()["timeline"] == 2
    check_story(cluster, 2)


@pytest.mark.slow
def test_a_checkpoint_is_resumed_twice_on_the_same_server(
    by_hand: ByHand, tmp_path: Path, environ: dict[str, str]
) -> None:
    """In another directory each time, so that run, timeline and term are the same; the first of them was killed."""
    first = begin(by_hand, {"run.steps": 6}, script=[PACED])
    first.finish()
    base, flags, summaries = tmp_path / "again", ["--resume", first.out], []
    alone = dict.fromkeys(("cluster.servers", "cluster.workers", "cluster.min_workers"), 1)
    for steps in (100_000, 12, 12):
        changes = {**SETTINGS, **alone, "run.steps": steps}
        cluster = Cluster(base, changes, script=[PACED], environ=environ, flags=flags)
        try:
            cluster.start_server("ps-0")
            cluster.wait_joined("ps-0")
            cluster.start_worker("w-0")
            if steps == 12:
                summaries.append(cluster.finish())
            else:
                cluster.wait_for_steps(1)
                for role in cluster.roles():
                    role.process.kill()
        finally:
            left = cluster.end()
        assert not left, left
        cluster.out.rename(tmp_path / f"timeline-2-{len(summaries)}")
    assert [summary["timeline"] for summary in summaries] == [2, 2]
    equal_runs(*summaries)
