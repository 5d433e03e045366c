"""The machine of the coordinator and of all servers loses its power (P1).

All their directories are on a file system in a file. While the run works its processes are stopped, and that file is
copied: so it is what a disk holds at one moment, and what only the mounted file system's cache knew is lost. The run
goes on from the copy, with other workers.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.roles import Cluster
from tests.cluster.running import Train
from tests.cluster.test_modes import LOSSLESS, STREAMS, check_audit
from wire.errors import ServerLost

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(300)]
COUNTED = Path(__file__).parent / "scripts" / "numbered.py"
STEPS, PAUSE_S = 150, 0.05
DISK_BYTES = 1 << 30
COMMIT_S = 300
"""The file system's own time to write by itself what nobody has asked it to: later than any test here ends."""
LONG_S = 150.0
"""The coordinator waits 15 s for the workers that have died with the machine; the rest is work, on a busy machine."""
MODES: dict[str, dict[str, object]] = {"async": {"sync.mode": "async"}, "sync": {"sync.mode": "sync"}}
REPLAYED = {"async": 0, "sync": 1}
"""Steps that the heirs of an exact segment's streams compute again, to have their state: `stream_state_every`."""


def do(*words: str | Path) -> None:
    subprocess.run(words, check=True, capture_output=True)


class Disk:
    """A file system in a file, mounted at `place`."""

    def __init__(self, base: Path) -> None:
        self.place = base / "disk"
        self.place.mkdir()
        self._file = base / "disk.image"
        self._file.touch()
        os.truncate(self._file, DISK_BYTES)
        do("mkfs.ext4", "-q", "-F", self._file)
        self._mount()

    def _mount(self) -> None:
        do("mount", "-o", f"loop,commit={COMMIT_S}", self._file, self.place)

    def end(self) -> None:
        """The loop device goes with the mount."""
        if self.place.is_mount():
            do("umount", self.place)

    def copy(self) -> Path:
        """What it holds now, which is one moment: nothing was written while it was copied."""
        copied = self._file.with_suffix(".copy")
        for _ in range(20):
            do("cp", "--sparse=always", self._file, copied)
            if subprocess.run(["cmp", "-s", self._file, copied], check=False).returncode == 0:
                return copied
        raise AssertionError("the file system's file changes all the time, though its processes are stopped")

    def fall_back_to(self, copied: Path) -> None:
        """All that came later, and all that only memory held, has never been."""
        self.end()
        copied.replace(self._file)
        self._mount()


class Machine(Cluster):
    """A run that has its directories on a disk, and units counted beside it."""

    def __init__(
        self, disk: Disk, counted: Path, settings: dict[str, object], environ: dict[str, str]
    ) -> None:
        self.disk, self._counted = disk, counted
        self.settings = settings
        super().__init__(
            disk.place / "cluster",
            settings,
            script=[COUNTED, "--pause", str(PAUSE_S)],
            environ={**environ, "COUNTED": str(counted)},
        )

    def counted(self) -> list[int]:
        """The units that were computed, in that order."""
        return [int(line) for line in self._counted.read_text().split()]

    def lose_power(self) -> None:
        """All its processes and their memory are gone; the disk holds what it holds."""
        for process in self.processes():
            process.send_signal(signal.SIGSTOP)
        copied = self.disk.copy()
        for name in [role.name for role in self.roles() if role.process.poll() is None]:
            self.kill_worker(name)
        for process in self.processes():  # heartbeats, which cannot notice while they are stopped
            process.kill()
        left = self.wait_gone(10.0)
        assert not left, left
        self.disk.fall_back_to(copied)
        path = self.out / "events.jsonl"
        self._offset = path.stat().st_size if path.exists() else 0  # what was read of it is known

    def start_again(self) -> None:
        """The same commands again, and workers on another machine."""
        self.start_coordinator_again()
        for name in ("ps-0", "ps-1"):
            self.start_server(name)
        for name in ("w-2", "w-3"):
            self.start_worker(name)


Start = Callable[..., Machine]


@pytest.fixture
def start(tmp_path: Path, environ: dict[str, str]) -> Iterator[Start]:
    """`start(settings)`: a run on a disk, which has settled steps."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a file system in a file")
    disk = Disk(tmp_path)
    machines: list[Machine] = []

    def begin(settings: dict[str, object]) -> Machine:
        members = {"cluster.servers": 2, "cluster.workers": 2, "cluster.min_workers": 2}
        steps = {"run.steps": STEPS, "sync.units_per_step": STREAMS}
        machine = Machine(disk, tmp_path / "counted", {**LOSSLESS, **members, **steps, **settings}, environ)
        machines.append(machine)
        machine.start_servers(2)
        for name in ("w-0", "w-1"):
            machine.start_worker(name)
        machine.wait_for_steps(1)
        return machine

    try:
        yield begin
        left = [line for machine in machines for line in machine.end()]
        assert not left, "processes were left:\n" + "\n".join(left)
    finally:
        for machine in machines:
            machine.end()
        disk.end()


@pytest.mark.parametrize("mode", MODES)
def test_what_was_acknowledged_at_disk_is_there(start: Start, mode: str, seed: int) -> None:
    """Each unit is applied once, and what was told as accepted is not computed again, but for a state of its stream."""
    draw = random.Random(seed)
    machine = start({**MODES[mode], "durability.ack": "disk", "durability.stream_state_every": 1})
    machine.wait_for_more_steps(draw.randint(5, 40))
    time.sleep(draw.uniform(0.0, 4 * PAUSE_S))
    told = STREAMS * (int(machine.status()["clock"]) - REPLAYED[mode])
    machine.lose_power()
    before = len(machine.counted())
    machine.start_again()
    summary = machine.finish(LONG_S)
    check_audit(machine, summary)
    assert summary["steps"] == STEPS
    again = machine.counted()[before:]
    assert min(again) >= told > 0, f"units below {told} were accepted; computed again: {sorted(again)[:20]}"


@pytest.mark.parametrize("mode", MODES)
def test_what_was_acknowledged_at_os_and_is_lost_is_noticed(
    start: Start, mode: str, seed: int, environ: dict[str, str]
) -> None:
    """The run ends by name and with a remedy; it goes on from its newest checkpoint, and counts right."""
    draw = random.Random(seed)
    machine = start({**MODES[mode], "durability.ack": "os"})
    machine.wait_for_more_steps(draw.randint(1, 5))
    machine.command("checkpoint")
    saved = int(machine.events("checkpoint")[-1]["step"])
    machine.wait_for_more_steps(draw.randint(5, 20))
    machine.lose_power()
    machine.start_again()
    for name in ("w-2", "w-3"):
        machine.wait_code(name, ServerLost.exit_code, limit_s=LONG_S)
    assert machine.finish(LONG_S, code=ServerLost.exit_code)["error"] == "ServerLost"
    reason = machine.events("ended")[-1]["reason"]
    assert "lost what it had acknowledged" in reason and "resume the newest checkpoint" in reason
    assert saved > 0
    resumed = Train(
        machine.out,
        machine.settings,
        flags=["--resume", str(machine.out)],
        script=[COUNTED],
        environ={**environ, "COUNTED": os.devnull},
    )
    try:
        summary = resumed.finish(LONG_S)
        since = {"units_settled": STREAMS * saved + summary["units_settled"]}  # it counts its own
        check_audit(resumed, {**summary, **since})
    finally:
        resumed.end()
