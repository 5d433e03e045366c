"""Small files that are whole or as they were, whatever happens meanwhile; directories that one process works in.

A file's content is durable when it is fsynced, its name when its directory is: two steps, so that a caller can put
something between them.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import TextIO

from wire.errors import UsageError


def check_writable(directory: Path) -> None:
    """Whether this process can make files in the directory, or where that is to be made; it makes nothing.

    Raises: UsageError.
    """
    with _told(directory, "--data-dir"):
        there = next(path for path in (directory, *directory.parents) if path.exists())
        with TemporaryFile(dir=there):
            pass


def own(directory: Path, role: str, *, option: str = "--data-dir") -> TextIO:
    """Make the directory, which belongs to this process, a `role`, as long as what is returned is open.

    `option`: by which the user names another one.

    Raises: UsageError while it is another's, where it cannot be written, or where the file system has no locks.
    """
    with _told(directory, option):
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / "lock").open("w")
    try:
        fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise UsageError(f"another {role} works in {directory}; give this one another {option}") from None
    except OSError as error:
        lock.close()
        raise UsageError(
            f"{directory} cannot be locked ({error}); give a {option} on a disk of this machine"
        ) from None
    return lock


@contextmanager
def _told(directory: Path, option: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{directory} cannot be written ({error.strerror}); expected a directory in which this process may make "
            f"files: give another {option}, or check owner and mode"
        ) from None


def replace_durably(path: Path, data: bytes) -> None:
    """Give `path` the content `data`: on the disk when this returns, and never half of it."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    write_durably(partial, data)
    partial.replace(path)
    fsync_directory(path.parent)


def write_durably(path: Path, data: bytes) -> None:
    """A new file, whose content is on the disk when this returns; its name is with its directory.

    Raises: FileExistsError.
    """
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def fsync_directory(path: Path) -> None:
    """Make names in a directory durable."""
    _fsync(path, os.O_RDONLY | os.O_DIRECTORY)


def fsync_file(path: Path) -> None:
    """Make durable what was written to a file under its name, by whomever."""
    _fsync(path, os.O_RDONLY)


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
