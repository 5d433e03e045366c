"""The log of a shard: group commit, levels, files."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from ps.log import MemoryLog, read_tail
from ps.log_tail import Disk
from tests.ps.logs import Told, contents, open_log

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
