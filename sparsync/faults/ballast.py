"""A file that fills a server's file system, up to a limit that somebody has agreed to.

Only a file system that is small, or empty but for us, can be filled without harm to others: with more free space or
more data of others than the limit it is refused.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from wire.errors import UsageError

NAME = "chaos-ballast"
SPARED_BYTES = 64 << 10
"""Left free: a write may still begin, and finds the end in its middle."""
BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Room:
    """Of one file system, in bytes. `ours`: below the data directory."""

    free: int
    used: int
    ours: int


def measure(directory: Path) -> Room:
    """Raises OSError."""
    found = os.statvfs(directory)
    ours = sum(path.lstat().st_blocks * 512 for path in directory.rglob("*") if path.is_file())
    return Room(found.f_bavail * found.f_frsize, (found.f_blocks - found.f_bfree) * found.f_frsize, ours)


def refuse_shared(directory: Path, room: Room, limit: int) -> None:
    """Raises UsageError where filling this file system would need, or hurt, more than the limit."""
    others = room.used - room.ours
    remedy = "put the server's --data-dir on a small file system of its own (a loop mount or tmpfs)"
    if room.free > limit:
        raise UsageError(
            f"disk: the file system of {directory} has {room.free:,} bytes free, --ballast-limit is {limit:,}; "
            f"{remedy}, or raise the limit"
        )
    if others > limit:
        raise UsageError(
            f"disk: the file system of {directory} holds {others:,} bytes of others, more than --ballast-limit "
            f"{limit:,}; {remedy}"
        )


def fill(path: Path, limit: int) -> int:
    """Write the ballast; how many bytes it has. It is the caller's to remove, also when this raises OSError."""
    free = measure(path.parent).free
    size = max(0, min(limit, free - SPARED_BYTES))
    with path.open("wb") as file:
        at = 0
        while at < size:
            piece = min(BLOCK_BYTES, size - at)
            try:
                os.posix_fallocate(file.fileno(), at, piece)
            except OSError:  # others were quicker with the rest
                break
            at += piece
    return at
