"""CPU seconds of the processes below this one, by role, between any two moments. Linux only (/proc).

A thread takes a sample every `EVERY_S`; between two samples a process is taken to work evenly.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from wire.clock import monotonic_clock

EVERY_S = 0.1
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
ROLES = ("coordinator", "ps", "worker", "heartbeat", "server", "client")
"""Known by a word of their command line; the first that fits."""
OTHER = "other"


class Process(NamedTuple):
    """One line of /proc/PID/stat: who, below whom, user and system seconds so far."""

    pid: int
    parent: int
    cpu_s: float


def parse_stat(line: str) -> Process:
    """The process that a line of /proc/PID/stat tells of (proc(5)); its name may hold spaces and brackets."""
    pid, _, rest = line.partition(" (")
    words = rest.rpartition(") ")[2].split()
    return Process(int(pid), int(words[1]), (int(words[11]) + int(words[12])) / TICKS_PER_S)


def role_of(command: str) -> str:
    """The role of a process by its command line, words separated by NUL."""
    words = command.split("\0")
    if any(word.endswith("heartbeat") for word in words):
        return "heartbeat"
    return next((role for role in ROLES if role in words), OTHER)


def descendants(processes: Mapping[int, Process], of: int) -> list[Process]:
    """All processes below `of`, at any depth."""
    found, generation = list[Process](), {of}
    while generation:
        children = [p for p in processes.values() if p.parent in generation]
        found += children
        generation = {p.pid for p in children}
    return found


@dataclass
class Curve:
    """CPU seconds of one process over time."""

    role: str
    times: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def at(self, time: float) -> float:
        """CPU seconds at `time`, on a straight line between the samples around it."""
        after = bisect_right(self.times, time)
        if after == 0:
            return self.seconds[0]
        if after == len(self.times):
            return self.seconds[-1]
        t0, t1 = self.times[after - 1 : after + 1]
        c0, c1 = self.seconds[after - 1 : after + 1]
        return c0 + (c1 - c0) * (time - t0) / (t1 - t0)


class CpuWatch:
    """Samples all processes below this one while the context lasts."""

    def __init__(self) -> None:
        self._curves: dict[int, Curve] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="cpu-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(EVERY_S):
            now = monotonic_clock.now()
            for process in descendants(_all_processes(), os.getpid()):
                curve = self._curves.get(process.pid)
                if curve is None:
                    curve = self._curves[process.pid] = Curve(role_of(_command(process.pid)))
                curve.times.append(now)
                curve.seconds.append(process.cpu_s)

    def between(self, begin: float, end: float) -> dict[str, float]:
        """CPU seconds by role from `begin` to `end` (monotonic seconds)."""
        spent: dict[str, float] = {}
        for curve in self._curves.values():
            spent[curve.role] = spent.get(curve.role, 0.0) + curve.at(end) - curve.at(begin)
        return spent


def _all_processes() -> dict[int, Process]:
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            process = parse_stat(path.read_text(errors="replace"))
        except OSError:  # it has ended meanwhile
            continue
        found[process.pid] = process
    return found


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""
