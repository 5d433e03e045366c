"""Kernels compiled once for all processes that start together, and in none of those that stay.

Compiling takes as long as many steps, and leaves some 190 MB behind in the process that did it. Where the cache does
not hold all that `warm` runs, one child process fills it, while whoever else is starting here waits for that.
"""

from __future__ import annotations

import fcntl
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numba
from numba.core.registry import cpu_target

from wire.codec.kernels.encode import encode_blocks
from wire.codec.kernels.kernel import SOURCE_DIGEST

log = logging.getLogger(__name__)
STAMP, LOCK = "whole", "compiling"
FILL = "wire.codec.kernels"


def fill_cache() -> None:
    """See to it that the cache is whole; without a place for one, or where that fails, the caller compiles itself."""
    dispatcher: Any = encode_blocks
    stamp = Path(dispatcher.stats.cache_path) / STAMP
    try:
        if _read(stamp) != (now := _versions()):
            stamp.parent.mkdir(parents=True, exist_ok=True)
            with (stamp.parent / LOCK).open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if _read(stamp) != now and _filled():
                    stamp.write_text(now)
    except OSError as error:
        log.info("kernels are compiled here: %s", error)


def _read(stamp: Path) -> str:
    return stamp.read_text() if stamp.exists() else ""


def _versions() -> str:
    """What the cache's content depends on."""
    processor = cpu_target.target_context.codegen().magic_tuple()  # by which Numba finds what it has cached
    return repr((SOURCE_DIGEST, numba.__version__, sys.implementation.cache_tag, processor))


def _filled() -> bool:
    """Whether a child process did it. It ends with us: its standard input does."""
    log.info("compiling kernels, once for this installation")
    command = [sys.executable, "-P", "-m", FILL, "--for-parent"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdin is not None and child.stderr is not None
        told = child.stderr.read().decode(errors="replace")
        if child.wait() != 0:
            log.warning(
                "kernels are compiled here: %s ended with %d: %s", FILL, child.returncode, told[-500:]
            )
        return child.returncode == 0
