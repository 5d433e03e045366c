"""How the C library treats freed memory: kept for the next frame, not given back to the kernel at once.

By default glibc maps each large array anew and unmaps it when it is freed, so that every page of every gradient,
frame and delta is faulted in again: on a virtual machine that takes several times as long as writing it. What is
kept is bounded, and what a process needs at most does not change.

Memory that one of its arenas holds, the others cannot use, and by default there are eight a core: two are as fast, and
do not grow for hours until each of them has once met the most that it is asked for.
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
KEPT_BYTES = 256 << 20
"""Free memory at the end of the heap that is kept."""
LARGEST_BYTES = 32 << 20
"""Larger pieces are mapped each for itself all the same; glibc takes no higher limit."""
ARENAS = 2


def keep_freed_memory() -> bool:
    """Have this process keep freed memory, in few arenas; whether its C library can be told so."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = {M_TRIM_THRESHOLD: KEPT_BYTES, M_MMAP_THRESHOLD: LARGEST_BYTES, M_ARENA_MAX: ARENAS}
    return all(mallopt(key, value) for key, value in wanted.items())
