"""The data directory: room, and how long an fsync takes; and where compiled kernels are kept."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
from pathlib import Path

from sparsync.doctor.finding import Finding, failure, ok, warning
from sparsync.doctor.node import Node
from sparsync.quantities import show_bytes

LEAST_BYTES, FEW_BYTES = 10**9, 10 * 10**9
FEW_INODES = 10_000
FSYNCS = 16
RECORD = bytes(4096)
SLOW_S = 0.02
MEMORY_SYSTEMS = frozenset({"tmpfs", "ramfs"})
MOUNTS = Path("/proc/self/mounts")


def space(node: Node) -> Finding:
    """How much room there is for logs, images and checkpoints."""
    what, at = "disk space", existing(node.data_dir)
    try:
        free, inodes = shutil.disk_usage(at).free, os.statvfs(at)
    except OSError as error:
        return failure(what, f"{at}: {error.strerror}", "check the path and its file system")
    found = f"{show_bytes(free)} free at {at}"
    remedy = "make room, or give a --data-dir on a larger disk"
    if free < LEAST_BYTES:
        return failure(what, found, remedy)
    if inodes.f_files and inodes.f_favail < FEW_INODES:
        return warning(what, f"{inodes.f_favail} inodes are left at {at}", remedy)
    if free < FEW_BYTES:
        return warning(
            what, f"{found}: a checkpoint takes 4 B a parameter and plane, and images as much", remedy
        )
    return ok(what, found)


def fsync(node: Node) -> Finding:
    """How long a small record takes to be on the disk: with `durability.ack = disk` every push waits for that."""
    what, at = "fsync", existing(node.data_dir)
    if file_system(at) in MEMORY_SYSTEMS:
        return warning(
            what,
            f"{at} is on {file_system(at)}: nothing there survives this machine's end",
            "give a --data-dir on a disk",
        )
    try:
        seconds = _fsync_seconds(node, at)
    except OSError as error:
        return failure(
            what,
            f"nothing can be written to {at}: {error.strerror}",
            "check owner, mode and room of the --data-dir, and whether it is mounted read-only",
        )
    median, worst = statistics.median(seconds), max(seconds)
    found = f"median {median * 1e3:.2f} ms, worst {worst * 1e3:.2f} ms, for 4 KiB at {at}"
    if median > SLOW_S:
        return warning(
            what, found, "durability.ack = disk will wait for it with every push: take a faster disk"
        )
    return ok(what, found)


def _fsync_seconds(node: Node, at: Path) -> list[float]:
    seconds = []
    with tempfile.TemporaryFile(dir=at) as file:
        for _ in range(FSYNCS):
            file.write(RECORD)
            file.flush()
            begun = node.clock.now()
            os.fsync(file.fileno())
            seconds.append(node.clock.now() - begun)
    return seconds


def existing(path: Path) -> Path:
    """The path, or the nearest directory above it that is there."""
    path = path.absolute()
    return next((p for p in (path, *path.parents) if p.is_dir()), Path("/"))


def file_system(path: Path) -> str:
    """Its type, by the longest mount point above `path`; nothing where that is not known."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    mounted = {Path(line.split()[1]): line.split()[2] for line in lines if len(line.split()) > 2}
    resolved = path.resolve()
    return next((mounted[p] for p in (resolved, *resolved.parents) if p in mounted), "")


def kernel_cache(node: Node) -> Finding:
    """Whether compiled kernels can be kept: without that every start compiles them, for a minute or more."""
    what = "kernel cache"
    remedy = "set NUMBA_CACHE_DIR to a directory that the user of this process may write"
    if chosen := node.environ.get("NUMBA_CACHE_DIR"):
        at = existing(Path(chosen))
        if os.access(at, os.W_OK):
            return ok(what, f"NUMBA_CACHE_DIR={chosen}")
        return warning(what, f"NUMBA_CACHE_DIR={chosen} cannot be written", remedy)
    import wire.codec

    beside = Path(wire.codec.__file__).parent / "kernels" / "__pycache__"
    if os.access(existing(beside), os.W_OK):
        return ok(what, str(beside))
    home = Path(
        node.environ.get("XDG_CACHE_HOME") or Path(node.environ.get("HOME") or "/nonexistent") / ".cache"
    )
    if os.access(existing(home), os.W_OK) and existing(home) != Path("/"):
        return ok(what, f"{home}, as {beside} cannot be written")
    return warning(
        what, f"neither {beside} nor {home} can be written: each start compiles the kernels anew", remedy
    )
