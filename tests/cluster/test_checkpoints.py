"""Checkpoints of live runs: asked for, thinned out, on a disk that is full."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import Starter, slow
from tests.cluster.running import command
from wire.checkpoint import checkpoint_paths, load_manifest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(200)]
ENDLESS = 100_000
NOT_WRITTEN = 73


def ask(run_dir: Path, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return command("checkpoint", run_dir, "--json", environ=environ)


def asked(run_dir: Path, environ: dict[str, str]) -> dict[str, Any]:
    done = ask(run_dir, environ)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def steps(run_dir: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in checkpoint_paths(run_dir)]


@pytest.mark.parametrize("mode", ["sync", slow("async")])
def test_an_operator_asks_for_checkpoints_and_the_oldest_go(
    train: Starter, environ: dict[str, str], mode: str
) -> None:
    run = train({"run.steps": ENDLESS, "run.keep_checkpoints": 2, "sync.mode": mode})
    run.wait_for("began")
    early = ask(run.out, environ)
    assert early.returncode in (69, 75), "there is nothing to write, or nobody to ask, before the run begins"
    run.wait_for_step(1)
    answers = [asked(run.out, environ) for _ in range(3)]
    assert [a["step"] for a in answers] == sorted({a["step"] for a in answers})
    run.wait_for("checkpoint_removed", lambda e: e["step"] == answers[0]["step"])
    assert steps(run.out) == [a["step"] for a in answers[1:]]
    for answer in answers[1:]:
        manifest = load_manifest(Path(answer["path"]))
        assert (manifest.step, manifest.timeline) == (answer["step"], 1)
    run.wait_for_step(answers[-1]["step"] + 1)  # it goes on
    assert command("stop", run.out, environ=environ).returncode == 0
    ended = run.wait()
    assert steps(run.out) == [answers[-1]["step"], ended.summary["steps"]]
    assert ask(run.out, environ).returncode == 69, "nobody is there to ask"


@pytest.fixture
def little_room(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a file system that is full")
    place = tmp_path / "little"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.root
def test_a_full_disk_spoils_one_checkpoint_and_no_more(
    train: Starter, environ: dict[str, str], little_room: Path
) -> None:
    run = train({"run.steps": ENDLESS})
    reached = run.wait_for_step(1)["step"]
    (run.out / "checkpoints").symlink_to(little_room)
    refused = ask(run.out, environ)
    assert refused.returncode == NOT_WRITTEN and "bytes free" in refused.stderr
    assert str(run.wait_for("checkpoint_failed")["error"]) in refused.stderr
    assert list(little_room.iterdir()) == [], "nothing of it stays"
    run.wait_for_step(reached + 5)
    subprocess.run(["mount", "-o", "remount,size=64m", str(little_room)], check=True)
    answer = asked(run.out, environ)
    load_manifest(Path(answer["path"]))
    assert command("stop", run.out, environ=environ).returncode == 0
    assert steps(run.out)[0] == answer["step"] and run.wait().code == 130
