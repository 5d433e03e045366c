"""A log whose disk is full for a while, or broken for good."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ps.log_tail import Disk
from tests.ps.logs import Told, contents, open_log
from wire.errors import SparsyncError

LEVELS = ("os", "disk")


class FullDisk:
    """Has room for so many files."""

    def __init__(self, room: int, error: int = errno.ENOSPC) -> None:
        self.room = room
        self.error = error

    def allocate(self, fd: int, offset: int, size: int) -> None:
        if self.room == 0:
            raise OSError(self.error, os.strerror(self.error))
        self.room -= 1
        os.posix_fallocate(fd, offset, size)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("level", LEVELS)
def test_a_full_disk_is_waited_for(tmp_path: Path, level: str, error: int) -> None:
    disk = FullDisk(2, error)
    told = Told()
    log = open_log(tmp_path, told, level=level, segment_bytes=1000, disk=Disk(allocate=disk.allocate))
    records = [bytes([n]) * 160 for n in range(20)]
    for record in records:
        log.append([record])
    told.wait(lambda: len(told.stalled) == 1)
    assert told.stalled == [f"{tmp_path}: {os.strerror(error)}; make room on that disk"]
    assert (log.durable, log.position) == (8, 20), "the file and the reserve are used"
    assert contents(tmp_path) == records[:8]
    disk.room = 99
    told.wait_durable(20)
    assert told.stalled[1:] == [""]
    log.close()
    assert contents(tmp_path) == records


def test_a_trim_ends_the_wait_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ps.log.RETRY_S", 60.0)
    disk = FullDisk(2)
    told = Told()
    log = open_log(tmp_path, told, segment_bytes=1000, disk=Disk(allocate=disk.allocate))
    for _ in range(9):
        log.append([bytes(160)])
    told.wait(lambda: len(told.stalled) == 1)
    disk.room = 99
    log.trim(5)
    told.wait_durable(9)
    log.close()


def test_a_write_that_reports_a_full_disk_is_written_again(tmp_path: Path) -> None:
    """A disk that keeps no promise of posix_fallocate: half of the batch is written, then there is no room."""
    left = [70, 0, 0]

    def write(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        if offset >= 24 and left:
            if not (size := left.pop(0)):
                raise OSError(errno.ENOSPC, "No space left on device")
            return os.pwrite(fd, b"".join(buffers)[:size], offset)
        return os.pwritev(fd, buffers, offset)

    told = Told()
    log = open_log(tmp_path, told, disk=Disk(write=write))
    log.append([b"a" * 100])
    told.wait_durable(1)
    log.close()
    assert len(told.stalled) == 2
    assert contents(tmp_path) == [b"a" * 100]


def test_close_does_not_wait_for_room(tmp_path: Path) -> None:
    told = Told()
    log = open_log(tmp_path, told, disk=Disk(allocate=FullDisk(0).allocate))
    log.append([b"a"])
    told.wait(lambda: len(told.stalled) == 1)
    log.close()
    assert (told.durable, told.broken, contents(tmp_path)) == ([], [], [])


def test_a_limit_on_the_size_of_files_is_waited_for(tmp_path: Path) -> None:
    """RLIMIT_FSIZE, lifted by the parent while the child stands still."""
    script = f"""
import resource, threading
from pathlib import Path
from ps.log import Log
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
def stalled(why):
    print("stalled", bool(why), flush=True)
    if why:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
done = threading.Event()
def durable(position):
    print(position)
    done.set()
log = Log(Path({str(tmp_path)!r}), after=0, level="os", on_durable=durable, on_stalled=stalled, segment_bytes=9000)
log.append([b"abc"])
done.wait()
log.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines() == ["stalled True", "stalled False", "1"]
    assert contents(tmp_path) == [b"abc"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.root
@pytest.mark.parametrize("level", LEVELS)
def test_a_small_disk_that_is_full(small_disk: Path, level: str) -> None:
    told = Told()
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(3 << 20))
    log = open_log(small_disk / "log", told, level=level, segment_bytes=1 << 20)
    records = [os.urandom(300 << 10) for _ in range(40)]
    for record in records:
        log.append([record])
    told.wait(lambda: len(told.stalled) == 1)
    stood_at = log.durable
    assert 10 <= stood_at < 20
    assert contents(small_disk / "log") == records[:stood_at]
    ballast.unlink()
    told.wait_durable(stood_at + 5)
    while log.durable < 40:
        log.trim(log.durable)
        told.wait_durable(log.durable + 1)
    log.close()
    assert contents(small_disk / "log", 39) == records[39:]
    assert told.broken == []


# --- a broken disk -------------------------------------------------------------------------------


def broken(error: int) -> OSError:
    return OSError(error, os.strerror(error))


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_failed_fsync_ends_it(tmp_path: Path, error: int) -> None:
    """Whatever the errno: what was written may be gone, and no later fsync would say so."""
    calls: list[int] = []

    def sync(fd: int) -> None:
        if os.pread(fd, 4, 24) == b"SPLR":
            calls.append(fd)
            if len(calls) == 2:
                raise broken(error)

    told = Told()
    log = open_log(tmp_path, told, level="disk", disk=Disk(sync=sync))
    log.append([b"a"])
    told.wait_durable(1)
    log.append([b"b"])
    told.wait(lambda: len(told.broken) == 1)
    with pytest.raises(SparsyncError, match=r"is broken .*; check the disk and start this server again"):
        log.append([b"c"])
    log.close()
    assert (told.durable, told.stalled, len(calls)) == ([1], [], 2)


def test_a_failed_write_ends_it(tmp_path: Path) -> None:
    def write(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        raise broken(errno.EIO)

    told = Told()
    log = open_log(tmp_path, told, disk=Disk(write=write))
    log.append([b"a"])
    told.wait(lambda: len(told.broken) == 1)
    log.close()
    assert (told.durable, told.stalled) == ([], [])


def test_by_default_a_broken_log_ends_the_process(tmp_path: Path) -> None:
    script = f"""
import threading
from pathlib import Path
from ps.log import Log
from ps.log_tail import Disk
def sync(fd):
    raise OSError(5, "Input/output error")
log = Log(Path({str(tmp_path)!r}), after=0, level="disk", on_durable=print, on_stalled=print, disk=Disk(sync=sync))
log.append([b"abc"])
threading.Event().wait(60)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.returncode, done.stdout) == (74, "")
    assert "the shard's log cannot be written ([Errno 5] Input/output error)" in done.stderr
