"""What the system lets a process have: files, locked memory, memory, processes, shared memory."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

from sparsync.doctor.device import driver_version
from sparsync.doctor.finding import Finding, failure, ok, warning
from sparsync.doctor.node import Node
from sparsync.quantities import show_bytes

LEAST_FILES, ENOUGH_FILES = 256, 4096
ENOUGH_LOCKED = 64 << 20
LEAST_MEMORY, LITTLE_MEMORY = 1 << 30, 4 << 30
ENOUGH_PROCESSES = 256
LITTLE_SHARED = 512 << 20
MEMINFO = Path("/proc/meminfo")
CGROUP, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
SHARED = Path("/dev/shm")


def open_files(node: Node) -> Finding:
    """Each connection is one: a coordinator has two or three for each worker."""
    what, (soft, hard) = "open files", resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{_limit(soft)}, at most {_limit(hard)}"
    remedy = "raise it: ulimit -n 65536, or LimitNOFILE=65536 in the unit"
    if 0 <= soft < LEAST_FILES:
        return failure(what, found, remedy)
    if 0 <= soft < ENOUGH_FILES:
        return warning(
            what, f"{found}: a coordinator of more than {soft // 4} workers runs out of them", remedy
        )
    return ok(what, found)


def locked_memory(node: Node) -> Finding:
    """CUDA pins memory."""
    what, (soft, _) = "locked memory", resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if driver_version() is not None and 0 <= soft < ENOUGH_LOCKED:
        return warning(
            what, show_bytes(soft), "raise it: ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit"
        )
    return ok(what, _limit(soft, show_bytes))


def memory(node: Node) -> Finding:
    """What is free, within what this group of processes may have."""
    what, free = "memory", available_bytes()
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if space != resource.RLIM_INFINITY:
        return warning(
            what,
            f"addresses are limited to {show_bytes(space)}: torch maps far more than it uses",
            "lift it: ulimit -v unlimited, or limit memory with MemoryMax= in the unit instead",
        )
    if free is None:
        return ok(what, "not known: this system does not tell")
    found = f"{show_bytes(free)} free"
    remedy = "end what else runs here, or raise the limit (MemoryMax=)"
    if free < LEAST_MEMORY:
        return failure(what, found, remedy)
    if free < LITTLE_MEMORY:
        return warning(what, f"{found}: torch alone takes half a gigabyte a process", remedy)
    return ok(what, found)


def available_bytes() -> int | None:
    """The less of what the machine has free and what our control groups may still have."""
    free = [_machine_bytes(), _group_bytes()]
    return min((found for found in free if found is not None), default=None)


def _machine_bytes() -> int | None:
    try:
        lines = MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    told = next((line.split() for line in lines if line.startswith("MemAvailable:")), None)
    return int(told[1]) * 1024 if told else None


def _group_bytes() -> int | None:
    """The least that our control group, of the second kind, or one above it may still have; None without a limit."""
    try:
        lines = OWN_CGROUP.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    own = CGROUP / named
    groups = [group for group in (own, *own.parents) if group.is_relative_to(CGROUP)]
    return min((free for group in groups if (free := _free_in(group)) is not None), default=None)


def _free_in(group: Path) -> int | None:
    """Without the files that the kernel gives back when memory is short; None without a limit."""
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
        kept = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(0, int(limit) - used + int(kept.get("inactive_file", 0)))


def processes(node: Node) -> Finding:
    """A worker starts its heartbeat and its loaders; threads count too."""
    what, (soft, _) = "processes", resource.getrlimit(resource.RLIMIT_NPROC)
    if 0 <= soft < ENOUGH_PROCESSES:
        return warning(what, _limit(soft), "raise it: ulimit -u 4096, or TasksMax= in the unit")
    return ok(what, f"{_limit(soft)}; {len(os.sched_getaffinity(0))} processors")


def shared_memory(node: Node) -> Finding:
    """Loader processes hand batches over in it."""
    what = "shared memory"
    try:
        size = shutil.disk_usage(SHARED).total
    except OSError:
        return warning(
            what, f"{SHARED} is not there", "data loaders with workers need it: mount a tmpfs there"
        )
    if size < LITTLE_SHARED:
        return warning(
            what,
            f"{SHARED} has {show_bytes(size)}: loaders with num_workers > 0 may run out of it",
            "give the container more: --shm-size 1g, or load without workers",
        )
    return ok(what, f"{show_bytes(size)} at {SHARED}")


def _limit(value: int, shown: Callable[[int], str] = str) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else shown(value)
