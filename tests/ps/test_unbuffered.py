"""Files past the page cache are the files that they would be through it."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
from pathlib import Path

import pytest

from ps import unbuffered
from ps.unbuffered import STAGE_BYTES, Unbuffered

SIZES = [0, 1, 4095, 4096, STAGE_BYTES - 1, STAGE_BYTES, STAGE_BYTES + 1, 3 * STAGE_BYTES + 4097]


def written(path: Path, data: bytes, cut: int) -> bytes:
    file = Unbuffered(path)
    for start in range(0, len(data), cut):
        file.write(data[start : start + cut])
    file.seal()
    return path.read_bytes()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cut", [1 << 24, 100_003])
def test_what_is_written_is_there(tmp_path: Path, size: int, cut: int) -> None:
    data = os.urandom(size)
    path = tmp_path / "file"
    path.write_bytes(b"older and longer" * 10)
    assert written(path, data, cut) == data


@pytest.fixture
def refusals(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A disk whose blocks are larger: what goes past the cache is refused, after the first write."""
    refused: list[int] = []
    through = os.write

    def write(descriptor: int, data: memoryview) -> int:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & unbuffered.PAST_CACHE and os.lseek(
            descriptor, 0, os.SEEK_CUR
        ):
            refused.append(len(data))
            raise OSError(errno.EINVAL, "Invalid argument")
        return through(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    return refused


def test_a_disk_that_refuses_gets_it_through_the_cache(tmp_path: Path, refusals: list[int]) -> None:
    data = os.urandom(3 * STAGE_BYTES + 77)
    assert written(tmp_path / "file", data, STAGE_BYTES) == data
    assert refusals == [STAGE_BYTES]


def test_where_nothing_goes_past_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unbuffered, "PAST_CACHE", 0)
    data = os.urandom(2 * STAGE_BYTES + 1)
    assert written(tmp_path / "file", data, STAGE_BYTES) == data


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    file = Unbuffered(tmp_path / "file")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (STAGE_BYTES + 100, before[1]))
        with pytest.raises(OSError, match="File too large"):
            file.write(bytes(3 * STAGE_BYTES))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
        file.close()
    file.close()
