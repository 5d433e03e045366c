"""Kernels compiled once for all processes that start together, and in none of those that stay.

Compiling takes as long as many steps, and leaves some 190 MB resident in the process that did it. Where the cache does
not hold all that `warm` runs, one child process fills it, while whoever else is starting here waits for that.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

import numba
from numba.core.registry import cpu_target

from wire.clock import Deadline, monotonic_clock
from wire.codec.kernels.encode import encode_blocks
from wire.codec.kernels.kernel import SOURCE_DIGEST

log = logging.getLogger(__name__)
LOCK = "compiling"
LONGEST_S = 300.0
"""Whoever waits for longer compiles itself."""
FILL = "wire.codec.kernels"


def fill_cache() -> None:
    """See to it that the cache is whole; without a place for one, or where that fails, the caller compiles itself."""
    dispatcher: Any = encode_blocks
    stamp = Path(dispatcher.stats.cache_path) / f"whole-{_versions()}"
    try:
        if not stamp.exists():
            stamp.parent.mkdir(parents=True, exist_ok=True)
            with (stamp.parent / LOCK).open("a") as lock:
                _take(lock)
                if not stamp.exists() and _filled():
                    stamp.touch()
    except OSError as error:
        log.info("kernels are compiled here: %s", error)


def _take(lock: IO[str]) -> None:
    """Raises: OSError where its holder does not come to an end."""
    deadline, pause = Deadline(monotonic_clock, LONGEST_S), threading.Event()
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if deadline.passed:
                raise
            pause.wait(0.1)


def _versions() -> str:
    """Digest of what the cache's content depends on."""
    processor = cpu_target.target_context.codegen().magic_tuple()  # by which Numba finds what it has cached
    made_by = (SOURCE_DIGEST, numba.__version__, sys.implementation.cache_tag, processor)
    return hashlib.sha256(repr(made_by).encode()).hexdigest()[:16]


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
