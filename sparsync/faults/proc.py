"""What `/proc` says of the processes of this machine; nothing here signals any.

A process id is handed out again after its process's end: who is meant is (pid, start time).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
ZOMBIE = "Z"


@dataclass(frozen=True)
class Stat:
    """Of one process. `started_s`: seconds from the machine's start, to a hundredth."""

    pid: int
    state: str
    parent: int
    started_s: float


def stat(pid: int) -> Stat | None:
    """None where there is no such process any more."""
    with suppress(OSError):
        text = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        fields = text.rpartition(")")[2].split()  # the name before it may hold anything
        return Stat(pid, fields[0], int(fields[1]), int(fields[19]) * TICK_S)
    return None


def lives(pid: int) -> bool:
    """Whether it runs or is stopped; one that only waits for its parent to look has ended."""
    found = stat(pid)
    return found is not None and found.state != ZOMBIE


def command_line(pid: int) -> list[str]:
    """Its words; none where it is gone or not ours to look at."""
    with suppress(OSError):
        words = (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")[:-1]
        return [word.decode("utf-8", errors="replace") for word in words]
    return []


def directory(pid: int) -> Path | None:
    """Where its relative paths begin."""
    with suppress(OSError):
        return Path(os.readlink(PROC / str(pid) / "cwd"))
    return None


def processes() -> Iterator[Stat]:
    """All that are there."""
    for entry in PROC.iterdir():
        if entry.name.isdecimal() and (found := stat(int(entry.name))) is not None:
            yield found


def descendants(pid: int) -> list[int]:
    """Children of a process, and theirs."""
    below: dict[int, list[int]] = {}
    for process in processes():
        below.setdefault(process.parent, []).append(process.pid)
    found = list(below.get(pid, []))
    for child in found:
        found += below.get(child, [])
    return found


def lineage(pid: int) -> tuple[int, ...]:
    """A process, its parent, and so on up to the first one."""
    found: list[int] = []
    while pid > 0 and (process := stat(pid)) is not None:
        found.append(pid)
        pid = process.parent
    return tuple(found)


def dialled_from(port: int, to_port: int) -> int:
    """The process whose TCP socket connects local `port` to `to_port`, as far as we may look; 0 where none is found."""
    wanted = {f"socket:[{inode}]" for inode in _inodes(port, to_port)}
    pids = (int(name) for name in os.listdir(PROC) if wanted and name.isdecimal())
    return next((pid for pid in pids if not wanted.isdisjoint(_descriptors(pid))), 0)


def _descriptors(pid: int) -> Iterator[str]:
    """What the open files of a process are."""
    with suppress(OSError):
        for number in os.listdir(PROC / str(pid) / "fd"):
            with suppress(OSError):  # closed meanwhile
                yield os.readlink(PROC / str(pid) / "fd" / number)


def _inodes(port: int, to_port: int) -> Iterator[str]:
    for name in ("tcp", "tcp6"):  # gRPC dials IPv4 from IPv6 sockets too
        with suppress(OSError), (PROC / "net" / name).open() as table:
            next(table)
            for line in table:
                fields = line.split()
                ports = tuple(int(address.rpartition(":")[2], 16) for address in fields[1:3])
                if ports == (port, to_port):
                    yield fields[9]
