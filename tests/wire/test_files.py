"""Small files are whole or as they were; what an earlier process left half-made is in nobody's way."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

import pytest

from wire.errors import UsageError
from wire.files import check_writable, fsync_directory, fsync_file, own, replace_durably, write_durably


def test_content_is_replaced_as_a_whole_over_what_was_left_half_made(tmp_path: Path) -> None:
    path = tmp_path / "term.json"
    replace_durably(path, b"one")
    (tmp_path / "term.json.partial").write_bytes(b"half of something lon")
    replace_durably(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_is_written_over_nothing(tmp_path: Path) -> None:
    write_durably(tmp_path / "blob", b"first")
    with pytest.raises(FileExistsError):
        write_durably(tmp_path / "blob", b"second")
    assert (tmp_path / "blob").read_bytes() == b"first"


def test_content_is_forced_before_the_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Order of the durable steps: file, rename, directory."""
    steps: list[tuple[str, bool]] = []
    path, fsync = tmp_path / "identity.json", os.fsync

    def forced(descriptor: int) -> None:
        directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        steps.append(("directory" if directory else "file", path.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", forced)
    replace_durably(path, b"who")
    assert steps == [("file", False), ("directory", True)]
    fsync_file(path)
    fsync_directory(tmp_path)
    assert steps[2:] == [("file", True), ("directory", True)]
    with pytest.raises(NotADirectoryError):
        fsync_directory(path)


def test_a_directory_has_one_process_at_a_time(tmp_path: Path) -> None:
    with own(tmp_path / "ps-0", "server"):
        with pytest.raises(
            UsageError, match=r"another server works in .*ps-0; give this one another --data-dir"
        ):
            own(tmp_path / "ps-0", "server")
        with own(tmp_path / "ps-1", "server"):
            pass
    own(tmp_path / "ps-0", "server").close()


def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for directory, found in (
        (tmp_path / "file" / "ps-0", "Not a directory"),
        (Path("/proc"), "No such file"),
    ):
        told = (
            rf"{directory} cannot be written \({found}.*\); expected a directory .*: give another --data-dir"
        )
        for ask in (check_writable, lambda at: own(at, "server")):
            with pytest.raises(UsageError, match=told):
                ask(directory)
    (tmp_path / "there").mkdir()
    check_writable(tmp_path / "there" / "worker" / "0")
    check_writable(tmp_path / "there")
    assert list((tmp_path / "there").iterdir()) == [], "nothing is left of the trial"


def test_where_nothing_can_be_locked_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(UsageError, match=r"ps-0 cannot be locked .*--data-dir on a disk of this machine"):
        own(tmp_path / "ps-0", "server")
