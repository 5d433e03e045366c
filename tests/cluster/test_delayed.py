"""`delayed` is a function of configuration, data and seed, too: whoever computes, dies, or comes back (P3, P4, P13)."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import ByHand, Starter
from tests.cluster.roles import COORDINATOR
from tests.cluster.test_digests import equal_runs
from tests.cluster.test_kill import check_events, kill_workers
from tests.cluster.test_resume import checkpoints, contents, kill_all

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
PACED = Path(__file__).parent / "scripts" / "paced.py"
PAUSE_S = 0.1
DELAYED: dict[str, object] = {"sync.mode": "delayed"}
PIPELINED: dict[str, object] = {**DELAYED, "run.steps": 200, "durability.stream_state_every": 5}


def test_killed_workers_and_other_numbers_of_machines_change_no_bit(train: Starter, seed: int) -> None:
    draw = random.Random(seed)
    changes = {**DELAYED, "durability.stream_state_every": draw.choice([2, 3, 7])}
    straight = train({**changes, "run.eval_every": 1}, flags=["--workers", "1", "--servers", "1"])
    alone = straight.finish()
    looked_at = [e["step"] for e in straight.events("evaluated") if e["model"] == "published"]
    assert looked_at == list(range(21)), "also at steps that the pipeline passes on its way to a boundary"
    run = train(changes, flags=["--workers", "3", "--servers", "2"])
    kill_workers(run, sorted(draw.sample(range(18), 2)), draw)
    summary = run.finish()
    equal_runs(alone, summary)
    check_events(run, summary, kills=2)
    assert summary["pure"] and max(summary["staleness"]) == "1"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("codec", ["auto", "topk", "dense"])
def test_machines_change_nothing(train: Starter, codec: str) -> None:
    changes = {**DELAYED, "push.codec": codec, "pull.codec": codec, "durability.stream_state_every": 6}
    runs = [
        train(changes, flags=["--workers", workers, "--servers", servers]).finish()
        for workers, servers in (("1", "1"), ("2", "2"), ("4", "3"))
    ]
    for other in runs[1:]:
        equal_runs(runs[0], other)


# --- deaths of every role ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, environ: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The summary of the run in which one worker did it all, and nothing happened."""
    starter = Starter(tmp_path_factory.mktemp("alone"), {}, environ)
    yield starter({**PIPELINED, "cluster.servers": 2}, flags=["--workers", "1"], script=[PACED]).finish()
    starter.end()


@pytest.mark.slow
@pytest.mark.parametrize("standbys", [0, 2])
def test_deaths_of_every_role(by_hand: ByHand, alone: dict[str, Any], standbys: int, seed: int) -> None:
    """A worker, a server and the coordinator, twice each, at any moment; without a standby, and with."""
    draw = random.Random(seed)
    more = {"cluster.servers": 2, "cluster.workers": 2, "durability.replicas": int(standbys > 0)}
    cluster = by_hand({**PIPELINED, **more}, script=[PACED, "--pause", str(PAUSE_S)])
    cluster.start_servers(2 + standbys)
    for i in range(2):
        cluster.start_worker(f"w-{i}")
    cluster.wait_for_steps(1)
    for shard in range(standbys):
        cluster.wait_for("in_sync", lambda e, shard=shard: e["shard"] == shard)
    victims = ["w-0", "w-1", "ps-0", "ps-1", COORDINATOR, COORDINATOR]
    draw.shuffle(victims)
    for name in victims:
        cluster.wait_for_more_steps(draw.randrange(1, 6))
        time.sleep(draw.uniform(0, PAUSE_S))
        cluster.kill_worker(name)
        if name == COORDINATOR:
            cluster.start_coordinator_again()
            cluster.wait_until("it serves again", lambda status: status["run"], limit_s=60)
        elif name.startswith("ps"):
            cluster.start_server(name)
        else:
            cluster.start_worker(name)
    cluster.wait_for_more_steps(3)
    cluster.hurry()
    equal_runs(alone, cluster.finish())


# --- checkpoints -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_that_goes_on_from_a_checkpoint_is_the_run(train: Starter) -> None:
    """With the same boundaries, on other numbers of servers and workers."""
    length = {**DELAYED, "run.steps": 60, "run.eval_every": 0, "run.checkpoint_every": 7}
    straight = train(length, flags=["--servers", "2", "--workers", "2"])
    whole = straight.finish()
    first = train(length, flags=["--servers", "1", "--workers", "2"])
    first.wait_for("checkpoint", lambda e: e["step"] >= 14)
    kill_all(first)
    again = max(checkpoints(first.out))
    assert 14 <= again < 60
    second = train({}, out=first.out, flags=["--servers", "3", "--workers", "4"])
    end = second.finish()
    assert [e["step"] for e in second.events("step")] == list(range(again, 60))
    for key in ("params_digest", "published_digest", "val_loss"):
        assert end[key] == whole[key], key
    assert contents(second.out / "checkpoints/step-60") == contents(straight.out / "checkpoints/step-60")
