"""A disk that is full in mid-run: nothing is acknowledged that is not durable, and it goes on with the space (P12).

Each test has a small file system of its own; what fills it is a ballast file. The audit counts what became of every
unit: one that was acknowledged and then lost with a killed process would be missing from it.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.cluster.conftest import ByHand
from tests.cluster.roles import COORDINATOR, Cluster
from tests.cluster.running import seconds_until
from tests.cluster.test_modes import AUDIT, LOSSLESS, MODES, check_audit
from wire.v1.coordinator_pb2 import CheckpointRequest
from wire.v1.coordinator_pb2_grpc import CoordinatorStub

pytestmark = [pytest.mark.cluster, pytest.mark.root, pytest.mark.timeout(400)]
STEPS = 1 << 15
"""So that a push has 1 MiB on each shard: the log has some 128 MiB ready, and is to be full within seconds."""
SERVER_MIB, COORDINATOR_MIB = 200, 64
"""Of a server's disk: two files of the log, and room for a third one where the ballast is."""
GOES_ON_S = 5.0
SLACK_S = 20.0
"""For a machine that is busy."""
Mount = Callable[[Path, int], "SmallDisk"]


class SmallDisk:
    """A file system of so many MiB, mounted at `place`."""

    def __init__(self, place: Path, mib: int) -> None:
        self.place = place
        place.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(place)], check=True)

    @property
    def _ballast(self) -> Path:
        return self.place / "ballast"

    def fill(self) -> None:
        """To the last page."""
        with self._ballast.open("ab", buffering=0) as file:
            for piece in (1 << 20, 4096):
                try:
                    while True:
                        file.write(bytes(piece))
                except OSError:
                    continue

    def free(self) -> datetime:
        """Take the ballast away; when."""
        self._ballast.unlink()
        return datetime.now().astimezone()

    def grow(self, mib: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={mib}m", str(self.place)], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.place)], check=True)


@pytest.fixture
def small_disk() -> Iterator[Mount]:
    """`small_disk(place, mib)`."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a file system that is small enough to fill")
    made: list[SmallDisk] = []

    def mount(place: Path, mib: int) -> SmallDisk:
        made.append(SmallDisk(place, mib))
        return made[-1]

    yield mount
    for disk in made:
        disk.unmount()


def begin(by_hand: ByHand, mode: str) -> Cluster:
    """The audit on two servers and two workers, which have settled a step."""
    members = {"cluster.servers": 2, "cluster.workers": 2, "durability.stream_state_every": 5}
    cluster = by_hand(
        {**LOSSLESS, **MODES[mode], **members, "run.steps": STEPS}, script=[AUDIT, "--pause", "0.01"]
    )
    cluster.start_servers(2)
    for i in range(2):
        cluster.start_worker(f"w-{i}")
    cluster.wait_for_steps(1)
    return cluster


def check_goes_on(cluster: Cluster, freed: datetime) -> None:
    """A step is closed soon after there was space; nobody was given up for what he could not do."""
    known = len(cluster.events("step"))
    step = cluster.wait_for_another("step", known)
    assert seconds_until(step, freed) < GOES_ON_S + SLACK_S
    assert not cluster.events("died"), cluster.story()


# --- a server ------------------------------------------------------------------------------------


def wait_stalled(cluster: Cluster) -> dict[str, Any]:
    """Until the status says that the first server has no space."""

    def says(status: dict[str, Any]) -> bool:
        return "acknowledges nothing" in status["reason"] and "No space left" in status["reason"]

    return cluster.wait_until("the status says that the disk is full", says)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_server_without_space_waits_for_it(
    mode: str, by_hand: ByHand, small_disk: Mount, tmp_path: Path
) -> None:
    """First it lives through it; the second time it is killed while it stands still, and comes back on a full disk."""
    disk = small_disk(tmp_path / "cluster-0" / "ps-0", SERVER_MIB)
    cluster = begin(by_hand, mode)
    disk.fill()
    stalled = wait_stalled(cluster)
    freed = disk.free()
    cluster.wait_for("goes_on")
    check_goes_on(cluster, freed)
    assert cluster.status()["step"] > stalled["step"]

    disk.fill()
    wait_stalled(cluster)
    cluster.kill_worker("ps-0")
    cluster.start_server("ps-0")
    cluster.wait_for("moved")
    disk.free()
    disk.grow(8 * SERVER_MIB)
    cluster.wait_for_more_steps(3)
    check_audit(cluster, cluster.halt())


# --- the coordinator -----------------------------------------------------------------------------


def wait_told(cluster: Cluster) -> int:
    """Until the coordinator says what is wrong; the step that it tells then, which must be durable."""

    def says(status: dict[str, Any]) -> bool:
        return "journal.sqlite: the disk is full" in status["reason"]

    step: int = cluster.wait_until("the status says that the disk is full", says)["step"]
    assert step <= journaled_step(cluster), "decided, but not durable"
    return step


def journaled_step(cluster: Cluster) -> int:
    """The open step as the records on the disk have it. A reader of its own, that changes nothing."""
    with closing(sqlite3.connect(f"file:{cluster.out / 'journal.sqlite'}?mode=ro", uri=True)) as journal:
        lines = journal.execute("SELECT record FROM records ORDER BY seq").fetchall()
    closed = [told["step"] for (line,) in lines if (told := json.loads(line))["record"] == "Closed"]
    return max(closed, default=-1) + 1


def test_a_coordinator_without_space_waits_for_it(by_hand: ByHand, small_disk: Mount, tmp_path: Path) -> None:
    """Journal, events and logs are on one disk. The second time it is killed while it stands still, and comes back."""
    disk = small_disk(tmp_path / "cluster-0" / "run", COORDINATOR_MIB)
    cluster = begin(by_hand, "sync")
    disk.fill()
    wait_told(cluster)
    with (
        grpc.insecure_channel(cluster.address) as channel,
        pytest.raises(grpc.RpcError, match="the disk is full"),
    ):
        CoordinatorStub(channel).Checkpoint(CheckpointRequest(), timeout=10)
    check_goes_on(cluster, disk.free())

    disk.fill()
    wait_told(cluster)
    cluster.kill_worker(COORDINATOR)
    cluster.start_coordinator_again()
    wait_told(cluster)
    disk.free()
    disk.grow(8 * COORDINATOR_MIB)
    cluster.wait_for("reopened")
    cluster.wait_for_more_steps(3)
    check_audit(cluster, cluster.halt())
