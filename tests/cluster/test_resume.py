"""A run that was cut in two is the run; a run that is live can be looked at and ended; checkpoints on the way."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import Starter, slow
from tests.cluster.running import Train, command
from tests.cluster.test_digests import DIGESTS
from wire.checkpoint import load_manifest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
INTERRUPT_S = 10.0
ENDLESS = 100_000
LONG = 60
"""Steps of a run that is cut in three; enough for an operator to ask in the middle."""
OPTIMIZERS: dict[str, dict[str, object]] = {
    "adamw": {},
    "sgd": {"optimizer.name": "sgd", "optimizer.lr": 0.02},
}
"""AdamW as it is by default; SGD with momentum 0.5."""


def checkpoints(out: Path) -> list[int]:
    return sorted(
        int(p.parent.name.removeprefix("step-")) for p in out.glob("checkpoints/step-*/manifest.json")
    )


def test_two_halves_make_the_run(train: Starter, undisturbed: Callable[[str], dict[str, Any]]) -> None:
    """On other numbers of servers and workers; the learning rate does not depend on the length of the run."""
    changes = {"run.steps": 10, "run.checkpoint_every": 4, "durability.stream_state_every": 3}
    first = train(changes, flags=["--servers", "1", "--workers", "1"])
    half = first.finish()
    assert half["steps"] == 10
    assert [e["step"] for e in first.events("checkpoint")] == [4, 8, 10]
    assert 10 in checkpoints(first.out)

    second = train({"run.steps": 20}, out=first.out, flags=["--servers", "3", "--workers", "2"])
    whole, straight = second.finish(), undisturbed("topk")
    assert whole["timeline"] > half["timeline"]
    assert [e["step"] for e in second.events("step")] == list(range(10, 20))
    for key in (*DIGESTS, "steps", "val_loss", "val_loss_server"):
        assert whole[key] == straight[key], key
    assert half["params_digest"] != whole["params_digest"]


def contents(checkpoint: Path) -> dict[str, str]:
    """The sha256 of each file: parameters, published model, moments, sums, and every stream's state."""
    return {name: entry.sha256 for name, entry in load_manifest(checkpoint).files.items()}


def kill_all(run: Train) -> None:
    """Everything of a run at once, as when its machine goes."""
    for process in run.processes():
        process.kill()
    run.launcher.wait()


@pytest.mark.parametrize("optimizer", ["adamw", slow("sgd")])
def test_a_run_cut_in_three_is_the_run_bit_for_bit(
    train: Starter, environ: dict[str, str], optimizer: str
) -> None:
    """The default codec, and all that it keeps; other servers and workers each time: 1 -> 3 -> 2, and 2 -> 1 -> 3.

    First a checkpoint that an operator asks for is all that is left, then one of `run.checkpoint_every`.
    """
    length = {"run.steps": LONG, "run.eval_every": 0}
    straight = train({**length, **OPTIMIZERS[optimizer]}, flags=["--servers", "2", "--workers", "2"])
    whole = straight.finish()

    first = train({**length, **OPTIMIZERS[optimizer]}, flags=["--servers", "1", "--workers", "2"])
    first.wait_for_step(2)
    asked = command("checkpoint", first.out, "--json", environ=environ)
    assert asked.returncode == 0, asked.stderr
    cut = json.loads(asked.stdout)["step"]
    kill_all(first)
    assert checkpoints(first.out) == [cut] and 2 < cut < LONG - 20

    every = {"run.checkpoint_every": 7}
    second = train(every, out=first.out, flags=["--servers", "3", "--workers", "1"])
    again = second.wait_for("checkpoint")["step"]
    kill_all(second)
    again = max(checkpoints(first.out))
    assert cut < again < LONG

    third = train({"run.checkpoint_every": 0}, out=first.out, flags=["--servers", "2", "--workers", "3"])
    end = third.finish()
    assert (whole["timeline"], end["timeline"]) == (1, 3)
    assert [e["step"] for e in third.events("step")] == list(range(again, LONG))
    for key in (*DIGESTS, "steps", "val_loss", "val_loss_server"):
        assert end[key] == whole[key], key
    last = f"checkpoints/step-{LONG}"
    assert contents(third.out / last) == contents(straight.out / last)
    assert len(contents(third.out / last)) > 4, "moments and streams are among them"


def test_ctrl_c_leaves_a_checkpoint_to_go_on_from(train: Starter, environ: dict[str, str]) -> None:
    run = train({"run.steps": ENDLESS}, flags=["--servers", "1"])
    run.wait_for_step(0)
    began = time.monotonic()
    os.kill(run.launcher.pid, signal.SIGINT)
    ended = run.wait(INTERRUPT_S + 5)
    assert not run.wait_gone(0)
    assert time.monotonic() - began <= INTERRUPT_S
    assert ended.code == 130, run.story()
    stopped_at = ended.summary["steps"]
    assert stopped_at > 0
    assert checkpoints(run.out) == [stopped_at]
    assert f"--resume {run.out.name}" in ended.talk

    resumed = train({}, out=run.out)
    resumed.wait_for_step(stopped_at + 1)
    assert not (run.out / "summary.json").exists(), "the run that it told of goes on"
    status = json.loads(command("status", run.out, "--json", environ=environ).stdout)
    assert status["state"] == "running"
    assert stopped_at < status["step"] < status["total_steps"] == ENDLESS
    assert {w["name"] for w in status["workers"]} == {"worker-0", "worker-1"}
    assert {w["pid"] for w in status["workers"]} == set(resumed.pids("worker").values())
    assert [s["pid"] for s in status["servers"]] == list(resumed.pids("ps").values())
    assert sum(len(w["streams"]) for w in status["workers"]) == 4

    stop = command("stop", run.out, "--json", "--reason", "enough", environ=environ)
    assert stop.returncode == 0, stop.stderr
    at_step = json.loads(stop.stdout)["at_step"]
    ended = resumed.wait(20)
    assert ended.code == 130, resumed.story()
    assert at_step <= ended.summary["steps"] <= at_step + 1
    assert ended.summary["ended"] == "enough"
    assert checkpoints(run.out)[-1] == ended.summary["steps"]
    after = json.loads(command("status", run.out, "--json", environ=environ).stdout)
    assert after == ended.summary
