"""One bit is flipped in what a killed run left on its disks: found, named, and never served (P13).

Where nothing is lost it is passed over: the older image and its log, a torn tail. Else the run is resumed from the
newest good checkpoint of all shards. Either way it goes on to the bits that it would have had.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from ps.log_files import Reader, list_files
from ps.log_format import HEADER
from sparsync.run_directory import RunDirectory
from tests.cluster.conftest import ROOT, Starter
from tests.cluster.roles import COORDINATOR, Cluster
from tests.cluster.running import POLL_S, SPARSYNC, command
from wire.checkpoint import checkpoint_paths, load_manifest
from wire.errors import DamagedFile

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]
EVERY = 10
SCRIPT: list[str | Path] = [ROOT / "tests" / "cluster" / "scripts" / "paced.py", "--hidden", "4096"]
"""Large enough that applying what is in the log soon takes the two seconds after which an image is due."""
SETTINGS: dict[str, object] = {
    "run.steps": 100_000,
    "run.checkpoint_every": EVERY,
    "run.keep_checkpoints": 0,
    "cluster.servers": 2,
    "cluster.workers": 2,
    "durability.stream_state_every": 3,
}
IMAGE_S = 300.0
WAL_HEADER, WAL_FRAME = 32, 24 + 4096


@dataclass(frozen=True)
class Remains:
    """What a run left whose processes were killed all at once: its directory `run`, and `ps-0`, `ps-1`."""

    base: Path

    @property
    def run(self) -> Path:
        return self.base / "run"

    @property
    def newest(self) -> int:
        """Step of the newest checkpoint."""
        return self.steps[-1]

    @property
    def steps(self) -> list[int]:
        return [int(path.name.removeprefix("step-")) for path in checkpoint_paths(self.run)]

    def images(self, server: str) -> list[Path]:
        return sorted((self.base / server / "snapshots").glob("*.image"))

    def copy(self, to: Path) -> Remains:
        return Remains(Path(shutil.copytree(self.base, to / "copy")))

    def contents(self, step: int) -> dict[str, str]:
        """The sha256 of each file of a checkpoint: parameters, published model, moments, sums, all streams' state."""
        manifest = load_manifest(self.run / "checkpoints" / f"step-{step}")
        return {name: entry.sha256 for name, entry in manifest.files.items()}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, environ: dict[str, str]) -> Iterator[Remains]:
    """Killed when both servers had an image of a later state than the first, and a checkpoint was written since."""
    remains = Remains(tmp_path_factory.mktemp("killed"))
    cluster = Cluster(remains.base, SETTINGS, script=SCRIPT, environ=environ)
    try:
        start_all(cluster)
        deadline = time.monotonic() + IMAGE_S
        while not all(len(remains.images(f"ps-{i}")) == 2 for i in range(2)):
            assert time.monotonic() < deadline and not cluster.over(), cluster.story()
            time.sleep(10 * POLL_S)
        wait_for_checkpoint(cluster, 2 * EVERY + cluster.status()["step"])
        for role in cluster.roles():
            role.process.send_signal(signal.SIGKILL)
    finally:
        left = cluster.end()
    assert not left, left
    yield remains


def start_all(cluster: Cluster) -> None:
    cluster.start_servers(2)
    for i in range(2):
        cluster.start_worker(f"w-{i}")


def wait_for_checkpoint(cluster: Cluster, step: int) -> None:
    """Until one of `step` or later is written."""
    cluster.wait_for("checkpoint", lambda e: e["step"] >= step, limit_s=IMAGE_S)


def flip(path: Path, at: int, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << draw.randrange(8)
    path.write_bytes(data)
    print(f"{path.name}: flipped a bit at offset {at} of {len(data)}")


# --- what is passed over -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def went_on(
    killed: Remains, tmp_path_factory: pytest.TempPathFactory, environ: dict[str, str]
) -> Iterator[tuple[Remains, Cluster]]:
    """The run after one server's newest image and the other's torn tail were damaged, and all were started again."""
    draw = random.Random(f"{killed.newest}")
    remains = killed.copy(tmp_path_factory.mktemp("went_on"))
    image = remains.images("ps-0")[-1]
    flip(image, draw.randrange(image.stat().st_size), draw)
    tail = list_files(remains.base / "ps-1" / "log")[-1].path
    flip(tail, end_of_log(remains.base / "ps-1")[1] + draw.randrange(HEADER.size), draw)
    cluster = Cluster(remains.base, SETTINGS, script=SCRIPT, environ=environ)
    start_all(cluster)
    try:
        wait_for_checkpoint(cluster, remains.newest + EVERY)
        cluster.halt()
        yield remains, cluster
    finally:
        left = cluster.end()
    assert not left, left


def end_of_log(server: Path) -> tuple[list[int], int]:
    """Offsets of the records of the last file that stand behind the newest image, and where they end."""
    newest = max(int(path.stem) for path in server.glob("snapshots/*.image"))
    with closing(Reader(list_files(server / "log")[-1])) as reader:
        offsets, before = [], reader.offset
        for position, _ in reader.records():
            if position > newest:
                offsets.append(before)
            before = reader.offset
        return offsets, reader.offset


def test_a_damaged_image_and_a_torn_tail_are_passed_over(went_on: tuple[Remains, Cluster]) -> None:
    remains, cluster = went_on
    first, second = ((remains.run / "logs" / f"ps-{i}.0.log").read_text() for i in range(2))
    assert "it is passed over for the image at position" in first and "offset" in first
    assert "torn tail cut off at offset" in second
    assert cluster.events("reopened") and len(cluster.events("moved")) == 2


# --- what is not ---------------------------------------------------------------------------------


def test_a_damaged_journal_is_named_and_the_run_resumed(
    killed: Remains,
    went_on: tuple[Remains, Cluster],
    tmp_path: Path,
    environ: dict[str, str],
    seed: int,
) -> None:
    """From the newest checkpoint, on a new timeline, to the bits of the run that went on."""
    draw, remains = random.Random(seed), killed.copy(tmp_path)
    wal = remains.run / "journal.sqlite-wal"
    flip(wal, WAL_HEADER + draw.randrange(valid_frames(wal) * 3 // 4 * WAL_FRAME), draw)
    refused = Cluster(remains.base, SETTINGS, script=SCRIPT, environ=environ)
    refused.wait_code(COORDINATOR, DamagedFile.exit_code, limit_s=60)
    told = (remains.run / "logs" / "coordinator.0.log").read_text()
    assert "journal.sqlite-wal, offset" in told and "resume the newest checkpoint" in told
    refused.end()

    for file in remains.run.glob("journal.sqlite*"):
        file.rename(tmp_path / file.name)
    steps = remains.newest + EVERY
    changes = {**SETTINGS, "run.steps": steps}
    cluster = Cluster(remains.base, changes, script=SCRIPT, environ=environ, flags=["--resume", remains.run])
    try:
        start_all(cluster)
        summary = cluster.finish()
    finally:
        left = cluster.end()
    assert not left, left
    assert (summary["timeline"], cluster.events("step")[0]["step"]) == (2, killed.newest)
    assert remains.contents(steps) == went_on[0].contents(steps)


def valid_frames(wal: Path) -> int:
    """Frames of the write-ahead log's newest turn: they have the salts of its header."""
    data = wal.read_bytes()
    starts = range(WAL_HEADER, len(data) - WAL_FRAME + 1, WAL_FRAME)
    return next(
        (n for n, at in enumerate(starts) if data[at + 8 : at + 16] != data[16:24]),
        len(starts),
    )


def start_server(server: Path, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """It looks at its own disk before it asks for a coordinator; there is none."""
    words = ["--coordinator", "127.0.0.1:1", "--data-dir", str(server), "--name", server.name]
    return subprocess.run(
        [*SPARSYNC, "ps", *words], env=environ, capture_output=True, text=True, timeout=120, check=False
    )


def test_a_server_without_a_good_image_names_them_all(
    killed: Remains, tmp_path: Path, environ: dict[str, str], seed: int
) -> None:
    draw, remains = random.Random(seed), killed.copy(tmp_path)
    for image in remains.images("ps-0"):
        flip(image, draw.randrange(image.stat().st_size), draw)
    started = start_server(remains.base / "ps-0", environ)
    assert started.returncode == DamagedFile.exit_code, started.stderr
    assert "no image of this shard is whole" in started.stderr
    assert all(str(image) in started.stderr for image in remains.images("ps-0"))


def test_a_damaged_log_and_checkpoint_are_named_and_the_older_one_resumed(
    killed: Remains, train: Starter, tmp_path: Path, environ: dict[str, str], seed: int
) -> None:
    """By `sparsync train --resume`, which begins with what all shards had at an earlier moment."""
    draw, remains = random.Random(seed), killed.copy(tmp_path)
    server = remains.base / "ps-1"
    tail = list_files(server / "log")[-1].path
    offsets, _ = end_of_log(server)
    at = draw.randrange(offsets[0], offsets[-1])
    flip(tail, at, draw)
    found = max(offset for offset in offsets if offset <= at)
    started = start_server(server, environ)
    assert started.returncode == DamagedFile.exit_code, started.stderr
    assert f"{tail}: offset {found}:" in started.stderr

    manifest = remains.run / "checkpoints" / f"step-{remains.newest}" / "manifest.json"
    flip(manifest, draw.randrange(manifest.stat().st_size), draw)
    for name in ("ps-0", "ps-1"):  # where `train` has them
        (remains.base / name).rename(remains.run / name)
    checked = command("verify", remains.run, environ=environ)
    assert checked.returncode == DamagedFile.exit_code
    assert f"{manifest} " in checked.stderr and "offset" in checked.stderr
    assert f"log: offset {found}:" in checked.stderr

    older, newest = killed.steps[-2:]
    RunDirectory(remains.run).address.unlink()
    run = train({"run.steps": newest}, out=remains.run, script=SCRIPT)
    summary = run.finish(200)
    assert (summary["timeline"], run.events("step")[0]["step"]) == (2, older)
    assert f"{manifest.parent} is passed over" in run.talk()
    assert remains.contents(newest) == killed.contents(newest)
