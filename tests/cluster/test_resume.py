"""A run that was cut in two is the run; a run that is live can be looked at and ended; checkpoints on the way."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.cluster.conftest import Starter, slow
from tests.cluster.running import Terminal, Train, command
from tests.cluster.test_digests import DIGESTS
from wire.checkpoint import load_manifest, newest
from wire.crash import VARIABLE
from wire.errors import DamagedFile, StaleIncarnation
from wire.rpc.status import to_error
from wire.v1 import common_pb2, shard_pb2, shard_pb2_grpc

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
INTERRUPT_S = 10.0
ENDLESS = 100_000
LONG = 150
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


@pytest.mark.slow
def test_two_halves_make_the_run(train: Starter, undisturbed: Callable[[str], dict[str, Any]]) -> None:
    """On other numbers of servers and workers; the learning rate does not depend on the length of the run."""
    changes = {"run.steps": 10, "run.checkpoint_every": 4, "durability.stream_state_every": 3}
    first = train(changes, flags=["--servers", "1", "--workers", "1"])
    half = first.finish()
    assert half["steps"] == 10
    assert [e["step"] for e in first.events("checkpoint")] == [4, 8, 10]
    assert 10 in checkpoints(first.out)

    second = train({"run.steps": 20}, out=first.out, flags=["--servers", "3", "--workers", "2"])
    whole, straight = second.finish(), undisturbed("auto")
    assert whole["timeline"] > half["timeline"]
    assert [e["step"] for e in second.events("step")] == list(range(10, 20))
    for key in (*DIGESTS, "steps", "val_loss", "val_loss_server"):
        assert whole[key] == straight[key], key
    assert half["params_digest"] != whole["params_digest"]


@pytest.mark.parametrize("point", ["ps.snapshot.before", slow("ps.snapshot.after")])
def test_servers_die_while_a_checkpoint_is_restored(
    point: str,
    train: Starter,
    tmp_path: Path,
    settings: dict[str, object],
    environ: dict[str, str],
    undisturbed: Callable[[str], dict[str, Any]],
) -> None:
    """Each once, when it has all planes: with nothing on its disk, or with all, and nobody knows which."""
    first = train({"run.steps": 10})
    first.finish()
    starter = Starter(tmp_path, settings, {**environ, VARIABLE: point})
    summary = starter({"run.steps": 20}, out=first.out).finish()
    starter.end()
    assert summary["restarts"] == 2
    for key in DIGESTS:
        assert summary[key] == undisturbed("auto")[key], key


def contents(checkpoint: Path) -> dict[str, str]:
    """The sha256 of each file: parameters, published model, moments, sums, and every stream's state."""
    return {name: entry.sha256 for name, entry in load_manifest(checkpoint).files.items()}


def kill_all(run: Train) -> None:
    """Everything of a run at once, as when its machine goes."""
    for process in run.processes():
        process.kill()
    run.launcher.wait()


def messages_of_the_old_timeline_are_refused(run: Train, step: int, environ: dict[str, str]) -> None:
    """What a worker of before the resume sends to the servers that serve it now."""
    incarnation = int(run.events("joined")[-1]["incarnation"])
    unit = common_pb2.Unit(timeline=1, step=step, stream=0)
    deposit = shard_pb2.DepositHeader(timeline=1, incarnation=incarnation, stream=0, step=step)
    follow = shard_pb2.FollowRequest(timeline=1, incarnation=incarnation)
    status = json.loads(command("status", run.out, "--json", environ=environ).stdout)
    for server in status["servers"]:
        with grpc.insecure_channel(server["address"]) as channel:
            header = shard_pb2.PushHeader(unit=unit, incarnation=incarnation, plan=1, shard=server["shard"])
            push = [shard_pb2.PushChunk(header=header), shard_pb2.PushChunk(commit=shard_pb2.Commit())]
            stub = shard_pb2_grpc.ShardStub(channel)
            calls: list[Callable[[], object]] = [
                partial(stub.Push, iter(push), timeout=10),
                partial(stub.Deposit, iter([shard_pb2.DepositChunk(header=deposit)]), timeout=10),
                partial(next, stub.Follow(follow, timeout=10)),
            ]
            for call in calls:
                with pytest.raises(grpc.RpcError) as refused:
                    call()
                error = to_error(refused.value, peer=server["name"])
                assert isinstance(error, StaleIncarnation), error
                assert "timeline 1, this server is on timeline 2" in str(error)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
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
    assert checkpoints(first.out) == [cut] and 2 < cut < LONG - 40

    every = {"run.checkpoint_every": 7}
    second = train(every, out=first.out, flags=["--servers", "3", "--workers", "1"])
    second.wait_for_step(cut)
    messages_of_the_old_timeline_are_refused(second, cut, environ)
    second.wait_for("checkpoint")
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


@pytest.mark.slow
def test_one_flipped_bit_anywhere_and_the_older_checkpoint_is_taken(
    train: Starter, environ: dict[str, str], seed: int
) -> None:
    draw = random.Random(seed)
    run = train({"run.steps": 8, "run.eval_every": 0, "run.checkpoint_every": 4})
    run.finish()
    assert checkpoints(run.out) == [4, 8]
    verified = command("verify", run.out, "--json", environ=environ)
    assert verified.returncode == 0 and json.loads(verified.stdout)["good"], verified.stdout
    files = sorted((run.out / "checkpoints" / "step-8").iterdir())
    assert len(files) > 4
    for file in [*files, draw.choice(files)]:  # the last one stays damaged
        whole = file.read_bytes()
        if not whole:
            continue
        offset = draw.randrange(len(whole))
        print(f"{file.name}: bit of byte {offset}")
        flipped = whole[offset] ^ (1 << draw.randrange(8))
        file.write_bytes(whole[:offset] + bytes([flipped]) + whole[offset + 1 :])
        told: list[str] = []
        assert newest(run.out, say=told.append) == run.out / "checkpoints" / "step-4"
        assert len(told) == 1 and str(file) in told[0] and "offset" in told[0]
        damaged, spoilt = file, file.read_bytes()
        file.write_bytes(whole)
    damaged.write_bytes(spoilt)
    verified = command("verify", run.out, environ=environ)
    assert verified.returncode == DamagedFile.exit_code and f"{damaged}" in verified.stderr
    resumed = train({"run.steps": 12}, out=run.out)
    ended = resumed.wait()
    assert ended.code == 0 and str(damaged) in ended.talk, resumed.story()
    assert [e["step"] for e in resumed.events("step")] == list(range(4, 12))
    assert checkpoints(run.out) == [4, 8, 12], "step 8 was written anew"
    assert command("verify", run.out, environ=environ).returncode == 0


@pytest.mark.parametrize("before", [None, slow(signal.SIGINT)])
def test_a_terminal_that_is_closed_leaves_a_checkpoint(train: Starter, before: signal.Signals | None) -> None:
    """The kernel tells its first process, which alone hears of it, and can show nothing any more."""
    terminal = Terminal()
    run = train(
        {"run.steps": ENDLESS, "telemetry.live": "table"}, flags=["--servers", "1"], terminal=terminal
    )
    run.wait_for_step(5)
    assert terminal.shown, "a live table"
    if before is not None:
        run.launcher.send_signal(before)
    terminal.hang_up()
    ended = run.wait(INTERRUPT_S + 5)
    assert ended.code == 130, run.story()
    assert checkpoints(run.out) == [ended.summary["steps"]] != [0]


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
