"""The log of a shard: group commit, levels, a full disk, a broken disk, and kills in real processes."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ps.log import MemoryLog, read_tail
from ps.log_tail import Disk
from tests.ps.logs import Told, contents, open_log
from wire.errors import SparsyncError

LEVELS = ("os", "disk")


@pytest.mark.parametrize("level", LEVELS)
def test_records_come_back_in_order(tmp_path: Path, level: str) -> None:
    told = Told()
    log = open_log(tmp_path, told, level=level)
    assert [log.append([b"a", b"", memoryview(b"bc")]), log.append([]), log.append([bytearray(b"d")])] == [
        1,
        2,
        3,
    ]
    log.close()
    assert (log.position, log.durable, told.durable[-1], told.stalled, told.broken) == (3, 3, 3, [], [])
    assert contents(tmp_path) == [b"abc", b"", b"d"]
    assert contents(tmp_path, 2) == [b"d"]
    assert contents(tmp_path, 3) == contents(tmp_path, 9) == []


def test_a_closed_log_takes_little_room(tmp_path: Path) -> None:
    log = open_log(tmp_path, Told())
    log.append([b"abc"])
    log.close()
    (path,) = tmp_path.iterdir()
    assert path.name == "00000000000000000001.log"
    assert path.stat().st_size == 24 + 40 + 3 + 40


def test_it_goes_on_where_it_ended(tmp_path: Path) -> None:
    for n in range(4):
        log = open_log(tmp_path, Told(), after=2 * n)
        log.append([b"%d" % n])
        log.append([b"%d'" % n])
        log.close()
    assert contents(tmp_path) == [b"0", b"0'", b"1", b"1'", b"2", b"2'", b"3", b"3'"]


def test_records_that_nobody_read_are_not_written_over(tmp_path: Path) -> None:
    log = open_log(tmp_path, Told())
    log.append([b"a"])
    log.close()
    with pytest.raises(ValueError, match="records up to 1, expected 0: read them first"):
        open_log(tmp_path, Told())


def test_a_snapshot_that_outlived_the_log_begins_it_anew(tmp_path: Path) -> None:
    log = open_log(tmp_path, Told())
    log.append([b"a"])
    log.close()
    log = open_log(tmp_path, Told(), after=7)
    assert log.append([b"h"]) == 8
    log.close()
    assert list(read_tail(tmp_path, 7)) == [(8, b"h")]


def test_many_records_are_few_batches_and_few_calls(tmp_path: Path) -> None:
    calls: list[int] = []

    def write(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        calls.append(len(buffers))
        return os.pwritev(fd, buffers, offset)

    told = Told()
    log = open_log(tmp_path, told, disk=Disk(write=write))
    records = [b"%d" % n * 20 for n in range(10_000)]
    for record in records:
        log.append([record])
    log.close()
    assert contents(tmp_path) == records
    assert told.durable == sorted(told.durable)
    assert sum(calls) > 20_000
    assert len(calls) < 1_000


def test_what_a_short_write_leaves_is_written_too(tmp_path: Path) -> None:
    def write(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        return os.pwrite(fd, b"".join(buffers)[:7], offset)

    log = open_log(tmp_path, Told(), disk=Disk(write=write))
    for n in range(50):
        log.append([b"%d" % n, b"," * n])
    log.close()
    assert contents(tmp_path) == [b"%d" % n + b"," * n for n in range(50)]


def test_a_big_payload_is_handed_to_the_disk_as_it_is(tmp_path: Path) -> None:
    seen: list[object] = []

    def write(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        seen.extend(buffer.obj for buffer in buffers)
        return os.pwritev(fd, buffers, offset)

    big = bytes(3 << 20)
    log = open_log(tmp_path, Told(), disk=Disk(write=write))
    log.append([b"head", big])
    log.close()
    assert any(each is big for each in seen)


# --- files ---------------------------------------------------------------------------------------


def test_files_follow_each_other_and_are_trimmed(tmp_path: Path) -> None:
    told = Told()
    log = open_log(tmp_path, told, segment_bytes=1000)
    for n in range(1, 31):
        log.append([bytes([n]) * 160])
    told.wait_durable(30)
    names = sorted(path.name for path in tmp_path.glob("*.log"))
    assert names == [f"{first:020}.log" for first in (1, 5, 9, 13, 17, 21, 25, 29)]
    used = 24 + 4 * 200
    assert log.bytes_after(0) == log.bytes_after(3) == 7 * used + 424
    assert log.bytes_after(4) == 6 * used + 424
    assert log.bytes_after(29) == 424
    assert log.bytes_after(30) == 0
    log.trim(9)
    assert sorted(path.name for path in tmp_path.glob("*.log")) == names[2:]
    assert log.bytes_after(0) == 5 * used + 424
    log.trim(99)
    assert sorted(path.name for path in tmp_path.glob("*.log")) == names[-1:]
    log.close()
    assert contents(tmp_path, 29) == [bytes([30]) * 160]


def test_old_files_count_after_a_restart(tmp_path: Path) -> None:
    log = open_log(tmp_path, Told(), segment_bytes=1000)
    for _ in range(10):
        log.append([bytes(160)])
    log.close()
    log = open_log(tmp_path, Told(), segment_bytes=1000, after=10)
    assert log.bytes_after(4) == 864 + 464
    log.trim(9)
    assert [path.name for path in tmp_path.glob("*.log")] == ["00000000000000000009.log"]
    log.close()


def test_a_record_larger_than_a_file_gets_its_own(tmp_path: Path) -> None:
    log = open_log(tmp_path, Told(), segment_bytes=1000)
    records = [b"a", bytes(5000), b"b", bytes(2000), bytes(3000), b"c"]
    for record in records:
        log.append([record])
    log.close()
    assert contents(tmp_path) == records
    assert len(list(tmp_path.glob("*.log"))) == 6


def test_a_spare_lies_ready(tmp_path: Path) -> None:
    told = Told()
    log = open_log(tmp_path, told, segment_bytes=5000)
    log.append([b"a"])
    told.wait_durable(1)
    log.append([b"b"])
    told.wait_durable(2)
    assert (tmp_path / "spare").stat().st_size == 5000
    log.close()
    assert not (tmp_path / "spare").exists()


# --- levels --------------------------------------------------------------------------------------


def test_at_level_disk_nothing_counts_before_the_fsync(tmp_path: Path) -> None:
    free, syncing = threading.Event(), threading.Event()

    def sync(fd: int) -> None:
        os.fdatasync(fd)
        if os.pread(fd, 4, 24) == b"SPLR":
            syncing.set()
            assert free.wait(20)

    told = Told()
    log = open_log(tmp_path, told, level="disk", disk=Disk(sync=sync))
    log.append([b"a"])
    assert syncing.wait(20)
    for _ in range(5):
        log.append([b"b"])
    assert (told.durable, log.durable) == ([], 0)
    free.set()
    log.close()
    assert told.durable == [1, 6]


def test_at_level_disk_a_file_and_its_name_are_fsynced_first(tmp_path: Path) -> None:
    calls: list[str] = []

    def write(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        calls.append("write")
        return os.pwritev(fd, buffers, offset)

    log = open_log(
        tmp_path,
        Told(),
        level="disk",
        disk=Disk(
            write=write,
            allocate=lambda fd, at, size: calls.append("allocate"),
            sync=lambda fd: calls.append("sync"),
            sync_directory=lambda path: calls.append("directory"),
        ),
    )
    log.append([b"a"])
    log.close()
    made = ["allocate", "sync", "write", "sync", "directory"]
    assert calls == [*made, "write", "sync", "write", "allocate", "sync"]


def test_the_log_of_level_memory_counts(tmp_path: Path) -> None:
    told = Told()
    log = MemoryLog(
        tmp_path,
        after=4,
        level="memory",
        on_durable=told.tell(told.durable),
        on_stalled=told.tell(told.stalled),
    )
    assert [log.append([b"a"]), log.append([b"b"])] == told.durable == [5, 6]
    log.trim(6)
    log.close()
    assert (log.position, log.durable, log.bytes_after(0), list(tmp_path.iterdir())) == (6, 6, 0, [])


def test_other_levels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'memory', expected os or disk"):
        open_log(tmp_path, Told(), level="memory")


# --- a full disk ---------------------------------------------------------------------------------


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


# --- kills ---------------------------------------------------------------------------------------

CHILD = """
import os, sys, threading
from pathlib import Path
from ps.log import Log

told = threading.Condition()
last = 0

def durable(position):
    global last
    os.write(1, b"%d\\n" % position)
    with told:
        last = position
        told.notify_all()

log = Log(Path(sys.argv[1]), after=int(sys.argv[3]), level=sys.argv[2], on_durable=durable, on_stalled=print,
          segment_bytes=2000)
for batch in range(12):
    for _ in range(batch % 3 + 1):
        n = log.position + 1
        log.append([b"%d," % n, b"x" * (37 * n % 900)])
    with told:
        told.wait_for(lambda: last == log.position)
print("done", flush=True)
threading.Event().wait(60)
"""


def record(n: int) -> bytes:
    return b"%d," % n + b"x" * (37 * n % 900)


def killed_at(point: str, directory: Path, level: str, after: int) -> list[int]:
    """The positions that a child told as durable before it was killed there."""
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(directory), level, str(after)],
        env={**os.environ, "SPARSYNC_CRASH": point},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL, child
    return [after, *map(int, child.stdout.split())]


POINTS = ["ps.append.before", "ps.append.after", "ps.segment.before", "ps.segment.after"]
SYNC_POINTS = ["ps.fsync.before", "ps.fsync.after"]


@pytest.mark.parametrize(
    ("level", "point"),
    [*(("os", point) for point in POINTS), *(("disk", point) for point in [*POINTS, *SYNC_POINTS])],
)
def test_what_was_told_is_there_after_a_kill(tmp_path: Path, level: str, point: str) -> None:
    """Killed again and again at the same place, each child going on where the log of the last one ends."""
    after = 0
    for count in (1, 4, 2, 3):
        told = killed_at(f"{point}:{count}", tmp_path, level, after)
        found = contents(tmp_path)
        assert found == [record(n) for n in range(1, len(found) + 1)]
        assert told[-1] <= len(found) <= told[-1] + 3, "at most the batch under way beyond what was told"
        after = len(found)
    log = open_log(tmp_path, Told(), after=after, level=level)
    log.append([b"end"])
    log.close()
    assert contents(tmp_path, after) == [b"end"]
